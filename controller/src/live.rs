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

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use waymark_proto::{CheckId, Event, Inventory, Losses, NodeName, Sighting, Text, rpc};

pub use filter::{FilterError, compile};
use join::Numbers;
pub use question::{
    DEFAULT_PACKETS, DEFAULT_TIME, MAX_NODES, MAX_PACKETS, MAX_TIME, MAX_UNNAMED_NODES, Question,
    QuestionError,
};
use told::object;
pub use told::{Because, Blind, Told};

use crate::agents::Agents;
use crate::diagnose::Sight;
use crate::tracers::Tracers;

/// Sightings that may wait to be taken in, and that may wait for whoever asked.
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
    let (check, key) = secret()?;
    let order = rpc::Arm {
        check: check.get(),
        key: key.to_vec(),
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
    let mut view = View::new(inventory);
    let begun = Told::Begun { nodes: looking, blind: blind(&tracers.sight), notes: tracers.notes.clone() };
    view.waiting.push_back(begun);
    let mut end = Instant::now() + question.time;
    let mut because = Because::Time;
    // Sightings are taken whether or not somebody takes what is told: an agent's line has more to carry than those.
    loop {
        tokio::select! {
            sighting = sightings.recv() => {
                let Some(sighting) = sighting else {
                    because = Because::Agents;
                    break;
                };
                view.see(sighting);
            }
            Ok(room) = events.reserve(), if !view.waiting.is_empty() => view.tell(room),
            () = tokio::time::sleep_until(end) => break,
            () = events.closed() => break,
        }
        if because == Because::Time && view.has_enough(question.packets) {
            because = Because::Packets;
            end = end.min(Instant::now() + LINGER);
        }
    }
    let losses = disarm(&mut tracers, &mut sightings, &mut view).await;
    while let Ok(sighting) = sightings.try_recv() {
        view.see(sighting);
    }
    view.end(because, losses, std::mem::take(&mut tracers.notes));
    while !view.waiting.is_empty()
        && let Ok(room) = events.reserve().await
    {
        view.tell(room);
    }
    Ok(())
}

/// Disarms, while what is still seen is taken in.
async fn disarm(
    tracers: &mut Tracers,
    sightings: &mut mpsc::Receiver<Sighting>,
    view: &mut View<'_>,
) -> Losses {
    let mut disarming = std::pin::pin!(tracers.disarm());
    loop {
        tokio::select! {
            losses = &mut disarming => return losses,
            Some(sighting) = sightings.recv() => view.see(sighting),
        }
    }
}

/// A number and a key that nobody guesses.
fn secret() -> Result<(CheckId, [u8; 16]), TraceError> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(TraceError::Random)?;
    loop {
        if let Some(id) = CheckId::new(getrandom::u32().map_err(TraceError::Random)?) {
            return Ok((id, key));
        }
    }
}

fn sentence(notes: &[Text]) -> String {
    notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
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

/// What was seen so far, as it is told.
struct View<'a> {
    inventory: &'a Inventory,
    numbers: Numbers,
    /// The nodes that dropped packets, as far as was seen.
    dropped: BTreeMap<u32, NodeName>,
    sightings: u64,
    /// What was not told yet.
    waiting: VecDeque<Told>,
    /// Sightings for which there was no room among that.
    lost: u64,
}

impl<'a> View<'a> {
    fn new(inventory: &'a Inventory) -> Self {
        let (numbers, dropped, waiting) = (Numbers::default(), BTreeMap::new(), VecDeque::new());
        Self { inventory, numbers, dropped, sightings: 0, waiting, lost: 0 }
    }

    fn see(&mut self, sighting: Sighting) {
        let number = self.numbers.of(&sighting);
        self.sightings += 1;
        // A copy of a packet may be dropped, and the packet go on. What nodes tell comes in no order between them.
        let node = &sighting.place.node;
        if matches!(sighting.event, Event::Dropped { .. }) {
            self.dropped.insert(number, node.clone());
        } else if self.dropped.get(&number) == Some(node) {
            self.dropped.remove(&number);
        }
        if self.waiting.len() >= QUEUED {
            self.lost += 1;
            return;
        }
        let object = object(self.inventory, &sighting.place);
        // The number stands for both: an identity, and where in its memory a kernel keeps the packet.
        let sighting = Sighting { identity: 0, buffer: 0, ..sighting };
        self.waiting.push_back(Told::Sighted { number, object, sighting: Box::new(sighting) });
    }

    /// Tells the first of what waits.
    fn tell(&mut self, room: mpsc::Permit<'_, Told>) {
        if let Some(told) = self.waiting.pop_front() {
            room.send(told);
        }
    }

    fn has_enough(&self, packets: u32) -> bool {
        self.numbers.most() >= packets
    }

    fn end(&mut self, because: Because, mut losses: Losses, notes: Vec<Text>) {
        losses.ring_full += self.lost;
        let (packets, dropped) = (self.numbers.count(), self.dropped.len() as u32);
        let sightings = self.sightings;
        self.waiting.push_back(Told::Ended { because, packets, dropped, sightings, losses, notes });
    }
}
