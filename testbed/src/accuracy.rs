//! How often Waymark is right: every fault of the catalogue on every dataplane, against the answers of
//! the real programs; two faults at once; and healthy flows, which must give neither a fault point
//! nor an anomaly.
//!
//! * `answer`: the part of an answer that is compared
//! * `report`: what was measured
//! * `table`: the same for people

mod answer;
mod report;
mod table;

use waymark_proto::Verdict;

pub use answer::Answer;
pub use report::{DataplaneReport, FaultReport, HealthyReport, Report};

use answer::Asked;

use crate::check::Probe;
use crate::fault::{self, Fault, Pair};
use crate::instance::{Instance, UpOptions};
use crate::plan::{Cluster, Control, Dataplane, Proxy};
use crate::programs::Programs;
use crate::topology::Topology;
use crate::{Result, healthy, interrupt};

/// The category of two faults at once.
const PAIRS: &str = "pairs";

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
    /// Which faults.
    pub choice: Choice,
}

/// Which faults of the catalogue.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Only these; all if empty.
    pub faults: Vec<&'static Fault>,
    /// Only those of these categories; of all if empty.
    pub categories: Vec<String>,
    /// Only the few that are tried with every change.
    pub subset: bool,
}

impl Choice {
    fn has(&self, fault: &Fault) -> bool {
        (self.faults.is_empty() || self.faults.iter().any(|wanted| wanted.name == fault.name))
            && self.has_category(fault.category)
            && (!self.subset || fault.in_subset())
    }

    fn has_category(&self, category: &str) -> bool {
        self.categories.is_empty() || self.categories.iter().any(|wanted| wanted == category)
    }

    /// Pairs are asked about if nothing less than a category was chosen.
    fn pairs(&self) -> &'static [Pair] {
        let wanted = self.faults.is_empty() && self.has_category(PAIRS) && !self.subset;
        if wanted { fault::pairs() } else { &[] }
    }
}

/// The names of all categories.
pub fn categories() -> Vec<&'static str> {
    let mut names: Vec<_> = fault::all().map(|fault| fault.category).collect();
    names.push(PAIRS);
    names.dedup();
    names
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
    let accurate = dataplanes.iter().all(DataplaneReport::is_accurate);
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
    let measured = Measurement::new(options, &instance).and_then(|mut measurement| {
        let (healthy, faults) = (measurement.healthy(tell)?, measurement.faults(tell)?);
        // The last answer too may have failed by a signal.
        interrupt::check()?;
        Ok(DataplaneReport { dataplane, up_seconds, faults, healthy })
    });
    let down = instance.down();
    let report = measured.map_err(interrupt::rather)?;
    down?;
    Ok(report)
}

/// One dataplane.
struct Measurement<'a> {
    options: &'a AccuracyOptions,
    instance: &'a Instance,
    cluster: Cluster,
}

impl<'a> Measurement<'a> {
    fn new(options: &'a AccuracyOptions, instance: &'a Instance) -> Result<Self> {
        let cluster = instance.state()?.cluster(instance.name());
        Ok(Self { options, instance, cluster })
    }

    fn healthy(&mut self, tell: &mut dyn FnMut(&str)) -> Result<Vec<HealthyReport>> {
        let mut flows = Vec::new();
        for probe in healthy::flows(&self.cluster, self.options.healthy) {
            interrupt::check()?;
            tell(&format!("{}: {probe}", self.cluster.dataplane));
            let Asked { answer: got, took, .. } = Asked::of(self.instance, &probe);
            let right = got.verdict == Some(Verdict::Reachable) && got.accusations().next().is_none();
            flows.push(HealthyReport { probe, got, right, seconds: took.as_secs_f64() });
        }
        Ok(flows)
    }

    /// The cases that are chosen and apply.
    fn cases(&self) -> impl Iterator<Item = &'static Fault> {
        let (dataplane, proxy) = (self.cluster.dataplane, self.options.proxy);
        fault::all().filter(move |fault| self.options.choice.has(fault) && fault.is_for(dataplane, proxy))
    }

    fn faults(&mut self, tell: &mut dyn FnMut(&str)) -> Result<Vec<FaultReport>> {
        let mut reports = Vec::new();
        for fault in self.cases() {
            interrupt::check()?;
            tell(&format!("{}: {}", self.cluster.dataplane, fault.name));
            reports.push(self.one(fault)?);
        }
        let (dataplane, proxy) = (self.cluster.dataplane, self.options.proxy);
        let applies =
            |pair: &&Pair| pair.first.is_for(dataplane, proxy) && pair.second.is_for(dataplane, proxy);
        for pair in self.options.choice.pairs().iter().filter(applies) {
            interrupt::check()?;
            let name = pair.name();
            tell(&format!("{dataplane}: {name}"));
            reports.push(self.both(pair, name)?);
        }
        Ok(reports)
    }

    fn one(&self, fault: &'static Fault) -> Result<FaultReport> {
        let injected = self.instance.inject(fault)?;
        let report = self.localize(fault, fault.name.clone(), fault.category);
        injected.clear()?;
        report
    }

    /// The first is injected last and undone first: it may hide the other from the tools, too.
    fn both(&self, pair: &Pair, name: String) -> Result<FaultReport> {
        let second = self.instance.inject(pair.second)?;
        let first = self.instance.inject(pair.first)?;
        let report = self.localize(pair.first, name, PAIRS);
        first.clear()?;
        second.clear()?;
        report
    }

    /// Asks about a fault that is in.
    fn localize(&self, fault: &'static Fault, name: String, category: &'static str) -> Result<FaultReport> {
        let (probe, expected, says) =
            (fault.probe(&self.cluster)?, fault.expected(&self.cluster)?, fault.says(&self.cluster)?);
        let asked = Asked::of(self.instance, &probe);
        Ok(FaultReport::judge(fault, name, category, probe, expected, &says, asked))
    }
}
