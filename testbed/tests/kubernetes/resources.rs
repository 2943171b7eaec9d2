//! Checks as objects of the API, run by the real controller with real agents; and kubectl's plugin.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{PROGRAM, text};
use crate::{Kubernetes, able};

fn create(cluster: &Kubernetes, name: &str, spec: &Value) {
    cluster.apply(&json!({
        "apiVersion": "waymark.io/v1alpha1", "kind": "Check",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    }));
}

/// The object, once a condition is true.
#[track_caller]
fn when(cluster: &Kubernetes, name: &str, condition: &str) -> Value {
    let (condition, name) = (format!("--for=condition={condition}"), format!("check/{name}"));
    cluster.kubectl(&["-n", "shop", "wait", &condition, &name, "--timeout=120s"]);
    serde_json::from_str(&cluster.kubectl(&["-n", "shop", "get", &name, "-o", "json"])).unwrap()
}

#[test]
fn checks_are_objects_of_the_api() {
    if !able("Checks as objects on Kubernetes") {
        return;
    }
    let cluster = Kubernetes::watched();
    let to = |destination: &Value| json!({"source": {"pod": "cart"}, "destination": destination});
    create(&cluster, "works", &to(&json!({"service": "pay", "port": 80})));
    create(&cluster, "fails", &to(&json!({"service": "empty", "port": 80})));
    create(&cluster, "foreign", &json!({"source": {"node": "node1"}, "destination": {"pod": "cart"}}));

    let works = when(&cluster, "works", "Succeeded");
    let status = &works["status"];
    assert_eq!((&status["verdict"], &status["replied"]), (&json!("Reachable"), &json!(5)), "{status:#}");
    assert_eq!(status["forward"]["predicted"], "delivered", "{status:#}");
    assert!(status["roundTrip"]["medianMicroseconds"].as_u64().is_some_and(|rtt| rtt > 0), "{status:#}");
    assert_eq!(status["intent"]["expectation"], "allowed", "{status:#}");

    let fails = when(&cluster, "fails", "Failed");
    let fault = &fails["status"]["faultPoint"];
    assert_eq!((&fault["cause"], &fault["node"]), (&json!("service-without-endpoints"), &json!("node1")));
    assert_eq!(fault["culprit"], json!({"kind": "Service", "namespace": "shop", "name": "empty"}));
    let row = cluster.kubectl(&["-n", "shop", "get", "check", "fails", "--no-headers"]);
    assert!(row.contains("service-without-endpoints on node1"), "{row}");

    let foreign = when(&cluster, "foreign", "Complete");
    assert_eq!(foreign["status"]["conditions"][0]["reason"], "NotPermitted");
    cluster.kubectl(&["-n", "shop", "delete", "checks", "--all"]);
}

#[test]
fn kubectl_has_a_plugin() {
    if !able("kubectl's plugin on Kubernetes") {
        return;
    }
    let cluster = Kubernetes::watched();
    let folder = tempfile::tempdir().unwrap();
    let client = Path::new(PROGRAM).with_file_name("waymark");
    symlink(client, folder.path().join("kubectl-waymark")).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let path = std::iter::once(folder.path().to_owned()).chain(std::env::split_paths(&path));
    let instance = cluster.testbed.instance();
    let dir = instance.dir();
    let output = Command::new("kubectl")
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("KUBECONFIG", dir.kubernetes().kubeconfig())
        .args(["waymark", "check", "pod/cart", "svc/pay:80", "-n", "shop", "--controller", &dir.controller()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("pod/shop/cart") && said.contains("svc/shop/pay:80"), "{said}");
    assert!(said.contains("Reachable"), "{said}");
}
