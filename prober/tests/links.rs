//! Packets are followed through devices that not every kernel has: tunnels, encryption, shared devices, IPVS.
//!
//! Ignored where tests run on this machine's own kernel, which may lack them: the guests of `make test-kernels` run
//! them, and there nothing is left out.

mod world;

use std::process::Command;

use waymark_proto::{Event, Protocol, Sighting};
use world::{World, run};

const WHY: &str = "asked for in guests, whose kernels have these devices";

/// Makes a device of this kind in client and server, and gives them addresses.
fn tunnel(world: &World, options: impl Fn(&str, &str) -> String) {
    let ends =
        [("client", "10.9.1.2", "10.9.2.2", "10.8.0.1"), ("server", "10.9.2.2", "10.9.1.2", "10.8.0.2")];
    for (part, local, remote, address) in ends {
        let netns = world.netns(part);
        run(&format!("ip -n {netns} link add tun type {}", options(local, remote)));
        run(&format!("ip -n {netns} addr add {address}/24 dev tun"));
        run(&format!("ip -n {netns} link set tun up"));
    }
}

/// Makes each end of `WireGuard` know the other.
fn exchange_keys(world: &World) {
    let keys = tempfile::tempdir().expect("a folder can be made");
    let folder = keys.path().display();
    let shell = |script: String| {
        let output = Command::new("bash")
            .args(["-e", "-o", "pipefail", "-c", &script])
            .output()
            .expect("bash is there");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for part in ["client", "server"] {
        shell(format!("umask 077; wg genkey | tee {folder}/{part} | wg pubkey >{folder}/{part}.pub"));
    }
    for (part, other, remote) in [("client", "server", "10.9.2.2"), ("server", "client", "10.9.1.2")] {
        shell(format!(
            "ip netns exec {} wg set tun listen-port 51820 private-key {folder}/{part} \
             peer $(cat {folder}/{other}.pub) allowed-ips 10.8.0.0/24 endpoint {remote}:51820",
            world.netns(part)
        ));
    }
}

/// `server driver-rx eth0` for every device that saw a packet, whole or hidden in another.
fn seen(world: &World, sightings: &[Sighting]) -> Vec<String> {
    let seen = sightings.iter().filter(|sighting| matches!(sighting.event, Event::Seen | Event::Arrived));
    seen.map(|sighting| {
        let device = sighting.device.as_deref().unwrap_or_default();
        format!("{} {} {device}", world.part(&sighting.place.netns), sighting.hook)
    })
    .collect()
}

/// A packet through a tunnel is seen at every device of its way, and by the server's end of the tunnel whole.
async fn is_followed(world: &World, kind: &str) {
    let (sightings, losses) = world.try_check(Protocol::Icmp, 1, "10.8.0.1", "10.8.0.2").await.unwrap();
    assert_eq!(losses.total(), 0, "{kind}");
    let seen = seen(world, &sightings);
    for expected in [
        "client driver-tx eth0",
        "node driver-rx vc",
        "node driver-tx vs",
        "server driver-rx eth0",
        "server driver-rx tun",
    ] {
        assert!(seen.iter().any(|step| step == expected), "{kind}: {expected} is not among {seen:?}");
    }
    for part in ["client", "server"] {
        run(&format!("ip -n {} link del tun", world.netns(part)));
    }
}

/// What is inside of a tunnel of another kind than VXLAN is followed by its buffer, and so is what nobody can read on the wire: the
/// buffers are the same until they leave the machine.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "asked for in guests, whose kernels have these devices"]
async fn through_tunnels() {
    let world = World::new().expect(WHY);
    tunnel(&world, |local, remote| format!("ipip local {local} remote {remote}"));
    is_followed(&world, "IPIP").await;
    tunnel(&world, |local, remote| format!("gre local {local} remote {remote}"));
    is_followed(&world, "GRE").await;
    tunnel(&world, |_, remote| format!("geneve id 7 remote {remote}"));
    is_followed(&world, "Geneve").await;
    tunnel(&world, |_, _| "wireguard".to_owned());
    exchange_keys(&world);
    is_followed(&world, "WireGuard").await;
}

/// The server's address is on a device that shares eth0.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "asked for in guests, whose kernels have these devices"]
async fn through_ipvlan() {
    let world = World::new().expect(WHY);
    let (node, server) = (world.netns("node"), world.netns("server"));
    run(&format!("ip -n {server} link add shared link eth0 type ipvlan mode l2"));
    run(&format!("ip -n {server} addr add 10.8.0.2/32 dev shared"));
    run(&format!("ip -n {server} link set shared up"));
    run(&format!("ip -n {server} route add 10.9.1.0/24 via 10.9.2.1 dev shared onlink metric 1"));
    run(&format!("ip -n {node} route add 10.8.0.2 dev vs"));
    let (sightings, _) = world.try_check(Protocol::Icmp, 1, "10.9.1.2", "10.8.0.2").await.unwrap();
    let seen = seen(&world, &sightings);
    for expected in ["client driver-tx eth0", "node driver-tx vs", "server driver-rx eth0"] {
        assert!(seen.iter().any(|step| step == expected), "{expected} is not among {seen:?}");
    }
}

/// The node forwards what is sent to an address of its own, without a rule that says so.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "asked for in guests, whose kernels have these devices"]
async fn through_ipvs() {
    let world = World::new().expect(WHY);
    let node = world.netns("node");
    run(&format!("ip -n {node} addr add 10.8.0.9/32 dev lo"));
    run(&format!("ip netns exec {node} ipvsadm --add-service --udp-service 10.8.0.9:80"));
    run(&format!(
        "ip netns exec {node} ipvsadm --add-server --udp-service 10.8.0.9:80 --real-server 10.9.2.2:80 --masquerading"
    ));
    let (sightings, _) = world.try_check(Protocol::Udp, 1, "10.9.1.2", "10.8.0.9").await.unwrap();
    let at_server = sightings.iter().find(|sighting| {
        world.part(&sighting.place.netns) == "server" && matches!(sighting.event, Event::Dropped { .. })
    });
    let headers = at_server.and_then(|sighting| sighting.headers.as_ref()).expect("nobody listens there");
    assert_eq!(headers.flow.dst.to_string(), "10.9.2.2");
}
