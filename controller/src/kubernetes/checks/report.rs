//! What is written into a Check's status: pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use waymark_proto::{self as proto, CheckResult, text};

use super::question::Rejection;
use crate::kubernetes::crd::{
    Anomaly, CheckStatus, ConditionType, Culprit, Deviation, Expectation, Fault, FaultSpan, Intent,
    RoundTrip, SpanEnd, Verdict, Walk, WalkStep,
};
use crate::request::Request;

/// Most steps of one direction that a status lists. A way over three nodes with tunnels has about eighty.
const MAX_STEPS: usize = 120;
/// Most remarks, and most sentences of evidence.
const MAX_SENTENCES: usize = 16;
/// Longest sentence, in characters: rules may have thousands.
const MAX_CHARACTERS: usize = 1000;

/// How far a Check is.
#[derive(Debug)]
pub(super) enum Stage<'a> {
    /// Others come first.
    Queued,
    /// It is being run.
    Running,
    /// It cannot be run just now, and is tried again.
    Waiting(&'a str),
    /// It is not run.
    Rejected(&'a Rejection),
    /// It has no result.
    NoResult(NoResult, &'a str),
    /// It has a result.
    Answered(&'a CheckResult, Expectation),
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoResult {
    /// An end that is not there.
    NotFound,
    /// Anything else.
    CannotRun,
}

/// What a status says about a condition.
enum Truth {
    True,
    False,
    Unknown,
}

/// What does not change between the stages of one run.
#[derive(Clone, Debug)]
pub(super) struct Run<'a> {
    /// The generation of the spec.
    pub(super) generation: i64,
    /// The question, if it is one.
    pub(super) request: Option<&'a Request>,
    /// When it was begun.
    pub(super) started: Timestamp,
    /// The conditions before.
    pub(super) before: &'a [Condition],
}

/// The status of a run at a stage.
pub(super) fn status(run: &Run<'_>, stage: &Stage<'_>, now: Timestamp) -> CheckStatus {
    let end = Time(now);
    let mut status = CheckStatus {
        observed_generation: Some(run.generation),
        source: run.request.map(|request| request.source.to_string()),
        destination: run.request.map(|request| request.destination.to_string()),
        ..CheckStatus::default()
    };
    let (ended, succeeded, reason, message) = match stage {
        Stage::Queued => (false, Truth::Unknown, "Queued", "waits for other Checks to end".to_owned()),
        Stage::Running => (false, Truth::Unknown, "Running", "packets are sent and watched".to_owned()),
        Stage::Waiting(why) => (false, Truth::Unknown, "Waiting", cut(why)),
        Stage::Rejected(rejection) => (true, Truth::False, rejection.reason(), cut(&rejection.to_string())),
        Stage::NoResult(kind, why) => (true, Truth::False, kind.reason(), cut(why)),
        Stage::Answered(result, expected) => {
            fill(&mut status, result);
            let (succeeded, reason) = judge(result.verdict, *expected);
            (true, succeeded, reason, sentence(result))
        }
    };
    if !matches!(stage, Stage::Queued | Stage::Rejected(_)) {
        status.start_time = Some(Time(run.started));
    }
    if ended {
        status.completion_time = Some(end.clone());
    }
    status.message = Some(message.clone());
    let truth = |type_| match (type_, &succeeded) {
        (ConditionType::Complete, _) => {
            if ended {
                "True"
            } else {
                "False"
            }
        }
        (_, Truth::Unknown) => "Unknown",
        (ConditionType::Succeeded, Truth::True) | (ConditionType::Failed, Truth::False) => "True",
        (ConditionType::Succeeded, Truth::False) | (ConditionType::Failed, Truth::True) => "False",
    };
    status.conditions = ConditionType::ALL
        .map(|type_| {
            let before = run.before.iter().find(|before| before.type_ == type_.name());
            let unchanged = before.filter(|before| before.status == truth(type_));
            Condition {
                type_: type_.name().to_owned(),
                status: truth(type_).to_owned(),
                reason: reason.to_owned(),
                message: message.clone(),
                observed_generation: Some(run.generation),
                last_transition_time: unchanged.map_or(&end, |before| &before.last_transition_time).clone(),
            }
        })
        .to_vec();
    status
}

impl Rejection {
    fn reason(&self) -> &'static str {
        match self {
            Self::NotPermitted { .. } => "NotPermitted",
            Self::Unreadable(_)
            | Self::End { .. }
            | Self::Namespace { .. }
            | Self::Address(_)
            | Self::Time { .. }
            | Self::Request(_) => "InvalidSpec",
        }
    }
}

impl NoResult {
    fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::CannotRun => "CannotRun",
        }
    }
}

