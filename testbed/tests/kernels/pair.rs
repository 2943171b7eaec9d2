//! One cluster of two guests, each a node with a kernel of its own, joined by a cable: VXLAN as flannel makes it, an
//! agent on each, mutual TLS between all.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cache::Kernel;
use crate::guest::{self, Guest};
use crate::programs;

/// Longer than any command takes.
const LIMIT: Duration = Duration::from_secs(120);
/// Where the controller listens, on the first node.
const CONTROLLER: &str = "https://172.18.0.11:7464";
/// Hardware addresses of the nodes' devices.
const MACS: [&str; 2] = ["02:42:ac:12:00:0b", "02:42:ac:12:00:0c"];

/// Two nodes with a pod each, `demo/pod1` and `demo/pod2`, and Waymark on them.
pub struct Pair {
    /// The nodes; the controller is on the first.
    pub nodes: [Guest; 2],
}

impl Pair {
    /// Boots both kernels and makes them a cluster.
    pub fn up(kernels: [&Kernel; 2]) -> Self {
        let [first, second] = guest::cable(MACS);
        let mut nodes = [Guest::start(kernels[0], Some(first)), Guest::start(kernels[1], Some(second))];
        nodes.iter_mut().for_each(Guest::ready);
        for (guest, number) in nodes.iter_mut().zip(1..) {
            for line in network(number) {
                guest.succeed(&line, LIMIT);
            }
            guest.succeed(&format!("echo '{}' >/run/inventory.json", inventory()), LIMIT);
        }
        let [first, second] = &mut nodes;
        let controller = programs::path("waymark-controller");
        first.serve(
            "controller",
            &format!(
                "{controller} run --inventory /run/inventory.json --listen {CONTROLLER} --tls-dir /run/tls \
                 --state /run/state"
            ),
            "listening on",
        );
        let certificate = first.succeed("tar --create --directory /run/tls agent | base64 --wrap 0", LIMIT);
        second.succeed(
            &format!(
                "mkdir /run/tls && base64 --decode <<<{certificate} | tar --extract --directory /run/tls"
            ),
            LIMIT,
        );
        let agent = programs::path("waymark-agent");
        for (guest, number) in nodes.iter_mut().zip(1..) {
            guest.serve(
                "agent",
                &format!(
                    "{agent} run --inventory /run/inventory.json --node node{number} --controller {CONTROLLER} \
                     --tls /run/tls/agent"
                ),
                "attached to",
            );
        }
        Self { nodes }
    }

    /// A check from the pod of the first node to that of the second: its exit status, and its result.
    pub fn check(&mut self, options: &str) -> (i32, Value) {
        let client = programs::path("waymark");
        let ran = self.nodes[0].run(
            &format!(
                "{client} check pod/demo/pod1 pod/demo/pod2 --controller {CONTROLLER} --tls /run/tls/client \
                 --output json {options}"
            ),
            LIMIT,
        );
        let result = serde_json::from_str(&ran.text);
        (ran.status, result.unwrap_or_else(|error| panic!("no result: {error}:\n{}", ran.text)))
    }

    /// Packets of all sizes die at a hook of the second node, by a rule of this table if its hook is one that is traced.
    pub fn finds(&mut self, hook: &str, table: Option<&str>) {
        for size in ["", "--size 60", "--size 1400"] {
            let (status, result) = self.check(size);
            assert_eq!((status, &result["verdict"]), (1, &Value::from("Unreachable")), "{size}: {result:#}");
            let fault = &result["faultPoint"];
            assert_eq!(
                (&fault["node"], &fault["hook"]),
                (&"node2".into(), &hook.into()),
                "{size}: {fault:#}"
            );
            assert_eq!(
                (&fault["cause"], &fault["rule"]["table"]),
                (&"filter-drop".into(), &table.map_or(Value::Null, Value::from)),
                "{size}: {fault:#}"
            );
        }
    }
}

/// What makes a guest a node.
fn network(number: u8) -> Vec<String> {
    let other = 3 - number;
    let address = |number: u8| format!("172.18.0.1{number}");
    let tunnel = |number: u8| format!("02:f1:0a:f4:0{number}:00");
    [
        "ip link set eth0 up".to_owned(),
        format!("ip addr add {}/24 dev eth0", address(number)),
        "sysctl -q -w net.ipv4.ip_forward=1".to_owned(),
        "ip link add cni0 mtu 1450 type bridge && ip link set cni0 up".to_owned(),
        format!("ip addr add 10.244.{number}.1/24 dev cni0"),
        format!("ip netns add pod{number}"),
        format!("ip link add veth0 mtu 1450 type veth peer name eth0 mtu 1450 netns pod{number}"),
        "ip link set veth0 master cni0 up".to_owned(),
        format!("ip -n pod{number} link set lo up && ip -n pod{number} link set eth0 up"),
        format!("ip -n pod{number} addr add 10.244.{number}.10/24 dev eth0"),
        format!("ip -n pod{number} route add default via 10.244.{number}.1"),
        format!(
            "ip link add flannel.1 mtu 1450 address {} type vxlan id 1 local {} dev eth0 dstport 8472 nolearning",
            tunnel(number),
            address(number)
        ),
        format!("ip link set flannel.1 up && ip addr add 10.244.{number}.0/32 dev flannel.1"),
        format!("ip neigh add 10.244.{other}.0 lladdr {} dev flannel.1 nud permanent", tunnel(other)),
        format!("bridge fdb add {} dev flannel.1 dst {} self permanent", tunnel(other), address(other)),
        format!("ip route add 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink"),
    ]
    .into()
}

/// The cluster for agents and controller.
fn inventory() -> Value {
    let node = |number: u8| {
        json!({
            "name": format!("node{number}"), "netns": "host", "ip": format!("172.18.0.1{number}"),
            "uplink": "eth0", "podCidr": format!("10.244.{number}.0/24"),
        })
    };
    let pod = |number: u8| {
        json!({
            "namespace": "demo", "name": format!("pod{number}"), "node": format!("node{number}"),
            "netns": format!("pod{number}"), "ip": format!("10.244.{number}.10"),
            "device": "eth0", "hostDevice": "veth0",
        })
    };
    json!({ "nodes": [node(1), node(2)], "pods": [pod(1), pod(2)] })
}
