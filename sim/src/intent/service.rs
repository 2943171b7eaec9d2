//! To whom a flow is meant to go: the owner of its destination address, or the backends of a Service.

use std::net::IpAddr;

use waymark_proto::{
    Flow, Inventory, LocalOnly, Node, ObjectRef, PolicyField, Protocol, Service, Text, TrafficPolicy, text,
};

use super::party::Party;
use super::traffic::Traffic;

/// Where an address leads.
#[derive(Clone, Debug)]
pub(super) enum Destination<'a> {
    /// To its owner.
    Owner,
    /// To the backends of a Service, by its cluster address.
    Cluster(&'a Service),
    /// To the backends of a Service, by a port of a node.
    NodePort(&'a Service, &'a Node),
    /// To the backends of a Service, by an address from outside.
    External(&'a Service),
    /// Nowhere that a Service says; why.
    Nowhere(&'a Service, Text),
}

/// Where a flow leads.
pub(super) fn destination<'a>(inventory: &'a Inventory, flow: &Flow) -> Destination<'a> {
    let at_address = || inventory.services.iter().filter(|service| service.cluster_ip == flow.dst);
    let fits = |service: &&Service| service.protocol == flow.protocol && service.port == flow.dst_port;
    if let Some(service) = at_address().find(fits) {
        return Destination::Cluster(service);
    }
    if let Some(service) = at_address().next() {
        let why = match flow.protocol {
            Protocol::Icmp => text!(intent::PortsOnly { ip: flow.dst, service: object(service) }),
            protocol => text!(intent::NoPort { service: object(service), port: flow.dst_port, protocol }),
        };
        return Destination::Nowhere(service, why);
    }
    let node = inventory.nodes.iter().find(|node| node.ip == flow.dst || node.ip6 == Some(flow.dst));
    let leads = |service: &&Service| {
        service.node_port == Some(flow.dst_port)
            && service.protocol == flow.protocol
            && service.cluster_ip.is_ipv6() == flow.is_ipv6()
    };
    if let Some((node, service)) = node.zip(inventory.services.iter().find(leads)) {
        return Destination::NodePort(service, node);
    }
    // Several Services may share such an address, each with ports of its own; all else goes on outside.
    let from_outside = |service: &&Service| service.external_ips.contains(&flow.dst) && fits(service);
    inventory.services.iter().find(from_outside).map_or(Destination::Owner, Destination::External)
}

/// The node whose backends count for a sender to a Service's virtual address; all count where it is on none.
pub(super) fn from_within(service: &Service, source: Party<'_>) -> Option<LocalOnly> {
    let node = source.node().filter(|_| service.internal_traffic_policy == TrafficPolicy::Local)?;
    some_are_ready(service).then(|| LocalOnly { policy: PolicyField::Internal, node: node.clone() })
}

/// The node whose backends count for a sender to its port. What a node itself sends is never held to it.
pub(super) fn at_node_port(service: &Service, node: &Node, source: Party<'_>) -> Option<LocalOnly> {
    let is_node_itself = matches!(source, Party::Node(own) if own.name == node.name);
    let limited = service.external_traffic_policy == TrafficPolicy::Local && !is_node_itself;
    (limited && some_are_ready(service))
        .then(|| LocalOnly { policy: PolicyField::External, node: node.name.clone() })
}

/// Where no backend is ready, a traffic policy changes nothing.
fn some_are_ready(service: &Service) -> bool {
    ready(service).next().is_some()
}

/// Whether a backend counts.
pub(super) fn counts(local_only: Option<&LocalOnly>, backend: Party<'_>) -> bool {
    local_only.is_none_or(|only| backend.node() == Some(&only.node))
}

/// The backends that a Service's traffic may go to.
pub(super) fn ready(service: &Service) -> impl Iterator<Item = (IpAddr, u16)> {
    service.backends.iter().filter(|backend| backend.ready).map(|backend| (backend.ip, backend.port))
}

/// A Service as an object to name.
pub(super) fn object(service: &Service) -> ObjectRef {
    ObjectRef::namespaced("Service", &service.namespace, &service.name)
}

/// The traffic that a Service port stands for.
pub(super) fn traffic(service: &Service) -> Traffic {
    let any = IpAddr::from([0; 4]);
    let flow = Flow { src: any, dst: any, protocol: service.protocol, src_port: 0, dst_port: service.port };
    Traffic::of(&flow)
}
