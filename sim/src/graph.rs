//! Who is on a link with whom: a graph of devices, joined by veth pairs, bridges, overlays and the wire.
//!
//! The only file that names petgraph.

use std::collections::BTreeMap;
use std::sync::Arc;

use petgraph::graph::{NodeIndex, UnGraph};
use petgraph::visit::{Dfs, EdgeFiltered, EdgeRef, VisitMap};
use rustc_hash::FxHashMap;
use waymark_proto::{Link, LinkKind, Place};

use crate::namespace::Namespace;

/// A device of a namespace.
pub(crate) type Device = (Place, u32);

/// What frames pass through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Vertex {
    Device(Device),
    /// The underlay, all of it: who is on it is known by address only.
    Wire,
    /// All VXLAN devices together.
    Overlay,
}

/// How two of them are joined, and whether frames pass.
#[derive(Clone, Copy, Debug)]
struct Joint {
    kind: JointKind,
    alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JointKind {
    Veth,
    Port,
    Wire,
    Overlay,
}

/// The other end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Device(Device),
    /// In a namespace of no node.
    Outside,
    /// The facts name it but do not hold it.
    Missing,
}

/// Devices that hear one another's frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segment {
    /// Devices with a network layer of their own, no bridge ports, by their namespaces.
    devices: BTreeMap<Place, Vec<u32>>,
    /// Whether all of the segment is in the facts: it does not touch the wire or an overlay.
    pub(crate) whole: bool,
}

impl Segment {
    /// Its devices, in order.
    pub(crate) fn devices(&self) -> impl Iterator<Item = Device> {
        let devices = self.devices.iter();
        devices.flat_map(|(place, indexes)| indexes.iter().map(|index| (place.clone(), *index)))
    }

    /// Those of a namespace.
    pub(crate) fn devices_of(&self, place: &Place) -> impl Iterator<Item = Device> {
        let indexes = self.devices.get(place).into_iter().flatten();
        indexes.map(|index| (place.clone(), *index))
    }

    /// Whether a device is one of them.
    pub(crate) fn has(&self, device: &Device) -> bool {
        self.devices.get(&device.0).is_some_and(|indexes| indexes.contains(&device.1))
    }

    fn add(&mut self, (place, index): &Device) {
        self.devices.entry(place.clone()).or_default().push(*index);
    }

    fn sort(&mut self) {
        self.devices.values_mut().for_each(|indexes| indexes.sort_unstable());
    }
}

/// The graph.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    graph: UnGraph<Vertex, Joint>,
    at: BTreeMap<Vertex, NodeIndex>,
}

fn usable(link: &Link) -> bool {
    link.up && link.carrier
}

