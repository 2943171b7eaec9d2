//! How long a check takes, beside `ping` on the same path in the same run: absolute times are those of the machine,
//! the ratios are not. Fails if a ratio is above its limit.
//!
//! A check sends its packets five times as fast as `ping` may, and so has answered long before `ping`. Many at once are
//! bound by processors, not by time. They are asked for as programs do it, over the API, and have to be done within five
//! times what one takes; and by as many commands, whose starting takes processors, too: how these stand to one is
//! printed, and they have to be done within five times what one may take, which is the time of `ping`. On a path on which
//! packets vanish and nobody reports it stragglers are waited for, as `ping` does too.
//!
//! `make bench-check` runs it, as root: it brings a testbed of its own up and takes it down.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::runtime::Runtime;
use waymark_prober::netns::Netns;
use waymark_proto::rpc::waymark_client::WaymarkClient;
use waymark_proto::rpc::{CheckRequest, check_event};
use waymark_proto::{CheckResult, Dial, Inventory, Plaintext, Pod, Verdict};

/// The client, the controller and the agents are beside it.
const TESTBED: &str = env!("CARGO_BIN_EXE_waymark-testbed");
/// Packets of a check, and of `ping`.
const COUNT: &str = "10";
/// How often each is measured, in turn; the median counts.
const ROUNDS: usize = 11;
/// Checks at once.
const AT_ONCE: usize = 200;
/// How often those are measured, and single ones between them.
const ROUNDS_AT_ONCE: usize = 5;
const ONES_BETWEEN: usize = 3;

/// The time between packets that makes a check take as long as `ping`, with what it does beside sending.
const PING_PACE: &str = "35ms";

/// How fast a check sends.
#[derive(Clone, Copy)]
enum Pace {
    Own,
    OfPing,
}

/// A testbed as long as this value.
struct Testbed {
    name: String,
}

impl Testbed {
    fn up() -> Self {
        let testbed = Self { name: format!("bench-{}", std::process::id()) };
        testbed.run(&["up", "--dataplane", "bridge-vxlan"]);
        testbed
    }

    /// Runs the testbed's program on this instance.
    fn run(&self, args: &[&str]) -> Output {
        let output = Command::new(TESTBED).args(args).env("WAYMARK_TESTBED", &self.name).output();
        let output = output.expect("the testbed's program starts");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn inventory(&self) -> Inventory {
        let output = self.run(&["status", "-o", "json"]);
        serde_json::from_slice(&output.stdout).expect("the status is an inventory")
    }

    fn controller(&self) -> String {
        format!("unix:/run/waymark/testbed/{}/controller.sock", self.name)
    }

    /// `waymark check` between two pods, with as many packets as `ping` sends.
    fn check(&self, from: &Pod, to: &Pod, pace: Pace) -> Command {
        let mut command = Command::new(Path::new(TESTBED).with_file_name("waymark"));
        command.args(["check", &pod(from), &pod(to), "--proto", "icmp", "--count", COUNT, "-o", "json"]);
        if let Pace::OfPing = pace {
            command.args(["--interval", PING_PACE]);
        }
        command.arg("--controller").arg(self.controller());
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        let down = Command::new(TESTBED).arg("down").env("WAYMARK_TESTBED", &self.name).status();
        if !down.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("`waymark-testbed down --name {}` is left to do: {down:?}", self.name);
        }
    }
}

fn pod(pod: &Pod) -> String {
    format!("pod/{}/{}", pod.namespace, pod.name)
}

/// How long a command takes, from its start to its end, and what it says.
fn timed(mut command: Command) -> (Duration, Output) {
    let started = Instant::now();
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    (started.elapsed(), output)
}

/// `ping` in the namespace of the pod that a check sends from, with an answer to each packet or to none.
fn ping(from: &Pod, to: &Pod, answered: bool) -> Duration {
    let inside = Netns::open(&from.netns).expect("the pod has a namespace");
    let mut command = Command::new("ping");
    command.args(["-q", "-c", COUNT, "-i", "0.05", &to.ip.to_string()]);
    let (took, output) = inside.run(|| timed(command)).expect("root enters namespaces");
    assert_eq!(output.status.success(), answered, "{}", String::from_utf8_lossy(&output.stdout));
    took
}

/// A check that must end in this verdict.
fn check(testbed: &Testbed, (from, to): (&Pod, &Pod), pace: Pace, verdict: Verdict) -> Duration {
    let (took, output) = timed(testbed.check(from, to, pace));
    assert_eq!(verdict_of(&output), verdict, "{}", String::from_utf8_lossy(&output.stdout));
    took
}

fn verdict_of(output: &Output) -> Verdict {
    let result: CheckResult = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    result.verdict
}

