//! How many copies of a packet came by, and when: what a walk, which is of one packet, does not tell.

use std::collections::{BTreeMap, BTreeSet};

use waymark_proto::{Direction, Event, Hook, Place, Sighting};

use super::Lens;

/// A place at which every passage is recorded exactly once, with a kernel's time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gate {
    /// Where.
    pub place: Place,
    /// Which hook.
    pub hook: Hook,
    /// On which device.
    pub device: Option<String>,
    /// Whether the packet was encapsulated there.
    pub encapsulated: bool,
}

/// A gate with the passages of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The gate.
    pub gate: Gate,
    /// How many copies of the packet came by.
    pub copies: u32,
    /// When the first of them did, in nanoseconds of the node's monotonic clock.
    pub at_ns: u64,
}

/// What was recorded at a gate.
#[derive(Default)]
struct Records {
    /// Packets that a device received and put by.
    arrived: u32,
    /// Packets that were sent, or that the stack took.
    seen: u32,
    buffers: BTreeSet<u64>,
    first_ns: u64,
}

impl Records {
    /// How many copies that were. A transmission is recorded once. A reception is recorded by the stack, and before
    /// by devices that put packets by for it. Recordings of the past do not say which of the two a record is of
    /// (`twofold`): there are at least half as many copies, and those that come from another machine have buffers of
    /// their own.
    fn copies(&self, hook: Hook, twofold: bool) -> u32 {
        if hook == Hook::DriverRx && twofold {
            return self.seen.div_ceil(2).max(self.buffers.len() as u32);
        }
        self.seen.max(self.arrived)
    }
}

/// The passages of one packet in one direction, in the order of the predicted nodes, and on each of its clock.
pub(super) fn passages(sightings: &[&Sighting], direction: Direction, lens: &Lens<'_>) -> Vec<Passage> {
    let mut gates: BTreeMap<Gate, Records> = BTreeMap::new();
    // Every packet comes by a device that puts it by: the other end of a pod's.
    let twofold = !lens.received_once && !sightings.iter().any(|sighting| sighting.event == Event::Arrived);
    for sighting in sightings {
        let arrived = match sighting.event {
            Event::Arrived => true,
            Event::Seen => false,
            _ => continue,
        };
        if !matches!(sighting.hook, Hook::Qdisc | Hook::DriverTx | Hook::DriverRx) {
            continue;
        }
        let gate = Gate {
            place: sighting.place.clone(),
            hook: sighting.hook,
            device: sighting.device.clone(),
            encapsulated: sighting.headers.as_ref().is_some_and(|headers| headers.outer.is_some()),
        };
        let records = gates.entry(gate).or_default();
        let first = records.arrived + records.seen == 0;
        records.first_ns = if first { sighting.at_ns } else { records.first_ns.min(sighting.at_ns) };
        records.arrived += u32::from(arrived);
        records.seen += u32::from(!arrived);
        records.buffers.insert(sighting.buffer);
    }
    let passage = |(gate, records): (Gate, Records)| {
        let (copies, at_ns) = (records.copies(gate.hook, twofold), records.first_ns);
        Passage { gate, copies, at_ns }
    };
    let mut passages: Vec<Passage> = gates.into_iter().map(passage).collect();
    passages.sort_by_cached_key(|passage| {
        let node = &passage.gate.place.node;
        (lens.rank(node, direction), node.clone(), passage.at_ns)
    });
    passages
}
