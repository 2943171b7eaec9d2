//! What predictions cost, beside what does the same on the kernel, in the same run: absolute times are those of the
//! machine, the ratios are not. Fails if a ratio is beyond its limit.
//!
//! * Rules of kube-proxy for 10,000 Services, read and compiled, beside `iptables-restore --test` of the same text.
//! * Flows predicted each second on one processor, beside the packets that the kernel passes on each second through the
//!   same rules on one processor. Each packet is the first of its connection, as each prediction is: of later ones the
//!   kernel asks no Service's rules any more; what it does with those is printed, too. Predicted are the flows of those
//!   very packets: of connections that differ in their source ports alone the answer is remembered. What flows cost of
//!   which nothing is remembered is printed beside it.
//! * How what a flow costs grows from 100 Services to 10,000.
//! * Who reaches whom, all of 1,000 pods and three ports, under 500 policies.
//!
//! `make bench-sim` runs it, as root: it makes namespaces of its own and removes them.

#[path = "sim/kernel.rs"]
mod kernel;
#[path = "sim/matrix.rs"]
mod matrix;
#[path = "sim/services.rs"]
mod services;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use kernel::World;
use waymark_sim::{Aim, Cluster, Compiled, Predictor};
use waymark_testbed::Tool;

/// Services at most.
const MANY: usize = 10_000;
/// Services at least: what a flow costs among these is compared with that among many.
const FEW: usize = 100;
/// How often each is measured, in turn; the median counts.
const ROUNDS: usize = 5;
/// Packets of a round.
const PACKETS: usize = 20_000;
/// How long flows are predicted anew at a time.
const PREDICTING: Duration = Duration::from_millis(500);

/// That of the controller, which predicts.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Prints a line, and says whether the ratio is within its limit.
fn row(what: &str, value: f64, unit: &str, ratio: f64, limit: Option<(&str, f64)>) -> bool {
    let bound = limit.map_or_else(String::new, |(sign, limit)| format!("{sign} {limit}"));
    println!("{what:58} {value:>12.1} {unit:7} {ratio:>8.2} {bound:>7}");
    match limit {
        Some(("≤", limit)) => ratio <= limit,
        Some((_, limit)) => ratio >= limit,
        None => true,
    }
}

/// So many in so long, each second.
fn rate(count: u64, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, f64) {
    let started = Instant::now();
    let done = run();
    (done, started.elapsed().as_secs_f64() * 1e3)
}

/// Reading and compiling rules.
fn compiling() -> bool {
    let text = services::iptables(MANY, kernel::backends);
    let lines = text.lines().filter(|line| line.starts_with("-A")).count();
    let facts = || services::facts_of(&text);
    let (mut own, mut restores) = (Vec::new(), [Vec::new(), Vec::new()]);
    let programs = ["iptables-legacy-restore", "iptables-nft-restore"];
    for _ in 0..ROUNDS {
        let facts = facts();
        let (compiled, took) = timed(|| Compiled::new(facts));
        drop(compiled.expect("the facts are right"));
        own.push(took);
        for (program, times) in programs.iter().zip(&mut restores) {
            times.push(timed(|| services::test(program, &text)).1);
        }
    }
    let [legacy, nft] = restores.map(median);
    println!("{lines} rules of {MANY} Services");
    row("iptables-legacy-restore --test", legacy, "ms", 1.0, None);
    row("iptables-nft-restore --test", nft, "ms", nft / legacy, None);
    let own = median(own);
    row("waymark, beside the faster of them", own, "ms", own / legacy.min(nft), Some(("≤", 2.0)))
}

/// Predictions beside packets, among so many Services. Gives the flows each second, too.
fn predicting(count: usize, tool: Tool) -> (bool, f64) {
    let world = World::new();
    world.load(tool, &services::iptables(count, kernel::backends));
    let facts = world.facts();
    let mut cluster = Cluster::new(&world.inventory);
    cluster.add(facts).expect("the facts are right");
    let start = world.start();
    let mut predictor = Predictor::new(&cluster);
    let (mut fresh, mut known, mut anew) = (Vec::new(), Vec::new(), Vec::new());
    let (mut predicted, mut predicting) = (0, Duration::ZERO);
    for round in 0..ROUNDS {
        let stream = world.stream(count, PACKETS);
        fresh.push(stream.run());
        known.push(stream.run());
        let started = Instant::now();
        for flow in stream.flows() {
            let outcome = predictor.outcome(&start, &flow);
            assert!(outcome.failure.is_none(), "{flow}: {outcome:?}");
            predicted += 1;
        }
        predicting += started.elapsed();
        let started = Instant::now();
        let mut done = 0_usize;
        while started.elapsed() < PREDICTING {
            let flow = kernel::flow((round * 7919 + done * 104_729) % count, 30_000);
            let aim = Aim { dst: flow.dst, protocol: flow.protocol, dst_port: flow.dst_port };
            let row = predictor.row(&start, flow.src, &[aim]);
            assert!(row.outcomes[0].failure.is_none(), "{flow}: {row:?}");
            done += 1;
        }
        anew.push(rate(done as u64, started.elapsed()));
    }
    let (fresh, known, anew) = (median(fresh), median(known), median(anew));
    let flows = rate(predicted, predicting);
    println!("{count} Services, {tool:?}");
    row("first packets of connections that the kernel passes on", fresh, "/s", 1.0, None);
    row("later packets of connections", known, "/s", known / fresh, None);
    row("flows that Waymark predicts anew, there and back", anew, "/s", anew / fresh, None);
    let limit = Some(("≥", 10.0));
    let fine = row("the flows of those packets, predicted", flows, "/s", flows / fresh, limit);
    (fine, anew)
}

fn main() -> ExitCode {
    let mut fine = compiling();
    for tool in [Tool::IptablesLegacy, Tool::Iptables] {
        let (few, many) = (predicting(FEW, tool), predicting(MANY, tool));
        fine &= many.0;
        let ratio = few.1 / many.1;
        fine &= row("a flow among 10,000, beside one among 100", 1e6 / many.1, "µs", ratio, Some(("≤", 1.5)));
    }
    fine &= matrix::measure();
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
