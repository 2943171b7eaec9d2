//! What a change means by the objects alone: intended reachability before and after, and how they differ.

use std::collections::{BTreeMap, BTreeSet};

use waymark_proto::{Inventory, LabelSelector, NetworkPolicy, ObjectRef, Text, text};
use waymark_sim::{Change, Reachability, Survey, selects};

use super::groups::{Group, Groups, group};
use super::outside::{OutsideChange, outside};

/// Most pods with which all namespaces are looked at, not only those that a change names: a million pairs and
/// more would take seconds, and hold nothing that somebody reads.
const MOST_PODS: usize = 500;

/// What a change means by the objects alone.
#[derive(Clone, Debug)]
pub struct Foresight {
    /// The namespaces whose pods and Services were looked at.
    pub namespaces: BTreeSet<String>,
    /// Who may reach whom before.
    pub before: Reachability,
    /// Who may reach whom after.
    pub after: Reachability,
    /// The pairs of which the two differ.
    pub changes: Vec<Change>,
    /// The same, for people.
    pub groups: Vec<Group>,
    /// How traffic from and to the world outside changes.
    pub outside: Vec<OutsideChange>,
    /// How many pairs were looked at.
    pub pairs: usize,
    /// What is worth knowing, a sentence each.
    pub remarks: Vec<Text>,
}

impl Foresight {
    /// Whether reachability changes at all.
    pub fn changes_something(&self) -> bool {
        !self.changes.is_empty() || !self.outside.is_empty()
    }
}

/// Compares what two inventories intend, over the namespaces concerned by a change in some of them.
pub fn foresee(before: &Inventory, after: &Inventory, touched: &BTreeSet<String>) -> Foresight {
    let namespaces = concerned(before, after, touched);
    let survey = Survey::new(&[before, after], &namespaces);
    let (was, will) = (survey.reachability(before), survey.reachability(after));
    let changes = was.changes(&will);
    let groups = group(&changes, &Groups::new(&[before, after]), before, after);
    let mut remarks = remarks(before, after, touched);
    let all: BTreeSet<&String> = before.pods.iter().chain(&after.pods).map(|pod| &pod.namespace).collect();
    let left_out = all.iter().filter(|namespace| !namespaces.contains(**namespace)).count();
    if left_out > 0 {
        remarks.push(text!(validation::LeftOut { namespaces: left_out, most: MOST_PODS }));
    }
    Foresight {
        outside: outside(before, after, touched),
        pairs: survey.len(),
        before: was,
        after: will,
        changes,
        groups,
        namespaces,
        remarks,
    }
}

/// All namespaces, while they are few; else those of the change, those that select them and those they select.
fn concerned(before: &Inventory, after: &Inventory, touched: &BTreeSet<String>) -> BTreeSet<String> {
    let pods = before.pods.len().max(after.pods.len());
    let both = [before, after];
    let all = both.iter().flat_map(|inventory| {
        let services = inventory.services.iter().map(|service| &service.namespace);
        inventory.pods.iter().map(|pod| &pod.namespace).chain(services)
    });
    let all: BTreeSet<String> = all.chain(touched).cloned().collect();
    if pods <= MOST_PODS {
        return all;
    }
    let policies = both.iter().flat_map(|inventory| &inventory.policies);
    let selectors: Vec<&LabelSelector> =
        policies.filter(|policy| touched.contains(&policy.namespace)).flat_map(namespace_selectors).collect();
    let none = BTreeMap::new();
    let labels = |name: &String| {
        let found = both.iter().flat_map(|inventory| &inventory.namespaces).find(|n| n.name == *name);
        found.map_or(&none, |namespace| &namespace.labels)
    };
    all.into_iter()
        .filter(|name| {
            touched.contains(name) || selectors.iter().any(|selector| selects(selector, labels(name)))
        })
        .collect()
}

fn namespace_selectors(policy: &NetworkPolicy) -> impl Iterator<Item = &LabelSelector> {
    let from = policy.spec.ingress.iter().flat_map(|rule| &rule.from);
    let to = policy.spec.egress.iter().flat_map(|rule| &rule.to);
    from.chain(to).filter_map(|peer| peer.namespace_selector.as_ref())
}

/// What a reader would want to be told of a change that does not do what it looks like.
fn remarks(before: &Inventory, after: &Inventory, touched: &BTreeSet<String>) -> Vec<Text> {
    let mut remarks = Vec::new();
    for namespace in touched {
        if !after.pods.iter().any(|pod| pod.namespace == *namespace) {
            remarks.push(text!(validation::NoPods { namespace }));
        }
    }
    let is_new = |policy: &&NetworkPolicy| !before.policies.contains(policy);
    for policy in after.policies.iter().filter(is_new) {
        let selected = |pod: &&waymark_proto::Pod| {
            pod.namespace == policy.namespace && selects(&policy.spec.pod_selector, &pod.labels)
        };
        let object = ObjectRef::namespaced("NetworkPolicy", &policy.namespace, &policy.name);
        let pods: Vec<_> = after.pods.iter().filter(selected).collect();
        if pods.is_empty() {
            remarks.push(text!(validation::SelectsNothing { policy: &object }));
        } else if pods.iter().all(|pod| pod.host_network) {
            remarks.push(text!(validation::SelectsHostNetwork { policy: &object }));
        }
        let blind = namespace_selectors(policy).filter(|selector| {
            !after.namespaces.iter().any(|namespace| selects(selector, &namespace.labels))
        });
        if blind.count() > 0 {
            remarks.push(text!(validation::SelectsNoNamespace { policy: &object }));
        }
    }
    // What could not be looked at: policies that are not understood, pods without addresses.
    let left_out = after.absent.iter().filter(|absent| match absent.object.kind.as_str() {
        "NetworkPolicy" => true,
        "Pod" | "Service" => absent.object.namespace.as_ref().is_some_and(|own| touched.contains(own)),
        _ => false,
    });
    remarks.extend(super::shortened(
        left_out
            .map(|absent| text!(validation::Absent { object: &absent.object, why: &absent.why }))
            .collect(),
    ));
    let new_services = after.services.iter().filter(|service| !before.services.contains(service));
    for service in new_services.filter(|service| service.selector.is_some()) {
        if !service.backends.iter().any(|backend| backend.ready) {
            remarks.push(text!(validation::NoReadyPod {
                service: ObjectRef::namespaced("Service", &service.namespace, &service.name),
                port: service.port,
            }));
        }
    }
    remarks
}
