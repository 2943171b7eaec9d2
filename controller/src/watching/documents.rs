//! What clients print about watches.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use waymark_proto::{Clock, NodeName, Protocol, RTT_BUCKET_BOUNDS_NS};

use super::outage::Outage;
use super::spec::WatchSpec;
use super::window::{Rtt, Summary};

/// Watches: what `waymark watch list -o json` and `waymark watch top --once -o json` print.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchList {
    /// [`waymark_proto::API_VERSION`].
    pub api_version: String,
    /// `WatchList`.
    pub kind: String,
    /// When this was so, in nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    /// The watches, by name.
    pub watches: Vec<WatchStatus>,
    /// Their outages, oldest first; also those of watches that were stopped, unless one watch was asked for.
    pub outages: Vec<Outage>,
}

/// A watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchStatus {
    /// What was asked for.
    pub spec: WatchSpec,
    /// When it began, in nanoseconds since the Unix epoch.
    pub since_unix_ns: u64,
    /// Its targets, by source and destination.
    pub targets: Vec<TargetStatus>,
    /// Pairs of ends that cannot be probed, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Source.
    pub source: String,
    /// Destination.
    pub destination: String,
    /// Protocol.
    pub protocol: Protocol,
    /// The node that sends.
    pub node: NodeName,
    /// Address that is sent to.
    pub address: IpAddr,
    /// Port that is sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How it is.
    pub state: TargetState,
    /// Whose clock times it.
    pub clock: Clock,
    /// The last minute.
    pub recent: Summary,
    /// The last minute's round-trip times, counted by [`RTT_BUCKET_BOUNDS_NS`]; the last count is of those beyond.
    pub recent_buckets: Vec<u64>,
    /// Since it is watched.
    pub total: Summary,
}

/// How a target is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "state")]
pub enum TargetState {
    /// No report has come yet.
    Starting,
    /// It answers.
    Up,
    /// It failed three times in a row, or more.
    Down {
        /// The outage.
        outage: u64,
        /// Since when, in nanoseconds since the Unix epoch.
        since_unix_ns: u64,
    },
    /// Nothing is heard of it: its agent is away. That is no loss.
    Silent {
        /// Why, as a sentence.
        why: String,
    },
    /// Its agent does not probe it.
    Refused {
        /// Why, as a sentence.
        why: String,
    },
}

impl TargetState {
    /// All names.
    pub const NAMES: [&str; 5] = ["starting", "up", "down", "silent", "refused"];

    /// The name, for tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down { .. } => "down",
            Self::Silent { .. } => "silent",
            Self::Refused { .. } => "refused",
        }
    }
}

/// How many targets of a watch are how, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchCounts {
    /// The watch.
    pub watch: String,
    /// How many there are of each of [`TargetState::NAMES`].
    pub targets: BTreeMap<&'static str, usize>,
}

impl WatchCounts {
    /// Those of a watch without targets.
    pub(super) fn new(watch: &str) -> Self {
        Self { watch: watch.to_owned(), targets: TargetState::NAMES.map(|name| (name, 0)).into() }
    }

    pub(super) fn add(&mut self, state: &TargetState) {
        *self.targets.entry(state.name()).or_default() += 1;
    }
}

/// Counts of a histogram by the bounds of metrics.
pub(super) fn buckets(rtt: &Rtt) -> Vec<u64> {
    let mut counts = vec![0; RTT_BUCKET_BOUNDS_NS.len() + 1];
    for value in rtt.iter_recorded() {
        // A histogram's values stand for ranges, of which the lowest is what was recorded for round numbers.
        let ns = rtt.lowest_equivalent(value.value_iterated_to());
        let bucket = RTT_BUCKET_BOUNDS_NS.partition_point(|bound| *bound < ns);
        counts[bucket] += value.count_since_last_iteration();
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::super::window::empty;
    use super::*;

    #[test]
    fn buckets_hold_every_time_once() {
        let mut rtt = empty();
        for ns in [10_000, 60_000, 100_000, 5_000_000_000] {
            rtt.record(ns).unwrap();
        }
        let counts = buckets(&rtt);
        assert_eq!((counts[0], counts[1], counts.last()), (1, 2, Some(&1)), "{counts:?}");
        assert_eq!(counts.iter().sum::<u64>(), 4);
    }
}
