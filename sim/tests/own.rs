//! What a host takes for its own, and what goes by a packet's code point.

mod support;

use support::{Dataplane, Lab, ip, place, tcp};
use waymark_proto::{Cause, Flow, Hook, PathSet, Protocol, RouteType, RuleAction, Step};
use waymark_sim::{Manner, predict_as};

fn across() -> Flow {
    tcp("10.244.1.10", "10.244.2.10", 80)
}

fn last(lab: &Lab) -> Step {
    lab.one("pod1-1", &across()).path.last().clone()
}

#[test]
fn an_address_without_its_local_route_is_there_all_the_same() {
    let mut lab = Lab::new(Dataplane::HostGw);
    let own = |route: &waymark_proto::Route| {
        route.kind == RouteType::Local && route.dst.addr() == ip("10.244.2.10")
    };
    lab.netns("pod2-1").routes.retain(|route| !own(route));
    let step = last(&lab);
    assert_eq!(
        (step.place.netns.as_str(), step.hook, step.cause),
        ("pod2-1", Hook::Route, Some(Cause::NoRoute))
    );
    let object = step.object.unwrap();
    assert_eq!(&*object, "table local has no route to 10.244.2.10, though eth0 has that address");

    // Nor does a route help that no rule asks for.
    let mut lab = Lab::new(Dataplane::HostGw);
    lab.netns("pod2-1").rules.retain(|rule| rule.table != 255);
    let step = last(&lab);
    assert_eq!(step.cause, Some(Cause::NoRoute));
    assert!(step.object.unwrap().starts_with("no rule asks the local table for 10.244.2.10 first"));

    // An address that is not there is another matter: nobody answers for it.
    let mut lab = Lab::new(Dataplane::HostGw);
    lab.netns("pod2-1").routes.retain(|route| !own(route));
    lab.netns("pod2-1").addresses.retain(|address| address.address.addr() != ip("10.244.2.10"));
    assert_eq!(last(&lab).cause, Some(Cause::NeighbourUnresolved));
}

#[test]
fn a_listener_of_another_device_is_named() {
    let mut lab = Lab::new(Dataplane::HostGw);
    for socket in &mut lab.netns("pod2-1").sockets {
        socket.device = Some(1);
    }
    let step = last(&lab);
    assert_eq!(step.cause, Some(Cause::NoListener));
    let object = step.object.unwrap();
    assert_eq!(
        &*object,
        "the tcp socket on 0.0.0.0:80 is bound to device lo and takes nothing that comes by eth0"
    );
}

/// The cause of death in node1 under a rule that refuses a TOS, by the code point of what is sent.
fn refused(protocol: Protocol, tos: u8, dscp: u8) -> [Option<Cause>; 2] {
    let mut lab = Lab::new(Dataplane::HostGw);
    let mut rule = lab.netns("node1").rules[1].clone();
    (rule.priority, rule.action, rule.tos) = (60, RuleAction::Blackhole, Some(tos));
    lab.netns("node1").rules.insert(1, rule);
    assert!(lab.cluster().heeds_dscp());
    let flow = Flow { protocol, ..across() };
    let PathSet { branches, .. } =
        predict_as(&lab.cluster(), &place("pod1-1"), &flow, Manner { dscp, ..Manner::default() });
    let answer = branches[0].answer.first().and_then(|answer| answer.path.last().cause);
    [branches[0].path.last().cause, answer]
}

#[test]
fn rules_see_the_code_point() {
    let black = Some(Cause::BlackholeRoute);
    assert_eq!(refused(Protocol::Tcp, 0x10, 0), [None, None]);
    assert_eq!(refused(Protocol::Tcp, 0x10, 4), [black, None]);
    assert_eq!(refused(Protocol::Tcp, 0x10, 0b10_0100), [black, None], "the upper bits are no part of a TOS");
    assert_eq!(refused(Protocol::Tcp, 0x10, 6), [None, None]);
    assert!(!Lab::new(Dataplane::HostGw).cluster().heeds_dscp());
}

#[test]
fn an_echo_reply_has_the_code_point_of_its_request() {
    let mut lab = Lab::new(Dataplane::HostGw);
    let mut rule = lab.netns("node2").rules[1].clone();
    (rule.priority, rule.action, rule.tos) = (60, RuleAction::Blackhole, Some(0x10));
    rule.src = Some("10.244.2.0/24".parse().unwrap());
    lab.netns("node2").rules.insert(1, rule);
    let answer = |protocol| {
        let flow = Flow { protocol, ..across() };
        let paths =
            predict_as(&lab.cluster(), &place("pod1-1"), &flow, Manner { dscp: 4, ..Manner::default() });
        paths.branches[0].answer[0].path.last().cause
    };
    assert_eq!(answer(Protocol::Icmp), Some(Cause::BlackholeRoute));
    assert_eq!(answer(Protocol::Tcp), None, "a listening socket has its own");
}
