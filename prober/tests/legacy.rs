//! Rules of iptables-legacy that marked packets match, on the real kernel.

mod world;

use std::net::UdpSocket;

use waymark_proto::{Event, Hook, HookReport, Observability, Protocol, Sighting};
use world::{World, run};

/// A node with these lines of `iptables-legacy-restore`, and what has become of the logger.
fn with_rules(rules: &str) -> Option<World> {
    let world = World::new()?;
    restore(&world, rules);
    Some(world)
}

fn restore(world: &World, rules: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    let netns = world.netns("node");
    run(&format!("ip netns exec {netns} iptables-legacy-restore {}", file.path().display()));
}

fn logger(world: &World) -> String {
    let path = "/proc/sys/net/netfilter/nf_log/2";
    run(&format!("ip netns exec {} cat {path}", world.netns("node"))).trim().to_owned()
}

/// Rules with their verdicts, in the node's namespace, of a packet: `filter FORWARD 1 matched`.
fn verdicts(world: &World, sightings: &[Sighting], seq: u32) -> Vec<String> {
    let here =
        |sighting: &&Sighting| sighting.marker.seq.0 == seq && world.part(&sighting.place.netns) == "node";
    let verdict = |sighting: &Sighting| match &sighting.event {
        Event::Verdict { rule, verdict } => {
            assert_eq!((rule.family.as_str(), rule.handle), ("ip", None));
            Some(format!("{} {} {} {verdict}", rule.table, rule.chain, rule.position.unwrap()))
        }
        _ => None,
    };
    sightings.iter().filter(here).filter_map(verdict).collect()
}

/// Whether a packet left a hook of the node alive.
fn left(world: &World, sightings: &[Sighting], hook: Hook) -> bool {
    sightings.iter().any(|sighting| {
        world.part(&sighting.place.netns) == "node"
            && sighting.hook == hook
            && matches!(sighting.event, Event::Left | Event::Passed)
    })
}

/// The rule that drops, by its position, in a chain of its own; and nothing of packets that nobody marked.
#[tokio::test(flavor = "multi_thread")]
async fn the_rule_that_drops_is_named() {
    let rules = "*filter\n:FORWARD ACCEPT\n:DENY -\n\
        -A FORWARD -s 192.0.2.0/24 -j ACCEPT\n\
        -A FORWARD -d 10.9.2.2 -j DENY\n\
        -A DENY -p tcp -m tcp --dport 81 -j RETURN\n\
        -A DENY -m comment --comment \"the one\" -j DROP\nCOMMIT\n";
    let Some(world) = with_rules(rules) else { return };
    for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
        let (sightings, losses) = world.check(protocol, 3).await;
        for seq in 0..3 {
            assert_eq!(verdicts(&world, &sightings, seq), ["filter DENY 2 matched"], "{protocol}");
        }
        assert!(!left(&world, &sightings, Hook::NetfilterForward));
        assert_eq!(losses.total(), 0);
    }
}

/// A rule without any match is told by the kernel as the end of its chain, and by us by its number all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_drops_everything_is_named() {
    for (rules, expected) in [
        (":DENY -\n-A FORWARD -p udp -j DENY\n-A DENY -j DROP\n", "filter DENY 1 matched"),
        ("-A FORWARD -j DROP\n", "filter FORWARD 1 matched"),
        ("-A FORWARD -p udp -j REJECT\n", "filter FORWARD 1 matched"),
        // Behind the last rule, the policy.
        (":FORWARD DROP\n-A FORWARD -p tcp -j ACCEPT\n", "filter FORWARD 2 matched"),
    ] {
        let Some(world) = with_rules(&format!("*filter\n{rules}COMMIT\n")) else { return };
        let (sightings, _) = world.check(Protocol::Udp, 1).await;
        assert_eq!(verdicts(&world, &sightings, 0), [expected], "{rules}");
    }
}

