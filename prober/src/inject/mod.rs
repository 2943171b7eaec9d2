//! Injecting: marked packets sent from a pod's network namespace by raw sockets, so that the pod's own
//! output hooks, routes, neighbours and policies apply.
//!
//! Every packet is a flow of its own, or one of a few flows: its source port is reserved by a bound socket for
//! as long as the check lasts, so that no connection of the pod can have the same and that the answer to a UDP packet
//! does not meet a closed port. A lone SYN's answer is reset by the pod's own kernel. The raw socket is bound
//! to the source address, because policy routing asks the socket for it and not the packet.

mod packet;
mod ports;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol as RawProtocol, SockAddr, Socket, Type};
use waymark_proto::{CheckId, Flow, Marker, MarkerKey, Protocol, Seq};

use crate::netns::{Netns, NetnsError};
use crate::tracer::now_ns;
pub use packet::PacketError;
use packet::{Shape, build, reset};
pub use ports::Ports;

/// `IPPROTO_RAW`: the sender provides the IP header.
const IPPROTO_RAW: i32 = 255;

/// What to send.
#[derive(Clone, Debug)]
pub struct InjectSpec {
    /// The check.
    pub check: CheckId,
    /// Its secret.
    pub key: MarkerKey,
    /// Flow of the first packet. Its source port is where the search for free ones begins; 0 begins anywhere.
    pub flow: Flow,
    /// Number of the first packet.
    pub first: Seq,
    /// How many packets.
    pub count: u32,
    /// Time between two packets.
    pub interval: Duration,
    /// IP packet lengths in bytes, taken in turn; 0 for the smallest. At least one.
    pub sizes: Vec<u32>,
    /// Code points, taken in turn for each round of the sizes. At least one.
    pub dscps: Vec<u8>,
    /// How many source ports are taken in turn, each for a round of all sizes and code points; `None` for one of
    /// its own for each packet.
    pub flows: Option<NonZeroU32>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether routers may fragment the packets, which of IPv6 none may.
    pub fragmentable: bool,
}

/// Most combinations of shapes and flows of which each has its turn.
const COMBINATIONS: u32 = 1 << 16;

impl InjectSpec {
    /// What each packet is like, and which of the flows it belongs to. Every combination has its turn before one comes
    /// again, in an order that nothing on the way keeps: where every fourth packet is lost, or all after the tenth,
    /// that must not look like a loss of one size or port.
    fn packets(&self) -> Vec<(Shape, u32)> {
        let (sizes, dscps) = (self.sizes.len() as u32, self.dscps.len() as u32);
        let shapes = sizes.saturating_mul(dscps);
        let flows = self.flows.map_or(1, NonZeroU32::get);
        let block: Vec<u32> = (0..shapes.saturating_mul(flows).min(COMBINATIONS)).collect();
        let seed = self.key.0.first_chunk().expect("a key has sixteen bytes");
        let mut random = fastrand::Rng::with_seed(u64::from_ne_bytes(*seed));
        let turns = std::iter::repeat_with(|| {
            let mut turns = block.clone();
            random.shuffle(&mut turns);
            turns
        });
        let packet = |(turn, number): (u32, u32)| {
            let size = self.sizes[(turn % sizes) as usize];
            let dscp = self.dscps[(turn / sizes % dscps) as usize];
            let flow = self.flows.map_or(number, |_| turn / shapes);
            (Shape { size, ttl: self.ttl, dscp, fragmentable: self.fragmentable }, flow)
        };
        turns.flatten().zip(0..self.count).map(packet).collect()
    }
}

/// What became of one packet in the sending system call.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its number.
    pub seq: Seq,
    /// Its source port or echo identifier.
    pub source_port: u16,
    /// When, in nanoseconds of the monotonic clock.
    pub sent_ns: u64,
    /// Why the kernel did not take it, with the name of the error number.
    pub error: Option<String>,
    /// IP packet length in bytes.
    pub size: u32,
    /// Code point.
    pub dscp: u8,
}

