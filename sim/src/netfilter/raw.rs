//! A packet's headers as bytes, as far as they are known: what `@nh,72,8` of nftables reads.

use std::net::IpAddr;

use waymark_proto::Protocol;

use crate::packet::Packet;

/// Which header a rule counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Base {
    Network,
    Transport,
}

/// So many bits of a header as a number, the first the highest. `None` if they are not all known.
pub(super) fn read(packet: &Packet, base: Base, offset: u32, length: u32) -> Option<u64> {
    let bytes = match base {
        Base::Network => network(packet),
        Base::Transport => transport(packet),
    };
    let bit = |at: u32| {
        let byte = (*bytes.get(usize::try_from(at / 8).ok()?)?)?;
        Some(u64::from(byte >> (7 - at % 8) & 1))
    };
    let end = offset.checked_add(length).filter(|_| (1..=64).contains(&length))?;
    (offset..end).try_fold(0, |number, at| Some(number << 1 | bit(at)?))
}

/// RFC 791, RFC 8200. Identification, fragmentation, checksum and flow label are whoever's who sends.
fn network(packet: &Packet) -> Vec<Option<u8>> {
    let flow = &packet.flow;
    let known = |bytes: &[u8]| bytes.iter().copied().map(Some).collect::<Vec<_>>();
    let length = |of: fn(u16) -> u16| match packet.len {
        Some(len) => known(&of(len).to_be_bytes()),
        None => vec![None; 2],
    };
    let protocol = flow.protocol.number(flow.is_ipv6());
    let addresses = [flow.src, flow.dst].map(|address| match address {
        IpAddr::V4(ip) => known(&ip.octets()),
        IpAddr::V6(ip) => known(&ip.octets()),
    });
    let fields = if flow.is_ipv6() {
        [
            vec![Some(0x60 | packet.dscp >> 2), None, None, None],
            length(|len| len.saturating_sub(40)),
            known(&[protocol, packet.ttl]),
        ]
    } else {
        [
            known(&[0x45, packet.dscp << 2]),
            length(|len| len),
            [vec![None; 4], known(&[packet.ttl, protocol]), vec![None; 2]].concat(),
        ]
    };
    [fields.concat(), addresses.concat()].concat()
}

/// Ports and TCP's flags, or type and code. Port 0 stands for one that is not known.
fn transport(packet: &Packet) -> Vec<Option<u8>> {
    let flow = &packet.flow;
    let port = |port: u16| port.to_be_bytes().map(|byte| Some(byte).filter(|_| port != 0));
    let ports = || [port(flow.src_port), port(flow.dst_port)].concat();
    match flow.protocol {
        Protocol::Tcp => {
            let flags = packet.tcp_flags().and_then(|flags| u8::try_from(flags).ok());
            [ports(), vec![None; 9], vec![flags]].concat()
        }
        Protocol::Udp => ports(),
        Protocol::Icmp => {
            let kind = packet.icmp_type().and_then(|kind| u8::try_from(kind).ok());
            vec![kind, Some(0)]
        }
    }
}

#[cfg(test)]
mod tests {
    use waymark_proto::Flow;

    use super::*;

    fn packet(src: &str, dst: &str) -> Packet {
        let [src, dst] = [src, dst].map(|ip| ip.parse().unwrap());
        let flow = Flow { src, dst, protocol: Protocol::Tcp, src_port: 0, dst_port: 80 };
        Packet { dscp: 46, len: Some(60), ..Packet::new(flow, false) }
    }

    #[test]
    fn headers_are_read_by_the_bit() {
        let four = packet("10.0.0.1", "10.0.0.2");
        assert_eq!(read(&four, Base::Network, 0, 4), Some(4));
        assert_eq!(read(&four, Base::Network, 8, 6), Some(46));
        assert_eq!(read(&four, Base::Network, 16, 16), Some(60));
        assert_eq!(read(&four, Base::Network, 72, 8), Some(6));
        assert_eq!(read(&four, Base::Network, 128, 32), Some(0x0a00_0002));
        assert_eq!(read(&four, Base::Transport, 16, 16), Some(80));
        assert_eq!(read(&four, Base::Transport, 104, 8), Some(2), "SYN");
        let six = packet("fd00::1", "fd00::2");
        assert_eq!(read(&six, Base::Network, 32, 16), Some(20), "the payload's length");
        assert_eq!(read(&six, Base::Network, 48, 8), Some(6));
        assert_eq!(read(&six, Base::Network, 192, 16), Some(0xfd00));
    }

    #[test]
    fn what_is_not_known_is_no_zero() {
        let four = packet("10.0.0.1", "10.0.0.2");
        assert_eq!(read(&four, Base::Network, 32, 16), None, "identification");
        assert_eq!(read(&four, Base::Transport, 0, 16), None, "any source port");
        assert_eq!(read(&four, Base::Transport, 112, 16), None, "behind what is kept");
        assert_eq!(read(&four, Base::Network, 0, 65), None);
        assert_eq!(read(&four, Base::Network, u32::MAX, 8), None);
    }
}
