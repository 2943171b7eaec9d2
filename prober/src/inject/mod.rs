//! Injecting: marked packets sent from a pod's network namespace by raw sockets, so that the pod's own
//! output hooks, routes, neighbours and policies apply.
//!
//! Every packet is a flow of its own: its source port is reserved by a bound socket for as long as the
//! check lasts, so that no connection of the pod can have the same and that the answer to a UDP packet
//! does not meet a closed port. A lone SYN's answer is reset by the pod's own kernel. The raw socket is bound
//! to the source address, because policy routing asks the socket for it and not the packet.

mod packet;
mod ports;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol as RawProtocol, SockAddr, Socket, Type};
use waymark_proto::{CheckId, Flow, Marker, MarkerKey, Protocol, Seq};

use crate::netns::{Netns, NetnsError};
use crate::tracer::now_ns;
pub use packet::PacketError;
use packet::{Shape, build};
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
    /// How many packets.
    pub count: u32,
    /// Time between two packets.
    pub interval: Duration,
    /// IP packet length in bytes; 0 for the smallest.
    pub size: u32,
    /// TTL or hop limit.
    pub ttl: u8,
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
        let mut reservations = Vec::new();
        let mut sent = Vec::new();
        let start = Instant::now();
        for number in 0..spec.count {
            // Open loop: the schedule does not wait for what a send took.
            let due = start + spec.interval * number;
            match stop.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            }
            let seq = Seq(number);
            sent.push(match reserve(spec, number, ports, &mut reservations) {
                Ok(flow) => send(&socket, spec, flow, seq)?,
                Err(error) => unsent(seq, spec.flow.src_port, &error),
            });
        }
        Ok((sent, Reservations(reservations)))
    })?
}

/// A packet for which no source port could be had.
fn unsent(seq: Seq, source_port: u16, error: &io::Error) -> Sent {
    let error = format!("no source port: {}", errno_text(error));
    Sent { seq, source_port, sent_ns: now_ns(), error: Some(error) }
}

fn send(socket: &Socket, spec: &InjectSpec, flow: Flow, seq: Seq) -> Result<Sent, PacketError> {
    let marker = Marker { check: spec.check, seq };
    let sent_ns = now_ns();
    let bytes = build(&flow, &spec.key, marker, sent_ns, Shape { size: spec.size, ttl: spec.ttl })?;
    // Port 0: raw sockets of IPv6 refuse any other.
    let to = SockAddr::from(SocketAddr::new(flow.dst, 0));
    let error = socket.send_to(&bytes, &to).err().map(|error| errno_text(&error));
    Ok(Sent { seq, source_port: flow.src_port, sent_ns, error })
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
