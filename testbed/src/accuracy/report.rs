//! What was measured.

use serde::Serialize;

use super::answer::{Answer, Asked};
use crate::check::Probe;
use crate::fault::{Expected, Fault, Symptom};
use crate::plan::Dataplane;
use crate::{Error, Result};

/// What was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// By dataplane.
    pub dataplanes: Vec<DataplaneReport>,
    /// Whether every fault was told as expected, and every healthy flow to be healthy.
    pub accurate: bool,
}

/// What was measured on one dataplane.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneReport {
    /// Which one.
    pub dataplane: Dataplane,
    /// How long `up` took, in seconds.
    pub up_seconds: f64,
    /// One entry per fault.
    pub faults: Vec<FaultReport>,
    /// One entry per healthy flow.
    pub healthy: Vec<HealthyReport>,
}

/// One fault.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "a row of independent ticks")]
pub struct FaultReport {
    /// Its name.
    pub fault: String,
    /// Its category.
    pub category: &'static str,
    /// The flow that was asked about.
    pub probe: Probe,
    /// What Waymark should have said.
    pub expected: Expected,
    /// What it said.
    pub got: Answer,
    /// Whether it named the node, and the verdict was as expected.
    pub right_node: bool,
    /// Whether it named the hook too.
    pub right_hook: bool,
    /// Whether it named the cause, or the kind of anomaly, for a delay with its length; and no other anomaly.
    pub right_cause: bool,
    /// Whether it named the direction.
    pub right_direction: bool,
    /// Whether it named the object; absent if none is expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right_object: Option<bool>,
    /// How long the check took, in seconds.
    pub seconds: f64,
    /// How many packets it sent.
    pub packets: u32,
}

/// One healthy flow.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthyReport {
    /// The flow that was asked about.
    pub probe: Probe,
    /// What Waymark said.
    pub got: Answer,
    /// Whether it said `Reachable` without a fault point and without an anomaly.
    pub right: bool,
    /// How long the check took, in seconds.
    pub seconds: f64,
}

impl FaultReport {
    /// Compares an answer with what is expected.
    pub(super) fn judge(
        fault: &Fault,
        name: String,
        category: &'static str,
        probe: Probe,
        expected: Expected,
        says: &[String],
        asked: Asked,
    ) -> Self {
        let got = asked.answer;
        let failed = got.verdict.is_some_and(|verdict| fault.is_verdict(verdict));
        let named = match expected.cause {
            Symptom::Death(_) => got.point.as_ref(),
            // Of several the one of that kind.
            Symptom::Anomaly(_) => {
                let of_kind = got.anomalies.iter().find(|other| other.cause == expected.cause);
                of_kind.or(got.anomalies.first())
            }
        };
        let is = |same: fn(&Expected, &Expected) -> bool| {
            failed && named.is_some_and(|named| same(named, &expected))
        };
        let alone = got.accusations().count() == 1;
        let right_node = is(|a, b| a.node == b.node && a.netns == b.netns);
        let mentions = |text: &String| got.says.iter().any(|said| said.contains(text.as_str()));
        Self {
            fault: name,
            category,
            right_node,
            right_hook: right_node && is(|a, b| a.hook == b.hook),
            right_cause: alone && is(|a, b| a.cause == b.cause && a.delay_ns >= b.delay_ns),
            right_direction: is(|a, b| a.direction == b.direction),
            right_object: (!says.is_empty()).then(|| failed && says.iter().all(mentions)),
            seconds: asked.took.as_secs_f64(),
            packets: asked.packets,
            probe,
            expected,
            got,
        }
    }

    /// Whether nothing of what was expected is missing.
    pub fn is_right(&self) -> bool {
        self.right_hook && self.right_cause && self.right_direction && self.right_object != Some(false)
    }
}

impl DataplaneReport {
    /// Whether nothing is wrong.
    pub fn is_accurate(&self) -> bool {
        self.faults.iter().all(FaultReport::is_right) && self.healthy.iter().all(|flow| flow.right)
    }
}

impl Report {
    /// The report's verdict as a result.
    pub fn verdict(&self) -> Result<()> {
        if self.accurate {
            return Ok(());
        }
        let faults = self.dataplanes.iter().flat_map(|report| &report.faults);
        let faults = faults.filter(|fault| !fault.is_right()).count();
        let flows = self.dataplanes.iter().flat_map(|r| &r.healthy).filter(|flow| !flow.right).count();
        Err(Error::Inaccurate(format!(
            "{faults} faults were not told as expected, {flows} healthy flows were not told to be healthy"
        )))
    }
}
