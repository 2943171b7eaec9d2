//! Faults: each ends the walk at the hook and with the cause that all parts of Waymark agreed on.

mod support;

use support::{DATAPLANES, Dataplane, Lab, address, ip, render, route, tcp, udp};
use waymark_proto::{
    Cause, Disposition, Flow, Hook, LinkKind, MissingFact, PolicyRule, PortRange, Protocol, RouteType,
    RuleAction, Step,
};

/// The last step of a prediction's only branch.
fn last(lab: &Lab, start: &str, flow: &Flow) -> Step {
    let branch = lab.one(start, flow);
    branch.path.last().clone()
}

#[track_caller]
fn check(step: &Step, netns: &str, hook: Hook, device: &str, cause: Cause, object: &str) {
    assert_eq!(
        (step.place.netns.as_str(), step.hook, step.device.as_deref().unwrap_or("-"), step.cause),
        (netns, hook, device, Some(cause)),
        "{step:?}"
    );
    let told = step
        .object
        .as_ref()
        .map(ToString::to_string)
        .or_else(|| step.rule.as_ref().map(ToString::to_string))
        .unwrap_or_default();
    assert!(told.contains(object), "{told:?} should contain {object:?}");
}

fn across() -> Flow {
    tcp("10.244.1.10", "10.244.2.10", 80)
}

#[test]
fn routes() {
    for dataplane in DATAPLANES {
        let mut lab = Lab::new(dataplane);
        lab.netns("node1").routes.retain(|route| route.dst.to_string() != "10.244.2.0/24");
        let branch = lab.one("pod1-1", &across());
        assert_eq!(branch.path.disposition(), Disposition::ExitsCluster, "the default route takes it");
        assert_eq!(branch.path.last().hook, Hook::Wire);
        let note = branch.path.last().note.as_deref();
        assert_eq!(note, Some("next hop 192.168.77.254 belongs to no node of the cluster"));
        lab.netns("node1").routes.retain(|route| route.dst.prefix_len() != 0);
        check(
            &last(&lab, "pod1-1", &across()),
            "node1",
            Hook::Route,
            "-",
            Cause::NoRoute,
            "no route to 10.244.2.10",
        );

        for (kind, cause, text) in [
            (RouteType::Blackhole, Cause::BlackholeRoute, "blackhole 10.244.2.0/24 table main"),
            (RouteType::Unreachable, Cause::UnreachableRoute, "unreachable 10.244.2.0/24 table main"),
            (RouteType::Prohibit, Cause::ProhibitRoute, "prohibit 10.244.2.0/24 table main"),
        ] {
            let mut lab = Lab::new(dataplane);
            lab.netns("node1").routes.retain(|route| route.dst.to_string() != "10.244.2.0/24");
            lab.netns("node1").routes.push(route(254, "10.244.2.0/24", kind, None, None));
            check(&last(&lab, "pod1-1", &across()), "node1", Hook::Route, "-", cause, text);
        }
    }
}

#[test]
fn forwarding_and_source_validation() {
    for dataplane in DATAPLANES {
        let mut lab = Lab::new(dataplane);
        lab.netns("node2").sysctls.insert("ipv4.ip_forward".into(), "0".into());
        let device = if dataplane == Dataplane::Vxlan { "flannel.1" } else { "eth0" };
        let step = last(&lab, "pod1-1", &across());
        check(&step, "node2", Hook::Route, device, Cause::ForwardingDisabled, "net.ipv4.ip_forward = 0");

        let mut lab = Lab::new(dataplane);
        lab.netns("node2").sysctls.insert("ipv4.conf.all.rp_filter".into(), "1".into());
        assert_eq!(last(&lab, "pod1-1", &across()).cause, None, "symmetric routes pass the strict filter");
        let index = if dataplane == Dataplane::Routed { 11 } else { 3 };
        let wrong = route(254, "10.244.1.0/24", RouteType::Unicast, None, Some(index));
        lab.netns("node2").routes.insert(0, wrong);
        let step = last(&lab, "pod1-1", &across());
        check(&step, "node2", Hook::Route, device, Cause::SourceValidation, "rp_filter");
        lab.netns("node2").sysctls.insert("ipv4.conf.all.rp_filter".into(), "2".into());
        let loose = lab.one("pod1-1", &across());
        assert!(loose.path.steps().iter().all(|step| step.cause != Some(Cause::SourceValidation)));
    }
}

