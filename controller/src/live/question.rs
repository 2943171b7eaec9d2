//! What is asked of a trace, and whether it makes sense.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use waymark_proto::{FilterInstruction, Inventory, NetnsName, NodeName, rpc};

use super::filter::{FilterError, compile};
use crate::resolve::{ResolveError, unknown_node, unknown_pod};
use crate::target::{Target, TargetError};

/// Packets that each node picks if nobody says otherwise.
pub const DEFAULT_PACKETS: u32 = 100;
/// Most packets that each node may pick: as many as a check may send.
pub const MAX_PACKETS: u32 = 1000;
/// How long is looked if nobody says otherwise.
pub const DEFAULT_TIME: Duration = Duration::from_secs(10);
/// Longest look: leases of agents end after five minutes.
pub const MAX_TIME: Duration = Duration::from_secs(240);
/// Nodes that look if none are named. Every packet of a node is looked at, by all hooks.
pub const MAX_UNNAMED_NODES: usize = 20;
/// Nodes that may be named.
pub const MAX_NODES: usize = 100;

/// Why a trace cannot be made as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// The filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The text of a place.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A place that is not there.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A place that is none.
    #[error("{0} is not where to look: name pods (pod/NAMESPACE/NAME) and nodes (node/NAME), without a port")]
    Place(String),
    /// Too much, or nothing.
    #[error("{what} must be between 1 and {most}, not {asked}")]
    Range {
        /// What.
        what: &'static str,
        /// What was asked for.
        asked: u32,
        /// The most that may be.
        most: u32,
    },
    /// Too many nodes.
    #[error(
        "{nodes} nodes would look at every packet that they have: name up to {MAX_NODES} nodes or pods on which to look"
    )]
    Nodes {
        /// How many.
        nodes: usize,
    },
}

/// A trace that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which packets.
    pub filter: Vec<FilterInstruction>,
    /// On which nodes, or those of which pods; on all if none are named.
    pub on: Vec<Target>,
    /// How many packets each node picks at most.
    pub packets: u32,
    /// How long is looked.
    pub time: Duration,
}

impl TryFrom<rpc::TraceRequest> for Question {
    type Error = QuestionError;

    fn try_from(request: rpc::TraceRequest) -> Result<Self, QuestionError> {
        let rpc::TraceRequest { filter, on, packets, time_ms } = request;
        if on.len() > MAX_NODES {
            return Err(QuestionError::Nodes { nodes: on.len() });
        }
        let ms = |time: Duration| time.as_millis() as u32;
        let time_ms = within("the milliseconds of a trace", time_ms, ms(DEFAULT_TIME), ms(MAX_TIME))?;
        Ok(Self {
            filter: compile(&filter)?,
            on: on.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            packets: within("the packets of a trace", packets, DEFAULT_PACKETS, MAX_PACKETS)?,
            time: Duration::from_millis(time_ms.into()),
        })
    }
}

/// A number of a message, where 0 stands for the default.
fn within(what: &'static str, asked: u32, default: u32, most: u32) -> Result<u32, QuestionError> {
    match asked {
        0 => Ok(default),
        asked if asked <= most => Ok(asked),
        asked => Err(QuestionError::Range { what, asked, most }),
    }
}

impl Question {
    /// The nodes that are to look.
    pub(super) fn nodes(
        &self,
        inventory: &Inventory,
    ) -> Result<BTreeMap<NodeName, BTreeSet<NetnsName>>, QuestionError> {
        let named: BTreeSet<NodeName> =
            self.on.iter().map(|target| home(inventory, target)).collect::<Result<_, _>>()?;
        let nodes = if named.is_empty() {
            let all = inventory.nodes.len();
            if all > MAX_UNNAMED_NODES {
                return Err(QuestionError::Nodes { nodes: all });
            }
            inventory.nodes.iter().map(|node| node.name.clone()).collect()
        } else {
            named
        };
        Ok(nodes.into_iter().map(|node| (node, BTreeSet::new())).collect())
    }
}

/// The node of a pod, or a node itself.
fn home(inventory: &Inventory, target: &Target) -> Result<NodeName, QuestionError> {
    match target {
        Target::Pod { namespace, name, port: None } => {
            let pod = inventory.pod(namespace, name);
            Ok(pod.ok_or_else(|| unknown_pod(inventory, namespace, name))?.node.clone())
        }
        Target::Node { name, port: None } => {
            let node = inventory.node(&NodeName::from(name.as_str()));
            Ok(node.ok_or_else(|| unknown_node(inventory, name))?.name.clone())
        }
        _ => Err(QuestionError::Place(target.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::inventory;

    fn request(on: &[&str]) -> rpc::TraceRequest {
        let on = on.iter().map(|&text| text.to_owned()).collect();
        rpc::TraceRequest { filter: "tcp".to_owned(), on, ..Default::default() }
    }

    fn nodes(on: &[&str]) -> Result<Vec<String>, QuestionError> {
        let question = Question::try_from(request(on))?;
        Ok(question.nodes(&inventory())?.keys().map(ToString::to_string).collect())
    }

    #[test]
    fn pods_stand_for_their_nodes_and_nothing_for_all() {
        assert_eq!(nodes(&["pod/shop/cart"]).unwrap(), ["node1"]);
        assert_eq!(nodes(&["pod/shop/cart", "node/node1"]).unwrap(), ["node1"]);
        assert_eq!(nodes(&[]).unwrap(), ["node1", "node2"]);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (on, word) in [
            ("pod/shop/kart", "there is no pod shop/kart"),
            ("node/node9", "there is no node node9"),
            ("svc/shop/pay", "svc/shop/pay is not where to look"),
            ("pod/shop/cart:80", "without a port"),
            ("10.0.0.1", "10.0.0.1 is not where to look"),
            ("cart", "is not a target"),
        ] {
            let error = nodes(&[on]).unwrap_err().to_string();
            assert!(error.contains(word), "{on}: {error}");
        }
        let many = Question::try_from(rpc::TraceRequest { packets: 1001, ..request(&[]) });
        assert_eq!(
            many.unwrap_err().to_string(),
            "the packets of a trace must be between 1 and 1000, not 1001"
        );
        let long = Question::try_from(rpc::TraceRequest { time_ms: 241_000, ..request(&[]) });
        assert_eq!(
            long.unwrap_err().to_string(),
            "the milliseconds of a trace must be between 1 and 240000, not 241000"
        );
    }

    #[test]
    fn large_clusters_do_not_look_everywhere() {
        let mut large = inventory();
        let node = large.nodes[0].clone();
        let more = (0..MAX_UNNAMED_NODES)
            .map(|n| waymark_proto::Node { name: format!("more{n}").into(), ..node.clone() });
        large.nodes.extend(more);
        let question = Question::try_from(request(&[])).unwrap();
        let error = question.nodes(&large).unwrap_err();
        assert_eq!(error, QuestionError::Nodes { nodes: MAX_UNNAMED_NODES + 2 });
        let named = Question::try_from(request(&["node/more7"])).unwrap();
        assert_eq!(named.nodes(&large).unwrap().len(), 1);
    }
}
