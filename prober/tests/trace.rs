//! Injects and traces in real namespaces, on the real kernel.

mod world;

use waymark_proto::{Event, Hook, Match, Protocol, Sighting};
use world::World;

fn hooks(sightings: &[Sighting], netns: &str) -> Vec<(Hook, String)> {
    let here = sightings.iter().filter(|sighting| sighting.place.netns.as_str() == netns);
    here.filter(|sighting| sighting.event == Event::Seen)
        .map(|sighting| (sighting.hook, sighting.device.clone().unwrap_or_default()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dump() {
    let Some(world) = World::new() else { return };
    for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
        let t = std::time::Instant::now();
        let sightings = world.check(protocol, 1).await;
        println!("=== {protocol} {:?}", t.elapsed());
        for s in &sightings {
            println!("{:>14} {} {:?} {:?} {:?} {:?}", s.at_ns % 10_000_000_000, s.place, s.hook.name(), s.device, s.event, s.headers.as_ref().map(|h| (h.matched, h.flow.to_string(), h.ip_id)));
        }
    }
    let _ = (hooks(&[], ""), Match::Tag);
}
