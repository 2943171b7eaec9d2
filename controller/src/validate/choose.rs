//! Which connections to check for real: of thousands of pairs, a few that stand for them all.

use std::collections::{BTreeMap, BTreeSet};

use waymark_proto::{Inventory, Text, TransportProtocol, text};
use waymark_sim::{Change, Pair, Reach, Target, Traffic, selects};

use super::expect::{Expectations, is_itself};
use super::foresee::Foresight;
use super::groups::{Groups, Shift};

/// A connection to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its ends.
    pub pair: Pair,
    /// What the objects ask for before the change.
    pub before: Reach,
    /// What they ask for after it.
    pub predicted: Reach,
}

/// What was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The connections.
    pub samples: Vec<Sample>,
    /// Changed connections that no sample stands for, because they cannot be checked, with the reason.
    pub remarks: Vec<Text>,
}

/// What may be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most connections.
    pub most: usize,
    /// Whether UDP ports may be sent to, though the application behind them gets the packets.
    pub udp: bool,
}

/// Every this many of the samples is one that should not change, if there are enough of both kinds.
const CONTROLS: usize = 3;

/// Chooses: of each group of changed pairs one, losses first, then ones that should stay as they are, then
/// further ones of the same groups.
pub fn choose(
    foresight: &Foresight,
    inventories: &[&Inventory; 2],
    touched: &BTreeSet<String>,
    expectations: &Expectations,
    bounds: Bounds,
) -> Choice {
    let groups = Groups::new(inventories);
    let mut choice = Choice::default();
    let mut skipped: BTreeMap<Obstacle, usize> = BTreeMap::new();
    let mut changes = Vec::new();
    for change in &foresight.changes {
        let sample = Sample { pair: change.pair.clone(), before: change.before, predicted: change.after };
        match obstacle(&sample, bounds.udp) {
            None => changes.push(sample),
            Some(why) => *skipped.entry(why).or_default() += 1,
        }
    }
    // What nobody gave up first: the room may not suffice for all.
    changes.sort_by_key(|sample| {
        (Shift::of(sample.before, sample.predicted), expectations.accepts_loss(&sample.pair))
    });
    let changes = spread(changes, &groups);
    let backends = backends(inventories[0]);
    let stays = |(pair, before): (Pair, Reach)| {
        let predicted = foresight.after.get(&pair);
        Some(Sample { pair, before, predicted }).filter(|sample| {
            sample.before == sample.predicted
                && obstacle(sample, bounds.udp).is_none()
                && is_control(sample, touched, &backends)
        })
    };
    let mut controls: Vec<Sample> = foresight.before.pairs().filter_map(stays).collect();
    // First what is expected explicitly, then what is nearest to the change, then what works: it is what a
    // change can break.
    let near = Near::new(inventories);
    controls.sort_by_key(|Sample { pair, before, .. }| {
        let within = touched.contains(&pair.namespace) && touched.contains(&pair.destination.namespace);
        (expectations.of(pair).is_none(), !near.is(pair), !within, *before != Reach::Allowed)
    });
    let controls = spread(controls, &groups);
    let wanted = (bounds.most / CONTROLS).max(bounds.most.saturating_sub(changes.len())).min(controls.len());
    let of_changes = bounds.most.saturating_sub(wanted).min(changes.len());
    choice.samples = changes.into_iter().take(of_changes).chain(controls.into_iter().take(wanted)).collect();
    choice.remarks = skipped
        .into_iter()
        .map(|(why, count)| text!(validation::UncheckedChanges { count, why: why.words() }))
        .collect();
    choice
}

/// What is predicted to be lost, was not given up, and is not among what was checked, not even by another
/// connection of the same groups: a sentence each. Nobody would notice that it is lost.
pub fn unchecked_losses(
    foresight: &Foresight,
    inventories: &[&Inventory; 2],
    checked: &[&Sample],
    expectations: &Expectations,
    bounds: Bounds,
) -> Vec<Text> {
    let groups = Groups::new(inventories);
    let seen: BTreeSet<_> = checked.iter().map(|sample| kind(sample, &groups)).collect();
    let told = |change: &Change| {
        let sample = Sample { pair: change.pair.clone(), before: change.before, predicted: change.after };
        if is_itself(&sample.pair) || seen.contains(&kind(&sample, &groups)) {
            return None;
        }
        let why = obstacle(&sample, bounds.udp).map_or_else(|| text!(validation::NoRoom), Obstacle::words);
        Some(text!(validation::UncheckedLoss { pair: sample.pair.to_string(), why }))
    };
    expectations.unwanted(&foresight.changes).into_iter().filter_map(told).collect()
}

