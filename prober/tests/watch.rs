//! Probes in real namespaces, on the real kernel, beside `ping`.

mod world;

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use waymark_prober::agent::{Agent, Limits};
use waymark_prober::netns::Netns;
use waymark_proto::{
    Clock, Probe, ProbeCounts, ProbeId, ProbePlan, ProbeReport, Protocol, Refusal, Responder, Streak, rpc,
};
use world::{World, run};

const PORT: u16 = 4242;
/// Longer than anything takes here, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);

/// Client to server every 20 ms.
fn probe(world: &World, id: u64, protocol: Protocol) -> Probe {
    Probe {
        id: ProbeId(id),
        watch: "test".to_owned(),
        source: "pod/test/client".to_owned(),
        destination: "pod/test/server".to_owned(),
        netns: world.netns("client").as_str().into(),
        address: "10.9.2.2".parse().unwrap(),
        port: protocol.has_ports().then_some(PORT),
        protocol,
        interval_us: 20_000,
        timeout_us: 500_000,
    }
}

fn responder(world: &World, part: &str) -> Responder {
    Responder { netns: world.netns(part).as_str().into(), port: PORT }
}

async fn order(world: &World, plan: &ProbePlan, lease_ms: u32) -> Vec<Refusal> {
    let plan_json = serde_json::to_vec(plan).unwrap();
    world.agent.probe(&rpc::ProbeWork { plan_json, lease_ms }).await.expect("the plan is taken")
}

/// Reports added up, as a controller does it.
#[derive(Default)]
struct Sum {
    counts: ProbeCounts,
    rtts: Option<Histogram<u64>>,
    clocks: Vec<Clock>,
    /// By their beginning: what was said last.
    streaks: BTreeMap<u64, Streak>,
}

impl Sum {
    fn add(&mut self, report: ProbeReport) {
        let counts = report.counts;
        self.counts.sent += counts.sent;
        self.counts.received += counts.received;
        self.counts.lost += counts.lost;
        self.counts.missed += counts.missed;
        for (reason, count) in counts.errors {
            *self.counts.errors.entry(reason).or_default() += count;
        }
        if !report.rtt_v2.is_empty() {
            let read: Histogram<u64> = Deserializer::new().deserialize(&mut &report.rtt_v2[..]).unwrap();
            match &mut self.rtts {
                Some(rtts) => rtts.add(read).unwrap(),
                none => *none = Some(read),
            }
            self.clocks.push(report.clock);
        }
        self.streaks.extend(report.streaks.into_iter().map(|streak| (streak.since_unix_ns, streak)));
    }

    fn p50(&self) -> Duration {
        Duration::from_nanos(self.rtts.as_ref().expect("something was received").value_at_quantile(0.5))
    }

    /// All probes but those that are on their way are accounted for.
    fn settled(&self) -> bool {
        self.counts.sent == self.counts.received + self.counts.lost
    }
}

/// Waits until the kernel times probes of so many targets: it begins to stamp packets a moment after the first has
/// asked for stamps. What was reported until then is left out.
async fn until_timed(world: &World, targets: usize) {
    let is_timed = |sum: &Sum| sum.clocks.last() == Some(&Clock::Kernel);
    let timed = |sums: &BTreeMap<u64, Sum>| sums.len() == targets && sums.values().all(is_timed);
    until(world, &mut BTreeMap::new(), timed).await;
}

