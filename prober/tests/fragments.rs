//! Packets that are fragmented on their way, in real namespaces: every fragment is seen, each as the part that it is.

mod world;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

use tokio::sync::mpsc;
use waymark_prober::netns::Netns;
use waymark_proto::{CheckId, Event, Hook, Marker, Protocol, Seq, Sighting, Tag, rpc};
use world::{KEY, World, run};

/// Longer than anything takes here, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);

/// Where in their packet the fragments began that were seen at a device.
fn offsets(world: &World, sightings: &[Sighting], part: &str, hook: Hook, device: &str) -> BTreeSet<u16> {
    let here = |sighting: &&Sighting| {
        world.part(&sighting.place.netns) == part
            && sighting.hook == hook
            && sighting.device.as_deref() == Some(device)
            && matches!(sighting.event, Event::Seen | Event::Arrived)
    };
    sightings.iter().filter(here).map(|sighting| sighting.fragment_offset).collect()
}

fn check(number: u32) -> CheckId {
    CheckId::new(number).unwrap()
}

/// Large packets that the node may fragment, which has a narrow device towards the server.
async fn through_a_narrow_device(world: &World, number: u32, hooks: rpc::HookSet) -> Vec<Sighting> {
    run(&format!("ip -n {} link set vs mtu 1000", world.netns("node")));
    let arm = rpc::Arm { hooks: hooks.into(), ..world::arm(number, Protocol::Udp, 1, 60_000) };
    let order = world.inject(check(number), Protocol::Udp, 1);
    let order = rpc::Inject { sizes: vec![1400], fragmentable: true, ..order };
    let (sightings, losses, _) = world.carry_out(&arm, &order).await.unwrap();
    assert_eq!(losses.total(), 0);
    sightings
}

