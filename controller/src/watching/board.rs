//! All watches with their targets and outages: what reports change, and what people see. Pure but for the
//! instants that it is given.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use waymark_proto::{Clock, Inventory, NodeName, Probe, ProbeId, ProbePlan, ProbeReport, Refusal};

use super::documents::{TargetState, TargetStatus, WatchCounts, WatchStatus, buckets};
use super::outage::{Change, Outage, OutageCheck, changes};
use super::spec::{MAX_WATCHES, WatchError, WatchSpec};
use super::targets::targets;
use super::window::Windows;

/// Outages that are remembered, those that last and the newest of the others.
const MAX_OUTAGES: usize = 1000;
/// Outages that keep all that their check found, the newest; of older ones an outline is kept. A result takes 20
/// to 50 kB as JSON, and a list of all outages travels as one message: with a thousand results it could outgrow
/// what clients take. As many are kept as may wait for their check, when many targets fail at once.
const FULL_RESULTS: usize = 32;
/// A target of which nothing was heard for so long is silent: three reports were due, or one probe.
const SILENCE: Duration = Duration::from_secs(5);

/// A watch.
#[derive(Debug)]
struct Watched {
    spec: WatchSpec,
    since_unix_ns: u64,
    problems: Vec<String>,
}

/// A target.
#[derive(Debug)]
struct Watchee {
    node: NodeName,
    probe: Probe,
    windows: Windows,
    clock: Clock,
    heard: Option<Instant>,
    since: Instant,
    /// The outage that lasts: its number, and since when by the node's clock.
    down: Option<(u64, u64)>,
    /// When probes were first reported answered while it lasts and nothing was told of its streak.
    answered: Option<u64>,
    refused: Option<String>,
}

/// All watches.
#[derive(Debug, Default)]
pub(super) struct Board {
    watches: BTreeMap<String, Watched>,
    targets: BTreeMap<ProbeId, Watchee>,
    plans: BTreeMap<NodeName, Arc<ProbePlan>>,
    outages: VecDeque<Outage>,
    opened: u64,
}

impl Board {
    pub(super) fn names(&self) -> Vec<String> {
        self.watches.keys().cloned().collect()
    }

    pub(super) fn specs(&self) -> Vec<WatchSpec> {
        self.watches.values().map(|watched| watched.spec.clone()).collect()
    }

    /// The specs that are left when the watches of these names are gone, each of which must be there.
    pub(super) fn specs_without(&self, names: &[String]) -> Result<Vec<WatchSpec>, WatchError> {
        match names.iter().find(|name| !self.watches.contains_key(*name)) {
            Some(name) => Err(WatchError::Unknown { name: name.clone(), known: self.names() }),
            None => Ok(self.specs().into_iter().filter(|spec| !names.contains(&spec.name)).collect()),
        }
    }

    /// Adds a watch whose spec was checked.
    pub(super) fn start(&mut self, spec: WatchSpec, now_unix_ns: u64) -> Result<(), WatchError> {
        if self.watches.contains_key(&spec.name) {
            return Err(WatchError::Twice(spec.name));
        }
        if self.watches.len() >= MAX_WATCHES {
            let count = self.watches.len() + 1;
            return Err(WatchError::TooMany { what: "the watches", count, limit: MAX_WATCHES });
        }
        let name = spec.name.clone();
        self.watches.insert(name, Watched { spec, since_unix_ns: now_unix_ns, problems: Vec::new() });
        Ok(())
    }

    /// Takes a watch away, with its targets. Its outages are remembered; those that lasted end with it.
    pub(super) fn stop(&mut self, name: &str, now_unix_ns: u64) -> Result<(), WatchError> {
        if self.watches.remove(name).is_none() {
            return Err(WatchError::Unknown { name: name.to_owned(), known: self.names() });
        }
        self.targets.retain(|_, target| {
            let stays = target.probe.watch != name;
            if !stays {
                end(&mut self.outages, target.down, now_unix_ns);
            }
            stays
        });
        Ok(())
    }

    /// Finds the targets anew, for another cluster or other watches. What was counted of targets that stay is
    /// kept; the outages of targets that are given up end.
    pub(super) fn resolve(&mut self, inventory: &Inventory, now: Instant, now_unix_ns: u64) {
        let mut plans: BTreeMap<NodeName, ProbePlan> = BTreeMap::new();
        for watched in self.watches.values_mut() {
            match targets(&watched.spec, inventory) {
                Ok(resolved) => {
                    watched.problems = resolved.problems;
                    for (node, plan) in resolved.plans {
                        let of_node = plans.entry(node).or_default();
                        of_node.probes.extend(plan.probes);
                        of_node.responders.extend(plan.responders);
                    }
                }
                Err(error) => watched.problems = vec![error.to_string()],
            }
        }
        let mut before = std::mem::take(&mut self.targets);
        for (node, plan) in &mut plans {
            plan.responders.sort();
            plan.responders.dedup();
            for probe in &plan.probes {
                let target = match before.remove(&probe.id) {
                    Some(known) => Watchee { node: node.clone(), probe: probe.clone(), ..known },
                    None => Watchee::new(node.clone(), probe.clone(), now),
                };
                self.targets.insert(probe.id, target);
            }
        }
        for target in before.into_values() {
            end(&mut self.outages, target.down, now_unix_ns);
        }
        self.plans = plans.into_iter().map(|(node, plan)| (node, Arc::new(plan))).collect();
    }

