//! Golden texts.

mod faults;
mod hostile;

use waymark_proto::{
    Action, Anomaly, AnomalyKind, Branch, CheckResult, Deviation, DeviationKind, Disposition, Hook,
    HookReport, IntentReport, NotObservable, ObjectRef, Observability, Path, PathSet, Place, Share, Span,
    SpanEnd, Step, Text,
};

use super::*;
use crate::args::Expect;

fn read(name: &str) -> CheckResult {
    let text = match name {
        "unreachable" => include_str!("../../tests/data/unreachable.json"),
        "wire" => include_str!("../../tests/data/wire.json"),
        "reachable" => include_str!("../../tests/data/reachable.json"),
        other => unreachable!("no such result: {other}"),
    };
    serde_json::from_str(text).unwrap()
}

pub(crate) fn unreachable() -> CheckResult {
    read("unreachable")
}

fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    // UPDATE_GOLDEN=1 writes what is now printed; look at the difference before committing it.
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{path}");
}

const NAMES: [&str; 3] = ["unreachable", "wire", "reachable"];

#[test]
fn checks_read_like_this() {
    for name in NAMES {
        golden(&format!("{name}.txt"), &check(&read(name), false, Paint::new(false)));
        golden(&format!("{name}-explained.txt"), &check(&read(name), true, Paint::new(false)));
    }
}

/// A result in a format.
fn shown(result: &CheckResult, format: ResultFormat) -> String {
    let manner = Manner { format, explain: false, expect: Expect::Reachable, language: Language::En };
    super::result(result, manner, Paint::new(false)).unwrap()
}

#[test]
fn checks_look_like_this() {
    for (format, ending) in [
        (ResultFormat::Dot, "dot"),
        (ResultFormat::Svg, "svg"),
        (ResultFormat::Junit, "junit.xml"),
        (ResultFormat::Markdown, "md"),
    ] {
        for name in ["wire", "reachable"] {
            golden(&format!("{name}.{ending}"), &shown(&read(name), format));
        }
    }
}

#[test]
fn yaml_is_the_document_too() {
    for name in NAMES {
        let mut result = read(name);
        // What a careless writer would not quote: YAML has a number of this form.
        result.check = "12345e67".parse().unwrap();
        result.notes =
            ["yes", "1e3", "~", "- a", "# b", "a: b", "0x1f", "null", " c "].map(Text::verbatim).into();
        let yaml = shown(&result, ResultFormat::Yaml);
        let value: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(value, serde_json::to_value(&result).unwrap());
        assert!(yaml.contains("verdict: "), "{yaml}");
    }
}

#[test]
fn a_test_report_follows_the_expectation() {
    let report = |result: &CheckResult, expect| {
        super::result(
            result,
            Manner { format: ResultFormat::Junit, explain: false, expect, language: Language::En },
            Paint::new(false),
        )
        .unwrap()
    };
    let mut result = unreachable();
    assert!(report(&result, Expect::Reachable).contains("failures=\"1\" errors=\"0\""));
    assert!(report(&result, Expect::Unreachable).contains("failures=\"0\" errors=\"0\""));
    result.verdict = Verdict::Undetermined;
    assert!(report(&result, Expect::Unreachable).contains("failures=\"0\" errors=\"1\""));
}

#[test]
fn branches_share_their_way_until_they_part() {
    let path = |last: &str| {
        let mut steps = read("reachable").forward.steps.into_iter().filter_map(|step| step.predicted);
        let mut steps: Vec<_> = steps.by_ref().take(3).collect();
        steps.push(Step::new(Place::new(last, "pod"), Hook::Socket, Action::Delivered));
        Path::new(Disposition::Delivered, steps).unwrap()
    };
    let branch =
        |probability, last| Branch { probability, choices: Vec::new(), path: path(last), answer: Vec::new() };
    let foreseen = Prediction {
        api_version: String::new(),
        kind: String::new(),
        source: "pod/shop/cart".into(),
        destination: "svc/shop/pay:80".into(),
        flow: unreachable().flow,
        intent: None,
        paths: PathSet { branches: vec![branch(0.75, "node2"), branch(0.25, "node3")], ..PathSet::default() },
        notes: Vec::new(),
    };
    let dot = foresight(&foreseen, PredictionFormat::Dot, Language::En, Paint::new(false));
    assert_eq!(dot.matches("label=\"netfilter-output").count(), 1, "{dot}");
    assert!(dot.contains("label=\"75 %\"") && dot.contains("label=\"25 %\""), "{dot}");
    let svg = foresight(&foreseen, PredictionFormat::Svg, Language::En, Paint::new(false));
    assert!(svg.contains("Branch 2 of 2, 25 %: delivered"), "{svg}");
    let chinese = foresight(&foreseen, PredictionFormat::Text, Language::Zh, Paint::new(false));
    assert!(chinese.starts_with("预测：pod/shop/cart → svc/shop/pay:80（"), "{chinese}");
    assert!(chinese.contains("\n第 2 条分支（共 2 条），25 %：送达\n"), "{chinese}");
}

