//! Which packet a report is about, by what it quotes of the headers.
//!
//! They are the IP header and 20 bytes behind it, which name the marker of a plain packet but not of one inside a tunnel.

use std::net::IpAddr;

use waymark_proto::marker::parse_identity;
use waymark_proto::{Flow, Headers, Hook, Marker, Match, Protocol};

use super::event::TracedPacket;
use super::legacy::{Passing, Who};
use super::translate::Markers;

/// What tells one encapsulated packet from another, on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OuterKey {
    /// Outer source address.
    pub src: IpAddr,
    /// Outer destination address.
    pub dst: IpAddr,
    /// Outer source port: a hash of the inner flow, of which every packet of a check has its own.
    pub src_port: u16,
    /// IP identification; 0 for IPv6.
    pub ip_id: u16,
}

/// What is known of it.
pub(super) enum Identity {
    Marked(Marker, Box<Headers>),
    Inside(OuterKey),
    Foreign,
}

impl Identity {
    /// The same in a hook, to be found by; `None` for a packet that is of no interest.
    pub(super) fn passing(&self, hook: Hook) -> Option<Passing> {
        let who = match self {
            Self::Marked(marker, headers) => Who::Marked(*marker, headers.matched),
            Self::Inside(key) => Who::Inside(*key),
            Self::Foreign => return None,
        };
        Some(Passing { hook, who })
    }
}

/// Which packet is it?
pub(super) fn identify(packet: &TracedPacket<'_>, markers: &dyn Markers) -> Identity {
    let Some(ip) = parse_ip(packet.network) else { return Identity::Foreign };
    let transport = packet.transport;
    let word = |at: usize| Some(u16::from_be_bytes(transport.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(transport.get(at..at + 4)?.try_into().ok()?));
    let tag = transport.get(8..).and_then(parse_identity).filter(|&marker| markers.is_armed(marker));
    let isn = |at: usize, less: u32| markers.by_isn(long(at)?.wrapping_sub(less));

    let found = match ip.protocol {
        Protocol::Udp => tag.map(|marker| (marker, Match::Tag)),
        Protocol::Icmp => {
            let reply = matches!(transport.first(), Some(0 | 129));
            tag.map(|marker| (marker, if reply { Match::EchoReply } else { Match::Tag }))
        }
        Protocol::Tcp => isn(4, 0)
            .map(|marker| (marker, Match::TcpSeq))
            .or_else(|| isn(8, 1).map(|marker| (marker, Match::TcpAck))),
    };
    let ports = match ip.protocol {
        Protocol::Icmp => word(4).map(|id| (id, id)),
        _ => word(0).zip(word(2)),
    };
    match (found, ports) {
        (Some((marker, matched)), Some((src_port, dst_port))) => {
            let flow = Flow { src: ip.src, dst: ip.dst, protocol: ip.protocol, src_port, dst_port };
            let tcp_flags = match ip.protocol {
                Protocol::Tcp => transport.get(13).copied().unwrap_or_default(),
                _ => 0,
            };
            let headers = Headers {
                flow,
                matched,
                ttl: ip.ttl,
                len: ip.len,
                ip_id: ip.id,
                tcp_flags,
                mark: packet.mark,
                outer: None,
            };
            Identity::Marked(marker, Box::new(headers))
        }
        (None, Some((src_port, _))) if ip.protocol == Protocol::Udp => {
            Identity::Inside(OuterKey { src: ip.src, dst: ip.dst, src_port, ip_id: ip.id })
        }
        _ => Identity::Foreign,
    }
}

struct IpHeader {
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
    ttl: u8,
    len: u16,
    id: u16,
}

/// Reads what a trace event quotes of the IP header, by `pnet`'s views. A later fragment, which has the trace bit from its
/// packet, is left to tracepoints: what follows its IP header is payload.
fn parse_ip(bytes: &[u8]) -> Option<IpHeader> {
    use pnet_packet::ipv4::Ipv4Packet;
    use pnet_packet::ipv6::Ipv6Packet;

    match bytes.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new(bytes).filter(|ip| ip.get_fragment_offset() == 0)?;
            Some(IpHeader {
                src: ip.get_source().into(),
                dst: ip.get_destination().into(),
                protocol: Protocol::from_number(ip.get_next_level_protocol().0)?,
                ttl: ip.get_ttl(),
                len: ip.get_total_length(),
                id: ip.get_identification(),
            })
        }
        6 => {
            let ip = Ipv6Packet::new(bytes)?;
            Some(IpHeader {
                src: ip.get_source().into(),
                dst: ip.get_destination().into(),
                protocol: Protocol::from_number(ip.get_next_header().0)?,
                ttl: ip.get_hop_limit(),
                len: ip.get_payload_length().saturating_add(40),
                id: 0,
            })
        }
        _ => None,
    }
}
