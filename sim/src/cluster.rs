//! What is known: an inventory, and the facts of some of its nodes.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;
use waymark_proto::{
    DeviceProgram, FACTS_API_VERSION, Facts, Flow, Hook, Inventory, Link, LinkKind, NodeName, Place,
    Protocol, RuleRef, Socket,
};

use crate::SimError;
use crate::graph::{Device, Graph, Peer, Segment};
use crate::layout::Layout;
use crate::namespace::Namespace;
use crate::netfilter::{self, Context, Membership};

/// In larger clusters not every node is asked whose a link-layer address is.
const MOST_ASKED: usize = 16;

/// A cluster, as far as it is known. Facts are added node by node, as predictions ask for them.
#[derive(Debug)]
pub struct Cluster {
    inventory: Inventory,
    nodes: BTreeSet<NodeName>,
    namespaces: BTreeMap<Place, Arc<Namespace>>,
    graph: Graph,
    /// Of all that is there now.
    layout: OnceLock<Layout>,
}

/// The facts of a node as predictions look them up. Rulesets are compiled here, which is what takes the time, so
/// that clusters of the same moment share it.
#[derive(Debug)]
pub struct Compiled {
    node: NodeName,
    namespaces: BTreeMap<Place, Arc<Namespace>>,
}

impl Compiled {
    /// Compiles facts.
    ///
    /// # Errors
    /// Facts of another version, without namespaces, or with two of one name. What else is wrong with facts makes
    /// the branches that need it end in doubt.
    pub fn new(facts: Facts) -> Result<Self, SimError> {
        let node = facts.node;
        if facts.api_version != FACTS_API_VERSION {
            return Err(SimError::Version { node, version: facts.api_version });
        }
        if facts.namespaces.is_empty() {
            return Err(SimError::Empty { node });
        }
        let mut namespaces = BTreeMap::new();
        for netns in facts.namespaces {
            let namespace = Arc::new(Namespace::new(&node, netns));
            if let Some(twice) = namespaces.insert(namespace.place.clone(), namespace) {
                return Err(SimError::Twice { node, netns: twice.place.netns.to_string() });
            }
        }
        Ok(Self { node, namespaces })
    }
}

impl Cluster {
    /// A cluster of which nothing but its inventory is known.
    pub fn new(inventory: &Inventory) -> Self {
        Self {
            inventory: inventory.clone(),
            nodes: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            graph: Graph::default(),
            layout: OnceLock::new(),
        }
    }

    /// The MTU of a device in bytes, if it is known and no loopback's.
    pub fn mtu(&self, place: &Place, device: &str) -> Option<u32> {
        let link = self.namespaces.get(place)?.links().find(|link| link.name == device)?;
        (link.kind != LinkKind::Loopback).then_some(link.mtu)
    }

    /// Where it is narrower, at a device or at the other end of its cable: the device and its MTU in bytes. `None` if
    /// either end is down or not known, or if both are equally wide.
    pub fn narrow_end(&self, place: &Place, device: &str) -> Option<(Place, String, u32)> {
        let link = self.namespaces.get(place)?.links().find(|link| link.name == device)?;
        let Peer::Device(peer) = self.graph.peer(&(place.clone(), link.index), link) else { return None };
        let other = self.link(&peer)?;
        if !(link.up && other.up) {
            return None;
        }
        match link.mtu.cmp(&other.mtu) {
            Ordering::Less => Some((place.clone(), link.name.clone(), link.mtu)),
            Ordering::Equal => None,
            Ordering::Greater => Some((peer.0, other.name.clone(), other.mtu)),
        }
    }

    /// All that is known of a rule that a trace names by its handle or position, if the facts have it.
    pub fn rule(&self, place: &Place, rule: &RuleRef) -> Option<RuleRef> {
        self.namespaces.get(place)?.ruleset.find(rule)
    }

    /// The same of a rule of `x_tables`, with what it does with packets that match it: `accept` or `drop`, or `None` where
    /// that is not for it alone to say.
    pub fn decision(&self, place: &Place, rule: &RuleRef) -> Option<(RuleRef, Option<&'static str>)> {
        self.namespaces.get(place)?.ruleset.by_position(rule)
    }

