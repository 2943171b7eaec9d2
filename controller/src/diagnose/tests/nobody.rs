//! Packets for an address that nobody has.

use super::*;
use crate::fixture::changed;

/// Nobody's, in the network of node2's pods.
fn nowhere() -> Flow {
    Flow { dst: "10.1.2.77".parse().unwrap(), ..tcp() }
}

/// The flow to a Service.
fn service() -> Flow {
    Flow { dst: "10.96.0.10".parse().unwrap(), ..tcp() }
}

/// A rule of node1 gives packets for the Service this destination, and node2 finds nobody there.
fn led_to(to: Flow) -> Diagnosis {
    let there = changed(steps(THERE, service()), "t-node1", Hook::NetfilterPrerouting, "cni0", to);
    let dying = ending(there, "t-node2", Hook::Neighbour, "cni0", Cause::NeighbourUnresolved);
    let last = dying.last().unwrap().clone();
    let story = Story { flow: service(), ..Story::predicting(dying.clone()) };
    story.seen(&dying, false).dropped(&last, false, "NEIGH_FAILED", "neigh_invalidate+0x1").told()
}

#[test]
fn who_gave_a_packet_an_address_that_nobody_has_is_to_blame() {
    let found = led_to(nowhere());
    assert_eq!(fault(&found), "t-node1 netfilter-prerouting cni0 nobodys-address", "{found:#?}");
    let point = found.fault_point.unwrap();
    assert_eq!((point.confidence, point.rule.unwrap().handle), (Confidence::High, Some(7)));
    let object = point.object.unwrap();
    assert!(object.contains("10.1.2.77") && object.contains("Service shop/pay"), "{object}");
    assert!(
        point.evidence.iter().any(|words| words.contains("neighbour-unresolved")),
        "{:?}",
        point.evidence
    );
    assert!(point.advice.contains("10.1.2.77") && !point.advice.contains("ip neigh"), "{}", point.advice);
}

/// No advice to remove the route by which a network plugin refuses what no pod has.
#[test]
fn a_route_is_not_to_blame_for_refusing_what_nobody_has() {
    for cause in [Cause::BlackholeRoute, Cause::UnreachableRoute, Cause::NoRoute] {
        let there = changed(there(), "t-node1", Hook::NetfilterPrerouting, "cni0", nowhere());
        let dying = ending(there, "t-node2", Hook::Route, "cni0", cause);
        let last = dying.last().unwrap().clone();
        // Whether or not it is predicted: the kernel does not say which route it was.
        for story in [Story::predicting(dying.clone()), Story { branches: Vec::new(), ..Story::healthy() }] {
            let seen = story.seen(&dying, false).dropped(&last, false, "NOT_SPECIFIED", "ip_error+0x1");
            let found = seen.told();
            assert_eq!(fault(&found), "t-node1 netfilter-prerouting cni0 nobodys-address", "{found:#?}");
        }
    }
}

#[test]
fn somebody_who_does_not_answer_is_another_matter() {
    let endpoint = led_to(tcp());
    assert_eq!(fault(&endpoint), "t-node2 neighbour cni0 neighbour-unresolved");
    // What was asked for is nobody's either, but nobody changed it.
    let dying =
        ending(steps(THERE, nowhere()), "t-node2", Hook::Neighbour, "cni0", Cause::NeighbourUnresolved);
    let story = Story { flow: nowhere(), ..Story::predicting(dying.clone()) };
    assert_eq!(fault(&story.seen(&dying, false).told()), "t-node2 neighbour cni0 neighbour-unresolved");
}

#[test]
fn a_service_that_no_rule_translates_is_named() {
    let untranslated = |flow: Flow| {
        let mut out = ending(steps(THERE, flow), "t-node1", Hook::Wire, "eth0", Cause::SilentLoss);
        out.pop();
        let path = Path::new(Disposition::ExitsCluster, out.clone()).unwrap();
        let branch = Branch { probability: 1.0, choices: Vec::new(), path, answer: Vec::new() };
        let story = Story { branches: vec![branch], flow, ..Story::healthy() };
        story.seen(&out, false).told()
    };
    let found = untranslated(service());
    assert_eq!(fault(&found), "t-node1 netfilter-prerouting cni0 nobodys-address");
    let point = found.fault_point.unwrap();
    assert_eq!(
        point.object.as_deref(),
        Some("10.96.0.10 is the address of Service shop/pay, and no rule gave it that of an endpoint")
    );
    assert!(point.advice.contains("kube-proxy") && !point.advice.contains("route get"), "{}", point.advice);
    let found = untranslated(Flow { dst_port: 81, ..service() });
    assert!(found.fault_point.unwrap().object.unwrap().contains("has no port 81/tcp"));
}

#[test]
fn who_gave_a_question_a_source_that_nobody_has_is_to_blame_for_its_answer() {
    let given = Flow { src: "192.0.2.1".parse().unwrap(), ..tcp() };
    let there = changed(there(), "t-node1", Hook::NetfilterPostrouting, "eth0", given);
    let lost = steps(BACK, given.reversed());
    let lost = ending(lost, "t-node2", Hook::Neighbour, "eth0", Cause::NeighbourUnresolved);
    let story = Story { branches: vec![branch(there.clone(), lost.clone())], ..Story::healthy() };
    let found = story.seen(&there, false).seen(&lost, true).told();
    assert_eq!(fault(&found), "t-node1 netfilter-postrouting eth0 nobodys-address", "{found:#?}");
    assert_eq!(found.fault_point.unwrap().direction, Direction::Return);
}