#[test]
fn what_happens_to_packets_that_arrive_reads_like_this() {
    let end = |node: &str, hook| SpanEnd {
        node: node.into(),
        netns: "host".into(),
        hook,
        device: Some("eth0".into()),
    };
    let delay = Anomaly {
        kind: AnomalyKind::Delay,
        node: "node1".into(),
        netns: "host".into(),
        device: Some("eth0".into()),
        hook: Hook::Wire,
        direction: Direction::Forward,
        span: Span { last_seen: end("node1", Hook::DriverTx), first_missing: end("node2", Hook::DriverRx) },
        share: Share::new(4, 5),
        delay_ns: Some(50_120_000),
        instead: None,
        object: None,
        advice: text!(advice::DelayInReceiver { node: "node1" }),
    };
    let doubled = Anomaly {
        kind: AnomalyKind::Duplication,
        hook: Hook::Qdisc,
        direction: Direction::Return,
        ..delay.clone()
    };
    let result = CheckResult { anomalies: vec![delay, doubled], ..read("reachable") };
    for (language, parts) in [
        (
            Language::En,
            [
                "Delay: held up for 50.1 ms between node1 (driver-tx eth0) and node2 (driver-rx eth0), both ways together\n  Packets:  4 of 5 that arrived\nNext: on node1",
                "Duplication: answers are doubled on node1 in qdisc eth0\n",
            ],
        ),
        (
            Language::Zh,
            [
                "延迟：报文在 node1（driver-tx eth0）与 node2（driver-rx eth0）之间（往返合计）被延迟了 50.1 ms\n  报文：已到达的 5 个中的 4 个\n下一步：在 node1",
                "重复：应答在 node1 的 qdisc eth0 处被重复\n",
            ],
        ),
    ] {
        let said = check(&result, false, Paint::new(false).in_language(language));
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
    }
    let report = junit::junit(&result, Expect::Reachable, Language::En).unwrap();
    assert!(report.contains("\nheld up for 50.1 ms between node1"), "{report}");
    assert!(report.contains("\nanswers are doubled on node1 in qdisc eth0"), "{report}");
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
        summary: Text::verbatim(summary),
        advice: Text::verbatim("look at it with `kubectl`"),
    }
}

/// The lines that tell of intent.
fn told(result: &CheckResult) -> String {
    let text = check(result, true, Paint::new(false));
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
    golden("denied.txt", &told(&with_intent(denied, vec![policy], 1)));

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
    golden("partly.txt", &told(&with_intent(service, vec![missing, open], 0)));
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

/// An agent that went away takes the sight of all its hooks with it.
#[test]
fn hooks_that_are_out_of_sight_for_one_reason_are_told_together() {
    let blind = |hook, why: &str| NotObservable {
        node: "node2".into(),
        report: HookReport {
            hook,
            netns: None,
            observability: Observability::NotObservable { why: Text::verbatim(why.to_owned()) },
        },
    };
    let mut result = read("reachable");
    result.not_observable = vec![
        blind(Hook::DriverRx, "gone"),
        blind(Hook::NetfilterInput, "gone"),
        blind(Hook::Qdisc, "refused"),
    ];
    let told = told(&result);
    assert!(told.contains("Note: node2: driver-rx, netfilter-input could not be watched: gone\n"), "{told}");
    assert!(told.contains("Note: node2: qdisc could not be watched: refused\n"), "{told}");
}

#[test]
fn expectations_read_like_this() {
    let said = |intent: &str| {
        let text = check(&with_intent(intent, Vec::new(), 0), false, Paint::new(false));
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
    let painted = check(&read("wire"), true, Paint::new(true));
    assert!(painted.contains("\x1b["));
    let mut plain = String::new();
    let mut rest = painted.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    assert_eq!(plain, check(&read("wire"), true, Paint::new(false)));
}
