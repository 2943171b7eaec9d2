//! Where things are in a cluster, arranged once for all predictions: who has an address, who is on a link with whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use waymark_proto::{Inventory, Link, LinkKind, Node, NodeName, Place};

use crate::cluster::is_uplink;
use crate::graph::{Device, Graph, Peer, Segment};
use crate::namespace::Namespace;

/// The index of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// All namespaces, and which of them a place is.
    all: Vec<Arc<Namespace>>,
    numbers: FxHashMap<Place, usize>,
    /// Devices by their link-layer addresses.
    by_mac: FxHashMap<String, Vec<Device>>,
    /// Of those towards the wire the first, by link-layer address, and by the addresses of their hosts there.
    uplinks_by_mac: FxHashMap<String, Device>,
    uplinks_by_ip: FxHashMap<IpAddr, Device>,
    /// Nodes by their addresses, as the inventory has them.
    nodes: FxHashMap<IpAddr, NodeName>,
    /// Hosts that take what is sent to an address, or to one of a prefix.
    hosts: FxHashMap<IpAddr, BTreeSet<Place>>,
    wide_hosts: BTreeMap<IpNet, BTreeSet<Place>>,
    /// Where addresses belong, by the inventory.
    homes: FxHashMap<IpAddr, Place>,
    segments: FxHashMap<Device, Arc<Segment>>,
    /// The other ends of veth pairs.
    peers: FxHashMap<Device, Peer>,
}

impl Layout {
    /// Arranges what is known.
    pub(crate) fn new(
        inventory: &Inventory,
        namespaces: &BTreeMap<Place, Arc<Namespace>>,
        graph: &Graph,
    ) -> Self {
        let mut layout = Self::default();
        for pod in &inventory.pods {
            for ip in [Some(pod.ip), pod.ip6].into_iter().flatten() {
                layout.homes.entry(ip).or_insert_with(|| pod.place());
            }
        }
        for node in &inventory.nodes {
            layout.add_node(node);
        }
        for namespace in namespaces.values() {
            layout.add_namespace(namespace);
            let veths = namespace.links().filter(|link| matches!(link.kind, LinkKind::Veth { .. }));
            layout.peers.extend(veths.map(|link: &Link| {
                let device = (namespace.place.clone(), link.index);
                let peer = graph.peer(&device, link);
                (device, peer)
            }));
        }
        layout.numbers = namespaces.keys().cloned().zip(0..).collect();
        layout.all = namespaces.values().cloned().collect();
        layout.segments = graph.segments(|place| namespaces.get(place).map(Arc::as_ref));
        layout
    }

    fn add_node(&mut self, node: &Node) {
        for ip in [Some(node.ip), node.ip6].into_iter().flatten() {
            self.nodes.entry(ip).or_insert_with(|| node.name.clone());
            self.homes.entry(ip).or_insert_with(|| node.place());
        }
    }

    fn add_namespace(&mut self, namespace: &Namespace) {
        let place = &namespace.place;
        for link in namespace.links() {
            let device = || (place.clone(), link.index);
            if let Some(mac) = &link.mac {
                self.by_mac.entry(mac.clone()).or_default().push(device());
            }
            if !is_uplink(link) {
                continue;
            }
            if let Some(mac) = &link.mac {
                self.uplinks_by_mac.entry(mac.clone()).or_insert_with(device);
            }
            // The address may be that of a bridge over the uplink.
            for index in [Some(link.index), link.master].into_iter().flatten() {
                for address in [false, true].into_iter().flat_map(|ipv6| namespace.addresses_of(index, ipv6))
                {
                    let ip = address.address.addr();
                    if namespace.device_with(ip).is_some_and(|first| first.index == index) {
                        self.uplinks_by_ip.entry(ip).or_insert_with(device);
                    }
                }
            }
        }
        for net in namespace.local_nets() {
            if net.prefix_len() == net.max_prefix_len() {
                self.hosts.entry(net.addr()).or_default().insert(place.clone());
            } else {
                self.wide_hosts.entry(net.trunc()).or_default().insert(place.clone());
            }
        }
    }

    /// Which of the namespaces a place is.
    pub(crate) fn number_of(&self, place: &Place) -> Option<usize> {
        self.numbers.get(place).copied()
    }

    /// A namespace by its number.
    pub(crate) fn numbered(&self, number: usize) -> Option<&Namespace> {
        self.all.get(number).map(Arc::as_ref)
    }

    /// The devices that have a link-layer address.
    pub(crate) fn with_mac(&self, mac: &str) -> &[Device] {
        self.by_mac.get(mac).map_or(&[], Vec::as_slice)
    }

    /// The device towards the wire that has a link-layer address.
    pub(crate) fn uplink_with_mac(&self, mac: &str) -> Option<&Device> {
        self.uplinks_by_mac.get(mac)
    }

    /// The device towards the wire that has an address.
    pub(crate) fn uplink_with(&self, ip: IpAddr) -> Option<&Device> {
        self.uplinks_by_ip.get(&ip)
    }

    /// The node that has an address of its own, by the inventory.
    pub(crate) fn node_with(&self, ip: IpAddr) -> Option<&NodeName> {
        self.nodes.get(&ip)
    }

    /// Where an address belongs, by the inventory.
    pub(crate) fn home_of(&self, ip: IpAddr) -> Option<&Place> {
        self.homes.get(&ip)
    }

    /// The other end of a device, if that is one of a veth pair.
    pub(crate) fn peer(&self, device: &Device) -> Option<&Peer> {
        self.peers.get(device)
    }

    /// The hosts that take what is sent to an address, in order.
    pub(crate) fn hosts_with(&self, ip: IpAddr) -> SmallVec<[&Place; 1]> {
        let mut hosts: SmallVec<_> = self.hosts.get(&ip).into_iter().flatten().collect();
        let mut wide = self.wide_hosts.iter().filter(|(net, _)| net.contains(&ip)).peekable();
        if wide.peek().is_some() {
            hosts.extend(wide.flat_map(|(_, places)| places));
            hosts.sort_unstable();
            hosts.dedup();
        }
        hosts
    }

    /// The devices that a frame sent on a device can reach, and that device itself.
    pub(crate) fn segment(&self, device: &Device) -> Option<&Arc<Segment>> {
        self.segments.get(device)
    }
}
