//! One scenario: something is broken, or nothing is, and a check is made while all oracles look on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use waymark_proto::NodeName;
use waymark_testbed::{Cluster, Fault, Instance, Pair, Probe};

use crate::capture::{Capture, Tapped};
use crate::clock::Clock;
use crate::common::Testbed;
use crate::compare::devices::Devices;
use crate::compare::rules::Known;
use crate::compare::{self, Disagreement};
use crate::counters::{self, Counts, Link};
use crate::drops::{Freed, Recorder};
use crate::rules::{Monitor, Traced};
use crate::waymark::{Look, looks};
use crate::wire::Identity;

/// What is broken, and what is asked.
pub struct Scenario {
    pub name: String,
    /// In the order in which they are undone.
    faults: Vec<&'static Fault>,
    probe: Probe,
}

/// What all sides saw.
struct Evidence {
    looks: Vec<Look>,
    tapped: Vec<Tapped>,
    traced: Vec<Traced>,
    freed: Vec<Freed>,
    risen: Counts,
    links: Vec<(String, Vec<Link>)>,
}

/// How much was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    pub sightings: usize,
    pub drops: usize,
    pub passages: usize,
    pub taps: usize,
}

impl std::ops::AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        self.sightings += other.sightings;
        self.drops += other.drops;
        self.passages += other.passages;
        self.taps += other.taps;
    }
}

impl Scenario {
    /// Nothing is broken.
    pub fn healthy(probe: Probe) -> Self {
        Self { name: probe.to_string(), faults: Vec::new(), probe }
    }

    /// One fault, and the traffic on which it shows.
    pub fn of_fault(fault: &'static Fault, cluster: &Cluster) -> Self {
        Self { name: fault.name.clone(), faults: vec![fault], probe: fault.probe(cluster).unwrap() }
    }

    /// Two. What comes first on the way is broken last, since it may hide the other from the tools, too.
    pub fn of_pair(pair: &Pair, cluster: &Cluster) -> Self {
        let probe = pair.first.probe(cluster).unwrap();
        Self { name: pair.name(), faults: vec![pair.first, pair.second], probe }
    }

    /// Plays it, and compares what all sides saw.
    pub fn play(&self, testbed: &Testbed, cluster: &Cluster) -> (Compared, Vec<Disagreement>) {
        // By the program: of some faults another process of it is a part.
        for fault in self.faults.iter().rev() {
            testbed.succeed(&["fault", "inject", &fault.name]);
        }
        let evidence = gather(&testbed.instance(), cluster, &self.probe);
        for fault in &self.faults {
            testbed.succeed(&["fault", "clear", &fault.name]);
        }
        (evidence.extent(), evidence.compare(cluster))
    }
}

/// The namespaces in which agents look, with their nodes.
fn namespaces(cluster: &Cluster) -> BTreeMap<&str, NodeName> {
    let nodes = cluster.nodes.iter().map(|node| (node.netns.as_str(), node.name.as_str().into()));
    let pods =
        cluster.pods.iter().map(|pod| (pod.netns.as_str(), cluster.nodes[pod.node].name.as_str().into()));
    nodes.chain(pods).collect()
}

fn gather(instance: &Instance, cluster: &Cluster, probe: &Probe) -> Evidence {
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("check.json");
    let namespaces = namespaces(cluster);
    let captures: Vec<_> = namespaces.keys().map(|netns| Capture::start(netns)).collect();
    let monitors: Vec<_> = namespaces.keys().map(|netns| Monitor::start(netns)).collect();
    captures.iter().for_each(Capture::ready);
    monitors.iter().for_each(Monitor::ready);
    let read = || namespaces.keys().map(|netns| counters::read(netns)).collect::<Vec<_>>();
    let before: Counts = read().into_iter().flat_map(|(_, counts)| counts).collect();
    let recorder = Recorder::start(folder.path());

    ask(instance, probe, &recording);

    let freed = recorder.finish();
    let (links, after): (Vec<_>, Vec<_>) = read().into_iter().unzip();
    let after: Counts = after.into_iter().flatten().collect();
    let traced = monitors.into_iter().map(Monitor::finish).collect();
    let clock = Clock::now();
    let captured = captures.into_iter().zip(&links);
    let tapped: Vec<Tapped> = captured.flat_map(|(capture, links)| capture.finish(&clock, links)).collect();
    let mut looks = looks(&recording);
    looks.iter_mut().for_each(|look| look.identify(&tapped));
    let links = namespaces.keys().map(|&netns| netns.to_owned()).zip(links).collect();
    Evidence { looks, tapped, traced, freed, risen: counters::risen(&before, &after), links }
}

