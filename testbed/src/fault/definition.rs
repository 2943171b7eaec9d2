//! What a fault's file says. All texts are templates over the parts of a cluster ([`super::context`]).
//!
//! ```toml
//! about = "iptables FORWARD of the target's node drops what is for the target"
//! families = [4, 6]               # each is a case of its own; default [4]
//!
//! [traffic]
//! to = "target"
//! protocol = "tcp"
//!
//! [expected]
//! at = "target-node"
//! hook = "netfilter-forward"
//! cause = "filter-drop"
//! says = ["-j DROP"]              # in the rule, the object or the evidence of the answer
//!
//! [[inject]]
//! tool = "iptables"               # ip6tables in the case of IPv6
//! in = "target-node"
//! lines = """
//! *filter
//! -I FORWARD 1 -d {{ target.ip }} -j DROP
//! COMMIT
//! """
//!
//! [[undo]]                        # written down before anything is injected
//! …
//! ```
//!
//! The underlay can impair packets in ways that no tool has; what undoes it need not be said:
//!
//! ```toml
//! [[inject]]
//! impair = { delay-ms = 50 }      # see `impair::Impairment`
//! from = "source-node"
//! to = "target-node"
//! ```
//!
//! Where packets arrive all the same, `expected` names what happens to them instead of a cause:
//!
//! ```toml
//! [expected]
//! at = "source-node"
//! hook = "wire"
//! anomaly = "delay"
//! least-delay-ms = 45             # of delays only
//! ```

use serde::Deserialize;
use waymark_proto::{AnomalyKind, Direction, Protocol, Verdict};

use super::site::{End, Place};
use crate::impair::Impairment;
use crate::plan::{Dataplane, Proxy};
use crate::script::Tool;
use crate::server::Manner;
use crate::tcx::Side;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl TryFrom<u8> for Family {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            4 => Ok(Self::V4),
            6 => Ok(Self::V6),
            other => Err(format!("there is no IPv{other}")),
        }
    }
}

/// A file of the catalogue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    /// What it does, in a few words.
    pub(super) about: String,
    /// On which dataplanes it can be injected.
    #[serde(default = "every_dataplane")]
    pub(super) dataplanes: Vec<Dataplane>,
    /// With whose Service rules it can be injected.
    #[serde(default = "every_proxy")]
    pub(super) proxies: Vec<Proxy>,
    /// For which families.
    #[serde(default = "ipv4")]
    pub(super) families: Vec<Family>,
    /// For which families it is among the few that are tried with every change.
    #[serde(default)]
    pub(super) subset: Vec<Family>,
    /// The traffic on which it shows.
    pub(super) traffic: Traffic,
    /// What Waymark must say.
    pub(super) expected: Expectation,
    /// What breaks. Nothing, if the topology as it is shows the fault.
    #[serde(default)]
    pub(super) inject: Vec<Step>,
    /// What undoes it, in order.
    #[serde(default)]
    pub(super) undo: Vec<Step>,
}

/// Traffic from the source pod.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Traffic {
    /// Where to.
    pub(super) to: End,
    /// Protocol.
    pub(super) protocol: Protocol,
    /// Port, instead of the first one on which the destination listens.
    pub(super) port: Option<u16>,
    /// Length of the IP packets in bytes.
    pub(super) size: Option<u16>,
    /// How many packets.
    pub(super) count: Option<u32>,
}

/// The fault point, or the anomaly, to be named.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Expectation {
    /// A [`Place`].
    pub(super) at: String,
    /// A hook.
    pub(super) hook: String,
    /// A cause: packets die there.
    pub(super) cause: Option<String>,
    /// Or what happens there to packets that arrive.
    pub(super) anomaly: Option<AnomalyKind>,
    /// How long they are held up at least.
    pub(super) least_delay_ms: Option<u64>,
    /// Which way the packet was going.
    #[serde(default = "forward")]
    pub(super) direction: Direction,
    /// The verdict. If absent, either of the two bad ones; with an anomaly the good one.
    pub(super) verdict: Option<Verdict>,
    /// What must occur in the fault point's rule, object, culprit or evidence.
    #[serde(default)]
    pub(super) says: Vec<String>,
}

