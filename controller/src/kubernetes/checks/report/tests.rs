use waymark_proto::{
    Agreement, CheckId, ComparedStep, Direction, Disposition, Hook, Losses, NodeName, ObjectRef, Place, Span,
    Step, Text, WalkComparison,
};

use super::*;
use crate::fixture::{fault, tcp, wire};

fn result(verdict: proto::Verdict) -> CheckResult {
    let step = Step::new(Place::new("node2", "t-node2"), Hook::NetfilterForward, proto::Action::Dropped);
    let compared =
        ComparedStep { agreement: Agreement::Died, packets: 5, predicted: None, observed: Some(step) };
    let walk = |steps| WalkComparison {
        predicted: Some(Disposition::Delivered),
        observed: Disposition::Dropped,
        branches: 1,
        steps,
    };
    CheckResult {
        api_version: proto::API_VERSION.to_owned(),
        kind: "CheckResult".to_owned(),
        check: CheckId::new(1).unwrap(),
        source: "pod/shop/cart".to_owned(),
        destination: "pod/shop/pay:80".to_owned(),
        flow: tcp(),
        verdict,
        intent: None,
        sent: 5,
        delivered: 3,
        replied: Some(2),
        rtt_ns: Some([999, 1000, 2001]),
        fault_point: None,
        loss: None,
        anomalies: Vec::new(),
        forward: walk(vec![compared; MAX_STEPS + 7]),
        return_: Some(walk(Vec::new())),
        model_errors: vec![Text::verbatim("it said no")],
        not_observable: Vec::new(),
        lost_events: 3,
        losses: Losses::default(),
        notes: vec![Text::verbatim("x".repeat(5000)); 40],
    }
}

