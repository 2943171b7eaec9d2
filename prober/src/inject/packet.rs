//! Building a marked packet, headers and all, by `pnet`'s packet views.

use std::net::IpAddr;

use pnet_packet::icmp::{IcmpTypes, echo_request::MutableEchoRequestPacket};
use pnet_packet::icmpv6::{Icmpv6Types, MutableIcmpv6Packet};
use pnet_packet::ip::IpNextHeaderProtocol;
use pnet_packet::ipv4::{Ipv4Flags, MutableIpv4Packet};
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::tcp::{MutableTcpPacket, TcpFlags, TcpOption};
use pnet_packet::udp::MutableUdpPacket;
use pnet_packet::util;
use waymark_proto::marker::TAG_LEN;
use waymark_proto::{Flow, Marker, MarkerKey, Protocol, Tag};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const ECHO_HEADER: usize = 8;
/// A TCP header with one option, the maximum segment size.
const TCP_HEADER: usize = 24;
/// What a SYN announces: the smallest that every host takes (RFC 9293, 3.7.1).
const MSS: u16 = 536;

/// Parameters of a packet beside its flow.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// IP packet length in bytes; 0 for the smallest that holds the tag. A SYN is filled up with data, which a
    /// listener ignores (RFC 9293, 3.10.7.2, lets it; Linux does, but for TCP fast open with a cookie).
    pub size: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Differentiated services code point, 0 to 63 (RFC 2474).
    pub dscp: u8,
    /// Whether routers may fragment it. Of IPv6 none may.
    pub fragmentable: bool,
}

/// Why a packet cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The addresses are of different families.
    #[error("source {src} and destination {dst} are of different families")]
    Families {
        /// Source.
        src: IpAddr,
        /// Destination.
        dst: IpAddr,
    },
    /// The size does not do.
    #[error("a packet of {size} bytes is not possible here: {least} to {most} are")]
    Size {
        /// What was asked for.
        size: u32,
        /// The least.
        least: usize,
        /// The most.
        most: usize,
    },
}

/// The bytes of a marked packet, IP header included. The kernel fills in IPv4 checksum and identification.
pub fn build(
    flow: &Flow,
    key: &MarkerKey,
    marker: Marker,
    sent_ns: u64,
    shape: Shape,
) -> Result<Vec<u8>, PacketError> {
    let ip_header = match (flow.src, flow.dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) => IPV4_HEADER,
        (IpAddr::V6(_), IpAddr::V6(_)) => IPV6_HEADER,
        (src, dst) => return Err(PacketError::Families { src, dst }),
    };
    let least = ip_header
        + match flow.protocol {
            Protocol::Udp => UDP_HEADER + TAG_LEN,
            Protocol::Icmp => ECHO_HEADER + TAG_LEN,
            Protocol::Tcp => TCP_HEADER,
        };
    let most = usize::from(u16::MAX);
    let size = if shape.size == 0 { least } else { shape.size as usize };
    if !(least..=most).contains(&size) {
        return Err(PacketError::Size { size: shape.size, least, most });
    }

    let mut packet = vec![0; size];
    let (header, transport) = packet.split_at_mut(ip_header);
    let tag = Tag::new(key, marker, sent_ns).to_bytes();
    match flow.protocol {
        Protocol::Udp => udp(transport, flow, &tag),
        Protocol::Icmp => echo(transport, flow, marker, &tag),
        Protocol::Tcp => syn(transport, flow, key.isn(marker)),
    }
    ip(header, flow, transport.len(), shape);
    Ok(packet)
}

/// A reset of the connection that a marker's SYN began, with which its receiver forgets it (RFC 9293, 3.10.7.4).
/// It carries no marker: no tracer takes it for one.
pub fn reset(flow: &Flow, key: &MarkerKey, marker: Marker, shape: Shape) -> Result<Vec<u8>, PacketError> {
    let mut packet = build(flow, key, marker, 0, Shape { size: 0, ..shape })?;
    let ip_header = if flow.is_ipv6() { IPV6_HEADER } else { IPV4_HEADER };
    let transport = &mut packet[ip_header..];
    let mut tcp = MutableTcpPacket::new(transport).expect(FITS);
    tcp.set_sequence(key.isn(marker).wrapping_add(1));
    tcp.set_flags(TcpFlags::RST);
    let sum = checksum(transport, 8, flow);
    transport[16..18].copy_from_slice(&sum.to_be_bytes());
    Ok(packet)
}

