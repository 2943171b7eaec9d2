//! Changes on a real dataplane: what is good stays, what is harmful goes, whatever interrupts.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::text;
use crate::{Kubernetes, able, turn};

fn apply(cluster: &Kubernetes, objects: &[Value]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    std::fs::write(file.path(), list.to_string()).unwrap();
    cluster.kubectl(&["apply", "-f", file.path().to_str().unwrap()]);
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "tried", "labels": { "app": name } },
        "spec": { "nodeName": node, "containers": [{
            "name": "app", "image": "none", "ports": [{ "name": "web", "containerPort": 80 }],
        }]},
    })
}

/// The client, beside the testbed's program.
fn client() -> PathBuf {
    PathBuf::from(crate::common::PROGRAM).with_file_name("waymark")
}

fn command(cluster: &Kubernetes, change: &str, more: &[&str]) -> (Command, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), change).unwrap();
    let instance = cluster.testbed.instance();
    let mut command = Command::new(client());
    command.arg("validate").arg("-f").arg(file.path());
    command.arg("--kubeconfig").arg(instance.dir().kubernetes().kubeconfig());
    command.arg("--controller").arg(instance.dir().controller()).args(["-o", "json"]).args(more);
    (command, file)
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)))
}

fn validate(cluster: &Kubernetes, change: &str, more: &[&str]) -> (i32, Value) {
    let (mut command, _file) = command(cluster, change, more);
    let output = command.output().unwrap();
    (output.status.code().unwrap(), report(&output))
}

/// Only pods of this app may send to the pods of `pay`.
fn only(app: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: validated, namespace: tried}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: pay}}}}\n  policyTypes: [Ingress]\n  \
         ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]}}]\n"
    )
}

fn policies(cluster: &Kubernetes) -> String {
    cluster.kubectl(&["-n", "tried", "get", "networkpolicies", "-o", "jsonpath={.items[*].spec.ingress}"])
}

#[test]
fn changes_are_tried_and_stay_only_if_they_do_no_harm() {
    if !able("validation on Kubernetes") {
        return;
    }
    // A change that should make no difference is watched for some seconds: by then kube-proxy must have taken it in,
    // and would not while another control plane starts.
    let _turn = turn();
    let cluster = Kubernetes::watched();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "tried" } });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "pay", "namespace": "tried" },
        "spec": { "selector": { "app": "pay" }, "ports": [{ "port": 80, "targetPort": 80, "protocol": "TCP" }] },
    });
    let pods = [pod("pay", "node1"), pod("cart", "node1"), pod("web", "node2"), service];
    apply(&cluster, &[[namespace].as_slice(), &pods].concat());
    cluster.kubectl(&["-n", "tried", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
    let before = policies(&cluster);

    let (code, lost) = validate(&cluster, &only("cart"), &[]);
    assert_eq!((code, &lost["state"]), (2, &"RolledBack".into()), "{lost:#}");
    let checks = lost["checks"].as_array().unwrap();
    let cut = checks.iter().find(|check| check["judgement"] == "Lost").expect("a lost connection");
    assert_eq!(cut["faultPoint"]["culprit"]["name"], "validated", "{cut:#}");
    assert_eq!(lost["rollback"]["back"], checks.len(), "{lost:#}");
    assert_eq!(policies(&cluster), before);

    let (code, kept) = validate(&cluster, &only("cart"), &["--accept-lost"]);
    assert_eq!(
        (code, &kept["state"], &kept["outcome"]),
        (1, &"Applied".into(), &"AsPredicted".into()),
        "{kept:#}"
    );
    assert!(kept["settledMs"].is_u64(), "{kept:#}");
    let (code, gone) = validate(&cluster, &only("cart"), &["--delete"]);
    assert_eq!(
        (code, &gone["state"], &gone["outcome"]),
        (1, &"Applied".into(), &"AsPredicted".into()),
        "{gone:#}"
    );
    assert_eq!(policies(&cluster), before);

    // The objects allow it, and nobody listens: only packets tell.
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: pay, namespace: tried}\nspec:\n  \
        selector: {app: pay}\n  ports: [{port: 80, targetPort: 8081, protocol: TCP}]\n";
    let (code, broken) = validate(&cluster, service, &["--force-conflicts", "--settle", "5s"]);
    assert_eq!((code, &broken["state"]), (2, &"RolledBack".into()), "{broken:#}");
    let checks = broken["checks"].as_array().unwrap();
    let broken = checks.iter().find(|check| check["judgement"] == "Broken").expect("a broken connection");
    assert_eq!(broken["faultPoint"]["cause"], "no-listener", "{broken:#}");
    let port = ["-n", "tried", "get", "service", "pay", "-o", "jsonpath={.spec.ports[0].targetPort}"];
    assert_eq!(cluster.kubectl(&port), "80");

    // Interrupted while it waits for what will never be.
    let (mut command, _file) = command(&cluster, service, &["--force-conflicts", "--settle", "300s"]);
    let running = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while cluster.kubectl(&port) == "80" {
        assert!(std::time::Instant::now() < deadline, "it is never applied");
    }
    let interrupted = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = running.wait_with_output().unwrap();
    let report = report(&output);
    assert_eq!((output.status.code(), &report["outcome"]), (Some(2), &"Interrupted".into()), "{report:#}");
    assert_eq!((&report["state"], cluster.kubectl(&port).as_str()), (&"RolledBack".into(), "80"));
}