fn judge(verdict: proto::Verdict, expected: Expectation) -> (Truth, &'static str) {
    use proto::Verdict::{Inconsistent, Reachable, Undetermined, Unreachable};
    match (verdict, expected) {
        (Reachable, Expectation::Reachable) | (Unreachable, Expectation::Unreachable) => {
            (Truth::True, "AsExpected")
        }
        (Undetermined, _) => (Truth::False, "Undetermined"),
        (Reachable | Unreachable | Inconsistent, _) => (Truth::False, "NotAsExpected"),
    }
}

fn fill(status: &mut CheckStatus, result: &CheckResult) {
    status.verdict = Some(match result.verdict {
        proto::Verdict::Reachable => Verdict::Reachable,
        proto::Verdict::Inconsistent => Verdict::Inconsistent,
        proto::Verdict::Unreachable => Verdict::Unreachable,
        proto::Verdict::Undetermined => Verdict::Undetermined,
    });
    status.fault_point = result.fault_point.as_ref().map(fault);
    status.flow = Some(result.flow.to_string());
    status.sent = Some(result.sent);
    status.delivered = Some(result.delivered);
    status.replied = result.replied;
    status.round_trip = result.rtt_ns.map(|[min, median, max]| RoundTrip {
        min_microseconds: min.div_ceil(1000),
        median_microseconds: median.div_ceil(1000),
        max_microseconds: max.div_ceil(1000),
    });
    status.anomalies = result.anomalies.iter().map(anomaly).collect();
    status.intent = result.intent.as_ref().map(intent);
    status.forward = Some(walk(&result.forward));
    status.return_ = result.return_.as_ref().map(walk);
    let lost = (result.lost_events > 0)
        .then(|| text!(note::RecordsLost { records: result.lost_events }).to_string());
    let wrong = result.model_errors.iter().map(|error| format!("the prediction was wrong: {error}"));
    status.notes = some_of(lost.into_iter().chain(wrong).chain(result.notes.iter().map(ToString::to_string)));
}

/// What a result says, in one sentence.
fn sentence(result: &CheckResult) -> String {
    let (sent, delivered) = (result.sent, result.delivered);
    let answered = match result.replied {
        Some(replied) if delivered > 0 => format!(" and {replied} answered"),
        _ => String::new(),
    };
    let fault = result.fault_point.as_ref().map(|fault| format!("; {}", summary(fault))).unwrap_or_default();
    cut(&format!("{delivered} of {sent} packets were delivered{answered}{fault}"))
}

/// `filter-drop on node2 in netfilter-forward cni0 (NetworkPolicy shop/deny)`
fn summary(fault: &proto::FaultPoint) -> String {
    let device = |device: Option<&str>| device.map(|device| format!(" {device}")).unwrap_or_default();
    let answer = match fault.direction {
        proto::Direction::Forward => "",
        proto::Direction::Return => " of the answer",
    };
    let culprit = fault.culprit.as_ref().map(|culprit| format!(" ({culprit})")).unwrap_or_default();
    let place = match &fault.span {
        Some(proto::Span { last_seen: last, first_missing: first }) if fault.hook == proto::Hook::Wire => {
            let end = |end: &proto::SpanEnd| format!("{}{}", end.node, device(end.device.as_deref()));
            format!("between {} and {}", end(last), end(first))
        }
        _ => {
            let pod = fault.pod.as_ref().map(|pod| format!(" pod {pod}")).unwrap_or_default();
            format!("on {}{pod} in {}{}", fault.node, fault.hook, device(fault.device.as_deref()))
        }
    };
    cut(&format!("{}{answer} {place}{culprit}", fault.cause))
}

