//! What Waymark says it saw: the rounds of a recorded check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use waymark_controller::{Ends, Sent, Sight};
use waymark_proto::{CheckId, Event, Losses, Marker, Match, NetnsName, NodeName, Sighting};

use crate::capture::{Tapped, Way};
use crate::wire::{Identity, Marked, Reading, Role, read};

/// How long after it was sent a packet leaves its namespace, if nothing holds it up.
const SENT_NS: u64 = 50_000_000;

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
    /// When each node's tracer told the last, by the number that the check had in that round: until then it was armed.
    last_ns: BTreeMap<CheckId, BTreeMap<NodeName, u64>>,
    /// Which packet has which number.
    pub identities: BTreeMap<Marker, Identity>,
    /// The keyed hashes of tags.
    hashes: BTreeMap<Identity, u64>,
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
    light: Option<Trials>,
    #[serde(default)]
    wide: Option<Trials>,
    #[serde(default)]
    all: Option<Trials>,
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

/// Reads a recording of a check that watched all hooks from the first packet on.
pub fn looks(recording: &Path) -> Vec<Look> {
    let Recorded { check, opinions, witnessed } =
        serde_json::from_slice(&std::fs::read(recording).unwrap()).unwrap();
    let source = check.ends.source.netns.clone();
    let mut looks = Vec::new();
    for Examination { ends, light, wide, all } in [check].into_iter().chain(opinions) {
        assert!(light.is_none() && wide.is_none(), "the check was asked to watch all hooks");
        looks.push(Look::of(ends.source.netns, all.expect("it has sent packets")));
    }
    looks.extend(witnessed.map(|trials| Look::of(source, without_rules(trials))));
    looks
}

