//! Packets that nobody marked: what a filter picks is followed, and nothing else is.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use pcap::Capture;
use pnet_packet::Packet;
use pnet_packet::ethernet::EthernetPacket;
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::tcp::TcpPacket;
use tokio::sync::mpsc;
use waymark_controller::live::compile;
use waymark_prober::netns::Netns;
use waymark_proto::{CheckId, Event, FilterInstruction, Hook, Losses, Protocol, Sighting, rpc};
use world::{LIMIT, Namespaces, World, run};

const CHECK: u32 = 7;

fn order(filter: &str, packets: u32) -> rpc::Arm {
    order_of(compile(filter).unwrap(), packets)
}

fn order_of(filter: Vec<FilterInstruction>, packets: u32) -> rpc::Arm {
    let filter = filter.into_iter().map(rpc::FilterInstruction::from).collect();
    let key = world::KEY.0.to_vec();
    rpc::Arm { check: CHECK, key, count: packets, lease_ms: 60_000, filter, ..Default::default() }
}

/// Does something in a namespace of the world.
fn within<T: Send + 'static>(
    world: &World,
    part: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl FnOnce() -> T + Send + 'static {
    let netns = Netns::open(&world.netns(part).as_str().into()).unwrap();
    move || netns.run(work).unwrap()
}

/// Traces while something is done, and until enough was seen.
async fn trace<T: Send + 'static>(
    world: &World,
    order: &rpc::Arm,
    traffic: impl FnOnce() -> T + Send + 'static,
    enough: impl Fn(&T, &[Sighting]) -> bool,
) -> (T, Vec<Sighting>, Losses) {
    let (sink, mut sightings) = mpsc::channel(65536);
    world.agent.arm(order, sink).await.unwrap();
    let told = tokio::task::spawn_blocking(traffic).await.unwrap();
    let mut all: Vec<Sighting> = Vec::new();
    while !enough(&told, &all) {
        let next = tokio::time::timeout(LIMIT, sightings.recv()).await;
        all.push(next.unwrap_or_else(|_| panic!("not enough: {all:#?}")).expect("armed"));
    }
    let losses = world.agent.disarm(CheckId::new(CHECK).unwrap()).await.unwrap();
    while let Some(sighting) = sightings.recv().await {
        all.push(sighting);
    }
    (told, all, losses)
}

/// Sends a datagram to each of these ports of the server, at which nobody listens.
fn datagrams(ports: &'static [u16]) -> impl FnOnce() + Send + 'static {
    move || {
        let socket = UdpSocket::bind("10.9.1.2:0").unwrap();
        for port in ports {
            socket.send_to(b"nobody marked this", ("10.9.2.2", *port)).unwrap();
        }
    }
}

fn dropped(sightings: &[Sighting]) -> impl Iterator<Item = &Sighting> {
    sightings.iter().filter(|sighting| matches!(sighting.event, Event::Dropped { .. }))
}

fn by_packet(sightings: &[Sighting]) -> BTreeMap<u32, Vec<&Sighting>> {
    let mut packets: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for sighting in sightings {
        packets.entry(sighting.marker.seq.0).or_default().push(sighting);
    }
    packets
}

/// The devices that a packet came by.
fn way<'a>(world: &World, seen: &[&'a Sighting]) -> Vec<(&'a str, &'a str)> {
    let by_device =
        |s: &&&Sighting| s.event == Event::Seen && matches!(s.hook, Hook::DriverRx | Hook::DriverTx);
    let place = |s: &&'a Sighting| (world.part(&s.place.netns), s.device.as_deref().unwrap_or_default());
    seen.iter().filter(by_device).map(place).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_picks_is_seen_on_its_way_and_nothing_else_is() {
    let Some(world) = World::new() else { return };
    let traffic = within(&world, "client", datagrams(&[5301, 5302, 5301, 5302, 5301]));
    let order = order("udp and dst port 5301", 100);
    let ((), sightings, losses) = trace(&world, &order, traffic, |(), seen| dropped(seen).count() == 3).await;
    assert_eq!(losses.total(), 0);
    let packets = by_packet(&sightings);
    assert_eq!(packets.len(), 3, "{packets:#?}");
    for seen in packets.values() {
        let expected = [("client", "eth0"), ("node", "vc"), ("node", "vs"), ("server", "eth0")];
        assert_eq!(way(&world, seen), expected, "{seen:#?}");
        let identities: BTreeSet<_> = seen.iter().map(|s| s.identity).collect();
        assert_eq!(identities.len(), 1, "{identities:?}");
        for headers in seen.iter().filter_map(|s| s.headers.as_ref()) {
            assert_eq!((headers.flow.protocol, headers.flow.dst_port), (Protocol::Udp, 5301));
        }
        assert!(seen.iter().all(|s| s.packet.is_empty()), "what packets carry stays where it is");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_drops_is_told_where_it_is_dropped() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    for command in [
        "add table ip filter",
        "add chain ip filter forward { type filter hook forward priority 0 ; }",
        "add rule ip filter forward udp dport 5301 drop",
    ] {
        run(&format!("ip netns exec {node} nft {command}"));
    }
    let traffic = within(&world, "client", datagrams(&[5301]));
    let order = order("udp port 5301", 100);
    let ((), sightings, _) = trace(&world, &order, traffic, |(), seen| dropped(seen).count() == 1).await;
    let packets = by_packet(&sightings);
    let [seen] = packets.values().collect::<Vec<_>>()[..] else { panic!("{packets:#?}") };
    assert_eq!(way(&world, seen), [("client", "eth0"), ("node", "vc")]);
    let Event::Dropped { reason, function } = &dropped(&sightings).next().unwrap().event else { panic!() };
    // Kernels before 5.17 give no reasons.
    assert!(reason.as_deref().is_none_or(|reason| reason == "NETFILTER_DROP"), "{reason:?} in {function}");
}

/// A conversation with the server over TCP, which says what it was told, to the end.
fn converse(world: &World) -> impl FnOnce() + Send + 'static {
    let serve = within(world, "server", || {
        let listener = TcpListener::bind("10.9.2.2:5310").unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut said = Vec::new();
            stream.read_to_end(&mut said).unwrap();
            stream.write_all(&said).unwrap();
        })
    });
    let call = within(world, "client", || {
        let mut stream = TcpStream::connect("10.9.2.2:5310").unwrap();
        for part in 0..20u8 {
            stream.write_all(&[part; 3000]).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), 60_000);
    });
    move || {
        let server = serve();
        call();
        server.join().unwrap();
    }
}

