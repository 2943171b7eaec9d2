//! The sets of hooks: what each attaches, and what it sees.

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use waymark_prober::agent::{Agent, Limits};
use waymark_prober::tracer::{ArmSpec, Traced, Tracer};
use waymark_proto::rpc::{self, Arm};
use waymark_proto::{CheckId, Event, Hook, HookSet, MarkerKey, Match, Observability, Protocol, Sighting};
use waymark_tracer_ebpf::PROGRAMS;
use world::World;

fn spec(check: u32, set: HookSet) -> ArmSpec {
    ArmSpec {
        traced: Traced {
            check: CheckId::new(check).expect("not 0"),
            key: MarkerKey([7; 16]),
            count: 1,
            protocol: Protocol::Icmp,
            set,
            capture: false,
            every_rule: false,
        },
        lease: Duration::from_secs(60),
        netfilter: Vec::new(),
    }
}

/// What is attached costs every packet of the machine something.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_attached_while_a_check_wants_it() {
    // Its namespaces are not needed, but it tells whether this machine can trace at all.
    let Some(_world) = World::new() else { return };
    let tracer = Tracer::new().unwrap();
    let of = |set: HookSet| -> BTreeSet<&str> {
        PROGRAMS.iter().filter(|program| program.set <= set).map(|program| program.tracepoint).collect()
    };
    let [light, wide, all] = [HookSet::Light, HookSet::Wide, HookSet::All].map(of);
    assert!(light.len() < wide.len() && wide.len() < all.len());
    let (sink, _sightings) = mpsc::channel(1);
    let id = |check| CheckId::new(check).expect("not 0");
    assert!(tracer.attached().is_empty());
    tracer.arm(spec(1, HookSet::Light), sink.clone()).unwrap();
    assert_eq!(tracer.attached(), light);
    tracer.arm(spec(2, HookSet::Wide), sink.clone()).unwrap();
    assert_eq!(tracer.attached(), wide);
    tracer.disarm(id(2));
    assert_eq!(tracer.attached(), light, "the check that wants no more is left");
    tracer.arm(spec(3, HookSet::Wide), sink.clone()).unwrap();
    tracer.disarm(id(1));
    assert_eq!(tracer.attached(), wide);
    tracer.disarm(id(3));
    assert!(tracer.attached().is_empty());
    tracer.arm(spec(4, HookSet::Wide), sink.clone()).unwrap();
    tracer.arm(spec(5, HookSet::All), sink).unwrap();
    assert_eq!(tracer.attached(), all);
    tracer.disarm(id(5));
    assert_eq!(tracer.attached(), wide);
    tracer.disarm(id(4));
}

/// Arrival and answer are seen, and every reception; the rules between are not traced, and said not to be.
#[tokio::test(flavor = "multi_thread")]
async fn a_light_look_tells_what_comes_through() {
    let Some(world) = World::new() else { return };
    let ends = ["client", "server"].map(|part| world.netns(part));
    let check = CheckId::new(0x11).expect("not 0");
    let order = world::arm(check.get(), Protocol::Icmp, 3, 60_000);
    let order = Arm { netns: ends.to_vec(), hooks: rpc::HookSet::Light.into(), ..order };
    let (sightings, _, reports) =
        world.carry_out(&order, &world.inject(check, Protocol::Icmp, 3)).await.unwrap();
    let seen = |part: &str, hook: Hook| {
        let there = |s: &&Sighting| s.headers.as_ref().is_some_and(|headers| headers.matched == Match::Tag);
        let here = sightings.iter().filter(|s| s.hook == hook && world.part(&s.place.netns) == part);
        here.filter(there).map(|sighting| sighting.marker.seq).collect::<BTreeSet<_>>().len()
    };
    for part in ["node", "server"] {
        assert_eq!(seen(part, Hook::DriverRx), 3, "{part}");
        assert_eq!(seen(part, Hook::DriverTx), 0, "{part}");
    }
    for (part, hook, packets) in [("client", Hook::NetfilterOutput, 0), ("server", Hook::NetfilterInput, 3)] {
        assert_eq!(seen(part, hook), packets, "{part} {hook}");
    }
    assert_eq!(seen("node", Hook::NetfilterForward), 0);
    let blind = |netns: &str, hook: Hook| {
        let of_hook = || reports.iter().filter(move |report| report.hook == hook);
        let own = of_hook().find(|report| report.netns.as_ref().is_some_and(|name| name.as_str() == netns));
        let report =
            own.or_else(|| of_hook().find(|report| report.netns.is_none())).expect("it is reported on");
        matches!(report.observability, Observability::NotObservable { .. })
    };
    assert!(blind(&world.netns("node"), Hook::NetfilterForward) && blind(&world.netns("node"), Hook::Qdisc));
    assert!(!blind(&ends[0], Hook::NetfilterInput) && !blind(&ends[0], Hook::DriverRx));
    assert!(blind(&ends[0], Hook::DriverTx));
}