/// Adds reports up until there is what is waited for.
async fn until(world: &World, sums: &mut BTreeMap<u64, Sum>, done: impl Fn(&BTreeMap<u64, Sum>) -> bool) {
    let collect = async {
        loop {
            for report in world.agent.probe_reports().await.expect("it probes") {
                sums.entry(report.id.0).or_default().add(report);
            }
            if done(sums) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let timely = tokio::time::timeout(LIMIT, collect).await.is_ok();
    let counts: Vec<_> = sums.iter().map(|(id, sum)| (id, &sum.counts)).collect();
    assert!(timely, "it did not happen in time: {counts:?}");
}

fn inside<T: Send>(world: &World, part: &str, closure: impl FnOnce() -> T + Send) -> T {
    Netns::open(&world.netns(part).as_str().into()).unwrap().run(closure).unwrap()
}

/// The median that `ping` measures meanwhile.
fn ping(world: &World) -> Duration {
    let client = world.netns("client");
    let text = run(&format!("ip netns exec {client} ping -c 50 -i 0.02 -W 5 10.9.2.2"));
    let mut times: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split_once("time=")?.1.split_once(" ms")?.0.parse().ok())
        .collect();
    assert_eq!(times.len(), 50, "{text}");
    times.sort_by(f64::total_cmp);
    Duration::from_secs_f64(times[25] / 1000.0)
}

/// The median that a program measures of datagrams which another program sends back: the kernel answers `ping` by
/// itself, but these wait for their receiver's turn on a processor, as those of probes do.
fn echo(world: &World) -> Duration {
    let server = inside(world, "server", || UdpSocket::bind(("0.0.0.0", 0))).unwrap();
    let port = server.local_addr().unwrap().port();
    let client = inside(world, "client", || UdpSocket::bind(("0.0.0.0", 0))).unwrap();
    client.connect(("10.9.2.2", port)).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let answering = std::thread::spawn(move || {
        let mut datagram = [0; 64];
        for _ in 0..50 {
            let (len, from) = server.recv_from(&mut datagram).unwrap();
            server.send_to(&datagram[..len], from).unwrap();
        }
    });
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            // At the pace of ping.
            std::thread::sleep(Duration::from_millis(20));
            let sent = Instant::now();
            client.send(&[0; 32]).unwrap();
            client.recv(&mut [0; 64]).unwrap();
            sent.elapsed()
        })
        .collect();
    answering.join().unwrap();
    times.sort();
    times[25]
}

