//! The address plan: from a topology to every name, address and device of the cluster. Pure.
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | fabric's gateway | 172.18.0.1/24 | `fd00:18::1/64` |
//! | control plane | 172.18.0.2 | |
//! | node *n* | 172.18.0.(10+n) | `fd00:18::(10+n)` |
//! | pods of node *n* | 10.244.n.0/24, gateway .1, pods from .10 | `fd00:10:244:n::/64` |
//! | VTEP of node *n* | 10.244.n.0/32 (as flannel) | `fd00:10:244:n::ffff/128` |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use waymark_proto::{Backend, Fabric, Inventory, Node, Pod, Service, TrafficPolicy};

use crate::topology::Topology;

/// How pods of different nodes reach one another.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Dataplane {
    /// A bridge per node, routes to the other nodes' pod networks (flannel host-gw, kindnet).
    BridgeHostgw,
    /// A bridge per node, a VXLAN device between the nodes (flannel vxlan).
    BridgeVxlan,
    /// No bridge: a /32 route per pod, proxy ARP (Calico).
    Routed,
}

impl Dataplane {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::BridgeHostgw, Self::BridgeVxlan, Self::Routed];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::BridgeHostgw => "bridge-hostgw",
            Self::BridgeVxlan => "bridge-vxlan",
            Self::Routed => "routed",
        }
    }

    /// Whether pods sit on a bridge.
    pub fn has_bridge(self) -> bool {
        self != Self::Routed
    }
}

impl std::fmt::Display for Dataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Whose rules implement Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Proxy {
    /// kube-proxy's iptables mode.
    Iptables,
    /// kube-proxy's nftables mode.
    Nftables,
}

/// Who knows what is in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// An inventory file: the pods and Services of the topology, and no others.
    #[default]
    Inventory,
    /// A real Kubernetes control plane.
    Kubernetes,
}

/// A node's device towards the fabric, and a pod's device.
pub const ETH0: &str = "eth0";
/// The bridge of the bridged dataplanes.
pub const BRIDGE: &str = "cni0";
/// The VXLAN device, by flannel's name.
pub const VXLAN: &str = "flannel.1";
/// The fabric's bridge.
pub const FABRIC_BRIDGE: &str = "br0";
/// The fabric's address, which is every node's default gateway.
pub const FABRIC_IP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
/// The same for IPv6.
pub const FABRIC_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 1);
/// The API server's address.
pub const CONTROL_IP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
/// All pods.
pub const CLUSTER_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
/// All pods, IPv6.
pub const CLUSTER_CIDR6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 48);
/// The nodes.
const NODE_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 24);
/// The nodes, IPv6.
const NODE_NET6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 0), 64);

/// Whether an address lies in the networks of nodes or pods, so that it cannot be a Service's.
pub(crate) fn is_taken(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => CLUSTER_CIDR.contains(&ip) || NODE_NET.contains(&ip),
        IpAddr::V6(ip) => CLUSTER_CIDR6.contains(&ip) || NODE_NET6.contains(&ip),
    }
}

/// Everything about a cluster that follows from its topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// How pods reach one another.
    pub dataplane: Dataplane,
    /// Whose rules implement Services.
    pub proxy: Proxy,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// The pods.
    pub pods: Vec<PodPlan>,
    /// The Services.
    pub services: Vec<Service>,
    /// The underlay's namespace.
    pub fabric: String,
    /// The namespace of the Kubernetes control plane, if there is one.
    pub control: Option<String>,
}

/// A node, planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// Name; also that of its port on the fabric.
    pub name: String,
    /// Its namespace.
    pub netns: String,
    /// Its place in the topology, from 1.
    pub number: u8,
}

/// A pod, planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPlan {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `namespace/name`.
    pub full_name: String,
    /// Its namespace.
    pub netns: String,
    /// Its node, as an index into [`Cluster::nodes`].
    pub node: usize,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its second address.
    pub ip6: Ipv6Addr,
    /// The other end of its device, on the node.
    pub host_device: String,
    /// TCP ports that it listens on.
    pub tcp: Vec<u16>,
    /// UDP ports that it listens on.
    pub udp: Vec<u16>,
}

