//! NetworkPolicies against tables: the cases of upstream's end-to-end suite (`test/e2e/network/netpol`) and of
//! the well-known recipes, and what the API's documentation says of the rest.
//!
//! Three namespaces x, y, z with the pods a, b, c each; every pod serves ports 80 and 81 of TCP, UDP and SCTP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};
use waymark_proto::{
    Admission, Exemption, Expectation, Flow, Inventory, PolicyType, Protocol, TransportProtocol,
};
use waymark_sim::{Destination, Pair, Reach, Survey, Target, Traffic, intend};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];

fn address(namespace: &str, pod: &str) -> IpAddr {
    let at = |names: [&str; 3], name| names.iter().position(|other| *other == name).unwrap() as u8;
    IpAddr::from([10, 1, at(PODS, pod), 10 + at(NAMESPACES, namespace)])
}

/// A cluster with these policies: namespace and spec, as YAML has them.
fn cluster(policies: &[(&str, Value)]) -> Inventory {
    let nodes = (0..3).map(|n| {
        json!({"name": format!("n{n}"), "ip": format!("192.168.0.{}", n + 1), "podCidr": format!("10.1.{n}.0/24")})
    });
    let mut pods = Vec::new();
    for namespace in NAMESPACES {
        for (index, pod) in PODS.into_iter().enumerate() {
            let port = |port: u16, protocol: &str| {
                let name = format!("serve-{port}-{}", protocol.to_lowercase());
                json!({"name": name, "port": port, "protocol": protocol})
            };
            let ports: Vec<Value> =
                ["TCP", "UDP", "SCTP"].iter().flat_map(|p| [port(80, p), port(81, p)]).collect();
            pods.push(json!({
                "namespace": namespace, "name": pod, "node": format!("n{index}"), "netns": format!("{namespace}{pod}"),
                "ip": address(namespace, pod), "labels": {"pod": pod}, "ports": ports,
            }));
        }
    }
    let policies = policies.iter().enumerate().map(|(index, (namespace, spec))| {
        json!({"namespace": namespace, "name": format!("p{index}"), "spec": spec})
    });
    let namespaces = NAMESPACES.map(|name| json!({"name": name, "labels": {"ns": name}}));
    let inventory = json!({
        "nodes": nodes.collect::<Vec<_>>(), "pods": pods, "namespaces": namespaces,
        "policies": policies.collect::<Vec<_>>(),
    });
    Inventory::from_json(inventory.to_string().as_bytes()).unwrap()
}

const TCP80: Traffic = Traffic::Port(TransportProtocol::Tcp, 80);
const TCP81: Traffic = Traffic::Port(TransportProtocol::Tcp, 81);
const UDP80: Traffic = Traffic::Port(TransportProtocol::Udp, 80);
const SCTP80: Traffic = Traffic::Port(TransportProtocol::Sctp, 80);

/// Whether a rule such as `x/* y/a` covers a pair.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.split_once('/') {
        None => true,
        Some((namespace, pod)) => {
            let (of, named) = name.split_once('/').unwrap();
            (namespace == "*" || namespace == of) && (pod == "*" || pod == named)
        }
    }
}

/// Compares all pairs with a table: all is allowed, but for lines `- SOURCE DESTINATION`, but for later
/// lines `+ SOURCE DESTINATION`, and so on. A pod always reaches itself.
#[track_caller]
fn expect(inventory: &Inventory, traffic: Traffic, table: &[&str]) {
    let namespaces: BTreeSet<String> = NAMESPACES.map(str::to_owned).into();
    let reachability = Survey::new(&[inventory], &namespaces).reachability(inventory);
    let names = || NAMESPACES.iter().flat_map(|ns| PODS.map(|pod| format!("{ns}/{pod}")));
    let mut wrong = Vec::new();
    for source in names() {
        for destination in names() {
            let mut wanted = true;
            for line in table {
                let words: Vec<&str> = line.split_whitespace().collect();
                if covers(words[1], &source) && covers(words[2], &destination) {
                    wanted = words[0] == "+";
                }
            }
            let wanted = wanted || source == destination;
            let [(src_ns, src), (dst_ns, dst)] =
                [&source, &destination].map(|name| name.split_once('/').unwrap());
            let target = Target::Pod(dst.to_owned());
            let destination = Destination { namespace: dst_ns.to_owned(), target, traffic };
            let pair = Pair { namespace: src_ns.to_owned(), pod: src.to_owned(), destination };
            let reach = reachability.get(&pair);
            if reach != if wanted { Reach::Allowed } else { Reach::Denied } {
                wrong.push(format!("{pair}: {reach}"));
            }
            let explained = Survey::explain(inventory, &pair).unwrap();
            assert_eq!(Reach::from(explained.expectation), reach, "{pair}: {explained:?}");
            if let Some(flow) = flow(address(src_ns, src), address(dst_ns, dst), traffic) {
                assert_eq!(intend(inventory, &flow), explained, "{pair}");
            }
        }
    }
    assert!(wrong.is_empty(), "{traffic} {table:?}\n{}", wrong.join("\n"));
}