const CONVERSATION: &str = "tcp port 5310";
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;

/// What one packet of a connection is.
struct Tapped {
    from: u16,
    flags: u8,
    /// The sequence number behind it.
    end: u32,
    acknowledged: u32,
}

impl Tapped {
    fn read(packet: &[u8]) -> Option<Tapped> {
        let ethernet = EthernetPacket::new(packet)?;
        let ip = Ipv4Packet::new(ethernet.payload())?;
        let headers = usize::from(ip.get_header_length()) * 4;
        let tcp = TcpPacket::new(ethernet.payload().get(headers..)?)?;
        let flags = tcp.get_flags();
        let headers = headers + usize::from(tcp.get_data_offset()) * 4;
        let data = u32::from(ip.get_total_length()) - headers as u32;
        let counted = data + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let end = tcp.get_sequence().wrapping_add(counted);
        Some(Tapped { from: tcp.get_source(), flags, end, acknowledged: tcp.get_acknowledgement() })
    }
}

/// Whether both ends have said goodbye, and each knows that the other heard it: nothing comes after that.
fn is_over(all: &[Tapped]) -> bool {
    let heard = all.iter().filter(|goodbye| goodbye.flags & FIN != 0).filter(|goodbye| {
        all.iter().any(|other| other.from != goodbye.from && other.acknowledged == goodbye.end)
    });
    heard.map(|goodbye| goodbye.from).collect::<BTreeSet<_>>().len() == 2
}

