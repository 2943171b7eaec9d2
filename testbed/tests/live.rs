//! Traffic that nobody marked, on a whole cluster: `waymark trace --live` beside real sockets.

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::traffic::{PATIENT, SHORT, talk};
use common::{PROGRAM, Testbed, privileged};
use waymark_controller::live::{Blind, Told};
use waymark_proto::{Event, Headers, Hook, Protocol, Sighting};

/// A trace that goes on until this is dropped.
struct Trace {
    client: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Trace {
    /// Begins, and waits until the nodes look.
    fn begin(testbed: &Testbed, filter: &str) -> Self {
        let controller = format!("unix:{}", testbed.folder().join("controller.sock").display());
        let mut client = Command::new(Path::new(PROGRAM).with_file_name("waymark"))
            .args(["trace", "--live", filter, "--for", "4m", "-o", "json", "--controller", &controller])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(client.stdout.take().unwrap()).lines();
        let mut trace = Self { client, lines };
        match trace.next() {
            Told::Begun { nodes, blind, notes } => {
                assert_eq!((nodes.len(), notes.len()), (3, 0), "{notes:?}");
                // On hardened kernels functions are out of sight, and nothing else is.
                let by_functions = |blind: &Blind| matches!(blind.hook, Hook::Bridge | Hook::Tunnel);
                assert!(blind.iter().all(by_functions), "{blind:?}");
            }
            other => panic!("{other:?}"),
        }
        trace
    }

    fn next(&mut self) -> Told {
        let line = self.lines.next().expect("it goes on").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// What is seen, until it is enough.
    fn until(&mut self, is_enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let mut seen = Vec::new();
        while !is_enough(&seen) {
            let Told::Sighted { number, object, sighting } = self.next() else { panic!("it ended") };
            seen.push(Seen { packet: number, object, sighting: *sighting });
        }
        seen
    }
}

/// Which packet, in whose namespace, how.
#[derive(Debug)]
struct Seen {
    packet: u32,
    object: String,
    sighting: Sighting,
}

impl Seen {
    fn headers(&self) -> &Headers {
        self.sighting.headers.as_ref().expect("whole packets are seen")
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It has ended already where something went wrong.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

const SYN: u8 = 0x02;

#[test]
fn a_packet_is_one_through_a_service_and_a_tunnel() {
    if !privileged("tracing live traffic") {
        return;
    }
    let testbed = Testbed::named();
    testbed.succeed(&["up", "--dataplane", "bridge-vxlan"]);
    let cluster = testbed.cluster();
    let cart = cluster.pods.iter().find(|pod| pod.full_name == "shop/cart").unwrap();
    let pay = cluster.services.iter().find(|service| service.name == "pay").unwrap();
    let to = SocketAddr::new(pay.cluster_ip, pay.port);
    let mut trace =
        Trace::begin(&testbed, "tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn and src host 10.244.1.10");
    // Which backend it is, is decided anew for each connection; one is on another node.
    loop {
        talk(&cart.netns, Protocol::Tcp, to, PATIENT).unwrap();
        let seen = trace.until(|seen| ends(seen).is_some());
        let (sent, arrived) = ends(&seen).unwrap();
        let (from, to) = (sent.headers(), arrived.headers());
        assert_eq!((from.flow.dst, from.tcp_flags), (pay.cluster_ip, SYN));
        assert_ne!(to.flow.dst, pay.cluster_ip, "translated on its way to {}", arrived.object);
        assert_eq!((to.flow.src, to.flow.src_port), (from.flow.src, from.flow.src_port));
        if arrived.sighting.place.node != sent.sighting.place.node {
            break;
        }
    }
}

/// How a packet left, and how it arrived at a pod of the Service, where both were seen of one.
fn ends(seen: &[Seen]) -> Option<(&Seen, &Seen)> {
    let sent = |seen: &&Seen| seen.object == "pod/shop/cart" && seen.sighting.hook == Hook::DriverTx;
    let arrived =
        |seen: &&Seen| seen.object.starts_with("pod/shop/pay-") && seen.sighting.hook == Hook::DriverRx;
    let pair = |first: &'_ Seen| seen.iter().filter(arrived).find(|last| last.packet == first.packet);
    seen.iter().filter(sent).find_map(|first| Some((first, pair(first)?)))
}

#[test]
fn a_drop_is_told_of_the_packet_and_where() {
    if !privileged("tracing live traffic") {
        return;
    }
    let testbed = Testbed::named();
    testbed.succeed(&["up", "--dataplane", "bridge-vxlan"]);
    testbed.succeed(&["exec", "node2", "--", "iptables", "-I", "FORWARD", "-d", "10.244.2.10", "-j", "DROP"]);
    let cluster = testbed.cluster();
    let cart = cluster.pods.iter().find(|pod| pod.full_name == "shop/cart").unwrap();
    let mut trace = Trace::begin(&testbed, "tcp port 80 and host 10.244.2.10");
    let unanswered = talk(&cart.netns, Protocol::Tcp, "10.244.2.10:80".parse().unwrap(), SHORT).unwrap_err();
    assert_eq!(unanswered.kind(), ErrorKind::TimedOut, "{unanswered}");
    let is_dropped = |seen: &&Seen| matches!(seen.sighting.event, Event::Dropped { .. });
    let seen = trace.until(|seen| seen.iter().any(|seen| is_dropped(&seen)));
    let dropped = seen.iter().find(is_dropped).unwrap();
    // Forwarding takes one off before the rules are asked, on either node.
    assert_eq!((dropped.object.as_str(), dropped.headers().ttl), ("node/node2", 62));
    let Event::Dropped { reason, .. } = &dropped.sighting.event else { unreachable!("it was looked for") };
    assert_eq!(reason.as_deref(), Some("NETFILTER_DROP"));
    let is_tunnelled = |seen: &Seen| {
        seen.packet == dropped.packet && seen.object == "node/node2" && seen.headers().outer.is_some()
    };
    assert!(seen.iter().any(is_tunnelled), "it came by the tunnel: {seen:#?}");
}
