//! The names that iptables and nftables print for numbers.

/// `RTN_UNSPEC`, as in `linux/rtnetlink.h`.
pub(crate) const RTN_UNSPEC: u64 = 0;
/// `RTN_UNICAST`, as in `linux/rtnetlink.h`.
pub(crate) const RTN_UNICAST: u64 = 1;
/// `RTN_LOCAL`.
pub(crate) const RTN_LOCAL: u64 = 2;
/// `RTN_BROADCAST`.
pub(crate) const RTN_BROADCAST: u64 = 3;
/// `RTN_ANYCAST`.
pub(crate) const RTN_ANYCAST: u64 = 4;
/// `RTN_MULTICAST`.
pub(crate) const RTN_MULTICAST: u64 = 5;
/// `RTN_BLACKHOLE`.
pub(crate) const RTN_BLACKHOLE: u64 = 6;
/// `RTN_UNREACHABLE`.
pub(crate) const RTN_UNREACHABLE: u64 = 7;
/// `RTN_PROHIBIT`.
pub(crate) const RTN_PROHIBIT: u64 = 8;
/// `RTN_THROW`.
pub(crate) const RTN_THROW: u64 = 9;

/// `NF_CT_STATE_INVALID_BIT`.
pub(crate) const STATE_INVALID: u64 = 1;
/// Established.
pub(crate) const STATE_ESTABLISHED: u64 = 2;
/// New.
pub(crate) const STATE_NEW: u64 = 8;
/// Not tracked on purpose.
pub(crate) const STATE_UNTRACKED: u64 = 64;
/// Not the kernel's numbers: the pseudo states of `--ctstate SNAT` and `DNAT`.
pub(crate) const STATE_SNAT: u64 = 1 << 8;
/// See [`STATE_SNAT`].
pub(crate) const STATE_DNAT: u64 = 1 << 9;

fn find(table: &[(&str, u64)], name: &str) -> Option<u64> {
    table.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, number)| *number)
}

/// A decimal or `0x` number.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// An IP protocol.
pub(crate) fn protocol(name: &str) -> Option<u64> {
    let table = [
        ("icmp", 1),
        ("igmp", 2),
        ("ipencap", 4),
        ("ipv4", 4),
        ("tcp", 6),
        ("udp", 17),
        ("dccp", 33),
        ("ipv6", 41),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
        ("icmpv6", 58),
        ("ipv6-icmp", 58),
        ("comp", 108),
        ("sctp", 132),
        ("udplite", 136),
        ("vrrp", 112),
    ];
    find(&table, name).or_else(|| number(name))
}

/// A port; nft may print a few by name.
pub(crate) fn port(name: &str) -> Option<u64> {
    let table = [("ssh", 22), ("domain", 53), ("http", 80), ("https", 443), ("http-alt", 8080)];
    find(&table, name).or_else(|| number(name))
}

/// A conntrack state's bit, with iptables' pseudo states.
pub(crate) fn conn_state(name: &str) -> Option<u64> {
    let table = [
        ("invalid", STATE_INVALID),
        ("established", STATE_ESTABLISHED),
        ("related", 4),
        ("new", STATE_NEW),
        ("untracked", STATE_UNTRACKED),
        ("snat", STATE_SNAT),
        ("dnat", STATE_DNAT),
    ];
    find(&table, name).or_else(|| number(name))
}

/// A bit of a connection's status (`IPS_*`).
pub(crate) fn conn_status(name: &str) -> Option<u64> {
    let table = [
        ("none", 0),
        ("expected", 1),
        ("seen-reply", 2),
        ("assured", 4),
        ("confirmed", 8),
        ("snat", 16),
        ("dnat", 32),
        ("dying", 512),
    ];
    find(&table, name).or_else(|| number(name))
}

/// A TCP flag's bit, or `ALL` and `NONE`.
pub(crate) fn tcp_flag(name: &str) -> Option<u64> {
    let table = [
        ("fin", 1),
        ("syn", 2),
        ("rst", 4),
        ("psh", 8),
        ("ack", 16),
        ("urg", 32),
        ("ecn", 64),
        ("cwr", 128),
        ("all", 63),
        ("none", 0),
    ];
    find(&table, name).or_else(|| number(name))
}