#[tokio::test(flavor = "multi_thread")]
async fn three_protocols_measure_what_ping_measures() {
    let Some(world) = World::new() else { return };
    let listener = inside(&world, "server", || TcpListener::bind(("0.0.0.0", PORT))).unwrap();
    let protocols = [Protocol::Icmp, Protocol::Udp, Protocol::Tcp];
    // None is lost, however long the responder waits for its turn on a processor.
    let patient = |(id, protocol)| Probe { timeout_us: 5_000_000, ..probe(&world, id, protocol) };
    let probes = (1..).zip(protocols).map(patient).collect();
    let plan = ProbePlan { probes, responders: vec![responder(&world, "server")] };
    assert_eq!(order(&world, &plan, 60_000).await, []);
    until_timed(&world, 3).await;
    // At the same time, so that the machine is as busy for all of them.
    let measured = || {
        std::thread::scope(|scope| {
            let by_programs = scope.spawn(|| echo(&world));
            (ping(&world), by_programs.join().unwrap())
        })
    };
    let (oracle, by_programs) = tokio::task::block_in_place(measured);
    let mut sums = BTreeMap::new();
    until(&world, &mut sums, |sums| sums.len() == 3 && sums.values().all(|sum| sum.counts.received >= 50))
        .await;

    for (protocol, sum) in protocols.iter().zip(sums.values()) {
        assert!(sum.clocks.iter().all(|clock| *clock == Clock::Kernel), "{protocol}: {:?}", sum.clocks);
        assert_eq!(sum.counts.lost, 0, "{protocol}: {:?}", sum.counts);
        let p50 = sum.p50();
        // The kernel's stamps leave out what ping's own scheduling takes, so they may well be less.
        let most = if *protocol == Protocol::Udp { oracle.max(by_programs) } else { oracle };
        assert!(
            p50 < most * 5 && p50 > oracle / 20,
            "{protocol}: {p50:?}, ping {oracle:?}, programs {by_programs:?}"
        );
        assert_eq!(sum.streaks.len(), 0);
    }

    // No probe is a connection to the application: the first that it gets is this one.
    let mine = inside(&world, "client", || std::net::TcpStream::connect(("10.9.2.2", PORT))).unwrap();
    let (_, first) = listener.accept().unwrap();
    assert_eq!(first, mine.local_addr().unwrap());
    world.agent.stop_probing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_has_a_beginning_and_an_end() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    let nft = |command: &str| run(&format!("ip netns exec {node} nft {command}"));
    nft("add table ip t");
    nft("add chain ip t f { type filter hook forward priority 0 ; }");
    let short = |id, protocol| Probe { timeout_us: 200_000, ..probe(&world, id, protocol) };
    let probes = vec![short(1, Protocol::Icmp), short(2, Protocol::Udp)];
    let plan = ProbePlan { probes, responders: vec![responder(&world, "server")] };
    assert_eq!(order(&world, &plan, 60_000).await, []);
    let mut sums = BTreeMap::new();
    until(&world, &mut sums, |sums| sums.len() == 2 && sums.values().all(|sum| sum.counts.received > 5))
        .await;

    let before = unix_ns();
    nft("add rule ip t f ip daddr 10.9.2.2 drop");
    // On a busy machine a few in a row may come too late at any time: that is no outage of this length.
    let is_long = |streak: &&Streak| streak.failures >= 20;
    let out = |sum: &Sum| sum.streaks.values().any(|streak| is_long(&streak));
    until(&world, &mut sums, |sums| sums.values().all(out)).await;
    nft("flush chain ip t f");
    let after = unix_ns();
    let ended =
        |sum: &Sum| sum.streaks.values().find(is_long).is_some_and(|long| long.until_unix_ns.is_some());
    until(&world, &mut sums, |sums| sums.values().all(ended)).await;

    for sum in sums.values() {
        let streak = sum.streaks.values().find(is_long).unwrap();
        // A probe may have been on its way when the rule came, so it begins an interval and a timeout earlier at most.
        assert!(streak.since_unix_ns > before - 250_000_000 && streak.since_unix_ns < after, "{streak:?}");
        let until = streak.until_unix_ns.expect("it ended");
        assert!(until > streak.since_unix_ns, "{streak:?}");
        let lost: u64 = sum.streaks.values().map(|streak| streak.failures).sum();
        assert!(sum.counts.lost >= lost);
        // Open loop: there was a probe for each interval of the outage, or it was counted as missed.
        let intervals = (until - streak.since_unix_ns) / 20_000_000;
        let slots = streak.failures + sum.counts.missed;
        assert!(slots.abs_diff(intervals) <= 2 + sum.counts.missed, "{streak:?}, {:?}", sum.counts);
        assert!(sum.counts.errors.is_empty(), "silence is no error: {:?}", sum.counts);
    }
    world.agent.stop_probing().await;
}