fn fault(fault: &proto::FaultPoint) -> Fault {
    let end = |end: &proto::SpanEnd| SpanEnd {
        node: end.node.to_string(),
        netns: end.netns.to_string(),
        hook: end.hook.to_string(),
        device: end.device.clone(),
    };
    Fault {
        summary: summary(fault),
        node: fault.node.to_string(),
        netns: fault.netns.to_string(),
        pod: fault.pod.clone(),
        device: fault.device.clone(),
        hook: fault.hook.to_string(),
        direction: name_of(&fault.direction),
        cause: fault.cause.to_string(),
        span: fault.span.as_ref().map(|span| FaultSpan {
            last_seen: end(&span.last_seen),
            first_missing: end(&span.first_missing),
        }),
        reason: fault.reason.clone(),
        function: fault.function.clone(),
        rule: fault.rule.as_ref().map(|rule| cut(&rule.to_string())),
        object: fault.object.as_deref().map(cut),
        culprit: fault.culprit.as_ref().map(culprit),
        advice: cut(&fault.advice),
        confidence: name_of(&fault.confidence),
        ground: fault.ground.as_deref().map(cut),
        evidence: some_of(fault.evidence.iter().map(ToString::to_string)),
    }
}

fn anomaly(anomaly: &proto::Anomaly) -> Anomaly {
    Anomaly {
        kind: name_of(&anomaly.kind),
        summary: cut(&anomaly.sentence()),
        node: anomaly.node.to_string(),
        hook: anomaly.hook.to_string(),
        device: anomaly.device.clone(),
        direction: name_of(&anomaly.direction),
        packets: anomaly.share.lost,
        advice: cut(&anomaly.advice),
    }
}

fn culprit(object: &proto::ObjectRef) -> Culprit {
    let proto::ObjectRef { kind, namespace, name } = object.clone();
    Culprit { kind, namespace, name }
}

fn intent(report: &proto::IntentReport) -> Intent {
    let one = |deviation: &proto::Deviation| Deviation {
        summary: cut(&deviation.summary),
        culprit: culprit(&deviation.culprit),
        node: deviation.node.as_ref().map(ToString::to_string),
        advice: cut(&deviation.advice),
    };
    Intent {
        expectation: name_of(&report.intent.expectation),
        deviations: report.deviations.iter().take(MAX_SENTENCES).map(one).collect(),
    }
}

fn walk(compared: &proto::WalkComparison) -> Walk {
    let one = |compared: &proto::ComparedStep| {
        let step = compared.observed.as_ref().or(compared.predicted.as_ref())?;
        Some(WalkStep {
            node: step.place.node.to_string(),
            netns: step.place.netns.to_string(),
            hook: step.hook.to_string(),
            device: step.device.clone(),
            agreement: name_of(&compared.agreement),
            packets: compared.packets,
        })
    };
    Walk {
        predicted: compared.predicted.as_ref().map(name_of),
        observed: name_of(&compared.observed),
        steps: compared.steps.iter().take(MAX_STEPS).filter_map(one).collect(),
        omitted: compared.steps.len().saturating_sub(MAX_STEPS) as u32,
    }
}

/// The name that a value has in documents.
fn name_of(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("only enums without content come here, not {other:?}"),
    }
}

/// The first of these sentences, and how many there were beside.
fn some_of(sentences: impl Iterator<Item = String>) -> Vec<String> {
    let mut sentences: Vec<String> = sentences.map(|sentence| cut(&sentence)).collect();
    if sentences.len() > MAX_SENTENCES {
        let more = sentences.len() - (MAX_SENTENCES - 1);
        sentences.truncate(MAX_SENTENCES - 1);
        sentences.push(format!("and {more} more"));
    }
    sentences
}

/// A sentence, cut where it is too long for a status.
fn cut(sentence: &str) -> String {
    match sentence.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &sentence[..end]),
        None => sentence.to_owned(),
    }
}

#[cfg(test)]
mod tests;
