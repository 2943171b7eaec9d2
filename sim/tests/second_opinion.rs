//! NetworkPolicies against a second, plain implementation, with random policies on random pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use waymark_proto::{
    ContainerPort, EgressRule, IngressRule, Inventory, IpBlock, LabelOperator, LabelRequirement,
    LabelSelector, Namespace, NetworkPolicy, NetworkPolicySpec, Node, Pod, PolicyPeer, PolicyPort,
    PolicyType, PortRef, TransportProtocol,
};
use waymark_sim::{Reach, Survey, Target, Traffic};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn node(index: u8) -> Node {
    let json =
        format!(r#"{{"name":"n{index}","ip":"192.168.0.{}","podCidr":"10.{index}.0.0/16"}}"#, index + 1);
    serde_json::from_str(&json).unwrap()
}

fn pod(namespace: &str, name: &str, node: u8, ip: [u8; 4]) -> Pod {
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        node: format!("n{node}").into(),
        netns: format!("{namespace}-{name}").into(),
        ip: ip.into(),
        ip6: None,
        device: None,
        host_device: None,
        labels: labels(&[("app", name)]),
        ports: Vec::new(),
        host_network: false,
    }
}

/// A small world for random policies.
const APPS: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 3] = [80, 81, 90];

fn selector() -> impl Strategy<Value = LabelSelector> {
    let operator = prop_oneof![
        Just(LabelOperator::In),
        Just(LabelOperator::NotIn),
        Just(LabelOperator::Exists),
        Just(LabelOperator::DoesNotExist)
    ];
    let key = prop::sample::select(vec!["app", "tier"]);
    let value = prop::sample::select(APPS.to_vec());
    let requirement = (key.clone(), operator, prop::collection::vec(value.clone(), 1..3)).prop_map(
        |(key, operator, values)| {
            let plain = matches!(operator, LabelOperator::Exists | LabelOperator::DoesNotExist);
            let values = if plain { Vec::new() } else { values.into_iter().map(str::to_owned).collect() };
            LabelRequirement { key: key.to_owned(), operator, values }
        },
    );
    let labels =
        prop::collection::btree_map(key.prop_map(str::to_owned), value.prop_map(str::to_owned), 0..2);
    (labels, prop::collection::vec(requirement, 0..2))
        .prop_map(|(match_labels, match_expressions)| LabelSelector { match_labels, match_expressions })
}

fn peer() -> impl Strategy<Value = PolicyPeer> {
    let block = (0_u8..3, prop::option::of(0_u8..3)).prop_map(|(net, but)| IpBlock {
        cidr: format!("10.{net}.0.0/15").parse().unwrap(),
        except: but.map(|net| format!("10.{net}.0.0/24").parse().unwrap()).into_iter().collect(),
    });
    prop_oneof![
        3 => (prop::option::of(selector()), prop::option::of(selector())).prop_map(|(pods, namespaces)| PolicyPeer {
            pod_selector: pods,
            namespace_selector: namespaces,
            ip_block: None
        }),
        1 => block.prop_map(|block| PolicyPeer { ip_block: Some(block), ..PolicyPeer::default() }),
    ]
}

fn port() -> impl Strategy<Value = PolicyPort> {
    let protocol = prop_oneof![
        Just(TransportProtocol::Tcp),
        Just(TransportProtocol::Udp),
        Just(TransportProtocol::Sctp)
    ];
    let port = prop_oneof![
        Just((None, None)),
        prop::sample::select(PORTS.to_vec()).prop_map(|port| (Some(PortRef::Number(port)), None)),
        (79_u16..92, 79_u16..92).prop_map(|(a, b)| (Some(PortRef::Number(a.min(b))), Some(a.max(b)))),
        prop::sample::select(vec!["http", "dns"])
            .prop_map(|name| (Some(PortRef::Name(name.to_owned())), None)),
    ];
    (protocol, port).prop_map(|(protocol, (port, end_port))| PolicyPort { protocol, port, end_port })
}

fn spec() -> impl Strategy<Value = NetworkPolicySpec> {
    let types = prop::sample::subsequence(vec![PolicyType::Ingress, PolicyType::Egress], 0..=2);
    let rule = || (prop::collection::vec(peer(), 0..3), prop::collection::vec(port(), 0..3));
    let rules = || prop::collection::vec(rule(), 0..3);
    (selector(), types, rules(), rules()).prop_map(|(pod_selector, policy_types, ingress, egress)| {
        NetworkPolicySpec {
            pod_selector,
            policy_types,
            ingress: ingress.into_iter().map(|(from, ports)| IngressRule { from, ports }).collect(),
            egress: egress.into_iter().map(|(to, ports)| EgressRule { to, ports }).collect(),
        }
    })
}

