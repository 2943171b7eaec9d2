//! What happens to packets that arrive: where they are held up, doubled, or overtake one another.
//!
//! * Delay: the time between two gates on one node is exact. Between two nodes it is that of the way there and the way
//!   back together, in which the difference of the clocks cancels out. The longest such time is a finding if it makes
//!   up most of the round trip and is long for a network of one place. What an application takes to answer is its own,
//!   unless it is long for people.
//! * Duplication: a gate that more copies leave than came to the one before it.
//! * Reordering: a gate that packets pass in another order than they were sent in, which they passed in order before.
//!
//! * Another way than predicted: `parting`.
//!
//! The first three are judged by several packets: one that was held up by a busy machine is none.

use std::collections::BTreeMap;

use waymark_proto::{Anomaly, AnomalyKind, Direction, Hook, Protocol, Share, Span, SpanEnd};

use super::Packet;
use crate::advice;
use crate::observe::{Gate, Passage, Walk};

/// Shorter delays are not told of, in nanoseconds: machines and the distances between them have such.
const LEAST_DELAY_NS: u64 = 10_000_000;
/// Nor are shorter ones of applications, which may work for their answers, and wait for a processor until then. This
/// is about what people notice.
const LEAST_ANSWER_NS: u64 = 100_000_000;
/// Fewer packets tell nothing.
const LEAST_PACKETS: usize = 3;
/// Packets that have to be doubled or overtaken.
const LEAST_HIT: u32 = 2;
/// And their share of all.
const LEAST_SHARE: f64 = 0.1;

/// Two gates, one after the other, and which hook lies between them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stretch {
    direction: Direction,
    from: Gate,
    to: Gate,
    hook: Hook,
}

impl Stretch {
    fn between(direction: Direction, from: &Gate, to: &Gate) -> Self {
        let hook = match (from.hook, to.hook) {
            _ if from.place.node != to.place.node => Hook::Wire,
            (Hook::Qdisc, Hook::DriverTx) if from.device == to.device => Hook::Qdisc,
            (_, Hook::DriverRx) => Hook::DriverRx,
            _ => Hook::Ip,
        };
        Self { direction, from: from.clone(), to: to.clone(), hook }
    }

    fn anomaly(&self, kind: AnomalyKind, share: Share, delay_ns: Option<u64>) -> Anomaly {
        let end = |gate: &Gate| SpanEnd {
            node: gate.place.node.clone(),
            netns: gate.place.netns.clone(),
            hook: gate.hook,
            device: gate.device.clone(),
        };
        // What lies between two nodes is the sender's to look into; what lies before a reception the receiver's.
        let at = if self.hook == Hook::DriverRx || self.hook == Hook::Socket { &self.to } else { &self.from };
        let device = at.device.clone().filter(|_| self.hook != Hook::Socket);
        let span = Span { last_seen: end(&self.from), first_missing: end(&self.to) };
        let advice = advice::of_anomaly(kind, self.hook, &at.place, device.as_deref(), &span);
        Anomaly {
            kind,
            node: at.place.node.clone(),
            netns: at.place.netns.clone(),
            device,
            hook: self.hook,
            direction: self.direction,
            span,
            share,
            delay_ns,
            instead: None,
            object: None,
            advice,
        }
    }
}

/// What happens to the packets that arrive, in the order in which they were sent.
pub(super) fn anomalies(packets: &[Packet<'_>], protocol: Protocol) -> Vec<Anomaly> {
    let arrived: Vec<&Packet<'_>> = packets.iter().filter(|packet| packet.arrived()).collect();
    let mut found: Vec<Anomaly> = delay(&arrived, protocol).into_iter().collect();
    for direction in [Direction::Forward, Direction::Return] {
        let walks: Vec<&Walk> = arrived.iter().filter_map(|packet| packet.walk(direction)).collect();
        found.extend(duplication(&walks, direction));
        found.extend(reordering(&walks, direction));
    }
    found
}

impl<'a> Packet<'a> {
    fn walk(&self, direction: Direction) -> Option<&'a Walk> {
        match direction {
            Direction::Forward => Some(self.forward.walk),
            Direction::Return => self.back.as_ref().map(|leg| leg.walk),
        }
    }
}

