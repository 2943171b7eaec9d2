//! Fine points of the kernel, each of them measured on one.

mod support;

use support::{DATAPLANES, Dataplane, Lab, address, ip, link, mac, render, route, tcp};
use waymark_proto::{
    Cause, Disposition, Flow, Hook, IptablesBackend, IptablesDump, LinkKind, Neighbour, RouteType, Step,
};

fn across() -> Flow {
    tcp("10.244.1.10", "10.244.2.10", 80)
}

fn last(lab: &Lab) -> Step {
    lab.one("pod1-1", &across()).path.last().clone()
}

/// The first step of a hook after the packet was wrapped.
fn outer(lab: &Lab, hook: Hook) -> Step {
    let paths = lab.predict("pod1-1", &across());
    let steps = paths.branches[0].path.steps();
    let found = steps.iter().find(|step| step.outer.is_some() && step.hook == hook);
    found.unwrap_or_else(|| panic!("{}", render(&paths))).clone()
}

#[test]
fn only_the_own_remote_of_a_tunnel_is_bound_to_its_underlying_device() {
    let mut lab = Lab::new(Dataplane::Vxlan);
    let node = lab.netns("node1");
    node.links.push(link(20, "eth9", mac(1, 0, 9), LinkKind::Veth { peer_index: 9, peer_netns: None }));
    node.addresses.push(address(20, "192.168.99.1/24"));
    let LinkKind::Vxlan { local, remote, underlay, .. } = &mut lab.link("node1", "flannel.1").kind else {
        unreachable!()
    };
    (*local, *remote, *underlay) = (None, Some(ip("192.168.77.2")), Some(20));
    // An entry of the forwarding database goes where routing says …
    let step = outer(&lab, Hook::Route);
    assert_eq!(step.device.as_deref(), Some("eth0"));
    assert_eq!(step.outer.unwrap().src, ip("192.168.77.1"));
    // … the device's own remote by the underlying device, route or not; the kernel lists it as an entry.
    for listed in [true, false] {
        let fdb = &mut lab.netns("node1").fdb;
        fdb.truncate(usize::from(listed));
        for entry in fdb {
            entry.mac = "00:00:00:00:00:00".into();
        }
        let step = outer(&lab, Hook::Route);
        assert_eq!(step.device.as_deref(), Some("eth9"), "{listed}");
        assert!(step.object.unwrap().contains("taken to be on the link"));
        assert_eq!(step.outer.unwrap().src, ip("192.168.99.1"));
    }
    let by_it = route(254, "192.168.77.0/28", RouteType::Unicast, Some("192.168.99.9"), Some(20));
    lab.netns("node1").routes.push(by_it);
    assert!(outer(&lab, Hook::Route).object.unwrap().contains("via 192.168.99.9 dev eth9"));
}

/// A table of family `inet` with a base chain at `forward`.
fn table(name: &str, priority: i32, rule: &str) -> String {
    format!(
        r#"{{"chain":{{"family":"inet","table":"{name}","name":"c","type":"filter","hook":"forward","prio":{priority},"policy":"accept"}}}},
        {{"rule":{{"family":"inet","table":"{name}","chain":"c","handle":5,"expr":{rule}}}}}"#
    )
}

const DROP: &str = r#"[{"drop":null}]"#;

