use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use waymark_proto::{PortRef, Protocol, TrafficPolicy, TransportProtocol};

use super::*;

fn all<T: DeserializeOwned>(objects: &[Value]) -> Vec<Arc<T>> {
    objects.iter().map(|object| Arc::new(serde_json::from_value(object.clone()).unwrap())).collect()
}

fn node(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
        "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip},
                                 {"type": "InternalIP", "address": "fd00::2"}]}})
}

fn pod(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"nodeName": "node1", "containers": [{"name": "c", "ports": [
            {"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}, {"ip": "fd00:1::7"}]}})
}

fn service(ports: &Value, addresses: &Value) -> Value {
    json!({"metadata": {"name": "pay", "namespace": "shop"},
        "spec": {"clusterIP": addresses[0], "clusterIPs": addresses, "selector": {"app": "pay"}, "ports": ports}})
}

fn slice(name: &str, family: &str, ports: &Value, endpoints: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "pay"}},
        "addressType": family, "ports": ports, "endpoints": endpoints})
}

fn why(inventory: &Inventory, kind: &str, name: &str) -> String {
    inventory.absent(kind, Some("shop"), name).unwrap_or_else(|| panic!("{kind} {name}")).why.to_string()
}

/// Port, protocol, whether IPv6, and the ports of the backends with their readiness.
type Entry = (u16, Protocol, bool, Vec<(u16, bool)>);

#[test]
fn pods_and_nodes_are_read_with_both_families() {
    let objects = Objects {
        nodes: all(&[node("node1", "172.18.0.2")]),
        pods: all(&[pod("pay", "10.244.1.7"), pod("cart", "10.244.1.6")]),
        ..Objects::default()
    };
    let inventory = convert(&objects);
    let node = &inventory.nodes[0];
    assert_eq!((node.netns.as_str(), node.ip.to_string()), ("host", "172.18.0.2".into()));
    assert_eq!(node.ip6, Some("fd00::2".parse().unwrap()));
    assert_eq!(node.pod_cidr, Some("10.244.1.0/24".parse().unwrap()));
    assert_eq!(node.pod_cidr6, Some("fd00:1::/64".parse().unwrap()));
    let names: Vec<_> = inventory.pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["cart", "pay"], "sorted");
    let cart = inventory.pod("shop", "cart").unwrap();
    assert_eq!(cart.netns.as_str(), "pod:shop/cart");
    assert_eq!((cart.ip.to_string(), cart.ip6), ("10.244.1.6".into(), Some("fd00:1::7".parse().unwrap())));
    assert_eq!(cart.labels["app"], "cart");
    let ports: Vec<_> = cart.ports.iter().map(|p| (p.name.as_deref(), p.port, p.protocol)).collect();
    assert_eq!(ports, [(Some("http"), 8080, TransportProtocol::Tcp), (None, 53, TransportProtocol::Udp)]);
    assert!(inventory.absent.is_empty());
}

#[test]
fn a_pod_on_the_hosts_network_is_its_node() {
    let mut host = pod("proxy", "172.18.0.2");
    host["spec"]["hostNetwork"] = json!(true);
    let objects =
        Objects { nodes: all(&[node("node1", "172.18.0.2")]), pods: all(&[host]), ..Objects::default() };
    let inventory = convert(&objects);
    let place = inventory.pods[0].place();
    assert_eq!(place, inventory.nodes[0].place());
    assert!(inventory.pod_at(&place).is_none(), "the namespace is the node's");
    assert_eq!(inventory.owner("172.18.0.2".parse().unwrap()), Some(place));
}