/// Reserved ports. They are free again when this is dropped.
#[derive(Debug, Default)]
pub struct Reservations(#[expect(dead_code, reason = "held, not used")] Vec<Socket>);

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The packet cannot be built.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The raw socket could not be made.
    #[error("cannot open a raw socket in network namespace {netns}: {source}; this needs CAP_NET_RAW")]
    Socket {
        /// Where.
        netns: String,
        /// Why.
        source: io::Error,
    },
    /// The source address is not to be had.
    #[error(
        "cannot send from {address} in network namespace {netns}: {source}; `ip addr` there shows its addresses"
    )]
    Address {
        /// Where.
        netns: String,
        /// Which.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
}

/// Sends the packets of a check. Blocks for as long as their intervals take, or until the other end of
/// `stop` is dropped: then the packets that are left are not sent.
pub fn inject(
    netns: &Netns,
    spec: &InjectSpec,
    ports: &Mutex<Ports>,
    stop: Receiver<()>,
) -> Result<(Vec<Sent>, Reservations), InjectError> {
    netns.run(move || {
        let name = || netns.name().to_string();
        let failed = |source| InjectError::Socket { netns: name(), source };
        let domain = if spec.flow.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::RAW, Some(RawProtocol::from(IPPROTO_RAW))).map_err(failed)?;
        let address = spec.flow.src;
        socket.bind(&SocketAddr::new(address, 0).into()).map_err(|source| InjectError::Address {
            netns: name(),
            address,
            source,
        })?;
        learn_no_mtu(&socket, address).map_err(failed)?;
        let mut reservations = Vec::new();
        let mut flows: HashMap<u32, (Flow, Marker)> = HashMap::new();
        let mut sent = Vec::new();
        let start = Instant::now();
        for ((shape, index), number) in spec.packets().into_iter().zip(0..) {
            let seq = Seq(spec.first.0 + number);
            // Open loop: the schedule does not wait for what a send took.
            let due = start + spec.interval * number;
            match stop.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            }
            let marker = Marker { check: spec.check, seq };
            let flow = if let Some((flow, last)) = flows.get_mut(&index) {
                forget(&socket, spec, flow, std::mem::replace(last, marker), shape)?;
                Ok(*flow)
            } else {
                let reserved = reserve(spec, number, ports, &mut reservations);
                if let Ok(flow) = reserved {
                    flows.insert(index, (flow, marker));
                }
                reserved
            };
            sent.push(match flow {
                Ok(flow) => send(&socket, spec, flow, marker, shape)?,
                Err(error) => unsent(seq, spec.flow.src_port, shape, &error),
            });
        }
        Ok((sent, Reservations(reservations)))
    })?
}

/// A packet for which no source port could be had.
fn unsent(seq: Seq, source_port: u16, Shape { size, dscp, .. }: Shape, error: &io::Error) -> Sent {
    let error = format!("no source port: {}", errno_text(error));
    Sent { seq, source_port, sent_ns: now_ns(), error: Some(error), size, dscp }
}

/// Has the receiver forget the last SYN of a flow. The pod's own kernel resets what is answered; but where answer or
/// reset was lost the connection is half open, and a listener takes the next SYN for a stray segment of it.
fn forget(
    socket: &Socket,
    spec: &InjectSpec,
    flow: &Flow,
    last: Marker,
    shape: Shape,
) -> Result<(), PacketError> {
    if flow.protocol == Protocol::Tcp {
        let bytes = reset(flow, &spec.key, last, shape)?;
        // Should it not go out, neither will the packet that it is for, and that is told.
        let _ = socket.send_to(&bytes, &address_of(flow));
    }
    Ok(())
}

/// Where a raw socket is to send. Port 0: those of IPv6 refuse any other.
fn address_of(flow: &Flow) -> SockAddr {
    SocketAddr::new(flow.dst, 0).into()
}

fn send(
    socket: &Socket,
    spec: &InjectSpec,
    flow: Flow,
    marker: Marker,
    shape: Shape,
) -> Result<Sent, PacketError> {
    let sent_ns = now_ns();
    let bytes = build(&flow, &spec.key, marker, sent_ns, shape)?;
    let error = socket.send_to(&bytes, &address_of(&flow)).err().map(|error| errno_text(&error));
    let (seq, size) = (marker.seq, bytes.len() as u32);
    Ok(Sent { seq, source_port: flow.src_port, sent_ns, error, size, dscp: shape.dscp })
}

sockopt_impl!(
    /// How packets of IPv4 are held against path MTUs.
    MtuDiscover,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);
sockopt_impl!(
    /// The same for IPv6.
    MtuDiscover6,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int
);