fn request() -> Request {
    Request::new("pod/shop/cart".parse().unwrap(), "pod/shop/pay:80".parse().unwrap())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn report(stage: &Stage<'_>, before: &[Condition]) -> CheckStatus {
    let request = request();
    status(&Run { generation: 3, request: Some(&request), started: at(10), before }, stage, at(20))
}

/// `Complete`, `Succeeded`, `Failed` and the reason of all three.
fn truths(status: &CheckStatus) -> [&str; 4] {
    let of = |name| status.conditions.iter().find(|c| c.type_ == name).unwrap();
    assert!(status.conditions.iter().all(|c| c.reason == of("Complete").reason));
    assert!(status.conditions.iter().all(|c| c.observed_generation == Some(3)));
    [&of("Complete").status, &of("Succeeded").status, &of("Failed").status, &of("Complete").reason]
}

#[test]
fn conditions_of_every_stage() {
    use Expectation::{Reachable, Unreachable};
    let rejection = Rejection::End { end: "source", fields: "pod and node" };
    for (stage, expected) in [
        (Stage::Queued, ["False", "Unknown", "Unknown", "Queued"]),
        (Stage::Running, ["False", "Unknown", "Unknown", "Running"]),
        (Stage::Waiting("for it"), ["False", "Unknown", "Unknown", "Waiting"]),
        (Stage::Rejected(&rejection), ["True", "False", "True", "InvalidSpec"]),
        (Stage::NoResult(NoResult::NotFound, "none"), ["True", "False", "True", "NotFound"]),
        (Stage::NoResult(NoResult::CannotRun, "none"), ["True", "False", "True", "CannotRun"]),
    ] {
        assert_eq!(truths(&report(&stage, &[])), expected, "{stage:?}");
    }
    for (verdict, expect, expected) in [
        (proto::Verdict::Reachable, Reachable, ["True", "True", "False", "AsExpected"]),
        (proto::Verdict::Unreachable, Unreachable, ["True", "True", "False", "AsExpected"]),
        (proto::Verdict::Reachable, Unreachable, ["True", "False", "True", "NotAsExpected"]),
        (proto::Verdict::Inconsistent, Unreachable, ["True", "False", "True", "NotAsExpected"]),
        (proto::Verdict::Undetermined, Unreachable, ["True", "False", "True", "Undetermined"]),
    ] {
        let result = result(verdict);
        assert_eq!(truths(&report(&Stage::Answered(&result, expect), &[])), expected, "{verdict}");
    }
}

#[test]
fn times_of_a_run() {
    let running = report(&Stage::Running, &[]);
    assert_eq!((running.start_time, running.completion_time), (Some(Time(at(10))), None));
    let ended = report(&Stage::NoResult(NoResult::CannotRun, "none"), &running.conditions);
    assert_eq!((ended.start_time, ended.completion_time), (Some(Time(at(10))), Some(Time(at(20)))));
}

#[test]
fn a_condition_that_stays_keeps_its_time() {
    let before: Vec<Condition> = report(&Stage::NoResult(NoResult::CannotRun, "none"), &[])
        .conditions
        .into_iter()
        .map(|condition| Condition { last_transition_time: Time(at(1)), ..condition })
        .collect();
    let result = result(proto::Verdict::Reachable);
    let after = report(&Stage::Answered(&result, Expectation::Reachable), &before).conditions;
    let times: Vec<Timestamp> = after.iter().map(|condition| condition.last_transition_time.0).collect();
    assert_eq!(times, [at(1), at(20), at(20)], "it was complete before");
}

#[test]
fn an_answer_is_told_in_short() {
    let mut result = result(proto::Verdict::Inconsistent);
    result.fault_point = Some(proto::FaultPoint {
        culprit: Some(ObjectRef::namespaced("NetworkPolicy", "shop", "deny")),
        ..fault()
    });
    let status = report(&Stage::Answered(&result, Expectation::Reachable), &[]);
    let fault = status.fault_point.as_ref().unwrap();
    assert_eq!(fault.summary, "filter-drop on node2 in netfilter-forward eth0 (NetworkPolicy shop/deny)");
    assert_eq!(
        status.message.unwrap(),
        format!("3 of 5 packets were delivered and 2 answered; {}", fault.summary)
    );
    assert_eq!((fault.direction.as_str(), fault.confidence.as_str()), ("forward", "high"));
    assert_eq!(status.verdict, Some(Verdict::Inconsistent));
    let micros = |min, median, max| RoundTrip {
        min_microseconds: min,
        median_microseconds: median,
        max_microseconds: max,
    };
    assert_eq!(status.round_trip, Some(micros(1, 1, 3)));
    let step = &status.forward.as_ref().unwrap().steps[0];
    assert_eq!((step.hook.as_str(), step.agreement.as_str()), ("netfilter-forward", "died"));
}

#[test]
fn packets_that_vanished_did_so_between_two_places() {
    let end = |node: &str| proto::SpanEnd {
        node: NodeName::from(node),
        netns: "host".into(),
        hook: Hook::DriverTx,
        device: Some("eth0".to_owned()),
    };
    let lost = proto::FaultPoint {
        hook: Hook::Wire,
        cause: proto::Cause::SilentLoss,
        direction: proto::Direction::Return,
        span: Some(Span { last_seen: end("node1"), first_missing: end("node2") }),
        ..fault()
    };
    assert_eq!(summary(&lost), "silent-loss of the answer between node1 eth0 and node2 eth0");
}

#[test]
fn a_status_stays_small() {
    let result = result(proto::Verdict::Unreachable);
    let status = report(&Stage::Answered(&result, Expectation::Reachable), &[]);
    let forward = status.forward.as_ref().unwrap();
    assert_eq!((forward.steps.len(), forward.omitted), (MAX_STEPS, 7));
    assert_eq!(status.notes.len(), MAX_SENTENCES);
    assert_eq!(status.notes[0], "3 records were lost: \"not seen\" is weaker than usual");
    assert_eq!(status.notes[1], "the prediction was wrong: it said no");
    assert_eq!(status.notes.last().unwrap(), "and 27 more");
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!(size < 60_000, "{size} bytes");
}

#[test]
fn what_happened_to_packets_that_arrived_is_told() {
    let span = wire().span.unwrap();
    let late = proto::Anomaly {
        kind: proto::AnomalyKind::Delay,
        node: "node1".into(),
        netns: "t-node1".into(),
        device: Some("eth0".into()),
        hook: Hook::Qdisc,
        direction: Direction::Return,
        span,
        share: proto::Share::new(3, 5),
        delay_ns: Some(50_120_000),
        instead: None,
        object: None,
        advice: Text::verbatim("see its queue"),
    };
    let result = CheckResult { anomalies: vec![late], ..result(proto::Verdict::Reachable) };
    let [told] = &report(&Stage::Answered(&result, Expectation::Reachable), &[]).anomalies[..] else {
        panic!("there is one");
    };
    assert_eq!(told.summary, "answers are held up for 50.1 ms on node1 in qdisc eth0");
    assert_eq!((&*told.kind, &*told.direction, told.packets), ("delay", "return", 3));
    assert_eq!((&*told.hook, &*told.advice), ("qdisc", "see its queue"));
}
