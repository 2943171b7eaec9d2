//! Golden texts.

use waymark_proto::{CheckResult, Deviation, DeviationKind, IntentReport, ObjectRef};

use super::*;

fn result(name: &str) -> CheckResult {
    let text = match name {
        "unreachable" => include_str!("../../tests/data/unreachable.json"),
        "wire" => include_str!("../../tests/data/wire.json"),
        "reachable" => include_str!("../../tests/data/reachable.json"),
        other => unreachable!("no such result: {other}"),
    };
    serde_json::from_str(text).unwrap()
}

pub(crate) fn unreachable() -> CheckResult {
    result("unreachable")
}

fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/data/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    // UPDATE_GOLDEN=1 writes what is now printed; look at the difference before committing it.
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{path}");
}

#[test]
fn checks_read_like_this() {
    for name in ["unreachable", "wire", "reachable"] {
        golden(name, &check(&result(name), Paint::new(false)));
    }
}

/// The check of `unreachable`, with what Kubernetes' objects say about it.
fn with_intent(intent: &str, deviations: Vec<Deviation>, blamed: usize) -> CheckResult {
    let mut result = unreachable();
    let fault = result.fault_point.as_mut().unwrap();
    for deviation in &deviations[..blamed] {
        fault.culprit = Some(deviation.culprit.clone());
        fault.evidence.push(deviation.summary.clone());
    }
    result.intent = Some(IntentReport { intent: serde_json::from_str(intent).unwrap(), deviations });
    result
}

fn deviation(kind: DeviationKind, culprit: (&str, &str), summary: &str) -> Deviation {
    Deviation {
        kind,
        culprit: ObjectRef::namespaced(culprit.0, "shop", culprit.1),
        node: None,
        endpoint: None,
        rule: None,
        summary: summary.to_owned(),
        advice: "look at it with `kubectl`".to_owned(),
    }
}

/// The lines that tell of intent.
fn told(result: &CheckResult) -> String {
    let text = check(result, Paint::new(false));
    let (head, rest) = text.split_once("\n\nThe way there").unwrap();
    let (_, fault) = rest.split_once("\n\n").unwrap();
    format!("{head}\n\n{fault}")
}

#[test]
fn intent_reads_like_this() {
    let denied = r#"{"expectation": "denied", "receivers": [{"pod": "shop/pay-1", "address": "10.244.2.10", "port": 80,
        "admission": {"verdict": "denied", "by": [{"direction": "Ingress", "pod": "shop/pay-1",
            "policies": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "deny"}]}]}}]}"#;
    let summary = "NetworkPolicy shop/deny denies ingress to shop/pay-1: it has no rule that admits what goes from shop/cart (app=cart) on 80/tcp";
    let policy = deviation(DeviationKind::PolicyDenied, ("NetworkPolicy", "deny"), summary);
    golden("denied", &told(&with_intent(denied, vec![policy], 1)));

    let service = r#"{"expectation": "partly", "service": {"kind": "Service", "namespace": "shop", "name": "pay"},
        "receivers": [
            {"pod": "shop/pay-1", "address": "10.244.2.10", "port": 80, "admission": {"verdict": "allowed"}},
            {"pod": "shop/pay-2", "address": "10.244.2.11", "port": 80, "admission": {"verdict": "denied", "by": [
                {"direction": "Egress", "pod": "shop/cart", "policies": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "out"}]}]}}]}"#;
    let open = deviation(
        DeviationKind::NotEnforced,
        ("NetworkPolicy", "out"),
        "it is denied, and nothing enforces that",
    );
    let missing =
        deviation(DeviationKind::MissingServiceRule, ("Service", "pay"), "no rule on node1 leads there");
    golden("partly", &told(&with_intent(service, vec![missing, open], 0)));
}

#[test]
fn deviations_with_one_remedy_are_told_together() {
    let many: Vec<Deviation> = (0..8)
        .map(|n| {
            deviation(DeviationKind::WrongEndpoint, ("Service", "pay"), &format!("endpoint {n} is wrong"))
        })
        .collect();
    let text = told(&with_intent(r#"{"expectation": "allowed"}"#, many, 0));
    assert_eq!(text.matches("Not as intended: ").count(), 5);
    assert_eq!(text.matches("Culprit:  Service shop/pay").count(), 1);
    assert!(text.contains("endpoint 4 is wrong\n  and 3 more like these\n"), "{text}");
}

#[test]
fn expectations_read_like_this() {
    let said = |intent: &str| {
        let text = check(&with_intent(intent, Vec::new(), 0), Paint::new(false));
        text.lines().find_map(|line| line.strip_prefix("Intended: ")).unwrap().to_owned()
    };
    let receiver = |admission: &str| {
        said(&format!(
            r#"{{"expectation": "allowed", "receivers": [{{"address": "10.244.2.10", "admission": {admission}}}]}}"#
        ))
    };
    assert_eq!(receiver(r#"{"verdict": "allowed"}"#), "allowed, no NetworkPolicy isolates either end");
    assert_eq!(
        receiver(r#"{"verdict": "notSubject", "why": "ownNode"}"#),
        "allowed, policies have no say between a pod and its own node"
    );
    assert_eq!(
        said(
            r#"{"expectation": "noEndpoints", "service": {"kind": "Service", "namespace": "shop", "name": "pay"}}"#
        ),
        "Service shop/pay: it has no ready endpoints"
    );
    assert_eq!(
        said(
            r#"{"expectation": "unknown", "receivers": [{"address": "10.244.2.99", "admission": {"verdict": "unknown", "why": "no pod has it"}}]}"#
        ),
        "unknown, no pod has it"
    );
}

#[test]
fn colour_changes_no_words() {
    let painted = check(&result("wire"), Paint::new(true));
    assert!(painted.contains("\x1b["));
    let mut plain = String::new();
    let mut rest = painted.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    assert_eq!(plain, check(&result("wire"), Paint::new(false)));
}
