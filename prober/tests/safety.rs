//! What an agent must never do: leak, believe strangers, or stumble over namespaces that go.

mod world;

use std::net::UdpSocket;
use std::time::Duration;

use tokio::sync::mpsc;
use waymark_prober::netns::Netns;
use waymark_proto::{CheckId, Event, Hook, MarkerKey, Protocol, rpc};
use world::{KEY, World, run};

/// Descriptors of this process: links, maps, programs and sockets are some.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux has it").count()
}

fn tables(world: &World) -> String {
    ["node", "client", "server"]
        .map(|part| run(&format!("ip netns exec {} nft list tables", world.netns(part))))
        .concat()
}

/// Arms and disarms, without a packet.
async fn cycle(world: &World, order: &rpc::Arm) {
    let (sink, _sightings) = mpsc::channel(1);
    world.agent.arm(order, sink).await.unwrap();
    world.agent.disarm(CheckId::new(order.check).unwrap()).await.unwrap();
}

/// Waits until as many tasks are left as there were: one that has been told to end still holds its descriptor.
async fn settled(tasks: usize) {
    let ending = async {
        while tasks_alive() > tasks {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ending).await.expect("tasks that were told to end do so");
}

fn tasks_alive() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Alone in its process: other tests of it would open descriptors meanwhile.
#[test]
fn nothing_leaks() {
    if std::env::var_os(ALONE).is_some() {
        return a_thousand_cycles();
    }
    let myself = std::env::current_exe().unwrap();
    let alone = std::process::Command::new(myself)
        .args(["--exact", "nothing_leaks"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stdout));
}

const ALONE: &str = "WAYMARK_TEST_ALONE";

fn a_thousand_cycles() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let Some(world) = World::new() else { return };
        let light =
            rpc::Arm { hooks: rpc::HookSet::Light.into(), ..world::arm(1, Protocol::Tcp, 10, 60_000) };
        let all = world::arm(2, Protocol::Tcp, 10, 60_000);
        let idle = tasks_alive();
        // What is opened once and for all.
        cycle(&world, &light).await;
        cycle(&world, &all).await;
        settled(idle).await;
        let before = descriptors();
        for round in 0..1000 {
            // Those that watch rules wait for grace periods of the kernel.
            cycle(&world, if round % 50 == 0 { &all } else { &light }).await;
        }
        settled(idle).await;
        assert_eq!(descriptors(), before);
        assert_eq!(tables(&world), "");
        let (sightings, losses) = world.check(Protocol::Icmp, 3).await;
        assert!(!sightings.is_empty() && losses.total() == 0, "it works as before: {losses:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_markers_at_once_are_all_seen() {
    let Some(world) = World::new() else { return };
    let check = CheckId::new(0x3e8).unwrap();
    let order = rpc::Arm {
        hooks: rpc::HookSet::Light.into(),
        netns: vec![world.netns("client"), world.netns("server")],
        ..world::arm(check.get(), Protocol::Udp, 1000, 60_000)
    };
    let (sightings, losses, _) =
        world.carry_out(&order, &world.inject(check, Protocol::Udp, 1000)).await.unwrap();
    assert_eq!(losses.total(), 0, "{losses:?}");
    let arrived = sightings.iter().filter(|s| s.hook == Hook::NetfilterInput && s.event == Event::Passed);
    let seqs: std::collections::BTreeSet<_> = arrived.map(|sighting| sighting.marker.seq).collect();
    assert_eq!(seqs.len(), 1000);
}

/// Whoever guesses a check's number does not know its key.
#[tokio::test(flavor = "multi_thread")]
async fn forged_markers_are_not_believed() {
    let Some(world) = World::new() else { return };
    let check = CheckId::new(0xf00d).unwrap();
    let (sink, mut sightings) = mpsc::channel(1 << 16);
    world.agent.arm(&world::arm(check.get(), Protocol::Udp, 8, 60_000), sink).await.unwrap();

    let client = Netns::open(&world.netns("client").as_str().into()).unwrap();
    let forger = MarkerKey([0xbb; 16]);
    assert_ne!(forger, KEY);
    client
        .run(|| {
            let socket = UdpSocket::bind("10.9.1.2:0").unwrap();
            for number in 0..20_000_u32 {
                let marker = waymark_proto::Marker { check, seq: waymark_proto::Seq(number % 8) };
                let tag = waymark_proto::marker::Tag::new(&forger, marker, 0);
                // What a listener that is not there answers is no error of the next datagram.
                let _ = socket.send_to(&tag.to_bytes(), "10.9.2.2:81");
            }
        })
        .unwrap();
    world.agent.inject(&world.inject(check, Protocol::Udp, 8)).await.unwrap();
    let losses = world.agent.disarm(check).await.unwrap();

    let mut ports = std::collections::BTreeSet::new();
    while let Some(sighting) = sightings.recv().await {
        // The rules' trace quotes too little of a packet to tell, and so does an error about it.
        let by_tracepoint = matches!(sighting.hook, Hook::DriverRx | Hook::DriverTx | Hook::Qdisc);
        if let Some(headers) = sighting.headers.filter(|_| by_tracepoint)
            && headers.matched == waymark_proto::Match::Tag
        {
            ports.insert(headers.flow.dst_port);
        }
    }
    assert!(!ports.contains(&81), "forged: {ports:?}, {losses:?}");
    assert!(ports.contains(&80) || losses.total() > 0, "the genuine ones drowned in silence");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_may_go_while_they_are_watched() {
    let Some(world) = World::new() else { return };
    let check = CheckId::new(0x90).unwrap();
    let (sink, _sightings) = mpsc::channel(1 << 16);
    world.agent.arm(&world::arm(check.get(), Protocol::Icmp, 500, 60_000), sink).await.unwrap();
    let order = rpc::Inject { interval_us: 1000, ..world.inject(check, Protocol::Icmp, 500) };
    let gone = world.netns("server");
    let (injected, ()) = tokio::join!(world.agent.inject(&order), async {
        run(&format!("ip netns del {gone}"));
    });
    assert_eq!(injected.unwrap().packets.len(), 500, "the sender is still there");
    world.agent.disarm(check).await.unwrap();
    let (sink, _sightings) = mpsc::channel(1);
    let reports = world.agent.arm(&world::arm(0x91, Protocol::Icmp, 1, 60_000), sink).await.unwrap();
    let told =
        reports.iter().filter(|report| report.netns.as_ref().is_some_and(|name| name.as_str() == gone));
    assert_eq!(told.count(), 0, "what is gone is not watched");
    world.agent.disarm(CheckId::new(0x91).unwrap()).await.unwrap();
    for part in ["node", "client"] {
        assert_eq!(run(&format!("ip netns exec {} nft list tables", world.netns(part))), "");
    }
}
