//! Who is at an address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use waymark_proto::{Inventory, Namespace, Node, NodeName, Pod};

use super::selector::Labels;

/// One end of a flow, as policies see it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Party<'a> {
    /// A pod with a network of its own; its index in the inventory.
    Pod(usize, &'a Pod),
    /// A node, and the pods that use its network: policies cannot tell them apart, and most implementations
    /// take such pods for their node.
    Node(&'a Node),
    /// An address of a node's pod network that no pod has.
    Vacant(&'a Node),
    /// Anybody else.
    Outside,
}

/// The inventory, arranged for looking up by address.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    pub(super) inventory: &'a Inventory,
    pods: BTreeMap<IpAddr, usize>,
    nodes: BTreeMap<IpAddr, &'a Node>,
    names: BTreeMap<(&'a str, &'a str), usize>,
    namespaces: BTreeMap<&'a str, &'a Namespace>,
}

static NO_LABELS: Labels = Labels::new();

impl<'a> Directory<'a> {
    pub(super) fn new(inventory: &'a Inventory) -> Self {
        let mut pods = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (index, pod) in inventory.pods.iter().enumerate() {
            names.entry((pod.namespace.as_str(), pod.name.as_str())).or_insert(index);
            for ip in [Some(pod.ip), pod.ip6].into_iter().flatten().filter(|_| !pod.host_network) {
                pods.entry(ip).or_insert(index);
            }
        }
        let nodes = inventory
            .nodes
            .iter()
            .flat_map(|node| [Some(node.ip), node.ip6].into_iter().flatten().map(move |ip| (ip, node)));
        let namespaces = inventory.namespaces.iter().map(|namespace| (namespace.name.as_str(), namespace));
        Self { inventory, pods, nodes: nodes.collect(), names, namespaces: namespaces.collect() }
    }

    /// Who is at an address.
    pub(super) fn at(&self, ip: IpAddr) -> Party<'a> {
        if let Some(&index) = self.pods.get(&ip) {
            return Party::Pod(index, &self.inventory.pods[index]);
        }
        if let Some(node) = self.nodes.get(&ip) {
            return Party::Node(node);
        }
        let holds = |node: &&Node| {
            [node.pod_cidr, node.pod_cidr6].into_iter().flatten().any(|cidr| cidr.contains(&ip))
        };
        self.inventory.nodes.iter().find(holds).map_or(Party::Outside, Party::Vacant)
    }

    /// A pod by name, with its index.
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<(usize, &'a Pod)> {
        let index = *self.names.get(&(namespace, name))?;
        Some((index, &self.inventory.pods[index]))
    }

    /// The labels of a namespace; none if it is not there.
    pub(super) fn labels(&self, namespace: &str) -> &'a Labels {
        self.namespaces.get(namespace).map_or(&NO_LABELS, |namespace| &namespace.labels)
    }
}

impl<'a> Party<'a> {
    /// The node that it is on, or whose network its address is of.
    pub(super) fn node(&self) -> Option<&'a NodeName> {
        match self {
            Self::Pod(_, pod) => Some(&pod.node),
            Self::Node(node) | Self::Vacant(node) => Some(&node.name),
            Self::Outside => None,
        }
    }

    /// The pod, if it is one with a network of its own.
    pub(super) fn pod(&self) -> Option<(usize, &'a Pod)> {
        match self {
            Self::Pod(index, pod) => Some((*index, pod)),
            Self::Node(_) | Self::Vacant(_) | Self::Outside => None,
        }
    }
}
