//! The catalogue of faults: what the testbed breaks on purpose, and what Waymark must then say.
//!
//! A fault is data: the scripts that break and those that undo, rendered for the cluster at hand, the
//! traffic on which it shows, and the fault point that is expected. Its undoing is written to the
//! instance's state *before* anything is broken, so it can be undone by whoever comes next.

mod guard;
mod link;
mod netfilter;
mod routing;
mod service;
mod tunnel;
mod underlay;

use serde::{Deserialize, Serialize};
use waymark_proto::{Cause, Direction, Hook, Protocol, Service};

pub use guard::Injected;

use crate::check::Probe;
use crate::plan::{Cluster, Dataplane, NodePlan, PodPlan};
use crate::script::{Script, Tool};
use crate::{Error, Result};

/// All faults, by family.
pub const CATALOGUE: [&[Fault]; 6] =
    [netfilter::FAULTS, routing::FAULTS, link::FAULTS, tunnel::FAULTS, underlay::FAULTS, service::FAULTS];

/// The dataplanes with a bridge.
const BRIDGED: &[Dataplane] = &[Dataplane::BridgeHostgw, Dataplane::BridgeVxlan];
/// The dataplane with a tunnel.
const TUNNELLED: &[Dataplane] = &[Dataplane::BridgeVxlan];
/// All dataplanes.
const EVERY: &[Dataplane] = &Dataplane::ALL;

/// Something that the testbed can break.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// On which dataplanes it can be injected.
    pub dataplanes: &'static [Dataplane],
    /// The traffic on which it shows.
    traffic: Traffic,
    /// What Waymark must say.
    expected: fn(&Site) -> Expected,
    /// What to run.
    breakage: fn(&Site) -> Breakage,
}

/// The fault point that Waymark must name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Expected {
    /// The node.
    pub node: String,
    /// The namespace on it.
    pub netns: String,
    /// The hook.
    pub hook: Hook,
    /// The cause.
    pub cause: Cause,
    /// Which way the packet was going.
    pub direction: Direction,
}

/// One thing to do to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Act {
    /// Configure a namespace.
    Script(Script),
    /// End a pod's server.
    StopServer(String),
    /// Start a pod's server.
    StartServer(String),
}

/// What breaks and what undoes it.
struct Breakage {
    inject: Vec<Act>,
    undo: Vec<Act>,
}

impl Breakage {
    /// One script each.
    fn scripts(inject: Script, undo: Script) -> Self {
        Self { inject: vec![Act::Script(inject)], undo: vec![Act::Script(undo)] }
    }

    /// `ip` lines in one namespace.
    fn ip<L: Into<String>>(
        netns: &str,
        inject: impl IntoIterator<Item = L>,
        undo: impl IntoIterator<Item = L>,
    ) -> Self {
        Self::scripts(Script::new(Tool::Ip, netns, inject), Script::new(Tool::Ip, netns, undo))
    }
}

/// Where the packets of a fault's traffic go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// To the target pod.
    Target,
    /// To the Service with the one backend.
    SingleService,
    /// To the Service without backends.
    EmptyService,
}

/// Traffic from the source pod.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    to: End,
    protocol: Protocol,
    ipv6: bool,
}

const TCP: Traffic = Traffic { to: End::Target, protocol: Protocol::Tcp, ipv6: false };
const UDP: Traffic = Traffic { to: End::Target, protocol: Protocol::Udp, ipv6: false };
const ICMP: Traffic = Traffic { to: End::Target, protocol: Protocol::Icmp, ipv6: false };
const TCP6: Traffic = Traffic { to: End::Target, protocol: Protocol::Tcp, ipv6: true };

/// Who plays which part in a cluster: the catalogue speaks of parts, not of names.
struct Site<'a> {
    cluster: &'a Cluster,
    /// The first pod.
    source: &'a PodPlan,
    /// The first pod on another node that listens on TCP and UDP.
    target: &'a PodPlan,
    /// The first IPv4 TCP Service with one backend, which is not on the source's node.
    single: Option<&'a Service>,
    /// The first IPv4 TCP Service without backends.
    empty: Option<&'a Service>,
}

impl<'a> Site<'a> {
    fn choose(cluster: &'a Cluster) -> Option<Self> {
        let source = cluster.pods.first()?;
        let elsewhere = |pod: &&PodPlan| pod.node != source.node;
        let listens = |pod: &&PodPlan| !pod.tcp.is_empty() && !pod.udp.is_empty();
        let target = cluster.pods.iter().filter(elsewhere).find(listens)?;
        let mut services =
            cluster.services.iter().filter(|s| s.cluster_ip.is_ipv4() && s.protocol == Protocol::Tcp);
        let empty = services.clone().find(|service| service.backends.is_empty());
        let single = services.find(|service| match service.backends.as_slice() {
            [only] => cluster.pods.iter().filter(elsewhere).any(|pod| pod.address(false) == only.ip),
            _ => false,
        });
        Some(Self { cluster, source, target, single, empty })
    }

    fn source_node(&self) -> &'a NodePlan {
        self.cluster.node_of(self.source)
    }

    fn target_node(&self) -> &'a NodePlan {
        self.cluster.node_of(self.target)
    }

    /// The Service with one backend, and that backend's node. Only for faults whose traffic goes there.
    fn single(&self) -> (&'a Service, &'a NodePlan) {
        let service = self.single.expect("the traffic's end was found before");
        let pod = self.cluster.pods.iter().find(|pod| pod.address(false) == service.backends[0].ip);
        (service, self.cluster.node_of(pod.expect("the Service was chosen by its backend's pod")))
    }

    /// Where the traffic goes, in the client's words; or why it cannot.
    fn destination(&self, traffic: Traffic) -> std::result::Result<String, &'static str> {
        let service = |service: Option<&Service>, why| {
            let name = |s: &Service| format!("svc/{}/{}:{}", s.namespace, s.name, s.port);
            service.map(name).ok_or(why)
        };
        match traffic.to {
            End::SingleService => {
                service(self.single, "the topology has no TCP Service with one backend on another node")
            }
            End::EmptyService => service(self.empty, "the topology has no TCP Service without backends"),
            End::Target => {
                let port = match traffic.protocol {
                    Protocol::Tcp => self.target.tcp.first(),
                    Protocol::Udp => self.target.udp.first(),
                    Protocol::Icmp => None,
                };
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                Ok(format!("pod/{}{port}", self.target.full_name))
            }
        }
    }
}

