//! Continuous probing: what an agent is to send again and again, and what it counts.
//!
//! A controller tells an agent the whole of its work ([`ProbePlan`]); a new plan replaces the old one, and the
//! counts of targets that are in both go on. The agent answers with [`ProbeReport`]s, which hold what was
//! counted since the last one that was sent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{NetnsName, Protocol};

/// Smallest round-trip time that histograms tell apart from zero, in nanoseconds.
pub const RTT_LOWEST_NS: u64 = 1_000;
/// Largest round-trip time of a histogram, in nanoseconds; longer ones count as this.
pub const RTT_HIGHEST_NS: u64 = 60_000_000_000;
/// Significant decimal digits of histograms.
pub const RTT_DIGITS: u8 = 3;
/// Failures in a row that make an outage.
pub const OUTAGE_FAILURES: u32 = 3;

/// Upper bounds of the buckets that metrics count round-trip times in, in nanoseconds: 50 µs × 2^k, up to 3.3 s.
pub const RTT_BUCKET_BOUNDS_NS: [u64; 17] = {
    let mut bounds = [50_000; 17];
    let mut k = 1;
    while k < bounds.len() {
        bounds[k] = bounds[k - 1] * 2;
        k += 1;
    }
    bounds
};

/// What an agent is to do until it is told otherwise, or until its lease ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbePlan {
    /// What to send, one entry per target.
    pub probes: Vec<Probe>,
    /// Where to answer to the probes of other agents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub responders: Vec<Responder>,
}

/// One target, probed at fixed times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Which; chosen by the controller, the same for the same target in every plan.
    pub id: ProbeId,
    /// The watch that it belongs to.
    pub watch: String,
    /// Its source, as a person wrote or would write it: `pod/shop/cart`.
    pub source: String,
    /// Its destination likewise: `svc/shop/pay:80`.
    pub destination: String,
    /// The namespace to send from.
    pub netns: NetnsName,
    /// Address to send to.
    pub address: IpAddr,
    /// Port to send to; absent for ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// ICMP: echo. UDP: a datagram that a [`Responder`] sends back. TCP: a connection, ended once it stands.
    pub protocol: Protocol,
    /// Microseconds between two probes.
    pub interval_us: u64,
    /// Microseconds after which a probe without answer is lost.
    pub timeout_us: u64,
}

/// Names a target between a controller and its agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProbeId(pub u64);

/// A UDP port that sends back what it gets, while a plan asks for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Responder {
    /// The namespace.
    pub netns: NetnsName,
    /// The port.
    pub port: u16,
}

/// A target or responder that an agent does not serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The target; absent for responders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeId>,
    /// Why, as a sentence.
    pub why: String,
}

/// What was counted of one target since the last report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeCounts {
    /// Probes that were sent, or that the kernel refused to send: each is received, lost or on its way.
    pub sent: u64,
    /// Answers that came in time.
    pub received: u64,
    /// Probes whose time ran out, or that were refused, unreachable or not sent for an error.
    pub lost: u64,
    /// Times that passed without a probe, because the agent was too slow. They are in no other count.
    pub missed: u64,
    /// The lost ones that failed for a reason, by reason: `connection refused`, `no route to host` …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
}

/// Whose clock timed the answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Clock {
    /// The kernel's, when the packets left and came (`SO_TIMESTAMPING`).
    Kernel,
    /// The agent's own, which includes its scheduling.
    #[default]
    Agent,
}

/// Failures in a row, of which there were [`OUTAGE_FAILURES`] or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Streak {
    /// When the first failed probe was sent, in nanoseconds since the Unix epoch by the node's clock.
    pub since_unix_ns: u64,
    /// How many.
    pub failures: u64,
    /// When the first probe after them that was answered was sent; absent while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_ns: Option<u64>,
}

/// What an agent tells of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// The target.
    pub id: ProbeId,
    /// When the report was made, in nanoseconds since the Unix epoch by the node's clock.
    pub at_unix_ns: u64,
    /// Counts since the last report.
    pub counts: ProbeCounts,
    /// Round-trip times since the last report, as `hdrhistogram` serializes them (V2), in nanoseconds.
    pub rtt_v2: Vec<u8>,
    /// Whose clock timed them.
    pub clock: Clock,
    /// The streaks that began, went on or ended since the last report, oldest first.
    pub streaks: Vec<Streak>,
}
