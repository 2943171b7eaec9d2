//! Probes that are one packet: ICMP echo and UDP.
//!
//! All targets of a kind that are probed from one namespace share one socket: a raw ICMP socket gets every
//! echo reply of its namespace, so that more of them would do the same work again. The kernel stamps packets
//! when they reach a device and when they come from one, whatever this process is doing then; the first
//! stamp comes with a copy of the packet in the socket's error queue, where also the errors are that routers
//! and the own stack report.
//!
//! A report that quotes less of the probe than its payload (RFC 792 asks for eight bytes; Linux sends all) is
//! not understood: that probe's time runs out.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, RecvMsg, SockaddrStorage, TimestampingFlag, recvmsg, sockopt,
};
use nix::sys::time::TimeSpec;
use pnet_packet::icmp::{IcmpTypes, echo_request::MutableEchoRequestPacket};
use pnet_packet::icmpv6::Icmpv6Types;
use pnet_packet::util;
use socket2::{Domain, Protocol as Number, Socket, Type};
use waymark_proto::Protocol;

use super::options;
use super::payload::{self, Nonce, Payload};
use crate::netns::{Netns, NetnsError};

/// Answers and their stamps that may wait for the agent, in bytes as the kernel counts them.
const RECEIVE_BUFFER: usize = 4 << 20;
/// More than a probe with all headers: tunnels, IPv6, link.
const PACKET: usize = 512;
/// Messages read at a time, so that a flood on one socket does not starve the others.
const AT_ONCE: usize = 256;
const ECHO_HEADER: usize = 8;
/// `SO_EE_ORIGIN_TIMESTAMPING` of linux/errqueue.h.
const ORIGIN_TIMESTAMPING: u8 = 4;

/// What a socket sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// ICMP or UDP.
    pub protocol: Protocol,
    /// The family.
    pub ipv6: bool,
}

/// What is heard of a probe.
#[derive(Clone, Copy, Debug)]
pub enum Heard {
    /// The kernel handed it to a device.
    Departed {
        /// When, since the Unix epoch.
        unix_ns: u64,
    },
    /// Its answer.
    Answered {
        /// When it came, since the Unix epoch.
        came_unix_ns: Option<u64>,
    },
    /// It cannot arrive.
    Refused(Errno),
}

/// A socket in a namespace.
#[derive(Debug)]
pub struct Datagrams {
    socket: Socket,
    kind: Kind,
    nonce: Nonce,
    control: Vec<u8>,
}

impl Datagrams {
    /// Opens a socket in a namespace. Raw sockets need `CAP_NET_RAW` there.
    pub fn open(netns: &Netns, kind: Kind, nonce: Nonce) -> Result<io::Result<Self>, NetnsError> {
        netns.run(|| Self::open_here(kind, nonce))
    }