#[test]
fn devices() {
    let mut lab = Lab::new(Dataplane::HostGw);
    lab.link("node1", "veth1-1").up = false;
    lab.link("node1", "veth1-1").carrier = false;
    lab.link("node1", "veth1-1").bridge_port.as_mut().unwrap().state = 0;
    lab.link("pod1-1", "eth0").carrier = false;
    let step = last(&lab, "pod1-1", &across());
    check(&step, "pod1-1", Hook::Qdisc, "eth0", Cause::NoCarrier, "peer veth1-1 in node1 is down");
    // Towards that pod: with a warm neighbour entry the bridge drops, without one nobody answers.
    let back = tcp("10.244.2.10", "10.244.1.10", 80);
    let step = last(&lab, "pod2-1", &back);
    check(&step, "node1", Hook::Neighbour, "cni0", Cause::NeighbourUnresolved, "10.244.1.10 dev cni0");
    lab.netns("node1").neighbours.push(waymark_proto::Neighbour {
        index: 3,
        address: ip("10.244.1.10"),
        mac: Some(support::mac(1, 1, 1)),
        state: "stale".into(),
        proxy: false,
    });
    let step = last(&lab, "pod2-1", &back);
    // An entry that nobody on the link bears out is still used by the kernel.
    assert!(matches!(step.hook, Hook::Bridge), "{step:?}");
    check(&step, "node1", Hook::Bridge, "cni0", Cause::BridgePort, "veth1-1");

    let mut lab = Lab::new(Dataplane::HostGw);
    lab.link("pod1-1", "eth0").up = false;
    let step = last(&lab, "pod1-1", &across());
    check(&step, "pod1-1", Hook::Qdisc, "eth0", Cause::DeviceDown, "link eth0 down");

    let mut lab = Lab::new(Dataplane::HostGw);
    lab.link("node1", "veth1-1").bridge_port.as_mut().unwrap().state = 4;
    let step = last(&lab, "node1", &tcp("192.168.77.1", "10.244.1.10", 80));
    assert_eq!(step.cause, Some(Cause::NeighbourUnresolved));
    let mut lab = Lab::new(Dataplane::HostGw);
    lab.link("node1", "veth1-1").master = None;
    // A device that left its bridge answers for all addresses of its host (arp_ignore = 0) …
    let branch = lab.one("pod1-1", &across());
    assert_eq!(branch.path.disposition(), Disposition::Delivered);
    let answer = branch.answer[0].path.last();
    check(answer, "node1", Hook::Neighbour, "cni0", Cause::NeighbourUnresolved, "10.244.1.10");
    // … but does not take frames to the bridge's address, which the pod may remember.
    lab.netns("pod1-1").neighbours.push(waymark_proto::Neighbour {
        index: 2,
        address: ip("10.244.1.1"),
        mac: Some(support::mac(1, 0, 3)),
        state: "reachable".into(),
        proxy: false,
    });
    let branch = lab.one("pod1-1", &across());
    check(
        branch.path.last(),
        "node1",
        Hook::Ip,
        "veth1-1",
        Cause::OtherHost,
        "veth1-1 has 02:00:00:02:01:01",
    );
}