/// The buffers' lengths were chosen to hold the headers.
const FITS: &str = "the buffer holds the header";

fn ip(header: &mut [u8], flow: &Flow, payload: usize, Shape { ttl, dscp, fragmentable, .. }: Shape) {
    let protocol = IpNextHeaderProtocol(flow.protocol.number(flow.is_ipv6()));
    match (flow.src, flow.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (header.len() + payload) as u16;
            let mut ip = MutableIpv4Packet::new(header).expect(FITS);
            ip.set_version(4);
            ip.set_header_length((IPV4_HEADER / 4) as u8);
            ip.set_dscp(dscp);
            ip.set_total_length(total);
            ip.set_flags(if fragmentable { 0 } else { Ipv4Flags::DontFragment });
            ip.set_ttl(ttl);
            ip.set_next_level_protocol(protocol);
            ip.set_source(src);
            ip.set_destination(dst);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut ip = MutableIpv6Packet::new(header).expect(FITS);
            ip.set_version(6);
            ip.set_traffic_class(dscp << 2);
            ip.set_payload_length(payload as u16);
            ip.set_hop_limit(ttl);
            ip.set_next_header(protocol);
            ip.set_source(src);
            ip.set_destination(dst);
        }
        _ => unreachable!("families were compared before"),
    }
}

fn udp(transport: &mut [u8], flow: &Flow, tag: &[u8]) {
    let length = transport.len() as u16;
    let mut udp = MutableUdpPacket::new(transport).expect(FITS);
    udp.set_source(flow.src_port);
    udp.set_destination(flow.dst_port);
    udp.set_length(length);
    transport[UDP_HEADER..UDP_HEADER + TAG_LEN].copy_from_slice(tag);
    let sum = checksum(transport, 3, flow);
    // A computed zero is sent as all ones: zero means "no checksum" (RFC 768).
    let sum = if sum == 0 { u16::MAX } else { sum };
    transport[6..8].copy_from_slice(&sum.to_be_bytes());
}

fn echo(transport: &mut [u8], flow: &Flow, marker: Marker, tag: &[u8]) {
    transport[ECHO_HEADER..ECHO_HEADER + TAG_LEN].copy_from_slice(tag);
    // Identifier and sequence number are at the same place in both families.
    let mut echo = MutableEchoRequestPacket::new(transport).expect(FITS);
    echo.set_identifier(flow.src_port);
    echo.set_sequence_number(marker.seq.0 as u16);
    let sum = if flow.is_ipv6() {
        MutableIcmpv6Packet::new(transport).expect(FITS).set_icmpv6_type(Icmpv6Types::EchoRequest);
        checksum(transport, 1, flow)
    } else {
        MutableEchoRequestPacket::new(transport).expect(FITS).set_icmp_type(IcmpTypes::EchoRequest);
        util::checksum(transport, 1)
    };
    transport[2..4].copy_from_slice(&sum.to_be_bytes());
}

fn syn(transport: &mut [u8], flow: &Flow, isn: u32) {
    let mut tcp = MutableTcpPacket::new(transport).expect(FITS);
    tcp.set_source(flow.src_port);
    tcp.set_destination(flow.dst_port);
    tcp.set_sequence(isn);
    tcp.set_data_offset((TCP_HEADER / 4) as u8);
    tcp.set_flags(TcpFlags::SYN);
    tcp.set_window(MSS);
    tcp.set_options(&[TcpOption::mss(MSS)]);
    let sum = checksum(transport, 8, flow);
    transport[16..18].copy_from_slice(&sum.to_be_bytes());
}

