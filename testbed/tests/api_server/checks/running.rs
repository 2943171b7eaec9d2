//! The life of Checks.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use waymark_controller::kubernetes::Limits;
use waymark_controller::kubernetes::crd::Verdict;

use super::fakes::Fakes;
use super::ground::{Ground, connect, current, old, reason, truth};

fn spec(with: &Value) -> Value {
    let mut spec = json!({"source": {"pod": "cart"}, "destination": {"service": "pay", "port": 80}});
    for (name, value) in with.as_object().unwrap() {
        spec[name] = value.clone();
    }
    spec
}

#[tokio::test]
async fn on_kubernetes_1_20() {
    let Some(ground) = old("the life of a Check").await else { return };
    a_check_is_answered_asked_again_and_deleted(&ground).await;
}

#[tokio::test]
async fn on_a_current_server() {
    let Some(ground) = current("the life of a check").await else { return };
    a_check_is_answered_asked_again_and_deleted(&ground).await;
}

async fn a_check_is_answered_asked_again_and_deleted(ground: &Ground) {
    let fakes = Fakes::new();
    let (checks, notices) = fakes.start(&ground.connection, &ground.namespace, 8);
    let namespace = &ground.namespace;
    ground.create("good", spec(&json!({}))).await.unwrap();
    let good = ground.complete("good").await;
    let status = good.status.as_ref().unwrap();
    assert_eq!(status.verdict, Some(Verdict::Reachable), "{status:#?}");
    assert_eq!(status.source.as_deref(), Some(format!("pod/{namespace}/cart").as_str()));
    assert_eq!(status.destination.as_deref(), Some(format!("svc/{namespace}/pay:80").as_str()));
    assert_eq!((status.sent, status.replied), (Some(5), Some(5)));
    assert_eq!((truth(&good, "Succeeded").0, truth(&good, "Failed").0), ("True", "False"));
    assert!(status.start_time <= status.completion_time);
    assert_eq!(fakes.injections.load(Ordering::Relaxed), 1);

    let change = json!({"spec": {"expect": "Unreachable", "count": 3}});
    ground.checks().patch("good", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    let again = ground.complete("good").await;
    assert_eq!(again.metadata.generation, Some(2));
    assert_eq!(again.status.as_ref().unwrap().observed_generation, Some(2));
    assert_eq!(again.status.as_ref().unwrap().sent, Some(3));
    assert_eq!((truth(&again, "Succeeded").0, truth(&again, "Failed").0), ("False", "True"));
    assert_eq!(reason(&again), "NotAsExpected");
    assert_eq!(fakes.injections.load(Ordering::Relaxed), 2);

    let brief = ground.create("brief", spec(&json!({"ttlSecondsAfterFinished": 1}))).await.unwrap();
    ground.gone("brief", brief.metadata.uid.as_deref().unwrap()).await;
    assert_eq!(fakes.injections.load(Ordering::Relaxed), 3, "each generation is run once");
    assert_eq!(notices.all(), [""; 0]);
    assert_eq!(fakes.armed(), 0);
    let kept = fakes.history.list(9).await.unwrap().results;
    let askers: Vec<String> = kept.iter().map(|result| result.asker.to_string()).collect();
    let check = |name| format!("Check {namespace}/{name}");
    assert_eq!(askers, [check("brief"), check("good"), check("good")], "the last comes first");
    checks.stop().await;
}

#[tokio::test]
async fn what_cannot_be_asked_fails_with_a_sentence() {
    let Some(ground) = old("malformed Checks").await else { return };
    let fakes = Fakes::new();
    let (checks, _) = fakes.start(&ground.connection, &ground.namespace, 8);
    let namespace = &ground.namespace;
    for (name, with, why, sentence) in [
        (
            "late",
            json!({"timeout": "61s"}),
            "InvalidSpec",
            "spec.timeout must be 1ms to 60s, not \"61s\"".to_owned(),
        ),
        (
            "foreign",
            json!({"source": {"pod": "cart", "namespace": "default"}}),
            "NotPermitted",
            format!(
                "a Check in namespace {namespace} may send from pods of {namespace} only, not from pod/default/cart"
            ),
        ),
        ("node", json!({"source": {"node": "n1"}}), "NotPermitted", "not from node/n1".to_owned()),
        (
            "nobody",
            json!({"source": {"pod": "crat"}}),
            "NotFound",
            format!("there is no pod {namespace}/crat; did you mean {namespace}/cart"),
        ),
        (
            "closed",
            json!({"destination": {"service": "pay", "port": 81}}),
            "NotFound",
            format!("svc/{namespace}/pay has no port 81: it has 80/tcp"),
        ),
    ] {
        ground.create(name, spec(&with)).await.unwrap();
        let failed = ground.complete(name).await;
        let message = failed.status.as_ref().unwrap().message.clone().unwrap();
        assert!(message.contains(&sentence), "{message}");
        assert_eq!((truth(&failed, "Failed").0, reason(&failed)), ("True", why), "{name}");
    }
    assert_eq!(fakes.injections.load(Ordering::Relaxed), 0);
    checks.stop().await;
}

#[tokio::test]
async fn as_many_run_at_once_as_may() {
    let Some(ground) = old("Checks at once").await else { return };
    let fakes = Fakes::new();
    fakes.open(false);
    let (checks, _) = fakes.start(&ground.connection, &ground.namespace, 2);
    for name in ["a", "b", "c"] {
        ground.create(name, spec(&json!({}))).await.unwrap();
    }
    fakes.queue(2).await;
    let mut told = Vec::new();
    for name in ["a", "b", "c"] {
        let check = ground.wait(name, |check| check.status.is_some()).await;
        told.push(reason(&check).to_owned());
    }
    told.sort_unstable();
    assert_eq!(told, ["Queued", "Running", "Running"]);
    fakes.open(true);
    for name in ["a", "b", "c"] {
        assert_eq!(truth(&ground.complete(name).await, "Succeeded").0, "True");
    }
    assert_eq!((fakes.most_at_once(), fakes.injections.load(Ordering::Relaxed)), (2, 3));
    checks.stop().await;
}

#[tokio::test]
async fn one_that_waits_for_something_lets_others_run() {
    let Some(ground) = old("Checks that wait").await else { return };
    let fakes = Fakes::new();
    // Its pod is Pending for good, and the one slot is wanted by two more.
    let limits = Limits { at_once: 1, patience: Duration::from_secs(3600) };
    let (checks, _) = fakes.start_within(&ground.connection, &ground.namespace, limits);
    ground.create("patient", spec(&json!({"source": {"pod": "pending"}}))).await.unwrap();
    let waiting = ground.wait("patient", |check| reason(check) == "Waiting").await;
    let why = waiting.status.unwrap().message.unwrap();
    assert!(why.contains("has no address yet: it is Pending"), "{why}");
    for name in ["one", "other"] {
        ground.create(name, spec(&json!({}))).await.unwrap();
        assert_eq!(truth(&ground.complete(name).await, "Succeeded").0, "True");
    }
    // And it goes on: what it waits for may come at any time.
    let change = Patch::Merge(json!({"spec": {"source": {"pod": "cart"}}}));
    assert_eq!(reason(&ground.checks().get("patient").await.unwrap()), "Waiting");
    ground.checks().patch("patient", &PatchParams::default(), &change).await.unwrap();
    assert_eq!(truth(&ground.complete("patient").await, "Succeeded").0, "True");
    assert_eq!(fakes.most_at_once(), 1);
    checks.stop().await;
}

#[tokio::test]
async fn a_mistake_of_the_controller_ends_the_check() {
    let Some(ground) = old("mistakes").await else { return };
    let fakes = Fakes::new();
    fakes.breaks(true);
    let (checks, _) = fakes.start(&ground.connection, &ground.namespace, 8);
    ground.create("unlucky", spec(&json!({}))).await.unwrap();
    let ended = ground.complete("unlucky").await;
    assert_eq!((truth(&ended, "Failed").0, reason(&ended)), ("True", "CannotRun"));
    let message = ended.status.unwrap().message.unwrap();
    assert!(message.contains("(made to fail): that is a mistake in Waymark"), "{message}");

    // Whoever asks anew is answered.
    fakes.breaks(false);
    let change = Patch::Merge(json!({"spec": {"count": 2}}));
    ground.checks().patch("unlucky", &PatchParams::default(), &change).await.unwrap();
    assert_eq!(truth(&ground.complete("unlucky").await, "Succeeded").0, "True");
    assert_eq!(fakes.injections.load(Ordering::Relaxed), 1);
    checks.stop().await;
}

#[tokio::test]
async fn a_change_and_a_deletion_cancel_what_is_running() {
    let Some(ground) = old("cancelled Checks").await else { return };
    let fakes = Fakes::new();
    fakes.open(false);
    let (checks, _) = fakes.start(&ground.connection, &ground.namespace, 8);
    ground.create("changed", spec(&json!({}))).await.unwrap();
    fakes.queue(1).await;
    let change = Patch::Merge(json!({"spec": {"count": 2}}));
    ground.checks().patch("changed", &PatchParams::default(), &change).await.unwrap();
    // The first run has left the queue when the second enters it.
    ground
        .wait("changed", |check| check.status.as_ref().is_some_and(|s| s.observed_generation == Some(2)))
        .await;
    fakes.queue(1).await;
    assert_eq!(fakes.most_at_once(), 1);
    ground.checks().delete("changed", &DeleteParams::default()).await.unwrap();
    fakes.queue(0).await;
    checks.stop().await;
    assert_eq!(fakes.armed(), 0, "nothing stays armed");
}

#[tokio::test]
async fn a_check_survives_its_controller() {
    let Some(ground) = old("controllers that die").await else { return };
    let fakes = Fakes::new();
    fakes.open(false);
    ground.create("long", spec(&json!({}))).await.unwrap();

    // One that is stopped in the middle.
    let (checks, _) = fakes.start(&ground.connection, &ground.namespace, 8);
    fakes.queue(1).await;
    checks.stop().await;
    fakes.queue(0).await;
    assert_eq!(fakes.armed(), 0);
    let left = ground.checks().get("long").await.unwrap();
    assert_eq!((truth(&left, "Complete").0, reason(&left)), ("False", "Running"));

    // One that is killed: its runtime ends, and nobody says goodbye.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let kubeconfig = ground.kubeconfig.clone();
    let (theirs, namespace) = (std::sync::Arc::clone(&fakes), ground.namespace.clone());
    let doomed = runtime.spawn(async move { theirs.start(&connect(&kubeconfig).await, &namespace, 8) });
    let doomed = doomed.await.unwrap();
    fakes.queue(1).await;
    runtime.shutdown_background();
    fakes.queue(0).await;
    drop(doomed);

    // The next one runs it to its end, when agents have come back.
    fakes.open(true);
    fakes.attach(false);
    let patient = Limits { patience: Duration::from_secs(3600), ..Limits::default() };
    let (checks, _) = fakes.start_within(&ground.connection, &ground.namespace, patient);
    let waiting = ground.wait("long", |check| reason(check) == "Waiting").await;
    let why = waiting.status.unwrap().message.unwrap();
    assert!(why.contains("no agent is attached for node n1"), "{why}");
    fakes.attach(true);
    assert_eq!(truth(&ground.complete("long").await, "Succeeded").0, "True");
    assert_eq!((fakes.most_at_once(), fakes.injections.load(Ordering::Relaxed)), (1, 3));
    checks.stop().await;

    // And one that comes later leaves it alone.
    let (checks, _) = fakes.start(&ground.connection, &ground.namespace, 8);
    ground.create("other", spec(&json!({}))).await.unwrap();
    ground.complete("other").await;
    assert_eq!(fakes.injections.load(Ordering::Relaxed), 4);
    checks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_waits_and_shows() {
    let Some(ground) = old("kubectl and Checks").await else { return };
    let fakes = Fakes::new();
    let (checks, _) = fakes.start(&ground.connection, &ground.namespace, 8);
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("check.yaml");
    let write = |expect: &str| {
        let text = format!(
            "apiVersion: waymark.io/v1alpha1\nkind: Check\nmetadata: {{name: cart-to-pay}}\nspec:\n  \
             source: {{pod: cart}}\n  destination: {{service: pay, port: 80}}\n  expect: {expect}\n"
        );
        std::fs::write(&manifest, text).unwrap();
    };
    let kubectl = |arguments: &[&str]| {
        let output = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&ground.kubeconfig)
            .args(["--namespace", &ground.namespace])
            .args(arguments)
            .output()
            .expect("kubectl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let file = manifest.to_str().unwrap();
    for (expect, condition) in [("Reachable", "Succeeded"), ("Unreachable", "Failed")] {
        write(expect);
        kubectl(&["apply", "--filename", file]);
        for condition in ["Complete", condition] {
            let wait = format!("--for=condition={condition}");
            kubectl(&["wait", &wait, "check/cart-to-pay", "--timeout=120s"]);
        }
    }
    let table = kubectl(&["get", "wmc"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "SOURCE", "DESTINATION", "VERDICT", "FAULT", "AGE"]);
    let namespace = &ground.namespace;
    let (source, destination) = (format!("pod/{namespace}/cart"), format!("svc/{namespace}/pay:80"));
    assert_eq!(lines[1][..4], ["cart-to-pay", &source, &destination, "Reachable"]);
    // Both managers own what is theirs: an apply that drops a field removes it.
    let spec = kubectl(&["get", "check/cart-to-pay", "--output", "jsonpath={.spec.expect}"]);
    assert_eq!(spec, "Unreachable");
    assert!(kubectl(&["get", "waymark"]).contains("cart-to-pay"), "the category");
    checks.stop().await;
}
