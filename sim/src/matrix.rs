//! Many predictions at once: who reaches whom, with the step that decides where not.
//!
//! The same walks as those of [`predict`](crate::predict()), of which only the ends are kept. Row by row, so that several
//! threads may share a cluster; equal outcomes are one.

use std::net::IpAddr;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use waymark_proto::{Disposition, Flow, Place, Protocol, Step};

use crate::cluster::Cluster;
use crate::netfilter::Memory;
use crate::packet::Packet;
use crate::predict::reply;
use crate::walk::{self, Detail, Stage, State};

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
    /// The step that decides, if one does; without the flow.
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

/// Source port of the flows of a row: of a range that rules do not name.
const SOURCE_PORT: u16 = 50_000;

/// Predicts many flows in one cluster, and remembers what can be said of several.
///
/// What a filter chain does is asked once for each class of packets that it cannot tell apart, and a flow is predicted once
/// for all source ports, unless something on its way looks at them.
#[derive(Debug)]
pub struct Predictor<'a> {
    cluster: &'a Cluster,
    memory: Rc<Memory>,
    known: FxHashMap<(Place, IpAddr, Aim), Rc<Outcome>>,
}

impl<'a> Predictor<'a> {
    /// Remembers nothing yet.
    pub fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, memory: Rc::default(), known: FxHashMap::default() }
    }

    /// Predicts one flow.
    pub fn outcome(&mut self, start: &Place, flow: &Flow) -> Rc<Outcome> {
        let aim = Aim { dst: flow.dst, protocol: flow.protocol, dst_port: flow.dst_port };
        let has_ports = flow.protocol.has_ports();
        let key = (start.clone(), flow.src, if has_ports { aim } else { Aim { dst_port: 0, ..aim } });
        if let Some(known) = self.known.get(&key) {
            return Rc::clone(known);
        }
        let outcome = Rc::new(self.predict(start, flow));
        if !self.memory.saw_source_port() {
            self.known.insert(key, Rc::clone(&outcome));
        }
        outcome
    }

    /// Predicts the flows of one source to many destinations.
    pub fn row(&self, start: &Place, src: IpAddr, aims: &[Aim]) -> Row {
        let mut row = Row::default();
        // Those that may be equal.
        let mut known: FxHashMap<_, Vec<u32>> = FxHashMap::default();
        for aim in aims {
            let outcome = self.predict(start, &aim.flow(src));
            let step = outcome.failure.as_ref().and_then(|failure| failure.step.as_ref());
            let rule = step.and_then(|step| step.rule.as_ref());
            let decided = step.map(|step| (step.place.netns.clone(), step.hook, step.cause));
            let alike = known.entry((decided, rule.map(|rule| (rule.handle, rule.position)))).or_default();
            let equal = alike.iter().copied().find(|&id| row.outcomes[id as usize] == outcome);
            let id = equal.unwrap_or_else(|| {
                row.outcomes.push(outcome);
                let id = row.outcomes.len() as u32 - 1;
                alike.push(id);
                id
            });
            row.cells.push(id);
        }
        row
    }

    fn predict(&self, start: &Place, flow: &Flow) -> Outcome {
        self.memory.begin();
        let mut sent = State::begin(start.clone(), Stage::Inject, Packet::new(*flow, false));
        sent.detail = Detail::Fate;
        sent.memory = Some(Rc::clone(&self.memory));
        let (mut delivered, mut failures) = (0.0, Vec::new());
        for forward in walk::follow(self.cluster, sent) {
            if forward.fate != Some(Disposition::Delivered) {
                failures.push((forward.probability, false, forward));
                continue;
            }
            for back in walk::follow(self.cluster, reply(start, flow, &forward)) {
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
            // Whose flow it was is known, and makes equal outcomes different.
            step: walk.steps.pop().map(|step| Step { flow: None, ..step }),
        });
        Outcome { delivered, failure }
    }
}

impl Aim {
    fn flow(&self, src: IpAddr) -> Flow {
        let Self { dst, protocol, dst_port } = *self;
        let src_port = if protocol.has_ports() { SOURCE_PORT } else { 1 };
        let dst_port = if protocol.has_ports() { dst_port } else { src_port };
        Flow { src, dst, protocol, src_port, dst_port }
    }
}
