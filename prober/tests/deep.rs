//! Functions of the kernel and what they answer, where it lets them be watched.

mod world;

use std::time::{Duration, Instant};

use waymark_proto::Protocol;
use world::World;

#[tokio::test(flavor = "multi_thread")]
async fn scratch() {
    let begun = Instant::now();
    let tracer = waymark_prober::tracer::Tracer::new().unwrap();
    println!("load {:?}", begun.elapsed());
    for row in tracer.functions() {
        println!("{} {} {:?}", row.hook, row.function, row.provider);
    }
    let (sink, _x) = tokio::sync::mpsc::channel(1000);
    for set in [
        waymark_tracer_ebpf::HookSet::Light,
        waymark_tracer_ebpf::HookSet::Wide,
        waymark_tracer_ebpf::HookSet::Wide,
    ] {
        let traced = waymark_prober::tracer::Traced {
            check: waymark_proto::CheckId::new(9).unwrap(),
            key: world::KEY,
            count: 1,
            protocol: Protocol::Udp,
            set,
            capture: false,
        };
        let begun = Instant::now();
        tracer
            .arm(
                waymark_prober::tracer::ArmSpec { traced, lease: Duration::from_secs(60), netfilter: vec![] },
                sink.clone(),
            )
            .unwrap();
        println!("arm {set:?} {:?}", begun.elapsed());
        for row in tracer.functions() {
            if row.provider.is_err() {
                println!("{} {} {:?}", row.hook, row.function, row.provider);
            }
        }
        let begun = Instant::now();
        tracer.disarm(traced.check);
        println!("disarm {set:?} {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_secs(4));
    }
    drop(tracer);
    if std::env::var_os("ONLY_TIMES").is_some() {
        return;
    }
    let Some(world) = World::new() else { return };
    for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
        let begun = Instant::now();
        let (sightings, losses) = world.check(protocol, 1).await;
        println!("{protocol} {losses:?} {:?}", begun.elapsed());
        for s in sightings {
            println!(
                "{:?} {} {} {:?} {:?} {:?}",
                s.at_ns,
                world.part(&s.place.netns),
                s.hook,
                s.device,
                s.event,
                s.headers.map(|h| h.matched)
            );
        }
    }
}
