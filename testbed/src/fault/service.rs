//! Services and what stands behind them.

use waymark_proto::{Cause, Hook, Protocol};

use super::{Act, Breakage, EVERY, End, Fault, Site, TCP, Traffic, in_pod, on_node};
use crate::proxy;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "no-listener",
        about: "the target pod's server has died",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| in_pod(site, site.target, Hook::Socket, Cause::NoListener),
        breakage: |site| {
            let pod = &site.target.full_name;
            Breakage { inject: vec![Act::StopServer(pod.clone())], undo: vec![Act::StartServer(pod.clone())] }
        },
    },
    Fault {
        name: "service-without-endpoints",
        about: "a Service has no ready endpoints (the topology has one: there is nothing to break)",
        dataplanes: EVERY,
        traffic: Traffic { to: End::EmptyService, protocol: Protocol::Tcp, ipv6: false },
        expected: |site| on_node(site.source_node(), Hook::NetfilterForward, Cause::ServiceWithoutEndpoints),
        breakage: |_| Breakage { inject: Vec::new(), undo: Vec::new() },
    },
    Fault {
        name: "stale-dnat",
        about: "the source's node still translates a Service to a pod that is gone",
        dataplanes: EVERY,
        traffic: Traffic { to: End::SingleService, protocol: Protocol::Tcp, ipv6: false },
        expected: |site| {
            let (_, node) = site.single();
            if site.cluster.dataplane.has_bridge() {
                on_node(node, Hook::Neighbour, Cause::NeighbourUnresolved)
            } else {
                on_node(node, Hook::Route, Cause::BlackholeRoute)
            }
        },
        breakage: stale_dnat,
    },
];

fn stale_dnat(site: &Site) -> Breakage {
    let (service, node) = site.single();
    let backend = &service.backends[0];
    let lead = |to| proxy::redirect(site.cluster, site.source_node(), service, backend, to);
    Breakage::scripts(lead(site.cluster.dead_address(node).into()), lead(backend.ip))
}
