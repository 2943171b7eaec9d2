//! Every fault breaks its traffic, and its undoing heals it and leaves nothing behind.

mod common;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::traffic::{PATIENT, SHORT, ask};
use common::{Testbed, privileged, text};
use socket2::{Domain, Socket, Type};
use waymark_prober::netns::Netns;
use waymark_proto::{NetnsName, Verdict};
use waymark_testbed::{Cluster, Dataplane, Fault, Probe, Proxy, faults};

/// How long the kernel may take to bring up again what was down.
const LIMIT: Duration = Duration::from_secs(60);

/// What a fault could leave behind, by namespace: rules, routes, addresses, devices, neighbours and forwarding entries
/// that were set by hand, queues, settings.
fn configuration(testbed: &Testbed, cluster: &Cluster) -> Vec<String> {
    const COMMANDS: &str = "nft -s list ruleset; iptables-nft-save; ip -4 route show table all; \
        ip -6 route show table all; ip -br address; ip neigh show nud permanent; \
        bridge fdb show | grep 'self\\|static\\|permanent'; \
        bridge -d link | grep -o 'master.*\\|hairpin o[nf]*'; tc qdisc; cd /proc/sys/net/ipv4; \
        grep . ip_forward conf/*/rp_filter conf/*/forwarding";
    let mut all = Vec::new();
    let nodes = cluster.nodes.iter().map(|node| node.name.clone());
    let pods = cluster.pods.iter().map(|pod| pod.full_name.clone());
    for target in nodes.chain(pods).chain(["fabric".into()]) {
        let listed = testbed.succeed(&["exec", &target, "--", "sh", "-c", COMMANDS]);
        let mut lines: Vec<_> = listed.lines().filter(|line| !line.starts_with('#')).map(plain).collect();
        lines.sort();
        all.extend(lines.into_iter().map(|line| format!("{target}: {line}")));
    }
    all
}

/// The same once it is as it was before; else as it is when the time is over. Links come up, and get addresses of
/// their own, after the command that asks for it.
fn back_to(before: &[String], testbed: &Testbed, cluster: &Cluster) -> Vec<String> {
    let end = Instant::now() + LIMIT;
    loop {
        let now = configuration(testbed, cluster);
        if now == before || Instant::now() > end {
            return now;
        }
    }
}

/// The same once it does not change any more.
fn at_rest(testbed: &Testbed, cluster: &Cluster) -> Vec<String> {
    let end = Instant::now() + LIMIT;
    let mut last = configuration(testbed, cluster);
    loop {
        let now = configuration(testbed, cluster);
        if now == last {
            return now;
        }
        assert!(Instant::now() < end, "it changes all the time: {last:#?}, then {now:#?}");
        last = now;
    }
}

/// Without the counters of `iptables-save`, and without interface indices, which a device that was made
/// anew does not get back.
fn plain(line: &str) -> String {
    let line = line.split('[').next().unwrap_or(line);
    line.split_whitespace().filter(|word| !word.starts_with('@')).collect::<Vec<_>>().join(" ")
}

/// What nodes and the ends of a probe know of packets, for traffic that fails where nothing is broken.
fn traces(testbed: &Testbed, cluster: &Cluster, probe: &Probe) -> String {
    const COMMANDS: &str = "nstat -as; ss -tani; ip neigh; ip route show cache; ip -s link; \
        cat /proc/net/nf_conntrack; iptables-nft-save -c | grep -v '\\[0:0\\]'";
    let names = [&probe.from, &probe.to].map(|end| {
        let name = end.split_once('/').map_or("", |(_, name)| name);
        name.split(':').next().unwrap_or_default().to_owned()
    });
    let nodes = cluster.nodes.iter().map(|node| node.name.clone());
    let ends = names.into_iter().filter(|name| cluster.pods.iter().any(|pod| pod.full_name == *name));
    let all = nodes.chain(ends).chain(["fabric".to_owned()]);
    let told = all.map(|target| {
        let output = testbed.run(&["exec", &target, "--", "sh", "-c", COMMANDS]);
        format!("{target}:\n{}", text(&output.stdout))
    });
    told.collect::<Vec<_>>().join("\n")
}

