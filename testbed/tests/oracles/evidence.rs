//! What Waymark and all oracles saw of one check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use waymark_proto::{Event, Hook, NodeName, Sighting};
use waymark_testbed::{Cluster, Instance, Probe};

use crate::capture::{Capture, Tapped};
use crate::clock::Clock;
use crate::compare::devices::Devices;
use crate::compare::rules::Known;
use crate::compare::{self, Disagreement};
use crate::counters::{self, Counts, Link};
use crate::drops::{Freed, Recorder};
use crate::rules::{Monitor, Traced};
use crate::waymark::{Look, is_by_netfilter, looks};
use crate::wire::Identity;

/// What all sides saw.
pub struct Evidence {
    /// The namespaces in which agents look, with their nodes.
    namespaces: BTreeMap<String, NodeName>,
    looks: Vec<Look>,
    tapped: Vec<Tapped>,
    traced: Vec<Traced>,
    freed: Vec<Freed>,
    risen: Counts,
    links: Vec<(String, Vec<Link>)>,
}

/// How much there is to compare.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent {
    pub sightings: usize,
    pub drops: usize,
    pub passages: usize,
    pub taps: usize,
}

impl std::ops::AddAssign for Extent {
    fn add_assign(&mut self, other: Self) {
        self.sightings += other.sightings;
        self.drops += other.drops;
        self.passages += other.passages;
        self.taps += other.taps;
    }
}

/// Of how many sightings that were left out it was noticed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noticed {
    pub noticed: usize,
    pub of: usize,
}

impl std::ops::AddAssign for Noticed {
    fn add_assign(&mut self, other: Self) {
        self.noticed += other.noticed;
        self.of += other.of;
    }
}

/// Those of devices, of drops, and of rules.
const KINDS: [fn(&Sighting) -> bool; 3] = [
    |sighting| sighting.event == Event::Seen && matches!(sighting.hook, Hook::DriverRx | Hook::DriverTx),
    is_drop,
    |sighting| is_by_netfilter(&sighting.event),
];

fn is_drop(sighting: &Sighting) -> bool {
    matches!(sighting.event, Event::Dropped { .. })
}

impl Evidence {
    /// Makes a check while all look on; or says why it was not answered.
    pub fn gather(instance: &Instance, cluster: &Cluster, probe: &Probe) -> Result<Self, String> {
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

        ask(instance, probe, &recording)?;

        let freed = recorder.finish();
        let (links, after): (Vec<_>, Vec<_>) = read().into_iter().unzip();
        let risen = counters::risen(&before, &after.into_iter().flatten().collect());
        let traced = monitors.into_iter().map(Monitor::finish).collect();
        let clock = Clock::now();
        let with_links = captures.into_iter().zip(&links);
        let tapped: Vec<Tapped> =
            with_links.flat_map(|(capture, links)| capture.finish(&clock, links)).collect();
        let mut looks = looks(&recording);
        for look in &mut looks {
            look.identify(&tapped);
        }
        let links = namespaces.keys().cloned().zip(links).collect();
        Ok(Self { namespaces, looks, tapped, traced, freed, risen, links })
    }

    /// What they do not agree on.
    pub fn disagreements(&self) -> Vec<Disagreement> {
        self.compare(&self.looks)
    }

    /// The same if Waymark had said something else.
    fn compare(&self, looks: &[Look]) -> Vec<Disagreement> {
        let generic = |(netns, links): &'_ (String, Vec<Link>)| {
            let links = links.iter().filter(|link| link.generic_xdp);
            links.map(|link| (netns.clone(), link.name.clone())).collect::<Vec<_>>()
        };
        let devices = Devices {
            nodes: self.namespaces.clone(),
            generic_xdp: self.links.iter().flat_map(generic).collect(),
        };
        let mut told = Vec::new();
        for look in looks {
            told.extend(compare::devices::compare(look, &self.tapped, &devices));
            told.extend(compare::drops::compare(look, &self.freed));
        }
        told.extend(compare::rules::compare(looks, &self.traced, &self.known()));
        told.extend(compare::counters::compare(looks, &self.risen));
        told
    }

    /// Leaves out sightings, each in turn, and says of how many that is noticed: at devices, of drops, of rules. No more than
    /// `most` of each.
    pub fn noticed(&self, most: usize) -> [Noticed; 3] {
        KINDS.map(|is_of_kind| {
            let all = self.looks.iter().enumerate().flat_map(|(look, of)| {
                let sightings = of.sightings.iter().enumerate();
                sightings.filter(|(_, sighting)| is_of_kind(sighting)).map(move |(index, _)| (look, index))
            });
            let all: Vec<_> = all.collect();
            let step = all.len().div_ceil(most).max(1);
            let mut noticed = Noticed::default();
            for (look, index) in all.into_iter().step_by(step) {
                let mut looks = self.looks.clone();
                looks[look] = looks[look].without(index);
                looks[look].identify(&self.tapped);
                noticed.noticed += usize::from(!self.compare(&looks).is_empty());
                noticed.of += 1;
            }
            noticed
        })
    }

    /// What is known of what nft tells.
    fn known(&self) -> Known {
        let is_legible = |tap: &&Tapped| {
            let node = &self.namespaces[&tap.netns];
            let is_of = |look: &Look| {
                let until = look.seen_until_ns(tap.reading.marked.identity, node);
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
        let checks: BTreeSet<u32> = self.looks.iter().flat_map(Look::checks).collect();
        self.traced.iter().all(|traced| {
            traced.isns.iter().all(|&isn| known.contains(&Identity::Isn(isn)))
                && traced.checks.iter().all(|check| checks.contains(check))
        })
    }

    /// How much there is of it.
    pub fn extent(&self) -> Extent {
        let sightings = || self.looks.iter().flat_map(|look| &look.sightings);
        Extent {
            sightings: sightings().count(),
            drops: sightings().filter(|sighting| is_drop(sighting)).count(),
            passages: self.traced.iter().map(|traced| traced.passages.len()).sum(),
            taps: self.tapped.len(),
        }
    }
}

/// The namespaces in which agents look, with their nodes.
fn namespaces(cluster: &Cluster) -> BTreeMap<String, NodeName> {
    let node = |index: usize| NodeName::from(cluster.nodes[index].name.as_str());
    let nodes = cluster.nodes.iter().enumerate().map(|(index, plan)| (plan.netns.clone(), node(index)));
    nodes.chain(cluster.pods.iter().map(|pod| (pod.netns.clone(), node(pod.node)))).collect()
}

/// Makes the check, which looks closely from the first packet on.
fn ask(instance: &Instance, probe: &Probe, recording: &Path) -> Result<(), String> {
    let mut check: Command = probe.command(instance).unwrap();
    let output = check.arg("--wide").arg("--record").arg(recording).stdin(Stdio::null()).output().unwrap();
    let answered = output.status.code().is_some_and(|code| code < 3);
    let why = || format!("no answer: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    if answered { Ok(()) } else { Err(why()) }
}
