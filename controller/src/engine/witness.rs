//! Witnesses: packets that vanish between two nodes may have come to a third. Nobody looks there at first, since no
//! prediction leads there; so once, some of the same packets are sent again while the other nodes watch, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use waymark_proto::{CheckResult, Confidence, Hook, Inventory, NodeName, Place, Seq, text};

use super::Examined;
use super::round::{Range, Secret, Trials, fire};
use super::second::vanished_between;
use super::survey::{self, Salvo};
use crate::agents::Agents;
use crate::armed::Progress;

/// Packets of the round.
const PACKETS: u32 = 3;
/// Time between them, and for them to turn up.
const INTERVAL: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(500);
/// How long all of it may take: one agent of many that does not answer is not waited for.
const LIMIT: Duration = Duration::from_secs(10);
/// Nodes that are named at most.
const NAMED: usize = 3;
/// Nodes that are asked at most, those first that come first in the inventory.
const MOST: usize = 64;

/// Sends the packets again, with witnesses, if a result calls for it.
pub(super) async fn ask(
    agents: &Arc<dyn Agents>,
    inventory: &Inventory,
    examined: &Examined<'_>,
    progress: &Progress,
    result: &CheckResult,
) -> Option<Trials> {
    let stretch = vanished_between(result)?;
    let question = &examined.question;
    let witnesses: Vec<Place> = inventory
        .nodes
        .iter()
        .filter(|node| !stretch.contains(&node.name))
        .map(|node| Place::new(node.name.clone(), node.netns.clone()))
        .take(MOST)
        .collect();
    if witnesses.is_empty() {
        return None;
    }
    progress.say(format!("looking on {} other nodes for what vanished", witnesses.len()));
    let range = Range {
        agents,
        request: question.request,
        ends: &question.ends,
        prediction: &question.picture.prediction,
        witnesses: &witnesses,
        progress,
    };
    let like_the_first = survey::first(question.request, question.picture.full_size);
    let salvo = Salvo { count: PACKETS, interval: INTERVAL, timeout: PATIENCE, ..like_the_first };
    let secret = Secret::random().ok()?;
    Trials::beside(tokio::time::timeout(LIMIT, fire(&range, &secret, &salvo)).await.ok()?)
}

/// Adds what the witnesses saw to the evidence of the fault.
pub(super) fn weigh(result: &mut CheckResult, trials: &Trials) {
    let Some(stretch) = vanished_between(result) else { return };
    let Some(point) = &mut result.fault_point else { return };
    let came = elsewhere(&stretch, trials);
    let Some(packets) = came.values().map(|(_, packets)| packets.len()).max() else { return };
    let watched = trials.seen.sight.watched().filter(|node| !stretch.contains(node)).count();
    let mut at: Vec<String> =
        came.iter().take(NAMED).map(|(node, (device, _))| format!("{node} ({device})")).collect();
    if came.len() > NAMED {
        at.push(format!("… ({})", came.len()));
    }
    // What is flooded comes to all.
    let some = came.len() < watched;
    point.evidence.push(text!(evidence::CameElsewhere {
        packets,
        sent: trials.sent.len(),
        at,
        watched,
        some
    }));
    if some {
        point.confidence = Confidence::High;
        point.ground = Some(text!(ground::SeenElsewhere));
    }
}

/// Nodes that got packets which did not come to the end of the stretch: by which device, and which of them.
fn elsewhere(stretch: &[NodeName; 2], trials: &Trials) -> BTreeMap<NodeName, (String, BTreeSet<Seq>)> {
    let received = || trials.seen.sightings.iter().filter(|sighting| sighting.hook == Hook::DriverRx);
    let arrived: BTreeSet<Seq> = received()
        .filter(|sighting| sighting.place.node == stretch[1])
        .map(|sighting| sighting.marker.seq)
        .collect();
    let mut came: BTreeMap<NodeName, (String, BTreeSet<Seq>)> = BTreeMap::new();
    for sighting in received() {
        let (node, seq) = (&sighting.place.node, sighting.marker.seq);
        if !stretch.contains(node) && !arrived.contains(&seq) {
            let device = sighting.device.clone().unwrap_or_else(|| "?".to_owned());
            came.entry(node.clone()).or_insert_with(|| (device, BTreeSet::new())).1.insert(seq);
        }
    }
    came
}

#[cfg(test)]
mod tests {
    use waymark_proto::{Step, Verdict};

    use super::*;
    use crate::diagnose::Sent;
    use crate::engine::fakes;
    use crate::fixture::{THERE, reports, sightings, steps, tcp, wire};

    /// What is said when these nodes watch, and these get what was sent to node2.
    async fn said(watched: &[&str], got: &[&str]) -> (Vec<String>, Confidence) {
        let received = steps(THERE, tcp())
            .into_iter()
            .find(|step| step.hook == Hook::DriverRx && step.place.node.as_str() == "node2")
            .expect("it comes in at node2");
        let mut trials = Trials::default();
        for node in watched {
            trials.seen.sight.armed((*node).into(), reports(&[]));
        }
        for seq in 0..PACKETS {
            let sent = Sent { seq: Seq(seq), source_port: 1, sent_ns: 0, error: None, size: 44, dscp: 0 };
            trials.sent.push(sent);
            for node in got {
                let place = Place::new(*node, received.place.netns.clone());
                trials.seen.sightings.extend(sightings(&[Step { place, ..received.clone() }], seq, false));
            }
        }
        let mut result = fakes::result().await;
        (result.verdict, result.fault_point) = (Verdict::Unreachable, Some(wire()));
        weigh(&mut result, &trials);
        let point = result.fault_point.expect("it was given");
        (point.evidence.iter().map(ToString::to_string).collect(), point.confidence)
    }

    #[tokio::test]
    async fn who_got_the_packets_instead_is_named() {
        let (evidence, confidence) = said(&["node1", "node2", "node3", "node4"], &["node3"]).await;
        assert!(
            evidence[0].contains("2 other nodes watched, 3 of 3 came in at node3 (eth0)"),
            "{evidence:?}"
        );
        assert!(!evidence[0].contains("floods"));
        assert_eq!(confidence, Confidence::High);
    }

    #[tokio::test]
    async fn what_comes_to_all_may_be_flooded() {
        let unsure = wire().confidence;
        let all = ["node3", "node4", "node5", "node6"];
        let (evidence, confidence) = said(&all, &all).await;
        assert!(
            evidence[0].contains("node3 (eth0), node4 (eth0), node5 (eth0), … (4)")
                && evidence[0].contains("or does not know where the right one is and floods them"),
            "{evidence:?}"
        );
        assert_eq!(confidence, unsure);
    }

    #[tokio::test]
    async fn nothing_is_said_of_what_came_nowhere_or_where_it_should() {
        assert_eq!(said(&["node3"], &[]).await.0, [""; 0]);
        assert_eq!(said(&["node2", "node3"], &["node2", "node3"]).await.0, [""; 0], "a flooded copy");
    }
}