/// Namespace, node, labels `app` and `tier`, declared ports: index of the name, number, whether UDP.
type RandomPod = (u8, u8, Option<&'static str>, Option<&'static str>, Vec<(usize, u16, bool)>);

fn world() -> impl Strategy<Value = Inventory> {
    let label = || prop::option::of(prop::sample::select(APPS.to_vec()));
    let declared =
        prop::collection::vec((0_usize..2, prop::sample::select(PORTS.to_vec()), any::<bool>()), 0..3);
    let pods = prop::collection::vec((0_u8..2, 0_u8..3, label(), label(), declared), 2..7);
    let namespaces = prop::collection::vec((label(), label()), 2);
    let policies = prop::collection::vec((0_u8..2, spec()), 0..5);
    (pods, namespaces, policies).prop_map(|(pods, namespaces, policies)| {
        let tags = |app: Option<&str>, tier: Option<&str>| {
            let both = [("app", app), ("tier", tier)];
            both.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect()
        };
        let pod = |(index, (namespace, node, app, tier, declared)): (usize, RandomPod)| {
            let mut pod = pod(
                &format!("ns{namespace}"),
                &format!("p{index}"),
                node,
                [10, node, index as u8 % 2, 10 + index as u8],
            );
            pod.labels = tags(app, tier);
            pod.ports = declared
                .into_iter()
                .map(|(name, port, udp)| ContainerPort {
                    name: Some(["http", "dns"][name].to_owned()),
                    port,
                    protocol: if udp { TransportProtocol::Udp } else { TransportProtocol::Tcp },
                })
                .collect();
            pod
        };
        Inventory {
            nodes: (0..3).map(node).collect(),
            pods: pods.into_iter().enumerate().map(pod).collect(),
            namespaces: namespaces
                .into_iter()
                .enumerate()
                .map(|(index, (app, tier))| Namespace { name: format!("ns{index}"), labels: tags(app, tier) })
                .collect(),
            policies: policies
                .into_iter()
                .enumerate()
                .map(|(index, (namespace, spec))| NetworkPolicy {
                    namespace: format!("ns{namespace}"),
                    name: format!("np{index}"),
                    spec,
                })
                .collect(),
            ..Inventory::default()
        }
    })
}

/// The plain implementation: every policy is written out as the list of all that it admits, and what no list of
/// an isolated pod has is denied.
mod plain {
    use super::*;

    /// Source, destination, protocol and port.
    type Admitted = BTreeSet<(String, String, TransportProtocol, u16)>;

    fn fits(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
        for (key, value) in &selector.match_labels {
            if labels.get(key) != Some(value) {
                return false;
            }
        }
        for requirement in &selector.match_expressions {
            let there = labels.contains_key(&requirement.key);
            let listed = requirement.values.iter().any(|value| labels.get(&requirement.key) == Some(value));
            let good = match requirement.operator {
                LabelOperator::In => there && listed,
                LabelOperator::NotIn => !there || !listed,
                LabelOperator::Exists => there,
                LabelOperator::DoesNotExist => !there,
            };
            if !good {
                return false;
            }
        }
        true
    }

    fn inside(net: &str, ip: IpAddr) -> bool {
        let (base, length) = net.split_once('/').unwrap();
        let bits = |ip: Ipv4Addr| u32::from_be_bytes(ip.octets());
        let shift = 32 - length.parse::<u32>().unwrap();
        let IpAddr::V4(ip) = ip else { return false };
        bits(ip) >> shift == bits(base.parse().unwrap()) >> shift
    }