/// What a fault, with its undoing, does wrong; nothing in a good one.
fn break_and_heal(testbed: &Testbed, cluster: &Cluster, fault: &'static Fault) -> Result<(), String> {
    let probe = fault.probe(cluster).unwrap();
    let works = |when| match ask(cluster, &probe, PATIENT) {
        Err(error) if !fault.is_lasting() => {
            let traces = traces(testbed, cluster, &probe);
            Err(format!("{when} {}: {probe}: {error}\n{traces}", fault.name))
        }
        _ => Ok(()),
    };
    works("before")?;
    let command = |what: &str| {
        let output = testbed.run(&["fault", what, &fault.name]);
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{what} {}: {}", fault.name, text(&output.stderr)))
        }
    };
    command("inject")?;
    // What is late, or comes twice, still comes.
    let limit = if fault.is_verdict(Verdict::Reachable) { PATIENT } else { SHORT };
    let asked = ask(cluster, &probe, limit);
    command("clear")?;
    // What stops only some packets may let this one pass, or not.
    match asked {
        Ok(()) if fault.is_verdict(Verdict::Unreachable) && !fault.is_verdict(Verdict::Reachable) => {
            return Err(format!("{} does not break {probe}", fault.name));
        }
        Err(error) if fault.is_verdict(Verdict::Reachable) => {
            return Err(format!("{} breaks {probe}: {error}", fault.name));
        }
        _ => {}
    }
    works("after")
}

#[track_caller]
fn faults_break_and_heal(args: &[&str], wanted: fn(&Fault) -> bool) {
    if !privileged("injecting faults") {
        return;
    }
    let testbed = Testbed::up(args);
    let (instance, cluster) = (testbed.instance(), testbed.cluster());
    let before = at_rest(&testbed, &cluster);
    let applies = |fault: &&'static Fault| fault.is_for(cluster.dataplane, cluster.proxy) && wanted(fault);
    let mut problems = Vec::new();
    let mut injected = Vec::new();
    let mut faults = faults().filter(applies).peekable();
    while let Some(fault) = faults.next() {
        problems.extend(break_and_heal(&testbed, &cluster, fault).err());
        if !instance.state().unwrap().faults.is_empty() {
            // Nothing that comes now would mean anything.
            break;
        }
        injected.push(fault.name.as_str());
        // Looking at everything costs more than a fault: once per category must do.
        if faults.peek().is_some_and(|next| next.category == fault.category) {
            continue;
        }
        let after = back_to(&before, &testbed, &cluster);
        let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        if !(gone.is_empty() && new.is_empty() && before.len() == after.len()) {
            problems.push(format!("{injected:?} leave {new:#?} and take {gone:#?}"));
        }
        injected.clear();
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(instance.state().unwrap().faults.is_empty());
}

/// What is for the other dataplane with a bridge too is tried there.
#[test]
fn bridge_hostgw() {
    let own = |fault: &Fault| fault.in_subset() || !fault.is_for(Dataplane::BridgeVxlan, Proxy::Iptables);
    faults_break_and_heal(&["--dataplane", "bridge-hostgw"], own);
}

#[test]
fn bridge_vxlan() {
    faults_break_and_heal(&["--dataplane", "bridge-vxlan"], |_| true);
}

#[test]
fn routed() {
    faults_break_and_heal(&["--dataplane", "routed"], |_| true);
}

#[test]
fn with_services_by_nftables() {
    let of_services = |fault: &Fault| fault.category == "service" || fault.in_subset();
    faults_break_and_heal(&["--dataplane", "bridge-vxlan", "--proxy", "nftables"], of_services);
}

#[test]
fn a_guard_undoes_its_fault() {
    if !privileged("injecting faults") {
        return;
    }
    let testbed = Testbed::up(&[]);
    let (instance, cluster) = (testbed.instance(), testbed.cluster());
    let before = at_rest(&testbed, &cluster);
    let forward = instance.inject(waymark_testbed::fault("forward-drop").unwrap()).unwrap();
    let route = instance.inject(waymark_testbed::fault("blackhole-route").unwrap()).unwrap();
    assert_ne!(configuration(&testbed, &cluster), before);
    // In another order than they came.
    drop(forward);
    drop(route);
    assert_eq!(back_to(&before, &testbed, &cluster), before);
}

/// The kernel goes on translating a connection as a rule had it that is gone, and a port comes again.
#[test]
fn what_a_rule_did_to_a_connection_is_forgotten_with_it() {
    if !privileged("injecting faults") {
        return;
    }
    let testbed = Testbed::up(&[]);
    let cluster = testbed.cluster();
    let name = "dnat-to-nobody";
    let probe = waymark_testbed::fault(name).unwrap().probe(&cluster).unwrap();
    let pod = |end: &str| {
        let end = end.strip_prefix("pod/").unwrap();
        cluster.pods.iter().find(|pod| pod.full_name == end).unwrap()
    };
    let (name_to, port) = probe.to.split_once(':').unwrap();
    let (from, to) = (pod(&probe.from), SocketAddr::from((pod(name_to).ip, port.parse().unwrap())));
    let connect = |limit| {
        let netns = Netns::open(&NetnsName::from(from.netns.as_str())).unwrap();
        let connect = || -> io::Result<()> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((from.ip, 40_000)).into())?;
            socket.connect_timeout(&to.into(), limit)
        };
        netns.run(connect).unwrap()
    };
    testbed.succeed(&["fault", "inject", name]);
    assert_eq!(connect(SHORT).unwrap_err().kind(), io::ErrorKind::TimedOut);
    testbed.succeed(&["fault", "clear", name]);
    connect(PATIENT).unwrap();
}

