//! Predictions: the forward walk, and for each way to the receiver the walk of its answer.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use smallvec::smallvec;
use waymark_proto::{
    Action, Branch, Disposition, Flow, Hook, NodeName, Path, PathSet, Place, Protocol, Step, text,
};

use crate::cluster::Cluster;
use crate::packet::{INITIAL_TTL, Packet};
use crate::sender;
use crate::walk::{self, Detail, Stage, State, Walk, Walks};

/// Predicts the walk of a packet that a raw socket in `start` sends, and of its answer.
///
/// Every branch that is delivered carries the branches of its answer. Where a branch comes to a node
/// whose facts are not in the cluster, it ends as [`Disposition::InsufficientInfo`] and the node stands
/// in [`PathSet::needs`]: add its facts and predict again.
pub fn predict(cluster: &Cluster, start: &Place, flow: &Flow) -> PathSet {
    predict_as(cluster, start, flow, Manner::default())
}

/// How a packet is sent, and how much of its way is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Its code point.
    pub dscp: u8,
    /// Its TTL or hop limit.
    pub ttl: u8,
    /// Its length in bytes, IP header included, if rules are to know it.
    pub len: Option<u16>,
    /// Whether steps tell all rules that the packet matches ([`Step::matched`]).
    pub matches: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self { dscp: 0, ttl: INITIAL_TTL, len: None, matches: false }
    }
}

/// The same of a packet that is sent in a certain manner.
pub fn predict_as(cluster: &Cluster, start: &Place, flow: &Flow, manner: Manner) -> PathSet {
    let Manner { dscp, ttl, len, matches } = manner;
    let mut needs = BTreeSet::new();
    let branches = if cluster.namespace(start).is_some() {
        let packet = Packet { ttl, dscp, len, ..Packet::new(*flow, false) };
        let mut sent = State::begin(start.clone(), Stage::Inject, packet);
        sent.detail = if matches { Detail::Matches } else { Detail::Steps };
        let walks = walk::follow(cluster, sent);
        branches(walks, &mut needs, |walk, needs| answer(cluster, start, flow, walk, needs))
    } else {
        let why = if cluster.has(&start.node) {
            text!(model::NetnsNotHeld { node: &start.node, netns: &start.netns })
        } else {
            needs.insert(start.node.clone());
            text!(model::FactsNeeded { node: &start.node })
        };
        let nowhere = State::begin(start.clone(), Stage::Inject, Packet::new(*flow, false));
        branches(smallvec![nowhere.unknown(Hook::Inject, None, why)], &mut needs, |_, _| Vec::new())
    };
    let here = cluster.namespace(start);
    PathSet {
        branches,
        needs: needs.into_iter().collect(),
        by_dscp: BTreeMap::new(),
        detour: here.and_then(|namespace| sender::detour(namespace, flow, dscp)),
        unbound_source: here
            .and_then(|namespace| sender::unbound_source(namespace, flow))
            .filter(|&taken| taken != flow.src),
    }
}

/// The walks of the answer to a packet that came to its receiver.
fn answer(
    cluster: &Cluster,
    origin: &Place,
    flow: &Flow,
    delivered: &Walk,
    needs: &mut BTreeSet<NodeName>,
) -> Vec<Branch> {
    branches(walk::follow(cluster, reply(origin, flow, delivered)), needs, |_, _| Vec::new())
}

/// The answer to a packet that came to its receiver, as it sets out.
pub(crate) fn reply(origin: &Place, flow: &Flow, delivered: &Walk) -> Walk {
    let flow_back = delivered.packet.flow.reversed();
    // An echo reply has the code point of its request (`icmp_reply`); a listening socket has its own.
    let is_echo = flow_back.protocol == Protocol::Icmp;
    let dscp = if is_echo { delivered.packet.dscp } else { 0 };
    let len = delivered.packet.len.filter(|_| is_echo);
    let packet = Packet { dscp, len, ..Packet::new(flow_back, true) };
    let mut back = State::begin(delivered.at.clone(), Stage::RouteOutput { again: false, oif: None }, packet);
    back.detail = delivered.detail;
    back.memory.clone_from(&delivered.memory);
    back.connections.clone_from(&delivered.connections);
    back.expected = Some((origin.clone(), flow.reversed()));
    back
}

/// Finished walks as branches, the likeliest first. Walks with the same steps are one branch.
fn branches(
    walks: Walks,
    needs: &mut BTreeSet<NodeName>,
    mut answer: impl FnMut(&Walk, &mut BTreeSet<NodeName>) -> Vec<Branch>,
) -> Vec<Branch> {
    let mut branches: Vec<Branch> = Vec::new();
    for walk in walks {
        needs.extend(walk.needs.clone());
        let disposition = walk.fate.unwrap_or(Disposition::InsufficientInfo);
        let answer = if disposition == Disposition::Delivered { answer(&walk, needs) } else { Vec::new() };
        let State { steps, choices, probability, at, .. } = *walk;
        let path = Path::new(disposition, steps).unwrap_or_else(|shape| misshapen(at, &shape.to_string()));
        match branches.iter_mut().find(|branch| branch.choices == choices && branch.path == path) {
            Some(branch) => branch.probability += probability,
            None => branches.push(Branch { probability, choices, path, answer }),
        }
    }
    // Stable: branches of one likelihood keep the order in which rules and routes name them.
    branches.sort_by(|a, b| b.probability.partial_cmp(&a.probability).unwrap_or(Ordering::Equal));
    branches
}

/// A path that says that the prediction itself went wrong.
fn misshapen(at: Place, why: &str) -> Path {
    let mut step = Step::new(at, Hook::Ip, Action::Unknown);
    step.note = Some(text!(model::Contradiction { why }));
    Path::new(Disposition::InsufficientInfo, vec![step]).expect("one unknown step is a path")
}