/// The checksum with pseudo header; `skip` is the index of the 16-bit word that holds it.
fn checksum(transport: &[u8], skip: usize, flow: &Flow) -> u16 {
    let protocol = IpNextHeaderProtocol(flow.protocol.number(flow.is_ipv6()));
    match (flow.src, flow.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => util::ipv4_checksum(transport, skip, &[], &src, &dst, protocol),
        (IpAddr::V6(src), IpAddr::V6(dst)) => util::ipv6_checksum(transport, skip, &[], &src, &dst, protocol),
        _ => unreachable!("families were compared before"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waymark_proto::{CheckId, Seq};

    const KEY: MarkerKey = MarkerKey([7; 16]);
    const SMALLEST: Shape = Shape { size: 0, ttl: 64, dscp: 0, fragmentable: false };

    fn marker() -> Marker {
        Marker { check: CheckId::new(5).unwrap(), seq: Seq(2) }
    }

    fn flow(protocol: Protocol, ipv6: bool) -> Flow {
        let (src, dst) = if ipv6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        Flow { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol, src_port: 40000, dst_port: 53 }
    }

    #[test]
    fn tags_are_where_tracers_look() {
        for protocol in [Protocol::Udp, Protocol::Icmp] {
            for ipv6 in [false, true] {
                let bytes = build(&flow(protocol, ipv6), &KEY, marker(), 1, SMALLEST).unwrap();
                let at = if ipv6 { 48 } else { 28 };
                assert_eq!(Tag::parse(&bytes[at..]).unwrap().marker, marker());
            }
        }
        let syn = build(&flow(Protocol::Tcp, false), &KEY, marker(), 1, SMALLEST).unwrap();
        assert_eq!(syn[24..28], KEY.isn(marker()).to_be_bytes());
    }

    /// With the checksum in its place, the sum over the segment is zero.
    #[test]
    fn checksums_are_right() {
        for protocol in [Protocol::Udp, Protocol::Icmp, Protocol::Tcp] {
            for (ipv6, size) in [(false, 0), (true, 0), (false, 1501), (true, 1500)] {
                let flow = flow(protocol, ipv6);
                let bytes = build(&flow, &KEY, marker(), 1, Shape { size, ..SMALLEST }).unwrap();
                let transport = &bytes[if ipv6 { 40 } else { 20 }..];
                let never = transport.len();
                let sum = if protocol == Protocol::Icmp && !ipv6 {
                    util::checksum(transport, never)
                } else {
                    checksum(transport, never, &flow)
                };
                assert_eq!(sum, 0, "{protocol} ipv6={ipv6}");
            }
        }
    }

    #[test]
    fn a_reset_is_of_the_connection_that_the_syn_began() {
        let flow = flow(Protocol::Tcp, true);
        let bytes = reset(&flow, &KEY, marker(), SMALLEST).unwrap();
        assert_eq!(bytes[44..48], KEY.isn(marker()).wrapping_add(1).to_be_bytes());
        assert_eq!(bytes[53], TcpFlags::RST);
        assert_eq!(checksum(&bytes[40..], 12, &flow), 0);
    }

    #[test]
    fn routers_may_fragment_what_they_are_let() {
        for (fragmentable, flags) in [(false, 0x40), (true, 0)] {
            let shape = Shape { fragmentable, ..SMALLEST };
            assert_eq!(build(&flow(Protocol::Udp, false), &KEY, marker(), 1, shape).unwrap()[6], flags);
        }
    }

    #[test]
    fn the_code_point_is_in_the_header() {
        // Expedited forwarding, 46.
        let expedited = Shape { dscp: 0b10_1110, ..SMALLEST };
        let bytes = build(&flow(Protocol::Udp, false), &KEY, marker(), 1, expedited).unwrap();
        assert_eq!(bytes[1], 0b1011_1000);
        let bytes = build(&flow(Protocol::Udp, true), &KEY, marker(), 1, expedited).unwrap();
        assert_eq!(bytes[..2], [0b0110_1011, 0b1000_0000]);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let shape = |size| Shape { size, ..SMALLEST };
        let udp = flow(Protocol::Udp, false);
        assert_eq!(build(&udp, &KEY, marker(), 0, shape(1400)).unwrap().len(), 1400);
        for size in [1, 59, 70_000] {
            assert!(matches!(
                build(&udp, &KEY, marker(), 0, shape(size)),
                Err(PacketError::Size { least: 60, most: 65535, .. })
            ));
        }
        assert_eq!(build(&flow(Protocol::Tcp, false), &KEY, marker(), 0, shape(100)).unwrap().len(), 100);
        let mixed = Flow { dst: "fd00::2".parse().unwrap(), ..udp };
        assert!(matches!(build(&mixed, &KEY, marker(), 0, shape(0)), Err(PacketError::Families { .. })));
    }
}