fn flow(src: IpAddr, dst: IpAddr, traffic: Traffic) -> Option<Flow> {
    let (protocol, port) = match traffic {
        Traffic::Icmp => (Protocol::Icmp, 7),
        Traffic::Port(TransportProtocol::Tcp, port) => (Protocol::Tcp, port),
        Traffic::Port(TransportProtocol::Udp, port) => (Protocol::Udp, port),
        Traffic::Port(TransportProtocol::Sctp, _) => return None,
    };
    Some(Flow { src, dst, protocol, src_port: 40000, dst_port: port })
}

fn tcp(src: &str, dst: IpAddr, port: u16) -> Flow {
    Flow { src: src.parse().unwrap(), dst, protocol: Protocol::Tcp, src_port: 40000, dst_port: port }
}

fn pod(name: &str) -> Value {
    json!({"matchLabels": {"pod": name}})
}

fn ns(name: &str) -> Value {
    json!({"matchLabels": {"ns": name}})
}

fn not_ns(name: &str) -> Value {
    json!({"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": [name]}]})
}

#[test]
fn default_deny() {
    let ingress = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    expect(&cluster(&[("x", ingress)]), TCP80, &["- * x/*"]);
    let all = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    expect(&cluster(&[("x", all)]), TCP80, &["- * x/*", "- x/* *"]);
    let egress = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    expect(&cluster(&[("x", egress)]), TCP80, &["- x/* *"]);
    let egress_of_a = json!({"podSelector": pod("a"), "policyTypes": ["Egress"]});
    expect(&cluster(&[("x", egress_of_a)]), TCP80, &["- x/a *"]);
    let labelled = json!({"podSelector": {"matchLabels": {"target": "isolated"}}});
    expect(&cluster(&[("x", labelled)]), TCP80, &[]);
}

#[test]
fn policy_types_have_defaults() {
    expect(&cluster(&[("x", json!({}))]), TCP80, &["- * x/*"]);
    let with_egress = json!({"egress": [{"to": [{"namespaceSelector": ns("y")}]}]});
    expect(&cluster(&[("x", with_egress)]), TCP80, &["- * x/*", "- x/* *", "+ x/* y/*"]);
    let only_egress =
        json!({"policyTypes": ["Egress"], "egress": [{"to": [{"namespaceSelector": ns("y")}]}]});
    expect(&cluster(&[("x", only_egress)]), TCP80, &["- x/* *", "+ x/* y/*"]);
    // Rules of a direction in which it does not isolate mean nothing.
    let idle = json!({"policyTypes": ["Egress"], "ingress": [{"from": [{"podSelector": pod("b")}]}], "egress": [{}]});
    expect(&cluster(&[("x", idle)]), TCP80, &[]);
}

#[test]
fn peers_by_pod_selector() {
    let of = |from: Value| cluster(&[("x", json!({"podSelector": pod("a"), "ingress": [{"from": from}]}))]);
    expect(&of(json!([{"podSelector": pod("b")}])), TCP80, &["- * x/a", "+ x/b x/a"]);
    let any = json!([{"podSelector": pod("b")}, {"podSelector": pod("c")}]);
    expect(&of(any), TCP80, &["- * x/a", "+ x/b x/a", "+ x/c x/a"]);
    let expression =
        json!([{"podSelector": {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["b"]}]}}]);
    expect(&of(expression), TCP80, &["- * x/a", "+ x/b x/a"]);
    // An empty selector selects all pods of the policy's own namespace, and no others.
    expect(&of(json!([{"podSelector": {}}])), TCP80, &["- * x/a", "+ x/* x/a"]);
    let own = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]});
    expect(&cluster(&[("x", own)]), TCP80, &["- y/* x/*", "- z/* x/*"]);
}

