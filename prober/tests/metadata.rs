//! What sightings tell of a packet beside its headers: its connection, its VLAN, the state of its checksum.

mod world;

use std::net::IpAddr;
use std::process::Command;

use waymark_proto::{Checksum, Conntrack, ConntrackState, Event, Hook, Protocol, Sighting};
use world::{World, in_guest, run};

fn at<'s>(
    world: &'s World,
    sightings: &'s [Sighting],
    part: &'s str,
    hook: Hook,
) -> impl Iterator<Item = &'s Sighting> {
    sightings.iter().filter(move |s| s.hook == hook && world.part(&s.place.netns) == part)
}

/// The connection that each packet carries when it leaves the node by a device.
fn leaving<'s>(world: &'s World, sightings: &'s [Sighting], device: &'s str) -> Vec<&'s Conntrack> {
    let leaving = at(world, sightings, "node", Hook::Qdisc);
    let leaving = leaving.filter(|sighting| sighting.device.as_deref() == Some(device));
    leaving.map(|sighting| sighting.metadata.conntrack.as_ref().expect("it is tracked")).collect()
}

const CLIENT: [u8; 4] = [10, 9, 1, 2];
const SERVER: [u8; 4] = [10, 9, 2, 2];
const VIRTUAL: [u8; 4] = [10, 8, 0, 1];

#[tokio::test(flavor = "multi_thread")]
async fn both_tuples_of_a_translated_connection_are_told() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    for command in [
        "add table ip nat",
        "add chain ip nat pre { type nat hook prerouting priority -100 ; }",
        "add rule ip nat pre ip daddr 10.8.0.1 dnat to 10.9.2.2",
        "add chain ip nat post { type nat hook postrouting priority 100 ; }",
        "add rule ip nat post oif vs masquerade",
    ] {
        run(&format!("ip netns exec {node} nft {command}"));
    }
    for protocol in [Protocol::Udp, Protocol::Icmp, Protocol::Tcp] {
        let (sightings, _) = world.try_check(protocol, 1, "10.9.1.2", "10.8.0.1").await.unwrap();
        let there = leaving(&world, &sightings, "vs");
        let [there] = there[..] else { panic!("{protocol}: {there:?}") };
        let ends = |flow: &waymark_proto::Flow| (flow.src, flow.dst);
        assert_eq!((there.state, there.is_reply), (ConntrackState::New, false), "{protocol}");
        assert_eq!(ends(&there.original), (IpAddr::from(CLIENT), IpAddr::from(VIRTUAL)), "{protocol}");
        assert_eq!(ends(&there.reply), (IpAddr::from(SERVER), IpAddr::from([10, 9, 2, 1])), "{protocol}");
        assert!(there.is_translated());
        assert!(there.to_string().ends_with("(CONFIRMED, SNAT, DNAT)"), "{there}");
        // And the same of the answer, for which the entry looks as it did. Of UDP that is an error.
        let back = leaving(&world, &sightings, "vc");
        let state =
            if protocol == Protocol::Udp { ConntrackState::Related } else { ConntrackState::Established };
        for answer in &back {
            assert_eq!((answer.state, answer.is_reply), (state, true), "{protocol}");
            assert_eq!((answer.original, answer.reply), (there.original, there.reply), "{protocol}");
        }
        assert!(!back.is_empty(), "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_dropped_is_told_with_its_connection() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    for command in [
        "add table ip filter",
        "add chain ip filter forward { type filter hook forward priority 0 ; }",
        "add rule ip filter forward ct state new udp dport != 0 drop",
    ] {
        run(&format!("ip netns exec {node} nft {command}"));
    }
    let (sightings, _) = world.check(Protocol::Udp, 1).await;
    let dropped = at(&world, &sightings, "node", Hook::Ip).find(|s| matches!(s.event, Event::Dropped { .. }));
    let conntrack = dropped.and_then(|sighting| sighting.metadata.conntrack.as_ref()).expect("it is tracked");
    assert_eq!((conntrack.state, conntrack.status), (ConntrackState::New, 0), "no answer, not confirmed");
    assert!(!conntrack.is_translated());
    // In a namespace that tracks nothing there is nothing to tell.
    let sent = at(&world, &sightings, "client", Hook::Qdisc).next().expect("it is sent");
    assert_eq!(sent.metadata.conntrack, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_checksum_is_told() {
    let Some(world) = World::new() else { return };
    let (sightings, _) = world.check(Protocol::Tcp, 1).await;
    let sent = at(&world, &sightings, "client", Hook::Qdisc).map(|sighting| sighting.metadata.checksum);
    assert_eq!(sent.collect::<Vec<_>>(), [Some(Checksum::None)], "the injector computes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vlan_of_a_packet_is_told() {
    let Some(world) = World::new() else { return };
    let (node, server) = (world.netns("node"), world.netns("server"));
    if !has_vlans(&node) {
        assert!(!in_guest(), "kernels of distributions have VLANs");
        eprintln!("left out: this kernel has no VLANs (CONFIG_VLAN_8021Q); `make test-kernels` has some");
        return;
    }
    for (netns, lower, address) in [(&node, "vs", "10.9.2.1/24"), (&server, "eth0", "10.9.2.2/24")] {
        run(&format!("ip -n {netns} link add link {lower} name {lower}.7 type vlan id 7"));
        run(&format!("ip -n {netns} addr del {address} dev {lower}"));
        run(&format!("ip -n {netns} addr add {address} dev {lower}.7"));
        run(&format!("ip -n {netns} link set {lower}.7 up"));
    }
    run(&format!("ip -n {server} route add default via 10.9.2.1"));
    let (sightings, _) = world.check(Protocol::Udp, 1).await;
    let vlan = |part, hook, device: &str| {
        let mut here = at(&world, &sightings, part, hook);
        let seen = here.find(|sighting| sighting.device.as_deref() == Some(device));
        seen.unwrap_or_else(|| panic!("{part} {hook} {device}")).metadata.vlan
    };
    assert_eq!(vlan("node", Hook::Qdisc, "vs.7"), None, "its tag is put on by the device");
    assert_eq!(vlan("node", Hook::Qdisc, "vs"), Some(7));
    assert_eq!(vlan("server", Hook::DriverRx, "eth0"), Some(7));
    assert_eq!(vlan("node", Hook::Qdisc, "vc"), None, "the answer");
}

/// Whether the kernel has devices for VLANs.
fn has_vlans(netns: &str) -> bool {
    let add = format!("-n {netns} link add link vs name probe type vlan id 9");
    let added = Command::new("ip").args(add.split(' ')).output().expect("ip is there").status.success();
    if added {
        run(&format!("ip -n {netns} link del probe"));
    }
    added
}