impl NodePlan {
    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 18, 0, 10 + self.number)
    }

    /// Its second address. Written so that both read alike: node 1 is `.11` and `::11`.
    pub fn ip6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, read_as_hex(10 + self.number))
    }

    /// Its device's link-layer address.
    pub fn mac(&self) -> String {
        mac_of([0x02, 0x42], self.ip())
    }

    /// Its pods' network.
    pub fn pod_net(&self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, 244, self.number, 0), 24)
    }

    /// Its pods' second network.
    pub fn pod_net6(&self) -> Ipv6Net {
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, self.number.into(), 0, 0, 0, 0), 64)
    }

    /// Its pods' gateway on the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, 1)
    }

    /// Its pods' second gateway.
    pub fn gateway6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, self.number.into(), 0, 0, 0, 1)
    }

    /// The address of its VXLAN device.
    pub fn vtep(&self) -> Ipv4Addr {
        self.pod_net().network()
    }

    /// The second address of its VXLAN device.
    pub fn vtep6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, self.number.into(), 0, 0, 0, 0xffff)
    }

    /// The link-layer address of its VXLAN device.
    pub fn vtep_mac(&self) -> String {
        mac_of([0x02, 0xf1], self.vtep())
    }
}

impl PodPlan {
    /// Its device's link-layer address, as the CNI bridge plug-in makes them.
    pub fn mac(&self) -> String {
        mac_of([0x0a, 0x58], self.ip)
    }

    /// Its address of a family.
    pub fn address(&self, ipv6: bool) -> IpAddr {
        if ipv6 { self.ip6.into() } else { self.ip.into() }
    }
}

/// The number whose hexadecimal digits are the decimal ones of this number.
fn read_as_hex(number: u8) -> u16 {
    let number = u16::from(number);
    (number / 100) << 8 | (number / 10 % 10) << 4 | (number % 10)
}

