//! To whom a flow is meant to go: the owner of its destination address, or the backends of a Service.

use std::net::IpAddr;

use waymark_proto::{Flow, Inventory, Node, ObjectRef, Protocol, Service};

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
    /// Nowhere that a Service says; why.
    Nowhere(&'a Service, String),
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
            Protocol::Icmp => format!(
                "{} is the cluster IP of {}, and a Service leads only its ports on",
                flow.dst,
                object(service)
            ),
            protocol => format!("{} has no port {}/{protocol}", object(service), flow.dst_port),
        };
        return Destination::Nowhere(service, why);
    }
    let node = inventory.nodes.iter().find(|node| node.ip == flow.dst || node.ip6 == Some(flow.dst));
    let leads = |service: &&Service| {
        service.node_port == Some(flow.dst_port)
            && service.protocol == flow.protocol
            && service.cluster_ip.is_ipv6() == flow.is_ipv6()
    };
    match node.zip(inventory.services.iter().find(leads)) {
        Some((node, service)) => Destination::NodePort(service, node),
        None => Destination::Owner,
    }
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
