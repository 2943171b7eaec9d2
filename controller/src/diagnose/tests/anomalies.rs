//! What happens to packets that arrive.

use waymark_proto::{Anomaly, AnomalyKind, Event, Sighting};

use super::*;

/// A healthy exchange of which some sightings are otherwise.
fn found(change: impl Fn(&mut Vec<Sighting>)) -> Vec<Anomaly> {
    let mut story = Story::healthy().seen(&there(), false).seen(&back(), true);
    change(&mut story.sightings);
    let diagnosis = story.told();
    assert_eq!(diagnosis.verdict, Verdict::Reachable, "{diagnosis:#?}");
    assert_eq!(diagnosis.fault_point, None);
    diagnosis.anomalies
}

fn where_(anomaly: &Anomaly) -> String {
    format!("{} {} {}", anomaly.node, anomaly.hook, anomaly.device.as_deref().unwrap_or("-"))
}

/// Whether it is of the way there, and comes at or behind this hook of a device.
fn from(sighting: &Sighting, netns: &str, hook: Hook, device: &str, there: &Sighting) -> bool {
    let at = |s: &Sighting| {
        s.place.netns.as_str() == netns && s.hook == hook && s.device.as_deref() == Some(device)
    };
    at(there) && sighting.place.node == there.place.node && sighting.at_ns >= there.at_ns
}

/// Adds a delay to all of a node that comes at or behind a gate of the way there.
fn hold(sightings: &mut [Sighting], netns: &str, hook: Hook, device: &str, ns: u64) {
    let gate =
        sightings.iter().find(|sighting| from(sighting, netns, hook, device, sighting)).unwrap().clone();
    for sighting in sightings.iter_mut().filter(|sighting| from(sighting, netns, hook, device, &gate)) {
        sighting.at_ns += ns;
    }
}

#[test]
fn a_healthy_exchange_has_none() {
    assert_eq!(found(|_| ()), []);
}

#[test]
fn a_queue_that_holds_packets_up_is_named() {
    let all = found(|sightings| hold(sightings, "t-node1", Hook::DriverTx, "eth0", 50_000_000));
    let [delay] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((delay.kind, where_(delay)), (AnomalyKind::Delay, "node1 qdisc eth0".to_owned()));
    assert_eq!((delay.share.lost, delay.share.of), (3, 3));
    assert!(delay.advice.contains("tc -s qdisc show dev eth0"), "{}", delay.advice);
}

#[test]
fn a_delay_between_nodes_is_found_though_their_clocks_differ() {
    // What comes back to node1 is late by the delay of the wire; node2 cannot know.
    let all = found(|sightings| {
        let back = |s: &&mut Sighting| {
            s.place.node.as_str() == "node1" && s.headers.as_ref().is_some_and(|h| h.flow == tcp().reversed())
        };
        sightings.iter_mut().filter(back).for_each(|sighting| sighting.at_ns += 50_000_000);
    });
    let [delay] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((delay.kind, where_(delay)), (AnomalyKind::Delay, "node1 wire eth0".to_owned()));
    assert_eq!(delay.span.first_missing.node.as_str(), "node2");
}

#[test]
fn a_receiver_that_takes_its_time_is_told_from_the_network() {
    let all = found(|sightings| {
        let back = |s: &&mut Sighting| s.headers.as_ref().is_some_and(|h| h.flow == tcp().reversed());
        sightings.iter_mut().filter(back).for_each(|sighting| sighting.at_ns += 50_000_000);
    });
    let [delay] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((delay.kind, where_(delay)), (AnomalyKind::Delay, "node2 socket -".to_owned()));
}

#[test]
fn an_application_may_work_for_its_answers() {
    let udp = Flow { protocol: Protocol::Udp, ..tcp() };
    let answered_after = |ns: u64| {
        let (there, back) = (steps(THERE, udp), steps(BACK, udp.reversed()));
        let branches = vec![branch(there.clone(), back.clone())];
        let mut story =
            Story { branches, flow: udp, ..Story::healthy() }.seen(&there, false).seen(&back, true);
        let answers = |s: &&mut Sighting| s.headers.as_ref().is_some_and(|h| h.flow == udp.reversed());
        story.sightings.iter_mut().filter(answers).for_each(|sighting| sighting.at_ns += ns);
        let diagnosis = story.told();
        assert_eq!((diagnosis.verdict, diagnosis.replied), (Verdict::Reachable, Some(3)), "{diagnosis:#?}");
        diagnosis.anomalies
    };
    assert_eq!(answered_after(50_000_000), []);
    let all = answered_after(150_000_000);
    let [delay] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((delay.kind, where_(delay)), (AnomalyKind::Delay, "node2 socket -".to_owned()));
}

