//! NetworkPolicies as nftables rules: a table per node, with a chain for each of its pods and direction that
//! a policy isolates. Pure.
//!
//! Rules are in the hook `forward`: what a node itself sends to its pods passes `output`, and is always
//! allowed. Bridged packets pass `forward` too, by `br_netfilter`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use waymark_proto::{
    Inventory, NetworkPolicy, Pod, PolicyPeer, PolicyPort, PolicyType, PortRef, TransportProtocol,
};
use waymark_sim::selects;

use crate::script::{Script, Tool};

/// The table on each node.
const TABLE: &str = "inet waymark-policies";
/// Longest comment that nftables takes, less something.
const COMMENT: usize = 120;

/// The script that makes a node's rules what they should be. All or nothing, and nothing if nothing is isolated.
pub(crate) fn script(inventory: &Inventory, node: &str, netns: &str) -> Script {
    let pods = inventory.pods.iter();
    let own = pods.filter(|pod| pod.node.as_str() == node && !pod.host_network && pod.ip.is_ipv4());
    let (mut jumps, mut chains) = (Vec::new(), Vec::new());
    for direction in [PolicyType::Egress, PolicyType::Ingress] {
        for pod in own.clone() {
            let policies: Vec<_> =
                inventory.policies.iter().filter(|policy| isolates(policy, pod, direction)).collect();
            if policies.is_empty() {
                continue;
            }
            let (word, side) = match direction {
                PolicyType::Egress => ("egress", "saddr"),
                PolicyType::Ingress => ("ingress", "daddr"),
            };
            let chain = format!("{word}-{}", pod.full_name());
            jumps.push(format!("ip {side} {} jump {chain}", pod.ip));
            chains.push(format!("chain {chain} {{"));
            // A pod may always talk to itself, through a Service too.
            chains.push(format!("ip saddr {0} ip daddr {0} return", pod.ip));
            for policy in &policies {
                let comment = comment(&format!("{}/{}", policy.namespace, policy.name));
                let admitted = admitted(inventory, policy, pod, direction);
                chains.extend(admitted.into_iter().map(|what| format!("{what}return comment {comment}")));
            }
            let names: Vec<_> = policies.iter().map(|p| format!("{}/{}", p.namespace, p.name)).collect();
            chains.push(format!("drop comment {}", comment(&names.join(", "))));
            chains.push("}".into());
        }
    }
    // Deleting what may not be there takes making it first.
    let mut lines = vec![format!("table {TABLE}"), format!("delete table {TABLE}")];
    if !jumps.is_empty() {
        lines.push(format!("table {TABLE} {{"));
        lines.extend(chains);
        lines.push("chain forward {".into());
        lines.push("type filter hook forward priority 0; policy accept;".into());
        lines.push("ct state established,related accept".into());
        lines.extend(jumps);
        lines.extend(["}".into(), "}".into()]);
    }
    Script::new(Tool::Nft, netns, lines)
}

fn comment(text: &str) -> String {
    let short: String = text.chars().take(COMMENT).collect();
    format!("\"{short}\"")
}

fn isolates(policy: &NetworkPolicy, pod: &Pod, direction: PolicyType) -> bool {
    let types = &policy.spec.policy_types;
    let directed = match direction {
        // The API server fills the types in; without it, these are the defaults.
        _ if !types.is_empty() => types.contains(&direction),
        PolicyType::Ingress => true,
        PolicyType::Egress => !policy.spec.egress.is_empty(),
    };
    directed && policy.namespace == pod.namespace && selects(&policy.spec.pod_selector, &pod.labels)
}

/// What a policy admits to or from a pod, as the matching part of rules.
fn admitted(inventory: &Inventory, policy: &NetworkPolicy, pod: &Pod, direction: PolicyType) -> Vec<String> {
    let rules: Vec<(&[PolicyPeer], &[PolicyPort])> = match direction {
        PolicyType::Ingress => policy.spec.ingress.iter().map(|rule| (&*rule.from, &*rule.ports)).collect(),
        PolicyType::Egress => policy.spec.egress.iter().map(|rule| (&*rule.to, &*rule.ports)).collect(),
    };
    let side = if direction == PolicyType::Ingress { "saddr" } else { "daddr" };
    let mut all = Vec::new();
    for (peers, ports) in rules {
        let named = ports.iter().any(|port| matches!(port.port, Some(PortRef::Name(_))));
        for peer in partners(inventory, policy, peers, named && direction == PolicyType::Egress) {
            // A named port is the receiver's.
            let receiver = if direction == PolicyType::Ingress { Some(pod) } else { peer.pod };
            let place = peer.matching(side);
            if ports.is_empty() {
                all.push(place);
                continue;
            }
            let matching = ports.iter().filter_map(|port| matching(port, receiver));
            all.extend(matching.map(|port| format!("{place}{port}")));
        }
    }
    all
}

/// Somebody that a rule admits.
struct Partner<'a> {
    /// Absent: anybody.
    net: Option<String>,
    except: Vec<String>,
    pod: Option<&'a Pod>,
}

impl Partner<'_> {
    fn matching(&self, side: &str) -> String {
        let mut text = String::new();
        for (operator, net) in
            self.net.iter().map(|net| ("", net)).chain(self.except.iter().map(|net| ("!= ", net)))
        {
            write!(text, "ip {side} {operator}{net} ").expect("writing to a string cannot fail");
        }
        text
    }
}