/// Those of a round with the wide set: what came through an input hook was logged, of which no trace tells.
fn without_rules(mut trials: Trials) -> Trials {
    trials.seen.sightings.retain(|sighting| !is_by_netfilter(&sighting.event));
    trials
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
        let mut last_ns: BTreeMap<CheckId, BTreeMap<NodeName, u64>> = BTreeMap::new();
        let (mut identities, mut hashes) = (BTreeMap::new(), BTreeMap::new());
        for sighting in &sightings {
            // It is read apart from all others, and what it quotes of a packet is not always all of its headers.
            if is_by_netfilter(&sighting.event) {
                continue;
            }
            let nodes = last_ns.entry(sighting.marker.check).or_default();
            let last = nodes.entry(sighting.place.node.clone()).or_default();
            *last = (*last).max(sighting.at_ns);
            if let Some(reading) = read(&sighting.packet) {
                let identity = reading.marked.identity;
                identities.entry(sighting.marker).or_insert(identity);
                hashes.extend(reading.hash.map(|hash| (identity, hash)));
            }
        }
        Self { source, watched, sent, sightings, last_ns, identities, hashes }
    }

    /// The same without one of the sightings, and all that follows from it.
    pub fn without(&self, index: usize) -> Self {
        let mut sightings = self.sightings.clone();
        sightings.remove(index);
        Self::new(self.source.clone(), self.watched.clone(), self.sent.clone(), sightings)
    }

    /// Finds out by what tcpdump saw which packets those are whose bytes no recording holds.
    pub fn identify(&mut self, tapped: &[Tapped]) {
        for sent in self.sent.iter().filter(|sent| !self.is_identified(sent)).cloned().collect::<Vec<_>>() {
            let sighting = self.sightings.iter().find(|sighting| sighting.marker.seq == sent.seq);
            let Some(marker) = sighting.map(|sighting| sighting.marker) else { continue };
            let like = tapped.iter().filter(|tap| self.is_sent_as(&sent, tap));
            let reading = like.min_by_key(|tap| tap.at_ns).map(|tap| tap.reading);
            self.identities.extend(reading.map(|reading| (marker, reading.marked.identity)));
        }
    }

    /// Whether it is known which packet it is.
    pub fn is_identified(&self, sent: &Sent) -> bool {
        self.identities.keys().any(|marker| marker.seq == sent.seq)
    }

    /// Whether tcpdump may have seen how this packet left its namespace.
    pub fn is_sent_as(&self, sent: &Sent, tap: &Tapped) -> bool {
        let leaves = tap.netns == self.source.as_str() && tap.way == Way::Out && tap.device != "lo";
        let soon = tap.at_ns.checked_sub(sent.sent_ns).is_some_and(|later| later < SENT_NS);
        let Reading { marked, source_port, .. } = tap.reading;
        let is_like = marked.role == Role::Itself && !marked.tunnelled && source_port == sent.source_port;
        leaves && soon && sent.error.is_none() && is_like
    }

    /// Whether a packet is one of these. A tag that is damaged is none.
    pub fn is_genuine(&self, Reading { marked, hash, .. }: Reading) -> bool {
        let is_known = self.identities.values().any(|known| *known == marked.identity);
        let known = self.hashes.get(&marked.identity);
        is_known && hash.is_none_or(|hash| known.is_none_or(|known| *known == hash))
    }

    /// Which packet a sighting is of, by what Waymark says of it. `None` where it was followed by its buffer alone, which
    /// nobody else can do.
    pub fn marked(&self, sighting: &Sighting) -> Option<Marked> {
        let headers = sighting.headers.as_ref()?;
        let role = match headers.matched {
            Match::Tag | Match::TcpSeq => Role::Itself,
            Match::EchoReply | Match::TcpAck => Role::Answer,
            Match::Quoted => Role::Error,
            Match::Buffer | Match::Filter => return None,
        };
        let identity = *self.identities.get(&sighting.marker)?;
        Some(Marked { identity, role, tunnelled: headers.outer.is_some() })
    }

    /// Until when a node's tracer was armed for a check, at least. They are disarmed all at once: of one that told nothing it is
    /// known that others still told something.
    pub fn armed_until_ns(&self, check: CheckId, node: &NodeName) -> Option<u64> {
        let nodes = self.last_ns.get(&check)?;
        nodes.get(node).or_else(|| nodes.values().min()).copied()
    }

    /// The same for one of these packets.
    pub fn seen_until_ns(&self, identity: Identity, node: &NodeName) -> Option<u64> {
        let (marker, _) = self.identities.iter().find(|(_, known)| **known == identity)?;
        self.armed_until_ns(marker.check, node)
    }

    /// The numbers that the check had in its rounds.
    pub fn checks(&self) -> impl Iterator<Item = u32> {
        self.last_ns.keys().map(|check| check.get())
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
        | Event::Consumed { .. }
        | Event::Called { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use waymark_proto::marker::{MarkerKey, Tag};
    use waymark_proto::{Hook, Seq};

    use super::*;
    use crate::compare::fixture::{look, sighting, tapped};

    #[test]
    fn a_damaged_tag_is_of_nobody() {
        let marker = Marker { check: CheckId::new(7).unwrap(), seq: Seq(0) };
        let headers = [
            &[0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2][..],
            &[0x9c, 0x40, 0, 53, 0, 40, 0, 0],
        ];
        let mut packet = headers.concat();
        packet.extend(Tag::new(&MarkerKey([7; 16]), marker, 1).to_bytes());
        let seen =
            Sighting { packet: packet.clone(), ..sighting("pod", 1, Hook::Qdisc, "eth0", Event::Seen) };
        let look = Look::new("pod".into(), BTreeSet::new(), Vec::new(), vec![seen]);
        assert!(look.is_genuine(read(&packet).unwrap()));
        *packet.last_mut().unwrap() ^= 1;
        assert!(!look.is_genuine(read(&packet).unwrap()));
    }

    #[test]
    fn packets_of_which_no_bytes_were_kept_are_known_by_how_they_left() {
        let without = |port| {
            let Look { source, watched, mut sent, mut sightings, .. } = look();
            sent[0].source_port = port;
            for sighting in &mut sightings {
                sighting.packet.clear();
            }
            let mut look = Look::new(source, watched, sent, sightings);
            assert_eq!(look.identities, BTreeMap::new());
            look.identify(&tapped());
            look.identities
        };
        assert_eq!(without(40_000), look().identities);
        assert_eq!(without(40_001), BTreeMap::new());
    }

    #[test]
    fn tracers_are_armed_until_they_tell_the_last() {
        // What netfilter told was read later.
        let until = |isn, node: &str| look().seen_until_ns(Identity::Isn(isn), &node.into());
        assert_eq!(until(100, "node1"), Some(1_050_000));
        assert_eq!(until(100, "node2"), Some(1_050_000), "it was armed with the other");
        assert_eq!(until(101, "node1"), None);
    }
}