/// What libpcap sees at a device, by its own filter in the kernel, until a connection is over: flags of each packet.
fn tapped(filter: &'static str, traffic: impl FnOnce()) -> Vec<u8> {
    let mut capture = Capture::from_device("vc").unwrap().immediate_mode(true).snaplen(200).open().unwrap();
    capture.filter(filter, true).unwrap();
    let mut capture = capture.setnonblock().unwrap();
    traffic();
    let (mut all, end) = (Vec::new(), Instant::now() + LIMIT);
    while !is_over(&all) {
        match capture.next_packet() {
            Ok(packet) => all.push(Tapped::read(packet.data).expect("a packet of TCP over IPv4")),
            Err(_) => {
                assert!(Instant::now() < end, "the conversation does not end after {} packets", all.len());
            }
        }
    }
    all.iter().map(|packet| packet.flags).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_connection_every_packet_is_seen_that_libpcap_sees() {
    let Some(world) = World::new() else { return };
    let conversation = converse(&world);
    let traffic = within(&world, "node", move || tapped(CONVERSATION, conversation));
    let at_device = |seen: &[Sighting]| {
        let here = seen.iter().filter(|s| s.device.as_deref() == Some("vc") && s.event == Event::Seen);
        let here = here.filter(|s| matches!(s.hook, Hook::DriverRx | Hook::DriverTx));
        here.map(|s| (s.marker.seq, s.headers.as_ref().unwrap().tcp_flags)).collect::<BTreeMap<_, _>>()
    };
    let (tapped, sightings, losses) = trace(&world, &order(CONVERSATION, 1000), traffic, |tapped, seen| {
        at_device(seen).len() >= tapped.len()
    })
    .await;
    assert_eq!(losses.total(), 0);
    let count = |flags: &mut dyn Iterator<Item = u8>, bit: u8| flags.filter(|flags| flags & bit != 0).count();
    let seen = at_device(&sightings);
    assert_eq!(seen.len(), tapped.len(), "{seen:?}, {tapped:02x?}");
    for bit in [SYN, FIN] {
        assert_eq!(count(&mut seen.values().copied(), bit), count(&mut tapped.iter().copied(), bit), "{bit}");
    }
    // Buffers of acknowledged packets are used again at once: no number stands for two packets.
    for (number, seen) in by_packet(&sightings) {
        let identities: BTreeSet<_> = seen.iter().map(|s| s.identity).collect();
        let sources: BTreeSet<_> = seen.iter().filter_map(|s| Some(s.headers.as_ref()?.flow.src)).collect();
        assert_eq!((identities.len(), sources.len()), (1, 1), "{number}: {seen:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_picked_than_were_asked_for() {
    let Some(world) = World::new() else { return };
    let traffic = within(&world, "client", datagrams(&[5301; 50]));
    let order = order("udp port 5301", 4);
    let ((), sightings, _) = trace(&world, &order, traffic, |(), seen| dropped(seen).count() == 4).await;
    let processors = std::thread::available_parallelism().unwrap().get();
    let picked = by_packet(&sightings).len();
    assert!((4..4 + processors).contains(&picked), "{picked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_other_nodes_is_neither_seen_nor_counted() {
    let Some(world) = World::new() else { return };
    let other = Namespaces::make(vec![world.netns("other")]);
    let elsewhere = within(&world, "other", || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..50 {
            // Nobody listens, and after the first the socket knows.
            let _ = socket.send_to(b"of another node", "127.0.0.1:5301");
        }
    });
    let here = within(&world, "client", datagrams(&[5301]));
    let traffic = || {
        elsewhere();
        here();
    };
    let order = order("udp port 5301", 2);
    let ((), sightings, _) = trace(&world, &order, traffic, |(), seen| dropped(seen).count() == 1).await;
    assert_eq!(by_packet(&sightings).len(), 1);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_accepts_filters_of_all_kinds() {
    let Some(world) = World::new() else { return };
    for filter in [
        "less 100",
        "greater 60 and less 100",
        "ip[300] = 1",
        "ip or ip6",
        "udp[8:4] / (ip[8] & 3) % 7 = 1 and not portrange 50-100",
        "ip[ip[8] - 10] = 7 or tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
        "host fd00::1 or net 10.0.0.0/9 or icmp[icmptype] = icmp-echo",
        &(1..100).map(|n| format!("host 10.0.0.{n}")).collect::<Vec<_>>().join(" or "),
    ] {
        let (sink, _sightings) = mpsc::channel(1);
        if let Err(error) = world.agent.arm(&order(filter, 1), sink).await {
            panic!("{filter}: {error}");
        }
        world.agent.disarm(CheckId::new(CHECK).unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_traces_are_made_at_once() {
    let Some(world) = World::new() else { return };
    let mut held = Vec::new();
    for check in 1..=5 {
        let (sink, sightings) = mpsc::channel(1);
        let armed = world.agent.arm(&rpc::Arm { check, ..order("tcp", 1) }, sink).await;
        match check {
            5 => assert!(armed.unwrap_err().to_string().contains("exceeds this agent's limit of 4")),
            _ => held.push(armed.map(|_| sightings).unwrap()),
        }
    }
    let (sink, _sightings) = mpsc::channel(1);
    world.agent.disarm(CheckId::new(1).unwrap()).await.unwrap();
    let again = rpc::Arm { check: 2, ..order("tcp", 1) };
    let error = world.agent.arm(&again, sink).await.unwrap_err().to_string();
    assert!(error.contains("is armed already"), "{error}");
    let (sink, _sightings) = mpsc::channel(1);
    world.agent.arm(&rpc::Arm { check: 6, ..order("tcp", 1) }, sink).await.unwrap();
    world.agent.disarm_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_leads_nowhere_is_told_and_leaves_nothing_armed() {
    let Some(world) = World::new() else { return };
    let all = FilterInstruction { code: 0x06, jt: 0, jf: 0, k: 1 };
    let astray = FilterInstruction { code: 0x15, jt: 9, jf: 9, k: 1 };
    for (filter, word) in [(vec![astray, all], "leads out"), (vec![all; 5000], "do not suffice")] {
        let (sink, mut sightings) = mpsc::channel(1);
        let error = world.agent.arm(&order_of(filter, 1), sink).await.unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert!(sightings.recv().await.is_none(), "nobody holds the sink");
    }
    // What cannot be reached is no program for the kernel: it says so, and no more of it than one can read.
    let (sink, _sightings) = mpsc::channel(1);
    let error = world.agent.arm(&order_of(vec![all, all], 1), sink).await.unwrap_err().to_string();
    assert!(error.contains("the kernel accepts no program with this filter"), "{error}");
    assert!(error.len() < 1000, "{error}");
    // The same check can be armed after all that.
    let traffic = within(&world, "client", datagrams(&[5301]));
    let ((), sightings, _) =
        trace(&world, &order("udp port 5301", 4), traffic, |(), seen| dropped(seen).count() == 1).await;
    assert_eq!(by_packet(&sightings).len(), 1);
}
