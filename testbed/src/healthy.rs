//! Flows that must be reachable while nothing is broken: every kind of end, protocol, family and size.

use waymark_proto::Protocol;

use crate::check::Probe;
use crate::plan::{Cluster, PodPlan};

/// Lengths of packets beside the smallest, in bytes: what everybody must carry, and nearly all that an overlay
/// does.
const SIZES: [u16; 2] = [576, 1400];

/// The first `count` of all flows that must work, taken in turn from each kind so that any number of
/// them is a fair mix. Fewer, if the cluster has fewer.
pub fn flows(cluster: &Cluster, count: usize) -> Vec<Probe> {
    let mut kinds: Vec<_> = kinds(cluster).into_iter().map(Vec::into_iter).collect();
    let mut flows = Vec::new();
    while flows.len() < count {
        let before = flows.len();
        flows.extend(kinds.iter_mut().filter_map(Iterator::next).take(count - before));
        if flows.len() == before {
            break;
        }
    }
    flows
}

/// All flows by kind.
fn kinds(cluster: &Cluster) -> Vec<Vec<Probe>> {
    let mut kinds = Vec::new();
    for (protocol, ipv6) in [
        (Protocol::Tcp, false),
        (Protocol::Udp, false),
        (Protocol::Icmp, false),
        (Protocol::Tcp, true),
        (Protocol::Udp, true),
        (Protocol::Icmp, true),
    ] {
        let probe = |from: String, to: String| Probe::new(from, to, protocol, ipv6);
        let to_pods = |same_node: bool| {
            let pairs = pairs(&cluster.pods).filter(move |(from, to)| (from.node == to.node) == same_node);
            pairs.filter_map(|(from, to)| Some(probe(pod(from), target(to, protocol)?))).collect::<Vec<_>>()
        };
        kinds.push(to_pods(false));
        kinds.push(to_pods(true));
        // A SYN has the size that it has.
        for size in SIZES.into_iter().filter(|_| protocol != Protocol::Tcp) {
            let sized = |mut probe: Probe| {
                probe.size = Some(size);
                probe
            };
            kinds.push(to_pods(size == SIZES[0]).into_iter().map(sized).collect());
        }
        let node_to_pod = pairs_of(&cluster.nodes, &cluster.pods);
        kinds.push(
            node_to_pod
                .filter_map(|(from, to)| Some(probe(format!("node/{}", from.name), target(to, protocol)?)))
                .collect(),
        );
    }
    // Nodes listen on nothing, but they answer echo requests.
    for ipv6 in [false, true] {
        let probe = |(from, to): (&PodPlan, &crate::plan::NodePlan)| {
            Probe::new(pod(from), format!("node/{}", to.name), Protocol::Icmp, ipv6)
        };
        kinds.push(pairs_of(&cluster.pods, &cluster.nodes).map(probe).collect());
    }
    for service in cluster.services.iter().filter(|service| !service.backends.is_empty()) {
        let to = format!("svc/{}/{}:{}", service.namespace, service.name, service.port);
        let probe =
            |from: String| Probe::new(from, to.clone(), service.protocol, service.cluster_ip.is_ipv6());
        kinds.push(cluster.pods.iter().map(|from| probe(pod(from))).collect());
        kinds.push(cluster.nodes.iter().map(|from| probe(format!("node/{}", from.name))).collect());
    }
    kinds
}

fn pod(pod: &PodPlan) -> String {
    format!("pod/{}", pod.full_name)
}

/// A pod as destination of a protocol; `None` if it does not listen.
fn target(to: &PodPlan, protocol: Protocol) -> Option<String> {
    let port = match protocol {
        Protocol::Tcp => to.tcp.first()?,
        Protocol::Udp => to.udp.first()?,
        Protocol::Icmp => return Some(pod(to)),
    };
    Some(format!("{}:{port}", pod(to)))
}

/// Every pod with every other, the first with the last first: neighbours in the list come late.
fn pairs(pods: &[PodPlan]) -> impl Iterator<Item = (&PodPlan, &PodPlan)> {
    (1..pods.len())
        .flat_map(move |step| (0..pods.len()).map(move |i| (&pods[i], &pods[(i + step) % pods.len()])))
}

fn pairs_of<'a, A, B>(from: &'a [A], to: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    (0..to.len())
        .flat_map(move |step| from.iter().enumerate().map(move |(i, a)| (a, &to[(i + step) % to.len()])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Dataplane, Proxy};
    use crate::topology::Topology;

    #[test]
    fn any_number_of_flows_is_a_mix_without_repetition() {
        let cluster = Cluster::plan("t", &Topology::default(), Dataplane::Routed, Proxy::Iptables);
        for count in [50, 200] {
            let flows = flows(&cluster, count);
            assert_eq!(flows.len(), count);
            let distinct: std::collections::BTreeSet<_> = flows.iter().map(ToString::to_string).collect();
            assert_eq!(distinct.len(), count);
            for part in [
                "node/node1 → pod/",
                "→ svc/shop/pay:80 tcp",
                "→ svc/shop/dns:53 udp",
                "icmp IPv6",
                "→ node/node",
                "1400 bytes",
            ] {
                assert!(distinct.iter().any(|flow| flow.contains(part)), "no {part} in {distinct:#?}");
            }
        }
    }
}