    /// What the agent of a node has to do.
    pub(super) fn plan(&self, node: &NodeName) -> Arc<ProbePlan> {
        self.plans.get(node).cloned().unwrap_or_default()
    }

    /// Notes which targets an agent does not serve.
    pub(super) fn refused(&mut self, node: &NodeName, refusals: &[Refusal]) {
        for (id, target) in self.targets.iter_mut().filter(|(_, target)| target.node == *node) {
            let of_it = refusals.iter().find(|refusal| refusal.probe == Some(*id));
            target.refused = of_it.map(|refusal| refusal.why.clone());
        }
        for refusal in refusals.iter().filter(|refusal| refusal.probe.is_none()) {
            tracing::warn!(%node, why = refusal.why, "an agent does not answer to probes");
        }
    }

    /// Takes an agent's reports in; gives back the numbers of the outages that they open.
    pub(super) fn report(&mut self, node: &NodeName, reports: &[ProbeReport], now: Instant) -> Vec<u64> {
        let mut opened = Vec::new();
        for report in reports {
            // A target may have been given up while its report was on the way.
            let Some(target) = self.targets.get_mut(&report.id) else { continue };
            if let Err(why) = target.windows.add(now, &report.counts, &report.rtt_v2) {
                tracing::warn!(%node, target = target.probe.destination, why, "a report was not understood");
                continue;
            }
            target.clock = report.clock;
            target.heard = Some(now);
            for change in changes(target.down.map(|(_, since)| since), &report.streaks) {
                let (number, streak) = match change {
                    Change::Went(streak) => (target.down.map_or(0, |(number, _)| number), streak),
                    Change::Opened(streak) => {
                        end(&mut self.outages, target.down, streak.since_unix_ns);
                        self.opened += 1;
                        let probe = &target.probe;
                        self.outages.push_back(Outage {
                            id: self.opened,
                            watch: probe.watch.clone(),
                            source: probe.source.clone(),
                            destination: probe.destination.clone(),
                            protocol: probe.protocol,
                            ipv6: probe.address.is_ipv6(),
                            since_unix_ns: streak.since_unix_ns,
                            until_unix_ns: None,
                            failures: 0,
                            check: OutageCheck::Waiting,
                        });
                        opened.push(self.opened);
                        (self.opened, streak)
                    }
                };
                target.down = streak.until_unix_ns.is_none().then_some((number, streak.since_unix_ns));
                if let Some(outage) = self.outages.iter_mut().rev().find(|outage| outage.id == number) {
                    outage.failures = streak.failures;
                    outage.until_unix_ns = streak.until_unix_ns;
                }
            }
            if let Some(at_unix_ns) = target.mended(report) {
                end(&mut self.outages, target.down.take(), at_unix_ns);
            }
        }
        self.forget();
        opened
    }

    /// Forgets the oldest outages that are over.
    fn forget(&mut self) {
        while self.outages.len() > MAX_OUTAGES {
            let over = self.outages.iter().position(|outage| outage.until_unix_ns.is_some()).unwrap_or(0);
            self.outages.remove(over);
        }
    }

    /// An outage by its number.
    pub(super) fn outage(&self, number: u64) -> Option<&Outage> {
        self.outages.iter().find(|outage| outage.id == number)
    }

    /// Notes how far the check of an outage is. Of an older one, an outline is kept.
    pub(super) fn set_check(&mut self, number: u64, check: OutageCheck) {
        if let Some(outage) = self.outages.iter_mut().find(|outage| outage.id == number) {
            outage.check = check;
        }
        let full = |outage: &&mut Outage| matches!(outage.check, OutageCheck::Done { .. });
        for outage in self.outages.iter_mut().rev().filter(full).skip(FULL_RESULTS) {
            outage.check.outline();
        }
    }

    /// The outages of one watch or of all, oldest first.
    pub(super) fn outages(&self, watch: Option<&str>) -> Vec<Outage> {
        let wanted = |outage: &&Outage| watch.is_none_or(|watch| outage.watch == watch);
        self.outages.iter().filter(wanted).cloned().collect()
    }

