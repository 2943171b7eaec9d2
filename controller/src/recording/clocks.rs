//! The clocks of the nodes, joined by what must have been earlier.
//!
//! Times are of each node's monotonic clock, which begins with its boot. A packet was sent before it was received: so a
//! packet and its answer bound the difference between two clocks from both sides, as with NTP (RFC 5905, section 8).

use std::collections::BTreeMap;

use waymark_proto::{CheckId, Event, Match, NodeName, Seq, Sighting};

/// Without an answer there is one bound alone. Clocks that differ by less than this are taken for one: that of a machine
/// whose namespaces are the nodes.
const ONE_CLOCK_NS: i128 = 1_000_000_000;

/// How far the clocks of the nodes are ahead of that of the one that sent.
#[derive(Debug, Default)]
pub(super) struct Clocks(BTreeMap<NodeName, i128>);

/// Between what times a node saw a packet pass, in one direction.
type Spans<'a> = BTreeMap<(CheckId, Seq, bool), BTreeMap<&'a NodeName, (i128, i128)>>;

impl Clocks {
    /// The clocks of those who saw something, by that of `source`.
    pub(super) fn of(source: &NodeName, sightings: &[&Sighting]) -> Self {
        let mut spans = Spans::new();
        for sighting in sightings {
            // The first fragment may arrive before the second is sent.
            if !matches!(sighting.event, Event::Seen | Event::Arrived) || sighting.is_later_fragment() {
                continue;
            }
            let Some(back) = is_answer(sighting) else { continue };
            let at = i128::from(sighting.at_ns);
            let key = (sighting.marker.check, sighting.marker.seq, back);
            let span = spans.entry(key).or_default().entry(&sighting.place.node).or_insert((at, at));
            *span = (span.0.min(at), span.1.max(at));
        }
        // How far ahead a clock is at least, and at most.
        let mut bounds: BTreeMap<&NodeName, (Option<i128>, Option<i128>)> = BTreeMap::new();
        for ((_, _, back), nodes) in &spans {
            let Some(&(first, last)) = nodes.get(source) else { continue };
            for (node, &(their_first, their_last)) in nodes.iter().filter(|(node, _)| **node != source) {
                let (at_least, at_most) = bounds.entry(node).or_default();
                if *back {
                    *at_least = (*at_least).max(Some(their_last - first));
                } else {
                    let bound = their_first - last;
                    *at_most = Some(at_most.map_or(bound, |known| known.min(bound)));
                }
            }
        }
        Self(bounds.into_iter().map(|(node, bounds)| (node.clone(), ahead(bounds))).collect())
    }

    /// When something was seen, in nanoseconds of the clock of the node that sent.
    pub(super) fn time(&self, sighting: &Sighting) -> i128 {
        i128::from(sighting.at_ns) - self.0.get(&sighting.place.node).copied().unwrap_or_default()
    }
}

/// How far ahead a clock is, by its bounds. One that need not be ahead is not.
fn ahead(bounds: (Option<i128>, Option<i128>)) -> i128 {
    match bounds {
        (Some(least), Some(most)) if least <= 0 && 0 <= most => 0,
        (Some(least), Some(most)) => i128::midpoint(least, most),
        (Some(bound), None) | (None, Some(bound)) if bound.abs() < ONE_CLOCK_NS => 0,
        (Some(bound), None) | (None, Some(bound)) => bound,
        (None, None) => 0,
    }
}

/// Whether it is of the answer to a packet; `None` where that is not known.
pub(super) fn is_answer(sighting: &Sighting) -> Option<bool> {
    match sighting.headers.as_ref()?.matched {
        Match::Tag | Match::TcpSeq => Some(false),
        Match::EchoReply | Match::TcpAck | Match::Quoted => Some(true),
        Match::Buffer | Match::Filter => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{BACK, THERE, sightings, steps, tcp};

    /// A packet and its answer, seen every microsecond; the clock of the node that answers is ahead.
    fn clocks(ahead: i128) -> (Clocks, Vec<Sighting>) {
        let mut all = sightings(&steps(THERE, tcp()), 0, false);
        all.extend(sightings(&steps(BACK, tcp().reversed()), 0, true));
        for (sighting, number) in all.iter_mut().zip(10_000..) {
            let ahead = if sighting.place.node.as_str() == "node2" { ahead } else { 0 };
            sighting.at_ns = u64::try_from(number * 1000 + ahead).unwrap();
        }
        (Clocks::of(&"node1".into(), &all.iter().collect::<Vec<_>>()), all)
    }

    /// First on one node, then on the other.
    fn in_order(clocks: &Clocks, all: &[Sighting]) -> bool {
        let times = |node: &str, back: bool| -> Vec<i128> {
            let of = all.iter().filter(|s| s.place.node.as_str() == node && is_answer(s) == Some(back));
            of.map(|sighting| clocks.time(sighting)).collect()
        };
        let before = |first: Vec<i128>, second: Vec<i128>| first.iter().max() <= second.iter().min();
        before(times("node1", false), times("node2", false))
            && before(times("node2", true), times("node1", true))
    }

    #[test]
    fn an_answer_bounds_a_clock_from_both_sides() {
        for far in [0, 5_000_000_000_000, -5_000_000] {
            let (clocks, all) = clocks(far);
            assert!(in_order(&clocks, &all), "{far}: {clocks:?}");
        }
    }

    #[test]
    fn clocks_that_agree_are_left_alone() {
        assert_eq!(ahead((Some(-10), Some(20))), 0);
        assert_eq!(ahead((None, Some(20_000))), 0);
        assert_eq!(ahead((None, Some(-7_200_000_000_000))), -7_200_000_000_000);
        assert_eq!(ahead((Some(100), Some(200))), 150);
    }
}