/// An entry that was learnt from another node than the one that has the next hop.
#[test]
fn neighbours_that_were_learnt_from_strangers() {
    let misled = |mac: String| {
        let mut lab = Lab::new(Dataplane::HostGw);
        lab.netns("node1").neighbours.push(waymark_proto::Neighbour {
            index: 2,
            address: ip("192.168.77.2"),
            mac: Some(mac),
            state: "reachable".into(),
            proxy: false,
        });
        let branch = lab.one("pod1-1", &across());
        let neighbour = |step: &&Step| step.hook == Hook::Neighbour && step.place.netns.as_str() == "node1";
        let step = branch.path.steps().iter().find(neighbour).cloned();
        step.and_then(|step| step.object).map(|object| (object.id().to_owned(), object.to_string()))
    };
    let truth = Lab::new(Dataplane::HostGw).link("node2", "eth0").mac.clone().unwrap();
    assert_eq!(misled(truth.clone()).unwrap().0, "verbatim");
    let (id, told) = misled("02:00:00:00:99:99".to_owned()).unwrap();
    assert_eq!(id, "object.misled-neighbour");
    assert!(told.contains("192.168.77.2 belongs to eth0") && told.contains(&truth), "{told}");
}

#[test]
fn a_node_that_has_lost_its_address() {
    let mut lab = Lab::new(Dataplane::HostGw);
    let lost = |address: &waymark_proto::Address| address.address.addr() == ip("192.168.77.2");
    lab.netns("node2").addresses.retain(|address| !lost(address));
    lab.netns("node2").routes.retain(|route| route.dst.addr() != ip("192.168.77.2"));
    let step = last(&lab, "pod1-1", &across());
    check(&step, "node2", Hook::Route, "-", Cause::AddressMissing, "192.168.77.2 is an address of no device");
}

#[test]
fn neighbours() {
    let mut lab = Lab::new(Dataplane::HostGw);
    lab.netns("node1").neighbours.push(waymark_proto::Neighbour {
        index: 2,
        address: ip("192.168.77.2"),
        mac: Some("02:00:00:00:99:99".into()),
        state: "permanent".into(),
        proxy: false,
    });
    let step = last(&lab, "pod1-1", &across());
    check(&step, "node1", Hook::Neighbour, "eth0", Cause::WrongNeighbour, "02:00:00:00:99:99 PERMANENT");

    let mut lab = Lab::new(Dataplane::HostGw);
    lab.netns("pod1-1").routes.retain(|route| route.dst.prefix_len() != 0);
    lab.netns("pod1-1").routes.push(route(
        254,
        "0.0.0.0/0",
        RouteType::Unicast,
        Some("10.244.1.99"),
        Some(2),
    ));
    let step = last(&lab, "pod1-1", &across());
    check(&step, "pod1-1", Hook::Neighbour, "eth0", Cause::NeighbourUnresolved, "10.244.1.99 dev eth0");

    let mut lab = Lab::new(Dataplane::Routed);
    lab.netns("pod1-1").neighbours.clear();
    assert_eq!(last(&lab, "pod1-1", &across()).cause, None, "the host answers for the gateway");
    lab.netns("node1").sysctls.insert("ipv4.conf.veth1-1.proxy_arp".into(), "0".into());
    let step = last(&lab, "pod1-1", &across());
    check(&step, "pod1-1", Hook::Neighbour, "eth0", Cause::NeighbourUnresolved, "169.254.1.1");

    // Somebody else has the address that this pod wants: the kernel makes no local route, and does not answer.
    let mut lab = Lab::new(Dataplane::HostGw);
    for address in &mut lab.netns("pod2-1").addresses {
        address.tentative = address.index != 1;
    }
    lab.netns("pod2-1").routes.retain(|route| route.kind != RouteType::Local);
    let step = last(&lab, "pod1-1", &across());
    check(&step, "node2", Hook::Neighbour, "cni0", Cause::NeighbourUnresolved, "10.244.2.10");
}

