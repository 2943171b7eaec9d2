//! What the tracer says against what the kernel's own trace says about the same packets, in the same run.

mod world;

use std::fs;
use std::path::{Path, PathBuf};

use waymark_proto::{Event, Hook, Protocol, Sighting};
use world::{World, in_guest, run};

const TRACEFS: &str = "/sys/kernel/tracing";

/// A trace buffer of its own in the kernel's tracing file system, removed when dropped.
struct Ftrace(PathBuf);

impl Ftrace {
    /// Begins to record these events with timestamps of the monotonic clock.
    fn start(events: &[&str]) -> Self {
        if !Path::new(TRACEFS).join("instances").exists() {
            run(&format!("mount -t tracefs tracefs {TRACEFS}"));
        }
        let instance = Path::new(TRACEFS).join(format!("instances/waymark-{}", std::process::id()));
        fs::create_dir(&instance).expect("a trace instance can be made");
        let trace = Self(instance);
        trace.set("trace_clock", "mono");
        trace.set("buffer_size_kb", "4096");
        for event in events {
            trace.set(&format!("events/{event}/enable"), "1");
        }
        trace
    }

    fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    /// What was recorded: microseconds, event, its fields.
    fn lines(&self) -> Vec<(u64, String, String)> {
        let text = fs::read_to_string(self.0.join("trace")).expect("the trace can be read");
        let parse = |line: &str| {
            // `   comm-123   [000] b..1.  1234.567890: kfree_skb: skbaddr=…`
            let (head, rest) = line.split_once(": ")?;
            let (event, fields) = rest.split_once(": ")?;
            let (seconds, micros) = head.split_whitespace().last()?.split_once('.')?;
            let at = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
            Some((at, event.to_owned(), fields.to_owned()))
        };
        text.lines().filter(|line| !line.starts_with('#')).filter_map(parse).collect()
    }
}

impl Drop for Ftrace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// How far apart the two may stamp one event: they run one after the other at the same tracepoint, but the
/// processor may be taken away between them.
const TOLERANCE_US: u64 = 20_000;
/// The same in a guest of QEMU, which itself waits for processors, and where all takes ten to twenty times longer.
const TOLERANCE_IN_GUEST_US: u64 = 100_000;

/// How the kernel prints a drop: since 5.17 with the reason; newer ones than 6.1 with a name for the location, not a
/// number that means nothing outside.
fn format_of_drops() -> String {
    fs::read_to_string(Path::new(TRACEFS).join("events/skb/kfree_skb/format"))
        .expect("the event has a format")
}

/// What the kernel's trace must have for a sighting: the event and what its fields must contain.
fn counterpart(sighting: &Sighting, format_of_drops: &str) -> Option<(&'static str, Vec<String>)> {
    let device = || format!("dev={}", sighting.device.as_deref().unwrap_or("?"));
    match (&sighting.event, sighting.hook) {
        (Event::Dropped { reason, function }, _) => {
            let reason = format!("reason: {}", reason.as_deref().unwrap_or("?"));
            let told = [("location=%pS", format!("location={function}/")), ("reason: %s", reason)];
            let told = told.into_iter().filter(|(format, _)| format_of_drops.contains(format));
            Some(("kfree_skb", told.map(|(_, text)| text).collect()))
        }
        (Event::Seen, Hook::Qdisc) => Some(("net_dev_queue", vec![device()])),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernels_own_trace_agrees() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("ip netns exec {node} nft add table ip t"));
    run(&format!("ip netns exec {node} nft add chain ip t f {{ type filter hook forward priority 0 ; }}"));
    run(&format!("ip netns exec {node} nft add rule ip t f udp dport 80 drop"));
    let trace = Ftrace::start(&["skb/kfree_skb", "net/net_dev_queue"]);
    let format_of_drops = format_of_drops();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
        let (sightings, losses) = world.check(protocol, 20).await;
        assert_eq!(losses.total(), 0);
        let tolerance = if in_guest() { TOLERANCE_IN_GUEST_US } else { TOLERANCE_US };
        let mut recorded = trace.lines();
        let mut compared = 0;
        for sighting in &sightings {
            let Some((event, contains)) = counterpart(sighting, &format_of_drops) else { continue };
            let at = sighting.at_ns / 1000;
            let found = recorded
                .iter()
                .enumerate()
                .filter(|(_, (_, name, fields))| {
                    name == event && contains.iter().all(|part| fields.contains(part.as_str()))
                })
                .min_by_key(|(_, (stamp, ..))| stamp.abs_diff(at))
                .filter(|(_, (stamp, ..))| stamp.abs_diff(at) <= tolerance)
                .map(|(index, _)| index);
            let index = found.unwrap_or_else(|| {
                panic!("{protocol}: the kernel's trace has no {event} with {contains:?} for {sighting:?}")
            });
            // One event answers for one sighting.
            recorded.remove(index);
            compared += 1;
        }
        // Every packet is queued at least once, and dropped in the end by a socket or by the rule.
        assert!(compared >= 40, "{protocol}: only {compared} sightings were compared");
    }
}