/// Has a socket's packets measured by the MTU of the device alone: what the kernel has learned of the path, perhaps
/// from an earlier check, would keep large packets from the place that does not let them pass
/// (`ip_sk_use_pmtu`, `ip6_skb_dst_mtu`).
fn learn_no_mtu(socket: &Socket, address: IpAddr) -> io::Result<()> {
    let set = match address {
        IpAddr::V4(_) => setsockopt(socket, MtuDiscover, &libc::IP_PMTUDISC_PROBE),
        IpAddr::V6(_) => setsockopt(socket, MtuDiscover6, &libc::IPV6_PMTUDISC_PROBE),
    };
    Ok(set?)
}

/// `ENETUNREACH: Network is unreachable`
fn errno_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => {
            let errno = nix::errno::Errno::from_raw(number);
            format!("{errno:?}: {}", errno.desc())
        }
        None => error.to_string(),
    }
}

/// The least source port that is tried: those below belong to servers.
const FIRST_PORT: u16 = 20000;

/// The flow of a packet, with a source port that nobody else uses as long as the reservation lasts, and that
/// was not used for a while.
fn reserve(
    spec: &InjectSpec,
    number: u32,
    ports: &Mutex<Ports>,
    reservations: &mut Vec<Socket>,
) -> io::Result<Flow> {
    let flow = spec.flow;
    let seed = if flow.src_port == 0 { spec.check.get() as u16 } else { flow.src_port };
    let span = u32::from(u16::MAX - FIRST_PORT) + 1;
    let first = u32::from(seed) + number;
    let now = Instant::now();
    for step in 0..span {
        // Below 65536 by construction.
        let port = FIRST_PORT + ((first + step) % span) as u16;
        let mut ports = ports.lock().unwrap_or_else(PoisonError::into_inner);
        if !ports.is_rested(flow.protocol, flow.src, port, now) {
            continue;
        }
        match hold(&flow, port) {
            Ok(socket) => {
                ports.used(flow.protocol, flow.src, port, now);
                reservations.extend(socket);
                let dst_port = if flow.protocol.has_ports() { flow.dst_port } else { port };
                return Ok(Flow { src_port: port, dst_port, ..flow });
            }
            // Taken by the pod itself.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "all source ports were used in the last minutes"))
}

/// Keeps a port from others. Echo identifiers need no keeping: an answer that nobody waits for disturbs nobody.
fn hold(flow: &Flow, port: u16) -> io::Result<Option<Socket>> {
    let kind = match flow.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
        Protocol::Icmp => return Ok(None),
    };
    let address = SocketAddr::new(flow.src, port);
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.bind(&address.into())?;
    Ok(Some(socket))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn spec(flows: u32, key: u8) -> InjectSpec {
        let flow = Flow {
            src: IpAddr::from([10, 0, 0, 1]),
            dst: IpAddr::from([10, 0, 0, 2]),
            protocol: Protocol::Udp,
            src_port: 0,
            dst_port: 53,
        };
        InjectSpec {
            check: waymark_proto::CheckId::new(7).expect("it is not 0"),
            key: waymark_proto::MarkerKey([key; 16]),
            flow,
            first: Seq(0),
            count: 100,
            interval: std::time::Duration::ZERO,
            sizes: vec![0, 1500],
            dscps: vec![0, 46],
            flows: NonZeroU32::new(flows),
            ttl: 64,
            fragmentable: false,
        }
    }

    #[test]
    fn every_combination_has_its_turn_in_no_order() {
        let turns = |key| -> Vec<_> {
            spec(8, key).packets().iter().map(|(shape, flow)| (shape.size, shape.dscp, *flow)).collect()
        };
        let all = turns(1);
        assert_eq!(all.len(), 100);
        for block in all.chunks(32).take(3) {
            assert_eq!(block.iter().collect::<BTreeSet<_>>().len(), 32);
        }
        assert_eq!(all, turns(1), "the same packets of the same check");
        assert_ne!(all, turns(2));
        assert_ne!(all[..32], all[32..64], "nothing that comes again and again meets the same ones");
    }

    #[test]
    fn without_flows_every_packet_is_one() {
        let flows: Vec<u32> = spec(0, 1).packets().iter().map(|(_, flow)| *flow).collect();
        assert_eq!(flows, (0..100).collect::<Vec<_>>());
    }
}
