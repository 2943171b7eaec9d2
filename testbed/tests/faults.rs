//! Every fault breaks its traffic, and its undoing heals it and leaves nothing behind.

mod common;

use common::traffic::{PATIENT, SHORT, ask};
use common::{Testbed, privileged, text};
use waymark_testbed::{CATALOGUE, Cluster};

/// What a fault could leave behind, by namespace: rules, routes, addresses, devices, neighbours that were
/// set by hand, forwarding entries, queues, settings.
fn configuration(testbed: &Testbed, cluster: &Cluster) -> Vec<String> {
    const COMMANDS: &str = "nft -s list ruleset; iptables-nft-save; ip -4 route show table all; \
        ip -6 route show table all; ip -br address; ip neigh show nud permanent; bridge fdb show; \
        bridge -d link | grep -o 'master.*\\|hairpin o[nf]*'; tc qdisc; cd /proc/sys/net/ipv4; \
        grep . ip_forward conf/*/rp_filter conf/*/forwarding";
    let mut all = Vec::new();
    let nodes = cluster.nodes.iter().map(|node| node.name.clone());
    let pods = cluster.pods.iter().map(|pod| pod.full_name.clone());
    for target in nodes.chain(pods).chain(["fabric".into()]) {
        let listed = testbed.succeed(&["exec", &target, "--", "sh", "-c", COMMANDS]);
        let mut lines: Vec<_> = listed.lines().filter(|line| !line.starts_with('#')).map(plain).collect();
        lines.sort();
        all.extend(lines.into_iter().map(|line| format!("{target}: {line}")));
    }
    all
}

/// Without the counters of `iptables-save`, and without interface indices, which a device that was made
/// anew does not get back.
fn plain(line: &str) -> String {
    let line = line.split('[').next().unwrap_or(line);
    line.split_whitespace().filter(|word| !word.starts_with('@')).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn every_fault_breaks_and_heals(args: &[&str]) {
    if !privileged("injecting faults") {
        return;
    }
    let testbed = Testbed::up(args);
    let (instance, cluster) = (testbed.instance(), testbed.cluster());
    let before = configuration(&testbed, &cluster);
    let faults =
        CATALOGUE.into_iter().flatten().filter(|fault| fault.dataplanes.contains(&cluster.dataplane));
    let mut count = 0;
    for fault in faults {
        let probe = fault.probe(&cluster).unwrap();
        let lasting = fault.name == "service-without-endpoints";
        if !lasting {
            ask(&cluster, &probe, PATIENT).unwrap_or_else(|e| panic!("before {}: {probe}: {e}", fault.name));
        }
        testbed.succeed(&["fault", "inject", fault.name]);
        assert!(ask(&cluster, &probe, SHORT).is_err(), "{} does not break {probe}", fault.name);
        assert!(testbed.succeed(&["status"]).contains(&format!("faults: {}\n", fault.name)));
        testbed.succeed(&["fault", "clear", fault.name]);
        if !lasting {
            ask(&cluster, &probe, PATIENT).unwrap_or_else(|e| panic!("after {}: {probe}: {e}", fault.name));
        }
        let after = configuration(&testbed, &cluster);
        let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        assert!(gone.is_empty() && new.is_empty(), "{} leaves {new:#?} and takes {gone:#?}", fault.name);
        assert_eq!(before.len(), after.len(), "{}", fault.name);
        count += 1;
    }
    assert!(count >= 10, "{count}");
    assert!(instance.state().unwrap().faults.is_empty());
}

#[test]
fn bridge_hostgw() {
    every_fault_breaks_and_heals(&["--dataplane", "bridge-hostgw"]);
}

#[test]
fn bridge_vxlan() {
    every_fault_breaks_and_heals(&["--dataplane", "bridge-vxlan"]);
}

#[test]
fn routed() {
    every_fault_breaks_and_heals(&["--dataplane", "routed"]);
}

#[test]
fn with_services_by_nftables() {
    every_fault_breaks_and_heals(&["--dataplane", "bridge-vxlan", "--proxy", "nftables"]);
}

#[test]
fn a_guard_undoes_its_fault() {
    if !privileged("injecting faults") {
        return;
    }
    let testbed = Testbed::up(&[]);
    let (instance, cluster) = (testbed.instance(), testbed.cluster());
    let before = configuration(&testbed, &cluster);
    let forward = instance.inject(waymark_testbed::fault("forward-drop").unwrap()).unwrap();
    let route = instance.inject(waymark_testbed::fault("blackhole-route").unwrap()).unwrap();
    assert_ne!(configuration(&testbed, &cluster), before);
    // In another order than they came.
    drop(forward);
    drop(route);
    assert_eq!(configuration(&testbed, &cluster), before);
}

#[test]
fn wrong_commands_change_nothing() {
    if !privileged("injecting faults") {
        return;
    }
    let testbed = Testbed::up(&["--dataplane", "routed"]);
    assert!(testbed.fail(3, &["fault", "inject", "wrong-vni"]).contains("not for the routed dataplane"));
    assert!(testbed.fail(3, &["fault", "inject", "gremlins"]).contains("fault list"));
    assert!(testbed.fail(3, &["fault", "clear", "forward-drop"]).contains("not injected"));
    assert!(testbed.succeed(&["fault", "clear"]).contains("nothing"));
    testbed.succeed(&["fault", "inject", "forward-drop"]);
    assert!(testbed.fail(3, &["fault", "inject", "forward-drop"]).contains("already injected"));
    let list = testbed.run(&["fault", "list"]);
    assert!(text(&list.stdout).contains("forward-drop (injected)"));
    assert_eq!(testbed.instance().state().unwrap().faults.len(), 1);
}
