//! What tracepoints tell of a packet beside its way: routes, neighbours, queues.

mod world;

use waymark_proto::{Event, Hook, Protocol, Sighting};
use world::{World, run};

/// The answers of a function about packets in a namespace, at the hook that it stands for.
fn answers(world: &World, sightings: &[Sighting], part: &str, hook: Hook, name: &str) -> Vec<String> {
    let here = sightings.iter().filter(|s| s.hook == hook && world.part(&s.place.netns) == part);
    here.filter_map(|sighting| match &sighting.event {
        Event::Called { function, answer } if function == name => Some(answer.clone().unwrap_or_default()),
        _ => None,
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_route_of_each_packet_is_told() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    let routes = |sightings: &[Sighting]| answers(&world, sightings, "node", Hook::Route, "fib_table_lookup");
    let (sightings, _) = world.check(Protocol::Udp, 3).await;
    let there: Vec<_> = routes(&sightings).into_iter().filter(|route| route.contains("dev vs")).collect();
    assert_eq!(there, ["dev vs table main"; 3]);
    // By another table, and by a gateway.
    run(&format!("ip -n {node} route add 10.9.2.2 via 10.9.2.2 dev vs onlink table 77"));
    run(&format!("ip -n {node} rule add iif vc table 77 priority 100"));
    let (sightings, _) = world.check(Protocol::Icmp, 1).await;
    assert_eq!(routes(&sightings)[0], "via 10.9.2.2 dev vs table 77");
    // The answer's packets come by another rule.
    assert!(routes(&sightings).contains(&"dev vc table main".to_owned()), "{:?}", routes(&sightings));
    run(&format!("ip -n {node} route replace prohibit 10.9.2.2 table 77"));
    let (sightings, _) = world.check(Protocol::Tcp, 1).await;
    assert_eq!(routes(&sightings)[0], "table 77: EACCES");
    // Whether the source could be reached by the way that the packet came is asked in the other direction.
    run(&format!("ip -n {node} rule del iif vc table 77 priority 100"));
    run(&format!("ip netns exec {node} sysctl -q -w net.ipv4.conf.vc.rp_filter=1"));
    let (sightings, _) = world.check(Protocol::Icmp, 1).await;
    let back = answers(&world, &sightings, "node", Hook::Route, "fib_table_lookup reversed");
    assert!(back.contains(&"dev vc table main".to_owned()), "{back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_neighbour_is_told() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("ip -n {node} neigh flush dev vs"));
    let (sightings, _) = world.check(Protocol::Icmp, 1).await;
    let waits = answers(&world, &sightings, "node", Hook::Neighbour, "neigh_event_send");
    assert!(waits.contains(&"1".to_owned()), "{waits:?}");
    let (sightings, _) = world.check(Protocol::Icmp, 1).await;
    let waits = answers(&world, &sightings, "node", Hook::Neighbour, "neigh_event_send");
    assert!(!waits.contains(&"1".to_owned()), "its address is known: {waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_in_a_queue_are_told() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("tc -n {node} qdisc add dev vs root tbf rate 8mbit burst 32kb latency 50ms"));
    let (sightings, _) = world.check(Protocol::Icmp, 2).await;
    assert_eq!(answers(&world, &sightings, "node", Hook::Qdisc, "qdisc_dequeue").len(), 2);
}
