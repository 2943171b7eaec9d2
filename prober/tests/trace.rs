//! Injects and traces in real namespaces, on the real kernel.

mod world;

use waymark_proto::{Event, Hook, HookReport, Match, Observability, Protocol, Sighting};
use world::{World, run};

/// What was seen, in the words of the hooks: `client driver-tx eth0`, without repetitions.
fn walk(world: &World, sightings: &[Sighting], matched: &[Match]) -> Vec<String> {
    let mut walk: Vec<String> = Vec::new();
    for sighting in sightings {
        let headers = sighting.headers.as_ref().expect("plain packets have headers");
        let what = match &sighting.event {
            Event::Seen | Event::Arrived | Event::Left | Event::Passed => "",
            Event::Dropped { reason, .. } => reason.as_deref().unwrap_or("?"),
            Event::Entered
            | Event::Verdict { .. }
            | Event::Transmitted { .. }
            | Event::Consumed { .. }
            | Event::Called { .. } => {
                continue;
            }
        };
        if !matched.contains(&headers.matched) {
            continue;
        }
        let part = world.part(&sighting.place.netns);
        let device = sighting.device.as_deref().unwrap_or_default();
        let step = format!("{part} {} {device} {what}", sighting.hook).trim_end().to_owned();
        if !walk.contains(&step) {
            walk.push(step);
        }
    }
    walk.sort();
    walk
}

/// The hooks of the way from client to server.
const FORWARD: [&str; 13] = [
    "client driver-tx eth0",
    "client netfilter-output eth0",
    "client netfilter-postrouting eth0",
    "client qdisc eth0",
    "node driver-rx vc",
    "node driver-tx vs",
    "node netfilter-forward vc",
    "node netfilter-postrouting vs",
    "node netfilter-prerouting vc",
    "node qdisc vs",
    "server driver-rx eth0",
    "server netfilter-input eth0",
    "server netfilter-prerouting eth0",
];