    /// How many outages there were since the controller started.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// How many targets of each watch are how. Histograms and results are not touched: it is asked every few
    /// seconds by whoever collects metrics.
    pub(super) fn counts(
        &self,
        now: Instant,
        absent: impl Fn(&NodeName) -> Option<String>,
    ) -> Vec<WatchCounts> {
        let mut counts: BTreeMap<&str, WatchCounts> =
            self.watches.keys().map(|name| (name.as_str(), WatchCounts::new(name))).collect();
        for target in self.targets.values() {
            if let Some(of_watch) = counts.get_mut(target.probe.watch.as_str()) {
                of_watch.add(&target.state(now, absent(&target.node)));
            }
        }
        counts.into_values().collect()
    }

    /// The state of one watch or of all. `absent` says why an agent is not there.
    pub(super) fn statuses(
        &mut self,
        watch: Option<&str>,
        now: Instant,
        absent: impl Fn(&NodeName) -> Option<String>,
    ) -> Vec<WatchStatus> {
        let mut of_watch: BTreeMap<String, Vec<TargetStatus>> = BTreeMap::new();
        for target in self.targets.values_mut() {
            if watch.is_none_or(|watch| target.probe.watch == watch) {
                let status = target.status(now, absent(&target.node));
                of_watch.entry(target.probe.watch.clone()).or_default().push(status);
            }
        }
        let wanted = self.watches.values().filter(|w| watch.is_none_or(|name| w.spec.name == name));
        wanted
            .map(|watched| {
                let mut targets = of_watch.remove(&watched.spec.name).unwrap_or_default();
                targets.sort_by(|a, b| (&a.source, &a.destination).cmp(&(&b.source, &b.destination)));
                WatchStatus {
                    spec: watched.spec.clone(),
                    since_unix_ns: watched.since_unix_ns,
                    targets,
                    problems: watched.problems.clone(),
                }
            })
            .collect()
    }
}

/// Ends an outage of which no agent will tell any more.
fn end(outages: &mut VecDeque<Outage>, down: Option<(u64, u64)>, at_unix_ns: u64) {
    let lasting = |outage: &&mut Outage| down.is_some_and(|(number, _)| outage.id == number);
    if let Some(outage) = outages.iter_mut().find(lasting) {
        outage.until_unix_ns.get_or_insert(at_unix_ns);
    }
}

impl Watchee {
    /// When an outage ended that the agent knows nothing of, because it was started while that lasted: probes
    /// are answered, and for so long that every one from before has met its fate nothing is told of a streak.
    fn mended(&mut self, report: &ProbeReport) -> Option<u64> {
        if self.down.is_none() || !report.streaks.is_empty() {
            self.answered = None;
            return None;
        }
        if self.answered.is_none() && report.counts.received > 0 {
            self.answered = Some(report.at_unix_ns);
        }
        let settled = 2 * 1000 * self.probe.timeout_us;
        self.answered.filter(|first| report.at_unix_ns > first.saturating_add(settled))
    }

    fn new(node: NodeName, probe: Probe, now: Instant) -> Self {
        Self {
            node,
            probe,
            windows: Windows::default(),
            clock: Clock::default(),
            heard: None,
            since: now,
            down: None,
            answered: None,
            refused: None,
        }
    }

    fn state(&self, now: Instant, absent: Option<String>) -> TargetState {
        let patience = SILENCE.max(2 * Duration::from_micros(self.probe.interval_us));
        let quiet = now.duration_since(self.heard.unwrap_or(self.since));
        match (absent, &self.refused) {
            (Some(why), _) => TargetState::Silent { why },
            (None, Some(why)) => TargetState::Refused { why: why.clone() },
            (None, None) if quiet > patience => TargetState::Silent {
                why: format!("nothing was heard of it from {} for {} s", self.node, quiet.as_secs()),
            },
            (None, None) => match (self.down, self.heard) {
                (Some((outage, since_unix_ns)), _) => TargetState::Down { outage, since_unix_ns },
                (None, Some(_)) => TargetState::Up,
                (None, None) => TargetState::Starting,
            },
        }
    }

    fn status(&mut self, now: Instant, absent: Option<String>) -> TargetStatus {
        let recent = self.windows.recent(now);
        TargetStatus {
            source: self.probe.source.clone(),
            destination: self.probe.destination.clone(),
            protocol: self.probe.protocol,
            node: self.node.clone(),
            address: self.probe.address,
            port: self.probe.port,
            state: self.state(now, absent),
            clock: self.clock,
            recent_buckets: buckets(&recent.rtt),
            recent: recent.summary(),
            total: self.windows.total.summary(),
        }
    }
}

#[cfg(test)]
mod tests;
