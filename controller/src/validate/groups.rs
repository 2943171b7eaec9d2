//! Changes put together for people: pods with equal labels are one group, and what changes alike is one line.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use waymark_proto::{Admission, Inventory, NodeName, Pod, PolicyField, PolicyType, Text, text};
use waymark_sim::{Change, Pair, Reach, Survey, Target};

/// Labels that tell pods of one template apart, or templates of one workload.
const VOLATILE: [&str; 7] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "controller-revision-hash",
    "controller-uid",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// Changes that are alike: from each of some groups of pods to each of some destinations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The groups of pods that send.
    pub sources: Vec<Text>,
    /// The groups of pods, and Services, with protocol and port.
    pub destinations: Vec<Text>,
    /// Before.
    pub before: Reach,
    /// After.
    pub after: Reach,
    /// How many connections these are.
    pub connections: usize,
    /// One of them.
    pub example: Pair,
    /// What makes the difference for that one, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<Text>,
}

/// Which group each pod is of, by the group's name.
#[derive(Debug, Default)]
pub(super) struct Groups {
    names: BTreeMap<(String, String), String>,
    sizes: BTreeMap<String, usize>,
}

impl Groups {
    pub(super) fn new(inventories: &[&Inventory]) -> Self {
        let mut members: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for pod in inventories.iter().flat_map(|inventory| &inventory.pods) {
            members.entry((pod.namespace.clone(), labels(pod))).or_default().insert(pod.name.clone());
        }
        let mut groups = Self::default();
        for ((namespace, labels), pods) in members {
            let name = match (pods.len(), labels.as_str()) {
                (1, _) => format!("{namespace}/{}", pods.first().expect("it has one")),
                (_, "") => format!("{namespace}/(no labels)"),
                (_, labels) => format!("{namespace}/{labels}"),
            };
            groups.sizes.insert(name.clone(), pods.len());
            groups.names.extend(pods.into_iter().map(|pod| ((namespace.clone(), pod), name.clone())));
        }
        groups
    }

    /// The name of a pod's group.
    pub(super) fn of(&self, namespace: &str, pod: &str) -> String {
        let key = (namespace.to_owned(), pod.to_owned());
        self.names.get(&key).cloned().unwrap_or_else(|| format!("{namespace}/{pod}"))
    }

    /// The group of a destination, or the Service.
    pub(super) fn target(&self, pair: &Pair) -> String {
        let destination = &pair.destination;
        match &destination.target {
            Target::Pod(name) => self.of(&destination.namespace, name),
            Target::Service(name) => format!("svc/{}/{name}", destination.namespace),
        }
    }

    /// A group's name, with how many of its pods are meant.
    fn with_count(&self, name: &str, pods: usize) -> Text {
        match self.sizes.get(name).copied().unwrap_or(1) {
            0 | 1 => Text::verbatim(name),
            all if all == pods => text!(validation::Pods { name, pods }),
            all => text!(validation::SomePods { name, pods, all }),
        }
    }
}

