//! Clusters that exist in memory alone: their inventory and the facts of their nodes, in the shapes of dataplanes that
//! are common.
//!
//! For tests and benchmarks of predictions. Node `n` has the name `n1`, the namespace `node1` and the address
//! 192.168.77.1; its pods are `p1-1`, `p1-2` in the namespaces `pod1-1`, `pod1-2` with addresses from 10.244.1.10 on,
//! at devices `veth1-1`, `veth1-2`. All facts may be changed.
//!
//! * `device`: devices, addresses, routes, neighbours
//! * `node`, `pod`: the two kinds of namespaces
//! * [`calico`]: NetworkPolicies as Calico enforces them

pub mod calico;
mod device;
mod node;
mod pod;

use waymark_proto::{
    FACTS_API_VERSION, Facts, Inventory, IptablesBackend, IptablesDump, Link, NetnsFacts, NodeName, Place,
};

pub use device::{address, ip, link, mac, route};

/// How pods reach one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dataplane {
    /// A bridge on each node, routes by the nodes' addresses.
    HostGw,
    /// A bridge on each node, VXLAN between them, as Flannel does it.
    Vxlan,
    /// A route for each pod, and no bridge.
    Routed,
}

/// All of them.
pub const DATAPLANES: [Dataplane; 3] = [Dataplane::HostGw, Dataplane::Vxlan, Dataplane::Routed];

/// Most nodes, and most pods of one, that there are addresses for.
pub const MOST: u8 = 200;

/// A cluster under construction: its nodes' facts may be changed before they are used.
#[derive(Clone, Debug)]
pub struct Lab {
    /// What there is.
    pub inventory: Inventory,
    /// Of each node.
    pub facts: Vec<Facts>,
}

impl Lab {
    /// Two nodes with two pods each.
    pub fn new(dataplane: Dataplane) -> Self {
        Self::of(dataplane, 2, 2)
    }

    /// So many nodes with so many pods each.
    ///
    /// # Panics
    /// If there are more than [`MOST`] of either.
    pub fn of(dataplane: Dataplane, nodes: u8, pods: u8) -> Self {
        assert!(nodes <= MOST && pods <= MOST, "{nodes} nodes with {pods} pods are too many");
        let node = |node: u8| {
            format!(
                r#"{{"name":"n{node}","netns":"node{node}","ip":"192.168.77.{node}","uplink":"eth0","podCidr":"10.244.{node}.0/24"}}"#
            )
        };
        let pod = |(node, number): (u8, u8)| {
            format!(
                r#"{{"namespace":"shop","name":"p{node}-{number}","node":"n{node}","netns":"pod{node}-{number}","ip":"{}"}}"#,
                pod::address(node, number)
            )
        };
        let each = |node: u8| (1..=pods).map(move |number| (node, number));
        let listed = |all: Vec<String>| all.join(",");
        let json = format!(
            r#"{{"nodes":[{}],"pods":[{}]}}"#,
            listed((1..=nodes).map(node).collect()),
            listed((1..=nodes).flat_map(each).map(pod).collect())
        );
        let facts = |node: u8| Facts {
            api_version: FACTS_API_VERSION.into(),
            node: format!("n{node}").into(),
            kernel: "6.18".into(),
            namespaces: std::iter::once(node::facts(node, nodes, pods, dataplane))
                .chain(each(node).map(|(node, number)| pod::facts(node, number, dataplane)))
                .collect(),
        };
        let inventory = Inventory::from_json(json.as_bytes()).expect("the inventory is right");
        Self { inventory, facts: (1..=nodes).map(facts).collect() }
    }

    /// A namespace's facts, by its name.
    ///
    /// # Panics
    /// If there is none.
    pub fn netns(&mut self, name: &str) -> &mut NetnsFacts {
        let mut all = self.facts.iter_mut().flat_map(|facts| &mut facts.namespaces);
        all.find(|netns| netns.name == name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// A device of a namespace.
    ///
    /// # Panics
    /// If there is none.
    pub fn link(&mut self, netns: &str, name: &str) -> &mut Link {
        let mut links = self.netns(netns).links.iter_mut();
        links.find(|link| link.name == name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// Gives a namespace the rules that `iptables-legacy-save` would print so.
    pub fn iptables(&mut self, netns: &str, text: &str) {
        let dump = IptablesDump { ipv6: false, backend: IptablesBackend::Legacy, text: text.to_owned() };
        self.netns(netns).netfilter.iptables = vec![dump];
    }

    /// Where a pod or node is, by the name of its namespace.
    ///
    /// # Panics
    /// If there is none.
    pub fn place(&self, netns: &str) -> Place {
        let has = |facts: &&Facts| facts.namespaces.iter().any(|known| known.name == netns);
        let facts = self.facts.iter().find(has).unwrap_or_else(|| panic!("there is no {netns}"));
        Place { node: NodeName::clone(&facts.node), netns: netns.into() }
    }
}
