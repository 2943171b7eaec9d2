//! What continuous probing costs, beside `ping` in the same run: absolute times are those of the machine, the
//! ratios are not.
//!
//! `make bench-watch` runs it, as root: it makes three network namespaces and removes them.

#[path = "../tests/world/mod.rs"]
mod world;

use std::process::{Command, ExitCode};
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use waymark_prober::netns::Netns;
use waymark_prober::watch::{ProbeMetrics, Prober, Work};
use waymark_proto::{Probe, ProbeId, Protocol, RTT_DIGITS, RTT_HIGHEST_NS, RTT_LOWEST_NS, Responder};
use world::World;

const PORT: u16 = 4242;
/// Each target is probed once a second; up to what an agent takes.
const TARGETS: [u64; 3] = [100, 1000, 5000];
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(5);

/// One line of the table.
struct Cost {
    name: String,
    sent: u64,
    lost: u64,
    missed: u64,
    cpu: Duration,
    rtt: Duration,
}

impl Cost {
    fn cpu_per_probe(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / f64::from(u32::try_from(self.sent.max(1)).unwrap_or(u32::MAX))
    }

    fn print(&self, reference: &Self) {
        println!(
            "{:24} {:>8} {:>6} {:>6} {:>12.1} {:>9.2} {:>9.1} {:>9.2}",
            self.name,
            self.sent,
            self.lost,
            self.missed,
            self.cpu_per_probe(),
            self.cpu_per_probe() / reference.cpu_per_probe(),
            self.rtt.as_secs_f64() * 1e6,
            self.rtt.as_secs_f64() / reference.rtt.as_secs_f64(),
        );
    }
}

fn cpu(who: UsageWho) -> Duration {
    let usage: Usage = getrusage(who).expect("the kernel knows what this process used");
    let time = |time: nix::sys::time::TimeVal| {
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).unsigned_abs())
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// `ping` at 500 packets a second; its time is the mean, for it tells no median.
fn ping(world: &World) -> Cost {
    const COUNT: u64 = 2500;
    let before = cpu(UsageWho::RUSAGE_CHILDREN);
    let output = Command::new("ip")
        .args(["netns", "exec", &world.netns("client"), "ping", "-q", "-W", "5", "-i", "0.002"])
        .args(["-c", &COUNT.to_string(), "10.9.2.2"])
        .output()
        .expect("ping is installed");
    let cpu = cpu(UsageWho::RUSAGE_CHILDREN).saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    let mean: Option<f64> =
        text.split_once("min/avg/max").and_then(|(_, times)| times.split('/').nth(2)?.parse().ok());
    let rtt = Duration::from_secs_f64(mean.unwrap_or_else(|| panic!("ping says: {text}")) / 1000.0);
    Cost { name: "ping -i 0.002".to_owned(), sent: COUNT, lost: 0, missed: 0, cpu, rtt }
}

async fn probes(world: &World, protocol: Protocol, targets: u64) -> Cost {
    let open = |part: &str| Netns::open(&world.netns(part).as_str().into()).expect("the namespace is there");
    let (client, server) = (open("client"), open("server"));
    let probe = |id| Probe {
        id: ProbeId(id),
        watch: "bench".to_owned(),
        source: "client".to_owned(),
        destination: format!("server {id}"),
        netns: client.name().clone(),
        address: "10.9.2.2".parse().expect("an address"),
        port: protocol.has_ports().then_some(PORT),
        protocol,
        interval_us: 1_000_000,
        timeout_us: 500_000,
    };
    let responder = Responder { netns: server.name().clone(), port: PORT };
    let work = Work {
        probes: (0..targets).map(|id| (probe(id), client.clone())).collect(),
        responders: vec![(responder, server)],
    };
    let prober = Prober::start(ProbeMetrics::default()).expect("it starts");
    assert_eq!(prober.set(work).await.expect("it works"), []);
    tokio::time::sleep(WARM_UP).await;
    prober.reports().await.expect("it works");
    let before = cpu(UsageWho::RUSAGE_SELF);
    tokio::time::sleep(MEASURED).await;
    let reports = prober.reports().await.expect("it works");
    let cpu = cpu(UsageWho::RUSAGE_SELF).saturating_sub(before);

    // Its port is free for the next when this is answered.
    prober.set(Work::default()).await.expect("it works");
    let mut rtts: Histogram<u64> =
        Histogram::new_with_bounds(RTT_LOWEST_NS, RTT_HIGHEST_NS, RTT_DIGITS).expect("the bounds are right");
    let name = format!("{protocol}, {targets} targets");
    let mut cost = Cost { name, sent: 0, lost: 0, missed: 0, cpu, rtt: Duration::ZERO };
    for report in reports {
        cost.sent += report.counts.sent;
        cost.lost += report.counts.lost;
        cost.missed += report.counts.missed;
        if !report.rtt_v2.is_empty() {
            let read = Deserializer::new().deserialize::<u64, _>(&mut &report.rtt_v2[..]);
            rtts.add(read.expect("what was written")).expect("the same bounds");
        }
    }
    cost.rtt = Duration::from_nanos(rtts.value_at_quantile(0.5));
    cost
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(world) = World::new() else { return ExitCode::FAILURE };
    let server = Netns::open(&world.netns("server").as_str().into()).expect("the namespace is there");
    let listening = server.run(|| std::net::TcpListener::bind(("0.0.0.0", PORT))).expect("it can be entered");
    let _listener = listening.expect("the port is free");

    println!("in {MEASURED:?}: probes sent, lost, missed; CPU time per probe and RTT, beside ping's");
    println!(
        "{:24} {:>8} {:>6} {:>6} {:>12} {:>9} {:>9} {:>9}",
        "", "sent", "lost", "missed", "CPU us/probe", "ratio", "RTT us", "ratio"
    );
    let reference = ping(&world);
    reference.print(&reference);
    for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
        for targets in TARGETS {
            probes(&world, protocol, targets).await.print(&reference);
        }
    }
    ExitCode::SUCCESS
}