    fn peers(world: &Inventory, namespace: &str, peers: &[PolicyPeer]) -> Vec<Pod> {
        let mut found = Vec::new();
        for pod in &world.pods {
            let empty = BTreeMap::new();
            let of =
                world.namespaces.iter().find(|ns| ns.name == pod.namespace).map_or(&empty, |ns| &ns.labels);
            let matched = peers.iter().any(|peer| {
                match (&peer.pod_selector, &peer.namespace_selector, &peer.ip_block) {
                    (_, _, Some(block)) => {
                        inside(&block.cidr.to_string(), pod.ip)
                            && !block.except.iter().any(|but| inside(&but.to_string(), pod.ip))
                    }
                    (Some(pods), Some(namespaces), None) => fits(namespaces, of) && fits(pods, &pod.labels),
                    (Some(pods), None, None) => pod.namespace == namespace && fits(pods, &pod.labels),
                    (None, Some(namespaces), None) => fits(namespaces, of),
                    (None, None, None) => false,
                }
            });
            if peers.is_empty() || matched {
                found.push(pod.clone());
            }
        }
        found
    }

    fn ports(wanted: &[PolicyPort], receiver: &Pod) -> Vec<(TransportProtocol, u16)> {
        let mut found = Vec::new();
        for protocol in [TransportProtocol::Tcp, TransportProtocol::Udp, TransportProtocol::Sctp] {
            for number in 70..100 {
                let named = |name: &str| {
                    receiver.ports.iter().any(|port| {
                        port.name.as_deref() == Some(name) && port.port == number && port.protocol == protocol
                    })
                };
                let meant = wanted.iter().any(|port| {
                    port.protocol == protocol
                        && match (&port.port, port.end_port) {
                            (None, _) => true,
                            (Some(PortRef::Number(first)), last) => {
                                *first <= number && number <= last.unwrap_or(*first)
                            }
                            (Some(PortRef::Name(name)), _) => named(name),
                        }
                });
                if wanted.is_empty() || meant {
                    found.push((protocol, number));
                }
            }
        }
        found
    }

    /// What a pod's policies of a direction admit; nothing said if none isolates it.
    fn admitted(world: &Inventory, pod: &Pod, direction: PolicyType) -> Option<Admitted> {
        let mut isolated = false;
        let mut admitted = Admitted::new();
        for policy in world.policies.iter().filter(|policy| policy.namespace == pod.namespace) {
            let types = &policy.spec.policy_types;
            let concerned = types.contains(&direction)
                || types.is_empty() && (direction == PolicyType::Ingress || !policy.spec.egress.is_empty());
            if !concerned || !fits(&policy.spec.pod_selector, &pod.labels) {
                continue;
            }
            isolated = true;
            let rules: Vec<(&[PolicyPeer], &[PolicyPort])> = match direction {
                PolicyType::Ingress => {
                    policy.spec.ingress.iter().map(|r| (&r.from[..], &r.ports[..])).collect()
                }
                PolicyType::Egress => policy.spec.egress.iter().map(|r| (&r.to[..], &r.ports[..])).collect(),
            };
            for (others, wanted) in rules {
                for other in peers(world, &policy.namespace, others) {
                    let (source, receiver) = match direction {
                        PolicyType::Ingress => (&other, pod),
                        PolicyType::Egress => (pod, &other),
                    };
                    for (protocol, port) in ports(wanted, receiver) {
                        admitted.insert((source.full_name(), receiver.full_name(), protocol, port));
                    }
                }
            }
        }
        isolated.then_some(admitted)
    }

    pub(super) fn allowed(
        world: &Inventory,
        source: &Pod,
        receiver: &Pod,
        protocol: TransportProtocol,
        port: u16,
    ) -> bool {
        let flow = (source.full_name(), receiver.full_name(), protocol, port);
        source.full_name() == receiver.full_name()
            || [(source, PolicyType::Egress), (receiver, PolicyType::Ingress)]
                .into_iter()
                .all(|(pod, direction)| admitted(world, pod, direction).is_none_or(|all| all.contains(&flow)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn two_implementations_agree(world in world()) {
        let namespaces = BTreeSet::from(["ns0".to_owned(), "ns1".to_owned()]);
        let survey = Survey::new(&[&world], &namespaces);
        let mut compared = 0;
        for (pair, reach) in survey.reachability(&world).pairs() {
            let Traffic::Port(protocol, number) = pair.destination.traffic else { continue };
            let Target::Pod(name) = &pair.destination.target else { continue };
            let source = world.pod(&pair.namespace, &pair.pod).unwrap();
            let receiver = world.pod(&pair.destination.namespace, name).unwrap();
            let wanted = if plain::allowed(&world, source, receiver, protocol, number) { Reach::Allowed } else { Reach::Denied };
            prop_assert_eq!(reach, wanted, "{}", pair);
            compared += 1;
        }
        prop_assume!(compared > 0);
    }
}
