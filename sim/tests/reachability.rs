//! Services and whole surveys: what they answer, that they agree with a second, plain implementation, and that
//! they are fast enough for a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use waymark_proto::{
    Admission, Backend, ContainerPort, EgressRule, Expectation, Flow, IngressRule, Inventory, IpBlock,
    LabelOperator, LabelRequirement, LabelSelector, Namespace, NetworkPolicy, NetworkPolicySpec, Node, Pod,
    PolicyPeer, PolicyPort, PolicyType, PortRef, Protocol, Service, TransportProtocol,
};
use waymark_sim::{Change, Destination, Pair, Reach, Survey, Target, Traffic, intend};

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

fn backend(ip: [u8; 4], port: u16, ready: bool) -> Backend {
    Backend { pod: None, ip: ip.into(), port, ready }
}

fn service(name: &str, ip: [u8; 4], backends: Vec<Backend>) -> Service {
    Service {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        cluster_ip: ip.into(),
        port: 80,
        protocol: Protocol::Tcp,
        backends,
        port_name: None,
        selector: None,
        target_port: None,
        node_port: None,
    }
}

fn policy(name: &str, app: &str, ports: &[u16]) -> NetworkPolicy {
    let ports =
        ports.iter().map(|&port| PolicyPort { port: Some(PortRef::Number(port)), ..PolicyPort::default() });
    NetworkPolicy {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        spec: NetworkPolicySpec {
            pod_selector: LabelSelector { match_labels: labels(&[("app", app)]), ..LabelSelector::default() },
            ingress: vec![IngressRule { from: Vec::new(), ports: ports.collect() }],
            ..NetworkPolicySpec::default()
        },
    }
}

/// Two nodes; cart on the first, pay-1 and pay-2 on the second, and the Service pay that leads port 80 to
/// their ports 8080.
fn shop() -> Inventory {
    let mut pay = service(
        "pay",
        [10, 96, 0, 10],
        vec![backend([10, 1, 0, 2], 8080, true), backend([10, 1, 0, 3], 8080, true)],
    );
    pay.node_port = Some(30080);
    Inventory {
        nodes: vec![node(0), node(1)],
        pods: vec![
            pod("shop", "cart", 0, [10, 0, 0, 2]),
            pod("shop", "pay-1", 1, [10, 1, 0, 2]),
            pod("shop", "pay-2", 1, [10, 1, 0, 3]),
        ],
        services: vec![pay, service("empty", [10, 96, 0, 11], vec![backend([10, 1, 0, 2], 80, false)])],
        ..Inventory::default()
    }
}

fn tcp(src: [u8; 4], dst: [u8; 4], port: u16) -> Flow {
    Flow { src: src.into(), dst: dst.into(), protocol: Protocol::Tcp, src_port: 40000, dst_port: port }
}

const CART: [u8; 4] = [10, 0, 0, 2];
const PAY: [u8; 4] = [10, 96, 0, 10];

#[test]
fn a_service_is_judged_at_its_backends() {
    let mut inventory = shop();
    let ask = |inventory: &Inventory| intend(inventory, &tcp(CART, PAY, 80));
    let found = ask(&inventory);
    assert_eq!((found.expectation, found.receivers.len()), (Expectation::Allowed, 2));
    assert_eq!(found.service.unwrap().to_string(), "Service shop/pay");
    assert_eq!(
        (found.receivers[0].pod.as_deref(), found.receivers[0].port),
        (Some("shop/pay-1"), Some(8080))
    );
    // Policies see the pod's port, not the Service's.
    inventory.policies = vec![policy("p", "pay-1", &[80])];
    assert_eq!(ask(&inventory).expectation, Expectation::Partly);
    inventory.policies = vec![policy("p", "pay-1", &[8080])];
    assert_eq!(ask(&inventory).expectation, Expectation::Allowed);
    inventory.policies = vec![policy("p", "pay-1", &[80]), policy("q", "pay-2", &[80])];
    assert_eq!(ask(&inventory).expectation, Expectation::Denied);
}

#[test]
fn a_service_without_ready_backends_has_no_endpoints() {
    assert_eq!(intend(&shop(), &tcp(CART, [10, 96, 0, 11], 80)).expectation, Expectation::NoEndpoints);
}

