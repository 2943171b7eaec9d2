//! What is broken in a cluster that is known from the API alone names its Kubernetes object: a policy, a
//! Service, a rule that kube-proxy did not write.

use std::process::Command;

use serde_json::json;
use waymark_proto::{CheckResult, Protocol, Verdict};
use waymark_testbed::Probe;

use crate::common::Testbed;
use crate::{Kubernetes, able, turn};

/// Lists the rules of Services.
const SERVICES: [&str; 3] = ["iptables-save", "-t", "nat"];
/// Lists the rules of NetworkPolicies.
const POLICIES: [&str; 3] = ["nft", "list", "ruleset"];

#[track_caller]
fn check(cluster: &Kubernetes, from: &str, to: &str) -> CheckResult {
    let (from, to) = (from.to_owned(), to.to_owned());
    let probe = Probe::new(from, to, Protocol::Tcp, false);
    probe.ask(&cluster.testbed.instance()).unwrap_or_else(|error| panic!("{error}")).0
}

#[track_caller]
fn culprit(result: &CheckResult) -> String {
    let point = result.fault_point.as_ref().unwrap_or_else(|| panic!("no fault point: {result:#?}"));
    point.culprit.as_ref().unwrap_or_else(|| panic!("no culprit: {point:#?}")).to_string()
}

/// Waits until a node's rules are so.
#[track_caller]
fn rules(cluster: &Kubernetes, node: &str, list: &[&str], so: &dyn Fn(&str) -> bool) {
    let listed = || cluster.testbed.succeed(&[&["exec", node, "--"], list].concat());
    cluster.until(&format!("the rules of {node}"), || so(&listed()));
}

#[test]
fn broken_flows_name_the_object_to_mend() {
    if !able("culprits on Kubernetes") {
        return;
    }
    let _turn = turn();
    let testbed = Testbed::named();
    testbed.succeed(&["up", "--kubernetes", "--dataplane", "bridge-vxlan"]);
    let cluster = Kubernetes { testbed };
    let (cart, pay) = ("pod/shop/cart", "svc/shop/pay:80");
    for to in [pay, "pod/shop/front:80", "pod/shop/pay-1:80"] {
        assert_eq!(check(&cluster, cart, to).verdict, Verdict::Reachable, "{to}");
    }

    // A policy that closes pay to all but front.
    cluster.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "only-front", "namespace": "shop" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "pay" } },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "front" } } }] }],
        },
    }));
    for node in ["node2", "node3"] {
        rules(&cluster, node, &POLICIES, &|rules| rules.contains("drop comment \"shop/only-front\""));
    }
    let denied = check(&cluster, cart, pay);
    assert_eq!(denied.verdict, Verdict::Unreachable);
    assert!(culprit(&denied).contains("only-front"), "{}", culprit(&denied));
    assert_eq!(check(&cluster, "pod/shop/front", pay).verdict, Verdict::Reachable);
    cluster.kubectl(&["-n", "shop", "delete", "networkpolicy", "only-front"]);
    for node in ["node2", "node3"] {
        rules(&cluster, node, &POLICIES, &|rules| !rules.contains("only-front"));
    }

    // A targetPort where nobody listens.
    let port = |port: u16| json!([{ "op": "replace", "path": "/spec/ports/0/targetPort", "value": port }]);
    let patch = |number| {
        cluster.kubectl(&[
            "-n",
            "shop",
            "patch",
            "service",
            "pay",
            "--type=json",
            "-p",
            &port(number).to_string(),
        ])
    };
    patch(8888);
    rules(&cluster, "node1", &SERVICES, &|rules| {
        rules.contains(":8888") && !rules.contains("10.244.2.10:80")
    });
    let wrong = check(&cluster, cart, pay);
    assert_eq!(wrong.verdict, Verdict::Unreachable);
    assert!(culprit(&wrong).contains("shop/pay"), "{}", culprit(&wrong));
    patch(80);
    rules(&cluster, "node1", &SERVICES, &|rules| !rules.contains(":8888"));
    assert_eq!(check(&cluster, cart, pay).verdict, Verdict::Reachable);

    // kube-proxy of one node stands still while the pods of a Service are others: its rules are stale.
    let proxy = |signal: &str| {
        let processes = cluster.testbed.instance().processes();
        let (_, pid) = processes.into_iter().find(|(role, _)| role == "kube-proxy-node1").unwrap();
        let status = Command::new("kill").args([signal, &pid.unwrap().to_string()]).status().unwrap();
        assert!(status.success());
    };
    proxy("-STOP");
    cluster.kubectl(&["-n", "shop", "delete", "pod", "pay-1", "pay-2"]);
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "pay-3", "namespace": "shop", "labels": { "app": "pay" } },
        "spec": { "nodeName": "node2", "containers": [
            { "name": "app", "image": "none", "ports": [{ "containerPort": 80 }] },
        ]},
    }));
    cluster.kubectl(&["-n", "shop", "wait", "--for=condition=Ready", "pod/pay-3", "--timeout=120s"]);
    let now = cluster.testbed.instance().records().into_iter().find(|pod| pod.name == "pay-3").unwrap();
    let target = format!("--to-destination {}:80", now.ip.unwrap());
    rules(&cluster, "node3", &SERVICES, &|rules| {
        rules.contains(&target) && !rules.contains("10.244.3.10:80")
    });
    let stale = check(&cluster, cart, pay);
    assert_eq!(stale.verdict, Verdict::Unreachable);
    assert!(culprit(&stale).contains("shop/pay"), "{}", culprit(&stale));
    proxy("-CONT");
    rules(&cluster, "node1", &SERVICES, &|rules| rules.contains(&target));
    assert_eq!(check(&cluster, cart, pay).verdict, Verdict::Reachable);
}
