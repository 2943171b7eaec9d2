//! Many predictions at once: who reaches whom, with the step that decides where not.
//!
//! The same walks as those of [`predict`](crate::predict()), of which only the ends are kept. Row by row, so that several
//! threads may share a cluster; equal outcomes are one.

use std::collections::HashMap;
use std::net::IpAddr;

use waymark_proto::{Disposition, Flow, Place, Protocol, Step};

use crate::cluster::Cluster;
use crate::packet::Packet;
use crate::predict::reply;
use crate::walk::{self, Detail, Stage, Walk};

/// What becomes of a flow's packets, and of the answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How likely a packet is delivered and its answer comes back.
    pub delivered: f64,
    /// How the likeliest way ends that does not lead there and back; `None` if all do.
    pub failure: Option<Failure>,
}

/// How a way ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What becomes of the packet or the answer.
    pub disposition: Disposition,
    /// Whether it is the answer's way.
    pub of_answer: bool,
    /// The step that decides, if one does.
    pub step: Option<Step>,
}

/// A flow without its source: what all pods of a row are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aim {
    /// Where it goes.
    pub dst: IpAddr,
    /// By which protocol.
    pub protocol: Protocol,
    /// To which port; 0 if there are none.
    pub dst_port: u16,
}

/// The outcomes of one source's flows.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Each once.
    pub outcomes: Vec<Outcome>,
    /// For each aim, which of them.
    pub cells: Vec<u32>,
}

/// Source port of the flows: of a range that rules do not name.
const SOURCE_PORT: u16 = 50_000;

/// Predicts the flows of one source to many destinations.
pub fn row(cluster: &Cluster, start: &Place, src: IpAddr, aims: &[Aim]) -> Row {
    let mut row = Row::default();
    let mut known: HashMap<Key, u32> = HashMap::new();
    for aim in aims {
        let outcome = outcome(cluster, start, &aim.flow(src));
        let id = *known.entry(Key::of(&outcome)).or_insert_with(|| {
            row.outcomes.push(outcome);
            row.outcomes.len() as u32 - 1
        });
        row.cells.push(id);
    }
    row
}

impl Aim {
    fn flow(&self, src: IpAddr) -> Flow {
        let Self { dst, protocol, dst_port } = *self;
        let src_port = if protocol.has_ports() { SOURCE_PORT } else { 1 };
        let dst_port = if protocol.has_ports() { dst_port } else { src_port };
        Flow { src, dst, protocol, src_port, dst_port }
    }
}

/// What makes outcomes equal.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    delivered: u64,
    failure: Option<(Disposition, bool, Option<String>)>,
}

impl Key {
    fn of(outcome: &Outcome) -> Self {
        let step = |step: &Step| format!("{step} {:?} {:?}", step.cause, step.rule);
        let failure =
            |failure: &Failure| (failure.disposition, failure.of_answer, failure.step.as_ref().map(step));
        Self { delivered: outcome.delivered.to_bits(), failure: outcome.failure.as_ref().map(failure) }
    }
}

/// Predicts what becomes of one flow.
pub fn outcome(cluster: &Cluster, start: &Place, flow: &Flow) -> Outcome {
    let mut sent = Walk::new(start.clone(), Stage::Inject, Packet::new(*flow, false));
    sent.detail = Detail::Fate;
    let (mut delivered, mut failures) = (0.0, Vec::new());
    for forward in walk::follow(cluster, sent) {
        if forward.fate != Some(Disposition::Delivered) {
            failures.push((forward.probability, false, forward));
            continue;
        }
        for back in walk::follow(cluster, reply(start, flow, &forward)) {
            let probability = forward.probability * back.probability;
            if back.fate == Some(Disposition::Delivered) {
                delivered += probability;
            } else {
                failures.push((probability, true, back));
            }
        }
    }
    // Of equally likely ones the first.
    let likeliest = failures.into_iter().reduce(|best, next| if next.0 > best.0 { next } else { best });
    let failure = likeliest.map(|(_, of_answer, mut walk)| Failure {
        disposition: walk.fate.unwrap_or(Disposition::InsufficientInfo),
        of_answer,
        step: walk.steps.pop(),
    });
    Outcome { delivered, failure }
}
