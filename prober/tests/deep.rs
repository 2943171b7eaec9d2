//! Functions of the kernel and what they answer. Where a kernel lets none be watched, that is what is tested.

mod world;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use waymark_prober::tracer::{ArmSpec, Traced, Tracer};
use waymark_proto::{CheckId, Event, Hook, HookReport, HookSet, Observability, Protocol, Sighting};
use world::{KEY, World, in_guest, privileged, run};

/// Whether this kernel lets functions be watched, by who tells about hooks: those of the guests do, hardened ones do not.
fn functions_are_watched(reports: &[HookReport]) -> bool {
    let watched = reports.iter().any(|report| match &report.observability {
        Observability::Observed { provider } => is_function(provider),
        Observability::NotObservable { .. } => false,
    });
    assert!(watched || !in_guest(), "the kernels of guests let functions be watched: {reports:#?}");
    watched
}

/// Whether a function is among those who tell.
fn is_function(provider: &str) -> bool {
    ["probe/", "fentry/", "fexit/"].iter().any(|way| provider.contains(way))
}

/// `node route fib_validate_source EXDEV` for each call that was seen of the packet, in order.
fn calls(world: &World, sightings: &[Sighting]) -> Vec<String> {
    let mut calls: Vec<(u64, String)> = Vec::new();
    for sighting in sightings {
        let Event::Called { function, answer } = &sighting.event else { continue };
        let part = world.part(&sighting.place.netns);
        let answer = answer.as_deref().unwrap_or("is called");
        calls.push((sighting.at_ns, format!("{part} {} {function} {answer}", sighting.hook)));
    }
    calls.sort();
    calls.into_iter().map(|(_, call)| call).collect()
}

#[track_caller]
fn assert_called(calls: &[String], expected: &[&str]) {
    let mut rest = calls.iter();
    for step in expected {
        assert!(
            rest.any(|call| call == step),
            "{step} is not among, or not in its turn:\n{}",
            calls.join("\n")
        );
    }
}

/// The client has another address, and need not ask for that of its next hop, which might not answer who has it.
fn send_from(world: &World, address: &str) {
    let (client, node) = (world.netns("client"), world.netns("node"));
    run(&format!("ip -n {client} addr add {address}/32 dev lo"));
    let link = run(&format!("ip -n {node} -br link show dev vc"));
    let mac = link.split_whitespace().nth(2).expect("name, state and address");
    run(&format!("ip -n {client} neigh replace 10.9.1.1 lladdr {mac} dev eth0 nud permanent"));
}

/// What the functions tell of UDP packets from client to server; `None` where none are watched.
async fn of_udp(world: &World, src: &str, dst: &str) -> Option<Vec<String>> {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let check = NUMBER.fetch_add(1, Ordering::Relaxed);
    let order = world.inject_from(CheckId::new(check).expect("not zero"), Protocol::Udp, 1, src, dst);
    let armed = world::arm(check, Protocol::Udp, 1, 60_000);
    let (sightings, losses, reports) = world.carry_out(&armed, &order).await.unwrap();
    if !functions_are_watched(&reports) {
        eprintln!("no function of this kernel can be watched");
        return None;
    }
    assert_eq!(losses.total(), 0);
    Some(calls(world, &sightings))
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_of_the_way_are_told_in_order() {
    let Some(world) = World::new() else { return };
    let Some(calls) = of_udp(&world, "10.9.1.2", "10.9.2.2").await else { return };
    println!("{}", calls.join("\n"));
    assert_called(
        &calls,
        &[
            "client neighbour ip_finish_output2 is called",
            "node route ip_route_input_noref ip_forward",
            "node route fib_validate_source 0",
            "node neighbour ip_finish_output2 is called",
            "server route ip_route_input_noref ip_local_deliver",
            "server route fib_validate_source 0",
            "server socket ip_protocol_deliver_rcu is called",
        ],
    );
}

/// The way back to the source leads elsewhere: of kernels without drop reasons, too, it is known why.
#[tokio::test(flavor = "multi_thread")]
async fn source_validation_tells_its_error() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("ip netns exec {node} sysctl -q -w net.ipv4.conf.vc.rp_filter=1"));
    run(&format!("ip -n {node} route add 10.8.0.7/32 dev vs"));
    send_from(&world, "10.8.0.7");
    let Some(calls) = of_udp(&world, "10.8.0.7", "10.9.2.2").await else { return };
    let refused = calls.iter().find(|call| call.starts_with("node route fib_validate_source"));
    let refused = refused.unwrap_or_else(|| panic!("{calls:#?}"));
    assert!(refused.ends_with(" EXDEV") || refused.ends_with(" IP_RPFILTER"), "{refused}");
}