    fn open_here(kind: Kind, nonce: Nonce) -> io::Result<Self> {
        let domain = if kind.ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = match kind.protocol {
            Protocol::Icmp => {
                let number = if kind.ipv6 { Number::ICMPV6 } else { Number::ICMPV4 };
                let socket = Socket::new(domain, Type::RAW, Some(number))?;
                options::only_echo_replies(&socket, kind.ipv6)?;
                socket
            }
            Protocol::Udp | Protocol::Tcp => Socket::new(domain, Type::DGRAM, Some(Number::UDP))?,
        };
        socket.set_nonblocking(true)?;
        options::prefer(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        let stamps = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE;
        options::prefer(&socket, sockopt::Timestamping, &stamps);
        if kind.ipv6 {
            options::prefer(&socket, sockopt::Ipv6RecvErr, &true);
        } else {
            options::prefer(&socket, sockopt::Ipv4RecvErr, &true);
        }
        // The largest of what comes: stamps, and an error with the address of its sender.
        let control = nix::cmsg_space!([TimeSpec; 3], libc::sock_extended_err, libc::sockaddr_in6);
        Ok(Self { socket, kind, nonce, control: vec![0; control.capacity().max(256)] })
    }

    /// Sends a probe.
    pub fn send(&self, probe: Payload, address: IpAddr, port: Option<u16>) -> io::Result<()> {
        let payload = probe.to_bytes(self.nonce);
        let mut echo = [0; ECHO_HEADER + payload::LEN];
        // Raw sockets of IPv6 refuse any port but 0.
        let (bytes, port) = match self.kind.protocol {
            Protocol::Icmp => {
                write_echo(&mut echo, self.kind.ipv6, self.nonce, probe.number, &payload);
                (&echo[..], 0)
            }
            Protocol::Udp | Protocol::Tcp => (&payload[..], port.unwrap_or_default()),
        };
        let to = SocketAddr::new(address, port).into();
        // An error that came for an earlier probe is told to whoever calls next; it is in the queue too.
        match self.socket.send_to(bytes, &to) {
            Err(_) => self.socket.send_to(bytes, &to),
            sent => sent,
        }
        .map(drop)
    }

    /// Reads the error queue: departures and errors.
    pub fn read_errors(&mut self, mut hear: impl FnMut(Payload, Heard)) {
        for _ in 0..AT_ONCE {
            let mut buffer = [0; PACKET];
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let fd = self.socket.as_raw_fd();
            let read = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut self.control), flags);
            let Ok(message) = read else {
                // The error itself was read from the queue, or is that nothing is there.
                let _ = self.socket.take_error();
                return;
            };
            let (stamp, error, length) = (stamp(&message), error(&message), message.bytes);
            let Some(probe) = Payload::find(&buffer[..length], self.nonce) else { continue };
            match error {
                Some(error) if error.ee_origin == ORIGIN_TIMESTAMPING => {
                    if let Some(unix_ns) = stamp {
                        hear(probe, Heard::Departed { unix_ns });
                    }
                }
                Some(error) => hear(probe, Heard::Refused(Errno::from_raw(error.ee_errno.cast_signed()))),
                None => {}
            }
        }
    }

    /// Reads answers; whether nothing is left.
    pub fn read_answers(&mut self, mut hear: impl FnMut(Payload, Heard)) -> bool {
        for _ in 0..AT_ONCE {
            let mut buffer = [0; PACKET];
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let fd = self.socket.as_raw_fd();
            let read =
                recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut self.control), MsgFlags::MSG_DONTWAIT);
            match read {
                Ok(message) => {
                    let (came_unix_ns, length) = (stamp(&message), message.bytes);
                    if let Some(probe) = Payload::find(&buffer[..length], self.nonce) {
                        hear(probe, Heard::Answered { came_unix_ns });
                    }
                }
                Err(Errno::EAGAIN) => return true,
                // Of an earlier probe: told once, and read from the error queue.
                Err(_) => {}
            }
        }
        false
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn stamp(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Option<u64> {
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampsns(stamps) => unix_ns(stamps.system),
        _ => None,
    })
}

fn unix_ns(time: TimeSpec) -> Option<u64> {
    let ns = u64::try_from(time.tv_sec()).ok()? * 1_000_000_000 + u64::try_from(time.tv_nsec()).ok()?;
    (ns > 0).then_some(ns)
}

fn error(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Option<libc::sock_extended_err> {
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
            Some(error)
        }
        _ => None,
    })
}

/// An echo request. Its identifier is the same for all of a run, so that NAT on the way keeps one entry per
/// target. The kernel fills in the checksum of `ICMPv6`.
fn write_echo(packet: &mut [u8], ipv6: bool, nonce: Nonce, number: u32, payload: &[u8]) {
    packet[ECHO_HEADER..].copy_from_slice(payload);
    let mut echo = MutableEchoRequestPacket::new(packet).expect("the buffer holds the header");
    echo.set_identifier(nonce.0 as u16);
    echo.set_sequence_number(number as u16);
    if ipv6 {
        // Type, identifier and sequence number are at the same places in both families.
        packet[0] = Icmpv6Types::EchoRequest.0;
    } else {
        echo.set_icmp_type(IcmpTypes::EchoRequest);
        let sum = util::checksum(packet, 1);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}
