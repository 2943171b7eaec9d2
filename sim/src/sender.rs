//! What the sender's own kernel makes of a packet by whoever sends it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use waymark_proto::{Detour, Flow, NextHop};

use crate::fib::{self, Found, Key, Transport};
use crate::namespace::Namespace;
use crate::netfilter::select_source;

/// Whether the prober's packets are routed otherwise than an application's, whose ports and protocol rules can see.
pub(crate) fn detour(namespace: &Namespace, flow: &Flow, dscp: u8) -> Option<Detour> {
    // A header that is written by hand does not tell the socket's TOS either.
    let application = lookup(namespace, flow, dscp, Transport::of(flow));
    let prober = lookup(namespace, flow, 0, Transport::RAW);
    let words = |found: &Found<'_>| found.words(namespace, flow.dst);
    (!application.leads_like(&prober))
        .then(|| Detour { application: words(&application), prober: words(&prober) })
}

/// The source address that a socket takes for a flow unless it is bound (`ip_route_connect`, `fib_result_prefsrc`);
/// `None` where that is not certain, as among the addresses of IPv6.
pub(crate) fn unbound_source(namespace: &Namespace, flow: &Flow) -> Option<IpAddr> {
    let src: IpAddr = match flow.dst {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // It has no source port yet either.
    let unbound = Flow { src, ..*flow };
    let Found::Unicast(route, hops) = lookup(namespace, &unbound, 0, Transport::of(flow).without_source())
    else {
        return None;
    };
    if route.prefsrc.is_some() {
        return route.prefsrc;
    }
    if flow.is_ipv6() || namespace.lacks("addresses").is_some() {
        return None;
    }
    let of_hop = |hop: &NextHop| select_source(namespace, hop.index?, hop.via.unwrap_or(flow.dst));
    let mut taken = hops.iter().map(|(_, hop)| of_hop(hop));
    let first = taken.next()??;
    taken.all(|other| other == Some(first)).then_some(first)
}

fn lookup<'a>(namespace: &'a Namespace, flow: &Flow, dscp: u8, transport: Transport) -> Found<'a> {
    let Flow { dst, src, .. } = *flow;
    fib::lookup(namespace, &Key { dst, src, iif: "lo", oif: None, mark: 0, dscp, transport })
}