/// The stack reports what a device put by for it once more: that is no copy.
#[test]
fn what_is_sent_twice_is_doubled_by_nobody_on_the_way() {
    let all = found(|sightings| {
        // A bridge puts nothing by.
        sightings.retain(|s| s.event != Event::Arrived || s.device.as_deref() != Some("cni0"));
        let answers = |s: &&Sighting| s.headers.as_ref().is_some_and(|h| h.flow == tcp().reversed());
        let again: Vec<Sighting> = sightings.iter().filter(answers).cloned().collect();
        assert!(again.iter().any(|s| s.hook == Hook::DriverRx && s.device.as_deref() == Some("cni0")));
        sightings.extend(again);
    });
    assert_eq!(all, []);
}

#[test]
fn what_arrives_twice_was_doubled_before() {
    let all = found(|sightings| {
        let arrives =
            |s: &&Sighting| s.hook == Hook::DriverRx && s.headers.as_ref().is_some_and(|h| h.flow == tcp());
        let there =
            |s: &&Sighting| s.place.netns.as_str() == "t-node2" && s.device.as_deref() == Some("eth0");
        let copies: Vec<Sighting> = sightings.iter().filter(arrives).filter(there).cloned().collect();
        assert_eq!(copies.len(), 6, "each was put by and taken");
        sightings.extend(copies);
    });
    let [doubled] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((doubled.kind, where_(doubled)), (AnomalyKind::Duplication, "node1 wire eth0".to_owned()));
}

#[test]
fn doubled_packets_are_counted_where_they_come_out() {
    let all = found(|sightings| {
        let twice = |s: &&Sighting| {
            s.hook == Hook::DriverTx && s.event == Event::Seen && s.device.as_deref() == Some("eth0")
        };
        let there = |s: &&Sighting| {
            s.place.netns.as_str() == "t-node1" && s.headers.as_ref().is_some_and(|h| h.flow == tcp())
        };
        let copies: Vec<Sighting> = sightings.iter().filter(twice).filter(there).cloned().collect();
        assert_eq!(copies.len(), 3);
        sightings.extend(copies);
    });
    let [doubled] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((doubled.kind, where_(doubled)), (AnomalyKind::Duplication, "node1 qdisc eth0".to_owned()));
}

#[test]
fn overtaken_packets_are_found_behind_the_gate_where_they_were_in_order() {
    // Sent 10 ms apart; on node2 the first two come last.
    let all = found(|sightings| {
        for sighting in sightings {
            let turn = match (sighting.marker.seq.0, sighting.place.node.as_str()) {
                (seq, "node1") => u64::from(seq),
                (seq, _) => [2, 1, 0][seq as usize],
            };
            sighting.at_ns += turn * 10_000_000;
        }
    });
    let [reordered] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((reordered.kind, where_(reordered)), (AnomalyKind::Reordering, "node1 wire eth0".to_owned()));
    assert_eq!((reordered.share.lost, reordered.share.of), (2, 3));
}

/// The way there, of which the prediction has a tunnel that packets do not take before node2.
fn past_the_tunnel() -> Vec<Step> {
    let plain = there();
    let until = plain.iter().position(|step| step.hook == Hook::Wire).unwrap();
    let tunnelled = steps(&there_by_tunnel(), tcp());
    let from = tunnelled.iter().position(|step| step.hook == Hook::Wire).unwrap();
    [&plain[..until], &tunnelled[from..]].concat()
}

#[test]
fn another_way_than_predicted_is_named_where_it_begins() {
    let predicted = steps(&there_by_tunnel(), tcp());
    let told = |seen: &[Step]| {
        let branches = vec![branch(predicted.clone(), back())];
        let found = Story { branches, ..Story::healthy() }.seen(seen, false).seen(&back(), true).told();
        assert_eq!((found.verdict, found.fault_point), (Verdict::Reachable, None));
        found.anomalies
    };
    assert_eq!(told(&predicted), [], "the predicted way");
    let all = told(&past_the_tunnel());
    let [other] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((other.kind, where_(other)), (AnomalyKind::OtherWay, "node1 route -".to_owned()));
    assert_eq!((other.share.lost, other.share.of), (3, 3));
    let said = other.sentence();
    assert!(said.contains("predicted node1 (qdisc flannel.1)"), "{said}");
    assert!(said.contains("seen node1 (qdisc eth0)"), "{said}");
    assert!(other.advice.contains("tc filter show dev cni0 ingress"), "{}", other.advice);
}

#[test]
fn devices_that_were_merely_not_seen_are_no_other_way() {
    let predicted = steps(&there_by_tunnel(), tcp());
    let sparse: Vec<Step> =
        predicted.iter().filter(|step| step.device.as_deref() != Some("flannel.1")).cloned().collect();
    let branches = vec![branch(predicted, back())];
    let found = Story { branches, ..Story::healthy() }.seen(&sparse, false).seen(&back(), true).told();
    assert_eq!(found.anomalies, []);
}
