//! Injects and traces in real namespaces, on the real kernel.

mod world;

use waymark_proto::{Event, Hook, Match, Protocol, Sighting};
use world::{World, run};

/// What was seen, in the words of the hooks: `client driver-tx eth0`, without repetitions.
fn walk(world: &World, sightings: &[Sighting], matched: &[Match]) -> Vec<String> {
    let mut walk: Vec<String> = Vec::new();
    for sighting in sightings {
        let headers = sighting.headers.as_ref().expect("plain packets have headers");
        let what = match &sighting.event {
            Event::Seen | Event::Left => "",
            Event::Dropped { reason, .. } => reason.as_deref().unwrap_or("?"),
            Event::Entered | Event::Verdict { .. } | Event::Transmitted { .. } | Event::Consumed { .. } => {
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

#[tokio::test(flavor = "multi_thread")]
async fn every_hook_of_the_way_sees_the_packet() {
    let Some(world) = World::new() else { return };
    for (protocol, matched, end) in [
        (Protocol::Icmp, Match::Tag, None),
        (Protocol::Udp, Match::Tag, Some("server ip eth0 NO_SOCKET")),
        (Protocol::Tcp, Match::TcpSeq, Some("server ip eth0 NO_SOCKET")),
    ] {
        let (sightings, losses) = world.check(protocol, 1).await;
        let mut expected = FORWARD.to_vec();
        expected.extend(end);
        expected.sort_unstable();
        assert_eq!(walk(&world, &sightings, &[matched]), expected, "{protocol}");
        assert_eq!(losses.total(), 0);
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
            assert!(of_packet().any(|sighting| matches!(
                &sighting.event,
                Event::Dropped { reason: Some(reason), .. } if reason == "NETFILTER_DROP"
            )));
            let left_forward = |sighting: &Sighting| {
                sighting.hook == Hook::NetfilterForward && sighting.event == Event::Left
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
    let refused = world.try_check(Protocol::Udp, 100_000, "10.9.2.2").await.unwrap_err();
    assert!(refused.contains("exceeds this agent's limit of 1000"), "{refused}");
    let refused = world.try_check(Protocol::Udp, 1, "10.9.3.3").await.unwrap_err();
    assert!(refused.contains("10.9.3.3 is neither in the inventory nor allowed"), "{refused}");
}