impl Graph {
    /// Builds the graph of some namespaces.
    pub(crate) fn new<'a>(namespaces: impl Iterator<Item = &'a Namespace> + Clone) -> Self {
        let mut graph = Self::default();
        for vertex in [Vertex::Wire, Vertex::Overlay] {
            graph.vertex(vertex);
        }
        for namespace in namespaces.clone() {
            for link in namespace.links() {
                graph.vertex(Vertex::Device((namespace.place.clone(), link.index)));
            }
        }
        for namespace in namespaces {
            for link in namespace.links() {
                graph.join(namespace, link);
            }
        }
        graph
    }

    fn vertex(&mut self, vertex: Vertex) -> NodeIndex {
        if let Some(&at) = self.at.get(&vertex) {
            return at;
        }
        let at = self.graph.add_node(vertex.clone());
        self.at.insert(vertex, at);
        at
    }

    fn join(&mut self, namespace: &Namespace, link: &Link) {
        let device = |index: u32| Vertex::Device((namespace.place.clone(), index));
        let me = device(link.index);
        let mut add = |other: Vertex, kind: JointKind, alive: bool| {
            if let (Some(&a), Some(&b)) = (self.at.get(&me), self.at.get(&other)) {
                self.graph.update_edge(a, b, Joint { kind, alive });
            }
        };
        match &link.kind {
            LinkKind::Veth { peer_index, peer_netns: Some(netns) } => {
                let peer =
                    Vertex::Device((Place::new(namespace.place.node.clone(), netns.as_str()), *peer_index));
                add(peer, JointKind::Veth, usable(link));
            }
            LinkKind::Physical | LinkKind::Veth { peer_netns: None, .. } => {
                add(Vertex::Wire, JointKind::Wire, usable(link));
            }
            LinkKind::Vxlan { .. } => add(Vertex::Overlay, JointKind::Overlay, usable(link)),
            _ => {}
        }
        if let Some(bridge) = namespace.bridge_of(link) {
            let forwards = link.bridge_port.is_none_or(|port| port.state == 3);
            add(device(bridge.index), JointKind::Port, usable(link) && bridge.up && forwards);
        }
    }

    /// The other end of a veth device.
    pub(crate) fn peer(&self, device: &Device, link: &Link) -> Peer {
        if matches!(link.kind, LinkKind::Veth { peer_netns: None, .. }) {
            return Peer::Outside;
        }
        let Some(&at) = self.at.get(&Vertex::Device(device.clone())) else { return Peer::Missing };
        let veth = self.graph.edges(at).find(|edge| edge.weight().kind == JointKind::Veth);
        let other = veth.map(|edge| if edge.source() == at { edge.target() } else { edge.source() });
        match other.map(|other| &self.graph[other]) {
            Some(Vertex::Device(device)) => Peer::Device(device.clone()),
            _ => Peer::Missing,
        }
    }

    /// The segments of all devices: those that a frame sent on one can reach, and that one itself.
    pub(crate) fn segments<'a>(
        &self,
        find: impl Fn(&Place) -> Option<&'a Namespace>,
    ) -> FxHashMap<Device, Arc<Segment>> {
        let live = EdgeFiltered::from_fn(&self.graph, |edge| edge.weight().alive);
        let mut all = FxHashMap::default();
        let mut search = Dfs::empty(&live);
        for start in self.graph.node_indices() {
            if search.discovered.is_visited(&start) {
                continue;
            }
            search.move_to(start);
            let (mut segment, mut members) = (Segment { whole: true, ..Segment::default() }, Vec::new());
            while let Some(at) = search.next(&live) {
                match &self.graph[at] {
                    Vertex::Wire | Vertex::Overlay => segment.whole = false,
                    Vertex::Device(device) => {
                        if is_host_device(device, &find) {
                            segment.add(device);
                        }
                        members.push(device);
                    }
                }
            }
            segment.sort();
            let segment = Arc::new(segment);
            all.extend(members.into_iter().map(|device| (device.clone(), Arc::clone(&segment))));
        }
        all
    }

    /// The devices behind a bridge port, seen from its bridge.
    pub(crate) fn behind<'a>(
        &self,
        port: &Device,
        find: impl Fn(&Place) -> Option<&'a Namespace>,
    ) -> Segment {
        let mut segment = Segment { whole: true, ..Segment::default() };
        let Some(&start) = self.at.get(&Vertex::Device(port.clone())) else { return Segment::default() };
        // Not back into the bridge.
        let live = EdgeFiltered::from_fn(&self.graph, |edge| {
            let back =
                edge.weight().kind == JointKind::Port && (edge.source() == start || edge.target() == start);
            edge.weight().alive && !back
        });
        let mut search = Dfs::new(&live, start);
        while let Some(at) = search.next(&live) {
            match &self.graph[at] {
                Vertex::Wire | Vertex::Overlay => segment.whole = false,
                Vertex::Device(device) if device != port && is_host_device(device, &find) => {
                    segment.add(device);
                }
                Vertex::Device(_) => {}
            }
        }
        segment.sort();
        segment
    }
}

/// Whether a device has a network layer of its own.
fn is_host_device<'a>(device: &Device, find: impl Fn(&Place) -> Option<&'a Namespace>) -> bool {
    let link = find(&device.0).and_then(|namespace| namespace.link(device.1));
    link.is_some_and(|link| link.master.is_none())
}
