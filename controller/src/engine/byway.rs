//! Nodes by which packets go though neither end lives there: routes lead there, so the prediction knows, and nobody meant
//! it. A SYN comes through all the same, and what it says of the connection behind it is less than it seems.

use std::collections::BTreeSet;

use waymark_proto::{Flow, Hook, Inventory, NodeName, Text, Verdict, WalkComparison, text};

use crate::diagnose::Diagnosis;

/// Remarks on a flow between two addresses of pods or nodes that other nodes were seen to forward.
pub(super) fn remarks(inventory: &Inventory, flow: Flow, diagnosis: &Diagnosis) -> Vec<Text> {
    let homes: Option<BTreeSet<NodeName>> =
        [flow.src, flow.dst].iter().map(|ip| Some(inventory.owner(*ip)?.node)).collect();
    let Some(homes) = homes.filter(|_| diagnosis.verdict == Verdict::Reachable) else { return Vec::new() };
    let ways = [(Some(&diagnosis.forward), false), (diagnosis.return_.as_ref(), true)];
    ways.iter().filter_map(|(walk, answer)| remark((*walk)?, &homes, *answer)).collect()
}

fn remark(walk: &WalkComparison, homes: &BTreeSet<NodeName>, answer: bool) -> Option<Text> {
    let forwards = |step: &waymark_proto::ComparedStep| {
        let seen = step.observed.as_ref()?;
        let forwarder = seen.hook == Hook::NetfilterForward && seen.outer.is_none();
        (forwarder && !homes.contains(&seen.place.node)).then(|| seen.place.node.clone())
    };
    let (at, by) = walk.steps.iter().enumerate().find_map(|(at, step)| Some((at, forwards(step)?)))?;
    let routes = walk.steps[..at].iter().rev().filter_map(|step| step.predicted.as_ref());
    let sent_by = routes
        .filter(|step| step.hook == Hook::Route && step.outer.is_none() && step.place.node != by)
        .find_map(|step| Some((&step.place.node, step.object.as_ref()?)))?;
    let (from, route) = sent_by;
    Some(text!(note::ByWay { answer, by, from, route }))
}

#[cfg(test)]
mod tests {
    use waymark_proto::{Action, Agreement, ComparedStep, Disposition, Place, Step};

    use super::*;

    fn compared(node: &str, hook: Hook, object: Option<&str>) -> ComparedStep {
        let mut step = Step::new(Place::new(node, format!("t-{node}").as_str()), hook, Action::Forwarded);
        step.object = object.map(Text::verbatim);
        ComparedStep {
            agreement: Agreement::Seen,
            packets: 5,
            predicted: Some(step.clone()),
            observed: Some(step),
        }
    }

    fn walk(by: &[&str]) -> WalkComparison {
        let of_node = |node: &&str| {
            let route = compared(node, Hook::Route, Some("10.1.2.0/24 via 172.18.0.3 dev eth0 table main"));
            [route, compared(node, Hook::NetfilterForward, None)]
        };
        WalkComparison {
            predicted: None,
            observed: Disposition::Delivered,
            branches: 1,
            steps: by.iter().flat_map(of_node).collect(),
        }
    }

    #[test]
    fn a_node_between_is_named_with_the_route_that_leads_there() {
        let homes: BTreeSet<NodeName> = ["node1", "node2"].map(Into::into).into();
        let said = remark(&walk(&["node1", "node3", "node2"]), &homes, false).expect("it goes by node3");
        assert!(
            said.contains("goes by node3") && said.contains("node1 sends it there by 10.1.2.0/24 via"),
            "{said}"
        );
        assert_eq!(remark(&walk(&["node1", "node2"]), &homes, false), None);
    }
}
