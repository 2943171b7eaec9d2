//! Rendering: the scripts that make a cluster's devices, addresses and routes. Pure.
//!
//! Every veth pair is made from inside a namespace with its other end in another one, so that nothing
//! of a testbed is ever seen in the machine's own namespace.

use crate::plan::{
    BRIDGE, CLUSTER_CIDR, CLUSTER_CIDR6, CONTROL_IP, Cluster, Dataplane, ETH0, FABRIC_BRIDGE, FABRIC_IP,
    FABRIC_IP6, NodePlan, PodPlan, VXLAN, mac_of,
};
use crate::script::{Script, Tool};

/// Link-layer address of every host end in the routed dataplane, as Calico has it. The pods' IPv6
/// gateway follows from it (modified EUI-64).
const CALI_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The pods' gateways in the routed dataplane: nobody has the first, proxy ARP answers for it.
const CALI_GATEWAY: &str = "169.254.1.1";
/// The second is [`CALI_MAC`]'s link-local address.
const CALI_GATEWAY6: &str = "fe80::ecee:eeff:feee:eeee";
/// `RTPROT_BIRD`, by number: not every machine has the name.
const BIRD: u8 = 12;
/// The VXLAN network that all nodes share, as flannel's.
pub const VNI: u32 = 1;
/// UDP port of VXLAN that flannel takes: Linux's default, not IANA's 4789.
pub const VXLAN_PORT: u16 = 8472;

/// Settings that devices inherit when they are made, so they come before all devices.
///
/// No duplicate address detection and no router solicitation: addresses are unique by plan, and nothing
/// should wait for them.
pub(crate) const EVERYWHERE: [&str; 8] = [
    "ipv4/conf/all/rp_filter=0",
    "ipv4/conf/default/rp_filter=0",
    "ipv6/conf/all/disable_ipv6=0",
    "ipv6/conf/default/disable_ipv6=0",
    "ipv6/conf/all/accept_dad=0",
    "ipv6/conf/default/accept_dad=0",
    "ipv6/conf/default/accept_ra=0",
    "ipv6/conf/default/router_solicitations=0",
];

/// All scripts that make a cluster's network, in order. The namespaces exist and are empty.
pub fn scripts(cluster: &Cluster) -> Vec<Script> {
    let mut scripts: Vec<_> =
        (cluster.namespaces().iter()).map(|netns| Script::new(Tool::Sysctl, netns, EVERYWHERE)).collect();
    scripts.extend(fabric(cluster));
    scripts.extend(cluster.control.as_ref().map(|netns| control(cluster, netns)));
    for node in &cluster.nodes {
        scripts.extend(machine(cluster, node));
        scripts.extend(cluster.pods_on(node).map(|pod| self::pod(cluster, pod)));
    }
    scripts
}

/// The underlay: a switch that is also the nodes' gateway to elsewhere. It knows nothing of pods.
fn fabric(cluster: &Cluster) -> [Script; 2] {
    let netns = &cluster.fabric;
    let sysctls = [
        "ipv4/ip_forward=1",
        "ipv6/conf/all/forwarding=1",
        "-bridge/bridge-nf-call-iptables=0",
        "-bridge/bridge-nf-call-ip6tables=0",
    ];
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("link add {FABRIC_BRIDGE} address {} type bridge", mac_of([0x02, 0x42], FABRIC_IP)),
        format!("link set {FABRIC_BRIDGE} up"),
        format!("addr add {FABRIC_IP}/24 dev {FABRIC_BRIDGE}"),
        format!("addr add {FABRIC_IP6}/64 dev {FABRIC_BRIDGE} nodad"),
    ];
    for node in &cluster.nodes {
        let (port, mac) = (&node.name, node.mac());
        lines.push(format!("link add {port} type veth peer name {ETH0} address {mac} netns {}", node.netns));
        lines.push(format!("link set {port} master {FABRIC_BRIDGE} up"));
    }
    if let Some(control) = &cluster.control {
        let mac = mac_of([0x02, 0x42], CONTROL_IP);
        lines.push(format!("link add control type veth peer name {ETH0} address {mac} netns {control}"));
        lines.push(format!("link set control master {FABRIC_BRIDGE} up"));
    }
    [Script::new(Tool::Sysctl, netns, sysctls), Script::new(Tool::Ip, netns, lines)]
}

/// A machine for the Kubernetes control plane, which pods reach by the Service `kubernetes`.
fn control(cluster: &Cluster, netns: &str) -> Script {
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("link set {ETH0} up"),
        format!("addr add {CONTROL_IP}/24 dev {ETH0}"),
        format!("route add default via {FABRIC_IP} dev {ETH0}"),
    ];
    let route = |node: &NodePlan| format!("route add {} via {} dev {ETH0}", node.pod_net(), node.ip());
    lines.extend(cluster.nodes.iter().map(route));
    Script::new(Tool::Ip, netns, lines)
}