fn partners<'a>(
    inventory: &'a Inventory,
    policy: &NetworkPolicy,
    peers: &[PolicyPeer],
    named: bool,
) -> Vec<Partner<'a>> {
    let anybody = Partner { net: None, except: Vec::new(), pod: None };
    let of = |pod: &'a Pod| Partner { net: Some(pod.ip.to_string()), except: Vec::new(), pod: Some(pod) };
    let pods = || inventory.pods.iter().filter(|pod| !pod.host_network && pod.ip.is_ipv4());
    if peers.is_empty() {
        // Anybody; and the pods one by one where their ports have names.
        return pods().filter(|_| named).map(of).chain([anybody]).collect();
    }
    let labels: BTreeMap<_, _> =
        inventory.namespaces.iter().map(|namespace| (&namespace.name, &namespace.labels)).collect();
    let empty = BTreeMap::new();
    let mut partners = Vec::new();
    for peer in peers {
        if let Some(block) = &peer.ip_block {
            if block.cidr.addr().is_ipv4() {
                let except = block.except.iter().map(ToString::to_string).collect();
                partners.push(Partner { net: Some(block.cidr.to_string()), except, pod: None });
            }
            continue;
        }
        let of_namespace = |pod: &Pod| match &peer.namespace_selector {
            Some(selector) => selects(selector, labels.get(&pod.namespace).unwrap_or(&&empty)),
            None => peer.pod_selector.is_some() && pod.namespace == policy.namespace,
        };
        let chosen = |pod: &&Pod| {
            of_namespace(pod)
                && peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
        };
        partners.extend(pods().filter(chosen).map(of));
    }
    partners
}

/// A port as the matching part of a rule; nothing if the receiver has no port of that name.
fn matching(port: &PolicyPort, receiver: Option<&Pod>) -> Option<String> {
    let protocol = match port.protocol {
        TransportProtocol::Tcp => "tcp",
        TransportProtocol::Udp => "udp",
        TransportProtocol::Sctp => "sctp",
    };
    let number = match (&port.port, port.end_port) {
        (None, _) => return Some(format!("meta l4proto {protocol} ")),
        (Some(PortRef::Number(first)), Some(last)) => format!("{first}-{last}"),
        (Some(PortRef::Number(number)), None) => number.to_string(),
        (Some(PortRef::Name(name)), _) => {
            let mut ports = receiver?.ports.iter();
            let named = |own: &&waymark_proto::ContainerPort| {
                own.name.as_ref() == Some(name) && own.protocol == port.protocol
            };
            ports.find(named)?.port.to_string()
        }
    };
    Some(format!("{protocol} dport {number} "))
}

#[cfg(test)]
mod tests {
    use waymark_proto::NetworkPolicySpec;

    use super::*;
    use crate::plan::{Cluster, Dataplane, Proxy};
    use crate::topology::Topology;

    fn inventory(spec: serde_json::Value) -> Inventory {
        let topology = Topology::default();
        let cluster = Cluster::plan("t", &topology, Dataplane::BridgeHostgw, Proxy::Iptables);
        let mut inventory = cluster.inventory();
        for pod in &mut inventory.pods {
            pod.labels.insert("app".into(), pod.name.clone());
            pod.ports = vec![waymark_proto::ContainerPort {
                name: Some("web".into()),
                port: 80,
                protocol: TransportProtocol::Tcp,
            }];
        }
        let spec: NetworkPolicySpec = serde_json::from_value(spec).unwrap();
        inventory.policies.push(NetworkPolicy { namespace: "shop".into(), name: "one".into(), spec });
        inventory
    }

    fn lines(spec: serde_json::Value, node: &str) -> Vec<String> {
        script(&inventory(spec), node, "wm-t").lines
    }

    #[test]
    fn an_isolated_pod_admits_whom_its_policy_names() {
        let spec = serde_json::json!({
            "podSelector": { "matchLabels": { "app": "pay-1" } },
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "app": "cart" } } }],
                "ports": [{ "port": "web" }, { "protocol": "UDP", "port": 1000, "endPort": 2000 }],
            }],
        });
        let lines = lines(spec.clone(), "node2");
        for line in [
            "ip daddr 10.244.2.10 jump ingress-shop/pay-1",
            "ip saddr 10.244.1.10 tcp dport 80 return comment \"shop/one\"",
            "ip saddr 10.244.1.10 udp dport 1000-2000 return comment \"shop/one\"",
            "drop comment \"shop/one\"",
        ] {
            assert!(lines.iter().any(|l| l == line), "no {line:?} in {lines:#?}");
        }
        assert!(!lines.iter().any(|line| line.contains("egress")));
        assert_eq!(self::lines(spec, "node1").len(), 2, "nothing is isolated there: the table goes");
    }

    #[test]
    fn egress_blocks_exceptions_and_named_ports() {
        let spec = serde_json::json!({
            "podSelector": { "matchLabels": { "app": "cart" } },
            "policyTypes": ["Egress"],
            "egress": [
                { "to": [{ "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.244.2.0/24"] } }] },
                { "ports": [{ "port": "web" }] },
            ],
        });
        let lines = lines(spec, "node1");
        for line in [
            "ip saddr 10.244.1.10 jump egress-shop/cart",
            "ip daddr 10.0.0.0/8 ip daddr != 10.244.2.0/24 return comment \"shop/one\"",
            "ip daddr 10.244.2.10 tcp dport 80 return comment \"shop/one\"",
        ] {
            assert!(lines.iter().any(|l| l == line), "no {line:?} in {lines:#?}");
        }
    }
}
