//! Facts that could not be read: what rests on them is not known, and nothing else is.

mod support;

use support::{DATAPLANES, Dataplane, Lab, link, mac, render, route, tcp, udp};
use waymark_proto::{Cause, Disposition, Flow, LinkKind, MissingFact, NetnsFacts, RouteType};

fn across() -> Flow {
    tcp("10.244.1.10", "10.244.2.10", 80)
}

fn note(netns: &mut NetnsFacts, what: &str, why: &str) {
    netns.missing.push(MissingFact { what: what.into(), why: why.into() });
}

/// Takes a kind of facts away, as it is when its dump fails.
fn lose(netns: &mut NetnsFacts, kind: &str) {
    match kind {
        "links" => netns.links.clear(),
        "addresses" => netns.addresses.clear(),
        "routes" => netns.routes.clear(),
        "rules" => netns.rules.clear(),
        "neighbours" => netns.neighbours.clear(),
        "fdb" => netns.fdb.clear(),
        "sysctls" => netns.sysctls.clear(),
        "sockets" => netns.sockets.clear(),
        _ => {
            let name = netns.name.clone();
            *netns = NetnsFacts { name, ..NetnsFacts::default() };
        }
    }
    note(netns, kind, "no permission");
}

const KINDS: [&str; 9] =
    ["links", "addresses", "routes", "rules", "neighbours", "fdb", "sysctls", "sockets", "namespace"];

#[test]
fn no_packet_is_lost_for_lack_of_facts() {
    let fine = [Disposition::Delivered, Disposition::InsufficientInfo, Disposition::ExitsCluster];
    for dataplane in DATAPLANES {
        for kind in KINDS {
            for netns in ["node1", "node2", "pod1-1", "pod2-1", "pod1-2"] {
                let mut lab = Lab::new(dataplane);
                // A policy and a filter that need names of devices and local addresses to let packets pass.
                let ports = if dataplane == Dataplane::Routed { "veth+" } else { "cni0" };
                let rules = format!(
                    "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -m addrtype ! --dst-type LOCAL -j DROP\nCOMMIT\n\
                     *filter\n:FORWARD DROP [0:0]\n-A FORWARD -i {ports} -j ACCEPT\n-A FORWARD -o {ports} -j ACCEPT\nCOMMIT\n"
                );
                for node in ["node1", "node2"] {
                    lab.iptables(node, &rules);
                    lab.netns(node).sysctls.insert("ipv4.conf.all.rp_filter".into(), "1".into());
                }
                lose(lab.netns(netns), kind);
                for (start, flow) in [
                    ("pod1-1", across()),
                    ("pod1-1", tcp("10.244.1.10", "10.244.1.11", 80)),
                    ("node1", udp("192.168.77.1", "192.168.77.2", 53)),
                ] {
                    let paths = lab.predict(start, &flow);
                    let fates = paths.branches.iter().flat_map(|branch| {
                        let answers = branch.answer.iter().map(|answer| answer.path.disposition());
                        std::iter::once(branch.path.disposition()).chain(answers)
                    });
                    // Nobody listens on a node, which is known unless sockets are missing.
                    let listens = |fate: &Disposition| start != "node1" || *fate != Disposition::Rejected;
                    for fate in fates.filter(listens) {
                        assert!(fine.contains(&fate), "{dataplane:?} {kind} of {netns}\n{}", render(&paths));
                    }
                }
            }
        }
    }
}

/// How pod1-1's packet ends.
fn end(lab: &Lab) -> (Option<Cause>, String) {
    let step = lab.one("pod1-1", &across()).path.last().clone();
    (step.cause, step.note.unwrap_or_default().to_string())
}

