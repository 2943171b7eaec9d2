//! Two nodes with a bridge each, joined by VXLAN: what Flannel makes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use waymark_prober::agent::{Agent, Limits};
use waymark_prober::inject::{InjectSpec, inject};
use waymark_prober::netns::Netns;
use waymark_proto::{CheckId, Flow, HookSet, Inventory, Protocol, Seq, rpc};

use super::stream::End;
use crate::world::{KEY, Namespaces, run};

/// A stream's ends.
pub struct Way {
    pub name: &'static str,
    pub from: End,
    pub to: End,
    /// Namespaces and devices by which its packets are received.
    devices: Vec<(String, String)>,
}

impl Way {
    pub fn devices(&self) -> impl Iterator<Item = (&str, &str)> {
        self.devices.iter().map(|(netns, device)| (netns.as_str(), device.as_str()))
    }
}

/// The namespaces, and an agent to which both nodes are one.
pub struct Underlay {
    prefix: String,
    pub agent: Agent,
    _namespaces: Namespaces,
}

const NODES: [u8; 2] = [1, 2];
/// Pods: node, number there.
const PODS: [(u8, u8); 5] = [(1, 2), (1, 3), (1, 4), (2, 2), (2, 4)];

impl Underlay {
    pub fn new() -> Self {
        let prefix = format!("wmo-{}", std::process::id());
        let name = |part: String| format!("{prefix}-{part}");
        let node = |node: u8| name(node_part(node));
        let pod = |(node, number): (u8, u8)| name(pod_part(node, number));
        let namespaces = Namespaces::make(NODES.map(node).into_iter().chain(PODS.map(pod)).collect());
        run(&format!("ip -n {} link add eth0 type veth peer name eth0 netns {}", node(1), node(2)));
        for number in NODES {
            make_node(&node(number), number);
        }
        for (on, number) in PODS {
            make_pod(&node(on), &pod((on, number)), on, number);
        }
        let member = |name: String, ip: String| {
            let netns = format!("{prefix}-{name}");
            format!(r#"{{"namespace":"bench","name":"{name}","node":"n1","netns":"{netns}","ip":"{ip}"}}"#)
        };
        let mut members: Vec<String> =
            PODS.map(|(on, number)| member(pod_part(on, number), format!("10.10.{on}.{number}"))).to_vec();
        members.push(member(node_part(2), "172.31.0.2".to_owned()));
        let json = format!(
            r#"{{"nodes":[{{"name":"n1","netns":"{}","ip":"172.31.0.1"}}],"pods":[{}]}}"#,
            node(1),
            members.join(",")
        );
        let inventory = Inventory::from_json(json.as_bytes()).expect("the inventory is right");
        let limits = Limits { allow: vec!["10.10.0.0/16".parse().expect("a prefix")], ..Limits::default() };
        let agent = Agent::with_limits(&inventory, "n1".into(), limits).expect("the agent starts");
        Self { prefix, agent, _namespaces: namespaces }
    }

    fn netns(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    fn end(&self, node: u8, number: u8, port: u16) -> End {
        let name = self.netns(&pod_part(node, number));
        let netns = Netns::open(&name.as_str().into()).expect("it is there");
        End { netns, address: SocketAddr::from(([10, 10, node, number], port)) }
    }

    /// Streams of packets that nobody watches.
    pub fn ways(&self) -> [Way; 2] {
        let devices = |devices: &[(&str, &str)]| {
            devices.iter().map(|(part, device)| (self.netns(part), (*device).to_owned())).collect()
        };
        [
            Way {
                name: "over a bridge",
                from: self.end(1, 2, 7000),
                to: self.end(1, 3, 7001),
                devices: devices(&[("n1", "p12"), ("p13", "eth0")]),
            },
            Way {
                name: "over VXLAN",
                from: self.end(1, 2, 7002),
                to: self.end(2, 2, 7003),
                devices: devices(&[("n1", "p12"), ("n2", "eth0"), ("n2", "flannel.1"), ("p22", "eth0")]),
            },
        ]
    }

    /// An order to watch for packets from a pod of one node to one of the other, with a set of
    /// hooks. Netfilter is watched where a controller would have it watched: at the ends, and for rules on both nodes.
    pub fn arm(&self, order: rpc::Arm, set: HookSet) -> rpc::Arm {
        let parts: &[&str] = if set == HookSet::All { &["p14", "n1", "n2", "p24"] } else { &["p14", "p24"] };
        let netns = parts.iter().map(|part| self.netns(part)).collect();
        rpc::Arm { netns, hooks: rpc::HookSet::from(set).into(), ..order }
    }

    /// Source and destination of those packets.
    pub const FLOW: [[u8; 4]; 2] = [[10, 10, 1, 4], [10, 10, 2, 4]];

    /// Sends such packets, whether anybody watches or not.
    pub async fn inject(&self, check: CheckId, count: u32, interval: Duration) {
        let [src, dst] = Self::FLOW.map(|ip| Ipv4Addr::from(ip).into());
        let spec = InjectSpec {
            check,
            key: KEY,
            flow: Flow { src, dst, protocol: Protocol::Icmp, src_port: 77, dst_port: 77 },
            first: Seq(0),
            count,
            interval,
            sizes: vec![0],
            dscps: vec![0],
            flows: None,
            ttl: 64,
            fragmentable: false,
        };
        let netns = Netns::open(&self.netns("p14").as_str().into()).expect("it is there");
        let (_go_on, stop) = std::sync::mpsc::channel();
        let send = move || inject(&netns, &spec, &Mutex::default(), stop).map(drop);
        tokio::task::spawn_blocking(send).await.expect("nobody panics").expect("they are sent");
    }
}

fn node_part(node: u8) -> String {
    format!("n{node}")
}

fn pod_part(node: u8, number: u8) -> String {
    format!("p{node}{number}")
}

/// A node's bridge, and its tunnel to the other. Its `eth0` is there.
fn make_node(netns: &str, node: u8) {
    let other = 3 - node;
    for command in [
        format!("addr add 172.31.0.{node}/24 dev eth0"),
        "link set eth0 up".to_owned(),
        format!("link add cni0 address 02:00:0a:0a:0{node}:01 type bridge"),
        format!("addr add 10.10.{node}.1/24 dev cni0"),
        "link set cni0 up".to_owned(),
        format!(
            "link add flannel.1 address 02:00:00:00:00:0{node} type vxlan id 1 dstport 8472 local 172.31.0.{node} dev eth0 nolearning"
        ),
        format!("addr add 10.10.{node}.0/32 dev flannel.1"),
        "link set flannel.1 up".to_owned(),
        format!("route add 10.10.{other}.0/24 via 10.10.{other}.0 dev flannel.1 onlink"),
        format!("neigh add 10.10.{other}.0 lladdr 02:00:00:00:00:0{other} dev flannel.1"),
    ] {
        run(&format!("ip -n {netns} {command}"));
    }
    run(&format!("bridge -n {netns} fdb add 02:00:00:00:00:0{other} dev flannel.1 dst 172.31.0.{other}"));
    run(&format!("ip netns exec {netns} sysctl -q -w net.ipv4.ip_forward=1"));
    // As every node of a cluster has rules. On a machine without any the kernel skips its netfilter hooks in all namespaces
    // (`nf_hooks_needed`), and then the first rule anywhere, a traced one or not, costs everybody something.
    for hook in ["prerouting", "input", "forward", "output", "postrouting"] {
        run(&format!("ip netns exec {netns} nft add table inet rules"));
        let chain = "{ type filter hook HOOK priority 0 ; policy accept ; }".replace("HOOK", hook);
        run(&format!("ip netns exec {netns} nft add chain inet rules {hook} {chain}"));
    }
}

/// A pod at its node's bridge.
fn make_pod(node_netns: &str, netns: &str, node: u8, number: u8) {
    let part = pod_part(node, number);
    run(&format!("ip -n {node_netns} link add {part} mtu 1450 type veth peer name eth0 netns {netns}"));
    run(&format!("ip -n {node_netns} link set {part} master cni0 up"));
    run(&format!("ip -n {netns} addr add 10.10.{node}.{number}/24 dev eth0"));
    run(&format!("ip -n {netns} link set eth0 mtu 1450 up"));
    run(&format!("ip -n {netns} route add default via 10.10.{node}.1"));
}