#[test]
fn pods_without_a_place_say_why() {
    let pending = json!({"metadata": {"name": "pending", "namespace": "shop"}, "spec": {"containers": []},
        "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "message": "0/3 nodes are available"}]}});
    let mut creating = pod("creating", "");
    creating["status"] = json!({"phase": "Pending", "containerStatuses": [{"name": "c", "image": "", "imageID": "",
        "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]});
    let mut done = pod("done", "10.244.1.9");
    done["status"]["phase"] = json!("Succeeded");
    let mut stray = pod("stray", "10.244.9.9");
    stray["spec"]["nodeName"] = json!("gone");
    let bare = json!({"metadata": {"name": "bare", "namespace": "shop"}});
    let objects = Objects {
        nodes: all(&[node("node1", "172.18.0.2")]),
        pods: all(&[pending, creating, done, stray, bare]),
        ..Objects::default()
    };
    let inventory = convert(&objects);
    assert!(inventory.pods.is_empty());
    let why = |name| why(&inventory, "Pod", name);
    assert_eq!(why("pending"), "has no address yet: it is Pending, not scheduled (0/3 nodes are available)");
    assert_eq!(why("creating"), "has no address yet: it is Pending on node1 (ContainerCreating)");
    assert_eq!(why("done"), "has ended (Succeeded), and its address may be another's by now");
    assert_eq!(why("stray"), "is on node gone, which is not known");
    assert_eq!(why("bare"), "has no address yet: it is Pending, not scheduled to a node");
}

#[test]
fn a_service_is_one_entry_per_port_and_family() {
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "other", "port": 99, "protocol": "SCTP"}]);
    let target = |name| json!({"kind": "Pod", "namespace": "shop", "name": name});
    let slice_ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}]);
    let objects = Objects {
        services: all(&[service(&ports, &json!(["10.96.0.10", "fd00:96::a"]))]),
        slices: all(&[
            slice(
                "a",
                "IPv4",
                &slice_ports,
                &json!([
                {"addresses": ["10.244.1.7"], "conditions": {"ready": true}, "targetRef": target("pay-1")},
                {"addresses": ["10.244.1.8"], "conditions": {"ready": false, "serving": true, "terminating": true},
                 "targetRef": target("pay-2")}]),
            ),
            slice("b", "IPv6", &slice_ports, &json!([{"addresses": ["fd00:1::7"]}])),
            slice(
                "c",
                "IPv4",
                &slice_ports,
                &json!([{"addresses": ["10.244.1.8"], "conditions": {"ready": true}}]),
            ),
            slice("d", "FQDN", &slice_ports, &json!([{"addresses": ["example.org"]}])),
        ]),
        ..Objects::default()
    };
    let inventory = convert(&objects);
    let entries: Vec<Entry> = inventory
        .services
        .iter()
        .map(|s| {
            (
                s.port,
                s.protocol,
                s.cluster_ip.is_ipv6(),
                s.backends.iter().map(|b| (b.port, b.ready)).collect(),
            )
        })
        .collect();
    let expected: Vec<Entry> = vec![
        (53, Protocol::Udp, false, vec![(5353, true), (5353, true)]),
        (53, Protocol::Udp, true, vec![(5353, true)]),
        (80, Protocol::Tcp, false, vec![(8080, true), (8080, true)]),
        (80, Protocol::Tcp, true, vec![(8080, true)]),
    ];
    assert_eq!(entries, expected);
    let http = &inventory.services[2];
    assert_eq!(http.target_port, Some(PortRef::Name("web".into())));
    assert_eq!((http.node_port, http.port_name.as_deref()), (Some(30080), Some("http")));
    assert_eq!(http.backends[0].pod.as_deref(), Some("shop/pay-1"));
    assert_eq!(inventory.services[0].target_port, Some(PortRef::Number(53)));
    assert_eq!(http.selector.as_ref().unwrap()["app"], "pay");
}

#[test]
fn a_service_keeps_its_traffic_policies_and_addresses_from_outside() {
    let mut object = service(&json!([{"port": 80}]), &json!(["10.96.0.10", "fd00:96::a"]));
    let plain = convert(&Objects { services: all(&[object.clone()]), ..Objects::default() });
    assert_eq!(plain.services[0].internal_traffic_policy, TrafficPolicy::Cluster);
    object["spec"]["internalTrafficPolicy"] = json!("Local");
    object["spec"]["externalTrafficPolicy"] = json!("Local");
    object["spec"]["externalIPs"] = json!(["192.0.2.9", "nowhere"]);
    object["status"] = json!({"loadBalancer": {"ingress": [
        {"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}, {"hostname": "lb.example.org"},
        {"ip": "192.0.2.8", "ipMode": "Proxy"}]}});
    let inventory = convert(&Objects { services: all(&[object]), ..Objects::default() });
    let of = |index: usize| {
        let service = &inventory.services[index];
        let ips: Vec<String> = service.external_ips.iter().map(ToString::to_string).collect();
        (service.internal_traffic_policy, service.external_traffic_policy, ips)
    };
    let local = TrafficPolicy::Local;
    assert_eq!(of(0), (local, local, vec!["192.0.2.7".to_owned(), "192.0.2.9".to_owned()]));
    assert_eq!(of(1), (local, local, vec!["2001:db8::7".to_owned()]));
}

#[test]
fn endpoints_that_are_not_ready_are_kept_as_such() {
    let ports = json!([{"port": 80}]);
    let objects = Objects {
        services: all(&[service(&ports, &json!(["10.96.0.10"]))]),
        slices: all(&[
            slice(
                "a",
                "IPv4",
                &json!([{"name": "", "port": 80}]),
                &json!([
                {"addresses": ["10.244.1.8"], "conditions": {"ready": false}}]),
            ),
            slice(
                "b",
                "IPv4",
                &json!([{"name": "https", "port": 443}]),
                &json!([{"addresses": ["10.244.1.9"]}]),
            ),
        ]),
        ..Objects::default()
    };
    let backends = convert(&objects).services.remove(0).backends;
    assert_eq!(backends.len(), 1, "a port of another name is another port");
    assert!(!backends[0].ready);
}

#[test]
fn services_without_an_address_say_why() {
    let named =
        |name: &str, spec: Value| json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    let objects = Objects {
        services: all(&[
            named("db", json!({"clusterIP": "None", "ports": [{"port": 5432}]})),
            named("out", json!({"type": "ExternalName", "externalName": "example.org"})),
            named("new", json!({"ports": [{"port": 80}]})),
            named("sctp", json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80, "protocol": "SCTP"}]})),
        ]),
        ..Objects::default()
    };
    let inventory = convert(&objects);
    assert!(inventory.services.is_empty());
    assert!(why(&inventory, "Service", "db").starts_with("has no cluster IP: it is headless"));
    assert!(why(&inventory, "Service", "out").contains("an alias of example.org"));
    assert_eq!(why(&inventory, "Service", "new"), "has no cluster IP yet");
    assert!(why(&inventory, "Service", "sctp").contains("no TCP or UDP port"));
}

