//! Who is on a link with whom: a graph of devices, joined by veth pairs, bridges, overlays and the wire.
//!
//! The only file that names petgraph.

use std::collections::BTreeMap;

use petgraph::graph::{NodeIndex, UnGraph};
use petgraph::visit::{Dfs, EdgeFiltered, EdgeRef};
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
    /// Devices with a network layer of their own: no bridge ports.
    pub(crate) devices: Vec<Device>,
    /// Whether all of the segment is in the facts: it does not touch the wire or an overlay.
    pub(crate) whole: bool,
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

    /// The devices that a frame sent on a device can reach.
    pub(crate) fn segment<'a>(
        &self,
        device: &Device,
        find: impl Fn(&Place) -> Option<&'a Namespace>,
    ) -> Segment {
        self.reach(device, find, |_| true)
    }

    /// The devices behind a bridge port, seen from its bridge.
    pub(crate) fn behind<'a>(
        &self,
        port: &Device,
        find: impl Fn(&Place) -> Option<&'a Namespace>,
    ) -> Segment {
        let at = self.at.get(&Vertex::Device(port.clone())).copied();
        // Not back into the bridge.
        self.reach(port, find, |(kind, a, b)| kind != JointKind::Port || (Some(a) != at && Some(b) != at))
    }

    fn reach<'a>(
        &self,
        from: &Device,
        find: impl Fn(&Place) -> Option<&'a Namespace>,
        allowed: impl Fn((JointKind, NodeIndex, NodeIndex)) -> bool,
    ) -> Segment {
        let Some(&start) = self.at.get(&Vertex::Device(from.clone())) else { return Segment::default() };
        let live = EdgeFiltered::from_fn(&self.graph, |edge| {
            edge.weight().alive && allowed((edge.weight().kind, edge.source(), edge.target()))
        });
        let mut segment = Segment { devices: Vec::new(), whole: true };
        let mut search = Dfs::new(&live, start);
        while let Some(at) = search.next(&live) {
            match &self.graph[at] {
                Vertex::Wire | Vertex::Overlay => segment.whole = false,
                Vertex::Device(device) => {
                    let link = find(&device.0).and_then(|namespace| namespace.link(device.1));
                    if device != from && link.is_some_and(|link| link.master.is_none()) {
                        segment.devices.push(device.clone());
                    }
                }
            }
        }
        segment.devices.sort();
        segment
    }
}