/// An ICMP type (of IPv6 if asked for), with its code where the name stands for both.
pub(crate) fn icmp_type(name: &str, ipv6: bool) -> Option<(u64, Option<u64>)> {
    if let Some((kind, code)) = name.split_once('/') {
        return Some((number(kind)?, Some(number(code)?)));
    }
    let v4 = [
        ("echo-reply", 0),
        ("pong", 0),
        ("destination-unreachable", 3),
        ("source-quench", 4),
        ("redirect", 5),
        ("echo-request", 8),
        ("ping", 8),
        ("router-advertisement", 9),
        ("router-solicitation", 10),
        ("time-exceeded", 11),
        ("ttl-exceeded", 11),
        ("parameter-problem", 12),
        ("timestamp-request", 13),
        ("timestamp-reply", 14),
        ("info-request", 15),
        ("info-reply", 16),
        ("address-mask-request", 17),
        ("address-mask-reply", 18),
    ];
    let v6 = [
        ("destination-unreachable", 1),
        ("packet-too-big", 2),
        ("time-exceeded", 3),
        ("ttl-exceeded", 3),
        ("parameter-problem", 4),
        ("echo-request", 128),
        ("ping", 128),
        ("echo-reply", 129),
        ("pong", 129),
        ("mld-listener-query", 130),
        ("mld-listener-report", 131),
        ("mld-listener-done", 132),
        ("mld-listener-reduction", 132),
        ("router-solicitation", 133),
        ("nd-router-solicit", 133),
        ("router-advertisement", 134),
        ("nd-router-advert", 134),
        ("neighbour-solicitation", 135),
        ("neighbor-solicitation", 135),
        ("nd-neighbor-solicit", 135),
        ("neighbour-advertisement", 136),
        ("neighbor-advertisement", 136),
        ("nd-neighbor-advert", 136),
        ("redirect", 137),
        ("nd-redirect", 137),
        ("mld2-listener-report", 143),
    ];
    let known = if ipv6 { find(&v6, name) } else { find(&v4, name) };
    known.or_else(|| number(name)).map(|kind| (kind, None))
}

/// A route type as `addrtype` and `fib` name it.
pub(crate) fn address_type(name: &str) -> Option<u64> {
    let table = [
        ("unspec", RTN_UNSPEC),
        ("unicast", RTN_UNICAST),
        ("local", RTN_LOCAL),
        ("broadcast", RTN_BROADCAST),
        ("anycast", RTN_ANYCAST),
        ("multicast", RTN_MULTICAST),
        ("blackhole", RTN_BLACKHOLE),
        ("unreachable", RTN_UNREACHABLE),
        ("prohibit", RTN_PROHIBIT),
        ("throw", RTN_THROW),
    ];
    find(&table, name)
}

/// A code point by its name (RFC 2474, RFC 2597, RFC 3246, RFC 5865, RFC 8622).
pub(crate) fn dscp(name: &str) -> Option<u64> {
    let table = [("ef", 46), ("be", 0), ("df", 0), ("va", 44), ("voice-admit", 44), ("lephb", 1)];
    if let Some(class) = name.strip_prefix("cs").and_then(|digit| digit.parse::<u64>().ok()) {
        return (class < 8).then_some(class << 3);
    }
    if let Some([class @ 1..=4, drop @ 1..=3]) = name
        .strip_prefix("af")
        .and_then(|digits| digits.as_bytes().try_into().ok())
        .map(|digits: [u8; 2]| digits.map(|digit| u64::from(digit.wrapping_sub(b'0'))))
    {
        return Some(class << 3 | drop << 1);
    }
    find(&table, name).or_else(|| number(name))
}

/// A packet type (`PACKET_*`).
pub(crate) fn packet_type(name: &str) -> Option<u64> {
    let table = [("host", 0), ("unicast", 0), ("broadcast", 1), ("multicast", 2), ("other", 3)];
    find(&table, name).or_else(|| number(name))
}
