//! What Waymark says it saw: the rounds of a recorded check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use waymark_controller::{Ends, Sent, Sight};
use waymark_proto::{CheckId, Event, Losses, Marker, Match, NetnsName, NodeName, Sighting};

use crate::wire::{Identity, Marked, Role, read};

/// How long after the last sighting of a check its tracers are armed for certain: they gather what they see for two
/// milliseconds before they tell it, and are disarmed once something is told.
const ARMED_NS: u64 = 100_000;

/// Packets under one check's number, with what was seen of them.
#[derive(Clone, Debug)]
pub struct Look {
    /// The namespace that sent.
    pub source: NetnsName,
    /// The nodes on which everything was watched.
    pub watched: BTreeSet<NodeName>,
    /// What was sent, if it is known which of a check's rounds this was.
    pub sent: Vec<Sent>,
    pub sightings: Vec<Sighting>,
    /// Until when tracers were armed, at least, by the number that the check had in that round.
    pub armed_until_ns: BTreeMap<CheckId, u64>,
    /// Which packet has which number.
    pub identities: BTreeMap<Marker, Identity>,
}

/// The parts of a recording that matter here.
#[derive(Deserialize)]
struct Recorded {
    check: Examination,
    #[serde(default)]
    opinions: Vec<Examination>,
    #[serde(default)]
    witnessed: Option<Trials>,
}

#[derive(Deserialize)]
struct Examination {
    ends: Ends,
    #[serde(default)]
    glance: Option<Trials>,
    #[serde(default)]
    trials: Option<Trials>,
}

#[derive(Deserialize)]
struct Trials {
    sent: Vec<Sent>,
    seen: Seen,
}

#[derive(Deserialize)]
struct Seen {
    sightings: Vec<Sighting>,
    sight: Sight,
    losses: Losses,
}

/// Reads a recording of a check that looked closely from the first packet on.
pub fn looks(recording: &Path) -> Vec<Look> {
    let Recorded { check, opinions, witnessed } =
        serde_json::from_slice(&std::fs::read(recording).unwrap()).unwrap();
    let source = check.ends.source.netns.clone();
    let mut looks = Vec::new();
    for Examination { ends, glance, trials } in [check].into_iter().chain(opinions) {
        assert!(glance.is_none(), "the check was asked to look closely");
        looks.extend(trials.map(|trials| Look::of(ends.source.netns, trials)));
    }
    looks.extend(witnessed.map(|trials| Look::of(source, trials)));
    looks
}

impl Look {
    fn of(source: NetnsName, Trials { sent, seen: Seen { sightings, sight, losses } }: Trials) -> Self {
        assert_eq!(losses.total(), 0, "Waymark itself says that it has not seen everything: {losses:?}");
        Self::new(source, sight.watched().cloned().collect(), sent, sightings)
    }

    pub fn new(
        source: NetnsName,
        watched: BTreeSet<NodeName>,
        sent: Vec<Sent>,
        sightings: Vec<Sighting>,
    ) -> Self {
        let mut armed_until_ns: BTreeMap<CheckId, u64> = BTreeMap::new();
        let mut identities = BTreeMap::new();
        for sighting in &sightings {
            let until = armed_until_ns.entry(sighting.marker.check).or_default();
            *until = (*until).max(sighting.at_ns + ARMED_NS);
            // What netfilter quotes of a packet is not always all of its headers.
            if !is_by_netfilter(&sighting.event)
                && let Some(reading) = read(&sighting.packet)
            {
                identities.entry(sighting.marker).or_insert(reading.marked.identity);
            }
        }
        Self { source, watched, sent, sightings, armed_until_ns, identities }
    }

    /// Which packet a sighting is of, by what Waymark says of it. `None` where it was followed by its buffer alone, which
    /// nobody else can do.
    pub fn marked(&self, sighting: &Sighting) -> Option<Marked> {
        let headers = sighting.headers.as_ref()?;
        let role = match headers.matched {
            Match::Tag | Match::TcpSeq => Role::Itself,
            Match::EchoReply | Match::TcpAck => Role::Answer,
            Match::Quoted => Role::Error,
            Match::Buffer => return None,
        };
        let identity = *self.identities.get(&sighting.marker)?;
        Some(Marked { identity, role, tunnelled: headers.outer.is_some() })
    }

    /// Until when a packet would have been seen, if it is one of these.
    pub fn armed_until_ns(&self, identity: Identity) -> Option<u64> {
        let (marker, _) = self.identities.iter().find(|(_, known)| **known == identity)?;
        self.armed_until_ns.get(&marker.check).copied()
    }
}

/// Whether netfilter's trace told of it, which says when by the clock of whoever read it.
pub fn is_by_netfilter(event: &Event) -> bool {
    match event {
        Event::Entered | Event::Left | Event::Passed | Event::Verdict { .. } => true,
        Event::Seen
        | Event::Arrived
        | Event::Transmitted { .. }
        | Event::Dropped { .. }
        | Event::Consumed { .. } => false,
    }
}
