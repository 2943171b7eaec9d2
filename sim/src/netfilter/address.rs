//! Types of addresses, which three modules ask for in three ways.

use std::net::{IpAddr, Ipv4Addr};

use waymark_proto::{Cause, RouteType};

use super::read::Stop;
use super::symbols;
use crate::fib::{self, Found, Key, Transport};
use crate::namespace::{Namespace, TABLE_LOCAL};

/// The type of an IPv4 address by the local table (`inet_addr_type`), which `addrtype` and `fib` ask for alike.
pub(super) fn of_ipv4(namespace: &Namespace, address: Ipv4Addr) -> Result<u64, Stop> {
    if address.octets()[0] == 0 || address.is_broadcast() {
        return Ok(symbols::RTN_BROADCAST);
    }
    if address.is_multicast() {
        return Ok(symbols::RTN_MULTICAST);
    }
    let address = IpAddr::V4(address);
    match namespace.routes_to(TABLE_LOCAL, address).next() {
        Some(route) => Ok(number(route.kind)),
        None => match namespace.lacks("routes") {
            Some(why) => Err(Stop::Unknown(why)),
            None => Ok(symbols::RTN_UNICAST),
        },
    }
}

/// The type of an IPv6 address as `fib` of nftables has it: by the route there (`__nft_fib6_eval_type`).
pub(super) fn of_ipv6(namespace: &Namespace, address: IpAddr, other: IpAddr) -> Result<u64, Stop> {
    let unicast = if address.is_multicast() { symbols::RTN_MULTICAST } else { symbols::RTN_UNICAST };
    Ok(match route_to(namespace, address, other) {
        Found::Local(route) => number(route.kind),
        Found::Unicast(..) => unicast,
        Found::Refused(Cause::BlackholeRoute, _) => symbols::RTN_BLACKHOLE,
        Found::Refused(Cause::ProhibitRoute, _) => symbols::RTN_PROHIBIT,
        Found::Refused(..) | Found::Nothing => symbols::RTN_UNREACHABLE,
        Found::Unknown(why) => return Err(Stop::Unknown(why)),
    })
}

/// Whether an IPv6 address is of the types that `addrtype` of ip6tables asks for. What tells by the address itself must all
/// be so; of what a route tells, one is enough (`match_type6`).
pub(super) fn is_of(namespace: &Namespace, address: IpAddr, types: &[u64]) -> Result<bool, Stop> {
    let asks = |kind: u64| types.contains(&kind);
    if (asks(symbols::RTN_MULTICAST) && !address.is_multicast())
        || (asks(symbols::RTN_UNICAST) && (address.is_multicast() || address.is_unspecified()))
        || (asks(symbols::RTN_UNSPEC) && !address.is_unspecified())
    {
        return Ok(false);
    }
    let of_routes = [symbols::RTN_LOCAL, symbols::RTN_ANYCAST, symbols::RTN_UNREACHABLE];
    if !of_routes.into_iter().any(asks) {
        return Ok(true);
    }
    let nowhere = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
    Ok(match route_to(namespace, address, nowhere) {
        Found::Local(route) => asks(number(route.kind)),
        Found::Unicast(..) => false,
        Found::Refused(..) | Found::Nothing => asks(symbols::RTN_UNREACHABLE),
        Found::Unknown(why) => return Err(Stop::Unknown(why)),
    })
}

fn route_to(namespace: &Namespace, dst: IpAddr, src: IpAddr) -> Found<'_> {
    let transport = Transport::NONE;
    fib::lookup(namespace, &Key { dst, src, iif: "lo", oif: None, mark: 0, dscp: 0, transport })
}

/// `RTN_*` of a route.
fn number(kind: RouteType) -> u64 {
    match kind {
        RouteType::Unicast | RouteType::Other => symbols::RTN_UNICAST,
        RouteType::Local => symbols::RTN_LOCAL,
        RouteType::Broadcast => symbols::RTN_BROADCAST,
        RouteType::Anycast => symbols::RTN_ANYCAST,
        RouteType::Multicast => symbols::RTN_MULTICAST,
        RouteType::Blackhole => symbols::RTN_BLACKHOLE,
        RouteType::Unreachable => symbols::RTN_UNREACHABLE,
        RouteType::Prohibit => symbols::RTN_PROHIBIT,
        RouteType::Throw => symbols::RTN_THROW,
    }
}
