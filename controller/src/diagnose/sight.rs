//! What could be seen: "not observable" is never "dropped".

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use waymark_proto::{Hook, HookReport, NodeName, NotObservable, Observability, Place, Step, Text, text};

/// What the agents of the path could see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sight {
    reports: BTreeMap<NodeName, Vec<HookReport>>,
    blind: BTreeMap<NodeName, Text>,
}

/// How a predicted step can show itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum See {
    /// Who passes is seen; who is not seen did not come.
    Passing,
    /// Only a drop would be seen.
    Drops,
    /// Nothing is.
    Nothing,
}

impl Sight {
    /// Adds what an armed agent reported.
    pub fn armed(&mut self, node: NodeName, reports: Vec<HookReport>) {
        self.reports.insert(node, reports);
    }

    /// Notes that a node could not be watched, or not to the end.
    pub fn blind(&mut self, node: NodeName, why: Text) {
        self.blind.insert(node, why);
    }

    /// Adds what could be seen in another round: what was out of sight once is not known to have been in sight.
    pub fn add(&mut self, other: Self) {
        self.reports.extend(other.reports);
        self.blind.extend(other.blind);
    }

    /// Whether anything was watched on a node.
    pub fn watches(&self, node: &NodeName) -> bool {
        self.reports.contains_key(node) && !self.blind.contains_key(node)
    }

    /// The nodes on which anything was watched.
    pub fn watched(&self) -> impl Iterator<Item = &NodeName> {
        self.reports.keys().filter(|node| self.watches(node))
    }

    /// The hooks of nodes that no provider serves, and why.
    pub(crate) fn unserved(&self) -> impl Iterator<Item = (&NodeName, Hook, &Text)> {
        let all =
            self.reports.iter().flat_map(|(node, reports)| reports.iter().map(move |report| (node, report)));
        all.filter_map(|(node, report)| match &report.observability {
            Observability::NotObservable { why } => Some((node, report.hook, why)),
            Observability::Observed { .. } => None,
        })
    }

    /// Why a node could not be watched.
    pub(super) fn why_blind(&self, node: &NodeName) -> Option<&Text> {
        self.blind.get(node)
    }

    /// Whether every passage through an IP netfilter hook of a namespace was watched.
    pub fn watches_filters(&self, place: &Place) -> bool {
        let hooks = || Hook::ALL.iter().filter(|hook| hook.is_netfilter());
        self.watches(&place.node)
            && hooks().all(|&hook| {
                let report = self.report(place, hook).map(|report| &report.observability);
                matches!(report, Some(Observability::Observed { .. }))
            })
    }

    /// Whether a reception may have been recorded twice: agents of the past also watched devices that put packets by for
    /// the stack.
    pub fn records_twice(&self) -> bool {
        let by_both = |report: &HookReport| {
            report.hook == Hook::DriverRx
                && matches!(&report.observability, Observability::Observed { provider } if provider == "tp_btf/netif_rx")
        };
        self.reports.values().flatten().any(by_both)
    }

    pub(super) fn see(&self, step: &Step) -> See {
        if !self.watches(&step.place.node) {
            return See::Nothing;
        }
        match step.hook {
            Hook::Wire => See::Nothing,
            // Of an encapsulated packet the rule trace knows the outer header only, and not always that.
            hook if hook.is_netfilter() && step.outer.is_some() => See::Drops,
            hook if hook.is_netfilter() => self.if_reported(&step.place, hook),
            hook @ (Hook::Qdisc | Hook::DriverTx | Hook::DriverRx) => self.if_reported(&step.place, hook),
            // Inside the IP stack passing leaves no trace; and a datagram that waits in a socket was not
            // seen being taken.
            _ => See::Drops,
        }
    }

    fn if_reported(&self, place: &Place, hook: Hook) -> See {
        let report = self.report(place, hook);
        match report.map(|report| &report.observability) {
            Some(Observability::Observed { .. }) => See::Passing,
            Some(Observability::NotObservable { .. }) | None => See::Drops,
        }
    }

    /// The report about a namespace, else about all of its node.
    fn report(&self, place: &Place, hook: Hook) -> Option<&HookReport> {
        let of_hook = || self.reports.get(&place.node).into_iter().flatten().filter(move |r| r.hook == hook);
        of_hook()
            .find(|report| report.netns.as_ref() == Some(&place.netns))
            .or_else(|| of_hook().find(|report| report.netns.is_none()))
    }

    /// The hooks among these steps that nobody could see passing, each once.
    pub(super) fn not_observable<'a>(&self, steps: impl Iterator<Item = &'a Step>) -> Vec<NotObservable> {
        let mut rows = BTreeSet::new();
        let mut found = Vec::new();
        for step in steps.filter(|step| self.see(step) != See::Passing) {
            let report = self.report(&step.place, step.hook).filter(|_| self.watches(&step.place.node));
            let report = report.cloned().unwrap_or_else(|| HookReport {
                hook: step.hook,
                netns: None,
                observability: Observability::NotObservable { why: self.why(step) },
            });
            let seen = matches!(report.observability, Observability::Observed { .. });
            if !seen && rows.insert((step.place.node.clone(), step.hook, report.netns.clone())) {
                found.push(NotObservable { node: step.place.node.clone(), report });
            }
        }
        found
    }

    fn why(&self, step: &Step) -> Text {
        match (self.why_blind(&step.place.node), step.hook) {
            (Some(why), _) => why.clone(),
            (None, Hook::Wire) => text!(note::WireUnwatched),
            (None, Hook::Inject) => text!(note::InjectUnwatched),
            (None, _) => text!(note::HookUnreported),
        }
    }
}
