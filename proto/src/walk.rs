//! Walks: the steps, hops and paths that prediction and observation have in common.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Cause, Conntrack, Flow, Hook, NodeName, Place, Text};

/// What a hook did with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Sent into the stack by the prober.
    Injected,
    /// Let through, unchanged.
    Forwarded,
    /// Let through with an address or port rewritten.
    Translated,
    /// Wrapped into an outer packet.
    Encapsulated,
    /// Unwrapped from an outer packet.
    Decapsulated,
    /// Left waiting in a queue.
    Queued,
    /// Given to its receiver.
    Delivered,
    /// Thrown away.
    Dropped,
    /// Thrown away, with an error or reset to the sender.
    Rejected,
    /// What happens here cannot be said.
    Unknown,
}

impl Action {
    /// Whether the walk goes on after this action.
    pub fn continues(self) -> bool {
        match self {
            Self::Injected
            | Self::Forwarded
            | Self::Translated
            | Self::Encapsulated
            | Self::Decapsulated
            | Self::Queued => true,
            Self::Delivered | Self::Dropped | Self::Rejected | Self::Unknown => false,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words())
    }
}

/// A netfilter rule, or a base chain's policy where `handle` and `position` are absent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRef {
    /// `ip`, `ip6`, `inet`, `bridge`, `netdev`.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The nftables rule handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// The rule's position in its chain, from 1, as `iptables -L --line-numbers` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// The rule as its own tool prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.chain)?;
        match (self.handle, self.position) {
            (Some(handle), _) => write!(f, " handle {handle}")?,
            (None, Some(position)) => write!(f, " rule {position}")?,
            (None, None) => write!(f, " policy")?,
        }
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

/// One hook of a walk with what it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Where: node and namespace.
    #[serde(flatten)]
    pub place: Place,
    /// Which hook.
    pub hook: Hook,
    /// The device concerned, where the hook has one. For netfilter prerouting, input and forward the
    /// input device; for output and postrouting the output device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What it did.
    pub action: Action,
    /// The packet's headers as they leave this step; of the inner packet if it is encapsulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Flow>,
    /// The tunnel's outer header as it leaves this step, if it is encapsulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
    /// Why the walk ends here; absent while it continues or was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// All rules that the packet matched at this hook, in order (predicted walks, if they were asked for).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matched: Vec<RuleRef>,
    /// The configuration object that decided: a route, link, sysctl, neighbour, FDB entry, as its own
    /// tool would print it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Text>,
    /// The kernel's drop reason (observed walks).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The kernel function that dropped it (observed walks), `symbol+0xoffset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The connection that the packet carried (observed walks), where it was about to be sent or died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conntrack: Option<Conntrack>,
    /// A remark for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Text>,
    /// When, in nanoseconds of the node's monotonic clock (observed walks).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ns: Option<u64>,
}

impl Step {
    /// A step with nothing but its place, hook and action.
    pub fn new(place: Place, hook: Hook, action: Action) -> Self {
        Self {
            place,
            hook,
            device: None,
            action,
            flow: None,
            outer: None,
            cause: None,
            rule: None,
            matched: Vec::new(),
            object: None,
            reason: None,
            function: None,
            conntrack: None,
            note: None,
            at_ns: None,
        }
    }

    /// The same step on a device.
    #[must_use]
    pub fn on(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.place, self.hook)?;
        if let Some(device) = &self.device {
            write!(f, " {device}")?;
        }
        write!(f, " {}", self.action)
    }
}

/// Outer header of an encapsulated packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outer {
    /// `vxlan`, `ipip`, …
    pub kind: String,
    /// Outer source address.
    pub src: std::net::IpAddr,
    /// Outer destination address.
    pub dst: std::net::IpAddr,
    /// Virtual network identifier, where the tunnel has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
}

/// The fate of one walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Disposition {
    /// It came to its receiver.
    Delivered,
    /// Thrown away.
    Dropped,
    /// Thrown away, with an error or reset to the sender.
    Rejected,
    /// No route.
    NoRoute,
    /// The next hop does not answer.
    NeighbourUnreachable,
    /// It went in circles.
    Loop,
    /// It left what the cluster's facts describe.
    ExitsCluster,
    /// The facts or the sight do not suffice to say.
    InsufficientInfo,
}

impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words())
    }
}

/// The steps of one walk, in order, with its fate.
///
/// Its shape is checked when it is made: a path has at least one step, every step but the last
/// continues, and a last step that ends the walk agrees with the disposition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "PathParts")]
pub struct Path {
    disposition: Disposition,
    steps: Vec<Step>,
}

/// A path that was not checked yet.
#[derive(Deserialize)]
struct PathParts {
    disposition: Disposition,
    steps: Vec<Step>,
}

impl TryFrom<PathParts> for Path {
    type Error = PathShape;

    fn try_from(parts: PathParts) -> Result<Self, Self::Error> {
        Self::new(parts.disposition, parts.steps)
    }
}