/// What lets a packet pass is told where something comes of it: here a translation.
#[tokio::test(flavor = "multi_thread")]
async fn the_rule_that_translates_is_named() {
    let rules = "*raw\n-A PREROUTING -p tcp -j ACCEPT\nCOMMIT\n*nat\n:SVC -\n\
        -A PREROUTING -p udp -j SVC\n-A SVC -p udp -m udp --dport 80 -j DNAT --to-destination 10.9.2.2:8080\n\
        COMMIT\n*filter\n-A FORWARD -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n";
    let Some(world) = with_rules(rules) else { return };
    let (sightings, _) = world.check(Protocol::Udp, 1).await;
    let told = verdicts(&world, &sightings, 0);
    assert_eq!(told, ["raw PREROUTING 2 accept", "nat SVC 1 accept"]);
    let order: Vec<_> = sightings
        .iter()
        .filter(|sighting| world.part(&sighting.place.netns) == "node")
        .filter(|sighting| sighting.hook == Hook::NetfilterPrerouting)
        .map(|sighting| matches!(sighting.event, Event::Verdict { .. }))
        .collect();
    assert_eq!(order, [false, true, true, false], "between coming and leaving");
    assert!(left(&world, &sightings, Hook::NetfilterForward));
}

/// A trace is about marked packets alone; a counter is about everybody's.
#[tokio::test(flavor = "multi_thread")]
async fn bystanders_are_counted_and_not_traced() {
    let Some(world) = with_rules("*filter\n-A FORWARD -p udp -j ACCEPT\n-A INPUT -p udp -j DROP\nCOMMIT\n")
    else {
        return;
    };
    let node = waymark_prober::netns::Netns::open(&world.netns("client").as_str().into()).unwrap();
    let bystander = node.run(|| UdpSocket::bind("10.9.1.2:0")).unwrap().unwrap();
    for _ in 0..50 {
        bystander.send_to(b"none of ours", "10.9.2.2:80").unwrap();
        bystander.send_to(b"none of ours", "10.9.1.1:80").unwrap();
    }
    let (sightings, losses) = world.check(Protocol::Udp, 7).await;
    let listed = run(&format!("ip netns exec {} iptables-legacy -nvxL FORWARD 1", world.netns("node")));
    let counted: u32 = listed.split_whitespace().next().unwrap().parse().unwrap();
    assert!(counted >= 57, "{listed}");
    assert_eq!(losses.total(), 0);
    assert!((0..7).all(|seq| sightings.iter().any(|sighting| sighting.marker.seq.0 == seq)));
}

/// The logger is the namespace's own again, and nobody listens.
#[tokio::test(flavor = "multi_thread")]
async fn the_logger_is_given_back() {
    let Some(world) = with_rules("*filter\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n") else { return };
    let before = logger(&world);
    let check = waymark_proto::CheckId::new(0x1e9).unwrap();
    let (sink, _sightings) = tokio::sync::mpsc::channel(64);
    let arm = world::arm(check.get(), Protocol::Udp, 1, 60_000);
    let reports = world.agent.arm(&arm, sink).await.unwrap();
    assert_eq!(logger(&world), "nfnetlink_log");
    let of_node = |report: &&HookReport| {
        let forward = report.hook == Hook::NetfilterForward;
        forward && report.netns.as_ref().is_some_and(|netns| world.part(netns) == "node")
    };
    let provider = match &reports.iter().find(of_node).unwrap().observability {
        Observability::Observed { provider } => provider.clone(),
        Observability::NotObservable { why } => panic!("{why}"),
    };
    assert_eq!(provider, "nftables trace, iptables-legacy trace");
    let listeners =
        || run(&format!("ip netns exec {} cat /proc/net/netfilter/nfnetlink_log", world.netns("node")));
    assert_ne!(listeners(), "");
    world.agent.disarm(check).await.unwrap();
    assert_eq!((logger(&world), listeners()), (before, String::new()));
}
