//! Pods come and go as the API says: Deployments, host networking, hostPorts, deletion.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use waymark_proto::Protocol;

use crate::common::traffic::{PATIENT, talk};
use crate::{Kubernetes, able};

#[test]
fn a_deployment_is_scaled_up_and_down() {
    if !able("Deployments") {
        return;
    }
    let cluster = Kubernetes::shared();
    cluster.kubectl(&[
        "-n",
        "shop",
        "create",
        "deployment",
        "web",
        "--image=web",
        "--port=8080",
        "--replicas=4",
    ]);
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment", "web", "--timeout=120s"]);
    let pods = || -> Vec<_> {
        let records = cluster.testbed.instance().records().into_iter();
        records.filter(|pod| pod.name.starts_with("web-")).collect()
    };
    let running = pods();
    assert_eq!(running.len(), 4);
    let nodes: std::collections::BTreeSet<_> = running.iter().map(|pod| &pod.node).collect();
    assert_eq!(nodes.len(), 3, "nodes take turns");
    let from = cluster.netns("shop/cart");
    for pod in &running {
        let to = SocketAddr::new(IpAddr::V4(pod.ip.unwrap()), 8080);
        talk(&from, Protocol::Tcp, to, PATIENT).unwrap();
    }
    cluster.kubectl(&["-n", "shop", "scale", "deployment", "web", "--replicas=1"]);
    cluster.kubectl(&["-n", "shop", "delete", "deployment", "web"]);
    let listed = || cluster.kubectl(&["-n", "shop", "get", "pods", "-l", "app=web", "-o", "name"]);
    cluster.until("its pods are gone", || listed().is_empty());
    assert_eq!(pods(), []);
    assert!(cluster.testbed.leftovers().iter().all(|name| !name.contains("web-")));
}

#[test]
fn pods_of_the_host_and_ports_of_the_host() {
    if !able("hostNetwork and hostPort") {
        return;
    }
    let cluster = Kubernetes::shared();
    let pod = |name: &str, host_network: bool, port: serde_json::Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "shop" },
            "spec": {
                "nodeName": "node2", "hostNetwork": host_network,
                "containers": [{ "name": "app", "image": "none", "ports": [port] }],
            },
        })
    };
    let own = pod("own", true, json!({ "containerPort": 9001, "hostPort": 9001 }));
    let mapped = pod("mapped", false, json!({ "containerPort": 80, "hostPort": 9002 }));
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": [own, mapped] }));
    cluster.kubectl(&[
        "-n",
        "shop",
        "wait",
        "--for=condition=Ready",
        "pod/own",
        "pod/mapped",
        "--timeout=120s",
    ]);
    let from = cluster.netns("shop/cart");
    for port in [9001, 9002] {
        talk(&from, Protocol::Tcp, SocketAddr::new([172, 18, 0, 12].into(), port), PATIENT).unwrap();
    }
    let address = ["-n", "shop", "get", "pod", "own", "-o", "jsonpath={.status.podIP}"];
    assert_eq!(cluster.kubectl(&address), "172.18.0.12");
    // What cannot run says why: the port is taken.
    let second = pod("second", true, json!({ "containerPort": 9001, "hostPort": 9001 }));
    cluster.apply(&second);
    let waiting = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerError";
    cluster.kubectl(&["-n", "shop", "wait", &format!("--for={waiting}"), "pod/second", "--timeout=120s"]);
    let message = "jsonpath={.status.containerStatuses[0].state.waiting.message}";
    let message = cluster.kubectl(&["-n", "shop", "get", "pod", "second", "-o", message]);
    assert!(message.contains("TCP port 9001"), "{message}");
    cluster.kubectl(&["-n", "shop", "delete", "pod", "own", "mapped", "second"]);
    let rules = cluster.testbed.succeed(&["exec", "node2", "--", "iptables-save", "-t", "nat"]);
    assert!(!rules.contains("--dport 9002"), "{rules}");
}
