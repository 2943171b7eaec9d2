//! Services and whole surveys: what they answer, and that they are fast enough for a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use waymark_proto::{
    Admission, Backend, ContainerPort, EgressRule, Expectation, Flow, IngressRule, Inventory, LabelOperator,
    LabelRequirement, LabelSelector, Namespace, NetworkPolicy, NetworkPolicySpec, Node, Pod, PolicyPeer,
    PolicyPort, PolicyType, PortRef, Protocol, Service, TrafficPolicy, TransportProtocol,
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
        external_ips: Vec::new(),
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
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

/// The shop with another pay-0 on cart's node, if it is there.
fn shop_of_locals(near: bool) -> Inventory {
    let mut inventory = shop();
    inventory.services[0].internal_traffic_policy = TrafficPolicy::Local;
    if near {
        inventory.pods.push(pod("shop", "pay-0", 0, [10, 0, 0, 3]));
        inventory.services[0].backends.push(backend([10, 0, 0, 3], 8080, true));
    }
    inventory
}

#[test]
fn an_internal_traffic_policy_lets_the_sources_node_count() {
    let ask = |inventory: &Inventory, src| {
        let found = intend(inventory, &tcp(src, PAY, 80));
        let pods: Vec<String> = found.receivers.iter().filter_map(|receiver| receiver.pod.clone()).collect();
        let only = found.local_only.map(|only| format!("{} {}", only.policy, only.node));
        (found.expectation, pods, only)
    };
    let only = |node: &str| Some(format!("internalTrafficPolicy {node}"));
    let none = (Expectation::NoEndpoints, vec![], only("n0"));
    assert_eq!(ask(&shop_of_locals(false), CART), none);
    assert_eq!(ask(&shop_of_locals(false), [192, 168, 0, 1]), none, "a node's own packets, too");
    let near = vec!["shop/pay-0".to_owned()];
    assert_eq!(ask(&shop_of_locals(true), CART), (Expectation::Allowed, near, only("n0")));
    let own = vec!["shop/pay-1".to_owned(), "shop/pay-2".to_owned()];
    assert_eq!(ask(&shop_of_locals(true), [10, 1, 0, 2]), (Expectation::Allowed, own, only("n1")));
    assert_eq!(ask(&shop_of_locals(true), [203, 0, 113, 1]).1.len(), 3, "of no node");
    // A Service without any is one without endpoints, whatever its policy.
    let mut dead = shop_of_locals(false);
    dead.services[0].backends.clear();
    assert_eq!(ask(&dead, CART), (Expectation::NoEndpoints, vec![], None));
    // Surveys answer alike.
    for inventory in [shop_of_locals(false), shop_of_locals(true)] {
        let survey = Survey::new(&[&inventory], &BTreeSet::from(["shop".to_owned()]));
        let reachability = survey.reachability(&inventory);
        for from in ["cart", "pay-1"] {
            let pair = pair(from, Target::Service("pay".into()), 80);
            let source = inventory.pod("shop", from).unwrap().ip;
            let flow = Flow { src: source, ..tcp(CART, PAY, 80) };
            let explained = Survey::explain(&inventory, &pair).unwrap();
            assert_eq!(explained, intend(&inventory, &flow));
            assert_eq!(Reach::from(explained.expectation), reachability.get(&pair));
        }
    }
}

#[test]
fn an_external_traffic_policy_lets_the_ports_node_count() {
    let mut inventory = shop();
    inventory.services[0].external_traffic_policy = TrafficPolicy::Local;
    let ask = |src, node: u8| {
        let found = intend(&inventory, &tcp(src, [192, 168, 0, node], 30080));
        (found.expectation, found.local_only.map(|only| format!("{} {}", only.policy, only.node)))
    };
    let only = |node: &str| Some(format!("externalTrafficPolicy {node}"));
    assert_eq!(ask([203, 0, 113, 1], 1), (Expectation::NoEndpoints, only("n0")));
    assert_eq!(ask([203, 0, 113, 1], 2), (Expectation::Allowed, only("n1")));
    assert_eq!(ask([192, 168, 0, 2], 1), (Expectation::NoEndpoints, only("n0")));
    assert_eq!(ask([192, 168, 0, 1], 1), (Expectation::Allowed, None), "what the node itself sends");
    assert_eq!(intend(&inventory, &tcp(CART, PAY, 80)).local_only, None, "the other policy's affair");
}

#[test]
fn an_address_from_outside_leads_to_its_service() {
    let balancer = [192, 0, 2, 7];
    let mut inventory = shop();
    inventory.services[0].external_ips = vec![balancer.into()];
    inventory.services[0].external_traffic_policy = TrafficPolicy::Local;
    let found = intend(&inventory, &tcp(CART, balancer, 80));
    assert_eq!((found.expectation, found.receivers.len()), (Expectation::Allowed, 2));
    assert_eq!((found.service.unwrap().name.as_str(), found.local_only), ("pay", None));
    let elsewhere = intend(&inventory, &tcp(CART, balancer, 81));
    assert_eq!(
        (elsewhere.service, elsewhere.receivers.len()),
        (None, 1),
        "another port is not the Service's"
    );
    // The backends may see the node's address: a policy that tells it from the pod's leaves it open.
    let from = PolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: labels(&[("app", "cart")]),
            ..LabelSelector::default()
        }),
        ..PolicyPeer::default()
    };
    inventory.policies = vec![policy("p", "pay-1", &[8080])];
    inventory.policies[0].spec.ingress[0].from = vec![from];
    let found = intend(&inventory, &tcp(CART, balancer, 80));
    assert_eq!(found.expectation, Expectation::Unknown);
    let Admission::Unknown { why } = &found.receivers[0].admission else { panic!("{found:?}") };
    assert!(why.contains("192.0.2.7 or node n0 in place of 10.0.0.2"), "{why}");
    inventory.policies = vec![policy("p", "pay-1", &[80]), policy("q", "pay-2", &[80])];
    assert_eq!(intend(&inventory, &tcp(CART, balancer, 80)).expectation, Expectation::Denied);
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