#[test]
fn tunnels() {
    let mut lab = Lab::new(Dataplane::Vxlan);
    lab.netns("node1").fdb.clear();
    let step = last(&lab, "pod1-1", &across());
    check(&step, "node1", Hook::Tunnel, "flannel.1", Cause::TunnelNoRemote, "fdb of flannel.1: no entry");

    let mut lab = Lab::new(Dataplane::Vxlan);
    if let LinkKind::Vxlan { vni, .. } = &mut lab.link("node2", "flannel.1").kind {
        *vni = 42;
    }
    let step = last(&lab, "pod1-1", &across());
    check(
        &step,
        "node2",
        Hook::Tunnel,
        "flannel.1",
        Cause::TunnelUnknownVni,
        "has id 42; the packet has id 1",
    );
    if let LinkKind::Vxlan { port, .. } = &mut lab.link("node2", "flannel.1").kind {
        *port = 4789;
    }
    check(&last(&lab, "pod1-1", &across()), "node2", Hook::Socket, "-", Cause::NoListener, "8472");
    // The outer packet is filtered, too.
    let mut lab = Lab::new(Dataplane::Vxlan);
    lab.iptables(
        "node2",
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 8472 -j DROP\nCOMMIT\n",
    );
    let step = last(&lab, "pod1-1", &across());
    check(&step, "node2", Hook::NetfilterInput, "eth0", Cause::FilterDrop, "--dport 8472");
    assert_eq!(step.flow, Some(across()));
}

#[test]
fn filters() {
    for dataplane in DATAPLANES {
        let mut lab = Lab::new(dataplane);
        let rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -s 10.9.0.0/16 -j DROP\n-A FORWARD -d 10.244.2.10/32 -j DROP\nCOMMIT\n";
        lab.iptables("node1", rules);
        let input = if dataplane == Dataplane::Routed { "veth1-1" } else { "cni0" };
        let step = last(&lab, "pod1-1", &across());
        check(
            &step,
            "node1",
            Hook::NetfilterForward,
            input,
            Cause::FilterDrop,
            "rule 2: -A FORWARD -d 10.244.2.10/32 -j DROP",
        );
        lab.iptables("pod1-1", "*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n");
        let step = last(&lab, "pod1-1", &across());
        check(&step, "pod1-1", Hook::NetfilterOutput, "eth0", Cause::FilterDrop, "ip filter OUTPUT policy");
    }
}

#[test]
fn an_answer_that_is_dropped_leaves_the_forward_walk_delivered() {
    let mut lab = Lab::new(Dataplane::HostGw);
    lab.iptables("node2", "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -s 10.244.2.0/24 -m conntrack ! --ctstate NEW -j REJECT\nCOMMIT\n");
    let branch = lab.one("pod1-1", &across());
    assert_eq!(branch.path.disposition(), Disposition::Delivered);
    let last = branch.answer[0].path.last();
    check(last, "node2", Hook::NetfilterForward, "cni0", Cause::FilterReject, "-A FORWARD -s 10.244.2.0/24");
}

#[test]
fn sockets() {
    let lab = Lab::new(Dataplane::HostGw);
    let closed = last(&lab, "pod1-1", &tcp("10.244.1.10", "10.244.2.10", 81));
    check(&closed, "pod2-1", Hook::Socket, "eth0", Cause::NoListener, "nobody listens on tcp 10.244.2.10:81");
    assert_eq!(last(&lab, "pod1-1", &udp("10.244.1.10", "10.244.2.10", 80)).cause, Some(Cause::NoListener));
    let mut lab = Lab::new(Dataplane::HostGw);
    for socket in &mut lab.netns("pod2-1").sockets {
        socket.address = ip("127.0.0.1");
    }
    assert_eq!(last(&lab, "pod1-1", &across()).cause, Some(Cause::NoListener));
    for socket in &mut lab.netns("pod2-1").sockets {
        socket.address = ip("::");
    }
    assert_eq!(last(&lab, "pod1-1", &across()).cause, None);
    for socket in &mut lab.netns("pod2-1").sockets {
        socket.v6only = true;
    }
    assert_eq!(last(&lab, "pod1-1", &across()).cause, Some(Cause::NoListener));
}

#[test]
fn loops_end() {
    let mut lab = Lab::new(Dataplane::HostGw);
    lab.netns("node2").routes.retain(|route| route.dst.to_string() != "10.244.2.0/24");
    lab.netns("node2").routes.push(route(
        254,
        "10.244.2.0/24",
        RouteType::Unicast,
        Some("192.168.77.1"),
        Some(2),
    ));
    let branch = lab.one("pod1-1", &across());
    assert_eq!(branch.path.disposition(), Disposition::Loop);
    assert_eq!(branch.path.last().cause, Some(Cause::RoutingLoop));
}