/// A node's own namespace, with the host ends of its pods.
fn machine(cluster: &Cluster, node: &NodePlan) -> Vec<Script> {
    let netns = &node.netns;
    // Without a bridge it makes no difference, and the kernel may not have it.
    let optional = if cluster.dataplane.has_bridge() { "" } else { "-" };
    let sysctls = [
        "ipv4/ip_forward=1".to_owned(),
        "ipv6/conf/all/forwarding=1".to_owned(),
        format!("{optional}bridge/bridge-nf-call-iptables=1"),
        format!("{optional}bridge/bridge-nf-call-ip6tables=1"),
    ];
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("link set {ETH0} up"),
        format!("addr add {}/24 dev {ETH0}", node.ip()),
        format!("addr add {}/64 dev {ETH0} nodad", node.ip6()),
        format!("route add default via {FABRIC_IP} dev {ETH0}"),
        format!("route add ::/0 via {FABRIC_IP6} dev {ETH0}"),
    ];
    if cluster.dataplane.has_bridge() {
        lines.extend(bridge(cluster, node));
    } else {
        // A node answers for the whole of its pods' network: what no pod has is nowhere else (BIRD).
        lines.push(format!("route add blackhole {} proto {BIRD}", node.pod_net()));
        lines.push(format!("route add blackhole {} proto {BIRD}", node.pod_net6()));
    }
    let mut scripts = vec![Script::new(Tool::Sysctl, netns, sysctls), Script::new(Tool::Ip, netns, lines)];
    for pod in cluster.pods_on(node) {
        scripts.extend(host_end(cluster, pod));
    }
    scripts.extend(remotes(cluster, node));
    scripts
}

fn bridge(cluster: &Cluster, node: &NodePlan) -> Vec<String> {
    let (mtu, mac) = (cluster.pod_mtu(), mac_of([0x0a, 0x58], node.gateway()));
    vec![
        format!("link add {BRIDGE} mtu {mtu} address {mac} type bridge"),
        format!("link set {BRIDGE} up"),
        format!("addr add {}/24 dev {BRIDGE}", node.gateway()),
        format!("addr add {}/64 dev {BRIDGE} nodad", node.gateway6()),
    ]
}

/// The host end of a pod's device, and the pair with it.
fn host_end(cluster: &Cluster, pod: &PodPlan) -> Vec<Script> {
    let (netns, device, mtu) = (&cluster.node_of(pod).netns, &pod.host_device, cluster.pod_mtu());
    let peer = format!("type veth peer name {ETH0} mtu {mtu} address {} netns {}", pod.mac(), pod.netns);
    if cluster.dataplane.has_bridge() {
        let lines = [
            format!("link add {device} mtu {mtu} {peer}"),
            format!("link set {device} master {BRIDGE}"),
            format!("link set {device} up"),
            // A pod may be a backend of the Service that it calls.
            format!("link set {device} type bridge_slave hairpin on"),
        ];
        return vec![Script::new(Tool::Ip, netns, lines)];
    }
    let make = [format!("link add {device} mtu {mtu} address {CALI_MAC} {peer}")];
    let sysctls = [
        format!("ipv4/conf/{device}/proxy_arp=1"),
        // Answers at once, not after a random time up to 0.8 s.
        format!("ipv4/neigh/{device}/proxy_delay=0"),
    ];
    let mut up = vec![format!("link set {device} up")];
    up.extend(pod_routes(pod));
    vec![
        Script::new(Tool::Ip, netns, make),
        Script::new(Tool::Sysctl, netns, sysctls),
        Script::new(Tool::Ip, netns, up),
    ]
}

/// Routed dataplane: a node's routes to one of its pods. They go when the device goes down.
pub fn pod_routes(pod: &PodPlan) -> [String; 2] {
    let device = &pod.host_device;
    [
        format!("route add {}/32 dev {device} scope link", pod.ip),
        format!("route add {}/128 dev {device}", pod.ip6),
    ]
}

/// A node's ways to the other nodes' pods, for `ip` and for `bridge`. With VXLAN, the device too.
pub fn remotes(cluster: &Cluster, node: &NodePlan) -> [Script; 2] {
    let mut ip = Vec::new();
    let mut fdb = Vec::new();
    if cluster.dataplane == Dataplane::BridgeVxlan {
        ip.extend([
            format!(
                "link add {VXLAN} mtu {} address {} type vxlan id {VNI} local {} dev {ETH0} dstport {VXLAN_PORT} nolearning",
                cluster.pod_mtu(),
                node.vtep_mac(),
                node.ip(),
            ),
            format!("link set {VXLAN} up"),
            format!("addr add {}/32 dev {VXLAN}", node.vtep()),
            format!("addr add {}/128 dev {VXLAN} nodad", node.vtep6()),
        ]);
        for other in cluster.others(node) {
            let mac = other.vtep_mac();
            ip.push(format!("neigh add {} lladdr {mac} dev {VXLAN} nud permanent", other.vtep()));
            ip.push(format!("neigh add {} lladdr {mac} dev {VXLAN} nud permanent", other.vtep6()));
            fdb.push(format!("fdb add {}", fdb_entry(other)));
        }
    }
    ip.extend(
        cluster
            .others(node)
            .flat_map(|other| remote_routes(cluster.dataplane, other))
            .map(|route| format!("route add {route}")),
    );
    [Script::new(Tool::Ip, &node.netns, ip), Script::new(Tool::Bridge, &node.netns, fdb)]
}