#[test]
fn verdicts_that_rest_on_what_is_missing_are_taken_back() {
    let mut lab = Lab::new(Dataplane::Vxlan);
    lab.netns("node1").fdb.clear();
    assert_eq!(end(&lab).0, Some(Cause::TunnelNoRemote));
    note(lab.netns("node1"), "fdb", "no permission");
    let (cause, why) = end(&lab);
    assert_eq!(cause, None);
    assert!(
        why.starts_with("fdb could not be read: no permission; without it, this would be tunnel-no-remote")
    );

    // A remark on one entry concerns those who use it.
    let mut lab = Lab::new(Dataplane::Vxlan);
    let entry = format!("{} on device 4: remote port 99, which is not modelled", mac(2, 0, 4));
    note(lab.netns("node1"), "fdb", &entry);
    assert_eq!(end(&lab).1, format!("fdb of flannel.1: {entry}"));
    lab.netns("node1").fdb[0].mac = mac(3, 0, 4);
    lab.netns("node1").missing[0].why = entry.replace(&mac(2, 0, 4), &mac(3, 0, 4));
    assert_eq!(end(&lab).0, Some(Cause::TunnelNoRemote));

    let mut lab = Lab::new(Dataplane::HostGw);
    let node = lab.netns("node2");
    node.sysctls.insert("ipv4.ip_forward".into(), "0".into());
    note(node, "sysctls", "ipv4.conf.eth0.forwarding: no permission");
    assert_eq!(end(&lab).0, None, "the device's own setting might be another");
    lab.netns("node2").sysctls.insert("ipv4.conf.eth0.forwarding".into(), "0".into());
    assert_eq!(end(&lab).0, Some(Cause::ForwardingDisabled), "what decides was read");

    // A remark on one device leaves the others alone.
    let mut lab = Lab::new(Dataplane::Vxlan);
    lab.netns("node1").fdb.clear();
    lab.netns("node1").links.push(link(30, "other", mac(1, 0, 30), LinkKind::Dummy));
    note(lab.netns("node1"), "links", "other: takes its VNI and remote from each packet");
    assert_eq!(end(&lab).0, Some(Cause::TunnelNoRemote));
    note(lab.netns("node1"), "links", "flannel.1: takes its VNI and remote from each packet");
    assert_eq!(end(&lab).1, "flannel.1: takes its VNI and remote from each packet");
}

#[test]
fn a_remark_on_a_route_concerns_what_may_take_it() {
    let told = |what: &str| {
        let mut lab = Lab::new(Dataplane::Routed);
        note(lab.netns("node1"), what, "encapsulates, which is not modelled");
        end(&lab).1
    };
    for other in [
        "routes.10.9.0.0/16 table 254",
        "routes.10.244.2.0/24 table 100",
        "routes.10.244.0.0/16 table 254",
        "routes.fd00::/64 table 254",
        "routes.ipv6",
        "rules.ipv6",
        "nexthops",
    ] {
        assert_eq!(told(other), "", "{other}");
    }
    for same in ["routes.10.244.2.0/24 table 254", "routes.10.244.2.8/29 table 254"] {
        assert!(told(same).ends_with("encapsulates, which is not modelled"), "{same}");
    }
    for whole in ["routes", "routes.ipv4", "rules.ipv4"] {
        assert!(told(whole).contains("could not be read"), "{whole}");
    }
    // Where no other route is found, a more general one that is not known may be.
    let mut lab = Lab::new(Dataplane::Routed);
    lab.netns("node1").routes.retain(|route| route.table != 254);
    note(lab.netns("node1"), "routes.0.0.0.0/0 table 254", "no nexthop 7");
    assert_eq!(end(&lab).1, "route 0.0.0.0/0 table 254: no nexthop 7");
}

#[test]
fn rules_suppress_general_routes() {
    let mut lab = Lab::new(Dataplane::Routed);
    let node = lab.netns("node1");
    let mut rule = node.rules[1].clone();
    (rule.priority, rule.unmodelled) = (100, vec!["suppress_prefixlength 0".into()]);
    let mut other = node.rules[1].clone();
    (other.priority, other.table) = (200, 100);
    node.rules.extend([rule, other]);
    node.routes.push(route(100, "0.0.0.0/0", RouteType::Blackhole, None, None));
    assert_eq!(end(&lab).0, None, "a specific route is taken");
    lab.netns("node1").routes.retain(|route| route.dst.to_string() != "10.244.2.0/24");
    assert_eq!(end(&lab).0, Some(Cause::BlackholeRoute), "the default route is passed over");
}