fn unix_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_nanos() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_reasons() {
    let Some(world) = World::new() else { return };
    run(&format!("ip -n {} route add unreachable 10.9.1.77/32", world.netns("node")));
    let probes = vec![
        probe(&world, 1, Protocol::Tcp),
        probe(&world, 2, Protocol::Udp),
        Probe { address: "10.8.0.1".parse().unwrap(), ..probe(&world, 3, Protocol::Icmp) },
    ];
    // Allowed, but the node has no route there: it says so.
    run(&format!("ip -n {} route add prohibit 10.8.0.0/24", world.netns("node")));
    assert_eq!(order(&world, &ProbePlan { probes, responders: vec![] }, 60_000).await, []);
    let mut sums = BTreeMap::new();
    // Kernels send such errors about once a second at most.
    let known = |sum: &Sum| !sum.counts.errors.is_empty();
    until(&world, &mut sums, |sums| sums.len() == 3 && sums.values().all(known)).await;
    let reason = |id: u64| sums[&id].counts.errors.keys().next().unwrap().clone();
    assert_eq!([reason(1), reason(2)], ["connection refused", "connection refused"]);
    assert_eq!(reason(3), "no route to host");
    assert!(sums.values().all(|sum| sum.counts.received == 0));
    world.agent.stop_probing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_possible_is_refused_and_the_rest_is_done() {
    let Some(world) = World::new() else { return };
    let taken = inside(&world, "server", || std::net::UdpSocket::bind(("0.0.0.0", PORT))).unwrap();
    let plan = ProbePlan {
        probes: vec![
            probe(&world, 1, Protocol::Icmp),
            Probe { address: "8.8.8.8".parse().unwrap(), ..probe(&world, 2, Protocol::Icmp) },
            Probe { netns: "elsewhere".into(), ..probe(&world, 3, Protocol::Icmp) },
            Probe { interval_us: 1, ..probe(&world, 4, Protocol::Icmp) },
        ],
        responders: vec![responder(&world, "server")],
    };
    let refusals = order(&world, &plan, 60_000).await;
    let why = |id: Option<u64>| {
        let found = refusals.iter().find(|refusal| refusal.probe.map(|id| id.0) == id);
        found.map(|refusal| refusal.why.as_str()).unwrap_or_default()
    };
    assert!(why(Some(2)).contains("neither in the inventory nor allowed"), "{refusals:?}");
    assert!(why(Some(3)).contains("elsewhere"), "{refusals:?}");
    assert!(why(Some(4)).contains("shorter than"), "{refusals:?}");
    assert!(why(None).contains("in use"), "{refusals:?}");
    assert_eq!(refusals.len(), 4);
    let mut sums = BTreeMap::new();
    until(&world, &mut sums, |sums| sums.get(&1).is_some_and(|sum| sum.counts.received > 3)).await;
    assert_eq!(sums.len(), 1);
    drop(taken);

    let malformed = rpc::ProbeWork { plan_json: b"{".to_vec(), lease_ms: 1000 };
    assert!(world.agent.probe(&malformed).await.unwrap_err().to_string().contains("plan"));
    let forever = rpc::ProbeWork { plan_json: br#"{"probes":[]}"#.to_vec(), lease_ms: u32::MAX };
    assert!(world.agent.probe(&forever).await.unwrap_err().to_string().contains("lease"));
    world.agent.stop_probing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_plan_replaces_the_old_and_counts_go_on() {
    let Some(world) = World::new() else { return };
    let (kept, ended) = (probe(&world, 1, Protocol::Icmp), probe(&world, 2, Protocol::Icmp));
    let plan = ProbePlan { probes: vec![kept.clone(), ended], responders: vec![] };
    order(&world, &plan, 60_000).await;
    // Nobody asks for reports meanwhile; the counts of what stays are there afterwards.
    run(&format!("ip netns exec {} ping -c 10 -i 0.05 10.9.2.2", world.netns("client")));
    let added = Probe { destination: "other".to_owned(), ..probe(&world, 3, Protocol::Icmp) };
    order(&world, &ProbePlan { probes: vec![kept.clone(), added], responders: vec![] }, 60_000).await;
    let mut sums = BTreeMap::new();
    until(&world, &mut sums, |sums| sums.get(&3).is_some_and(|sum| sum.counts.received > 0)).await;
    assert!(!sums.contains_key(&2));
    let counts = &sums[&1].counts;
    assert!(counts.sent + counts.missed > 10, "{counts:?}");

    // One that goes elsewhere keeps its counts too.
    let moved = Probe { address: "10.9.1.1".parse().unwrap(), ..kept };
    let sent = sums[&1].counts.sent;
    order(&world, &ProbePlan { probes: vec![moved], responders: vec![] }, 60_000).await;
    until(&world, &mut sums, |sums| sums[&1].counts.sent > sent + 5).await;

    order(&world, &ProbePlan::default(), 60_000).await;
    assert_eq!(world.agent.probe_reports().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_ends_with_its_lease_and_leaves_no_socket() {
    let Some(world) = World::new() else { return };
    let plan = ProbePlan {
        probes: vec![probe(&world, 1, Protocol::Icmp), probe(&world, 2, Protocol::Tcp)],
        responders: vec![responder(&world, "server")],
    };
    let sockets = |part: &str| {
        let netns = world.netns(part);
        ["-lnuH", "-lnwH"].map(|kind| run(&format!("ip netns exec {netns} ss {kind}"))).concat()
    };
    assert_eq!(order(&world, &plan, 200).await, []);
    let mut sums = BTreeMap::new();
    until(&world, &mut sums, |sums| sums.get(&1).is_some_and(|sum| sum.counts.received > 0)).await;
    assert!(sockets("server").contains(&PORT.to_string()), "{}", sockets("server"));

    // A controller that comes back in time keeps it alive.
    world.agent.begin_probe_lease().await;
    assert_eq!(order(&world, &plan, 200).await, []);
    let sent = sums[&1].counts.sent;
    until(&world, &mut sums, |sums| sums[&1].counts.sent > sent + 15).await;

    // One that does not lets it end, and what was counted until then stays to be asked for.
    world.agent.begin_probe_lease().await;
    world.agent.begin_probe_lease().await;
    let ended = async {
        while !sockets("server").is_empty() || !sockets("client").is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.expect("the lease ends");
    assert_eq!(world.agent.probe_reports().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_is_probed_alike() {
    let Some(mut world) = World::new() else { return };
    let node = world.netns("node");
    for (part, device, number) in [("client", "vc", 1), ("server", "vs", 2)] {
        let pod = world.netns(part);
        run(&format!("ip -n {node} addr add fd09:{number}::1/64 dev {device} nodad"));
        run(&format!("ip -n {pod} addr add fd09:{number}::2/64 dev eth0 nodad"));
        run(&format!("ip -n {pod} route add default via fd09:{number}::1"));
    }
    run(&format!("ip netns exec {node} sysctl -q -w net.ipv6.conf.all.forwarding=1"));
    // Once the addresses can be used.
    run(&format!("ip netns exec {} ping -c 1 -w 60 fd09:2::2", world.netns("client")));
    let _listener = inside(&world, "server", || TcpListener::bind(("::", PORT))).unwrap();
    // The inventory has no addresses of this family: they are allowed.
    let limits = Limits { allow: vec!["fd09::/16".parse().unwrap()], ..Limits::default() };
    world.agent = Agent::with_limits(&world.inventory, "node".into(), limits).unwrap();
    let address = "fd09:2::2".parse().unwrap();
    let protocols = (1..).zip([Protocol::Icmp, Protocol::Udp, Protocol::Tcp]);
    let probes = protocols.map(|(id, protocol)| Probe { address, ..probe(&world, id, protocol) }).collect();
    let plan = ProbePlan { probes, responders: vec![responder(&world, "server")] };
    assert_eq!(order(&world, &plan, 60_000).await, []);
    until_timed(&world, 3).await;
    let mut sums = BTreeMap::new();
    until(&world, &mut sums, |sums| sums.len() == 3 && sums.values().all(|sum| sum.counts.received > 5))
        .await;
    let by_agent = sums.values().flat_map(|sum| &sum.clocks).filter(|clock| **clock == Clock::Agent).count();
    assert_eq!(by_agent, 0, "the kernel times them all");
    world.agent.stop_probing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_targets_lose_nothing() {
    let Some(world) = World::new() else { return };
    let _listener = inside(&world, "server", || TcpListener::bind(("0.0.0.0", PORT))).unwrap();
    let kinds = [Protocol::Icmp, Protocol::Udp, Protocol::Tcp];
    let many = |id: u64| Probe {
        interval_us: 500_000,
        timeout_us: 5_000_000,
        destination: format!("target {id}"),
        ..probe(&world, id, kinds[id as usize % 3])
    };
    let plan =
        ProbePlan { probes: (0..600).map(many).collect(), responders: vec![responder(&world, "server")] };
    assert_eq!(order(&world, &plan, 60_000).await, []);
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    let mut sums = BTreeMap::new();
    until(&world, &mut sums, |sums| sums.len() == 600 && sums.values().all(|sum| sum.counts.received >= 3))
        .await;
    let lost: u64 = sums.values().map(|sum| sum.counts.lost).sum();
    assert_eq!(lost, 0);
    assert!(sums.values().any(Sum::settled), "not all of them are on their way");
    assert!(threads < 100, "{threads} threads");
    world.agent.stop_probing().await;
}

#[test]
fn ping_is_there() {
    assert!(
        Command::new("ping").arg("-V").output().is_ok(),
        "the oracle of these tests: install iputils-ping"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_what_prometheus_reads() {
    use prometheus_parse::{Scrape, Value};
    let Some(world) = World::new() else { return };
    let strange =
        |id| Probe { watch: "a \"strange\"\nname\\".to_owned(), ..probe(&world, id, Protocol::Icmp) };
    let plan = ProbePlan { probes: vec![strange(1), probe(&world, 2, Protocol::Tcp)], responders: vec![] };
    order(&world, &plan, 60_000).await;
    let mut sums = BTreeMap::new();
    let ready = |sums: &BTreeMap<u64, Sum>| {
        sums.len() == 2 && sums[&1].counts.received > 2 && sums[&2].counts.lost > 3
    };
    until(&world, &mut sums, ready).await;
    let served =
        world.agent.metrics().serve("127.0.0.1:0".parse().unwrap(), world.agent.node()).await.unwrap();
    let scrape = || {
        let text = http_get(served);
        assert!(text.ends_with("# EOF\n"), "{text}");
        Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap().samples
    };
    let samples = scrape();
    let find = |name: &str, protocol: &str| {
        let mut all = samples.iter().filter(|sample| sample.metric == name);
        let found = all.find(|sample| sample.labels.get("protocol") == Some(protocol));
        found.unwrap_or_else(|| panic!("no {name} of {protocol} in {samples:?}"))
    };
    let count = |name: &str, protocol: &str| match find(name, protocol).value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
        ref other => panic!("{name} is {other:?}"),
    };
    assert!(count("waymark_probe_sent_total", "icmp") >= 3.0);
    assert!(count("waymark_probe_received_total", "icmp") >= 3.0);
    assert!(count("waymark_probe_lost_total", "tcp") >= 4.0);
    assert!((count("waymark_probe_outage", "tcp") - 1.0).abs() < f64::EPSILON);
    assert!(count("waymark_probe_outage", "icmp").abs() < f64::EPSILON);
    let Value::Histogram(buckets) = &find("waymark_probe_rtt_seconds", "icmp").value else {
        panic!("round-trip times are a histogram")
    };
    assert_eq!(buckets.len(), 18, "50 µs × 2^k, and infinity: {buckets:?}");
    assert!((buckets[0].less_than - 50e-6).abs() < 1e-9);
    assert!(buckets.last().unwrap().count >= 3.0);
    assert!(samples.iter().any(|sample| sample.metric == "waymark_agent_info"));

    // Series end with their targets.
    order(&world, &ProbePlan { probes: vec![strange(1)], responders: vec![] }, 60_000).await;
    assert!(scrape().iter().all(|sample| sample.labels.get("protocol") != Some("tcp")));

    // Beyond the limit there is one for all the rest.
    let many = |id: u64| Probe {
        destination: format!("target {id}"),
        interval_us: 60_000_000,
        ..probe(&world, id, Protocol::Icmp)
    };
    let probes = (0..waymark_prober::watch::SERIES as u64 + 50).map(many).collect();
    order(&world, &ProbePlan { probes, responders: vec![] }, 60_000).await;
    let samples = scrape();
    let series = samples.iter().filter(|sample| sample.metric == "waymark_probe_sent_total");
    let watches: Vec<_> = series.filter_map(|sample| sample.labels.get("watch")).collect();
    assert_eq!(watches.len(), waymark_prober::watch::SERIES + 1);
    assert_eq!(watches.iter().filter(|watch| **watch == "overflow").count(), 1);

    let again = world.agent.metrics().serve(served, world.agent.node()).await.unwrap_err().to_string();
    assert!(again.contains("--metrics") && again.contains("in use"), "{again}");
    world.agent.stop_probing().await;
}

/// The page of metrics. A connection that is closed ends it.
fn http_get(address: std::net::SocketAddr) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    body.to_owned()
}