#[test]
fn policy_rules() {
    let mut lab = Lab::new(Dataplane::HostGw);
    let mut rule = lab.netns("node1").rules[1].clone();
    rule.priority = 100;
    rule.table = 100;
    rule.src = Some("10.244.1.10/32".parse().unwrap());
    lab.netns("node1").rules.push(rule.clone());
    lab.netns("node1").routes.push(route(100, "0.0.0.0/0", RouteType::Blackhole, None, None));
    check(
        &last(&lab, "pod1-1", &across()),
        "node1",
        Hook::Route,
        "-",
        Cause::BlackholeRoute,
        "blackhole default table 100",
    );
    assert_eq!(last(&lab, "pod1-2", &tcp("10.244.1.11", "10.244.2.10", 80)).cause, None);
    let rules = &mut lab.netns("node1").rules;
    rules.last_mut().unwrap().unmodelled = vec!["uidrange".into()];
    let step = last(&lab, "pod1-1", &across());
    assert!(step.note.unwrap().contains("uidrange"));
    assert_eq!(
        last(&lab, "pod1-2", &tcp("10.244.1.11", "10.244.2.10", 80)).cause,
        None,
        "its source decides"
    );
}

#[test]
fn policy_rules_select_by_protocol_and_ports() {
    let ports = |first, last| Some(PortRange { first, last });
    let refuses = |change: &dyn Fn(&mut PolicyRule), netns: &str, flow: &Flow| {
        let mut lab = Lab::new(Dataplane::HostGw);
        let mut rule = lab.netns(netns).rules[1].clone();
        (rule.priority, rule.action) = (100, RuleAction::Prohibit);
        change(&mut rule);
        lab.netns(netns).rules.push(rule);
        last(&lab, "pod1-1", flow)
    };
    for netns in ["pod1-1", "node1"] {
        let cause = |change: &dyn Fn(&mut PolicyRule)| refuses(change, netns, &across()).cause;
        let prohibited = Some(Cause::ProhibitRoute);
        assert_eq!(cause(&|rule| rule.ip_protocol = Some(6)), prohibited);
        assert_eq!(cause(&|rule| rule.ip_protocol = Some(17)), None);
        assert_eq!(cause(&|rule| rule.dst_ports = ports(80, 80)), prohibited);
        assert_eq!(cause(&|rule| rule.dst_ports = ports(70, 90)), prohibited);
        assert_eq!(cause(&|rule| rule.dst_ports = ports(81, 90)), None);
        assert_eq!(cause(&|rule| rule.src_ports = ports(40000, 40001)), prohibited);
        assert_eq!(cause(&|rule| rule.src_ports = ports(1, 39999)), None);
        assert_eq!(cause(&|rule| rule.tos = Some(0x10)), None);
        assert_eq!(cause(&|rule| (rule.tos, rule.invert) = (Some(0x10), true)), prohibited);
        let both = |rule: &mut PolicyRule| (rule.ip_protocol, rule.dst_ports) = (Some(6), ports(80, 80));
        assert_eq!(cause(&both), prohibited);
        assert_eq!(refuses(&both, netns, &udp("10.244.1.10", "10.244.2.10", 53)).cause, None);
        // An echo request has no ports.
        let ping = Flow { protocol: Protocol::Icmp, ..across() };
        assert_eq!(refuses(&|rule| rule.dst_ports = ports(1, 65534), netns, &ping).cause, None);
        // Which source port it will be is not known.
        let any = Flow { src_port: 0, ..across() };
        let step = refuses(&|rule| rule.src_ports = ports(40000, 40001), netns, &any);
        assert!(step.note.unwrap().contains("sport"));
    }
}

