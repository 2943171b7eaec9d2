//! Two nodes with a bridge each, joined by VXLAN: what Flannel makes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use waymark_prober::agent::{Agent, Limits};
use waymark_prober::netns::Netns;
use waymark_proto::{CheckId, Flow, Inventory, Protocol, rpc};

use super::stream::End;
use crate::world::{KEY, run};

/// The namespaces, and an agent to which both nodes are one.
pub struct Underlay {
    prefix: String,
    pub agent: Agent,
}

/// Pods: node, its number there.
const PODS: [(u8, u8); 5] = [(1, 2), (1, 3), (2, 2), (1, 4), (2, 4)];

impl Underlay {
    pub fn new() -> Self {
        let prefix = format!("wmo-{}", std::process::id());
        let mut world = Self { prefix: prefix.clone(), agent: idle() };
        for node in [1, 2] {
            world.add(&format!("n{node}"));
        }
        let name = |part: &str| format!("{prefix}-{part}");
        run(&format!("ip -n {} link add eth0 type veth peer name eth0 netns {}", name("n1"), name("n2")));
        for node in [1_u8, 2] {
            let (netns, other) = (name(&format!("n{node}")), 3 - node);
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
            run(&format!(
                "bridge -n {netns} fdb add 02:00:00:00:00:0{other} dev flannel.1 dst 172.31.0.{other}"
            ));
            run(&format!("ip netns exec {netns} sysctl -q -w net.ipv4.ip_forward=1"));
        }
        for (node, number) in PODS {
            let part = format!("p{node}{number}");
            world.add(&part);
            let (node_netns, pod) = (name(&format!("n{node}")), name(&part));
            run(&format!("ip -n {node_netns} link add {part} mtu 1450 type veth peer name eth0 netns {pod}"));
            run(&format!("ip -n {node_netns} link set {part} master cni0 up"));
            run(&format!("ip -n {pod} addr add 10.10.{node}.{number}/24 dev eth0"));
            run(&format!("ip -n {pod} link set eth0 mtu 1450 up"));
            run(&format!("ip -n {pod} route add default via 10.10.{node}.1"));
        }
        let pods: Vec<String> = PODS
            .iter()
            .map(|(node, number)| {
                let part = format!("p{node}{number}");
                format!(
                    r#"{{"namespace":"bench","name":"{part}","node":"n1","netns":"{}","ip":"10.10.{node}.{number}"}}"#,
                    name(&part)
                )
            })
            .collect();
        let json = format!(
            r#"{{"nodes":[{{"name":"n1","netns":"{}","ip":"172.31.0.1"}}],"pods":[{}]}}"#,
            name("n1"),
            pods.join(",")
        );
        let inventory = Inventory::from_json(json.as_bytes()).expect("the inventory is right");
        let allow = vec!["10.10.0.0/16".parse().expect("a prefix")];
        world.agent = Agent::with_limits(&inventory, "n1".into(), Limits { allow, ..Limits::default() })
            .expect("the agent starts");
        world
    }

    fn add(&self, part: &str) {
        run(&format!("ip netns add {}-{part}", self.prefix));
        run(&format!("ip -n {}-{part} link set lo up", self.prefix));
    }

    fn end(&self, node: u8, number: u8, port: u16) -> End {
        let netns =
            Netns::open(&format!("{}-p{node}{number}", self.prefix).as_str().into()).expect("it is there");
        End { netns, address: SocketAddr::from(([10, 10, node, number], port)) }
    }

    /// Streams of packets that nobody watches.
    pub fn ways(&self) -> [(&'static str, End, End); 2] {
        [
            ("over a bridge", self.end(1, 2, 7000), self.end(1, 3, 7001)),
            ("over VXLAN", self.end(1, 2, 7002), self.end(2, 2, 7003)),
        ]
    }

    /// The pods between which packets are watched.
    pub fn watched(&self) -> [String; 2] {
        ["p14", "p24"].map(|part| format!("{}-{part}", self.prefix))
    }

    /// Marked packets between these.
    pub fn inject(&self, check: CheckId, count: u32, pace: Duration) -> rpc::Inject {
        let [src, dst] = [1, 2].map(|node| Ipv4Addr::from([10, 10, node, 4]).into());
        let flow = Flow { src, dst, protocol: Protocol::Icmp, src_port: 77, dst_port: 77 };
        rpc::Inject {
            check: check.get(),
            key: KEY.0.to_vec(),
            netns: self.watched()[0].clone(),
            flow_json: serde_json::to_vec(&flow).expect("a flow is plain data"),
            count,
            interval_us: pace.as_micros() as u32,
            ..Default::default()
        }
    }
}

/// An agent of nothing, until there are namespaces.
fn idle() -> Agent {
    let json = r#"{"nodes":[{"name":"n1","netns":"host","ip":"172.31.0.1"}],"pods":[]}"#;
    let inventory = Inventory::from_json(json.as_bytes()).expect("the inventory is right");
    Agent::with_limits(&inventory, "n1".into(), Limits::default()).expect("the agent starts")
}

impl Drop for Underlay {
    fn drop(&mut self) {
        let pods = PODS.iter().map(|(node, number)| format!("p{node}{number}"));
        for part in ["n1", "n2"].map(str::to_owned).into_iter().chain(pods) {
            // What was never made need not be removed.
            drop(
                std::process::Command::new("ip")
                    .args(["netns", "del", &format!("{}-{part}", self.prefix)])
                    .stderr(std::process::Stdio::null())
                    .status(),
            );
        }
    }
}
