//! What armed tracers cost packets that are not theirs: 64-byte UDP from pod to pod, over a bridge and over VXLAN, in
//! short rounds that alternate with rounds without any tracer, but with the same marked packets. What counts is packets for
//! each second of processor time: all of a packet's way to its receiver is run by its sender's processor. Absolute rates
//! are those of the machine, the ratios are not. Fails if a ratio is below its limit, or below that of another tool that
//! watches for the same flow: a bpftrace script at the same tracepoints, and tcpdump on the devices that packets come by.
//! Beside it: how long it takes until all that watches is in place.
//!
//! All is on one kernel: what two machines would share each packet pays at both of its nodes.
//!
//! `make bench-overhead` runs it, as root: it makes network namespaces and removes them. Words behind it name the rows
//! that are wanted: `cargo bench --bench overhead -- wide`.

#[path = "../tests/world/mod.rs"]
mod world;

mod overhead {
    pub mod others;
    pub mod stream;
    pub mod underlay;
}

use std::process::ExitCode;
use std::time::{Duration, Instant};

use overhead::others::{self, Others};
use overhead::stream::Stream;
use overhead::underlay::{Underlay, Way};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use waymark_proto::{CheckId, HookSet, Protocol};

/// How long packets flow in each round.
const ROUND: Duration = Duration::from_millis(100);
/// How often each way of watching is measured; the median of the ratios to the rounds around it counts.
const ROUNDS: usize = 31;
/// How often those that take seconds to start are.
const SLOW_ROUNDS: usize = 9;
/// Between marked packets, where there are some: a thousand a second.
const PACE: Duration = Duration::from_millis(1);

/// Who watches during a round, for packets of other pods.
#[derive(Clone, Copy, PartialEq)]
enum Watcher {
    Nobody,
    Waymark(HookSet),
    Bpftrace(HookSet),
    Tcpdump,
}

impl Watcher {
    /// In how many milliseconds it is to be armed: both nodes by one agent, where a cluster has one for each.
    fn arms_within(self) -> Option<f64> {
        match self {
            Self::Waymark(HookSet::Light) => Some(50.0),
            Self::Waymark(HookSet::Wide | HookSet::All) => Some(300.0),
            _ => None,
        }
    }
}

/// A row of the table.
struct Row {
    what: &'static str,
    watcher: Watcher,
    /// Whether marked packets are under way, too.
    marked: bool,
    /// The ratio must not be below it.
    limit: Option<f64>,
    /// Nor below that of these rows.
    beats: &'static [&'static str],
}

const ROWS: [Row; 10] = [
    Row { what: "nobody", watcher: Watcher::Nobody, marked: false, limit: None, beats: &[] },
    Row { what: "tcpdump", watcher: Watcher::Tcpdump, marked: false, limit: None, beats: &[] },
    Row {
        what: "bpftrace, light",
        watcher: Watcher::Bpftrace(HookSet::Light),
        marked: false,
        limit: None,
        beats: &[],
    },
    Row {
        what: "bpftrace, wide",
        watcher: Watcher::Bpftrace(HookSet::Wide),
        marked: false,
        limit: None,
        beats: &[],
    },
    Row {
        what: "light",
        watcher: Watcher::Waymark(HookSet::Light),
        marked: false,
        limit: Some(0.97),
        beats: &["bpftrace, light", "tcpdump"],
    },
    Row {
        what: "light, 1,000 marked/s",
        watcher: Watcher::Waymark(HookSet::Light),
        marked: true,
        limit: Some(0.97),
        beats: &[],
    },
    Row {
        what: "wide",
        watcher: Watcher::Waymark(HookSet::Wide),
        marked: false,
        limit: Some(0.85),
        beats: &["bpftrace, wide", "tcpdump"],
    },
    Row {
        what: "wide, 1,000 marked/s",
        watcher: Watcher::Waymark(HookSet::Wide),
        marked: true,
        limit: Some(0.85),
        beats: &[],
    },
    Row {
        what: "all",
        watcher: Watcher::Waymark(HookSet::All),
        marked: false,
        limit: None,
        beats: &["bpftrace, wide"],
    },
    Row {
        what: "all, 1,000 marked/s",
        watcher: Watcher::Waymark(HookSet::All),
        marked: true,
        limit: None,
        beats: &[],
    },
];

/// The marked packets of a round.
fn marked() -> (CheckId, u32) {
    (CheckId::new(0x0bec).expect("not zero"), (ROUND.as_micros() / PACE.as_micros()) as u32)
}

