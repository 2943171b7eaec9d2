//! Which marked packet some bytes are: a reading of the wire of its own, beside that of the tracer.
//!
//! | packet | is known by |
//! |---|---|
//! | UDP, ICMP echo | the tag at the start of its payload |
//! | TCP SYN | its sequence number; the answer by its acknowledgement less one |
//! | ICMP error | the packet that it quotes |
//! | VXLAN | the packet inside |

use std::net::IpAddr;

use pnet_packet::ipv4::{Ipv4Packet, checksum};
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::tcp::{TcpFlags, TcpPacket};
use waymark_proto::marker::{Tag, parse_identity};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// UDP, VXLAN and Ethernet in front of the packet inside a tunnel.
const TUNNEL_HEADERS: usize = 8 + 8 + 14;

/// What tells a marked packet, with its answer, from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identity {
    /// Check and number of its tag.
    Tag(u32, u32),
    /// The initial sequence number of its SYN.
    Isn(u32),
}

/// What a packet is to the marked one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The marked packet itself.
    Itself,
    /// Its answer. A UDP server that sends back what it got gives no answer, but the same packet once more.
    Answer,
    /// An ICMP error that quotes it.
    Error,
}

/// A marked packet as it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marked {
    pub identity: Identity,
    pub role: Role,
    /// Whether it is inside a tunnel.
    pub tunnelled: bool,
}

/// What can be read of a packet that begins with an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub marked: Marked,
    /// Source port or echo identifier.
    pub source_port: u16,
    /// The keyed hash of a tag, without which it counts for nothing. What an error quotes may be cut short.
    pub hash: Option<u64>,
    /// The tunnel around it.
    pub tunnel: Option<Tunnel>,
}

/// What tells a packet of a tunnel from others: addresses and IP identification.
pub type Tunnel = (IpAddr, IpAddr, u16);

impl std::fmt::Display for Marked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let role = match self.role {
            Role::Itself => "",
            Role::Answer => "answer to ",
            Role::Error => "ICMP error about ",
        };
        let tunnelled = if self.tunnelled { ", in a tunnel" } else { "" };
        match self.identity {
            Identity::Tag(check, seq) => write!(f, "{role}packet {seq} of check {check:08x}{tunnelled}"),
            Identity::Isn(isn) => write!(f, "{role}SYN with sequence number {isn}{tunnelled}"),
        }
    }
}

/// Reads a packet; `None` if it is not marked.
pub fn read(bytes: &[u8]) -> Option<Reading> {
    let (protocol, transport) = ip(bytes)?;
    plain(protocol, transport).or_else(|| {
        let tunnel = outer(bytes);
        let (protocol, inner) = ip(inside(protocol, transport)?)?;
        let reading = plain(protocol, inner)?;
        Some(Reading { marked: Marked { tunnelled: true, ..reading.marked }, tunnel, ..reading })
    })
}

/// What tells a packet of a tunnel from others.
fn outer(bytes: &[u8]) -> Option<Tunnel> {
    if bytes.first()? >> 4 == 6 {
        let ip = Ipv6Packet::new(bytes)?;
        return Some((ip.get_source().into(), ip.get_destination().into(), 0));
    }
    // A damaged header is another tunnel's, and comes no further.
    let ip = Ipv4Packet::new(bytes).filter(|ip| ip.get_checksum() == checksum(ip))?;
    Some((ip.get_source().into(), ip.get_destination().into(), ip.get_identification()))
}

/// Protocol and transport header. Later fragments have none.
fn ip(bytes: &[u8]) -> Option<(u8, &[u8])> {
    match bytes.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new(bytes).filter(|ip| ip.get_fragment_offset() == 0)?;
            let header = usize::from(ip.get_header_length()) * 4;
            Some((ip.get_next_level_protocol().0, bytes.get(header..)?))
        }
        6 => Some((
            Ipv6Packet::new(bytes)?.get_next_header().0,
            bytes.get(Ipv6Packet::minimum_packet_size()..)?,
        )),
        _ => None,
    }
}

/// The packet inside a tunnel.
fn inside(protocol: u8, transport: &[u8]) -> Option<&[u8]> {
    let is_vxlan = protocol == UDP && transport.get(8..12) == Some(&[8, 0, 0, 0]);
    let is_ip = matches!(word(transport, TUNNEL_HEADERS - 2), Some(0x0800 | 0x86dd));
    transport.get(TUNNEL_HEADERS..).filter(|_| is_vxlan && is_ip)
}

/// A packet outside of tunnels.
fn plain(protocol: u8, transport: &[u8]) -> Option<Reading> {
    transported(protocol, transport).or_else(|| quoted(protocol, transport))
}