/// As many checks as pairs, all started at once; until the last has ended.
fn at_once(testbed: &Testbed, pairs: &[(&Pod, &Pod)], pace: Pace) -> Duration {
    let started = Instant::now();
    let start = |(from, to): &(&Pod, &Pod)| {
        let mut command = testbed.check(from, to, pace);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let children: Vec<Child> = pairs.iter().map(start).collect();
    // A result is longer than a pipe holds: somebody has to read each meanwhile.
    let read = |child: Child| std::thread::spawn(|| child.wait_with_output().expect("it ends"));
    let readers: Vec<_> = children.into_iter().map(read).collect();
    let outputs: Vec<Output> = readers.into_iter().map(|reader| reader.join().expect("it reads")).collect();
    let took = started.elapsed();
    for output in outputs {
        assert_eq!(verdict_of(&output), Verdict::Reachable, "{}", String::from_utf8_lossy(&output.stdout));
    }
    took
}

/// As many checks as pairs, all asked for at once by one client of the API; until the last has answered.
fn asked_at_once(testbed: &Testbed, pairs: &[(&Pod, &Pod)]) -> Duration {
    let runtime = Runtime::new().expect("the runtime starts");
    let endpoint = testbed.controller().parse().expect("an address");
    let dial = Dial::new(endpoint, None, Plaintext::Refused).expect("a socket needs no certificates");
    runtime.block_on(async {
        let channel = dial.connect().await.expect("the controller is there");
        let client = WaymarkClient::new(channel);
        let started = Instant::now();
        let answers = pairs.iter().map(|(from, to)| {
            let request = CheckRequest {
                source: pod(from),
                destination: pod(to),
                protocol: "icmp".to_owned(),
                count: COUNT.parse().expect("a number"),
                ..Default::default()
            };
            let mut client = client.clone();
            async move {
                let mut events = client.check(request).await.expect("it is taken").into_inner();
                loop {
                    let event = events.message().await.expect("it goes on").expect("it ends with a result");
                    if let Some(check_event::Body::ResultJson(json)) = event.body {
                        return serde_json::from_slice::<CheckResult>(&json).expect("a result");
                    }
                }
            }
        });
        let results = join_all(answers).await;
        let took = started.elapsed();
        for result in results {
            assert_eq!((result.verdict, result.lost_events), (Verdict::Reachable, 0), "{result:#?}");
        }
        took
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Prints a line, and says whether the ratio is within its limit.
fn row(what: &str, took: Duration, reference: Duration, limit: Option<f64>) -> bool {
    let ratio = took.as_secs_f64() / reference.as_secs_f64();
    let bound = limit.map_or_else(String::new, |limit| format!("≤ {limit}"));
    println!("{what:44} {:>8.1} ms {ratio:>7.2} {bound:>6}", took.as_secs_f64() * 1e3);
    limit.is_none_or(|limit| ratio <= limit)
}

fn main() -> ExitCode {
    let testbed = Testbed::up();
    let inventory = testbed.inventory();
    let cross: Vec<(&Pod, &Pod)> = inventory
        .pods
        .iter()
        .flat_map(|from| inventory.pods.iter().map(move |to| (from, to)))
        .filter(|(from, to)| from.node != to.node)
        .collect();
    // The pods between which the faults of the catalogue lie.
    let named = |name: &str| cross.iter().find(|(from, to)| (&*from.name, &*to.name) == ("cart", name));
    let (from, to) = *named("pay-1").expect("the default topology has both");

    let mut fine = true;
    println!(
        "{:44} {:>11} {:>7} {:>6}",
        "10 packets between two nodes, over VXLAN", "median", "ratio", "limit"
    );
    // Once for what is only done once: the first check reads the drop reasons' names.
    check(&testbed, (from, to), Pace::Own, Verdict::Reachable);
    let (mut pings, mut own, mut of_ping) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        pings.push(ping(from, to, true));
        own.push(check(&testbed, (from, to), Pace::Own, Verdict::Reachable));
        of_ping.push(check(&testbed, (from, to), Pace::OfPing, Verdict::Reachable));
    }
    let [ping_takes, one, slow] = [pings, own, of_ping].map(median);
    row("ping -c 10 -i 0.05", ping_takes, ping_takes, None);
    fine &= row("waymark check", one, ping_takes, Some(1.0));
    fine &= row("waymark check, sending every 35 ms", slow, ping_takes, Some(1.0));
    let broken = |fault: &str, with_ping: bool| {
        testbed.run(&["fault", "inject", fault]);
        let times = (0..ROUNDS).map(|_| check(&testbed, (from, to), Pace::Own, Verdict::Unreachable));
        let took = median(times.collect());
        let pinged = with_ping.then(|| ping(from, to, false));
        testbed.run(&["fault", "clear", fault]);
        (took, pinged)
    };
    let (dropped, _) = broken("forward-drop", false);
    fine &= row("waymark check, dropped by a rule", dropped, ping_takes, Some(2.0));
    let (lost, pinged) = broken("underlay-drop", true);
    fine &= row("waymark check, lost on the way, beside ping", lost, pinged.unwrap_or(ping_takes), Some(2.0));

    let pairs: Vec<_> = cross.iter().copied().cycle().take(AT_ONCE).collect();
    let one_of = |pace| check(&testbed, (from, to), pace, Verdict::Reachable);
    let beside = |pace, all: &dyn Fn() -> Duration| {
        let (mut ones, mut together) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS_AT_ONCE {
            ones.extend((0..ONES_BETWEEN).map(|_| one_of(pace)));
            together.push(all());
        }
        (median(together), median(ones))
    };
    let (asked, one) = beside(Pace::Own, &|| asked_at_once(&testbed, &pairs));
    fine &= row("200 at once over the API, beside one", asked, one, Some(5.0));
    let (commands, one) = beside(Pace::Own, &|| at_once(&testbed, &pairs, Pace::Own));
    fine &= row("200 commands at once, beside ping", commands, ping_takes, Some(5.0));
    row("200 commands at once, beside one", commands, one, None);
    let (slowly, slow) = beside(Pace::OfPing, &|| at_once(&testbed, &pairs, Pace::OfPing));
    row("200 commands, sending every 35 ms", slowly, slow, None);
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