/// Whether this kernel is of that version or newer.
fn kernel_is(major: u32, minor: u32) -> bool {
    let name = nix::sys::utsname::uname().expect("a kernel has a name");
    let release = name.release().to_str().expect("versions are ASCII");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hook_of_the_way_sees_the_packet() {
    let Some(world) = World::new() else { return };
    let dropped = if kernel_is(5, 17) { "server ip eth0 NO_SOCKET" } else { "server ip eth0 ?" };
    for (protocol, matched, end) in [
        (Protocol::Icmp, Match::Tag, None),
        (Protocol::Udp, Match::Tag, Some(dropped)),
        (Protocol::Tcp, Match::TcpSeq, Some(dropped)),
    ] {
        let (sightings, losses) = world.check(protocol, 1).await;
        let mut expected = FORWARD.to_vec();
        expected.extend(end);
        expected.sort_unstable();
        assert_eq!(walk(&world, &sightings, &[matched]), expected, "{protocol}");
        assert_eq!(losses.total(), 0);
    }
}

/// Every hook of the way is served on every kernel.
#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_packets_pass_are_all_served() {
    let Some(world) = World::new() else { return };
    let check = waymark_proto::CheckId::new(0xf00d).unwrap();
    let arm = world::arm(check.get(), Protocol::Icmp, 1, 60_000);
    let (.., reports) = world.carry_out(&arm, &world.inject(check, Protocol::Icmp, 1)).await.unwrap();
    let devices = [Hook::DriverRx, Hook::Qdisc, Hook::DriverTx];
    for &hook in Hook::ALL.iter().filter(|hook| hook.is_netfilter() || devices.contains(hook)) {
        let mut of_hook = reports.iter().filter(|report| report.hook == hook).peekable();
        assert!(of_hook.peek().is_some(), "{hook}: {reports:?}");
        let served = |report: &HookReport| matches!(report.observability, Observability::Observed { .. });
        assert!(of_hook.all(served), "{hook}: {reports:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_drops_is_named() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("ip netns exec {node} nft add table ip t"));
    run(&format!("ip netns exec {node} nft add chain ip t f {{ type filter hook forward priority 0 ; }}"));
    run(&format!("ip netns exec {node} nft add rule ip t f ip daddr 10.9.2.2 drop"));
    let listing = run(&format!("ip netns exec {node} nft -a list chain ip t f"));
    let handle = listing
        .lines()
        .find_map(|line| line.split_once("drop # handle "))
        .and_then(|(_, handle)| handle.trim().parse::<u64>().ok())
        .expect("nft lists the rule with its handle");

    for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
        let (sightings, _) = world.check(protocol, 2).await;
        for seq in 0..2 {
            let of_packet = || sightings.iter().filter(|sighting| sighting.marker.seq.0 == seq);
            let verdicts: Vec<_> = of_packet()
                .filter_map(|sighting| match &sighting.event {
                    Event::Verdict { rule, verdict } => Some((rule.handle, verdict.as_str(), sighting.hook)),
                    _ => None,
                })
                .collect();
            assert_eq!(verdicts, [(Some(handle), "drop", Hook::NetfilterForward)], "{protocol}");
            // Kernels before 5.17 give no reasons.
            assert!(of_packet().any(|sighting| matches!(
                &sighting.event,
                Event::Dropped { reason, .. } if reason.as_deref().is_none_or(|reason| reason == "NETFILTER_DROP")
            )));
            let left_forward = |sighting: &Sighting| {
                sighting.hook == Hook::NetfilterForward
                    && matches!(sighting.event, Event::Left | Event::Passed)
            };
            assert!(!of_packet().any(left_forward), "it must not leave the hook");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_behind() {
    let Some(world) = World::new() else { return };
    let (sightings, _) = world.check(Protocol::Icmp, 3).await;
    assert!(!sightings.is_empty());
    for part in ["node", "client", "server"] {
        let tables = run(&format!("ip netns exec {} nft list tables", world.netns(part)));
        assert_eq!(tables, "", "no table after disarming");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_beyond_the_limits_are_refused() {
    let Some(world) = World::new() else { return };
    let refused = world.try_check(Protocol::Udp, 100_000, "10.9.1.2", "10.9.2.2").await.unwrap_err();
    assert!(refused.contains("exceeds this agent's limit of 1000"), "{refused}");
    let refused = world.try_check(Protocol::Udp, 1, "10.9.1.2", "10.9.3.3").await.unwrap_err();
    assert!(refused.contains("10.9.3.3 is neither an address of the cluster nor allowed"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_without_its_controller() {
    let Some(world) = World::new() else { return };
    let tables = || run(&format!("ip netns exec {} nft list tables", world.netns("node")));
    let id = waymark_proto::CheckId::new(0xfeed).unwrap();
    // What a lease must take away, looked at under one that does not end before the look.
    let (sink, _sightings) = tokio::sync::mpsc::channel(1);
    world.agent.arm(&world::arm(0xfeed, Protocol::Icmp, 1, 60_000), sink).await.unwrap();
    assert_ne!(tables(), "");
    world.agent.disarm(id).await.unwrap();

    let (sink, mut sightings) = tokio::sync::mpsc::channel(1);
    world.agent.arm(&world::arm(0xfeed, Protocol::Icmp, 1, 50), sink).await.unwrap();
    // The agent lets go of the check's channel when all of it has ended.
    assert_eq!(sightings.recv().await, None);
    assert_eq!(tables(), "");
    // Whoever asks for what was seen must know that it is not all.
    let late = world.agent.disarm(id).await;
    assert!(late.unwrap_err().to_string().contains("ended before it was disarmed"));
}

/// Only the chain behind the translation sees what comes out of it.
#[tokio::test(flavor = "multi_thread")]
async fn translated_headers_are_those_behind_the_last_chain() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("ip netns exec {node} nft add table ip n"));
    run(&format!("ip netns exec {node} nft add chain ip n p {{ type nat hook prerouting priority -100 ; }}"));
    run(&format!("ip netns exec {node} nft add rule ip n p udp dport 80 dnat to 10.9.2.2:8080"));
    let (sightings, _) = world.check(Protocol::Udp, 1).await;
    let port = |event: Event| {
        let found = sightings.iter().find(|sighting| {
            sighting.event == event
                && sighting.hook == Hook::NetfilterPrerouting
                && world.part(&sighting.place.netns) == "node"
        });
        found.and_then(|sighting| sighting.headers.as_ref()).map(|headers| headers.flow.dst_port)
    };
    assert_eq!((port(Event::Entered), port(Event::Left)), (Some(80), Some(8080)));
}

/// Ending one check must not end the sight of another.
#[tokio::test(flavor = "multi_thread")]
async fn checks_overlap() {
    let Some(world) = World::new() else { return };
    let (sink, _sightings) = tokio::sync::mpsc::channel(1);
    for other in 0xa000..0xa020 {
        world.agent.arm(&world::arm(other, Protocol::Tcp, 10, 60_000), sink.clone()).await.unwrap();
        let id = waymark_proto::CheckId::new(other).unwrap();
        let (seen, ended) = tokio::join!(world.check(Protocol::Icmp, 1), world.agent.disarm(id));
        ended.unwrap();
        let walk = walk(&world, &seen.0, &[Match::Tag]);
        assert_eq!(walk, FORWARD.to_vec(), "while {id} was disarmed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disarmed_check_sends_no_more() {
    let Some(world) = World::new() else { return };
    let (sink, mut sightings) = tokio::sync::mpsc::channel(65536);
    let check = waymark_proto::CheckId::new(0xbeef).unwrap();
    world.agent.arm(&world::arm(check.get(), Protocol::Icmp, 1000, 60_000), sink).await.unwrap();
    let slow =
        waymark_proto::rpc::Inject { interval_us: 50_000, ..world.inject(check, Protocol::Icmp, 1000) };
    let sending = tokio::spawn({
        let agent = world.agent.clone();
        async move { agent.inject(&slow).await }
    });
    sightings.recv().await.expect("the first packet is seen");
    world.agent.disarm(check).await.unwrap();
    let sent = sending.await.unwrap().unwrap();
    assert!((1..1000).contains(&sent.packets.len()), "{} packets", sent.packets.len());
}

/// Policy routing asks the socket for the source address, and so the packet goes as the pod's own would.
#[tokio::test(flavor = "multi_thread")]
async fn rules_by_source_address_apply() {
    let Some(world) = World::new() else { return };
    let client = world.netns("client");
    run(&format!("ip -n {client} rule add from 10.9.1.2 lookup 77"));
    run(&format!("ip -n {client} route add unreachable default table 77"));
    let refused = world.try_check(Protocol::Udp, 1, "10.9.1.2", "10.9.2.2").await.unwrap_err();
    assert!(refused.contains("EHOSTUNREACH"), "{refused}");
}

/// A VXLAN header with the group-policy extension is not the plain one that the tracer reads, so on its way
/// through the tunnel the packet is followed by its buffer alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_packet_is_followed_by_its_buffer() {
    let Some(world) = World::new() else { return };
    let (client, server) = (world.netns("client"), world.netns("server"));
    for (netns, local, remote, address) in
        [(&client, "10.9.1.2", "10.9.2.2", "10.8.0.1"), (&server, "10.9.2.2", "10.9.1.2", "10.8.0.2")]
    {
        run(&format!(
            "ip -n {netns} link add vx0 type vxlan id 7 local {local} remote {remote} dstport 4789 gbp"
        ));
        run(&format!("ip -n {netns} addr add {address}/24 dev vx0"));
        run(&format!("ip -n {netns} link set vx0 up"));
    }
    // The extension is used for packets with a mark.
    run(&format!("ip netns exec {client} nft add table ip m"));
    run(&format!("ip netns exec {client} nft add chain ip m o {{ type filter hook output priority 0 ; }}"));
    run(&format!("ip netns exec {client} nft add rule ip m o meta mark set 5"));

    let (sightings, _) = world.try_check(Protocol::Icmp, 1, "10.8.0.1", "10.8.0.2").await.unwrap();
    let hidden: Vec<_> = sightings
        .iter()
        .filter(|sighting| {
            sighting.headers.is_none() && matches!(sighting.event, Event::Seen | Event::Arrived)
        })
        .map(|sighting| {
            let device = sighting.device.as_deref().unwrap_or_default();
            format!("{} {} {device}", world.part(&sighting.place.netns), sighting.hook)
        })
        .collect();
    for expected in
        ["client driver-tx eth0", "node driver-rx vc", "node driver-tx vs", "server driver-rx eth0"]
    {
        assert!(hidden.iter().any(|step| step == expected), "{expected} is not among {hidden:?}");
    }
    let inside = |sighting: &&Sighting| {
        world.part(&sighting.place.netns) == "server" && sighting.device.as_deref() == Some("vx0")
    };
    assert!(sightings.iter().find(inside).is_some_and(|sighting| sighting.headers.is_some()));
}

/// The trace bit stays with the packet, so chains of other families report too, each by its own hook.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_outside_the_ip_hooks_is_no_ip_hook() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("ip netns exec {node} nft add table netdev t"));
    run(&format!(
        "ip netns exec {node} nft add chain netdev t e {{ type filter hook egress device vs priority 0 ; }}"
    ));
    run(&format!("ip netns exec {node} nft add rule netdev t e ip daddr 10.9.2.2 drop"));
    let (sightings, _) = world.check(Protocol::Udp, 1).await;
    let verdicts: Vec<_> = sightings
        .iter()
        .filter_map(|sighting| match &sighting.event {
            Event::Verdict { rule, verdict } => Some((rule.family.as_str(), verdict.as_str(), sighting.hook)),
            _ => None,
        })
        .collect();
    assert_eq!(verdicts, [("netdev", "drop", Hook::Qdisc)]);
}

/// A frame that never leaves its bridge goes through no hook of IP, and its rule is named all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_a_bridge_is_named() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("ip -n {node} link add br0 type bridge"));
    for (device, pod, address) in [("vc", "client", "10.8.0.1"), ("vs", "server", "10.8.0.2")] {
        run(&format!("ip -n {node} link set {device} master br0"));
        run(&format!("ip -n {} addr add {address}/24 dev eth0", world.netns(pod)));
    }
    run(&format!("ip -n {node} link set br0 up"));
    run(&format!("ip netns exec {node} nft add table bridge t"));
    run(&format!(
        "ip netns exec {node} nft add chain bridge t f {{ type filter hook forward priority 0 ; }}"
    ));
    run(&format!("ip netns exec {node} nft add rule bridge t f ip daddr 10.8.0.2 ip protocol != icmp drop"));
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let (sightings, _) = world.try_check(protocol, 2, "10.8.0.1", "10.8.0.2").await.unwrap();
        let of_bridge = |sighting: &Sighting| match &sighting.event {
            Event::Verdict { rule, verdict } if rule.family == "bridge" => {
                Some((sighting.marker.seq.0, rule.chain.clone(), verdict.clone(), sighting.hook))
            }
            _ => None,
        };
        let verdicts: Vec<_> = sightings.iter().filter_map(of_bridge).collect();
        let expected = [0, 1].map(|seq| (seq, "f".to_owned(), "drop".to_owned(), Hook::Bridge));
        assert_eq!(verdicts, expected, "{protocol}");
    }
    assert_eq!(run(&format!("ip netns exec {node} nft list tables")), "table bridge t\n");
}
