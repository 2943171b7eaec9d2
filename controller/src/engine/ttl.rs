//! Packets that lose TTL between two nodes of which the prediction has one send straight to the other: somebody between
//! them routes. That alone is no fault, as a network may route where it seems to switch; but it may be a node, and then
//! packets take a way that nobody predicted, on devices that look the same.

use std::collections::BTreeMap;

use waymark_proto::{Branch, Hook, Match, PathSet, Seq, Sighting, Step};

/// Whether any packet or answer came to a node with a lower TTL than the last node can have sent it with.
pub(super) fn is_lost_between_nodes(prediction: &PathSet, sightings: &[Sighting]) -> bool {
    let branches = &prediction.branches;
    let answers = branches.iter().flat_map(|branch| &branch.answer);
    branches.iter().chain(answers).any(|branch| is_lost(branch, sightings))
}

/// A packet's TTL where it was seen last, less what the nodes take of it that forward it since.
struct Expected<'a> {
    at: &'a Step,
    ttl: u8,
}

fn is_lost(branch: &Branch, sightings: &[Sighting]) -> bool {
    let steps = branch.path.steps();
    let mut expected: BTreeMap<Seq, Expected<'_>> = BTreeMap::new();
    for (step, next) in steps.iter().zip(steps.iter().skip(1).map(Some).chain([None])) {
        for (seq, ttl) in ttls(step, sightings) {
            let last = expected.insert(seq, Expected { at: step, ttl });
            if last.is_some_and(|last| last.at.place.node != step.place.node && ttl < last.ttl) {
                return true;
            }
        }
        // `ip_forward`; bridges run that netfilter hook, too, but do not route.
        let forwards =
            next.is_some_and(|next| next.hook == Hook::NetfilterForward && next.place == step.place);
        if step.hook == Hook::Route && forwards {
            for last in expected.values_mut() {
                last.ttl = last.ttl.saturating_sub(1);
            }
        }
    }
    false
}

/// The TTLs with which packets were seen at a step, outside of tunnels, the lowest of each.
fn ttls(step: &Step, sightings: &[Sighting]) -> BTreeMap<Seq, u8> {
    let mut lowest = BTreeMap::new();
    for sighting in sightings {
        let Some(headers) = &sighting.headers else { continue };
        let here =
            (&sighting.place, sighting.hook, &sighting.device) == (&step.place, step.hook, &step.device);
        let this_way =
            step.flow.is_some_and(|flow| (flow.src, flow.dst) == (headers.flow.src, headers.flow.dst));
        if here && this_way && headers.outer.is_none() && headers.matched != Match::Quoted && headers.ttl > 0
        {
            let known = lowest.entry(sighting.marker.seq).or_insert(headers.ttl);
            *known = headers.ttl.min(*known);
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{THERE, path, sightings, steps, tcp};

    #[test]
    fn a_router_between_neighbours_shows() {
        let there = steps(THERE, tcp());
        let branch =
            Branch { probability: 1.0, choices: Vec::new(), path: path(there.clone()), answer: Vec::new() };
        let prediction = PathSet { branches: vec![branch], ..PathSet::default() };
        let mut seen = sightings(&there, 0, false);
        assert!(!is_lost_between_nodes(&prediction, &seen));
        for headers in
            seen.iter_mut().filter(|s| s.place.node.as_str() == "node2").filter_map(|s| s.headers.as_mut())
        {
            headers.ttl -= 1;
        }
        assert!(is_lost_between_nodes(&prediction, &seen));
        // A light look does not see them leave.
        seen.retain(|sighting| sighting.hook != Hook::DriverTx && sighting.hook != Hook::Qdisc);
        assert!(is_lost_between_nodes(&prediction, &seen));
        for headers in seen.iter_mut().filter_map(|s| s.headers.as_mut()) {
            headers.matched = Match::Quoted;
        }
        assert!(!is_lost_between_nodes(&prediction, &seen), "what an error quotes is older");
    }
}