#[test]
fn policies_and_namespaces_keep_what_they_say() {
    let policy = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {
        "podSelector": {"matchLabels": {"app": "pay"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchExpressions": [
            {"key": "app", "operator": "In", "values": ["cart"]}]}},
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
            "ports": [{"port": "http"}, {"protocol": "UDP", "port": 53, "endPort": 60}]}]}});
    let bare = json!({"metadata": {"name": "bare", "namespace": "shop"}, "spec": {}});
    let strange = json!({"metadata": {"name": "strange", "namespace": "shop"}, "spec": {"podSelector": {},
        "ingress": [{"from": [{"ipBlock": {"cidr": "nowhere"}}]}]}});
    let objects = Objects {
        policies: all(&[policy, bare, strange]),
        namespaces: all(&[json!({"metadata": {"name": "shop", "labels": {"team": "a"}}})]),
        ..Objects::default()
    };
    let inventory = convert(&objects);
    let names: Vec<_> = inventory.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["bare", "p"]);
    let spec = &inventory.policies[1].spec;
    assert_eq!((spec.ingress[0].from.len(), spec.ingress[0].ports.len()), (2, 2));
    assert_eq!(spec.ingress[0].ports[0].port, Some(PortRef::Name("http".into())));
    assert_eq!(spec.ingress[0].ports[1].end_port, Some(60));
    assert!(spec.ingress[0].from[0].namespace_selector.is_some());
    assert!(why(&inventory, "NetworkPolicy", "strange").starts_with("is not understood"));
    let labels = &inventory.namespaces[0].labels;
    assert_eq!((labels["team"].as_str(), labels["kubernetes.io/metadata.name"].as_str()), ("a", "shop"));
}

/// Prints how long large clusters take: `cargo test -p waymark-controller --lib time_of -- --nocapture`.
#[test]
fn time_of_a_conversion() {
    let (nodes, pods_per_node) = (1_000, 10);
    let objects = Objects {
        nodes: all(&(0..nodes).map(|n| node(&format!("node{n}"), &ip(172, n))).collect::<Vec<_>>()),
        pods: all(&(0..nodes * pods_per_node)
            .map(|n| {
                let mut pod = pod(&format!("pod{n}"), &ip(10, n));
                pod["spec"]["nodeName"] = json!(format!("node{}", n % nodes));
                pod
            })
            .collect::<Vec<_>>()),
        ..Objects::default()
    };
    let start = std::time::Instant::now();
    let inventory = convert(&objects);
    println!("{nodes} nodes, {} pods in {:?}", inventory.pods.len(), start.elapsed());
    assert_eq!(inventory.pods.len(), nodes * pods_per_node);
    let start = std::time::Instant::now();
    let known = inventory.known();
    println!("their addresses: {} prefixes in {:?}", known.len(), start.elapsed());
    let start = std::time::Instant::now();
    let scope = inventory.scope_with(&"node7".into(), known).unwrap();
    println!("the scope of one: {} pods in {:?}", scope.pods.len(), start.elapsed());
    assert_eq!(scope.pods.len(), pods_per_node);
}

fn ip(first: u8, number: usize) -> String {
    format!("{first}.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255)
}