/// A locally administered link-layer address with an IPv4 address in it.
pub(crate) fn mac_of(prefix: [u8; 2], ip: Ipv4Addr) -> String {
    let octets = prefix.into_iter().chain(ip.octets());
    octets.map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

/// The first `digits` hexadecimal digits of a text's hash.
pub(crate) fn hex_hash(text: &str, digits: usize) -> String {
    let mut hex = String::new();
    for byte in Sha256::digest(text) {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
    }
    hex.truncate(digits);
    hex
}

/// Prefix of the names of an instance's namespaces.
pub(crate) fn prefix(instance: &str) -> String {
    format!("wm-{instance}-")
}

impl Cluster {
    /// Plans a cluster.
    ///
    /// # Panics
    /// If the topology was put together by hand and names nodes or pods that it does not have; one that was
    /// read was checked.
    pub fn plan(instance: &str, topology: &Topology, dataplane: Dataplane, proxy: Proxy) -> Self {
        let prefix = prefix(instance);
        let nodes: Vec<_> = (1..)
            .zip(&topology.nodes)
            .map(|(number, node)| NodePlan {
                name: node.name.clone(),
                netns: format!("{prefix}{}", node.name),
                number,
            })
            .collect();
        let mut next_host = vec![10u8; nodes.len()];
        let mut pods = Vec::new();
        for pod in &topology.pods {
            let node = nodes.iter().position(|node| node.name == pod.node);
            let node = node.expect("a checked topology has the nodes of its pods");
            let (number, host) = (nodes[node].number, next_host[node]);
            next_host[node] += 1;
            let full_name = pod.full_name();
            pods.push(PodPlan {
                netns: format!("{prefix}{}-{}", pod.namespace, pod.name),
                node,
                ip: Ipv4Addr::new(10, 244, number, host),
                ip6: Ipv6Addr::new(0xfd00, 0x10, 0x244, number.into(), 0, 0, 0, read_as_hex(host)),
                host_device: match dataplane {
                    Dataplane::Routed => format!("cali{}", hex_hash(&full_name, 11)),
                    _ => format!("veth{}", hex_hash(&full_name, 8)),
                },
                tcp: pod.tcp.clone(),
                udp: pod.udp.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                full_name,
            });
        }
        let services = topology.services.iter().map(|service| Service {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            cluster_ip: service.cluster_ip,
            port: service.port,
            protocol: service.protocol,
            backends: (service.backends.iter())
                .map(|backend| Backend {
                    ip: (pods.iter().find(|pod| pod.full_name == backend.pod))
                        .expect("a checked topology has the pods of its Services")
                        .address(service.cluster_ip.is_ipv6()),
                    port: backend.target_port.unwrap_or(service.port),
                    pod: Some(backend.pod.clone()),
                    ready: true,
                })
                .collect(),
            port_name: None,
            selector: None,
            target_port: None,
            node_port: None,
            external_ips: Vec::new(),
            internal_traffic_policy: TrafficPolicy::Cluster,
            external_traffic_policy: TrafficPolicy::Cluster,
        });
        let services = services.collect();
        Self { dataplane, proxy, nodes, pods, services, fabric: format!("{prefix}fabric"), control: None }
    }

    /// The same network with a namespace for a Kubernetes control plane, which knows pods and Services: the
    /// plan has none.
    pub fn of_kubernetes(instance: &str, topology: &Topology, dataplane: Dataplane) -> Self {
        let cluster = Self::plan(instance, &topology.nodes_only(), dataplane, Proxy::Iptables);
        Self { control: Some(format!("{}control", prefix(instance))), ..cluster }
    }

    /// The node of a pod.
    pub fn node_of(&self, pod: &PodPlan) -> &NodePlan {
        &self.nodes[pod.node]
    }

    /// The pods of a node.
    pub fn pods_on<'a>(&'a self, node: &'a NodePlan) -> impl Iterator<Item = &'a PodPlan> {
        self.pods.iter().filter(move |pod| self.nodes[pod.node].number == node.number)
    }

    /// The other nodes.
    pub fn others<'a>(&'a self, node: &'a NodePlan) -> impl Iterator<Item = &'a NodePlan> {
        self.nodes.iter().filter(move |other| other.number != node.number)
    }

    /// The names of all namespaces.
    pub fn namespaces(&self) -> Vec<String> {
        let nodes = self.nodes.iter().map(|node| node.netns.clone());
        let pods = self.pods.iter().map(|pod| pod.netns.clone());
        std::iter::once(self.fabric.clone()).chain(self.control.clone()).chain(nodes).chain(pods).collect()
    }

    /// MTU of the pods' devices in bytes: what a VXLAN header of 50 bytes leaves.
    pub fn pod_mtu(&self) -> u32 {
        if self.dataplane == Dataplane::BridgeVxlan { 1450 } else { 1500 }
    }

    /// A dead address: in the pods' network of a node, and nobody's.
    pub fn dead_address(&self, node: &NodePlan) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, node.number, 250)
    }

    /// The inventory, as agents, controller and client read it.
    pub fn inventory(&self) -> Inventory {
        let node = |node: &NodePlan| Node {
            name: node.name.as_str().into(),
            netns: node.netns.as_str().into(),
            ip: node.ip().into(),
            ip6: Some(node.ip6().into()),
            uplink: Some(ETH0.into()),
            pod_cidr: Some(IpNet::V4(node.pod_net())),
            pod_cidr6: Some(IpNet::V6(node.pod_net6())),
        };
        let pod = |pod: &PodPlan| Pod {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            node: self.node_of(pod).name.as_str().into(),
            netns: pod.netns.as_str().into(),
            ip: pod.ip.into(),
            ip6: Some(pod.ip6.into()),
            device: Some(ETH0.into()),
            host_device: Some(pod.host_device.clone()),
            labels: BTreeMap::new(),
            ports: Vec::new(),
            host_network: false,
        };
        Inventory {
            nodes: self.nodes.iter().map(node).collect(),
            pods: self.pods.iter().map(pod).collect(),
            services: self.services.clone(),
            fabric: Some(Fabric { netns: self.fabric.as_str().into() }),
            ..Inventory::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_of_the_default_topology() {
        let cluster = Cluster::plan("t", &Topology::default(), Dataplane::BridgeVxlan, Proxy::Iptables);
        assert_eq!(cluster.namespaces()[..3], ["wm-t-fabric", "wm-t-node1", "wm-t-node2"]);
        let pay = &cluster.pods[2];
        assert_eq!((pay.full_name.as_str(), pay.netns.as_str()), ("shop/pay-1", "wm-t-shop-pay-1"));
        assert_eq!(
            (pay.ip.to_string(), pay.ip6.to_string()),
            ("10.244.2.10".into(), "fd00:10:244:2::10".into())
        );
        assert_eq!(pay.mac(), "0a:58:0a:f4:02:0a");
        assert_eq!(cluster.nodes[0].ip6().to_string(), "fd00:18::11");
        assert!(cluster.pods.iter().all(|pod| pod.host_device.len() <= 15));
        let inventory = cluster.inventory();
        let json = serde_json::to_vec(&inventory).unwrap();
        assert_eq!(Inventory::from_json(&json).unwrap(), inventory);
        assert_eq!(inventory.services[0].backends[0].ip, pay.ip);
        assert_eq!(inventory.services[4].backends[0].ip, pay.ip6);
    }
}
