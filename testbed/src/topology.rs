//! The topology file: which nodes, pods and Services a testbed has. Addresses follow from the order.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use waymark_proto::Protocol;

/// The topology that `up` uses unless another is given.
const DEFAULT: &str = include_str!("../topologies/default.toml");

/// Most nodes that the address plan has room for.
const MAX_NODES: usize = 200;
/// Most pods per node that the address plan has room for.
const MAX_PODS_PER_NODE: usize = 200;
/// A node's name is also its port's on the fabric: `IFNAMSIZ` less the final zero.
const MAX_NODE_NAME: usize = 15;
/// Names that a node may not have: they mean something else.
const RESERVED: [&str; 4] = ["fabric", "control", "br0", "lo"];

/// Nodes, pods and Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
    /// The pods.
    #[serde(default)]
    pub pods: Vec<PodSpec>,
    /// The Services.
    #[serde(default)]
    pub services: Vec<ServiceSpec>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodSpec {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// TCP ports that it listens on.
    #[serde(default = "default_tcp")]
    pub tcp: Vec<u16>,
    /// UDP ports that it listens on.
    #[serde(default = "default_udp")]
    pub udp: Vec<u16>,
}

fn default_tcp() -> Vec<u16> {
    vec![80]
}

fn default_udp() -> Vec<u16> {
    vec![53]
}

impl PodSpec {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Virtual address; its family is the Service's.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: IpAddr,
    /// Virtual port.
    pub port: u16,
    /// TCP or UDP.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    /// Where it leads.
    #[serde(default)]
    pub backends: Vec<BackendSpec>,
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

/// An endpoint of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// Its port; the Service's own if absent.
    #[serde(default, rename = "targetPort", skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
}

/// What is wrong with a topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Not TOML of this shape.
    #[error("not a topology: {0}")]
    Syntax(String),
    /// No nodes, or too many.
    #[error("{0} nodes; a testbed has 1 to {MAX_NODES}")]
    NodeCount(usize),
    /// A node with more pods than addresses.
    #[error("{count} pods on {node}; a node has room for {MAX_PODS_PER_NODE}")]
    PodCount {
        /// The node.
        node: String,
        /// How many pods.
        count: usize,
    },
    /// A name that Kubernetes or the kernel would not take.
    #[error("{kind} name {name:?}: use a-z, 0-9 and - (a letter first), at most {max} characters")]
    Name {
        /// `node`, `pod`, …
        kind: &'static str,
        /// The name.
        name: String,
        /// How long it may be.
        max: usize,
    },
    /// A name that means something else.
    #[error("a node cannot be called {0:?}: the testbed uses that name itself")]
    Reserved(String),
    /// Two of one name.
    #[error("{kind} {name} is there twice")]
    Twice {
        /// `node`, `pod`, …
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Something that is not there.
    #[error("{what} names {name:?}, which is not in the topology")]
    Unknown {
        /// Who names it.
        what: String,
        /// What it names.
        name: String,
    },
    /// Port 0, or ICMP for a Service.
    #[error("{what}: {why}")]
    Invalid {
        /// Which entry.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Default for Topology {
    fn default() -> Self {
        Self::parse(DEFAULT).expect("the built-in topology is tested")
    }
}

impl Topology {
    /// Reads and checks a topology.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        let topology: Self = toml::from_str(text)
            .map_err(|error| TopologyError::Syntax(error.to_string().trim().to_owned()))?;
        topology.check()?;
        Ok(topology)
    }

    /// The nodes alone.
    #[must_use]
    pub fn nodes_only(&self) -> Self {
        Self { nodes: self.nodes.clone(), pods: Vec::new(), services: Vec::new() }
    }

    fn check(&self) -> Result<(), TopologyError> {
        if !(1..=MAX_NODES).contains(&self.nodes.len()) {
            return Err(TopologyError::NodeCount(self.nodes.len()));
        }
        for node in &self.nodes {
            check_name("node", &node.name, MAX_NODE_NAME)?;
            if RESERVED.contains(&node.name.as_str()) {
                return Err(TopologyError::Reserved(node.name.clone()));
            }
        }
        unique("node", self.nodes.iter().map(|node| node.name.clone()))?;
        self.check_pods()?;
        self.services.iter().try_for_each(|service| self.check_service(service))?;
        let port =
            |service: &ServiceSpec| format!("{}:{}/{}", service.cluster_ip, service.port, service.protocol);
        unique("Service address", self.services.iter().map(port))?;
        let name = |s: &ServiceSpec| format!("{}/{}:{}/{}", s.namespace, s.name, s.port, s.protocol);
        unique("Service", self.services.iter().map(name))
    }

    fn check_pods(&self) -> Result<(), TopologyError> {
        for pod in &self.pods {
            let what = || format!("pod {}", pod.full_name());
            check_name("namespace", &pod.namespace, 63)?;
            check_name("pod", &pod.name, 63)?;
            if !self.nodes.iter().any(|node| node.name == pod.node) {
                return Err(TopologyError::Unknown { what: what(), name: pod.node.clone() });
            }
            if pod.tcp.iter().chain(&pod.udp).any(|&port| port == 0) {
                return Err(TopologyError::Invalid { what: what(), why: "port 0 cannot be listened on" });
            }
        }
        // `a-b/c` and `a/b-c` would share a namespace's name, as would node `a-b` with pod `a/b`.
        let names = self.pods.iter().map(|pod| format!("{}-{}", pod.namespace, pod.name));
        unique("name", names.chain(self.nodes.iter().map(|node| node.name.clone())))?;
        for node in &self.nodes {
            let count = self.pods.iter().filter(|pod| pod.node == node.name).count();
            if count > MAX_PODS_PER_NODE {
                return Err(TopologyError::PodCount { node: node.name.clone(), count });
            }
        }
        Ok(())
    }

    fn check_service(&self, service: &ServiceSpec) -> Result<(), TopologyError> {
        let what = format!("Service {}/{}", service.namespace, service.name);
        let invalid = |why| Err(TopologyError::Invalid { what: what.clone(), why });
        check_name("namespace", &service.namespace, 63)?;
        check_name("Service", &service.name, 63)?;
        if !service.protocol.has_ports() {
            return invalid("a Service is tcp or udp");
        }
        if service.port == 0 || service.backends.iter().any(|backend| backend.target_port == Some(0)) {
            return invalid("port 0 cannot be listened on");
        }
        if crate::plan::is_taken(service.cluster_ip) {
            return invalid("its clusterIP lies in the network of the nodes or pods");
        }
        unique("backend", service.backends.iter().map(|backend| format!("{} of {what}", backend.pod)))?;
        match service
            .backends
            .iter()
            .find(|backend| !self.pods.iter().any(|pod| pod.full_name() == backend.pod))
        {
            Some(stray) => Err(TopologyError::Unknown { what, name: stray.pod.clone() }),
            None => Ok(()),
        }
    }
}