/// The stretch on which most of the round trip is spent, if that is long.
fn delay(packets: &[&Packet<'_>], protocol: Protocol) -> Option<Anomaly> {
    let mut times: BTreeMap<Stretch, Vec<u64>> = BTreeMap::new();
    for packet in packets {
        for (stretch, ns) in
            stretches(&packet.forward.walk.passages, packet.back.as_ref().map(|leg| leg.walk))
        {
            times.entry(stretch).or_default().push(ns);
        }
    }
    times.retain(|_, times| times.len() >= LEAST_PACKETS);
    // The kernel answers SYNs and echo requests by itself.
    let works = |stretch: &Stretch| protocol == Protocol::Udp && stretch.hook == Hook::Socket;
    let mut medians: Vec<(&Stretch, u64)> =
        times.iter_mut().map(|(stretch, times)| (stretch, median(times))).collect();
    medians.retain(|(stretch, ns)| !works(stretch) || *ns >= LEAST_ANSWER_NS);
    let whole: u64 = medians.iter().map(|(_, ns)| ns).sum();
    let (stretch, longest) = medians.into_iter().max_by_key(|(_, ns)| *ns)?;
    if longest < LEAST_DELAY_NS || longest * 2 < whole {
        return None;
    }
    let stretch = stretch.clone();
    let of = &times[&stretch];
    let hit = of.iter().filter(|&&ns| ns * 2 >= longest).count() as u32;
    Some(stretch.anomaly(AnomalyKind::Delay, Share::new(hit, of.len() as u32), Some(longest)))
}

fn median(times: &mut [u64]) -> u64 {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The times that one packet and its answer spent between gates.
fn stretches(there: &[Passage], back: Option<&Walk>) -> Vec<(Stretch, u64)> {
    let back: &[Passage] = back.map_or(&[], |walk| &walk.passages);
    let mut stretches = Vec::new();
    for (direction, passages) in [(Direction::Forward, there), (Direction::Return, back)] {
        for pair in passages.windows(2) {
            let [from, to] = pair else { continue };
            let stretch = Stretch::between(direction, &from.gate, &to.gate);
            let ns = match (stretch.hook, direction) {
                (Hook::Wire, Direction::Forward) => round_trip(from, to, back),
                (Hook::Wire, Direction::Return) => None,
                _ => to.at_ns.checked_sub(from.at_ns),
            };
            stretches.extend(ns.map(|ns| (stretch, ns)));
        }
    }
    // What the receiver takes to answer.
    if let (Some(taken), Some(answered)) = (there.last(), back.first())
        && taken.gate.place.node == answered.gate.place.node
    {
        let mut stretch = Stretch::between(Direction::Return, &taken.gate, &answered.gate);
        stretch.hook = Hook::Socket;
        stretches.extend(answered.at_ns.checked_sub(taken.at_ns).map(|ns| (stretch, ns)));
    }
    stretches
}

/// The time between two nodes, there and back.
fn round_trip(from: &Passage, to: &Passage, back: &[Passage]) -> Option<u64> {
    let (near, far) = (&from.gate.place.node, &to.gate.place.node);
    let [sent, received] = back.windows(2).find_map(|pair| match pair {
        [a, b] if a.gate.place.node == *far && b.gate.place.node == *near => Some([a, b]),
        _ => None,
    })?;
    let difference = |later: u64, earlier: u64| i128::from(later) - i128::from(earlier);
    let both = difference(to.at_ns, from.at_ns) + difference(received.at_ns, sent.at_ns);
    u64::try_from(both).ok()
}

/// The stretch on which most of the doubled packets are doubled.
fn duplication(walks: &[&Walk], direction: Direction) -> Option<Anomaly> {
    let mut where_doubled: BTreeMap<Stretch, u32> = BTreeMap::new();
    for walk in walks {
        let doubled = walk.passages.windows(2).find(|pair| pair[0].copies == 1 && pair[1].copies > 1);
        if let Some([from, to]) = doubled {
            *where_doubled.entry(Stretch::between(direction, &from.gate, &to.gate)).or_default() += 1;
        }
    }
    let (stretch, hit) = where_doubled.into_iter().max_by_key(|(_, hit)| *hit)?;
    told(&stretch, AnomalyKind::Duplication, hit, walks.len())
}

/// The first stretch behind which packets are no longer in the order in which they were sent. Walks come in that order.
fn reordering(walks: &[&Walk], direction: Direction) -> Option<Anomaly> {
    let mut times: BTreeMap<&Gate, Vec<u64>> = BTreeMap::new();
    for walk in walks {
        for passage in &walk.passages {
            times.entry(&passage.gate).or_default().push(passage.at_ns);
        }
    }
    let late = |gate: &Gate| times.get(gate).map_or(0, |times| overtaken(times));
    // The gates that tell are those of the packet that came by most.
    let longest = walks.iter().max_by_key(|walk| walk.passages.len())?;
    let first = longest.passages.windows(2).find_map(|pair| {
        let (from, to) = (&pair[0].gate, &pair[1].gate);
        (late(from) < LEAST_HIT && late(to) >= LEAST_HIT).then(|| Stretch::between(direction, from, to))
    })?;
    let hit = late(&first.to);
    told(&first, AnomalyKind::Reordering, hit, times.get(&first.to).map_or(0, Vec::len))
}

/// How many came by after one that was sent later.
fn overtaken(times: &[u64]) -> u32 {
    let mut soonest = u64::MAX;
    let mut late = 0;
    for &at in times.iter().rev() {
        late += u32::from(at > soonest);
        soonest = soonest.min(at);
    }
    late
}

fn told(stretch: &Stretch, kind: AnomalyKind, hit: u32, of: usize) -> Option<Anomaly> {
    let share = Share::new(hit, of as u32);
    told_of(share).then(|| stretch.anomaly(kind, share, None))
}

/// Whether what happened to so many packets is worth telling.
pub(super) fn told_of(share: Share) -> bool {
    share.of as usize >= LEAST_PACKETS && share.lost >= LEAST_HIT && share.rate() >= LEAST_SHARE
}