#[test]
fn what_a_service_does_not_offer_is_not_judged() {
    let reason = |flow: &Flow| {
        let mut found = intend(&shop(), flow);
        assert_eq!(found.expectation, Expectation::Unknown);
        match found.receivers.remove(0).admission {
            Admission::Unknown { why } => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason(&tcp(CART, PAY, 81)), "Service shop/pay has no port 81/tcp");
    let ping = Flow { protocol: Protocol::Icmp, ..tcp(CART, PAY, 7) };
    assert!(reason(&ping).contains("10.96.0.10 is the cluster IP of Service shop/pay"));
}

#[test]
fn a_node_port_may_hide_the_source() {
    let mut inventory = shop();
    let ask = |inventory: &Inventory, node: u8| intend(inventory, &tcp(CART, [192, 168, 0, node], 30080));
    assert_eq!(ask(&inventory, 1).expectation, Expectation::Allowed);
    inventory.policies = vec![policy("p", "pay-1", &[80]), policy("p2", "pay-2", &[80])];
    // Denied whoever the source is, but for the backends' own node.
    assert_eq!(ask(&inventory, 1).expectation, Expectation::Denied);
    let found = ask(&inventory, 2);
    assert_eq!(found.expectation, Expectation::Unknown);
    assert_eq!(found.service.unwrap().name, "pay");
    // An egress policy sees the address of another node, and the backends behind its own.
    let pays = LabelSelector {
        match_expressions: vec![LabelRequirement {
            key: "app".to_owned(),
            operator: LabelOperator::In,
            values: vec!["pay-1".to_owned(), "pay-2".to_owned()],
        }],
        ..LabelSelector::default()
    };
    let peer = PolicyPeer { pod_selector: Some(pays), ..PolicyPeer::default() };
    inventory.policies = vec![NetworkPolicy {
        namespace: "shop".to_owned(),
        name: "egress".to_owned(),
        spec: NetworkPolicySpec {
            policy_types: vec![PolicyType::Egress],
            egress: vec![EgressRule { to: vec![peer], ports: Vec::new() }],
            ..NetworkPolicySpec::default()
        },
    }];
    assert_eq!(ask(&inventory, 1).expectation, Expectation::Allowed, "its own node");
    assert_eq!(ask(&inventory, 2).expectation, Expectation::Unknown, "another node");
}

fn pair(from: &str, target: Target, port: u16) -> Pair {
    let traffic = Traffic::Port(TransportProtocol::Tcp, port);
    Pair {
        namespace: "shop".to_owned(),
        pod: from.to_owned(),
        destination: Destination { namespace: "shop".to_owned(), target, traffic },
    }
}

#[test]
fn a_survey_tells_what_a_change_makes() {
    let before = shop();
    let mut after = before.clone();
    after.policies = vec![policy("p", "pay-1", &[80, 9999])];
    after.services[1].backends[0].ready = true;
    let namespaces = BTreeSet::from(["shop".to_owned()]);
    let survey = Survey::new(&[&before, &after], &namespaces);
    let (was, is) = (survey.reachability(&before), survey.reachability(&after));
    // Ports that Services lead to and rules name are looked at, though no pod declares any.
    assert_eq!(was.get(&pair("cart", Target::Pod("pay-1".into()), 80)), Reach::Allowed);
    assert_eq!(was.get(&pair("cart", Target::Pod("pay-1".into()), 8080)), Reach::Allowed);
    assert_eq!(was.get(&pair("cart", Target::Service("empty".into()), 80)), Reach::NoEndpoints);
    let changes: Vec<String> = was.changes(&is).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "pod/shop/cart → pod/shop/pay-1 8080/tcp: allowed → denied",
            "pod/shop/cart → svc/shop/empty 80/tcp: no endpoints → allowed",
            "pod/shop/cart → svc/shop/pay 80/tcp: allowed → partly allowed",
            "pod/shop/pay-1 → svc/shop/empty 80/tcp: no endpoints → allowed",
            "pod/shop/pay-2 → pod/shop/pay-1 8080/tcp: allowed → denied",
            "pod/shop/pay-2 → svc/shop/empty 80/tcp: no endpoints → allowed",
            "pod/shop/pay-2 → svc/shop/pay 80/tcp: allowed → partly allowed",
        ]
    );
    assert!(was.changes(&was).is_empty());
    // Surveys of another shape are compared pair by pair.
    let alone = Survey::new(&[&before], &namespaces).reachability(&before);
    let gone: Vec<Change> = alone.changes(&is);
    assert!(gone.iter().all(|change| change.before != change.after));
    assert!(gone.iter().any(|change| change.before == Reach::Absent && change.after == Reach::Allowed));
    let mut without = before.clone();
    without.pods.remove(2);
    assert_eq!(
        survey.reachability(&without).get(&pair("pay-2", Target::Pod("pay-1".into()), 80)),
        Reach::Absent
    );
}

#[test]
fn a_large_survey_is_fast() {
    let namespaces: Vec<String> = (0..10).map(|n| format!("ns{n}")).collect();
    let mut inventory = Inventory { nodes: (0..10).map(node).collect(), ..Inventory::default() };
    for (n, namespace) in namespaces.iter().enumerate() {
        inventory.namespaces.push(Namespace {
            name: namespace.clone(),
            labels: labels(&[("team", if n % 2 == 0 { "a" } else { "b" })]),
        });
        for p in 0..30_u8 {
            let mut pod = pod(namespace, &format!("p{p}"), p % 10, [10, p % 10, n as u8, 10 + p]);
            pod.labels.insert("tier".into(), ["front", "back", "data"][usize::from(p) % 3].into());
            pod.ports.push(ContainerPort {
                name: Some("http".into()),
                port: 8080,
                protocol: TransportProtocol::Tcp,
            });
            inventory.pods.push(pod);
        }
        for tier in ["front", "back", "data"] {
            let peer = PolicyPeer {
                namespace_selector: Some(LabelSelector {
                    match_labels: labels(&[("team", "a")]),
                    ..LabelSelector::default()
                }),
                pod_selector: Some(LabelSelector {
                    match_labels: labels(&[("tier", "front")]),
                    ..LabelSelector::default()
                }),
                ip_block: None,
            };
            let mut policy = policy(tier, "", &[]);
            policy.namespace.clone_from(namespace);
            policy.spec.pod_selector.match_labels = labels(&[("tier", tier)]);
            policy.spec.ingress[0].from = vec![peer];
            policy.spec.ingress[0].ports =
                vec![PolicyPort { port: Some(PortRef::Name("http".into())), ..PolicyPort::default() }];
            inventory.policies.push(policy);
        }
    }
    let survey = Survey::new(&[&inventory], &namespaces.into_iter().collect());
    assert_eq!(survey.len(), 300 * 300);
    let start = Instant::now();
    let reachability = survey.reachability(&inventory);
    let took = start.elapsed();
    let allowed = reachability.pairs().filter(|(_, reach)| *reach == Reach::Allowed).count();
    // 50 of 300 pods are front pods of team a; the other 250 reach themselves alone.
    assert_eq!(allowed, 50 * 300 + 250);
    // Not optimised it takes a tenth of that; the limit is for machines that do other things as well.
    assert!(took < Duration::from_secs(5), "{took:?}");
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
