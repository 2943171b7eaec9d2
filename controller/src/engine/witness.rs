//! Witnesses: packets that vanish between two nodes may have come to a third, and those that arrive by another way than
//! predicted may have gone by one. Nobody looks there at first, since no prediction leads there; so once, some of the
//! same packets are sent again while the other nodes watch, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use waymark_proto::{
    AnomalyKind, CheckResult, Confidence, Hook, HookSet, Inventory, NodeName, Place, Seq, Verdict, text,
};

use super::Examined;
use super::round::{Range, Secret, fire};
use super::second::vanished_between;
use super::survey::{self, Salvo};
use super::trials::Trials;
use super::ttl;
use crate::agents::Agents;
use crate::armed::Progress;
use crate::gather::Keep;

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
    let question = &examined.question;
    let vanished = vanished_between(result).is_some();
    let other_way = result.anomalies.iter().any(|anomaly| anomaly.kind == AnomalyKind::OtherWay);
    let routed = || {
        let sightings = examined.looks.sightings();
        let arrived = result.verdict == Verdict::Reachable;
        arrived && ttl::is_lost_between_nodes(&question.picture.prediction, sightings)
    };
    if !vanished && !other_way && !routed() {
        return None;
    }
    let known = on_the_way(result);
    let witnesses: Vec<Place> = inventory
        .nodes
        .iter()
        .filter(|node| !known.contains(&node.name))
        .map(|node| Place::new(node.name.clone(), node.netns.clone()))
        .take(MOST)
        .collect();
    if witnesses.is_empty() {
        return None;
    }
    progress.say(format!("looking on {} other nodes for the packets", witnesses.len()));
    let range = Range {
        agents,
        request: question.request,
        ends: &question.ends,
        prediction: &question.picture.prediction,
        witnesses: &witnesses,
        keep: Keep::Nothing,
        progress,
    };
    let like_the_first = survey::first(question.request, question.picture.full_size);
    let salvo = Salvo {
        count: PACKETS,
        interval: INTERVAL,
        timeout: PATIENCE,
        hooks: HookSet::Wide,
        ..like_the_first
    };
    let secret = Secret::random().ok()?;
    Trials::beside(tokio::time::timeout(LIMIT, fire(&range, &secret, &salvo)).await.ok()?)
}

/// Adds what the witnesses saw to the evidence of the fault.
pub(super) fn weigh(result: &mut CheckResult, trials: &Trials) {
    let Some(stretch) = vanished_between(result) else { return came_by(result, trials) };
    let Some(point) = &mut result.fault_point else { return };
    let came = elsewhere(&stretch, Some(&stretch[1]), trials);
    let Some(packets) = came.values().map(|(_, packets)| packets.len()).max() else { return };
    let watched = trials.seen.sight.watched().filter(|node| !stretch.contains(node)).count();
    let at = named(&came);
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

/// Adds where packets were seen that take another way than predicted.
fn came_by(result: &mut CheckResult, trials: &Trials) {
    let known = on_the_way(result);
    let mut came = elsewhere(&known, None, trials);
    // Who gets a copy that was flooded passes nothing on.
    came.retain(|node, _| {
        let mut sent = trials.seen.sightings.iter().filter(|sighting| sighting.hook == Hook::DriverTx);
        sent.any(|sighting| sighting.place.node == *node)
    });
    let Some(packets) = came.values().map(|(_, packets)| packets.len()).max() else { return };
    let watched = trials.seen.sight.watched().filter(|node| !known.contains(node)).count();
    result.notes.push(text!(note::CameBy { packets, sent: trials.sent.len(), at: named(&came), watched }));
}

/// The nodes that a result calls to look beside: those between which packets vanish, or those of the way that packets
/// were to take.
fn on_the_way(result: &CheckResult) -> Vec<NodeName> {
    if let Some(stretch) = vanished_between(result) {
        return stretch.to_vec();
    }
    let walks = [Some(&result.forward), result.return_.as_ref()].into_iter().flatten();
    let steps = walks.flat_map(|walk| &walk.steps).flat_map(|step| [&step.predicted, &step.observed]);
    let nodes: BTreeSet<NodeName> = steps.flatten().map(|step| step.place.node.clone()).collect();
    nodes.into_iter().collect()
}

/// Nodes with the devices by which packets came, the first few.
fn named(came: &Came) -> Vec<String> {
    let mut at: Vec<String> =
        came.iter().take(NAMED).map(|(node, (device, _))| format!("{node} ({device})")).collect();
    if came.len() > NAMED {
        at.push(format!("… ({})", came.len()));
    }
    at
}

/// Nodes that got packets: by which device, and which of them.
type Came = BTreeMap<NodeName, (String, BTreeSet<Seq>)>;

/// Nodes beside those known that got packets which did not come to the end where they should have.
fn elsewhere(known: &[NodeName], end: Option<&NodeName>, trials: &Trials) -> Came {
    let received = || trials.seen.sightings.iter().filter(|sighting| sighting.hook == Hook::DriverRx);
    let arrived: BTreeSet<Seq> = received()
        .filter(|sighting| Some(&sighting.place.node) == end)
        .map(|sighting| sighting.marker.seq)
        .collect();
    let mut came = Came::new();
    for sighting in received() {
        let (node, seq) = (&sighting.place.node, sighting.marker.seq);
        if !known.contains(node) && !arrived.contains(&seq) {
            let device = sighting.device.clone().unwrap_or_else(|| "?".to_owned());
            came.entry(node.clone()).or_insert_with(|| (device, BTreeSet::new())).1.insert(seq);
        }
    }
    came
}

#[cfg(test)]
mod tests {
    use waymark_proto::Step;

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
    async fn who_passes_packets_on_that_took_another_way_is_named() {
        let told = async |hooks: &[Hook]| {
            let mut trials = Trials::default();
            trials.seen.sight.armed("node3".into(), reports(&[]));
            let all = steps(THERE, tcp()).into_iter();
            let on_node2 =
                all.filter(|step| hooks.contains(&step.hook) && step.place.node.as_str() == "node2");
            let at_node3: Vec<Step> =
                on_node2.map(|step| Step { place: Place::new("node3", "t-node3"), ..step }).collect();
            trials.seen.sightings = sightings(&at_node3, 0, false);
            let mut result = fakes::result().await;
            result.anomalies = vec![other_way()];
            weigh(&mut result, &trials);
            result
                .notes
                .iter()
                .map(ToString::to_string)
                .filter(|note| note.contains("node3"))
                .collect::<Vec<_>>()
        };
        let said = told(&[Hook::DriverRx, Hook::DriverTx]).await;
        assert!(said[0].contains("go by node3 (eth0)"), "{said:?}");
        assert_eq!(told(&[Hook::DriverRx]).await, [""; 0], "a flooded copy");
    }

    fn other_way() -> waymark_proto::Anomaly {
        let span = wire().span.expect("it has one");
        waymark_proto::Anomaly {
            kind: AnomalyKind::OtherWay,
            node: "node1".into(),
            netns: "t-node1".into(),
            device: None,
            hook: Hook::Route,
            direction: waymark_proto::Direction::Forward,
            share: waymark_proto::Share::new(5, 5),
            delay_ns: None,
            instead: Some(span.last_seen.clone()),
            span,
            object: None,
            advice: waymark_proto::Text::default(),
        }
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
