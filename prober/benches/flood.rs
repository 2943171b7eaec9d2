//! How many marked packets a second a tracer keeps up with: echo requests through a node, and their answers, for a second at
//! each rate, by each set of hooks. Fails if a record is lost at 20,000 packets a second of one without rules, or
//! if at any rate a packet is missing that no loss is told for.
//!
//! `make bench-flood` runs it, as root: it makes network namespaces and removes them.

#[path = "../tests/world/mod.rs"]
mod world;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use waymark_prober::agent::{Agent, Limits};
use waymark_prober::inject::{InjectSpec, inject};
use waymark_prober::netns::Netns;
use waymark_proto::{CheckId, Flow, Hook, HookSet, Losses, Match, Protocol, Seq, rpc};
use world::{KEY, World};

/// Packets per second.
const RATES: [u32; 5] = [1000, 5000, 10_000, 20_000, 40_000];
/// At this rate and below nothing may be lost.
const LOSSLESS: u32 = 20_000;
/// Source ports, taken in turn.
const FLOWS: NonZeroU32 = NonZeroU32::new(8).expect("not zero");

/// What became of a second of packets.
struct Outcome {
    armed_in: Duration,
    took: Duration,
    records: usize,
    /// Packets of which no reception was recorded where they were to arrive.
    missing: usize,
    losses: Losses,
}

async fn flood(world: &World, agent: &Agent, check: CheckId, rate: u32, hooks: HookSet) -> Outcome {
    // Of rules all, else those that tell what came to the ends.
    let ends = ["client", "server"].map(|part| world.netns(part)).to_vec();
    let netns = if hooks == HookSet::All { Vec::new() } else { ends };
    let order = rpc::Arm {
        hooks: rpc::HookSet::from(hooks).into(),
        netns,
        ..world::arm(check.get(), Protocol::Icmp, rate, 60_000)
    };
    let (sink, mut sightings) = mpsc::channel(1 << 20);
    let begin = Instant::now();
    agent.arm(&order, sink).await.expect("it is armed");
    let armed_in = begin.elapsed();
    let [src, dst] = ["10.9.1.2", "10.9.2.2"].map(|ip| ip.parse().expect("an address"));
    let spec = InjectSpec {
        check,
        key: KEY,
        flow: Flow { src, dst, protocol: Protocol::Icmp, src_port: 0, dst_port: 0 },
        first: Seq(0),
        count: rate,
        interval: Duration::from_secs(1) / rate,
        sizes: vec![0],
        dscps: vec![0],
        flows: Some(FLOWS),
        ttl: 64,
        fragmentable: false,
    };
    let client = Netns::open(&world.netns("client").as_str().into()).expect("it is there");
    let server = world.netns("server");
    let collector = tokio::spawn(async move {
        let (mut records, mut arrived) = (0, BTreeSet::new());
        while let Some(sighting) = sightings.recv().await {
            records += 1;
            let request = sighting.headers.is_some_and(|headers| headers.matched == Match::Tag);
            if request && sighting.hook == Hook::DriverRx && sighting.place.netns.as_str() == server {
                arrived.insert(sighting.marker.seq);
            }
        }
        (records, arrived.len())
    });
    let (_go_on, stop) = std::sync::mpsc::channel();
    let begin = Instant::now();
    let inject = move || inject(&client, &spec, &Mutex::default(), stop).map(|(sent, _)| sent.len());
    let sent = tokio::task::spawn_blocking(inject).await.expect("nobody panics").expect("they are sent");
    let took = begin.elapsed();
    // An echo request that was sent has been received when the call returns, and so has its answer.
    let losses = agent.disarm(check).await.expect("it is disarmed");
    let (records, arrived) = collector.await.expect("it counts");
    Outcome { armed_in, took, records, missing: sent - arrived, losses }
}

fn main() -> ExitCode {
    let runtime = Runtime::new().expect("the runtime starts");
    let _inside = runtime.enter();
    let Some(world) = World::new() else { return ExitCode::FAILURE };
    let limits = Limits { count: u32::MAX, packets_per_second: u32::MAX, ..Limits::default() };
    let agent = Agent::with_limits(&world.inventory, "node".into(), limits).expect("the agent starts");
    let mut fine = true;
    println!("watched   packets/s armed in     took      records  missing     lost");
    let sets = [HookSet::Light, HookSet::Wide, HookSet::All];
    for (number, (hooks, rate)) in sets.into_iter().flat_map(|set| RATES.map(|rate| (set, rate))).enumerate()
    {
        let check = CheckId::new(0xf10 + number as u32).expect("not zero");
        let Outcome { armed_in, took, records, missing, losses } =
            runtime.block_on(flood(&world, &agent, check, rate, hooks));
        let lost = losses.total();
        let set = format!("{hooks:?}");
        println!("{set:8} {rate:>10} {armed_in:>8.2?} {took:>8.2?} {records:>12} {missing:>8} {lost:>8}");
        let silent = missing > 0 && lost == 0;
        fine &= !silent && (lost == 0 || rate > LOSSLESS || hooks == HookSet::All);
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
