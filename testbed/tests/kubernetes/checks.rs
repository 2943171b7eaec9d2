//! Checks against what real programs made of the API's objects: the controller knows the cluster from the API
//! alone, and agents find pods by their addresses.

use std::path::Path;

use waymark_proto::{CheckResult, Disposition, Protocol, Verdict};
use waymark_testbed::{Instance, Probe, Programs};

use crate::common::{PROGRAM, text};
use crate::{Kubernetes, able};

fn probe(from: &str, to: &str) -> Probe {
    let protocol = match to.rsplit_once(':') {
        None => Protocol::Icmp,
        Some((_, "53")) => Protocol::Udp,
        Some(_) => Protocol::Tcp,
    };
    Probe::new(from.to_owned(), to.to_owned(), protocol, false)
}

/// The instance, with the programs that were built beside the one under test.
fn programs(cluster: &Kubernetes) -> Instance {
    let folder = Path::new(PROGRAM).parent().expect("a file is in a folder");
    Instance::new(&cluster.testbed.name, Programs::find(Some(folder.into())).unwrap()).unwrap()
}

#[track_caller]
fn ask(cluster: &Kubernetes, from: &str, to: &str) -> CheckResult {
    probe(from, to).ask(&programs(cluster)).unwrap().0
}

/// Reachable, as was predicted to the last step on both ways.
#[track_caller]
fn works(cluster: &Kubernetes, from: &str, to: &str) {
    let result = ask(cluster, from, to);
    assert_eq!(result.verdict, Verdict::Reachable, "{from} → {to}: {result:#?}");
    assert!(result.model_errors.is_empty(), "{from} → {to}: {:#?}", result.model_errors);
    let back = result.return_.as_ref().expect("there is a way back");
    for walk in [&result.forward, back] {
        assert_eq!(walk.predicted, Some(Disposition::Delivered), "{from} → {to}: {:#?}", result.notes);
    }
}

/// The one sentence with which a question is refused.
#[track_caller]
fn refusal(cluster: &Kubernetes, from: &str, to: &str) -> String {
    let output = probe(from, to).command(&programs(cluster)).unwrap().output().unwrap();
    assert!(output.status.code().is_some_and(|code| code > 2), "{output:?}");
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    error.trim_end().to_owned()
}

#[test]
fn the_rules_of_kube_proxy_are_predicted_and_observed() {
    if !able("checks on Kubernetes") {
        return;
    }
    let cluster = Kubernetes::watched();
    for (from, to) in [
        ("pod/shop/cart", "svc/shop/pay:80"),
        ("pod/shop/cart", "svc/shop/dns:53"),
        ("node/node1", "svc/shop/pay:80"),
        // Its own backend: there and back by masquerading.
        ("pod/shop/stock", "svc/shop/stock:8080"),
        ("pod/shop/cart", "pod/shop/front:80"),
        ("pod/shop/cart", "pod/shop/pay-1"),
        ("pod/shop/cart", "node/node2"),
    ] {
        works(&cluster, from, to);
    }
    let empty = ask(&cluster, "pod/shop/cart", "svc/shop/empty:80");
    assert_eq!(empty.verdict, Verdict::Unreachable);
    let fault = empty.fault_point.expect("a fault");
    assert_eq!(
        (fault.cause.to_string().as_str(), fault.node.as_str()),
        ("service-without-endpoints", "node1")
    );
}

#[test]
fn node_ports_and_pods_on_the_network_of_their_node() {
    if !able("node ports on Kubernetes") {
        return;
    }
    let cluster = Kubernetes::watched();
    cluster.kubectl(&["-n", "shop", "expose", "pod", "mail", "--name=door", "--type=NodePort", "--port=80"]);
    let port =
        cluster.kubectl(&["-n", "shop", "get", "service", "door", "-o=jsonpath={.spec.ports[0].nodePort}"]);
    cluster.until("kube-proxy has the rules of every node", || {
        ["node1", "node2"].iter().all(|node| {
            cluster
                .testbed
                .succeed(&["exec", node, "--", "iptables-save", "-t", "nat"])
                .contains(&format!("--dport {port}"))
        })
    });
    works(&cluster, "pod/shop/cart", &format!("node/node2:{port}"));
    works(&cluster, "node/node1", &format!("node/node1:{port}"));
    cluster.kubectl(&["-n", "shop", "delete", "service", "door"]);

    cluster.apply(&serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "onhost", "namespace": "shop"},
        "spec": {"nodeName": "node2", "hostNetwork": true, "containers": [
            {"name": "c", "image": "none", "ports": [{"containerPort": 9100, "hostPort": 9100}]}]},
    }));
    cluster.kubectl(&["-n", "shop", "wait", "--for=condition=Ready", "pod/onhost", "--timeout=120s"]);
    cluster.until("the controller knows its address", || {
        probe("pod/shop/cart", "pod/shop/onhost:9100").ask(&programs(&cluster)).is_ok()
    });
    works(&cluster, "pod/shop/cart", "pod/shop/onhost:9100");
    works(&cluster, "pod/shop/onhost", "pod/shop/cart:80");
    cluster.kubectl(&["-n", "shop", "delete", "pod", "onhost"]);
}

#[test]
fn pods_are_known_as_they_come_and_go() {
    if !able("pods that come and go on Kubernetes") {
        return;
    }
    let cluster = Kubernetes::watched();
    let pod = |name: &str, node: &str| {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"nodeName": node, "containers": [
                {"name": "c", "image": "none", "ports": [{"containerPort": 80}]}]},
        })
    };
    cluster.apply(&pod("nowhere", "node9"));
    cluster.until("the controller knows the pod", || {
        !refusal(&cluster, "pod/shop/cart", "pod/shop/nowhere").contains("there is no pod")
    });
    assert_eq!(
        refusal(&cluster, "pod/shop/cart", "pod/shop/nowhere"),
        "waymark: error: pod shop/nowhere has no address yet: it is Pending on node9"
    );
    cluster.kubectl(&["-n", "shop", "delete", "pod", "nowhere", "--grace-period=0", "--force"]);

    // The same pod twice, in two namespaces of one name.
    for _ in 0..2 {
        cluster.apply(&pod("guest", "node3"));
        cluster.kubectl(&["-n", "shop", "wait", "--for=condition=Ready", "pod/guest", "--timeout=120s"]);
        cluster.until("the controller knows its address", || {
            probe("pod/shop/cart", "pod/shop/guest:80").ask(&programs(&cluster)).is_ok()
        });
        works(&cluster, "pod/shop/cart", "pod/shop/guest:80");
        works(&cluster, "pod/shop/guest", "svc/shop/pay:80");
        cluster.kubectl(&["-n", "shop", "delete", "pod", "guest", "--timeout=120s"]);
        cluster.until("the controller knows that it is gone", || {
            probe("pod/shop/cart", "pod/shop/guest:80").ask(&programs(&cluster)).is_err()
        });
    }
    assert!(refusal(&cluster, "pod/shop/guest", "pod/shop/cart").contains("there is no pod shop/guest"));
}