/// RFC 1123 labels that start with a letter.
fn check_name(kind: &'static str, name: &str, max: usize) -> Result<(), TopologyError> {
    if is_label(name, max) { Ok(()) } else { Err(TopologyError::Name { kind, name: name.to_owned(), max }) }
}

/// Whether a name is an RFC 1123 label that starts with a letter.
pub(crate) fn is_label(name: &str, max: usize) -> bool {
    name.len() <= max
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn unique(kind: &'static str, names: impl Iterator<Item = String>) -> Result<(), TopologyError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name.clone()) {
            return Err(TopologyError::Twice { kind, name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "[[nodes]]\nname = \"a\"\n[[nodes]]\nname = \"b\"\n";
    const POD: &str = "[[pods]]\nnamespace = \"x\"\nname = \"y\"\nnode = \"a\"\n";

    fn wrong(text: &str) -> String {
        Topology::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_default_topology_is_valid() {
        let topology = Topology::default();
        assert_eq!(topology.nodes.len(), 3);
        assert_eq!(topology.pods.len(), 6);
        assert_eq!((&topology.pods[0].tcp, &topology.pods[0].udp), (&vec![80], &vec![53]));
        let text = toml::to_string(&topology).unwrap();
        assert_eq!(Topology::parse(&text).unwrap(), topology);
    }

    #[test]
    fn errors_name_the_place() {
        let typo = wrong("[[nodes]]\nname = \"a\"\ncolour = \"red\"\n");
        assert!(typo.contains("colour") && typo.contains("line 3"), "{typo}");
        assert_eq!(wrong("nodes = []"), "0 nodes; a testbed has 1 to 200");
        assert!(wrong("[[nodes]]\nname = \"Node\"\n").contains("node name \"Node\""));
        assert!(wrong("[[nodes]]\nname = \"fabric\"\n").contains("uses that name itself"));
        assert!(
            wrong("[[nodes]]\nname = \"a\"\n[[nodes]]\nname = \"a\"\n").contains("node a is there twice")
        );
        assert!(wrong(&format!("{NODES}{POD}{POD}")).contains("x-y is there twice"));
        let stray = wrong(&format!("{NODES}{}", POD.replace("\"a\"", "\"c\"")));
        assert_eq!(stray, "pod x/y names \"c\", which is not in the topology");
        assert!(wrong(&format!("{NODES}{POD}tcp = [0]\n")).contains("port 0"));
        assert!(wrong(&format!("{NODES}{POD}tcp = [70000]\n")).contains("70000"));
    }

    #[test]
    fn services_are_checked() {
        let service = |rest: &str| {
            format!("{NODES}{POD}[[services]]\nnamespace = \"x\"\nname = \"s\"\nport = 80\n{rest}")
        };
        assert!(
            Topology::parse(&service("clusterIP = \"10.96.0.1\"\nbackends = [{ pod = \"x/y\" }]")).is_ok()
        );
        assert!(wrong(&service("clusterIP = \"10.96.0.1\"\nprotocol = \"icmp\"")).contains("tcp or udp"));
        assert!(wrong(&service("clusterIP = \"10.244.1.7\"")).contains("network of the nodes or pods"));
        let stray = wrong(&service("clusterIP = \"10.96.0.1\"\nbackends = [{ pod = \"x/z\" }]"));
        assert_eq!(stray, "Service x/s names \"x/z\", which is not in the topology");
    }

    #[test]
    fn names_that_would_share_a_namespace_are_refused() {
        let clash = format!(
            "{NODES}{}{}",
            POD.replace("\"y\"", "\"b-c\""),
            POD.replace("\"x\"", "\"x-b\"").replace("\"y\"", "\"c\"")
        );
        assert!(wrong(&clash).contains("x-b-c is there twice"));
    }
}