/// Packets per second of one round, and how long it took to arm the tracer.
async fn round(
    underlay: &Underlay,
    way: &Way,
    stream: &Stream,
    watcher: Watcher,
    with_marked: bool,
) -> (f64, Duration) {
    let (check, count) = marked();
    let flow = Underlay::FLOW;
    let begun = Instant::now();
    let mut armed = None;
    let others: Option<Others> = match watcher {
        Watcher::Nobody => None,
        Watcher::Bpftrace(set) => Some(others::bpftrace(set, flow)),
        Watcher::Tcpdump => Some(others::tcpdump(way.devices(), flow)),
        Watcher::Waymark(set) => {
            let order = world::arm(check.get(), Protocol::Icmp, count, 60_000);
            let (sink, sightings) = mpsc::channel(1 << 16);
            underlay.agent.arm(&underlay.arm(order, set), sink).await.expect("it is armed");
            armed = Some(sightings);
            None
        }
    };
    let took = begun.elapsed();
    let inject = async {
        if with_marked {
            underlay.inject(check, count, PACE).await;
        }
    };
    let (rate, ()) = tokio::join!(async { tokio::task::block_in_place(|| stream.run(ROUND)) }, inject);
    drop(others);
    if let Some(mut sightings) = armed {
        underlay.agent.disarm(check).await.expect("it is disarmed");
        let mut seen = 0;
        while sightings.recv().await.is_some() {
            seen += 1;
        }
        assert_eq!(seen > 0, with_marked, "{seen} sightings");
    }
    (rate, took)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Whether the command line asks for a row, or for none in particular.
fn is_wanted(row: &Row) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| row.what == word)
}

fn can_be_measured(watcher: Watcher) -> bool {
    match watcher {
        Watcher::Bpftrace(_) => others::is_installed("bpftrace"),
        Watcher::Tcpdump => others::is_installed("tcpdump"),
        Watcher::Nobody | Watcher::Waymark(_) => true,
    }
}

fn main() -> ExitCode {
    if !world::privileged() {
        return ExitCode::FAILURE;
    }
    let runtime = Runtime::new().expect("the runtime starts");
    let _inside = runtime.enter();
    let underlay = Underlay::new();
    let mut fine = true;
    println!(
        "{:42} {:>12} {:>7} {:>7} {:>9} {:>7}",
        "64-byte UDP, pod to pod", "packets/s", "ratio", "limit", "armed in", "limit"
    );
    for way in underlay.ways() {
        let stream = Stream::open(&way.from, &way.to);
        let mut measured: Vec<(&str, f64)> = Vec::new();
        for row in ROWS.iter().filter(|row| is_wanted(row)) {
            let name = format!("{}, {}", way.name, row.what);
            if !can_be_measured(row.watcher) {
                println!("{name:42} not measured: it is not installed");
                fine = false;
                continue;
            }
            let one = |who| runtime.block_on(round(&underlay, &way, &stream, who, row.marked));
            let (mut rates, mut ratios, mut times) = (Vec::new(), Vec::new(), Vec::new());
            let is_slow = matches!(row.watcher, Watcher::Bpftrace(_));
            for _ in 0..if is_slow { SLOW_ROUNDS } else { ROUNDS } {
                let [(before, _), (rate, took), (after, _)] =
                    [Watcher::Nobody, row.watcher, Watcher::Nobody].map(one);
                rates.push(rate);
                ratios.push(2.0 * rate / (before + after));
                times.push(took.as_secs_f64() * 1e3);
            }
            let (rate, ratio, took) = (median(rates), median(ratios), median(times));
            let bound = row.limit.map_or_else(String::new, |limit| format!("≥ {limit}"));
            let soon = row.watcher.arms_within();
            let time = if row.watcher == Watcher::Nobody { String::new() } else { format!("{took:.1} ms") };
            let within = soon.map_or_else(String::new, |limit| format!("≤ {limit}"));
            println!("{name:42} {rate:>12.0} {ratio:>7.3} {bound:>7} {time:>9} {within:>7}");
            fine &= row.limit.is_none_or(|limit| ratio >= limit) && soon.is_none_or(|limit| took <= limit);
            for (other, theirs) in measured.iter().filter(|(other, _)| row.beats.contains(other)) {
                if ratio < *theirs {
                    println!("{name:42} costs more than {other}");
                    fine = false;
                }
            }
            measured.push((row.what, ratio));
        }
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
