//! From sightings to observed walks, one for each packet and direction.
//!
//! Sightings arrive from several providers, whose clocks say different things:
//!
//! * Tracepoints (driver, queue, drops) are stamped in the kernel: on one node their order is the truth.
//! * Netfilter traces are stamped when the agent reads them, after the fact. Their order among themselves
//!   within one namespace is right. So each traversal of a netfilter hook is put where the datapath has it:
//!   input side hooks after the reception by their device, output side hooks before the queue of theirs.
//! * Between nodes no clock is trusted. A packet's TTL never rises, and what happens between two nodes at
//!   one TTL follows the order in which the prediction visits them.
//!
//! * `calls`: what functions of the kernel answered
//! * `copies`: how many copies came by, and when
//! * `direction`: which way each sighting goes
//! * `again`: answers that were sent again
//! * `fragments`: later fragments, which are no copies of the packet, and of which none may be lost
//! * `timeline`: the order on one node
//! * `ending`: what became of the packet in the end

mod again;
mod calls;
mod copies;
mod direction;
mod ending;
mod fragments;
mod timeline;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use waymark_proto::{Action, Direction, Event, Flow, Inventory, NodeName, Place, Seq, Sighting, Step};

pub use calls::Call;
pub use copies::{Gate, Passage};
use timeline::Item;

/// What is known beforehand and helps to read sightings.
#[derive(Clone, Debug)]
pub struct Lens<'a> {
    /// The cluster.
    pub inventory: &'a Inventory,
    /// The namespace that sends.
    pub source: &'a Place,
    /// The flow of the first packet.
    pub flow: Flow,
    /// Source port or echo identifier of each packet.
    pub source_ports: BTreeMap<Seq, u16>,
    /// Addresses and ports that the packets may be sent to, before and after translation.
    pub receivers: BTreeSet<(IpAddr, u16)>,
    /// Namespaces in which every passage through an IP netfilter hook was watched.
    pub filters_watched: BTreeSet<Place>,
    /// The nodes that were watched without a gap: what was not seen there did not happen there.
    pub watched: BTreeSet<NodeName>,
    /// Whether of a reception there is the stack's record alone, and not also that of a device that puts packets by for it.
    pub received_once: bool,
    /// The nodes in the order in which the prediction visits them on the way there.
    pub nodes: Vec<NodeName>,
}

impl Lens<'_> {
    /// The turn of a node on a way.
    fn rank(&self, node: &NodeName, direction: Direction) -> usize {
        let position = self.nodes.iter().position(|known| known == node).unwrap_or(self.nodes.len());
        match direction {
            Direction::Forward => position,
            Direction::Return => self.nodes.len() - position,
        }
    }
}

/// What was seen of one packet and its answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The way there.
    pub forward: Walk,
    /// The way back.
    pub back: Walk,
    /// The namespace that answered with a TCP reset.
    pub reset_by: Option<Place>,
    /// Namespaces in which an ICMP error about the packet was seen, the first first.
    pub errors_at: Vec<Place>,
}

/// The steps that were seen of one walk, in order. The last may end it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Walk {
    /// The steps.
    pub steps: Vec<Step>,
    /// When it was received by the namespace that it was for: the driver's reception where that was seen,
    /// in nanoseconds of the monotonic clock there.
    pub arrived_ns: Option<u64>,
    /// Where it came by at a known time, and how many copies of it.
    pub passages: Vec<Passage>,
    /// What functions of the kernel answered, on each node in order.
    pub calls: Vec<Call>,
}

impl Walk {
    /// Whether the packet came to its receiver.
    pub fn delivered(&self) -> bool {
        self.steps.last().is_some_and(|step| step.action == Action::Delivered)
    }

    /// The step at which the packet was seen to die.
    pub fn death(&self) -> Option<&Step> {
        self.steps.last().filter(|step| matches!(step.action, Action::Dropped | Action::Rejected))
    }
}

/// Reads the sightings of a check: what was seen of each packet.
pub fn observe(sightings: &[Sighting], lens: &Lens<'_>) -> BTreeMap<Seq, Observed> {
    let mut by_packet: BTreeMap<Seq, Vec<&Sighting>> = BTreeMap::new();
    for sighting in sightings {
        by_packet.entry(sighting.marker.seq).or_default().push(sighting);
    }
    by_packet.into_iter().map(|(seq, sightings)| (seq, packet(seq, &sightings, lens))).collect()
}

fn packet(seq: Seq, sightings: &[&Sighting], lens: &Lens<'_>) -> Observed {
    let mut split = direction::split(seq, sightings, lens);
    let forward = walk(&split.forward, Direction::Forward, lens);
    let back = again::first_only(&split.forward, std::mem::take(&mut split.back));
    let back = walk(&back, Direction::Return, lens);
    let mut observed = Observed { forward, back, reset_by: split.origin_of_reset(), errors_at: Vec::new() };
    for sighting in split.errors {
        if !observed.errors_at.contains(&sighting.place) {
            observed.errors_at.push(sighting.place.clone());
        }
    }
    ending::heed_answers(&mut observed, lens);
    observed
}

fn walk(sightings: &[&Sighting], direction: Direction, lens: &Lens<'_>) -> Walk {
    let is_later = |sighting: &&Sighting| sighting.is_later_fragment();
    let (later, packet): (Vec<&Sighting>, Vec<&Sighting>) = sightings.iter().copied().partition(is_later);
    let items = in_order(&packet, direction, lens);
    let calls = calls::of(&packet);
    let mut walk = ending::finish(&items, &calls, direction, lens);
    if !walk.delivered()
        && let Some(lost) = fragments::lost(&items, &in_order(&later, direction, lens))
    {
        walk = ending::finish(&lost, &calls::of(&later), direction, lens);
    }
    Walk { passages: copies::passages(&packet, direction, lens), calls, ..walk }
}

/// What happened, in the order of the way.
fn in_order(sightings: &[&Sighting], direction: Direction, lens: &Lens<'_>) -> Vec<Item> {
    let mut by_node: BTreeMap<&NodeName, Vec<&Sighting>> = BTreeMap::new();
    let is_call = |sighting: &&&Sighting| matches!(sighting.event, Event::Called { .. });
    for sighting in sightings.iter().filter(|sighting| !is_call(sighting)) {
        by_node.entry(&sighting.place.node).or_default().push(sighting);
    }
    let timelines = by_node.into_iter().map(|(node, sightings)| (node, timeline::of_node(&sightings)));
    across_nodes(timelines.collect(), direction, lens)
}

/// Joins the timelines of the nodes by falling TTL, and by predicted order where TTLs are equal.
fn across_nodes(timelines: Vec<(&NodeName, Vec<Item>)>, direction: Direction, lens: &Lens<'_>) -> Vec<Item> {
    let mut keyed = Vec::new();
    for (node, items) in timelines {
        let first_known = items.iter().find_map(|item| item.ttl).unwrap_or(u8::MAX);
        let mut ttl = first_known;
        for item in items {
            // A TTL never rises; one that seems to belongs to headers that were read before a rewrite.
            ttl = item.ttl.map_or(ttl, |seen| seen.min(ttl));
            keyed.push(((std::cmp::Reverse(ttl), lens.rank(node, direction), node.clone()), item));
        }
    }
    // Stable: on one node the timeline's own order stays.
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    keyed.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests;