#[test]
fn peers_by_namespace_selector() {
    let of = |from: Value| cluster(&[("x", json!({"podSelector": pod("a"), "ingress": [{"from": from}]}))]);
    expect(&of(json!([{"namespaceSelector": {}}])), TCP80, &[]);
    expect(&of(json!([{"namespaceSelector": ns("y")}])), TCP80, &["- * x/a", "+ y/* x/a"]);
    let expression = json!([{"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "In", "values": ["y"]}]}}]);
    expect(&of(expression), TCP80, &["- * x/a", "+ y/* x/a"]);
    // Two peers: either. One peer with two selectors: both.
    let either = json!([{"namespaceSelector": not_ns("x")}, {"podSelector": pod("b")}]);
    expect(&of(either), TCP80, &["- x/c x/a"]);
    let both = json!([{"namespaceSelector": not_ns("x"), "podSelector": pod("b")}]);
    expect(&of(both), TCP80, &["- * x/a", "+ y/b x/a", "+ z/b x/a"]);
    let several = json!([{"namespaceSelector": not_ns("x"),
        "podSelector": {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["b", "c"]}]}}]);
    expect(&of(several), TCP80, &["- * x/a", "+ y/b x/a", "+ y/c x/a", "+ z/b x/a", "+ z/c x/a"]);
}

#[test]
fn expressions_on_labels_that_are_absent() {
    let of = |operator: &str, values: Value| {
        let mut requirement = json!({"key": "tier", "operator": operator});
        if values != json!([]) {
            requirement["values"] = values;
        }
        let selector = json!({"matchExpressions": [requirement]});
        let mut inventory = cluster(&[(
            "x",
            json!({"podSelector": pod("a"), "ingress": [{"from": [{"podSelector": selector}]}]}),
        )]);
        inventory.pods[1].labels.insert("tier".into(), "front".into());
        inventory
    };
    assert_eq!(of("Exists", json!([])).pods[1].full_name(), "x/b");
    expect(&of("NotIn", json!(["front"])), TCP80, &["- * x/a", "+ x/c x/a"]);
    expect(&of("NotIn", json!(["back"])), TCP80, &["- * x/a", "+ x/b x/a", "+ x/c x/a"]);
    expect(&of("In", json!(["front", "back"])), TCP80, &["- * x/a", "+ x/b x/a"]);
    expect(&of("Exists", json!([])), TCP80, &["- * x/a", "+ x/b x/a"]);
    expect(&of("DoesNotExist", json!([])), TCP80, &["- * x/a", "+ x/c x/a"]);
}

#[test]
fn a_namespace_that_is_not_known_has_no_labels() {
    let by = |selector: Value| {
        let mut inventory = cluster(&[(
            "x",
            json!({"podSelector": pod("a"), "ingress": [{"from": [{"namespaceSelector": selector}]}]}),
        )]);
        inventory.namespaces.retain(|namespace| namespace.name != "z");
        inventory
    };
    expect(&by(not_ns("x")), TCP80, &["- x/* x/a"]);
    expect(&by(ns("z")), TCP80, &["- * x/a"]);
}

#[test]
fn ports_and_protocols() {
    let of = |ports: Value| {
        cluster(&[(
            "x",
            json!({"podSelector": pod("a"), "ingress": [{"from": [{"namespaceSelector": ns("y")}], "ports": ports}]}),
        )])
    };
    let by_number = of(json!([{"port": 81, "protocol": "TCP"}]));
    expect(&by_number, TCP81, &["- * x/a", "+ y/* x/a"]);
    expect(&by_number, TCP80, &["- * x/a"]);
    // The protocol is TCP by default, and without a port all ports of it are meant.
    let default = of(json!([{"port": 80}]));
    expect(&default, TCP80, &["- * x/a", "+ y/* x/a"]);
    expect(&default, UDP80, &["- * x/a"]);
    let any_port = of(json!([{"protocol": "UDP"}]));
    expect(&any_port, UDP80, &["- * x/a", "+ y/* x/a"]);
    expect(&any_port, TCP80, &["- * x/a"]);
    let sctp = of(json!([{"protocol": "SCTP", "port": 80}]));
    expect(&sctp, SCTP80, &["- * x/a", "+ y/* x/a"]);
    expect(&sctp, TCP80, &["- * x/a"]);
    expect(&of(json!([])), SCTP80, &["- * x/a", "+ y/* x/a"]);
}

#[test]
fn ranges_of_ports() {
    let of = |port: u16, end: u16| {
        cluster(&[(
            "x",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": port, "endPort": end}]}]}),
        )])
    };
    for (first, last, admits80, admits81) in [
        (80, 80, true, false),
        (81, 90, false, true),
        (1, 80, true, false),
        (79, 82, true, true),
        (90, 80, false, false),
    ] {
        let table = |admitted: bool| if admitted { vec![] } else { vec!["- * x/*"] };
        expect(&of(first, last), TCP80, &table(admits80));
        expect(&of(first, last), TCP81, &table(admits81));
        expect(&of(first, last), UDP80, &table(false));
    }
}

#[test]
fn named_ports_are_those_of_the_receiver() {
    let ingress =
        cluster(&[("x", json!({"podSelector": {}, "ingress": [{"ports": [{"port": "serve-81-tcp"}]}]}))]);
    expect(&ingress, TCP81, &[]);
    expect(&ingress, TCP80, &["- * x/*"]);
    let egress = cluster(&[(
        "x",
        json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "serve-80-tcp"}]}]}),
    )]);
    expect(&egress, TCP80, &[]);
    expect(&egress, TCP81, &["- x/* *"]);
    // A name goes with the protocol of its port.
    let mismatch =
        cluster(&[("x", json!({"ingress": [{"ports": [{"port": "serve-80-udp", "protocol": "TCP"}]}]}))]);
    expect(&mismatch, TCP80, &["- * x/*"]);
    expect(&mismatch, UDP80, &["- * x/*"]);
    // One name, another port on each pod.
    let mut inventory = cluster(&[("x", json!({"ingress": [{"ports": [{"port": "http"}]}]}))]);
    for (pod, port) in inventory.pods.iter_mut().zip([80, 81, 82]) {
        let declared = pod.ports.iter_mut().find(|declared| declared.port == 80).unwrap();
        (declared.name, declared.port) = (Some("http".into()), port);
        pod.ports.push(waymark_proto::ContainerPort {
            name: None,
            port: 80,
            protocol: TransportProtocol::Tcp,
        });
    }
    expect(&inventory, TCP80, &["- * x/b", "- * x/c"]);
    expect(&inventory, TCP81, &["- * x/a", "- * x/c"]);
}

