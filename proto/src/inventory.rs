//! Inventory: the cluster as a file, for where there is no Kubernetes to ask.
//!
//! `waymark-testbed status -o json` prints one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{NetnsName, NetworkPolicy, NodeName, ObjectRef, Place, Service, Text, TransportProtocol};

/// Nodes, pods, Services and policies of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inventory {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The pods.
    #[serde(default)]
    pub pods: Vec<Pod>,
    /// The Services, one entry per Service port.
    #[serde(default)]
    pub services: Vec<Service>,
    /// The namespaces. One that is missing here has no labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Namespace>,
    /// The NetworkPolicies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<NetworkPolicy>,
    /// What is there, but cannot be an end of a check, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Absent>,
    /// The underlay, where it is a namespace of the testbed. No agent may look into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric: Option<Fabric>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Name.
    pub name: NodeName,
    /// Its network namespace: a name under `/run/netns`, a path, or `host`.
    #[serde(default = "host_netns")]
    pub netns: NetnsName,
    /// Its address.
    pub ip: IpAddr,
    /// Its second address, of the other family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<IpAddr>,
    /// Device towards the other nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// Its pods' addresses.
    #[serde(default, rename = "podCidr", skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<IpNet>,
    /// Its pods' second addresses.
    #[serde(default, rename = "podCidr6", skip_serializing_if = "Option::is_none")]
    pub pod_cidr6: Option<IpNet>,
}

fn host_netns() -> NetnsName {
    NetnsName::from(NetnsName::HOST)
}

impl Node {
    /// The node's own namespace.
    pub fn place(&self) -> Place {
        Place { node: self.name.clone(), netns: self.netns.clone() }
    }

    /// Its address of a family.
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        [Some(self.ip), self.ip6].into_iter().flatten().find(|ip| ip.is_ipv6() == ipv6)
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Node that it runs on.
    pub node: NodeName,
    /// Its network namespace: a name under `/run/netns`, a path, or `pod:NAMESPACE/NAME` for the one that
    /// holds its address.
    pub netns: NetnsName,
    /// Its address.
    pub ip: IpAddr,
    /// Its second address, of the other family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<IpAddr>,
    /// Its device inside its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The other end of that device in the node's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_device: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The ports that its containers declare, for those who refer to them by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// Whether it uses its node's namespace and address; `netns` is then that of the node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerPort {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number.
    pub port: u16,
    /// Protocol.
    #[serde(default)]
    pub protocol: TransportProtocol,
}

/// A Kubernetes namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Pod {
    /// The pod's namespace.
    pub fn place(&self) -> Place {
        Place { node: self.node.clone(), netns: self.netns.clone() }
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its address of a family.
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        [Some(self.ip), self.ip6].into_iter().flatten().find(|ip| ip.is_ipv6() == ipv6)
    }
}

/// Something that exists and yet has no place in the inventory, such as a pod without an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Absent {
    /// What it is.
    pub object: ObjectRef,
    /// Why, as the end of a sentence that begins with its name: `has no address yet: it is Pending`.
    pub why: Text,
}

/// What an agent must know of its cluster: its own node and pods in full, and of all else which addresses
/// there are, so that it sends nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scope {
    /// Its node.
    pub node: Node,
    /// The pods of that node.
    #[serde(default)]
    pub pods: Vec<Pod>,
    /// Addresses of all nodes, pods, Services and endpoints, as few prefixes as hold just them; and the
    /// nodes' networks for pods.
    #[serde(default)]
    pub known: Vec<IpNet>,
}

impl Scope {
    /// Reads a scope.
    pub fn from_json(bytes: &[u8]) -> Result<Self, InventoryError> {
        serde_json::from_slice(bytes).map_err(|error| InventoryError::Syntax(error.to_string()))
    }

    /// Whether an address is one of the cluster's.
    pub fn knows(&self, ip: IpAddr) -> bool {
        self.known.iter().any(|network| network.contains(&ip))
    }
}

/// The underlay of a testbed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fabric {
    /// Its network namespace.
    pub netns: NetnsName,
}

/// What is wrong with an inventory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    /// Not readable as JSON of this shape.
    #[error("not an inventory: {0}")]
    Syntax(String),
    /// Two entries of one name.
    #[error("{kind} {name:?} is there twice")]
    Twice {
        /// `node` or `pod`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A pod on a node that is not there.
    #[error("pod {pod:?} is on node {node:?}, which is not in the inventory")]
    UnknownNode {
        /// The pod.
        pod: String,
        /// The node.
        node: NodeName,
    },
}

impl Inventory {
    /// Reads and checks an inventory.
    pub fn from_json(bytes: &[u8]) -> Result<Self, InventoryError> {
        let inventory: Self =
            serde_json::from_slice(bytes).map_err(|error| InventoryError::Syntax(error.to_string()))?;
        inventory.check()?;
        Ok(inventory)
    }

    /// Whether its entries go together, for one that was not read by [`from_json`](Inventory::from_json).
    pub fn check(&self) -> Result<(), InventoryError> {
        let mut nodes = std::collections::BTreeSet::new();
        for node in &self.nodes {
            if !nodes.insert(&node.name) {
                return Err(InventoryError::Twice { kind: "node", name: node.name.to_string() });
            }
        }
        let mut pods = std::collections::BTreeSet::new();
        for pod in &self.pods {
            if !pods.insert(pod.full_name()) {
                return Err(InventoryError::Twice { kind: "pod", name: pod.full_name() });
            }
            if !nodes.contains(&pod.node) {
                return Err(InventoryError::UnknownNode { pod: pod.full_name(), node: pod.node.clone() });
            }
        }
        Ok(())
    }