/// Makes the check, which looks closely from the first packet on.
fn ask(instance: &Instance, probe: &Probe, recording: &Path) {
    let mut check: Command = probe.command(instance).unwrap();
    let output = check.arg("--wide").arg("--record").arg(recording).stdin(Stdio::null()).output().unwrap();
    let answered = output.status.code().is_some_and(|code| code < 3);
    assert!(answered, "{probe}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

impl Evidence {
    fn compare(&self, cluster: &Cluster) -> Vec<Disagreement> {
        let generic = |(netns, links): &'_ (String, Vec<Link>)| -> Vec<(String, String)> {
            links
                .iter()
                .filter(|link| link.generic_xdp)
                .map(|link| (netns.clone(), link.name.clone()))
                .collect()
        };
        let generic: Vec<_> = self.links.iter().flat_map(generic).collect();
        let devices = Devices {
            nodes: namespaces(cluster),
            generic_xdp: generic.iter().map(|(netns, name)| (netns.as_str(), name.as_str())).collect(),
        };
        let mut told = Vec::new();
        for look in &self.looks {
            told.extend(compare::devices::compare(look, &self.tapped, &devices));
            told.extend(compare::drops::compare(look, &self.freed));
        }
        told.extend(compare::rules::compare(&self.looks, &self.traced, &self.known()));
        told.extend(compare::counters::compare(&self.looks, &self.risen));
        told
    }

    /// What is known of what nft tells.
    fn known(&self) -> Known {
        let is_legible = |tap: &&Tapped| {
            let is_of = |look: &Look| {
                let until = look.armed_until_ns(tap.reading.marked.identity);
                look.is_genuine(tap.reading) && until.is_some_and(|until| tap.at_ns <= until)
            };
            self.looks.iter().any(is_of)
        };
        let legible = self.tapped.iter().filter(is_legible);
        let legible = legible.filter_map(|tap| Some((tap.netns.clone(), tap.reading.tunnel?))).collect();
        Known { complete: self.is_complete(), legible }
    }

    /// Whether all rounds that were armed are in the recording.
    fn is_complete(&self) -> bool {
        let known: BTreeSet<Identity> =
            self.looks.iter().flat_map(|look| look.identities.values().copied()).collect();
        let checks: BTreeSet<u32> =
            self.looks.iter().flat_map(|look| look.armed_until_ns.keys().map(|check| check.get())).collect();
        self.traced.iter().all(|traced| {
            traced.isns.iter().all(|&isn| known.contains(&Identity::Isn(isn)))
                && traced.checks.iter().all(|check| checks.contains(check))
        })
    }

    fn extent(&self) -> Compared {
        let sightings = || self.looks.iter().flat_map(|look| &look.sightings);
        for s in sightings() {
            if let waymark_proto::Event::Dropped { reason, function } = &s.event {
                let risen: Vec<_> = self
                    .risen
                    .iter()
                    .filter(|((n, d, _), c)| {
                        n == s.place.netns.as_str() && Some(d) == s.device.as_ref() && **c > 0
                    })
                    .map(|((.., k), c)| format!("{k:?}={c}"))
                    .collect();
                println!(
                    "DROP {} {} {} {:?}",
                    reason.as_deref().unwrap_or(""),
                    function,
                    s.device.as_deref().unwrap_or("-"),
                    risen
                );
            }
        }
        Compared {
            sightings: sightings().count(),
            drops: sightings().filter(|s| matches!(s.event, waymark_proto::Event::Dropped { .. })).count(),
            passages: self.traced.iter().map(|traced| traced.passages.len()).sum(),
            taps: self.tapped.len(),
        }
    }
}
