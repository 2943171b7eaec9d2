//! Healthy flows on three dataplanes: the steps in the order that all walks share.

mod support;

use support::{DATAPLANES, Dataplane, Lab, steps, tcp, udp};
use waymark_proto::{Disposition, Flow, Protocol};

#[test]
fn every_pair_is_delivered_and_answered() {
    for dataplane in DATAPLANES {
        let lab = Lab::new(dataplane);
        for (start, src, dst) in [
            ("pod1-1", "10.244.1.10", "10.244.2.11"),
            ("pod1-1", "10.244.1.10", "10.244.1.11"),
            ("pod2-1", "10.244.2.10", "10.244.1.10"),
            ("pod1-1", "10.244.1.10", "10.244.1.10"),
            ("node1", "192.168.77.1", "10.244.1.10"),
            ("node1", "192.168.77.1", "10.244.2.10"),
        ] {
            let icmp = Flow { protocol: Protocol::Icmp, dst_port: 40000, ..tcp(src, dst, 0) };
            for flow in [tcp(src, dst, 80), udp(src, dst, 53), icmp] {
                let paths = lab.predict(start, &flow);
                let text = support::render(&paths);
                assert_eq!(paths.branches.len(), 1, "{dataplane:?} {flow}\n{text}");
                let branch = &paths.branches[0];
                assert_eq!(branch.path.disposition(), Disposition::Delivered, "{dataplane:?} {flow}\n{text}");
                assert_eq!(branch.answer.len(), 1, "{dataplane:?} {flow}\n{text}");
                assert_eq!(
                    branch.answer[0].path.disposition(),
                    Disposition::Delivered,
                    "{dataplane:?} {flow}\n{text}"
                );
                assert!(paths.needs.is_empty());
            }
        }
    }
}

#[test]
fn host_gateway_step_by_step() {
    let lab = Lab::new(Dataplane::HostGw);
    let branch = lab.one("pod1-1", &tcp("10.244.1.10", "10.244.2.10", 80));
    let wanted = [
        "pod1-1 inject injected",
        "pod1-1 route eth0",
        "pod1-1 netfilter-output eth0",
        "pod1-1 netfilter-postrouting eth0",
        "pod1-1 neighbour eth0",
        "pod1-1 qdisc eth0",
        "pod1-1 driver-tx eth0",
        "node1 driver-rx veth1-1",
        "node1 netfilter-prerouting cni0",
        "node1 bridge cni0",
        "node1 driver-rx cni0",
        "node1 route eth0",
        "node1 netfilter-forward cni0",
        "node1 netfilter-postrouting eth0",
        "node1 neighbour eth0",
        "node1 qdisc eth0",
        "node1 driver-tx eth0",
        "node1 wire eth0",
        "node2 driver-rx eth0",
        "node2 netfilter-prerouting eth0",
        "node2 route cni0",
        "node2 netfilter-forward eth0",
        "node2 netfilter-postrouting cni0",
        "node2 neighbour cni0",
        "node2 qdisc cni0",
        "node2 driver-tx cni0",
        "node2 bridge cni0",
        "node2 qdisc veth2-1",
        "node2 driver-tx veth2-1",
        "pod2-1 driver-rx eth0",
        "pod2-1 netfilter-prerouting eth0",
        "pod2-1 route lo",
        "pod2-1 netfilter-input eth0",
        "pod2-1 socket eth0 delivered",
    ];
    assert_eq!(steps(&branch), wanted);
    assert_eq!(steps(&branch.answer[0])[0], "pod2-1 route eth0");
}

#[test]
fn vxlan_step_by_step() {
    let lab = Lab::new(Dataplane::Vxlan);
    let flow = udp("10.244.1.10", "10.244.2.10", 53);
    let branch = lab.one("pod1-1", &flow);
    let wanted = [
        "node1 neighbour flannel.1",
        "node1 qdisc flannel.1",
        "node1 driver-tx flannel.1",
        "node1 tunnel flannel.1 encapsulated",
        "node1 route eth0",
        "node1 netfilter-output eth0",
        "node1 netfilter-postrouting eth0",
        "node1 neighbour eth0",
        "node1 qdisc eth0",
        "node1 driver-tx eth0",
        "node1 wire eth0",
        "node2 driver-rx eth0",
        "node2 netfilter-prerouting eth0",
        "node2 route lo",
        "node2 netfilter-input eth0",
        "node2 tunnel flannel.1 decapsulated",
        "node2 driver-rx flannel.1",
        "node2 netfilter-prerouting flannel.1",
        "node2 route cni0",
    ];
    let all = steps(&branch);
    let from = all.iter().position(|step| step == wanted[0]).unwrap();
    assert_eq!(&all[from..from + wanted.len()], wanted);
    for step in branch.path.steps() {
        assert_eq!(step.flow, Some(flow), "steps tell the inner flow");
        let outer = step.outer.as_ref().map(|outer| (outer.dst.to_string(), outer.vni));
        let inside = all.iter().position(|text| text.contains("encapsulated")).unwrap();
        let at = branch.path.steps().iter().position(|other| std::ptr::eq(other, step)).unwrap();
        let wrapped =
            at >= inside && !all[at..].iter().all(|text| !text.contains("decapsulated") || text == &all[at]);
        assert_eq!(outer, wrapped.then(|| ("192.168.77.2".to_owned(), Some(1))), "{step}");
    }
}

#[test]
fn same_bridge_is_filtered_by_br_netfilter() {
    let lab = Lab::new(Dataplane::HostGw);
    let branch = lab.one("pod1-1", &tcp("10.244.1.10", "10.244.1.11", 80));
    let in_node: Vec<String> = steps(&branch).into_iter().filter(|step| step.starts_with("node1")).collect();
    let wanted = [
        "node1 driver-rx veth1-1",
        "node1 netfilter-prerouting cni0",
        "node1 bridge cni0",
        "node1 netfilter-forward cni0",
        "node1 netfilter-postrouting cni0",
        "node1 qdisc veth1-2",
        "node1 driver-tx veth1-2",
    ];
    assert_eq!(in_node, wanted);
}

#[test]
fn facts_are_asked_for_as_the_walk_reaches_them() {
    let lab = Lab::new(Dataplane::HostGw);
    let mut cluster = waymark_sim::Cluster::new(&lab.inventory);
    let flow = tcp("10.244.1.10", "10.244.2.10", 80);
    let start = support::place("pod1-1");
    let paths = waymark_sim::predict(&cluster, &start, &flow);
    assert_eq!(paths.needs, ["n1".into()]);
    assert_eq!(paths.branches[0].path.steps().len(), 1);
    cluster.add(lab.facts[0].clone()).unwrap();
    let paths = waymark_sim::predict(&cluster, &start, &flow);
    assert_eq!(paths.needs, ["n2".into()]);
    assert_eq!(paths.branches[0].path.disposition(), Disposition::InsufficientInfo);
    cluster.add(lab.facts[1].clone()).unwrap();
    let paths = waymark_sim::predict(&cluster, &start, &flow);
    assert!(paths.needs.is_empty());
    assert_eq!(paths.branches[0].path.disposition(), Disposition::Delivered);
}