/// A source that is the host's own address.
#[tokio::test(flavor = "multi_thread")]
async fn a_martian_source_is_told_from_one_that_came_the_wrong_way() {
    let Some(world) = World::new() else { return };
    run(&format!("ip -n {} addr add 10.8.0.8/32 dev lo", world.netns("node")));
    send_from(&world, "10.8.0.8");
    let Some(calls) = of_udp(&world, "10.8.0.8", "10.9.2.2").await else { return };
    let refused = calls.iter().find(|call| call.starts_with("node route fib_validate_source"));
    let refused = refused.unwrap_or_else(|| panic!("{calls:#?}"));
    assert!(refused.ends_with(" EINVAL") || refused.ends_with(" IP_LOCAL_SOURCE"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_that_lead_nowhere_tell_their_error() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    for (kind, error) in [("unreachable", "EHOSTUNREACH"), ("prohibit", "EACCES"), ("blackhole", "EINVAL")] {
        run(&format!("ip -n {node} route replace {kind} 10.9.2.2/32"));
        let Some(calls) = of_udp(&world, "10.9.1.2", "10.9.2.2").await else { return };
        assert_called(&calls, &[&format!("node route ip_route_input_noref ip_error {error}")]);
    }
    run(&format!("ip -n {node} route del blackhole 10.9.2.2/32"));
    run(&format!("ip -n {node} route del 10.9.2.0/24"));
    let Some(calls) = of_udp(&world, "10.9.1.2", "10.9.2.2").await else { return };
    assert_called(&calls, &["node route ip_route_input_noref ip_error ENETUNREACH"]);
}

/// Of kernels on which rules cannot be traced, too, it is known in which hook of netfilter a packet was dropped.
#[tokio::test(flavor = "multi_thread")]
async fn the_hook_of_a_drop_by_netfilter_is_told() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("ip netns exec {node} nft add table ip t"));
    run(&format!("ip netns exec {node} nft add chain ip t f {{ type filter hook forward priority 0 ; }}"));
    run(&format!("ip netns exec {node} nft add rule ip t f ip daddr 10.9.2.2 drop"));
    let Some(calls) = of_udp(&world, "10.9.1.2", "10.9.2.2").await else { return };
    assert_called(&calls, &["node netfilter-forward nf_hook_slow NF_DROP"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_tells_what_it_takes_and_what_it_floods() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    for line in [
        "addr flush dev vc",
        "addr flush dev vs",
        "link add br0 type bridge",
        "link set vc master br0",
        "link set vs master br0",
        "link set br0 up",
    ] {
        run(&format!("ip -n {node} {line}"));
    }
    for (part, address) in [("client", "10.8.0.1"), ("server", "10.8.0.2")] {
        run(&format!("ip -n {} addr add {address}/24 dev eth0", world.netns(part)));
    }
    let other = "02:00:00:00:00:99";
    run(&format!("ip -n {} neigh add 10.8.0.3 lladdr {other} dev eth0 nud permanent", world.netns("client")));
    let Some(calls) = of_udp(&world, "10.8.0.1", "10.8.0.2").await else { return };
    assert_called(&calls, &["node bridge br_handle_frame_finish is called"]);
    // Nobody has this address, so the frame goes out by all ports, and is another host's there.
    let calls = of_udp(&world, "10.8.0.1", "10.8.0.3").await.expect("functions are watched");
    let took = ["node bridge br_handle_frame_finish is called", "node bridge br_flood is called"];
    assert_called(&calls, &took);
}

fn spec(check: u32, set: HookSet) -> ArmSpec {
    let check = CheckId::new(check).expect("not zero");
    let traced =
        Traced { check, key: KEY, count: 1, protocol: Protocol::Udp, set, capture: false, every_rule: false };
    ArmSpec { traced, lease: Duration::from_secs(60), netfilter: Vec::new() }
}

/// Every hook has a provider that says who it is, or a reason why there is none, and that is so again and again.
#[tokio::test(flavor = "multi_thread")]
async fn reports_say_who_tells_about_a_hook_or_why_nobody_does() {
    if !privileged() {
        return;
    }
    let begun = Instant::now();
    let tracer = Tracer::new().unwrap();
    println!("loaded in {:.0?}", begun.elapsed());
    let (sink, _sightings) = mpsc::channel(1);
    for (check, set) in [(1, HookSet::Light), (2, HookSet::Wide), (3, HookSet::All)] {
        let begun = Instant::now();
        let reports = tracer.arm(spec(check, set), sink.clone()).unwrap();
        let armed = begun.elapsed();
        let watched = set >= HookSet::Wide && functions_are_watched(&reports);
        tracer.disarm(CheckId::new(check).unwrap());
        println!("{set:?} armed in {armed:.0?}, disarmed in {:.0?}", begun.elapsed().saturating_sub(armed));
        let of = |hook: Hook| {
            let report = reports.iter().find(|report| report.hook == hook);
            &report.unwrap_or_else(|| panic!("no report on {hook}")).observability
        };
        for hook in [Hook::Route, Hook::Neighbour] {
            match of(hook) {
                Observability::Observed { provider } => {
                    assert!(set >= HookSet::Wide && provider.starts_with("tp_btf/"), "{hook}: {provider}");
                    assert_eq!(is_function(provider), watched, "{hook}: {provider}");
                }
                Observability::NotObservable { why } => assert_eq!(set, HookSet::Light, "{hook}: {why}"),
            }
        }
        // No tracepoint tells who passes here.
        if let (HookSet::Wide | HookSet::All, false) = (set, watched) {
            let Observability::NotObservable { why } = of(Hook::Bridge) else { panic!("{reports:?}") };
            assert!(why.contains("kprobe: "), "{why}");
        }
    }
    for function in tracer.functions() {
        println!("{} {}: {:?}", function.hook, function.function, function.provider);
    }
}
