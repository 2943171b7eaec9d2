//! Nodes that see one direction of a flow only. A SYN and its answer come through all the same; but connection tracking on
//! such a node takes what the connection sends next for invalid, and a rule that drops what is invalid ends it there.

use std::collections::BTreeSet;

use waymark_proto::{Hook, NodeName, Text, Verdict, WalkComparison, text};

use crate::diagnose::Diagnosis;

/// A remark on a flow of which some node forwards the packets and not the answers, or the other way round.
pub(super) fn remark(diagnosis: &Diagnosis) -> Option<Text> {
    let back = diagnosis.return_.as_ref().filter(|_| diagnosis.verdict == Verdict::Reachable)?;
    let (there, back) = (forwarders(&diagnosis.forward), forwarders(back));
    let nodes: Vec<String> = there.symmetric_difference(&back).map(ToString::to_string).collect();
    // A way back of which nothing was seen is none of which something could be said.
    (!nodes.is_empty() && !there.is_empty() && !back.is_empty()).then(|| text!(note::OneWay { nodes }))
}

/// The nodes that were seen to forward.
fn forwarders(walk: &WalkComparison) -> BTreeSet<&NodeName> {
    let steps = walk.steps.iter().filter_map(|step| step.observed.as_ref());
    let forwards = steps.filter(|step| step.hook == Hook::NetfilterForward && step.outer.is_none());
    forwards.map(|step| &step.place.node).collect()
}
