//! The tracers of a check, and the sightings that come in until it has what it asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use waymark_proto::{
    CheckId, Direction, Event, Hook, Losses, Match, NetnsName, NodeName, Place, Seq, Sighting, Text, rpc,
};

use crate::agents::Agents;
use crate::diagnose::Sight;
use crate::reasons::{Meaning, meaning};
use crate::tracers::Tracers;

/// Sightings that may wait between an agent's stream and the collector.
const QUEUED_SIGHTINGS: usize = 65536;
/// The same for each packet of a check: twice the records of a packet and its answer through a Service and a
/// tunnel. An agent in this process does not wait for the collector, it counts what finds no room as lost.
const QUEUED_PER_PACKET: usize = 512;

/// Where a check tells how far it is. Dropping the other end cancels the check.
#[derive(Clone, Debug)]
pub struct Progress(mpsc::Sender<String>);

impl Progress {
    /// A progress and the end that reads it.
    pub fn channel() -> (Self, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(16);
        (Self(sender), receiver)
    }

    /// Says something. Nobody waits for slow listeners.
    pub(crate) fn say(&self, words: impl Into<String>) {
        drop(self.0.try_send(words.into()));
    }

    /// Does something, unless nobody listens any more: then it is not done to its end.
    pub(crate) async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.0.closed() => None,
        }
    }
}

/// When a packet's fate is known and nobody needs to wait for more of it.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    /// The namespace that sends.
    pub(crate) source: Place,
    /// Whether answers are waited for.
    pub(crate) one_way: bool,
    /// The namespaces of the predicted path: a drop elsewhere may be that of a flooded copy. Empty if
    /// nothing was predicted.
    pub(crate) on_path: BTreeSet<Place>,
}

impl Settled {
    fn by(&self, sighting: &Sighting) -> bool {
        // Fragments are freed behind their packet, too, and another copy of one may do.
        if sighting.is_later_fragment() {
            return false;
        }
        let headers = sighting.headers.as_ref();
        let outermost = headers.is_none_or(|headers| headers.outer.is_none());
        let answer = headers.is_some_and(|h| matches!(h.matched, Match::EchoReply | Match::TcpAck));
        let direction = if answer
            || (sighting.place == self.source
                && headers.is_some_and(|h| h.matched == Match::Tag)
                && sighting.hook == Hook::NetfilterInput)
        {
            Direction::Return
        } else {
            Direction::Forward
        };
        match (&sighting.event, sighting.hook) {
            (Event::Left | Event::Passed, Hook::NetfilterInput) if outermost => match direction {
                Direction::Return => sighting.place == self.source,
                Direction::Forward => self.one_way,
            },
            (Event::Dropped { reason, function }, _) => {
                let off_path = !self.on_path.is_empty() && !self.on_path.contains(&sighting.place);
                let copy = reason.as_deref() == Some("OTHERHOST");
                // An error about the packet that is dropped says nothing about the packet.
                let quoted = headers.is_some_and(|h| h.matched == Match::Quoted);
                // The sender drops an answer to its lone SYN at the socket; the rule trace tells the rest.
                let at_home = direction == Direction::Return
                    && sighting.place == self.source
                    && !matches!(meaning(reason.as_deref(), function), Some(Meaning::Netfilter));
                at_home || !(off_path || copy || quoted)
            }
            _ => false,
        }
    }
}

#[derive(Default)]
struct Inbox {
    sightings: Vec<Sighting>,
    settled: BTreeSet<Seq>,
}

/// The armed tracers of one check.
pub(crate) struct Armed {
    tracers: Tracers,
    inbox: Arc<(Mutex<Inbox>, Notify)>,
    collector: JoinHandle<()>,
}

impl Armed {
    /// Arms the tracers of these nodes in parallel. A node that cannot be armed is noted.
    pub(crate) async fn arm(
        agents: &Arc<dyn Agents>,
        check: CheckId,
        order: &rpc::Arm,
        nodes: &BTreeMap<NodeName, BTreeSet<NetnsName>>,
        settled: Settled,
    ) -> Self {
        let (sink, sightings) = mpsc::channel(QUEUED_SIGHTINGS.max(order.count as usize * QUEUED_PER_PACKET));
        let inbox = Arc::new((Mutex::new(Inbox::default()), Notify::new()));
        let collector = tokio::spawn(collect(sightings, Arc::clone(&inbox), settled));
        let tracers = Tracers::arm(agents, check, order, nodes, &sink).await;
        Self { tracers, inbox, collector }
    }

    /// What can be seen.
    pub(crate) fn sight(&self) -> &Sight {
        &self.tracers.sight
    }

    /// Nodes that could not be armed.
    pub(crate) fn notes(&self) -> &[Text] {
        &self.tracers.notes
    }

    /// Waits until the fates of these packets are known, or until the time is over.
    pub(crate) async fn settle(&self, packets: &BTreeSet<Seq>, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let (inbox, news) = &*self.inbox;
        loop {
            let changed = news.notified();
            if packets.is_subset(&lock(inbox).settled) {
                return;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return;
            }
        }
    }

    /// Disarms everywhere and returns what was seen, what could be seen, and what was lost.
    pub(crate) async fn disarm(mut self) -> Seen {
        let losses = self.tracers.disarm().await;
        // All sinks are gone after disarming, except those of agents that do not answer.
        let quiet = tokio::time::timeout(Duration::from_secs(1), &mut self.collector).await;
        if quiet.is_err() {
            self.collector.abort();
        }
        let sightings = std::mem::take(&mut lock(&self.inbox.0).sightings);
        Seen {
            sightings,
            sight: std::mem::take(&mut self.tracers.sight),
            losses,
            notes: std::mem::take(&mut self.tracers.notes),
        }
    }
}

/// What the tracers of a check brought in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Seen {
    pub(crate) sightings: Vec<Sighting>,
    pub(crate) sight: Sight,
    pub(crate) losses: Losses,
    pub(crate) notes: Vec<Text>,
}

async fn collect(
    mut sightings: mpsc::Receiver<Sighting>,
    inbox: Arc<(Mutex<Inbox>, Notify)>,
    settled: Settled,
) {
    let (inbox, news) = &*inbox;
    while let Some(sighting) = sightings.recv().await {
        let mut inbox = lock(inbox);
        let news_is_due = settled.by(&sighting) && inbox.settled.insert(sighting.marker.seq);
        inbox.sightings.push(sighting);
        drop(inbox);
        if news_is_due {
            news.notify_one();
        }
    }
}

fn lock(inbox: &Mutex<Inbox>) -> std::sync::MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}