/// Any node's routes to another node's pods, IPv4 first.
pub fn remote_routes(dataplane: Dataplane, other: &NodePlan) -> [String; 2] {
    let (net, net6) = (other.pod_net(), other.pod_net6());
    if dataplane == Dataplane::BridgeVxlan {
        [
            format!("{net} via {} dev {VXLAN} onlink", other.vtep()),
            format!("{net6} via {} dev {VXLAN} onlink", other.vtep6()),
        ]
    } else {
        [format!("{net} via {} dev {ETH0}", other.ip()), format!("{net6} via {} dev {ETH0}", other.ip6())]
    }
}

/// Any node's forwarding entry for another node's VXLAN device.
pub fn fdb_entry(other: &NodePlan) -> String {
    format!("{} dev {VXLAN} dst {} self permanent", other.vtep_mac(), other.ip())
}

/// A pod's own namespace.
fn pod(cluster: &Cluster, pod: &PodPlan) -> Script {
    let mut lines = vec!["link set lo up".to_owned(), format!("link set {ETH0} up")];
    lines.extend(pod_network(cluster, pod));
    Script::new(Tool::Ip, &pod.netns, lines)
}

/// A pod's addresses and routes, which go when its device goes down.
pub fn pod_network(cluster: &Cluster, pod: &PodPlan) -> Vec<String> {
    let prefix = if cluster.dataplane.has_bridge() { (24, 64) } else { (32, 128) };
    let mut lines = vec![
        format!("addr add {}/{} dev {ETH0}", pod.ip, prefix.0),
        format!("addr add {}/{} dev {ETH0} nodad", pod.ip6, prefix.1),
    ];
    if !cluster.dataplane.has_bridge() {
        lines.push(format!("route add {CALI_GATEWAY} dev {ETH0} scope link"));
    }
    lines.extend(pod_defaults(cluster, pod).map(|route| format!("route add {route}")));
    lines
}

/// A pod's default routes, IPv4 first.
pub fn pod_defaults(cluster: &Cluster, pod: &PodPlan) -> [String; 2] {
    let node = cluster.node_of(pod);
    let (gateway, gateway6) = if cluster.dataplane.has_bridge() {
        (node.gateway().to_string(), node.gateway6().to_string())
    } else {
        (CALI_GATEWAY.to_owned(), CALI_GATEWAY6.to_owned())
    };
    [format!("default via {gateway} dev {ETH0}"), format!("::/0 via {gateway6} dev {ETH0}")]
}

/// All pods' networks, as rules for Services know them.
pub(crate) fn cluster_cidr(ipv6: bool) -> String {
    if ipv6 { CLUSTER_CIDR6.to_string() } else { CLUSTER_CIDR.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Proxy;
    use crate::topology::Topology;

    fn lines(dataplane: Dataplane, netns: &str) -> Vec<String> {
        let cluster = Cluster::plan("t", &Topology::default(), dataplane, Proxy::Iptables);
        let scripts = scripts(&cluster).into_iter().filter(|script| script.netns == netns);
        scripts.flat_map(|script| script.lines).collect()
    }

    fn has(lines: &[String], line: &str) {
        assert!(lines.iter().any(|l| l == line), "no {line:?} in {lines:#?}");
    }

    #[test]
    fn host_gateway_routes_to_nodes() {
        let node = lines(Dataplane::BridgeHostgw, "wm-t-node1");
        has(&node, "route add 10.244.2.0/24 via 172.18.0.12 dev eth0");
        has(&node, "route add fd00:10:244:2::/64 via fd00:18::12 dev eth0");
        has(&lines(Dataplane::BridgeHostgw, "wm-t-shop-cart"), "route add default via 10.244.1.1 dev eth0");
    }

    #[test]
    fn vxlan_is_flannels() {
        let node = lines(Dataplane::BridgeVxlan, "wm-t-node1");
        has(
            &node,
            "link add flannel.1 mtu 1450 address 02:f1:0a:f4:01:00 type vxlan id 1 local 172.18.0.11 dev eth0 dstport 8472 nolearning",
        );
        has(&node, "neigh add 10.244.2.0 lladdr 02:f1:0a:f4:02:00 dev flannel.1 nud permanent");
        has(&node, "fdb add 02:f1:0a:f4:02:00 dev flannel.1 dst 172.18.0.12 self permanent");
        has(&node, "route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink");
    }

    #[test]
    fn routed_is_calicos() {
        has(&lines(Dataplane::Routed, "wm-t-shop-cart"), "addr add 10.244.1.10/32 dev eth0");
        has(&lines(Dataplane::Routed, "wm-t-shop-cart"), "route add default via 169.254.1.1 dev eth0");
        let node = lines(Dataplane::Routed, "wm-t-node1");
        has(&node, "route add blackhole 10.244.1.0/24 proto 12");
        assert!(!node.iter().any(|line| line.contains("cni0")), "{node:#?}");
        assert!(node.iter().any(|line| line.starts_with("route add 10.244.1.10/32 dev cali")), "{node:#?}");
    }
}