/// A leg that loses everything loses nothing of another family, of another node, or of the other way.
#[test]
fn an_impaired_leg_is_the_only_one() {
    if !privileged("injecting faults") {
        return;
    }
    let testbed = Testbed::up(&["--dataplane", "routed"]);
    let cluster = testbed.cluster();
    let name = "impaired-loss-100-percent";
    let lost = waymark_testbed::fault(name).unwrap().probe(&cluster).unwrap();
    testbed.succeed(&["fault", "inject", name]);
    ask(&cluster, &lost, SHORT).unwrap_err();
    let pod = |name: &str| cluster.pods.iter().find(|pod| format!("pod/{}", pod.full_name) == name).unwrap();
    let (from, to) = (pod(&lost.from), pod(lost.to.split(':').next().unwrap()));
    let third =
        cluster.pods.iter().find(|pod| ![from.node, to.node].contains(&pod.node) && !pod.tcp.is_empty());
    let third = third.unwrap();
    let end = |pod: &waymark_testbed::PodPlan| format!("pod/{}", pod.full_name);
    let listens = |pod: &waymark_testbed::PodPlan| format!("{}:{}", end(pod), pod.tcp[0]);
    for (probe, what) in [
        (Probe { ipv6: true, ..lost.clone() }, "another family"),
        (Probe { to: listens(third), ..lost.clone() }, "another node"),
        (Probe { from: end(third), ..lost.clone() }, "from another node"),
    ] {
        ask(&cluster, &probe, PATIENT).unwrap_or_else(|error| panic!("{what}: {probe}: {error}"));
    }
    testbed.succeed(&["fault", "clear", name]);
    ask(&cluster, &lost, PATIENT).unwrap();
}

/// A relay that is killed takes its device with it; undoing takes the rest, and `down` a relay that lives.
#[test]
fn a_relay_leaves_nothing_behind() {
    if !privileged("injecting faults") {
        return;
    }
    let testbed = Testbed::up(&[]);
    let (instance, cluster) = (testbed.instance(), testbed.cluster());
    let before = at_rest(&testbed, &cluster);
    let name = "impaired-delay";
    let probe = waymark_testbed::fault(name).unwrap().probe(&cluster).unwrap();
    let relay = || {
        let processes = instance.processes().into_iter();
        processes.filter(|(role, _)| role == "fault-impaired-delay").find_map(|(_, pid)| pid)
    };
    testbed.succeed(&["fault", "inject", name]);
    ask(&cluster, &probe, PATIENT).unwrap();
    let pid = rustix::process::Pid::from_raw(relay().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    testbed.succeed(&["fault", "clear", name]);
    assert_eq!(back_to(&before, &testbed, &cluster), before);
    assert!(!instance.processes().iter().any(|(role, _)| role.starts_with("fault-")));

    testbed.succeed(&["fault", "inject", name]);
    let pid = relay().unwrap();
    testbed.succeed(&["down"]);
    assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
    assert_eq!(testbed.leftovers(), [""; 0]);
}

#[test]
fn wrong_commands_change_nothing() {
    if !privileged("injecting faults") {
        return;
    }
    let testbed = Testbed::up(&["--dataplane", "routed"]);
    assert!(testbed.fail(3, &["fault", "inject", "wrong-vni"]).contains("not for the routed dataplane"));
    assert!(testbed.fail(3, &["fault", "inject", "gremlins"]).contains("fault list"));
    assert!(testbed.fail(3, &["fault", "clear", "forward-drop"]).contains("not injected"));
    assert!(testbed.succeed(&["fault", "clear"]).contains("nothing"));
    testbed.succeed(&["fault", "inject", "forward-drop"]);
    assert!(testbed.fail(3, &["fault", "inject", "forward-drop"]).contains("already injected"));
    let list = testbed.run(&["fault", "list"]);
    assert!(text(&list.stdout).contains("forward-drop (injected)"));
    assert_eq!(testbed.instance().state().unwrap().faults.len(), 1);
}