    /// What the sets say of a packet that the rule asks which decided on it, and those before it by which alone it did not
    /// match. `device` is the hook's, as in steps.
    pub fn memberships(
        &self,
        place: &Place,
        hook: Hook,
        device: Option<&str>,
        decided: &RuleRef,
        flow: &Flow,
    ) -> Vec<Membership> {
        let Some(namespace) = self.namespaces.get(place) else { return Vec::new() };
        let device: Option<Arc<str>> = device.map(Into::into);
        let (input, output) = match hook {
            Hook::NetfilterOutput | Hook::NetfilterPostrouting => (None, device.as_ref()),
            _ => (device.as_ref(), None),
        };
        let (port_in, port_out, next_hop) = (None, None, None);
        let (tells_matches, memory) = (false, None);
        let at =
            Context { namespace, hook, input, output, port_in, port_out, next_hop, tells_matches, memory };
        netfilter::asked(at, flow, decided)
    }

    /// Whether a namespace of those whose facts are there has an address.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        !self.hosts_with(ip).is_empty()
    }

    /// Whether rules outside the hooks of IP see what leaves a namespace by a device: of its egress, or of bridges.
    pub fn has_chains_behind(&self, place: &Place, device: &str) -> bool {
        self.namespaces.get(place).is_some_and(|namespace| {
            let ruleset = &namespace.ruleset;
            let of_device = ruleset.remark_on_device("egress", device);
            of_device.or_else(|| ruleset.remark_on_bridge(&["output", "postrouting"])).is_some()
        })
    }

    /// The BPF programs that the devices of a namespace run.
    pub fn programs(&self, place: &Place) -> &[DeviceProgram] {
        self.namespaces.get(place).map_or(&[], |namespace| namespace.programs.as_slice())
    }

    /// Adds the facts of a node, in place of older ones.
    ///
    /// # Errors
    /// As [`Compiled::new`], and facts of a node that the inventory lacks.
    pub fn add(&mut self, facts: Facts) -> Result<(), SimError> {
        self.add_compiled(&Compiled::new(facts)?)
    }

    /// The same with facts that are compiled.
    ///
    /// # Errors
    /// Facts of a node that the inventory lacks.
    pub fn add_compiled(&mut self, facts: &Compiled) -> Result<(), SimError> {
        let Compiled { node, namespaces } = facts;
        if self.inventory.node(node).is_none() {
            return Err(SimError::UnknownNode { node: node.clone() });
        }
        self.namespaces.retain(|place, _| place.node != *node);
        let shared = namespaces.iter().map(|(place, namespace)| (place.clone(), Arc::clone(namespace)));
        self.namespaces.extend(shared);
        self.nodes.insert(node.clone());
        self.graph = Graph::new(self.namespaces());
        self.layout = OnceLock::new();
        Ok(())
    }

    /// Whether the facts of a node are there.
    pub fn has(&self, node: &NodeName) -> bool {
        self.nodes.contains(node)
    }

    /// The ports on which anybody listens in a namespace for what comes from elsewhere; unknown if its sockets
    /// are not in the facts.
    pub fn listeners(&self, place: &Place, protocol: Protocol) -> Option<BTreeSet<u16>> {
        let namespace = self.namespace(place).filter(|namespace| namespace.lacks("sockets").is_none())?;
        let serves = |socket: &&Socket| socket.protocol == protocol && !socket.address.is_loopback();
        Some(namespace.sockets.iter().filter(serves).map(|socket| socket.port).collect())
    }

    /// Which of the namespaces a place is; numbers change when facts are added.
    pub(crate) fn number_of(&self, place: &Place) -> Option<usize> {
        self.layout().number_of(place)
    }

    /// A namespace by its number.
    pub(crate) fn numbered(&self, number: usize) -> Option<&Namespace> {
        self.layout().numbered(number)
    }

    pub(crate) fn namespace(&self, place: &Place) -> Option<&Namespace> {
        self.namespaces.get(place).map(Arc::as_ref)
    }

    /// Whether any policy rule or route asks for a TOS: then packets go ways of their own by their code points.
    pub fn heeds_dscp(&self) -> bool {
        self.namespaces().any(|namespace| namespace.heeds_dscp)
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Namespace> + Clone {
        self.namespaces.values().map(Arc::as_ref)
    }

    pub(crate) fn link(&self, device: &Device) -> Option<&Link> {
        self.namespace(&device.0)?.link(device.1)
    }

    /// The other end of a device, if that is one of a veth pair.
    pub(crate) fn peer(&self, device: &Device) -> &Peer {
        self.layout().peer(device).unwrap_or(&Peer::Missing)
    }

    /// The devices that a frame sent on a device can reach, and that device itself.
    pub(crate) fn segment(&self, device: &Device) -> Arc<Segment> {
        self.layout().segment(device).cloned().unwrap_or_default()
    }

    /// Where things are.
    fn layout(&self) -> &Layout {
        self.layout.get_or_init(|| Layout::new(&self.inventory, &self.namespaces, &self.graph))
    }

    /// The devices that have a link-layer address.
    pub(crate) fn with_mac(&self, mac: &str) -> &[Device] {
        self.layout().with_mac(mac)
    }

    /// The hosts that take what is sent to an address, in order.
    pub(crate) fn hosts_with(&self, ip: IpAddr) -> SmallVec<[&Place; 1]> {
        self.layout().hosts_with(ip)
    }

    /// Whether any device has a link-layer address.
    pub(crate) fn has_mac(&self, mac: &str) -> bool {
        !self.with_mac(mac).is_empty()
    }

    /// The devices behind a bridge port.
    pub(crate) fn behind(&self, port: &Device) -> Segment {
        self.graph.behind(port, |place| self.namespace(place))
    }

    /// The node that has an address of its own, by the inventory.
    pub(crate) fn node_with(&self, ip: IpAddr) -> Option<&NodeName> {
        self.layout().node_with(ip)
    }

    /// The namespace that has an address by the inventory.
    pub(crate) fn home_of(&self, ip: IpAddr) -> Option<&Place> {
        self.layout().home_of(ip)
    }

    /// The host's namespace of a node that is known to have lost an address which nobody else has.
    pub(crate) fn has_lost(&self, node: &NodeName, ip: IpAddr) -> Option<Place> {
        let place = self.inventory.node(node)?.place();
        let namespace = self.namespace(&place)?;
        let whole =
            ["namespace", "links", "addresses", "routes"].iter().all(|kind| namespace.lacks(kind).is_none());
        (whole && !self.has_address(ip)).then_some(place)
    }

    /// A node whose facts might tell who has a link-layer address that no known device has: the one that is known by it,
    /// else anyone. Of a large cluster nobody is asked, nor if several are known by it: then it is a router's.
    pub(crate) fn may_know(&self, mac: &str) -> Option<&NodeName> {
        let entries = self.namespaces().flat_map(Namespace::neighbours);
        let with_it = entries.filter(|entry| entry.mac.as_deref() == Some(mac) && entry.address.is_ipv4());
        let known: BTreeSet<IpAddr> = with_it.map(|entry| entry.address).collect();
        let strangers = || self.inventory.nodes.iter().filter(|node| !self.has(&node.name));
        let mut named = strangers().filter(|node| known.contains(&node.ip));
        let node = match (named.next(), named.next()) {
            (Some(node), None) => Some(node),
            (None, _) if known.len() < 2 && self.inventory.nodes.len() <= MOST_ASKED => strangers().next(),
            _ => None,
        };
        node.filter(|_| !self.has_mac(mac)).map(|node| &node.name)
    }

    /// The device towards the wire that has an address, where facts are there.
    pub(crate) fn uplink_with(&self, ip: IpAddr) -> Option<&Device> {
        self.layout().uplink_with(ip)
    }

    /// The device towards the wire that has a link-layer address, where facts are there.
    pub(crate) fn uplink_with_mac(&self, mac: &str) -> Option<&Device> {
        self.layout().uplink_with_mac(mac)
    }
}

/// Whether a device leads out of what facts describe.
pub(crate) fn is_uplink(link: &Link) -> bool {
    matches!(link.kind, LinkKind::Physical | LinkKind::Veth { peer_netns: None, .. })
}
