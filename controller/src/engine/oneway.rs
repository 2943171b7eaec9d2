//! Nodes that see one direction of a flow only. A SYN and its answer come through all the same; but connection tracking on
//! such a node takes what the connection sends next for invalid, and a rule that drops what is invalid ends it there.

use std::collections::BTreeSet;

use waymark_proto::{Hook, NodeName, Text, Verdict, WalkComparison, text};

use crate::diagnose::Diagnosis;

/// A remark on a flow of which some node forwards the packets and not the answers, or the other way round.
pub(super) fn remark(diagnosis: &Diagnosis) -> Option<Text> {
    let back = diagnosis.return_.as_ref().filter(|_| diagnosis.verdict == Verdict::Reachable)?;
    let nodes = one_way(&diagnosis.forward, back);
    (!nodes.is_empty()).then(|| text!(note::OneWay { nodes }))
}

/// The nodes that forward one way alone.
fn one_way(there: &WalkComparison, back: &WalkComparison) -> Vec<String> {
    let (there, back) = (forwarders(there), forwarders(back));
    if there.is_empty() || back.is_empty() {
        // Of a way of which nothing was seen nothing can be said.
        return Vec::new();
    }
    there.symmetric_difference(&back).map(ToString::to_string).collect()
}

/// The nodes that were seen to forward.
fn forwarders(walk: &WalkComparison) -> BTreeSet<&NodeName> {
    let steps = walk.steps.iter().filter_map(|step| step.observed.as_ref());
    let forwards = steps.filter(|step| step.hook == Hook::NetfilterForward && step.outer.is_none());
    forwards.map(|step| &step.place.node).collect()
}

#[cfg(test)]
mod tests {
    use waymark_proto::{Action, Agreement, ComparedStep, Disposition, Place, Step};

    use super::*;

    fn walk(forwarders: &[&str]) -> WalkComparison {
        let step = |node: &&str| {
            Step::new(
                Place::new(*node, format!("t-{node}").as_str()),
                Hook::NetfilterForward,
                Action::Forwarded,
            )
        };
        let compared = |step| ComparedStep {
            agreement: Agreement::Seen,
            packets: 5,
            predicted: None,
            observed: Some(step),
        };
        WalkComparison {
            predicted: None,
            observed: Disposition::Delivered,
            branches: 1,
            steps: forwarders.iter().map(step).map(compared).collect(),
        }
    }

    #[test]
    fn who_sees_one_direction_only_is_named() {
        let one_way = |there, back| one_way(&walk(there), &walk(back));
        assert_eq!(one_way(&["node1", "node3", "node2"], &["node2", "node1"]), ["node3"]);
        assert_eq!(one_way(&["node1", "node2"], &["node2", "node3", "node1"]), ["node3"]);
        assert_eq!(one_way(&["node1", "node2"], &["node2", "node1"]), [""; 0]);
        assert_eq!(one_way(&["node1", "node2"], &[]), [""; 0], "nothing was seen of the answers");
    }
}