/// One rule that sets the trace bit makes all chains of the machine dearer for everybody.
#[tokio::test(flavor = "multi_thread")]
async fn no_packet_is_traced_unless_rules_are_wanted() {
    let Some(world) = World::new() else { return };
    let server = world.netns("server");
    let rules = || world::run(&format!("ip netns exec {server} nft list ruleset"));
    let order = |check, hooks: rpc::HookSet| Arm {
        netns: vec![server.clone()],
        hooks: hooks.into(),
        ..world::arm(check, Protocol::Icmp, 1, 60_000)
    };
    let (sink, _sightings) = mpsc::channel(1);
    world.agent.arm(&order(0x21, rpc::HookSet::Light), sink.clone()).await.unwrap();
    let light = rules();
    assert!(light.contains("log prefix") && !light.contains("nftrace"), "{light}");
    world.agent.arm(&order(0x22, rpc::HookSet::Wide), sink.clone()).await.unwrap();
    assert!(!rules().contains("nftrace"));
    world.agent.arm(&order(0x23, rpc::HookSet::All), sink).await.unwrap();
    assert!(rules().contains("nftrace"));
    for check in [0x21, 0x22, 0x23] {
        world.agent.disarm(CheckId::new(check).expect("not 0")).await.unwrap();
    }
    assert_eq!(rules(), "");
}

/// A group of the log has one listener.
#[tokio::test(flavor = "multi_thread")]
async fn two_agents_look_lightly_at_one_namespace() {
    let Some(world) = World::new() else { return };
    let other = Agent::with_limits(&world.inventory, "node".into(), Limits::default()).unwrap();
    let check = CheckId::new(0x31).expect("not 0");
    let netns = vec![world.netns("client"), world.netns("server")];
    let order = Arm {
        netns,
        hooks: rpc::HookSet::Light.into(),
        ..world::arm(check.get(), Protocol::Icmp, 2, 60_000)
    };
    let (sink, mut theirs) = mpsc::channel(1024);
    other.arm(&order, sink).await.unwrap();
    let (ours, ..) = world.carry_out(&order, &world.inject(check, Protocol::Icmp, 2)).await.unwrap();
    let arrived =
        |sighting: &Sighting| sighting.hook == Hook::NetfilterInput && sighting.event == Event::Passed;
    // Questions and answers.
    let mut seen = 0;
    while seen < 4 {
        let next = tokio::time::timeout(world::LIMIT, theirs.recv()).await.expect("all are seen");
        seen += usize::from(arrived(&next.expect("it is armed")));
    }
    other.disarm(check).await.unwrap();
    // The check of the first agent may have ended before it heard of the last answer.
    assert!(ours.iter().filter(|sighting| arrived(sighting)).count() >= 2);
}

/// Close looks begin and end while a light one is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_light_look_and_close_ones_do_not_wait_for_each_other() {
    let Some(world) = World::new() else { return };
    let netns = vec![world.netns("client"), world.netns("server")];
    let id = |check| CheckId::new(check).expect("not 0");
    let (sink, mut sightings) = mpsc::channel(1 << 16);
    let light = Arm {
        netns: netns.clone(),
        hooks: rpc::HookSet::Light.into(),
        ..world::arm(0x41, Protocol::Icmp, 400, 60_000)
    };
    world.agent.arm(&light, sink.clone()).await.unwrap();
    let order = world.inject(id(0x41), Protocol::Icmp, 400);
    let looks = async {
        for check in 0x50..0x64 {
            let close = Arm { netns: netns.clone(), ..world::arm(check, Protocol::Icmp, 1, 60_000) };
            world.agent.arm(&close, sink.clone()).await.unwrap();
            world.agent.disarm(id(check)).await.unwrap();
        }
    };
    let both = async { tokio::join!(world.agent.inject(&order), looks) };
    let (injected, ()) = tokio::time::timeout(world::LIMIT, both).await.expect("nobody waits for ever");
    injected.unwrap();
    world.agent.disarm(id(0x41)).await.unwrap();
    drop(sink);
    let mut arrived = BTreeSet::new();
    while let Some(sighting) = sightings.recv().await {
        if sighting.hook == Hook::NetfilterInput && world.part(&sighting.place.netns) == "server" {
            arrived.insert(sighting.marker.seq);
        }
    }
    assert_eq!(arrived.len(), 400);
}