/// Why a pair cannot be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    Gone,
    Sctp,
    Udp,
    Itself,
}

impl Obstacle {
    fn words(self) -> Text {
        match self {
            Self::Gone => text!(validation::EndGone),
            Self::Sctp => text!(validation::Sctp),
            Self::Udp => text!(validation::Udp),
            Self::Itself => text!(validation::Itself),
        }
    }
}

fn obstacle(sample: &Sample, udp: bool) -> Option<Obstacle> {
    match (sample.pair.destination.traffic, sample.predicted) {
        (_, Reach::Absent) => Some(Obstacle::Gone),
        (Traffic::Port(TransportProtocol::Sctp, _), _) => Some(Obstacle::Sctp),
        (Traffic::Port(TransportProtocol::Udp, _), _) if !udp => Some(Obstacle::Udp),
        _ if is_itself(&sample.pair) => Some(Obstacle::Itself),
        _ => None,
    }
}

/// Whether an unchanged pair tells something: it touches a changed namespace, its answer is known, and it is
/// no Service of which the sender is a backend itself.
fn is_control(sample: &Sample, touched: &BTreeSet<String>, backends: &Backends) -> bool {
    let Pair { namespace, pod, destination } = &sample.pair;
    let concerned = touched.contains(namespace) || touched.contains(&destination.namespace);
    let to_itself = match &destination.target {
        Target::Service(name) => backends
            .get(&(destination.namespace.clone(), name.clone()))
            .is_some_and(|pods| pods.contains(&format!("{namespace}/{pod}"))),
        Target::Pod(_) => false,
    };
    concerned && !to_itself && matches!(sample.before, Reach::Allowed | Reach::Denied)
}

/// What a change is about: the Services that differ, and the pods that policies select which differ.
struct Near {
    services: BTreeSet<(String, String)>,
    pods: BTreeSet<(String, String)>,
}

impl Near {
    fn new([before, after]: &[&Inventory; 2]) -> Self {
        let (mut services, mut pods) = (BTreeSet::new(), BTreeSet::new());
        for (one, other) in [(before, after), (after, before)] {
            let differ = one.services.iter().filter(|service| !other.services.contains(service));
            services.extend(differ.map(|service| (service.namespace.clone(), service.name.clone())));
            for policy in one.policies.iter().filter(|policy| !other.policies.contains(policy)) {
                let selected = one.pods.iter().filter(|pod| {
                    pod.namespace == policy.namespace && selects(&policy.spec.pod_selector, &pod.labels)
                });
                pods.extend(selected.map(|pod| (pod.namespace.clone(), pod.name.clone())));
            }
        }
        Self { services, pods }
    }

    fn is(&self, pair: &Pair) -> bool {
        let to = &pair.destination;
        let receiver = match &to.target {
            Target::Service(name) => self.services.contains(&(to.namespace.clone(), name.clone())),
            Target::Pod(name) => self.pods.contains(&(to.namespace.clone(), name.clone())),
        };
        receiver || self.pods.contains(&(pair.namespace.clone(), pair.pod.clone()))
    }
}

type Backends = BTreeMap<(String, String), BTreeSet<String>>;

fn backends(inventory: &Inventory) -> Backends {
    let mut backends = Backends::new();
    for service in &inventory.services {
        let key = (service.namespace.clone(), service.name.clone());
        backends.entry(key).or_default().extend(service.backends.iter().filter_map(|b| b.pod.clone()));
    }
    backends
}

/// What connections have in common of which one stands for all.
fn kind(sample: &Sample, groups: &Groups) -> (String, String, Traffic, Reach, Reach) {
    let Pair { namespace, pod, destination } = &sample.pair;
    let (source, target) = (groups.of(namespace, pod), groups.target(&sample.pair));
    (source, target, destination.traffic, sample.before, sample.predicted)
}

/// Reorders samples so that each group's first one comes before any group's second.
fn spread(samples: Vec<Sample>, groups: &Groups) -> Vec<Sample> {
    let mut seen: BTreeMap<_, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, Sample)> = samples
        .into_iter()
        .map(|sample| {
            let rank = seen.entry(kind(&sample, groups)).or_default();
            *rank += 1;
            (*rank, sample)
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, sample)| sample).collect()
}
