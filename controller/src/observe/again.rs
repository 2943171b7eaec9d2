//! Answers that were sent again: a listener repeats a SYN-ACK that is not acknowledged, first after a second
//! (`TCP_TIMEOUT_INIT`, RFC 6298 2.1). Where the second one arrives, the first was lost all the same.

use std::collections::BTreeMap;

use waymark_proto::{Event, NodeName, Sighting};

/// Sightings of one packet at one place that lie so far apart are of two packets, in nanoseconds: the kernel's timer
/// may fire a tick early.
const APART_NS: u64 = 900_000_000;

/// Leaves out what was seen of an answer's repetitions. `forward` is what was seen of the packet: its times on a node
/// tell when the answer was due there.
pub(super) fn first_only<'a>(forward: &[&Sighting], back: Vec<&'a Sighting>) -> Vec<&'a Sighting> {
    if !is_repeated(&back) {
        return back;
    }
    let mut begun: BTreeMap<&NodeName, u64> = BTreeMap::new();
    for sighting in forward.iter().chain(&back) {
        let first = begun.entry(&sighting.place.node).or_insert(sighting.at_ns);
        *first = (*first).min(sighting.at_ns);
    }
    let begun: BTreeMap<NodeName, u64> = begun.into_iter().map(|(node, at)| (node.clone(), at)).collect();
    back.into_iter().filter(|sighting| sighting.at_ns < begun[&sighting.place.node] + APART_NS).collect()
}

/// Whether some hook saw it twice, far apart.
fn is_repeated(back: &[&Sighting]) -> bool {
    let mut first = BTreeMap::new();
    let passes = back.iter().filter(|sighting| {
        // Not both of `Arrived` and `Seen`: a stack may take its time.
        matches!(sighting.event, Event::Seen | Event::Entered | Event::Passed)
    });
    passes.into_iter().any(|sighting| {
        let at = sighting.at_ns;
        let key = (&sighting.place, sighting.hook, &sighting.device);
        let (least, most) = first.entry(key).or_insert((at, at));
        (*least, *most) = (at.min(*least), at.max(*most));
        *most - *least >= APART_NS
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{BACK, THERE, sightings, steps, tcp};

    fn later(mut sightings: Vec<Sighting>, ns: u64) -> Vec<Sighting> {
        for sighting in &mut sightings {
            sighting.at_ns += ns;
        }
        sightings
    }

    #[test]
    fn a_repetition_is_not_the_answer() {
        let forward = sightings(&steps(THERE, tcp()), 0, false);
        let first = sightings(&steps(BACK, tcp().reversed()), 0, true);
        // The first is lost between the nodes, the second arrives a second later.
        let lost: Vec<Sighting> =
            first.iter().filter(|sighting| sighting.place.node.as_str() == "node2").cloned().collect();
        let second = later(first.clone(), 1_000_000_000);
        let back: Vec<&Sighting> = lost.iter().chain(&second).collect();
        let kept = first_only(&forward.iter().collect::<Vec<_>>(), back);
        assert_eq!(kept, lost.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_slow_answer_is_one() {
        let forward = sightings(&steps(THERE, tcp()), 0, false);
        let slow = later(sightings(&steps(BACK, tcp().reversed()), 0, true), 5_000_000_000);
        let back: Vec<&Sighting> = slow.iter().collect();
        assert_eq!(first_only(&forward.iter().collect::<Vec<_>>(), back.clone()), back);
    }
}
