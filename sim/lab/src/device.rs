//! Devices, addresses, routes and neighbours, with what is usual where nothing else is said.

use std::net::IpAddr;

use waymark_proto::{Address, Link, LinkKind, Neighbour, NextHop, PolicyRule, Route, RouteType, RuleAction};

/// An address.
///
/// # Panics
/// If it is none.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

/// A link-layer address of a node: what it is of, and which of those.
pub fn mac(node: u8, what: u8, number: u8) -> String {
    format!("02:00:00:{what:02x}:{node:02x}:{number:02x}")
}

/// A device that is up.
pub fn link(index: u32, name: &str, mac: String, kind: LinkKind) -> Link {
    Link {
        index,
        name: name.into(),
        mac: Some(mac),
        mtu: 1500,
        up: true,
        carrier: true,
        master: None,
        kind,
        bridge_port: None,
    }
}

/// An address of a device.
///
/// # Panics
/// If `net` is no address with a prefix length.
pub fn address(index: u32, net: &str) -> Address {
    let address = net.parse().unwrap_or_else(|_| panic!("{net} is no address of a network"));
    Address { index, address, peer: None, tentative: false, inward: false }
}

/// A route, with a next hop if it has a device.
///
/// # Panics
/// If `dst` or `via` is no address.
pub fn route(table: u32, dst: &str, kind: RouteType, via: Option<&str>, index: Option<u32>) -> Route {
    let hop = NextHop { via: via.map(ip), index, weight: 1, onlink: false, dead: false, linkdown: false };
    let next_hops = if index.is_some() { vec![hop] } else { Vec::new() };
    let dst = dst.parse().unwrap_or_else(|_| panic!("{dst} is no prefix"));
    Route { table, dst, kind, metric: 0, tos: 0, prefsrc: None, next_hops }
}

pub(crate) fn local(dst: &str, index: u32) -> Route {
    route(255, dst, RouteType::Local, None, Some(index))
}

pub(crate) fn main(dst: &str, via: Option<&str>, index: u32) -> Route {
    route(254, dst, RouteType::Unicast, via, Some(index))
}

pub(crate) fn neighbour(index: u32, address: &str, mac: String, state: &str) -> Neighbour {
    Neighbour { index, address: ip(address), mac: Some(mac), state: state.into(), proxy: false }
}

pub(crate) fn loopback() -> Link {
    link(1, "lo", "00:00:00:00:00:00".into(), LinkKind::Loopback)
}

/// The policy rules that every namespace begins with.
pub(crate) fn rules() -> Vec<PolicyRule> {
    let rule = |priority, table| PolicyRule {
        ipv6: false,
        priority,
        action: RuleAction::Table,
        table,
        goto: None,
        src: None,
        dst: None,
        iif: None,
        oif: None,
        mark: None,
        mask: None,
        ip_protocol: None,
        src_ports: None,
        dst_ports: None,
        tos: None,
        invert: false,
        unmodelled: Vec::new(),
    };
    vec![rule(0, 255), rule(32766, 254), rule(32767, 253)]
}

/// Settings, as name and value.
pub(crate) fn sysctls(forward: bool) -> impl Iterator<Item = (String, String)> {
    let all = [
        ("ipv4.ip_forward", if forward { "1" } else { "0" }),
        ("ipv4.conf.all.rp_filter", "0"),
        ("bridge.bridge-nf-call-iptables", "1"),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))
}