    /// Whether it tells what Kubernetes' objects ask for: selectors, namespaces, policies. A plain inventory
    /// tells only what there is.
    pub fn has_objects(&self) -> bool {
        !self.namespaces.is_empty()
            || !self.policies.is_empty()
            || self.services.iter().any(|service| service.selector.is_some())
    }

    /// A node by name.
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == *name)
    }

    /// A pod by Kubernetes namespace and name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name)
    }

    /// The pod whose own network namespace a place is. A namespace that pods share with their node is the
    /// node's.
    pub fn pod_at(&self, place: &Place) -> Option<&Pod> {
        self.pods.iter().find(|pod| !pod.host_network && pod.node == place.node && pod.netns == place.netns)
    }

    /// What is known of an object that is no end of a check.
    pub fn absent(&self, kind: &str, namespace: Option<&str>, name: &str) -> Option<&Absent> {
        self.absent.iter().find(|Absent { object, .. }| {
            object.kind == kind && object.namespace.as_deref() == namespace && object.name == name
        })
    }

    /// The pods of a node.
    pub fn pods_on<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().filter(move |pod| pod.node == *node)
    }

    /// What the agent of a node must know; `None` if the node is not there.
    pub fn scope(&self, node: &NodeName) -> Option<Scope> {
        self.scope_with(node, self.known())
    }

    /// The same, where [`known`](Inventory::known) has been computed already.
    pub fn scope_with(&self, node: &NodeName, known: Vec<IpNet>) -> Option<Scope> {
        Some(Scope { node: self.node(node)?.clone(), pods: self.pods_on(node).cloned().collect(), known })
    }

    /// The addresses of the cluster, as in a [`Scope`].
    pub fn known(&self) -> Vec<IpNet> {
        let addresses = |ip: IpAddr, ip6: Option<IpAddr>| std::iter::once(ip).chain(ip6);
        let nodes = self.nodes.iter().flat_map(|node| addresses(node.ip, node.ip6));
        let pods = self.pods.iter().flat_map(|pod| addresses(pod.ip, pod.ip6));
        let services = self.services.iter().flat_map(|service| {
            // Not its addresses from outside: whoever may write a Service may write any there.
            std::iter::once(service.cluster_ip).chain(service.backends.iter().map(|backend| backend.ip))
        });
        let networks = self.nodes.iter().flat_map(|node| [node.pod_cidr, node.pod_cidr6]).flatten();
        let all: Vec<IpNet> = nodes.chain(pods).chain(services).map(IpNet::from).chain(networks).collect();
        IpNet::aggregate(&all)
    }

    /// Who has an address: a pod or a node.
    pub fn owner(&self, ip: IpAddr) -> Option<Place> {
        let pod = self.pods.iter().find(|pod| pod.ip == ip || pod.ip6 == Some(ip)).map(Pod::place);
        pod.or_else(|| self.nodes.iter().find(|node| node.ip == ip || node.ip6 == Some(ip)).map(Node::place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_knows_its_own_in_full_and_all_others_by_address() {
        let inventory = Inventory::from_json(
            br#"{"nodes": [{"name": "a", "ip": "10.0.0.2", "podCidr": "10.244.1.0/24"}, {"name": "b", "ip": "10.0.0.3"}],
                 "pods": [{"namespace": "x", "name": "y", "node": "b", "netns": "z", "ip": "10.244.1.7"}]}"#,
        )
        .unwrap();
        let scope = inventory.scope(&"a".into()).unwrap();
        assert!(scope.pods.is_empty());
        assert_eq!(scope.known, ["10.0.0.2/31".parse().unwrap(), "10.244.1.0/24".parse().unwrap()]);
        assert_eq!(inventory.scope(&"b".into()).unwrap().pods.len(), 1);
        assert_eq!(inventory.scope(&"c".into()), None);
    }

    #[test]
    fn a_scope_does_not_know_what_anybody_may_write_into_a_service() {
        let service = r#"{"namespace": "x", "name": "y", "clusterIP": "10.96.0.1", "port": 80, "externalIPs": ["192.0.2.7"]}"#;
        let inventory = format!(r#"{{"nodes": [], "services": [{service}]}}"#);
        let known = Inventory::from_json(inventory.as_bytes()).unwrap().known();
        assert_eq!(known, ["10.96.0.1/32".parse().unwrap()]);
    }

    #[test]
    fn an_inventory_is_checked() {
        let twice = br#"{"nodes":[{"name":"a","ip":"10.0.0.1"},{"name":"a","ip":"10.0.0.2"}]}"#;
        assert!(matches!(Inventory::from_json(twice), Err(InventoryError::Twice { kind: "node", .. })));
        let stray =
            br#"{"nodes":[],"pods":[{"namespace":"x","name":"y","node":"n","netns":"z","ip":"10.0.0.1"}]}"#;
        assert!(matches!(Inventory::from_json(stray), Err(InventoryError::UnknownNode { .. })));
        assert!(matches!(Inventory::from_json(b"{"), Err(InventoryError::Syntax(_))));
        let good = Inventory::from_json(br#"{"nodes":[{"name":"a","ip":"10.0.0.1"}]}"#).unwrap();
        assert_eq!(good.nodes[0].netns.as_str(), NetnsName::HOST);
        assert_eq!(good.owner("10.0.0.1".parse().unwrap()), Some(Place::new("a", "host")));
    }
}
