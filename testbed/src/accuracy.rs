//! How often Waymark is right: every fault of the catalogue on every dataplane, against the answers of
//! the real programs; and healthy flows, which must give no fault point.

use std::time::Duration;

use serde::Serialize;
use waymark_proto::{CheckResult, Verdict};

use crate::check::Probe;
use crate::fault::{self, Expected, Fault};
use crate::instance::{Instance, UpOptions};
use crate::plan::{Cluster, Control, Dataplane, Proxy};
use crate::programs::Programs;
use crate::state::State;
use crate::topology::Topology;
use crate::{Error, Result, healthy, interrupt};

/// What to measure.
#[derive(Clone, Debug)]
pub struct AccuracyOptions {
    /// Names of the instances begin with this; the dataplane's name follows.
    pub name: String,
    /// On which dataplanes.
    pub dataplanes: Vec<Dataplane>,
    /// Whose rules implement Services.
    pub proxy: Proxy,
    /// How many healthy flows per dataplane.
    pub healthy: usize,
    /// Only these faults; all if empty.
    pub faults: Vec<&'static Fault>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// By dataplane.
    pub dataplanes: Vec<DataplaneReport>,
    /// Whether every fault was localized to the right node and hook, and every healthy flow reachable.
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
    pub fault: &'static str,
    /// The flow that was asked about.
    pub probe: Probe,
    /// What Waymark should have said.
    pub expected: Expected,
    /// What it said.
    pub got: Answer,
    /// Whether it named the node, and the flow was not reachable.
    pub right_node: bool,
    /// Whether it named the hook too.
    pub right_hook: bool,
    /// Whether it named the cause.
    pub right_cause: bool,
    /// Whether it named the direction.
    pub right_direction: bool,
    /// How long the check took, in seconds.
    pub seconds: f64,
}

/// One healthy flow.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthyReport {
    /// The flow that was asked about.
    pub probe: Probe,
    /// What Waymark said.
    pub got: Answer,
    /// Whether it said `Reachable` without a fault point.
    pub right: bool,
    /// How long the check took, in seconds.
    pub seconds: f64,
}

/// The part of an answer that is compared.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The verdict; absent if the check itself failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The fault point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<Expected>,
    /// Why the check failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Measures. `tell` is called with a line about each step.
pub fn accuracy(
    options: &AccuracyOptions,
    programs: &Programs,
    tell: &mut dyn FnMut(&str),
) -> Result<Report> {
    let mut dataplanes = Vec::new();
    for &dataplane in &options.dataplanes {
        dataplanes.push(on_dataplane(options, dataplane, programs, tell)?);
    }
    let right = |report: &DataplaneReport| {
        report.faults.iter().all(|fault| fault.right_hook) && report.healthy.iter().all(|flow| flow.right)
    };
    let accurate = dataplanes.iter().all(right);
    Ok(Report { dataplanes, accurate })
}

fn on_dataplane(
    options: &AccuracyOptions,
    dataplane: Dataplane,
    programs: &Programs,
    tell: &mut dyn FnMut(&str),
) -> Result<DataplaneReport> {
    let instance = Instance::new(&format!("{}-{dataplane}", options.name), programs.clone())?;
    tell(&format!("{dataplane}: up"));
    let (topology, proxy) = (Topology::default(), options.proxy);
    let started = std::time::Instant::now();
    instance.up(&UpOptions { topology, dataplane, proxy, control: Control::Inventory, agents: true })?;
    let up_seconds = started.elapsed().as_secs_f64();
    let measured = measure(options, &instance, tell).map_err(interrupt::rather);
    let down = instance.down();
    let (faults, healthy) = measured?;
    down?;
    Ok(DataplaneReport { dataplane, up_seconds, faults, healthy })
}

type Measured = (Vec<FaultReport>, Vec<HealthyReport>);

fn measure(options: &AccuracyOptions, instance: &Instance, tell: &mut dyn FnMut(&str)) -> Result<Measured> {
    let state: State = instance.state()?;
    let cluster = state.cluster(instance.name());
    let mut healthy_flows = Vec::new();
    for probe in healthy::flows(&cluster, options.healthy) {
        interrupt::check()?;
        tell(&format!("{}: {probe}", cluster.dataplane));
        let (got, took) = ask(instance, &probe);
        let right = got.verdict == Some(Verdict::Reachable) && got.point.is_none();
        healthy_flows.push(HealthyReport { probe, got, right, seconds: took.as_secs_f64() });
    }
    let mut faults = Vec::new();
    let wanted = |fault: &&'static Fault| {
        options.faults.is_empty() || options.faults.iter().any(|wanted| wanted.name == fault.name)
    };
    for fault in fault::all().filter(wanted).filter(|fault| fault.dataplanes.contains(&cluster.dataplane)) {
        interrupt::check()?;
        tell(&format!("{}: {}", cluster.dataplane, fault.name));
        faults.push(localize(instance, &cluster, fault)?);
    }
    // The last answer too may have failed by a signal.
    interrupt::check()?;
    Ok((faults, healthy_flows))
}

