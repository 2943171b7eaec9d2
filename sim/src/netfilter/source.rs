//! Which of a host's addresses it sends from, where nobody says.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use waymark_proto::Address;

use crate::namespace::Namespace;

/// The address that packets towards another by a device are sent from.
pub(crate) fn select(namespace: &Namespace, device: u32, towards: IpAddr) -> Option<IpAddr> {
    match towards {
        IpAddr::V4(_) => select_ipv4(namespace, device, towards),
        IpAddr::V6(to) => select_ipv6(namespace, device, to).map(IpAddr::V6),
    }
}

/// The address of a device that is nearest to another: one of its subnet, else its first, else the first
/// of any device (`inet_select_addr`).
fn select_ipv4(namespace: &Namespace, device: u32, towards: IpAddr) -> Option<IpAddr> {
    let global = |ip: &IpAddr| !ip.is_loopback() && !matches!(ip, IpAddr::V4(ip) if ip.is_link_local());
    let outward = |index: u32| namespace.addresses_of(index, false).filter(|address| !address.inward);
    let near = outward(device).find(|address| address.address.contains(&towards));
    let on = |index: u32| outward(index).map(|address| address.address.addr()).find(|ip| global(ip));
    near.map(|address| address.address.addr())
        .or_else(|| on(device))
        .or_else(|| namespace.links().find_map(|link| on(link.index)))
}

/// The address that packets to a destination by a device are sent from (`ipv6_dev_get_saddr`, RFC 6724 section 5).
/// `None` if there is none, or several are equally good: the kernel then takes the first, and facts have another order.
fn select_ipv6(namespace: &Namespace, device: u32, to: Ipv6Addr) -> Option<Ipv6Addr> {
    let link_only = to.is_multicast() || scope(to) <= LINK;
    let mut candidates: Vec<(Score, Ipv6Addr)> = namespace
        .links()
        .filter(|link| !link_only || link.index == device)
        .flat_map(|link| namespace.addresses_of(link.index, true))
        .filter_map(|address| score(address, device, to))
        .collect();
    candidates.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    match candidates.as_slice() {
        [(best, one), (next, other), ..] if best == next && one != other => None,
        [(_, one), ..] => Some(*one),
        [] => None,
    }
}

/// How good an address is, by one rule after the other (`ipv6_get_saddr_eval`).
type Score = (bool, i32, bool, bool, u32);

fn score(address: &Address, device: u32, to: Ipv6Addr) -> Option<(Score, Ipv6Addr)> {
    let IpNet::V6(net) = address.address else { return None };
    let own = net.addr();
    if own.is_unspecified() || own.is_multicast() {
        return None;
    }
    let (reach, needed) = (scope(own), scope(to));
    // The smallest scope that reaches as far as the destination is best.
    let reaching = if reach >= needed { -reach } else { reach - 128 };
    let common = (u128::from(own) ^ u128::from(to)).leading_zeros().min(net.prefix_len().into());
    Some(((own == to, reaching, address.index == device, label(own) == label(to), common), own))
}

/// `IPV6_ADDR_SCOPE_LINKLOCAL`.
const LINK: i32 = 2;

/// `IPV6_ADDR_SCOPE_*` (`__ipv6_addr_type`): unique local addresses are of the global scope.
fn scope(ip: Ipv6Addr) -> i32 {
    const SITE: i32 = 5;
    const GLOBAL: i32 = 14;
    match ip.segments()[0] {
        multicast if multicast & 0xff00 == 0xff00 => i32::from(multicast & 0xf),
        local if local & 0xffc0 == 0xfe80 => LINK,
        site if site & 0xffc0 == 0xfec0 => SITE,
        _ if ip.is_loopback() => LINK,
        _ => GLOBAL,
    }
}

/// The label of an address by the policy table that kernels begin with (`ip6addrlbl_init_table`, RFC 6724 section 2.1).
fn label(ip: Ipv6Addr) -> u32 {
    const TABLE: [(Ipv6Addr, u8, u32); 10] = [
        (Ipv6Addr::LOCALHOST, 128, 0),
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 4),
        (Ipv6Addr::UNSPECIFIED, 96, 3),
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 6),
        (Ipv6Addr::new(0x2001, 0x10, 0, 0, 0, 0, 0, 0), 28, 7),
        (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, 12),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 2),
        (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 11),
        (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 5),
        (Ipv6Addr::UNSPECIFIED, 0, 1),
    ];
    let has = |(net, length, _): &&(Ipv6Addr, u8, u32)| {
        Ipv6Net::new(*net, *length).is_ok_and(|net| net.contains(&ip))
    };
    TABLE.iter().find(has).map_or(1, |(_, _, label)| *label)
}
