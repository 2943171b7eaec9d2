//! Traffic between pods and the world outside the cluster, by samples: who comes from anywhere, and the
//! addresses that policies name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;
use waymark_proto::{
    Expectation, Flow, Inventory, NetworkPolicy, Pod, PolicyPeer, PolicyPort, PolicyType, PortRef, Protocol,
    TransportProtocol,
};
use waymark_sim::intend;

use super::groups::Groups;

/// An address of nobody in particular: of TEST-NET-3 (RFC 5737).
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
/// Most addresses that are tried; policies may name thousands.
const MOST_SAMPLES: usize = 8;
/// Most groups of pods that are tried.
const MOST_PODS: usize = 100;
/// Port of the sample that stands for going out to anywhere: that of HTTPS.
const HTTPS: u16 = 443;
/// A source port, which no policy looks at.
const SOURCE_PORT: u16 = 40000;

/// Traffic with the outside whose answer changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutsideChange {
    /// Into the pods or out of them.
    pub direction: PolicyType,
    /// The pods.
    pub pods: String,
    /// The sample of an address outside.
    pub address: IpAddr,
    /// Protocol of the transport layer.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// Before.
    pub before: Expectation,
    /// After.
    pub after: Expectation,
}

/// The samples whose answers differ, for the pods of some namespaces.
pub(super) fn outside(
    before: &Inventory,
    after: &Inventory,
    touched: &BTreeSet<String>,
) -> Vec<OutsideChange> {
    let policies: Vec<&NetworkPolicy> = before.policies.iter().chain(&after.policies).collect();
    let policies: Vec<_> = policies.into_iter().filter(|p| touched.contains(&p.namespace)).collect();
    if before.policies == after.policies {
        return Vec::new();
    }
    let samples = samples(&policies, before, after);
    let groups = Groups::new(&[before, after]);
    // Pods of a group that declare other ports are asked for, too.
    let mut pods: BTreeMap<(String, Ports), &Pod> = BTreeMap::new();
    let own_network = |pod: &&Pod| touched.contains(&pod.namespace) && !pod.host_network;
    for pod in
        after.pods.iter().filter(own_network).filter(|pod| before.pod(&pod.namespace, &pod.name).is_some())
    {
        pods.entry((groups.of(&pod.namespace, &pod.name), ports(pod))).or_insert(pod);
    }
    let going_out = outgoing(&policies);
    let mut changes = BTreeSet::new();
    for ((name, ports), pod) in pods.iter().take(MOST_PODS) {
        for &address in &samples {
            let Some(own) = pod.address(address.is_ipv6()) else { continue };
            let into = ports.iter().map(|&port| (PolicyType::Ingress, address, own, port));
            let out = going_out.iter().map(|&port| (PolicyType::Egress, own, address, port));
            for (direction, src, dst, (protocol, port)) in into.chain(out) {
                let flow = Flow { src, dst, protocol, src_port: SOURCE_PORT, dst_port: port };
                let [was, will] = [before, after].map(|inventory| intend(inventory, &flow).expectation);
                if was != will {
                    let pods = name.clone();
                    changes.insert(OutsideChange {
                        direction,
                        pods,
                        address,
                        protocol,
                        port,
                        before: was,
                        after: will,
                    });
                }
            }
        }
    }
    changes.into_iter().collect()
}

fn transport(protocol: TransportProtocol) -> Option<Protocol> {
    match protocol {
        TransportProtocol::Tcp => Some(Protocol::Tcp),
        TransportProtocol::Udp => Some(Protocol::Udp),
        TransportProtocol::Sctp => None,
    }
}

/// Destination ports.
type Ports = Vec<(Protocol, u16)>;

fn ports(pod: &Pod) -> Ports {
    let declared = pod.ports.iter().filter_map(|port| Some((transport(port.protocol)?, port.port)));
    declared.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Destination ports to go out to: the one for anywhere, and those that rules name.
fn outgoing(policies: &[&NetworkPolicy]) -> BTreeSet<(Protocol, u16)> {
    let rules = policies.iter().flat_map(|policy| &policy.spec.egress);
    let named = rules.flat_map(|rule| &rule.ports).filter_map(|port: &PolicyPort| match port.port {
        Some(PortRef::Number(number)) => Some((transport(port.protocol)?, number)),
        Some(PortRef::Name(_)) | None => None,
    });
    named.chain([(Protocol::Tcp, HTTPS)]).collect()
}

/// Anywhere, and the first address of each block that policies name and of each exception to it, if nobody of
/// the cluster has it.
fn samples(policies: &[&NetworkPolicy], before: &Inventory, after: &Inventory) -> BTreeSet<IpAddr> {
    let peers = policies.iter().flat_map(|policy| {
        let from = policy.spec.ingress.iter().flat_map(|rule| &rule.from);
        from.chain(policy.spec.egress.iter().flat_map(|rule| &rule.to))
    });
    let blocks = peers.filter_map(|peer: &PolicyPeer| peer.ip_block.as_ref());
    let networks = blocks.flat_map(|block| std::iter::once(&block.cidr).chain(&block.except));
    // Of 0.0.0.0/0 the first address is none; anywhere stands for it.
    let firsts =
        networks.filter(|network| network.prefix_len() > 0).filter_map(|network| network.hosts().next());
    let inside = |ip: &IpAddr| {
        [before, after].into_iter().any(|inventory| {
            let networks = inventory.nodes.iter().flat_map(|node| [node.pod_cidr, node.pod_cidr6]);
            inventory.owner(*ip).is_some() || networks.flatten().any(|network| network.contains(ip))
        })
    };
    let some = firsts.filter(|ip| !inside(ip)).take(MOST_SAMPLES - 1);
    some.chain([ANYWHERE]).collect()
}