#[test]
fn policies_add_up() {
    let allow = |port: u16| json!({"podSelector": pod("a"), "ingress": [{"from": [{"namespaceSelector": ns("y")}], "ports": [{"port": port}]}]});
    let one = cluster(&[("x", allow(81))]);
    expect(&one, TCP80, &["- * x/a"]);
    let two = cluster(&[("x", allow(81)), ("x", allow(80))]);
    expect(&two, TCP80, &["- * x/a", "+ y/* x/a"]);
    let deny = json!({"podSelector": {}});
    let all_to_a = json!({"podSelector": pod("a"), "ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {}}]}]});
    expect(&cluster(&[("x", deny.clone()), ("x", all_to_a)]), TCP80, &["- * x/*", "+ * x/a"]);
    expect(&cluster(&[("x", deny), ("x", json!({"ingress": [{}]}))]), TCP80, &[]);
    let egress80 = json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": 80}]}]});
    expect(&cluster(&[("x", egress80.clone())]), TCP81, &["- x/* *"]);
    expect(
        &cluster(&[("x", egress80), ("x", json!({"policyTypes": ["Egress"], "egress": [{}]}))]),
        TCP81,
        &[],
    );
}

#[test]
fn both_ends_must_agree() {
    let both = json!({"podSelector": pod("a"), "policyTypes": ["Egress", "Ingress"],
        "ingress": [{"from": [{"podSelector": pod("b")}]}], "egress": [{"ports": [{"port": 80}]}]});
    let inventory = cluster(&[("x", both)]);
    expect(&inventory, TCP80, &["- * x/a", "+ x/b x/a"]);
    expect(&inventory, TCP81, &["- * x/a", "- x/a *", "+ x/b x/a"]);
    let to_ya = json!({"podSelector": pod("a"), "policyTypes": ["Egress"],
        "egress": [{"to": [{"namespaceSelector": ns("y"), "podSelector": pod("a")}]}]});
    let from_xa = |of: &str| {
        json!({"podSelector": pod(of),
        "ingress": [{"from": [{"namespaceSelector": ns("x"), "podSelector": pod("a")}]}]})
    };
    let inventory = cluster(&[("x", to_ya), ("y", from_xa("a")), ("y", from_xa("b"))]);
    expect(&inventory, TCP80, &["- x/a *", "- * y/a", "- * y/b", "+ x/a y/a"]);
}

#[test]
fn blocks_of_addresses() {
    let to = |block: Value| json!({"podSelector": pod("a"), "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": block}]}]});
    let only_yb = json!({"cidr": format!("{}/32", address("y", "b"))});
    expect(&cluster(&[("x", to(only_yb.clone()))]), TCP80, &["- x/a *", "+ x/a y/b"]);
    let but_xb = json!({"cidr": "10.0.0.0/8", "except": [format!("{}/32", address("x", "b"))]});
    expect(&cluster(&[("x", to(but_xb.clone()))]), TCP80, &["- x/a x/b"]);
    // What one policy excepts another may admit.
    let xb = json!({"cidr": format!("{}/32", address("x", "b"))});
    expect(&cluster(&[("x", to(but_xb)), ("x", to(xb))]), TCP80, &[]);
    let from = json!({"podSelector": pod("a"), "ingress": [{"from": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.9/32"]}}]}]});
    let inventory = cluster(&[("x", from)]);
    expect(&inventory, TCP80, &["- * x/a"]);
    let from_outside = |src: &str| intend(&inventory, &tcp(src, address("x", "a"), 80)).expectation;
    assert_eq!(from_outside("203.0.113.8"), Expectation::Allowed);
    assert_eq!(from_outside("203.0.113.9"), Expectation::Denied);
    assert_eq!(from_outside("198.51.100.1"), Expectation::Denied);
    assert_eq!(
        intend(&inventory, &tcp("198.51.100.1", address("x", "b"), 80)).expectation,
        Expectation::Allowed
    );
}

#[test]
fn selectors_select_no_addresses_outside() {
    let inventory = cluster(&[(
        "x",
        json!({"podSelector": pod("a"), "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"namespaceSelector": {}}]}], "egress": [{"to": [{"namespaceSelector": {}}]}]}),
    )]);
    expect(&inventory, TCP80, &[]);
    let outside: IpAddr = "203.0.113.8".parse().unwrap();
    assert_eq!(intend(&inventory, &tcp("10.1.0.10", outside, 80)).expectation, Expectation::Denied);
    assert_eq!(
        intend(&inventory, &tcp("203.0.113.8", address("x", "a"), 80)).expectation,
        Expectation::Denied
    );
    // But a rule without peers admits everybody.
    let open = cluster(&[("x", json!({"podSelector": pod("a"), "ingress": [{}]}))]);
    assert_eq!(intend(&open, &tcp("203.0.113.8", address("x", "a"), 80)).expectation, Expectation::Allowed);
}

#[test]
fn pings_need_a_rule_without_ports() {
    let ping = |inventory: &Inventory| {
        let flow = flow(address("x", "b"), address("x", "a"), Traffic::Icmp).unwrap();
        intend(inventory, &flow).expectation
    };
    assert_eq!(ping(&cluster(&[])), Expectation::Allowed);
    assert_eq!(ping(&cluster(&[("x", json!({}))])), Expectation::Denied);
    assert_eq!(ping(&cluster(&[("x", json!({"ingress": [{}]}))])), Expectation::Allowed);
    assert_eq!(
        ping(&cluster(&[("x", json!({"ingress": [{"ports": [{"protocol": "TCP"}]}]}))])),
        Expectation::Denied
    );
}

#[test]
fn nodes_and_their_pods() {
    let mut inventory = cluster(&[
        ("x", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})),
        ("y", json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.168.0.2/32"}}]}]})),
    ]);
    let admission = |inventory: &Inventory, src: &str, dst: IpAddr| {
        intend(inventory, &tcp(src, dst, 80)).receivers.remove(0).admission
    };
    let own_node = Admission::NotSubject { why: Exemption::OwnNode };
    // x/a is on n0, x/b on n1.
    assert_eq!(admission(&inventory, "192.168.0.1", address("x", "a")), own_node);
    assert_eq!(admission(&inventory, "10.1.0.10", "192.168.0.1".parse().unwrap()), own_node);
    assert!(matches!(admission(&inventory, "192.168.0.1", address("x", "b")), Admission::Denied { .. }));
    let Admission::Denied { by } = admission(&inventory, "10.1.0.10", "192.168.0.2".parse().unwrap()) else {
        panic!("egress to another node is denied")
    };
    assert_eq!((by[0].direction, by[0].pod.as_str()), (PolicyType::Egress, "x/a"));
    assert!(matches!(admission(&inventory, "192.168.0.2", address("y", "a")), Admission::Allowed { .. }));
    assert!(matches!(admission(&inventory, "192.168.0.3", address("y", "a")), Admission::Denied { .. }));
    let no_pod = Admission::NotSubject { why: Exemption::NoPod };
    assert_eq!(admission(&inventory, "192.168.0.2", "192.168.0.1".parse().unwrap()), no_pod);
    // A pod in its node's network is taken for the node: no policy selects it, not even as a peer.
    let mut host = inventory.pods[0].clone();
    (host.name, host.host_network, host.ip) = ("host".into(), true, "192.168.0.2".parse().unwrap());
    host.node = "n1".into();
    inventory.pods.push(host);
    assert!(matches!(admission(&inventory, "192.168.0.2", address("y", "a")), Admission::Allowed { .. }));
    assert_eq!(admission(&inventory, "192.168.0.2", address("x", "b")), own_node);
}

#[test]
fn reasons_name_the_policies() {
    let inventory = cluster(&[
        ("x", json!({"podSelector": pod("a")})),
        ("x", json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": pod("c")}]}]})),
        (
            "y",
            json!({"podSelector": pod("b"), "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}),
        ),
    ]);
    let Admission::Denied { by } =
        intend(&inventory, &tcp("10.1.1.11", address("x", "a"), 80)).receivers.remove(0).admission
    else {
        panic!("ingress from y/b is denied")
    };
    assert_eq!(by.len(), 1, "its egress is admitted");
    let names: Vec<String> = by[0].policies.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["NetworkPolicy x/p0", "NetworkPolicy x/p1"]);
    let Admission::Allowed { by } =
        intend(&inventory, &tcp("10.1.2.10", address("x", "a"), 80)).receivers.remove(0).admission
    else {
        panic!("ingress from x/c is allowed")
    };
    assert_eq!(by.iter().map(ToString::to_string).collect::<Vec<_>>(), ["NetworkPolicy x/p1"]);
    assert_eq!(
        intend(&inventory, &tcp("10.1.0.10", address("x", "a"), 80)).receivers[0].admission,
        Admission::NotSubject { why: Exemption::SamePod }
    );
}

#[test]
fn an_address_that_no_pod_has_is_not_judged() {
    let inventory = cluster(&[("x", json!({}))]);
    let found = intend(&inventory, &tcp("10.1.0.10", "10.1.2.99".parse().unwrap(), 80));
    assert_eq!(found.expectation, Expectation::Unknown);
    let Admission::Unknown { why } = &found.receivers[0].admission else { panic!("{found:?}") };
    assert!(why.contains("10.1.2.99") && why.contains("n2"), "{why}");
}

#[test]
fn a_policy_that_is_not_understood_leaves_its_namespace_open() {
    let mut inventory = cluster(&[("x", json!({}))]);
    inventory.absent.push(waymark_proto::Absent {
        object: waymark_proto::ObjectRef::namespaced("NetworkPolicy", "x", "new"),
        why: waymark_proto::Text::verbatim("is not understood: unknown field"),
    });
    let found = |src: &str, dst| intend(&inventory, &tcp(src, dst, 80));
    let into_x = found("10.1.0.11", address("x", "a"));
    assert_eq!(into_x.expectation, Expectation::Unknown);
    let Admission::Unknown { why } = &into_x.receivers[0].admission else { panic!("{into_x:?}") };
    assert_eq!(why, "NetworkPolicy x/new is not understood: unknown field");
    assert_eq!(found("10.1.0.10", address("y", "a")).expectation, Expectation::Unknown, "egress from x");
    assert_eq!(found("10.1.0.11", address("y", "b")).expectation, Expectation::Allowed);
    assert_eq!(found("192.168.0.1", address("x", "a")).expectation, Expectation::Allowed, "its own node");
    let survey = Survey::new(&[&inventory], &BTreeSet::from(["x".to_owned()]));
    let unlike = |(pair, reach): &(Pair, Reach)| {
        let own = pair.destination.target == Target::Pod(pair.pod.clone());
        *reach != if own { Reach::Allowed } else { Reach::Unknown }
    };
    assert_eq!(survey.reachability(&inventory).pairs().find(unlike), None);
}