/// A fault point on a node, in its own namespace, on the way there.
fn on_node(node: &NodePlan, hook: Hook, cause: Cause) -> Expected {
    let (node, netns) = (node.name.clone(), node.netns.clone());
    Expected { node, netns, hook, cause, direction: Direction::Forward }
}

/// A fault point in a pod, on the way there.
fn in_pod(site: &Site, pod: &PodPlan, hook: Hook, cause: Cause) -> Expected {
    Expected { netns: pod.netns.clone(), ..on_node(site.cluster.node_of(pod), hook, cause) }
}

/// The same on the way back.
fn returning(expected: Expected) -> Expected {
    Expected { direction: Direction::Return, ..expected }
}

impl Fault {
    fn site<'a>(&self, cluster: &'a Cluster) -> Result<(Site<'a>, String)> {
        let no = |why: &str| Error::FaultDoesNotApply { fault: self.name, why: why.to_owned() };
        if !self.dataplanes.contains(&cluster.dataplane) {
            return Err(no(&format!("it is not for the {} dataplane", cluster.dataplane)));
        }
        let site = Site::choose(cluster).ok_or_else(|| {
            no("the topology has no two pods on different nodes of which the second listens on TCP and UDP")
        })?;
        let destination = site.destination(self.traffic).map_err(no)?;
        Ok((site, destination))
    }

    /// The traffic on which it shows in this cluster.
    pub fn probe(&self, cluster: &Cluster) -> Result<Probe> {
        let (site, to) = self.site(cluster)?;
        let Traffic { protocol, ipv6, .. } = self.traffic;
        Ok(Probe { from: format!("pod/{}", site.source.full_name), to, protocol, ipv6 })
    }

    /// The fault point that Waymark must name in this cluster.
    pub fn expected(&self, cluster: &Cluster) -> Result<Expected> {
        self.site(cluster).map(|(site, _)| (self.expected)(&site))
    }

    fn breakage(&self, cluster: &Cluster) -> Result<Breakage> {
        self.site(cluster).map(|(site, _)| (self.breakage)(&site))
    }
}

/// A fault by name.
pub fn fault(name: &str) -> Result<&'static Fault> {
    all().find(|fault| fault.name == name).ok_or_else(|| Error::UnknownFault(name.to_owned()))
}

/// All faults.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    CATALOGUE.into_iter().flatten()
}

/// The catalogue for people, with what is expected of a cluster.
pub fn table(cluster: &Cluster, active: &[String]) -> String {
    let mut table = crate::status::table(&["FAULT", "DATAPLANES", "TRAFFIC", "EXPECTED", "WHAT IT DOES"]);
    for fault in all() {
        let dataplanes = if fault.dataplanes == EVERY {
            "all".to_owned()
        } else {
            fault.dataplanes.iter().map(|dataplane| dataplane.name()).collect::<Vec<_>>().join(", ")
        };
        let name = if active.iter().any(|name| name == fault.name) {
            format!("{} (injected)", fault.name)
        } else {
            fault.name.to_owned()
        };
        let (traffic, expected) = match (fault.probe(cluster), fault.expected(cluster)) {
            (Ok(probe), Ok(expected)) => (probe.to_string(), expected.to_string()),
            _ => ("-".into(), "-".into()),
        };
        table.add_row([name, dataplanes, traffic, expected, fault.about.into()]);
    }
    table.to_string()
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = if self.direction == Direction::Return { " (return)" } else { "" };
        f.pad(&format!("{} {}: {}{way}", self.node, self.hook, self.cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Proxy;
    use crate::topology::Topology;

    #[test]
    fn every_dataplane_has_its_faults() {
        for dataplane in Dataplane::ALL {
            let cluster = Cluster::plan("t", &Topology::default(), dataplane, Proxy::Iptables);
            let mut count = 0;
            for fault in all().filter(|fault| fault.dataplanes.contains(&dataplane)) {
                let expected = fault.expected(&cluster).unwrap();
                assert!(cluster.namespaces().contains(&expected.netns), "{}", fault.name);
                let breakage = fault.breakage(&cluster).unwrap();
                assert_eq!(breakage.inject.is_empty(), breakage.undo.is_empty(), "{}", fault.name);
                let json = serde_json::to_string(&breakage.undo).unwrap();
                assert_eq!(serde_json::from_str::<Vec<Act>>(&json).unwrap(), breakage.undo);
                count += 1;
            }
            assert!(count >= 20, "{count} on {dataplane}");
        }
    }

    #[test]
    fn names_are_unique_and_wrong_ones_refused() {
        let names: std::collections::BTreeSet<_> = all().map(|fault| fault.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(fault("no-such-fault").unwrap_err().to_string().contains("fault list"));
        let cluster = Cluster::plan("t", &Topology::default(), Dataplane::Routed, Proxy::Iptables);
        let error = fault("wrong-vni").unwrap().probe(&cluster).unwrap_err().to_string();
        assert_eq!(error, "fault wrong-vni does not apply: it is not for the routed dataplane");
    }
}
