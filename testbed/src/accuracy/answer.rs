//! The part of an answer that is compared.

use std::time::Duration;

use serde::Serialize;
use waymark_proto::{Anomaly, CheckResult, FaultPoint, Verdict};

use super::Probe;
use crate::fault::{Expected, Symptom};
use crate::instance::Instance;

/// What Waymark said.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The verdict; absent if the check itself failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The fault point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<Expected>,
    /// What happens to packets that arrive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub anomalies: Vec<Expected>,
    /// The fault point's rule, object, culprit and evidence.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub says: Vec<String>,
    /// Why the check failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An answer, and what it took.
pub(super) struct Asked {
    pub(super) answer: Answer,
    pub(super) took: Duration,
    pub(super) packets: u32,
}

impl Asked {
    /// Asks. A check that fails is an answer too: a wrong one.
    pub(super) fn of(instance: &Instance, probe: &Probe) -> Self {
        match probe.ask(instance) {
            Ok((result, took)) => Self { packets: result.sent, answer: Answer::from(&result), took },
            Err(error) => Self {
                answer: Answer { error: Some(error.to_string()), ..Answer::default() },
                took: Duration::ZERO,
                packets: 0,
            },
        }
    }
}

impl Answer {
    /// All that it says is wrong, the fault point first.
    pub fn accusations(&self) -> impl Iterator<Item = &Expected> {
        self.point.iter().chain(&self.anomalies)
    }
}

impl From<&CheckResult> for Answer {
    fn from(result: &CheckResult) -> Self {
        let point = result.fault_point.as_ref().map(|point| Expected {
            node: point.node.to_string(),
            netns: point.netns.to_string(),
            hook: point.hook,
            cause: Symptom::Death(point.cause),
            direction: point.direction,
            delay_ns: None,
        });
        let anomalies = result.anomalies.iter().map(place).collect();
        let says = result.fault_point.as_ref().map(words).unwrap_or_default();
        Self { verdict: Some(result.verdict), point, anomalies, says, error: None }
    }
}

/// Where an anomaly is, and what.
fn place(anomaly: &Anomaly) -> Expected {
    Expected {
        node: anomaly.node.to_string(),
        netns: anomaly.netns.to_string(),
        hook: anomaly.hook,
        cause: Symptom::Anomaly(anomaly.kind),
        direction: anomaly.direction,
        delay_ns: anomaly.delay_ns,
    }
}

/// What a fault point says beyond its place and cause.
fn words(point: &FaultPoint) -> Vec<String> {
    let rule = point.rule.as_ref().map(|rule| {
        let text = rule.text.as_deref().unwrap_or_default();
        format!("{} {} {text}", rule.table, rule.chain)
    });
    let culprit = point.culprit.as_ref().map(ToString::to_string);
    let parts = [rule, point.object.as_ref().map(ToString::to_string), culprit, point.device.clone()];
    parts.into_iter().flatten().chain(point.evidence.iter().map(ToString::to_string)).collect()
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said: Vec<_> = self.accusations().map(ToString::to_string).collect();
        let text = match (&self.verdict, &self.error) {
            (_, Some(error)) => error.lines().next().unwrap_or_default().to_owned(),
            (Some(verdict), None) if said.is_empty() => format!("{verdict}, no fault point"),
            (Some(_), None) => said.join("; "),
            (None, None) => "nothing".into(),
        };
        f.pad(&text)
    }
}