/// One thing to do.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Step {
    /// Lines for a tool.
    Lines(Lines),
    /// Something that is done to a pod's server.
    Deed(Deed),
    /// Something that the underlay does.
    Leg(Leg),
    /// A program at a device's tcx.
    Tcx(Tcx),
}

/// A foreign program that drops every IP packet. It need not be undone by steps of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcx {
    /// At which side.
    #[serde(rename = "tcx")]
    pub(super) side: Side,
    /// Of which device.
    pub(super) device: String,
    /// Where.
    #[serde(rename = "in")]
    pub(super) place: Place,
}

/// What the underlay does to the packets of the case's family from one node to another. It need not be undone by
/// steps of the file.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leg {
    /// What.
    pub(super) impair: Impairment,
    /// From which node.
    pub(super) from: Place,
    /// To which.
    pub(super) to: Place,
}

/// Lines for a tool.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lines {
    /// Who understands them.
    pub(super) tool: ToolName,
    /// Where.
    #[serde(rename = "in")]
    pub(super) place: Place,
    /// One per line; empty ones count for nothing.
    #[serde(rename = "lines")]
    pub(super) text: String,
}

/// Something that is done to a pod's server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deed {
    /// What.
    pub(super) act: Deeds,
    /// To whose: a pod's.
    #[serde(rename = "in")]
    pub(super) place: Place,
    /// How the server is to be.
    #[serde(default)]
    pub(super) manner: Manner,
}

/// What can be done to a pod's server.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Deeds {
    /// End it.
    StopServer,
    /// End it and start another.
    ReplaceServer,
}

/// A [`Tool`] by its name in a file; some depend on the case.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ToolName {
    /// `ip`, for both families.
    Ip,
    /// `ip`, and of commands that name no address those of the case's family.
    IpFamily,
    /// `bridge`.
    Bridge,
    /// `tc`.
    Tc,
    /// `nft`.
    Nft,
    /// `iptables-nft`, or `ip6tables-nft`.
    Iptables,
    /// `iptables-legacy`, or `ip6tables-legacy`.
    IptablesLegacy,
    /// `ebtables-nft`.
    Ebtables,
    /// `ipset`.
    Ipset,
    /// Settings.
    Sysctl,
    /// Who writes the rules of Services: `iptables` or `nft`.
    Proxy,
}

impl ToolName {
    pub(super) fn tool(self, family: Family, proxy: Proxy) -> Tool {
        match (self, family) {
            (Self::Ip, _) | (Self::IpFamily, Family::V4) => Tool::Ip,
            (Self::IpFamily, Family::V6) => Tool::Ip6,
            (Self::Bridge, _) => Tool::Bridge,
            (Self::Tc, _) => Tool::Tc,
            (Self::Nft, _) => Tool::Nft,
            (Self::Iptables, Family::V4) => Tool::Iptables,
            (Self::Iptables, Family::V6) => Tool::Ip6tables,
            (Self::IptablesLegacy, Family::V4) => Tool::IptablesLegacy,
            (Self::IptablesLegacy, Family::V6) => Tool::Ip6tablesLegacy,
            (Self::Ebtables, _) => Tool::Ebtables,
            (Self::Ipset, _) => Tool::Ipset,
            (Self::Sysctl, _) => Tool::Sysctl,
            (Self::Proxy, _) => match proxy {
                Proxy::Iptables => Self::Iptables.tool(family, proxy),
                Proxy::Nftables => Tool::Nft,
            },
        }
    }
}

fn every_dataplane() -> Vec<Dataplane> {
    Dataplane::ALL.into()
}

fn every_proxy() -> Vec<Proxy> {
    vec![Proxy::Iptables, Proxy::Nftables]
}

fn ipv4() -> Vec<Family> {
    vec![Family::V4]
}

fn forward() -> Direction {
    Direction::Forward
}
