//! Traffic that is there anyway, traced by the same hooks as markers are: for when nothing may be injected, or what fails is
//! not what a probe would do.
//!
//! * `filter`: which packets
//! * `question`: and where, and for how long
//! * `join`: which packet of one node is which of another
//! * `told`: what comes of it
//!
//! There is no prediction of what nobody sent, and rules are not traced: a drop is told by function and reason. [`check`]
//! with the same flow names the rule.
//!
//! [`check`]: crate::check

mod filter;
mod join;
mod question;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use waymark_proto::{CheckId, Event, Inventory, Losses, NodeName, Seq, Sighting, Text, rpc};

pub use filter::{FilterError, compile};
use join::Numbers;
pub use question::{
    DEFAULT_PACKETS, DEFAULT_TIME, MAX_NODES, MAX_PACKETS, MAX_TIME, MAX_UNNAMED_NODES, Question,
    QuestionError,
};
pub use told::{Because, Blind, Told, object};

use crate::agents::Agents;
use crate::diagnose::Sight;
use crate::tracers::Tracers;

/// Sightings that may wait for whoever asked.
const QUEUED: usize = 65536;
/// How long the ways of packets that were picked are followed when there are enough. So long a buffer is followed, too.
const LINGER: Duration = Duration::from_secs(1);
/// How much longer than the trace the agents' leases are.
const MARGIN: Duration = Duration::from_secs(30);

/// Why a trace was not made.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It makes no sense.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// No node looks.
    #[error("no node can look: {0}")]
    Arm(String),
    /// No number for it could be had.
    #[error("cannot read random bytes: {0}")]
    Random(getrandom::Error),
}

/// Traces until the time is over, there are enough packets, or nobody listens any more.
pub async fn trace(
    agents: &Arc<dyn Agents>,
    inventory: &Inventory,
    question: &Question,
    events: &mpsc::Sender<Told>,
) -> Result<(), TraceError> {
    let nodes = question.nodes(inventory)?;
    let check = random_id()?;
    let order = rpc::Arm {
        check: check.get(),
        count: question.packets,
        lease_ms: u32::try_from((question.time + MARGIN).as_millis()).unwrap_or(u32::MAX),
        filter: question.filter.iter().copied().map(rpc::FilterInstruction::from).collect(),
        ..rpc::Arm::default()
    };
    let (sink, mut sightings) = mpsc::channel(QUEUED);
    let mut tracers = Tracers::arm(agents, check, &order, &nodes, &sink).await;
    drop(sink);
    let looking: Vec<NodeName> = tracers.sight.watched().cloned().collect();
    if looking.is_empty() {
        return Err(TraceError::Arm(sentence(&tracers.notes)));
    }
    let begun = Told::Begun { nodes: looking, blind: blind(&tracers.sight), notes: tracers.notes.clone() };
    // Whoever does not listen is noticed below.
    drop(events.send(begun).await);
    let mut view = View {
        inventory,
        events,
        numbers: Numbers::default(),
        picked: BTreeMap::new(),
        dropped: BTreeSet::new(),
        sightings: 0,
    };
    let mut end = Instant::now() + question.time;
    let mut because = Because::Time;
    loop {
        tokio::select! {
            sighting = sightings.recv() => {
                let Some(sighting) = sighting else {
                    because = Because::Agents;
                    break;
                };
                view.tell(sighting).await;
            }
            () = tokio::time::sleep_until(end) => break,
            () = events.closed() => break,
        }
        if because == Because::Time && view.has_enough(question.packets) {
            because = Because::Packets;
            end = end.min(Instant::now() + LINGER);
        }
    }
    let losses = tracers.disarm().await;
    while let Some(sighting) = sightings.recv().await {
        view.tell(sighting).await;
    }
    drop(events.send(view.end(because, losses, std::mem::take(&mut tracers.notes))).await);
    Ok(())
}

/// The hooks that nobody serves on a node, those of one reason together. Rules are traced nowhere.
fn blind(sight: &Sight) -> Vec<Blind> {
    let mut blind: Vec<Blind> = Vec::new();
    for (node, hook, why) in sight.unserved().filter(|(_, hook, _)| !hook.is_netfilter()) {
        match blind.iter_mut().find(|known| known.hook == hook && known.why == *why) {
            Some(known) => known.nodes.push(node.clone()),
            None => blind.push(Blind { nodes: vec![node.clone()], hook, why: why.clone() }),
        }
    }
    blind
}

fn random_id() -> Result<CheckId, TraceError> {
    loop {
        if let Some(id) = CheckId::new(getrandom::u32().map_err(TraceError::Random)?) {
            return Ok(id);
        }
    }
}

fn sentence(notes: &[Text]) -> String {
    notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What was seen so far, as it is told.
struct View<'a> {
    inventory: &'a Inventory,
    events: &'a mpsc::Sender<Told>,
    numbers: Numbers,
    picked: BTreeMap<NodeName, BTreeSet<Seq>>,
    dropped: BTreeSet<u32>,
    sightings: u64,
}

impl View<'_> {
    async fn tell(&mut self, sighting: Sighting) {
        self.picked.entry(sighting.place.node.clone()).or_default().insert(sighting.marker.seq);
        let packet = self.numbers.of(&sighting);
        self.sightings += 1;
        if matches!(sighting.event, Event::Dropped { .. }) {
            self.dropped.insert(packet);
        }
        let object = object(self.inventory, &sighting.place);
        drop(self.events.send(Told::Sighted { packet, object, sighting: Box::new(sighting) }).await);
    }

    fn has_enough(&self, packets: u32) -> bool {
        self.picked.values().any(|picked| picked.len() >= packets as usize)
    }

    fn end(self, because: Because, losses: Losses, notes: Vec<Text>) -> Told {
        let (packets, dropped) = (self.numbers.count(), self.dropped.len() as u32);
        Told::Ended { because, packets, dropped, sightings: self.sightings, losses, notes }
    }
}