/// What is wrong with the shape of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathShape {
    /// It has no steps.
    #[error("a path needs at least one step")]
    Empty,
    /// A step in the middle ends the walk.
    #[error("step {index} ({step}) ends the walk but is not the last of {len}")]
    EndsEarly {
        /// Its index.
        index: usize,
        /// The step as text.
        step: String,
        /// How many steps there are.
        len: usize,
    },
    /// Last step and disposition contradict one another.
    #[error("the last step ({step}) does not fit the disposition {disposition}")]
    Contradiction {
        /// The step as text.
        step: String,
        /// The disposition.
        disposition: Disposition,
    },
}

impl Path {
    /// Makes a path after checking its shape.
    pub fn new(disposition: Disposition, steps: Vec<Step>) -> Result<Self, PathShape> {
        let last = steps.last().ok_or(PathShape::Empty)?;
        let ends_early = |(index, step): (usize, &Step)| {
            (index + 1 < steps.len() && !step.action.continues()).then(|| PathShape::EndsEarly {
                index,
                step: step.to_string(),
                len: steps.len(),
            })
        };
        if let Some(shape) = steps.iter().enumerate().find_map(ends_early) {
            return Err(shape);
        }
        let fits = match last.action {
            Action::Delivered => disposition == Disposition::Delivered,
            Action::Dropped | Action::Rejected => last.cause.is_some_and(|cause| cause.fate() == disposition),
            // A walk may stop being known, leave the cluster or circle at a step that let it through.
            _ => disposition != Disposition::Delivered,
        };
        if !fits {
            return Err(PathShape::Contradiction { step: last.to_string(), disposition });
        }
        Ok(Self { disposition, steps })
    }

    /// The fate.
    pub fn disposition(&self) -> Disposition {
        self.disposition
    }

    /// The steps, in order; at least one.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The last step.
    ///
    /// # Panics
    /// Never: a path has at least one step by construction.
    pub fn last(&self) -> &Step {
        self.steps.last().expect("a path has at least one step by construction")
    }

    /// The hops: runs of consecutive steps on one node.
    pub fn hops(&self) -> impl Iterator<Item = (&NodeName, &[Step])> {
        self.steps.chunk_by(|a, b| a.place.node == b.place.node).map(|run| (&run[0].place.node, run))
    }
}

/// What kind of thing a configuration leaves to chance or to a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChoiceKind {
    /// The backend of a Service.
    Backend,
    /// The next hop of a route.
    NextHop,
    /// Whether a rule matches (`statistic`, `limit`), or what its random number is (`numgen`).
    Rule,
}

/// How a choice fell out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// What was chosen.
    pub kind: ChoiceKind,
    /// What it became (`10.1.2.3:80`, `10.0.0.2 dev eth0`).
    pub taken: String,
    /// How likely that was, 0 to 1.
    pub probability: f64,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words())
    }
}

/// One of the ways that a packet may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Branch {
    /// How likely the configuration makes it, 0 to 1; the branches of a set add up to 1.
    pub probability: f64,
    /// What decided for it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// The walk.
    pub path: Path,
    /// The ways that the answer may take; empty if the packet is not delivered or was not asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answer: Vec<Branch>,
}

/// Where the sender's kernel routes the prober's packets, which have neither protocol nor ports for it, by something
/// else than an application's: what becomes of the one does not show what becomes of the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detour {
    /// The rule or route for an application's packets, or why it cannot be told.
    pub application: Text,
    /// The same for the prober's.
    pub prober: Text,
}

/// All ways that a packet may take, the likeliest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathSet {
    /// The branches.
    pub branches: Vec<Branch>,
    /// Nodes whose facts were missing and would have been needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<NodeName>,
    /// The ways of packets with these code points, where they are others: rules and routes can ask for a TOS.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_dscp: BTreeMap<u8, PathSet>,
    /// The branches are those of an application's packets; this is set where the prober's cannot show them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detour: Option<Detour>,
    /// The source address that a socket of the sender takes unless it is bound, where it is known not to be that of
    /// the flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unbound_source: Option<IpAddr>,
}

/// Direction of a walk within a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// From the source that was asked about to the destination.
    Forward,
    /// The answer.
    Return,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(action: Action) -> Step {
        Step::new(Place::new("n", "host"), Hook::Route, action)
    }

    #[test]
    fn a_path_checks_its_shape() {
        assert_eq!(Path::new(Disposition::Delivered, vec![]), Err(PathShape::Empty));
        let early = Path::new(Disposition::Delivered, vec![step(Action::Delivered), step(Action::Delivered)]);
        assert!(matches!(early, Err(PathShape::EndsEarly { index: 0, .. })));
        let mut drop = step(Action::Dropped);
        assert!(Path::new(Disposition::Dropped, vec![drop.clone()]).is_err(), "a drop needs a cause");
        drop.cause = Some(Cause::NoRoute);
        assert!(Path::new(Disposition::Dropped, vec![drop.clone()]).is_err(), "the cause says NoRoute");
        let path = Path::new(Disposition::NoRoute, vec![step(Action::Forwarded), drop]).unwrap();
        let json = serde_json::to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<Path>(&json).unwrap(), path);
        assert!(serde_json::from_str::<Path>(&json.replace("noRoute", "delivered")).is_err());
    }
}