/// 976 bytes are what a device of 1000 bytes lets a fragment carry, in units of eight.
#[tokio::test(flavor = "multi_thread")]
async fn a_router_s_fragments_are_all_seen() {
    let Some(world) = World::new() else { return };
    for (number, hooks) in [(0xf1, rpc::HookSet::All), (0xf2, rpc::HookSet::Light)] {
        let sightings = through_a_narrow_device(&world, number, hooks).await;
        let at = |part, hook, device| offsets(&world, &sightings, part, hook, device);
        assert_eq!(at("node", Hook::DriverRx, "vc"), [0].into(), "{sightings:#?}");
        // Whoever looks lightly does not look at transmissions.
        let sent = if hooks == rpc::HookSet::Light { [].into() } else { [0, 976].into() };
        assert_eq!(at("node", Hook::DriverTx, "vs"), sent, "{sightings:#?}");
        assert_eq!(at("server", Hook::DriverRx, "eth0"), [0, 976].into(), "{sightings:#?}");
        let later = sightings.iter().find(|sighting| sighting.is_later_fragment()).unwrap();
        let headers = later.headers.as_ref().unwrap();
        assert_eq!((headers.len, headers.ttl, headers.flow.dst_port), (424, 63, 80));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drop_of_a_later_fragment_is_seen() {
    let Some(world) = World::new() else { return };
    let server = world.netns("server");
    run(&format!("ip netns exec {server} nft add table ip t"));
    run(&format!(
        "ip netns exec {server} nft add chain ip t p {{ type filter hook prerouting priority -450 ; }}"
    ));
    run(&format!("ip netns exec {server} nft add rule ip t p ip frag-off & 0x1fff != 0 drop"));
    let sightings = through_a_narrow_device(&world, 0xf3, rpc::HookSet::All).await;
    let drops = sightings.iter().filter(|sighting| matches!(sighting.event, Event::Dropped { .. }));
    let drops: Vec<_> =
        drops.map(|sighting| (world.part(&sighting.place.netns), sighting.fragment_offset)).collect();
    assert_eq!(drops, [("server", 976)]);
}

/// Sends a marked packet as a program of the client would, whose kernel fragments what is too large, and gives back what was
/// seen of it until the server has dropped it, for nobody listens.
async fn of_a_program(world: &World, number: u32, src: &str, dst: &str, length: usize) -> Vec<Sighting> {
    let (sink, mut sightings) = mpsc::channel(65536);
    world.agent.arm(&world::arm(number, Protocol::Udp, 1, 60_000), sink).await.unwrap();
    let marker = Marker { check: check(number), seq: Seq(0) };
    let mut payload = Tag::new(&KEY, marker, 1).to_bytes().to_vec();
    payload.resize(length, 0);
    let client = Netns::open(&world.netns("client").as_str().into()).unwrap();
    let send = || UdpSocket::bind((src, 0)).and_then(|socket| socket.send_to(&payload, (dst, 80)));
    client.run(send).unwrap().unwrap();
    let mut all: Vec<Sighting> = Vec::new();
    let is_end = |sighting: &Sighting| {
        matches!(sighting.event, Event::Dropped { .. }) && world.part(&sighting.place.netns) == "server"
    };
    while !all.last().is_some_and(is_end) {
        let next = tokio::time::timeout(LIMIT, sightings.recv()).await;
        all.push(next.unwrap_or_else(|_| panic!("no end: {all:#?}")).expect("it is armed"));
    }
    world.agent.disarm(marker.check).await.unwrap();
    while let Some(sighting) = sightings.recv().await {
        all.push(sighting);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_of_ipv6_are_seen() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("ip netns exec {node} sysctl -q -w net.ipv6.conf.all.forwarding=1"));
    for (pod, device, net) in [("client", "vc", "fd09:1"), ("server", "vs", "fd09:2")] {
        let pod = world.netns(pod);
        run(&format!("ip -n {node} addr add {net}::1/64 dev {device} nodad"));
        run(&format!("ip -n {pod} addr add {net}::2/64 dev eth0 nodad"));
        run(&format!("ip -n {pod} route add default via {net}::1"));
    }
    let sightings = of_a_program(&world, 0xf4, "fd09:1::2", "fd09:2::2", 2000).await;
    for (part, hook, device) in [
        ("client", Hook::DriverTx, "eth0"),
        ("node", Hook::DriverRx, "vc"),
        ("node", Hook::DriverTx, "vs"),
        ("server", Hook::DriverRx, "eth0"),
    ] {
        let seen = offsets(&world, &sightings, part, hook, device);
        assert_eq!(seen, [0, 1448].into(), "{part} {hook} {device}: {sightings:#?}");
    }
}

/// The tunnel's own packets are fragmented by the node, or those within it by the client.
#[tokio::test(flavor = "multi_thread")]
async fn fragments_of_and_in_a_tunnel_are_seen() {
    let Some(world) = World::new() else { return };
    for (pod, local, remote, address) in
        [("client", "10.9.1.2", "10.9.2.2", "10.8.0.1"), ("server", "10.9.2.2", "10.9.1.2", "10.8.0.2")]
    {
        let pod = world.netns(pod);
        run(&format!("ip -n {pod} link add vx0 type vxlan id 7 local {local} remote {remote} dstport 4789"));
        run(&format!("ip -n {pod} addr add {address}/24 dev vx0"));
        run(&format!("ip -n {pod} link set vx0 up"));
    }
    let seen = |sightings: &[Sighting]| {
        let at = |part, hook, device| offsets(&world, sightings, part, hook, device);
        [
            at("client", Hook::DriverTx, "vx0"),
            at("client", Hook::DriverTx, "eth0"),
            at("node", Hook::DriverTx, "vs"),
            at("server", Hook::DriverRx, "eth0"),
            at("server", Hook::DriverRx, "vx0"),
        ]
    };
    run(&format!("ip -n {} link set vs mtu 1000", world.netns("node")));
    let around = of_a_program(&world, 0xf5, "10.8.0.1", "10.8.0.2", 1300).await;
    let (whole, parts): (BTreeSet<u16>, BTreeSet<u16>) = ([0].into(), [0, 976].into());
    assert_eq!(seen(&around), [&whole, &whole, &parts, &parts, &whole].map(Clone::clone), "{around:#?}");
    assert!(around.iter().filter(|sighting| sighting.is_later_fragment()).all(|sighting| {
        let headers = sighting.headers.as_ref().unwrap();
        headers.outer.is_some() && headers.flow.dst_port == 80
    }));

    run(&format!("ip -n {} link set vs mtu 1500", world.netns("node")));
    run(&format!("ip -n {} link set vx0 mtu 1000", world.netns("client")));
    let inside = of_a_program(&world, 0xf6, "10.8.0.1", "10.8.0.2", 1300).await;
    assert_eq!(seen(&inside), [(); 5].map(|()| parts.clone()), "{inside:#?}");
    for sighting in inside.iter().filter(|sighting| sighting.is_later_fragment()) {
        let tunnelled = sighting.headers.as_ref().unwrap().outer.is_some();
        assert_eq!(
            tunnelled,
            sighting.device.as_deref() == Some("eth0") || world.part(&sighting.place.netns) == "node",
            "{sighting:?}"
        );
    }
}
