//! The catalogue of faults: what the testbed breaks on purpose, and what Waymark must then say.
//!
//! A fault is a file below `faults/`, in a folder that is its category: the scripts that break and those that
//! undo, as templates for the cluster at hand, the traffic on which it shows, and the fault point that is
//! expected. A new one needs no Rust. Its undoing is written to the instance's state *before* anything is
//! broken, so it can be undone by whoever comes next.
//!
//! * `definition`: what a file says
//! * `site`: who plays which part in a cluster
//! * `context`: what templates can name
//! * `render`: from a file and a cluster to acts
//! * `leg`: the acts that impair the way between two nodes
//! * `catalogue`: all files
//! * `pair`: two faults at once
//! * `guard`: injecting and undoing

mod catalogue;
mod context;
mod definition;
mod guard;
mod leg;
mod pair;
mod render;
mod site;

use serde::{Deserialize, Serialize};
use waymark_proto::{AnomalyKind, Cause, Direction, Hook, Verdict};

pub use catalogue::{all, fault, table};
pub use guard::Injected;
pub use pair::{Pair, pairs};

use crate::check::Probe;
use crate::plan::{Cluster, Dataplane, Proxy};
use crate::script::Script;
use crate::server::Manner;
use crate::{Error, Result};
use definition::{Definition, Family};
use render::{Breakage, Renderer};
use site::Site;

/// Something that the testbed can break, for one family: a case of the catalogue.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its name: that of its file; the case of IPv6 ends in `-ipv6`, if there is one of IPv4 too.
    pub name: String,
    /// The folder of its file.
    pub category: &'static str,
    family: Family,
    definition: Definition,
}

/// The fault point, or the anomaly, that Waymark must name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Expected {
    /// The node.
    pub node: String,
    /// The namespace on it.
    pub netns: String,
    /// The hook.
    pub hook: Hook,
    /// What is wrong there.
    pub cause: Symptom,
    /// Which way the packet was going.
    pub direction: Direction,
    /// How long packets are held up, at least, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ns: Option<u64>,
}

/// What is wrong at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Symptom {
    /// Packets die there, and why.
    Death(Cause),
    /// What happens there to packets that arrive.
    Anomaly(AnomalyKind),
}

/// One thing to do to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Act {
    /// Configure a namespace.
    Script(Script),
    /// End a pod's server.
    StopServer(String),
    /// End a pod's server, if it runs, and start another.
    ReplaceServer {
        /// The pod.
        pod: String,
        /// How the new one is to be.
        manner: Manner,
    },
    /// Start a process that is part of the fault.
    Start(Helper),
    /// End the one of that role.
    Stop(String),
}

impl Act {
    /// The namespace whose rules it sets, if it sets any that see connections.
    fn filtered(&self) -> Option<&str> {
        match self {
            Self::Script(script) if script.tool.filters() => Some(&script.netns),
            _ => None,
        }
    }
}

/// This program, in a namespace of the instance, doing what no tool does. It says that it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Helper {
    /// Its name among the instance's processes.
    pub role: String,
    /// The namespace.
    pub netns: String,
    /// The program's arguments.
    pub args: Vec<String>,
}

impl Fault {
    /// What it does, in a few words.
    pub fn about(&self) -> &str {
        &self.definition.about
    }

    /// Whether it is among the few that are tried with every change.
    pub fn in_subset(&self) -> bool {
        self.definition.subset.contains(&self.family)
    }

    /// Whether it can be injected into a cluster of this kind.
    pub fn is_for(&self, dataplane: Dataplane, proxy: Proxy) -> bool {
        self.definition.dataplanes.contains(&dataplane) && self.definition.proxies.contains(&proxy)
    }

    /// Whether the topology as it is shows it, without that anything is broken.
    pub fn is_lasting(&self) -> bool {
        self.definition.inject.is_empty()
    }

    /// Whether a verdict is what is expected.
    pub fn is_verdict(&self, verdict: Verdict) -> bool {
        let expected = &self.definition.expected;
        let arrives = verdict == Verdict::Reachable;
        let dies = matches!(verdict, Verdict::Unreachable | Verdict::Inconsistent);
        let usual = if expected.anomaly.is_some() { arrives } else { dies };
        expected.verdict.map_or(usual, |expected| verdict == expected)
    }

    /// The traffic on which it shows in this cluster.
    pub fn probe(&self, cluster: &Cluster) -> Result<Probe> {
        Ok(self.renderer(cluster)?.probe())
    }

    /// The fault point, or the anomaly, that Waymark must name in this cluster.
    pub fn expected(&self, cluster: &Cluster) -> Result<Expected> {
        self.renderer(cluster)?.expected().map_err(|why| self.not_applicable(why))
    }

    /// What must occur in the fault point's rule, object, culprit or evidence.
    pub fn says(&self, cluster: &Cluster) -> Result<Vec<String>> {
        self.renderer(cluster)?.says().map_err(|why| self.not_applicable(why))
    }

    fn breakage(&self, cluster: &Cluster) -> Result<Breakage> {
        self.renderer(cluster)?.breakage().map_err(|why| self.not_applicable(why))
    }

    fn renderer<'a>(&'a self, cluster: &'a Cluster) -> Result<Renderer<'a>> {
        if !self.definition.dataplanes.contains(&cluster.dataplane) {
            return Err(self.not_applicable(format!("it is not for the {} dataplane", cluster.dataplane)));
        }
        if !self.definition.proxies.contains(&cluster.proxy) {
            return Err(self.not_applicable("it is not for these Service rules".into()));
        }
        let site = Site::choose(cluster, self.definition.traffic.to, self.family);
        let site = site.map_err(|why| self.not_applicable(why.to_owned()))?;
        Ok(Renderer::new(&self.definition, site, &self.name, guard::object_path(cluster)))
    }

    fn not_applicable(&self, why: String) -> Error {
        Error::FaultDoesNotApply { fault: self.name.clone(), why }
    }
}

impl std::fmt::Display for Symptom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Death(cause) => cause.fmt(f),
            Self::Anomaly(kind) => kind.fmt(f),
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = if self.direction == Direction::Return { " (return)" } else { "" };
        let delay = self.delay_ns.map(|ns| format!(" of {} ms", ns / 1_000_000)).unwrap_or_default();
        f.pad(&format!("{} {}: {}{delay}{way}", self.node, self.hook, self.cause))
    }
}
