//! Facts of real namespaces, compared with what iproute2 and the netfilter tools say about them.

mod oracle;
mod rig;

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use rig::{Ns, collect, index, inventory, privileged, run};
use waymark_prober::facts::{self, FactsError};
use waymark_proto::{Facts, IptablesBackend, LinkKind, NodeName};

/// Longer than anything takes here, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);

/// A node with two pods at a bridge, a veth pair to a namespace that nobody knows, and one within.
struct Node {
    own: Ns,
    pods: [Ns; 2],
    stranger: Ns,
}

impl Node {
    fn new() -> Self {
        let node =
            Self { own: Ns::new("node"), pods: [Ns::new("p0"), Ns::new("p1")], stranger: Ns::new("other") };
        let [p0, p1] = node.pod_names();
        let stranger = &node.stranger.name;
        node.own.ip(&format!(
            "link add br0 type bridge
            link add br1 type bridge
            link add h0 type veth peer name eth0 netns {p0}
            link add h1 type veth peer name eth0 netns {p1}
            link add h2 type veth peer name eth0 netns {stranger}
            link add va mtu 1400 type veth peer name vb
            link set h0 master br0
            link set h1 master br0
            link set va master br1
            link set h0 type bridge_slave isolated on
            link set h1 type bridge_slave hairpin on flood off
            link set br0 up
            link set br1 up
            link set h0 up
            link set h1 up
            link set h2 up
            link set va up
            link set vb up
            addr add 10.9.0.1/24 dev br0
            addr add fd00:9::1/64 dev br0
            addr add 10.8.0.1 peer 10.8.0.2/32 dev h2
            link add vx5 type vxlan id 5 dstport 8472 local 10.9.0.1 dev br0 nolearning
            link add vx6 type vxlan id 6 dstport 4789 local fd00:9::1 remote fd00:9::2 dev br0
            link set vx5 up
            link set vx6 up"
        ));
        for (number, pod) in node.pods.iter().enumerate() {
            pod.ip(&format!("link set eth0 up\naddr add 10.9.0.1{number}/24 dev eth0"));
        }
        let limit = Instant::now() + LIMIT;
        while ![&node.own, &node.pods[0], &node.pods[1]].into_iter().all(oracle::is_settled) {
            assert!(Instant::now() < limit, "the links do not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        node
    }

    fn pod_names(&self) -> [&str; 2] {
        [&self.pods[0].name, &self.pods[1].name]
    }

    fn facts(&self) -> Facts {
        let facts = collect(&self.own, &self.pod_names());
        for namespace in &facts.namespaces {
            assert_eq!(namespace.missing, [], "{}", namespace.name);
        }
        facts
    }
}

#[test]
fn links_addresses_neighbours_and_fdb_agree_with_iproute2() {
    if !privileged("links_addresses_neighbours_and_fdb_agree_with_iproute2") {
        return;
    }
    let node = Node::new();
    node.own.ip("neigh add 10.9.0.5 lladdr 00:11:22:33:44:55 dev br0
        neigh add fd00:9::5 lladdr 00:11:22:33:44:56 dev br0
        neigh add proxy 10.9.0.77 dev br0
        neigh add proxy fd00:9::77 dev br0");
    let fdb = "fdb add 00:11:22:33:44:55 dev vx5 dst 10.9.0.7
        fdb append 00:00:00:00:00:00 dev vx5 dst 10.9.0.8 vni 7
        fdb append 00:00:00:00:00:00 dev vx5 dst 10.9.0.9
        fdb add 00:11:22:33:44:58 dev h0 master static
        fdb add 00:11:22:33:44:59 dev va master static";
    node.own.exec(&["bridge", "-batch", "-"], fdb);
    let facts = node.facts();
    for (ns, facts) in [&node.own, &node.pods[0], &node.pods[1]].into_iter().zip(&facts.namespaces) {
        assert_eq!(facts.name, ns.name);
        assert_eq!(oracle::fact_links(facts), oracle::links(ns, &node.stranger.name));
        assert_eq!(oracle::fact_addresses(facts), oracle::addresses(ns));
        assert_eq!(oracle::fact_neighbours(facts), oracle::neighbours(ns));
        assert_eq!(oracle::fact_fdb(facts), oracle::fdb(ns));
    }
    let own = &facts.namespaces[0];
    assert_eq!(own.fdb.iter().filter(|entry| entry.remote.is_some()).count(), 4);
    let kind = |name: &str| &own.links.iter().find(|link| link.name == name).unwrap().kind;
    let peer_netns = |name: &str| match kind(name) {
        LinkKind::Veth { peer_netns, .. } => peer_netns.as_deref(),
        other => panic!("{name} is {other:?}"),
    };
    assert_eq!(peer_netns("h0"), Some(node.pods[0].name.as_str()));
    assert_eq!(peer_netns("h1"), Some(node.pods[1].name.as_str()));
    assert_eq!(peer_netns("va"), Some(node.own.name.as_str()));
    assert_eq!(peer_netns("h2"), None, "a namespace that nobody knows has no name");
}

#[test]
fn routes_and_rules_agree_with_iproute2() {
    if !privileged("routes_and_rules_agree_with_iproute2") {
        return;
    }
    let node = Node::new();
    node.own.ip("route add default via 10.9.0.254
        route add 10.50.0.0/16 nexthop via 10.9.0.2 weight 3 nexthop via 10.9.0.3
        route add blackhole 10.51.0.0/16
        route add unreachable 10.52.0.0/16 metric 7
        route add prohibit 10.53.0.0/16
        route add throw 10.54.0.0/16 table 100
        route add 10.55.0.0/16 via 10.9.0.4 table 1000 src 10.9.0.1
        route add 10.56.0.0/16 tos 0x10 via 10.9.0.4
        route add 10.57.0.0/16 via 192.0.2.1 dev h2 onlink
        route add 10.58.0.0/16 via inet6 fd00:9::3 dev br0
        route add fd00:50::/64 nexthop via fd00:9::2 weight 2 nexthop via fd00:9::3
        route add blackhole fd00:51::/64
        route add fd00:52::/64 via fd00:9::4 table 1000 metric 5
        nexthop add id 1 via 10.9.0.9 dev br0
        nexthop add id 2 via 10.9.0.10 dev br0
        nexthop add id 3 group 1,5/2,7
        nexthop add id 4 via fd00:9::9 dev br0
        nexthop add id 5 blackhole
        route add 10.60.0.0/16 nhid 3
        route add fd00:60::/64 nhid 4
        rule add fwmark 0x1/0xff table 100
        rule add fwmark 0/0x4 priority 90 table 100
        rule add not from 10.0.0.0/8 iif h2 priority 91 table 1000
        rule add to 10.2.0.0/16 oif br0 priority 92 prohibit
        rule add from 10.3.0.3 priority 93 goto 32766
        rule add priority 94 ipproto tcp dport 80 tos 0x10 table 100
        rule add priority 96 ipproto udp sport 1000-2000 dport 53 prohibit
        rule add priority 95 suppress_prefixlength 0 table 254");
    for rule in ["to fd00:1::/64 priority 90 unreachable", "fwmark 0x2 priority 91 table 1000"] {
        let words: Vec<&str> = ["ip", "-6", "rule", "add"].into_iter().chain(rule.split(' ')).collect();
        node.own.exec(&words, "");
    }
    let facts = node.facts();
    let own = &facts.namespaces[0];
    assert_eq!(oracle::fact_routes(own, |_| false), oracle::routes(&node.own));
    assert_eq!(oracle::fact_rules(own), oracle::rules(&node.own));
    for (pod, facts) in node.pods.iter().zip(&facts.namespaces[1..]) {
        assert_eq!(oracle::fact_routes(facts, |_| false), oracle::routes(pod));
        assert_eq!(oracle::fact_rules(facts), oracle::rules(pod));
    }
    let unmodelled = |priority| {
        own.rules.iter().find(|rule| rule.priority == priority && !rule.ipv6).unwrap().unmodelled.clone()
    };
    assert_eq!(unmodelled(90), Vec::<String>::new());
    assert_eq!(unmodelled(94), [""; 0]);
    assert_eq!(unmodelled(95), ["suppress_prefixlength 0"]);

    // Without compatibility mode the kernel names the nexthop object and leaves its contents out.
    let before = own.routes.clone();
    node.own.set("ipv4/nexthop_compat_mode", "0");
    let facts = node.facts();
    assert_eq!(facts.namespaces[0].routes, before);

    // A device that goes down kills its next hops; the kernel tells while it keeps the route.
    node.own.set("ipv4/nexthop_compat_mode", "1");
    node.own.ip("route add 10.59.0.0/16 nexthop via 10.9.0.2 dev br0 nexthop via 10.8.0.2 dev h2 onlink\nlink set h2 down");
    let facts = node.facts();
    let own = &facts.namespaces[0];
    assert_eq!(oracle::fact_routes(own, |_| false), oracle::routes(&node.own));
    let route = own.routes.iter().find(|route| route.dst == "10.59.0.0/16".parse().unwrap()).unwrap();
    assert_eq!(route.next_hops.iter().map(|hop| hop.dead).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn what_was_learned_of_paths_is_no_route() {
    if !privileged("what_was_learned_of_paths_is_no_route") {
        return;
    }
    let (client, router, server) = (Ns::new("client"), Ns::new("router"), Ns::new("server"));
    client.ip(&format!(
        "link add up0 type veth peer name down0 netns {}
        addr add 10.61.0.2/24 dev up0
        link set up0 up",
        router.name
    ));
    router.ip(&format!(
        "addr add 10.61.0.1/24 dev down0
        link set down0 up
        link add up1 mtu 1300 type veth peer name down1 netns {}
        addr add 10.61.1.1/24 dev up1
        link set up1 up",
        server.name
    ));
    server.ip("addr add 10.61.1.2/24 dev down1
        link set down1 up
        route add default via 10.61.1.1");
    client.ip("route add default via 10.61.0.1");
    router.set("ipv4/ip_forward", "1");
    // The router answers that 1400 bytes are too many.
    client.exec(&["sh", "-c", "ping -c 1 -W 5 -M do -s 1372 10.61.1.2 || true"], "");
    let learned = client.exec(&["ip", "route", "get", "10.61.1.2"], "");
    assert!(learned.contains("mtu 1300"), "{learned}");
    let facts = collect(&client, &[]);
    let known: Vec<String> = facts.namespaces[0].routes.iter().map(|route| route.dst.to_string()).collect();
    assert!(
        known.iter().any(|dst| dst == "0.0.0.0/0") && known.iter().all(|dst| dst != "10.61.1.2/32"),
        "{known:?}"
    );
}

#[test]
fn sockets_agree_with_ss_and_sysctls_are_the_namespaces_own() {
    if !privileged("sockets_agree_with_ss_and_sysctls_are_the_namespaces_own") {
        return;
    }
    let node = Node::new();
    let _open = node.own.inside(|| {
        let tcp = ["0.0.0.0:80", "10.9.0.1:81", "[::]:82", "[fd00:9::1]:83"]
            .map(|at| TcpListener::bind(at).unwrap());
        let udp = ["0.0.0.0:53", "127.0.0.1:54", "[::]:55"].map(|at| UdpSocket::bind(at).unwrap());
        let connected = UdpSocket::bind("127.0.0.1:56").unwrap();
        connected.connect("127.0.0.1:53").unwrap();
        (tcp, udp, connected)
    });
    node.own.set("ipv6/bindv6only", "1");
    let _v6only = node.own.inside(|| TcpListener::bind("[::]:80").unwrap());
    node.own.set("ipv4/ip_forward", "1");
    node.own.set("ipv4/conf/h0/rp_filter", "2");
    node.own.set("ipv6/conf/h0/disable_ipv6", "1");
    node.own.set("bridge/bridge-nf-call-iptables", "0");
    let facts = node.facts();
    let [own, pod, _] = &facts.namespaces[..] else { panic!("three namespaces") };
    assert_eq!(oracle::fact_sockets(own), oracle::sockets(&node.own));
    // Tunnels have sockets of the kernel's own.
    let sockets = own.sockets.iter().filter(|socket| ![4789, 8472].contains(&socket.port));
    let holders: Vec<_> = sockets.map(|socket| socket.holder.as_ref().map(|holder| holder.pid)).collect();
    assert_eq!(holders, [Some(std::process::id()); 8], "who has them open");
    assert!(own.sockets.iter().any(|socket| socket.port == 8472 && socket.holder.is_none()));
    assert!(
        own.sockets.iter().all(|socket| socket.port != 56),
        "a connected socket takes from its peer only"
    );
    let v6only = |port| {
        own.sockets.iter().find(|socket| socket.port == port && socket.address.is_ipv6()).unwrap().v6only
    };
    assert_eq!([v6only(80), v6only(82)], [true, false]);
    assert_eq!(oracle::fact_sockets(pod), oracle::sockets(&node.pods[0]));
    let expected = [
        ("ipv4.ip_forward", "1", "0"),
        ("ipv4.ip_default_ttl", "64", "64"),
        ("ipv6.conf.all.forwarding", "0", "0"),
        ("bridge.bridge-nf-call-iptables", "0", "1"),
    ];
    for (name, in_node, in_pod) in expected {
        assert_eq!((own.sysctls[name].as_str(), pod.sysctls[name].as_str()), (in_node, in_pod), "{name}");
    }
    assert_eq!(own.sysctls["ipv4.conf.h0.rp_filter"], "2");
    assert_eq!(own.sysctls["ipv6.conf.h0.disable_ipv6"], "1");
    assert_eq!(own.sysctls["ipv4.conf.all.forwarding"], "1");
    assert!(own.sysctls.contains_key("ipv4.fib_multipath_hash_policy"));
    assert!(!pod.sysctls.contains_key("ipv4.conf.h0.rp_filter"));
}

#[test]
fn netfilter_is_what_its_tools_print_without_waymarks_own() {
    if !privileged("netfilter_is_what_its_tools_print_without_waymarks_own") {
        return;
    }
    let node = Node::new();
    let ruleset = "table inet user {
            set peers { type ipv4_addr; elements = { 10.0.0.1 }; }
            chain in {
                type filter hook input priority 0
                ip saddr @peers counter accept
            }
        }
        table inet waymark_trace {
            set markers { type mark; }
            chain first {
                type filter hook prerouting priority -400
                meta mark @markers accept
            }
        }";
    node.own.exec(&["nft", "-f", "-"], ruleset);
    node.own.exec(&["ipset", "create", "clients", "hash:net"], "");
    node.own.exec(&["ipset", "add", "clients", "10.3.0.0/16"], "");
    let [p0, p1] = &node.pods;
    p0.exec(&["iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-s", "10.9.0.0/24", "-j", "MASQUERADE"], "");
    p0.exec(&["ip6tables-nft", "-A", "FORWARD", "-j", "DROP"], "");
    p1.exec(&["iptables-legacy", "-w", "-A", "OUTPUT", "-p", "udp", "--dport", "53", "-j", "DROP"], "");
    let facts = node.facts();
    let [own, nft_pod, legacy_pod] = &facts.namespaces[..] else { panic!("three namespaces") };

    let nft = own.netfilter.nft.as_ref().unwrap();
    assert!(nft.to_string().contains("peers") && !nft.to_string().contains("waymark_"), "{nft:#}");
    let kinds = |kind: &str| {
        nft["nftables"].as_array().unwrap().iter().filter(|entry| entry.get(kind).is_some()).count()
    };
    assert_eq!(["table", "set", "chain", "rule"].map(kinds), [1, 1, 1, 1]);
    assert_eq!(own.netfilter.iptables, []);
    let sets = own.netfilter.ipset.as_deref().unwrap();
    assert!(sets.contains("create clients hash:net") && sets.contains("add clients 10.3.0.0/16"), "{sets}");

    let backends: Vec<(bool, IptablesBackend)> =
        nft_pod.netfilter.iptables.iter().map(|dump| (dump.ipv6, dump.backend)).collect();
    assert_eq!(backends, [(false, IptablesBackend::Nft), (true, IptablesBackend::Nft)]);
    let [v4, v6] = &nft_pod.netfilter.iptables[..] else { panic!("two dumps") };
    assert!(v4.text.contains("-A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE"), "{}", v4.text);
    assert!(v6.text.contains("-A FORWARD -j DROP") && !v6.text.contains('#'), "{}", v6.text);
    assert!(nft_pod.netfilter.nft.is_some() && nft_pod.netfilter.ipset.is_none());

    let [legacy] = &legacy_pod.netfilter.iptables[..] else { panic!("one dump") };
    assert_eq!((legacy.ipv6, legacy.backend), (false, IptablesBackend::Legacy));
    assert!(
        legacy.text.starts_with("*filter\n") && legacy.text.contains("--dport 53 -j DROP"),
        "{}",
        legacy.text
    );
    assert_eq!(legacy_pod.netfilter.nft, None);
    for pod in [&node.own, p0] {
        let tables = pod.inside(|| std::fs::read_to_string("/proc/thread-self/net/ip_tables_names"));
        assert_eq!(tables.unwrap_or_default(), "", "asking must not create legacy tables");
    }
}

#[test]
fn facts_are_the_same_twice_and_survive_their_file() {
    if !privileged("facts_are_the_same_twice_and_survive_their_file") {
        return;
    }
    let node = Node::new();
    node.own.exec(
        &["nft", "-f", "-"],
        "add table ip filter; add chain ip filter x; add rule ip filter x counter drop",
    );
    let facts = node.facts();
    let bytes = serde_json::to_vec(&facts).unwrap();
    assert_eq!(Facts::from_json(&bytes), Ok(facts.clone()));
    let truncated = Facts::from_json(&bytes[..bytes.len() / 2]).unwrap_err();
    assert!(truncated.starts_with("not a complete facts document: EOF"), "{truncated}");
    let mut again = node.facts();
    for (before, after) in facts.namespaces.iter().zip(&mut again.namespaces) {
        // The neighbours that the kernel finds and forgets by itself. In a guest of `testbed/tests/kernels`, whose collections
        // lie further apart, those without ARP are some.
        let guest = std::env::var_os("WAYMARK_GUEST").is_some();
        let settled = |entry: &waymark_proto::Neighbour| {
            entry.state == "permanent" || (entry.state == "noarp" && !guest)
        };
        after.neighbours.retain(settled);
        assert_eq!(
            before.neighbours.iter().filter(|entry| settled(entry)).collect::<Vec<_>>(),
            after.neighbours.iter().collect::<Vec<_>>()
        );
        after.neighbours.clone_from(&before.neighbours);
    }
    assert_eq!(serde_json::to_vec(&again).unwrap(), bytes);
}

#[test]
fn what_cannot_be_read_voids_nothing_else() {
    if !privileged("what_cannot_be_read_voids_nothing_else") {
        return;
    }
    let node = Node::new();
    let gone = Ns::new("gone").name.clone();
    // The first pod lives in its node's namespace and is not listed again.
    let facts = collect(&node.own, &[&node.own.name, &gone, &node.pods[1].name]);
    let names: Vec<&str> = facts.namespaces.iter().map(|facts| facts.name.as_str()).collect();
    assert_eq!(names, [node.own.name.as_str(), &gone, &node.pods[1].name]);
    assert_eq!(facts.namespaces[0].pod, None);
    assert_eq!(facts.namespaces[1].pod.as_deref(), Some("shop/p1"));
    let [missing] = &facts.namespaces[1].missing[..] else { panic!("one thing is missing: {facts:#?}") };
    assert_eq!(missing.what, "namespace");
    assert!(missing.why.contains(&gone), "{}", missing.why);
    assert!(facts.namespaces[1].links.is_empty());
    assert_eq!(index(&facts.namespaces[2], "lo"), 1);
}

#[test]
fn an_unknown_node_and_one_without_namespaces_are_errors() {
    let json = br#"{"nodes":[{"name":"n","netns":"wmf-never-there","ip":"10.0.0.1"}]}"#;
    let inventory = waymark_proto::Inventory::from_json(json).unwrap();
    let unknown = facts::collect(&inventory, &NodeName::from("x")).unwrap_err();
    assert!(matches!(unknown, FactsError::UnknownNode(_)), "{unknown}");
    let nothing = facts::collect(&inventory, &NodeName::from("n")).unwrap_err().to_string();
    assert!(nothing.contains("node n") && nothing.contains("/run/netns/wmf-never-there"), "{nothing}");
}

/// Prints how long the collection takes: `cargo test -p waymark-prober --test facts time -- --nocapture`.
#[test]
fn time_of_a_collection() {
    if !privileged("time_of_a_collection") {
        return;
    }
    let node = Node::new();
    let rules: Vec<String> = (0..100).map(|n| format!("-A FORWARD -s 10.7.0.{n}/32 -j DROP")).collect();
    node.own.exec(&["iptables-nft-restore"], &format!("*filter\n{}\nCOMMIT\n", rules.join("\n")));
    let inventory = inventory(&node.own, &node.pod_names());
    for round in 1..=5 {
        let start = Instant::now();
        let facts = facts::collect(&inventory, &NodeName::from("n")).unwrap();
        println!("round {round}: {} namespaces in {:?}", facts.namespaces.len(), start.elapsed());
    }
    println!("load {}", run(&["cat", "/proc/loadavg"], "").trim());
}