fn labels(pod: &Pod) -> String {
    let stable = pod.labels.iter().filter(|(key, _)| !VOLATILE.contains(&key.as_str()));
    stable.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// What becomes of the connections between two groups.
#[derive(Default)]
struct Line {
    sources: BTreeSet<String>,
    targets: BTreeSet<String>,
    connections: usize,
    example: Option<Pair>,
}

/// Puts changes together. Lost connections come first, then the largest.
pub(super) fn group(
    changes: &[Change],
    groups: &Groups,
    before: &Inventory,
    after: &Inventory,
) -> Vec<Group> {
    let mut lines: BTreeMap<_, Line> = BTreeMap::new();
    for change in changes {
        let Pair { namespace, pod, destination } = &change.pair;
        let key = (
            groups.of(namespace, pod),
            groups.target(&change.pair),
            destination.traffic,
            change.before,
            change.after,
        );
        let line = lines.entry(key).or_default();
        line.sources.insert(format!("{namespace}/{pod}"));
        line.targets.insert(destination.to_string());
        line.connections += 1;
        line.example.get_or_insert_with(|| change.pair.clone());
    }
    // The same destination from several groups, then several destinations from the same groups.
    // Names are told apart, and sorted, by their words.
    let mut said: BTreeMap<String, Text> = BTreeMap::new();
    let mut name = |text: Text| {
        let words = text.to_string();
        said.insert(words.clone(), text);
        words
    };
    let mut to_one: BTreeMap<_, (Vec<String>, usize, Option<Pair>)> = BTreeMap::new();
    for ((source, target, traffic, was, will), line) in lines {
        let target = groups.with_count(&target, line.targets.len());
        let target = name(text!(validation::WithTraffic { name: target, traffic: traffic.to_string() }));
        let entry = to_one.entry((target, was, will)).or_default();
        entry.0.push(name(groups.with_count(&source, line.sources.len())));
        entry.1 += line.connections;
        entry.2 = entry.2.take().or(line.example);
    }
    let mut merged: BTreeMap<_, (Vec<String>, usize, Option<Pair>)> = BTreeMap::new();
    for ((target, was, will), (sources, connections, example)) in to_one {
        let entry = merged.entry((sources, was, will)).or_default();
        entry.0.push(target);
        entry.1 += connections;
        entry.2 = entry.2.take().or(example);
    }
    let texts = |names: Vec<String>| names.iter().map(|name| said[name].clone()).collect();
    let mut groups: Vec<Group> = merged
        .into_iter()
        .filter_map(|((sources, was, will), (destinations, connections, example))| {
            let example = example?;
            let because = because(&example, was, will, before, after);
            let (sources, destinations) = (texts(sources), texts(destinations));
            Some(Group { sources, destinations, before: was, after: will, connections, example, because })
        })
        .collect();
    groups.sort_by_key(|group| (Shift::of(group.before, group.after), std::cmp::Reverse(group.connections)));
    groups
}

/// Which way an answer shifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Shift {
    /// What worked does not any more, or not with all backends.
    Lost,
    /// What did not work does.
    Gained,
    /// Anything else.
    Other,
}

impl Shift {
    /// The shift from one answer to another.
    pub fn of(before: Reach, after: Reach) -> Self {
        let rank = |reach| match reach {
            Reach::Denied | Reach::NoEndpoints | Reach::Absent => Some(0),
            Reach::Partly => Some(1),
            Reach::Allowed => Some(2),
            Reach::Unknown => None,
        };
        match (rank(before), rank(after)) {
            (Some(before), Some(after)) if after < before => Self::Lost,
            (Some(before), Some(after)) if after > before => Self::Gained,
            _ => Self::Other,
        }
    }
}

/// The node on which the Service's pods have to be by its traffic policy, and the policy.
fn of_node(pair: &Pair, inventory: &Inventory) -> (Option<NodeName>, Option<PolicyField>) {
    let only = Survey::explain(inventory, pair).and_then(|intent| intent.local_only);
    only.map(|only| (only.node, only.policy)).unzip()
}

/// Why the answer differs: what denies it where it is denied.
fn because(pair: &Pair, was: Reach, will: Reach, before: &Inventory, after: &Inventory) -> Option<Text> {
    let shift = Shift::of(was, will);
    let inventory = match shift {
        Shift::Lost => after,
        Shift::Gained => before,
        Shift::Other => return None,
    };
    match (will, was) {
        (Reach::NoEndpoints, _) => {
            let (node, policy) = of_node(pair, after);
            return Some(text!(validation::LeadsNowhere { node, policy }));
        }
        (_, Reach::NoEndpoints) => {
            let (node, policy) = of_node(pair, before);
            return Some(text!(validation::LedNowhere { node, policy }));
        }
        (Reach::Absent, _) => return Some(text!(validation::IsGone)),
        (_, Reach::Absent) => return Some(text!(validation::IsNew)),
        _ => {}
    }
    let intent = Survey::explain(inventory, pair)?;
    let denials = intent.receivers.iter().find_map(|receiver| match &receiver.admission {
        Admission::Denied { by } => Some(by),
        _ => None,
    })?;
    let each: Vec<Text> = denials
        .iter()
        .map(|denial| {
            let direction = match denial.direction {
                PolicyType::Ingress => "ingress",
                PolicyType::Egress => "egress",
            };
            let policies: Vec<String> = denial.policies.iter().map(ToString::to_string).collect();
            text!(validation::Denial { policies: policies.join(", "), direction, pod: &denial.pod })
        })
        .collect();
    let denials = text!(list::Both { items: each });
    Some(if shift == Shift::Lost {
        text!(validation::Denied { denials })
    } else {
        text!(validation::WasDenied { denials })
    })
}
