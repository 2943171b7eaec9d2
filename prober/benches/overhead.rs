//! What armed tracers cost packets that are not theirs: 64-byte UDP from pod to pod, over a bridge and over VXLAN, in
//! short rounds that alternate with rounds without any tracer. What counts is packets for each second of processor time:
//! all of a packet's way to its receiver is run by its sender's processor. Absolute rates are those of the machine, the
//! ratios are not. Fails if a ratio is below its limit.
//!
//! All is on one kernel: what two machines would share each packet pays at both of its nodes.
//!
//! `make bench-overhead` runs it, as root: it makes network namespaces and removes them.

#[path = "../tests/world/mod.rs"]
mod world;

mod overhead {
    pub mod stream;
    pub mod underlay;
}

use std::process::ExitCode;
use std::time::Duration;

use overhead::stream::Stream;
use overhead::underlay::Underlay;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use waymark_proto::{CheckId, Protocol};

/// How long packets flow in each round.
const ROUND: Duration = Duration::from_millis(100);
/// How often each way of watching is measured; the median of the ratios to the rounds around it counts.
const ROUNDS: usize = 31;
/// Between marked packets, where there are some: a thousand a second.
const PACE: Duration = Duration::from_millis(1);

/// What watches during a round, for packets of other pods.
#[derive(Clone, Copy)]
struct Watching {
    what: &'static str,
    /// Which hooks; none if nothing does.
    light: Option<bool>,
    /// Whether marked packets are under way, too.
    marked: bool,
    /// The ratio must not be below it.
    limit: Option<f64>,
}

const WATCHING: [Watching; 5] = [
    Watching { what: "no tracer", light: None, marked: false, limit: None },
    Watching { what: "light", light: Some(true), marked: false, limit: Some(0.97) },
    Watching { what: "light, 1,000 marked/s", light: Some(true), marked: true, limit: Some(0.97) },
    Watching { what: "wide", light: Some(false), marked: false, limit: Some(0.85) },
    Watching { what: "wide, 1,000 marked/s", light: Some(false), marked: true, limit: Some(0.85) },
];

/// Packets per second of one round.
async fn round(underlay: &Underlay, stream: &Stream, watching: Watching) -> f64 {
    let Some(light) = watching.light else { return stream.run(ROUND) };
    let check = CheckId::new(0x0bec).expect("not zero");
    let count = (ROUND.as_micros() / PACE.as_micros()) as u32;
    let order = underlay.arm(world::arm(check.get(), Protocol::Icmp, count, 60_000), light);
    let (sink, mut sightings) = mpsc::channel(1 << 16);
    underlay.agent.arm(&order, sink).await.expect("it is armed");
    let inject = underlay.inject(check, count, PACE);
    let marked = async {
        if watching.marked {
            underlay.agent.inject(&inject).await.expect("they are sent");
        }
    };
    let (rate, ()) = tokio::join!(async { tokio::task::block_in_place(|| stream.run(ROUND)) }, marked);
    underlay.agent.disarm(check).await.expect("it is disarmed");
    let mut seen = 0;
    while sightings.recv().await.is_some() {
        seen += 1;
    }
    assert_eq!(seen > 0, watching.marked, "{seen} sightings");
    rate
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    if !world::privileged() {
        return ExitCode::FAILURE;
    }
    let runtime = Runtime::new().expect("the runtime starts");
    let _inside = runtime.enter();
    let underlay = Underlay::new();
    let mut fine = true;
    println!("{:42} {:>12} {:>7} {:>7}", "64-byte UDP, pod to pod", "packets/s", "ratio", "limit");
    for (way, from, to) in underlay.ways() {
        let stream = Stream::open(&from, &to);
        for watching in WATCHING {
            let one = |watching| runtime.block_on(round(&underlay, &stream, watching));
            let (mut rates, mut ratios) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let [before, rate, after] = [WATCHING[0], watching, WATCHING[0]].map(one);
                rates.push(rate);
                ratios.push(2.0 * rate / (before + after));
            }
            let (rate, ratio) = (median(rates), median(ratios));
            let bound = watching.limit.map_or_else(String::new, |limit| format!("≥ {limit}"));
            println!("{:42} {rate:>12.0} {ratio:>7.3} {bound:>7}", format!("{way}, {}", watching.what));
            fine &= watching.limit.is_none_or(|limit| ratio >= limit);
        }
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