fn load(lab: &mut Lab, objects: &[String]) {
    lab.nft("node1", &format!(r#"{{"nftables":[{}]}}"#, objects.join(",")));
}

#[test]
fn the_outer_source_port_is_a_hash_that_nobody_foresees() {
    let told = |rest: &str| {
        let mut lab = Lab::new(Dataplane::Vxlan);
        let port =
            r#"{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"sport"}},"right":40000}}"#;
        let table = table("t", 0, &format!("[{port},{rest}]")).replace("forward", "output");
        load(&mut lab, &[table]);
        last(&lab)
    };
    let step = told(r#"{"drop":null}"#);
    assert_eq!((step.hook, step.cause), (Hook::NetfilterOutput, None));
    assert!(step.note.unwrap().contains("source port"));
    // What the rule also asks for may decide without it.
    let other = r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":"192.168.77.9"}},{"drop":null}"#;
    assert_eq!(told(other).action, waymark_proto::Action::Delivered);
}

#[test]
fn what_comes_before_those_who_watch_is_told() {
    for (priority, early) in [(i32::MIN, true), (i32::MIN + 1, false), (-300, false)] {
        let mut lab = Lab::new(Dataplane::Routed);
        load(&mut lab, &[table("one", priority, DROP)]);
        let step = last(&lab);
        assert_eq!((step.hook, step.cause), (Hook::NetfilterForward, Some(Cause::FilterDrop)));
        assert_eq!(step.note.is_some_and(|note| note.contains("priority -2147483648")), early);
    }
}

#[test]
fn of_equal_chains_the_one_registered_last_is_first() {
    let mut lab = Lab::new(Dataplane::Routed);
    load(&mut lab, &[table("one", 0, DROP), table("two", 0, DROP), table("later", 1, DROP)]);
    assert_eq!(last(&lab).rule.unwrap().table, "two");
    // Those of iptables-nft are registered like any other.
    let own = r#"{"chain":{"family":"ip","table":"filter","name":"FORWARD","type":"filter","hook":"forward","prio":0,"policy":"drop"}}"#;
    for (objects, table) in [
        ([table("one", 0, DROP), own.to_owned()], "filter"),
        ([own.to_owned(), table("one", 0, DROP)], "one"),
    ] {
        load(&mut lab, &objects);
        let text = "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n".to_owned();
        let dump = |backend| vec![IptablesDump { ipv6: false, backend, text: text.clone() }];
        lab.netns("node1").netfilter.iptables = dump(IptablesBackend::Nft);
        let step = last(&lab);
        assert_eq!((step.rule.unwrap().table.as_str(), step.note), (table, None));
        lab.netns("node1").netfilter.iptables = dump(IptablesBackend::Legacy);
        // When x_tables registered its chain cannot be read.
        load(&mut lab, &[objects.into_iter().find(|object| object != own).unwrap()]);
        assert!(last(&lab).note.unwrap().contains("which is asked first is not known"));
    }
}

#[test]
fn forwarding_is_asked_before_the_source() {
    for dataplane in DATAPLANES {
        let mut lab = Lab::new(dataplane);
        let node = lab.netns("node2");
        node.sysctls.insert("ipv4.ip_forward".into(), "0".into());
        node.sysctls.insert("ipv4.conf.all.rp_filter".into(), "1".into());
        let index = if dataplane == Dataplane::Routed { 11 } else { 3 };
        node.routes.insert(0, route(254, "10.244.1.0/24", RouteType::Unicast, None, Some(index)));
        assert_eq!(last(&lab).cause, Some(Cause::ForwardingDisabled));
        // What is for the host itself is not forwarded, but its source is validated.
        if dataplane == Dataplane::Routed {
            let step = lab.one("pod1-1", &tcp("10.244.1.10", "192.168.77.2", 80)).path.last().clone();
            assert_eq!(step.cause, Some(Cause::SourceValidation));
        }
    }
}

#[test]
fn a_miss_in_a_verdict_map_ends_the_rule() {
    let mut lab = Lab::new(Dataplane::Routed);
    let vmap = |port: u16| {
        let key = r#"{"payload":{"protocol":"tcp","field":"dport"}}"#;
        format!(
            r#"[{{"vmap":{{"key":{key},"data":{{"set":[[{port},{{"continue":null}}]]}}}}}},{{"drop":null}}]"#
        )
    };
    load(&mut lab, &[table("t", 0, &vmap(81))]);
    assert_eq!(last(&lab).cause, None);
    load(&mut lab, &[table("t", 0, &vmap(80))]);
    assert_eq!(last(&lab).cause, Some(Cause::FilterDrop), "continue goes on within the rule");
}

#[test]
fn statements_within_dynamic_sets_run() {
    let dynamic = |nested: &str| {
        format!(
            r#"[{{"set":{{"op":"update","elem":{{"payload":{{"protocol":"ip","field":"saddr"}}}},"set":"@m","stmt":[{nested}]}}}},{{"drop":null}}]"#
        )
    };
    let told = |nested: &str| {
        let mut lab = Lab::new(Dataplane::Routed);
        load(&mut lab, &[table("t", 0, &dynamic(nested))]);
        last(&lab)
    };
    let over = told(r#"{"limit":{"rate":10,"burst":5,"per":"second","inv":true}}"#);
    assert_eq!(over.cause, None, "one packet is below the limit");
    for within in [r#"{"limit":{"rate":10,"burst":5,"per":"second"}}"#, r#"{"counter":null}"#, ""] {
        assert_eq!(told(within).cause, Some(Cause::FilterDrop), "{within}");
    }
    let quota = told(r#"{"quota":{"val":1,"val_unit":"bytes"}}"#);
    assert!(quota.note.unwrap().contains("is not modelled"));
}

/// A chain of a family whose hooks are not run, with one rule.
fn foreign(family: &str, hook: &str, policy: &str, expr: &str) -> [String; 2] {
    [
        format!(
            r#"{{"chain":{{"family":"{family}","table":"x","name":"o","type":"filter","hook":"{hook}","prio":0,"policy":"{policy}"{}}}}}"#,
            if family == "netdev" { r#","dev":"veth1-1""# } else { "" }
        ),
        format!(r#"{{"rule":{{"family":"{family}","table":"x","chain":"o","handle":2,"expr":{expr}}}}}"#),
    ]
}

#[test]
fn chains_of_bridges_and_devices_are_told_of() {
    let notes = |objects: &[String]| {
        let mut lab = Lab::new(Dataplane::HostGw);
        load(&mut lab, objects);
        let branch = lab.one("pod1-1", &across());
        assert_eq!(branch.path.disposition(), Disposition::Delivered);
        let answer = branch.answer[0].path.clone();
        let steps = branch.path.steps().iter().chain(answer.steps()).cloned().collect::<Vec<_>>();
        let told =
            steps.into_iter().filter_map(|step| Some((step.hook, step.device?, step.note?.to_string())));
        told.collect::<Vec<_>>()
    };
    let told = |hook, device: &str, what: &str| {
        (hook, device.to_owned(), format!("{what} is not modelled: it may drop"))
    };
    let pass = r#"[{"counter":null},{"accept":null}]"#;
    assert_eq!(
        notes(&foreign("bridge", "input", "accept", DROP)),
        [told(Hook::Bridge, "cni0", "bridge x o at hook input")]
    );
    assert_eq!(
        notes(&foreign("bridge", "output", "drop", pass)),
        [told(Hook::Bridge, "cni0", "bridge x o at hook output")]
    );
    assert_eq!(
        notes(&foreign("netdev", "ingress", "accept", DROP)),
        [told(Hook::DriverRx, "veth1-1", "netdev x o at hook ingress")]
    );
    assert_eq!(
        notes(&foreign("netdev", "egress", "accept", r#"[{"jump":{"target":"y"}}]"#)),
        [told(Hook::Qdisc, "veth1-1", "netdev x o at hook egress")]
    );
    for (family, hook) in [("bridge", "input"), ("netdev", "ingress")] {
        assert_eq!(notes(&foreign(family, hook, "accept", pass)), []);
    }
    assert_eq!(notes(&foreign("bridge", "forward", "accept", DROP)), [], "nothing is bridged on");
}

#[test]
fn rules_see_the_bridge_port_of_a_routed_packet() {
    for (chain, table) in [("FORWARD", "filter"), ("POSTROUTING", "mangle")] {
        let mut lab = Lab::new(Dataplane::HostGw);
        let rules = |port: &str| {
            format!(
                "*{table}\n:{chain} ACCEPT [0:0]\n-A {chain} -m physdev --physdev-in {port} -j DROP\nCOMMIT\n"
            )
        };
        lab.iptables("node1", &rules("veth1-1"));
        assert_eq!(last(&lab).cause, Some(Cause::FilterDrop), "{chain}");
        lab.iptables("node1", &rules("veth1-2"));
        assert_eq!(last(&lab).cause, None, "{chain}");
        // Without br_netfilter nobody notes the port.
        lab.iptables("node1", &rules("veth1-1"));
        lab.netns("node1").sysctls.insert("bridge.bridge-nf-call-iptables".into(), "0".into());
        assert_eq!(last(&lab).cause, None, "{chain}");
        // It is forgotten on the way to another node.
        let mut lab = Lab::new(Dataplane::HostGw);
        lab.iptables("node2", &rules("veth2-1").replace("veth2-1", "if11"));
        assert_eq!(last(&lab).cause, None, "{chain}");
        lab.iptables("node2", &rules("veth2-1"));
        assert_eq!(last(&lab).cause, None, "{chain}");
    }
}

#[test]
fn masquerade_takes_the_address_nearest_to_the_next_hop() {
    let mut lab = Lab::new(Dataplane::HostGw);
    lab.netns("node1").addresses.insert(0, address(2, "10.244.99.1/16"));
    lab.iptables("node1", "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n");
    let branch = lab.one("pod1-1", &across());
    assert_eq!(branch.path.last().flow.unwrap().src, ip("192.168.77.1"));
}

/// pod1-1 with an IPv6 route out of its only device, and a host that forwards.
fn ipv6_lab(proxy_ndp: &str) -> Lab {
    let mut lab = Lab::new(Dataplane::Routed);
    lab.netns("pod1-1").routes.push(route(254, "fd00::/64", RouteType::Unicast, None, Some(2)));
    let node = lab.netns("node1");
    node.sysctls.insert("ipv6.conf.all.forwarding".into(), "1".into());
    node.sysctls.insert("ipv6.conf.veth1-1.proxy_ndp".into(), proxy_ndp.into());
    node.neighbours.push(Neighbour {
        index: 11,
        address: ip("fd00::9"),
        mac: None,
        state: "none".into(),
        proxy: true,
    });
    lab
}

#[test]
fn ipv6_proxy_entries_answer_only_where_allowed() {
    let flow = tcp("fd00::1", "fd00::9", 80);
    let last = |lab: Lab| lab.one("pod1-1", &flow).path.last().clone();
    let step = last(ipv6_lab("0"));
    assert_eq!((step.hook, step.cause), (Hook::Neighbour, Some(Cause::NeighbourUnresolved)));
    let step = last(ipv6_lab("1"));
    assert_eq!((step.place.netns.as_str(), step.hook), ("node1", Hook::Route), "{step:?}");
}

#[test]
fn ipv6_loopback_addresses_do_not_come_to_prerouting() {
    let mut lab = ipv6_lab("1");
    lab.netns("node1").netfilter.iptables = vec![IptablesDump {
        ipv6: true,
        backend: IptablesBackend::Legacy,
        text: "*raw\n:PREROUTING DROP [0:0]\nCOMMIT\n".into(),
    }];
    let step = lab.one("pod1-1", &tcp("::1", "fd00::9", 80)).path.last().clone();
    assert_eq!((step.hook, step.cause), (Hook::Ip, Some(Cause::MartianAddress)));
    assert_eq!(step.device.as_deref(), Some("veth1-1"));
    let step = lab.one("pod1-1", &tcp("fd00::1", "fd00::9", 80)).path.last().clone();
    assert_eq!(step.cause, Some(Cause::FilterDrop));
}
