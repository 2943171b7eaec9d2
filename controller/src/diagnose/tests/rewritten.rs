//! Packets that something other than address translation changed.

use super::*;
use crate::fixture::changed;

fn to_port(dst_port: u16) -> Flow {
    Flow { dst_port, ..tcp() }
}

/// Packets that come to the receiver as another hook left them, where nobody listens.
fn refused(seen: &[Step], flow: Flow) -> Diagnosis {
    let story = Story { flow, ..Story::predicting(steps(THERE, flow)) };
    let socket = ending(seen.to_vec(), "t-pay", Hook::Socket, "-", Cause::NoListener);
    let last = socket.last().unwrap().clone();
    story.seen(&socket, false).dropped(&last, false, "NO_SOCKET", "tcp_v4_rcv+0x1").told()
}

#[test]
fn what_changes_a_port_is_to_blame_for_that_nobody_listens_there() {
    let way_out = changed(there(), "t-node2", Hook::Qdisc, "vethpay", to_port(81));
    let found = refused(&way_out, tcp());
    assert_eq!(fault(&found), "t-node2 qdisc vethpay rewritten", "{found:#?}");
    let point = found.fault_point.unwrap();
    let span = point.span.unwrap();
    assert_eq!((span.last_seen.hook, span.first_missing.hook), (Hook::DriverTx, Hook::Qdisc));
    assert!(point.evidence.iter().any(|words| words.contains("10.1.2.2:80 to tcp")), "{:?}", point.evidence);

    let mut way_in = there();
    let behind = way_in.iter().position(|step| step.device.as_deref() == Some("vethcart")).unwrap();
    for step in &mut way_in[behind + 1..] {
        step.flow = Some(to_port(81));
    }
    assert_eq!(fault(&refused(&way_in, tcp())), "t-node1 driver-rx vethcart rewritten");
}

#[test]
fn what_is_changed_between_nodes_is_changed_there() {
    let elsewhere = changed(there(), "t-node2", Hook::DriverRx, "eth0", to_port(81));
    let found = refused(&elsewhere, tcp());
    assert_eq!(fault(&found), "t-node1 wire eth0 rewritten");
    assert!(found.fault_point.unwrap().advice.contains("between node1 and node2"));
}

#[test]
fn what_makes_a_packet_somebody_elses_is_to_blame_whoever_serves_there() {
    // An endpoint of a Service, which was not asked for.
    let there = steps(THERE, Flow { dst: "10.1.2.3".parse().unwrap(), ..tcp() });
    let there = changed(there, "t-node2", Hook::DriverRx, "eth0", tcp());
    let flow = Flow { dst: "10.1.2.3".parse().unwrap(), ..tcp() };
    let story = Story { flow, receivers: vec![Place::new("node2", "t-stock")], ..Story::healthy() };
    let found = story.seen(&there, false).told();
    assert_eq!(fault(&found), "t-node1 wire eth0 rewritten", "{found:#?}");
}

/// As network plugins do who serve Services in BPF.
#[test]
fn what_makes_an_endpoint_of_a_service_is_not_to_blame() {
    let service = Flow { dst: "10.96.0.10".parse().unwrap(), ..tcp() };
    let mut translated = steps(THERE, service);
    let behind = translated.iter().position(|step| step.device.as_deref() == Some("vethcart")).unwrap();
    for step in &mut translated[behind + 1..] {
        step.flow = Some(tcp());
    }
    assert_eq!(fault(&refused(&translated, service)), "t-pay socket - no-listener");
}

#[test]
fn a_rule_that_drops_what_was_changed_has_reasons_of_its_own() {
    let changed = changed(there(), "t-node1", Hook::DriverRx, "cni0", to_port(81));
    let dying = ending(changed, "t-node2", Hook::NetfilterForward, "eth0", Cause::FilterDrop);
    let last = dying.last().unwrap().clone();
    let story = Story::healthy().seen(&dying, false);
    let found = story.dropped(&last, false, "NETFILTER_DROP", "nf_hook_slow+0x1").told();
    assert_eq!(fault(&found), "t-node2 netfilter-forward eth0 filter-drop");
}

#[test]
fn a_translation_is_none_wherever_its_hook_is_put() {
    let nowhere = Flow { dst: "10.1.2.77".parse().unwrap(), ..tcp() };
    // A bridge runs the hook before its own reception.
    let mut there = changed(there(), "t-node1", Hook::NetfilterPrerouting, "cni0", nowhere);
    let hook = there.iter().position(|step| step.action == Action::Translated).unwrap();
    there[hook - 1].flow = Some(nowhere);
    let dying = ending(there, "t-node2", Hook::Neighbour, "cni0", Cause::NeighbourUnresolved);
    let last = dying.last().unwrap().clone();
    let story = Story { branches: Vec::new(), ..Story::healthy() }.seen(&dying, false);
    let found = story.dropped(&last, false, "NEIGH_FAILED", "neigh_invalidate+0x1").told();
    assert_eq!(fault(&found), "t-node1 netfilter-prerouting cni0 nobodys-address", "{found:#?}");
}

#[test]
fn what_changes_a_question_is_to_blame_for_its_answer() {
    let given = Flow { src: "10.1.1.77".parse().unwrap(), ..tcp() };
    let there = changed(there(), "t-node1", Hook::DriverRx, "cni0", given);
    let home = steps(BACK, given.reversed());
    let dying = ending(home, "t-node1", Hook::Neighbour, "cni0", Cause::NeighbourUnresolved);
    let last = dying.last().unwrap().clone();
    let story = Story::healthy().seen(&there, false).seen(&dying, true);
    let found = story.dropped(&last, true, "NEIGH_FAILED", "neigh_invalidate+0x1").told();
    assert_eq!(fault(&found), "t-node1 driver-rx vethcart rewritten", "{found:#?}");
}

#[test]
fn a_source_without_a_free_port_is_the_rules_that_gave_it() {
    let lent = Flow { src: "172.18.0.1".parse().unwrap(), src_port: 5000, ..tcp() };
    let there = changed(there(), "t-node1", Hook::NetfilterPostrouting, "eth0", lent);
    let until = ending(there.clone(), "t-node1", Hook::Neighbour, "eth0", Cause::FilterDrop);
    let last = until.last().unwrap().clone();
    let story = Story { traced: vec![Place::new("node1", "t-node1")], ..Story::predicting(there) }
        .seen(&until, false);
    let found = story.dropped(&last, false, "NETFILTER_DROP", "nf_hook_slow+0x1").told();
    assert_eq!(fault(&found), "t-node1 netfilter-postrouting eth0 no-free-port", "{found:#?}");
    assert!(found.fault_point.unwrap().rule.is_some());
}