fn transported(protocol: u8, transport: &[u8]) -> Option<Reading> {
    let reading = |identity, role, source_port, hash| {
        Some(Reading { marked: Marked { identity, role, tunnelled: false }, source_port, hash, tunnel: None })
    };
    let tagged = |role, port_at| {
        let payload = transport.get(8..)?;
        let marker = parse_identity(payload)?;
        let hash = Tag::parse(payload).map(|tag| tag.hash);
        reading(Identity::Tag(marker.check.get(), marker.seq.0), role, word(transport, port_at)?, hash)
    };
    match (protocol, transport.first()?) {
        (UDP, _) => tagged(Role::Itself, 0),
        (ICMP, 8) | (ICMPV6, 128) => tagged(Role::Itself, 4),
        (ICMP, 0) | (ICMPV6, 129) => tagged(Role::Answer, 4),
        (TCP, _) => {
            let tcp = TcpPacket::new(transport)?;
            let port = tcp.get_source();
            let has = |flag| tcp.get_flags() & flag != 0;
            if has(TcpFlags::ACK) && (has(TcpFlags::SYN) || has(TcpFlags::RST)) {
                let isn = tcp.get_acknowledgement().wrapping_sub(1);
                return reading(Identity::Isn(isn), Role::Answer, port, None);
            }
            let lone = has(TcpFlags::SYN) && !has(TcpFlags::ACK) && !has(TcpFlags::RST);
            lone.then(|| reading(Identity::Isn(tcp.get_sequence()), Role::Itself, port, None))?
        }
        _ => None,
    }
}

fn quoted(protocol: u8, transport: &[u8]) -> Option<Reading> {
    let is_error = match protocol {
        ICMP => matches!(transport.first()?, 3 | 5 | 11 | 12),
        ICMPV6 => matches!(transport.first()?, 1..=4),
        _ => false,
    };
    let (protocol, quote) = ip(transport.get(8..).filter(|_| is_error)?)?;
    // Of TCP no more than eight bytes need be quoted.
    let (identity, source_port) = if protocol == TCP {
        let isn = u32::from_be_bytes(quote.get(4..8)?.try_into().ok()?);
        (Identity::Isn(isn), word(quote, 0)?)
    } else {
        let Reading { marked, source_port, .. } = transported(protocol, quote)?;
        (marked.identity, source_port)
    };
    let marked = Marked { identity, role: Role::Error, tunnelled: false };
    Some(Reading { marked, source_port, hash: None, tunnel: None })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend(payload);
        bytes
    }

    fn tcp(seq: u32, ack: u32, flags: u8) -> Vec<u8> {
        let ends = [0x9c, 0x40, 0, 80];
        let rest = [0x50, flags, 0, 0, 0, 0, 0, 0];
        [&ends[..], &seq.to_be_bytes(), &ack.to_be_bytes(), &rest].concat()
    }

    fn tag(header: [u8; 8]) -> Vec<u8> {
        [&header[..], b"WAYM", &7_u32.to_be_bytes(), &3_u32.to_be_bytes()].concat()
    }

    fn marked(bytes: &[u8]) -> Option<(Identity, Role, bool)> {
        read(bytes).map(|Reading { marked, .. }| (marked.identity, marked.role, marked.tunnelled))
    }

    #[test]
    fn markers_are_read_in_all_their_forms() {
        let syn = ipv4(TCP, &tcp(99, 0, 0x02));
        assert_eq!(marked(&syn), Some((Identity::Isn(99), Role::Itself, false)));
        assert_eq!(read(&syn).unwrap().source_port, 40_000);
        assert_eq!(marked(&ipv4(TCP, &tcp(5, 100, 0x12))), Some((Identity::Isn(99), Role::Answer, false)));
        assert_eq!(marked(&ipv4(TCP, &tcp(5, 100, 0x10))), None);
        let udp = ipv4(UDP, &tag([0x9c, 0x40, 0, 53, 0, 0, 0, 0]));
        assert_eq!(marked(&udp), Some((Identity::Tag(7, 3), Role::Itself, false)));
        let reply = ipv4(ICMP, &tag([0, 0, 0, 0, 0x12, 0x34, 0, 0]));
        assert_eq!(marked(&reply), Some((Identity::Tag(7, 3), Role::Answer, false)));
        let error = ipv4(ICMP, &[&[3, 1, 0, 0, 0, 0, 0, 0], &syn[..28]].concat());
        assert_eq!(marked(&error), Some((Identity::Isn(99), Role::Error, false)));
        let vxlan =
            [&[0xcc, 0xcc, 0x21, 0x18, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0][..], &[0; 12], &[8, 0], &error]
                .concat();
        assert_eq!(marked(&ipv4(UDP, &vxlan)), Some((Identity::Isn(99), Role::Error, true)));
    }

    #[test]
    fn what_is_cut_short_or_a_later_fragment_is_no_marker() {
        let mut syn = ipv4(TCP, &tcp(99, 0, 0x02));
        for end in 0..syn.len() {
            assert_eq!(marked(&syn[..end]), None);
        }
        syn[7] = 1;
        assert_eq!(marked(&syn), None);
    }
}