fn localize(instance: &Instance, cluster: &Cluster, fault: &'static Fault) -> Result<FaultReport> {
    let (probe, expected) = (fault.probe(cluster)?, fault.expected(cluster)?);
    let injected = instance.inject(fault)?;
    let (got, took) = ask(instance, &probe);
    injected.clear()?;
    let failed = matches!(got.verdict, Some(Verdict::Unreachable | Verdict::Inconsistent));
    let is = |same: fn(&Expected, &Expected) -> bool| {
        failed && got.point.as_ref().is_some_and(|point| same(point, &expected))
    };
    let right_node = is(|a, b| a.node == b.node);
    Ok(FaultReport {
        fault: fault.name,
        right_node,
        right_hook: right_node && is(|a, b| a.hook == b.hook),
        right_cause: is(|a, b| a.cause == b.cause),
        right_direction: is(|a, b| a.direction == b.direction),
        seconds: took.as_secs_f64(),
        probe,
        expected,
        got,
    })
}

/// A check that fails is an answer too: a wrong one.
fn ask(instance: &Instance, probe: &Probe) -> (Answer, Duration) {
    match probe.ask(instance) {
        Ok((result, took)) => (Answer::from(&result), took),
        Err(error) => (Answer { error: Some(error.to_string()), ..Answer::default() }, Duration::ZERO),
    }
}

impl From<&CheckResult> for Answer {
    fn from(result: &CheckResult) -> Self {
        let point = result.fault_point.as_ref().map(|point| Expected {
            node: point.node.to_string(),
            netns: point.netns.to_string(),
            hook: point.hook,
            cause: point.cause,
            direction: point.direction,
        });
        Self { verdict: Some(result.verdict), point, error: None }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match (&self.verdict, &self.point, &self.error) {
            (_, _, Some(error)) => error.lines().next().unwrap_or_default().to_owned(),
            (_, Some(point), _) => point.to_string(),
            (Some(verdict), None, _) => format!("{verdict}, no fault point"),
            (None, None, None) => "nothing".into(),
        };
        f.pad(&text)
    }
}

impl Report {
    /// The report for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for report in &self.dataplanes {
            text.push_str(&report.table());
            text.push('\n');
        }
        text
    }

    /// The report's verdict as a result.
    pub fn verdict(&self) -> Result<()> {
        if self.accurate {
            return Ok(());
        }
        let faults = self.dataplanes.iter().flat_map(|r| &r.faults).filter(|fault| !fault.right_hook).count();
        let flows = self.dataplanes.iter().flat_map(|r| &r.healthy).filter(|flow| !flow.right).count();
        Err(Error::Inaccurate(format!(
            "{faults} faults were not localized to their node and hook, {flows} healthy flows were not reachable"
        )))
    }
}

impl DataplaneReport {
    fn table(&self) -> String {
        let mark = |right: bool| if right { "✓" } else { "✗" };
        let mut table =
            crate::status::table(&["FAULT", "EXPECTED", "GOT", "NODE", "HOOK", "CAUSE", "WAY", "TIME"]);
        for fault in &self.faults {
            table.add_row([
                fault.fault,
                &fault.expected.to_string(),
                &fault.got.to_string(),
                mark(fault.right_node),
                mark(fault.right_hook),
                mark(fault.right_cause),
                mark(fault.right_direction),
                &format!("{:.2} s", fault.seconds),
            ]);
        }
        let count = |right: fn(&FaultReport) -> bool| self.faults.iter().filter(|fault| right(fault)).count();
        let wrong = self.healthy.iter().filter(|flow| !flow.right);
        let wrong: Vec<_> = wrong.map(|flow| format!("  ✗ {}: {}\n", flow.probe, flow.got)).collect();
        let wrong = wrong.concat();
        let reachable = self.healthy.iter().filter(|flow| flow.right).count();
        let total = Duration::from_secs_f64(self.healthy.iter().map(|flow| flow.seconds).sum());
        let mean = (total / u32::try_from(self.healthy.len().max(1)).unwrap_or(u32::MAX)).as_secs_f64();
        format!(
            "{} (up in {:.1} s)\n{table}\n{} faults: right node {}, right node and hook {}, right cause {}, right direction {}\n\
             {} healthy flows: {reachable} reachable without a fault point, {mean:.2} s each\n{wrong}",
            self.dataplane,
            self.up_seconds,
            self.faults.len(),
            count(|fault| fault.right_node),
            count(|fault| fault.right_hook),
            count(|fault| fault.right_cause),
            count(|fault| fault.right_direction),
            self.healthy.len(),
        )
    }
}