#[test]
fn what_rules_see_of_an_application_and_not_of_the_prober_is_told() {
    let by = |change: &dyn Fn(&mut PolicyRule)| {
        let mut lab = Lab::new(Dataplane::HostGw);
        let mut rule = lab.netns("pod1-1").rules[1].clone();
        (rule.priority, rule.action) = (100, RuleAction::Prohibit);
        change(&mut rule);
        lab.netns("pod1-1").rules.push(rule);
        let detour = lab.predict("pod1-1", &across()).detour;
        detour.map(|detour| [detour.application, detour.prober].map(|way| way.to_string()))
    };
    let port = PortRange { first: 80, last: 80 };
    let both = ["rule 100: prohibit", "default via 10.244.1.1 dev eth0 table main"].map(str::to_owned);
    assert_eq!(by(&|rule| rule.dst_ports = Some(port)), Some(both.clone()));
    assert_eq!(by(&|rule| rule.ip_protocol = Some(6)), Some(both.clone()));
    let [application, prober] = both;
    assert_eq!(by(&|rule| (rule.ip_protocol, rule.invert) = (Some(6), true)), Some([prober, application]));
    // What takes both, or neither, or leads them the same way.
    assert_eq!(by(&|_| {}), None);
    assert_eq!(by(&|rule| rule.ip_protocol = Some(17)), None);
    assert_eq!(by(&|rule| (rule.ip_protocol, rule.action) = (Some(6), RuleAction::Table)), None);
}

#[test]
fn the_source_of_a_socket_that_is_not_bound() {
    for dataplane in DATAPLANES {
        let taken = |change: &dyn Fn(&mut Lab)| {
            let mut lab = Lab::new(dataplane);
            change(&mut lab);
            lab.predict("pod1-1", &across()).unbound_source
        };
        assert_eq!(taken(&|_| {}), None, "the pod's own");
        let prefers = |lab: &mut Lab| {
            for route in &mut lab.netns("pod1-1").routes {
                route.prefsrc = (route.table == 254).then(|| ip("10.9.9.9"));
            }
        };
        assert_eq!(taken(&prefers), Some(ip("10.9.9.9")));
        // Another address of the device comes after that of the gateway's net, or of the pod.
        let more = |lab: &mut Lab| lab.netns("pod1-1").addresses.push(address(2, "10.9.9.9/32"));
        assert_eq!(taken(&more), None);
        let instead = |lab: &mut Lab| lab.netns("pod1-1").addresses[1] = address(2, "10.9.9.9/32");
        assert_eq!(taken(&instead), Some(ip("10.9.9.9")));
        // An address for the host alone is none for packets that leave it.
        let inward = |lab: &mut Lab| {
            let mut first = address(2, "10.9.9.9/32");
            first.inward = true;
            lab.netns("pod1-1").addresses.insert(1, first);
        };
        assert_eq!(taken(&inward), None);
        let unread = |lab: &mut Lab| {
            instead(lab);
            let why = "it went away".to_owned();
            lab.netns("pod1-1").missing.push(MissingFact { what: "addresses".into(), why });
        };
        assert_eq!(taken(&unread), None);
    }
}

#[test]
fn equal_cost_routes_are_branches() {
    let mut lab = Lab::new(Dataplane::HostGw);
    let mut two = route(254, "10.244.2.0/24", RouteType::Unicast, Some("192.168.77.2"), Some(2));
    let mut other = two.next_hops[0].clone();
    other.via = Some(ip("192.168.77.3"));
    other.weight = 3;
    two.next_hops.push(other);
    lab.netns("node1").routes.retain(|route| route.dst.to_string() != "10.244.2.0/24");
    lab.netns("node1").routes.push(two);
    let paths = lab.predict("pod1-1", &across());
    assert_eq!(paths.branches.len(), 2, "{}", render(&paths));
    assert!((paths.branches[0].probability - 0.75).abs() < 1e-9);
    assert_eq!(paths.branches[0].path.disposition(), Disposition::ExitsCluster);
    assert_eq!(paths.branches[1].path.disposition(), Disposition::Delivered);
    assert_eq!(support::choices(&paths.branches[1]), ["next hop 192.168.77.2 dev eth0 (prob 0.25)"]);
}
