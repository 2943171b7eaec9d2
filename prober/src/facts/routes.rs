//! Routes: `RTM_GETROUTE`, all tables, both families.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteType as WireType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use waymark_proto::{NextHop, Route, RouteType};

use super::Missing;
use super::netlink::{Netlink, NetlinkError};
use super::nexthops;

/// Reads the routes of the thread's namespace, by table and destination. Routes that are alike in that, in
/// TOS and in metric stay in the kernel's order, which is the order in which it tries them.
pub(super) fn read(netlink: &mut Netlink, missing: &mut Missing) -> Result<Vec<Route>, NetlinkError> {
    let mut read = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let dump = netlink.dump(&RouteNetlinkMessage::GetRoute(request))?;
        let version = if family == AddressFamily::Inet6 { 6 } else { 4 };
        missing.remarks(&format!("routes.ipv{version}"), dump.remarks);
        read.extend(dump.messages.into_iter().filter_map(|message| match message {
            // What was learned about paths (MTUs, redirects) comes with the routes (fib_dump_info_fnhe). It is no
            // configuration, and goes as soon as the route that it was learned of is another.
            RouteNetlinkMessage::NewRoute(route) if route.header.flags.contains(RouteFlags::Cloned) => None,
            // A kernel without IPv6 answers with the routes of every family that it has.
            RouteNetlinkMessage::NewRoute(route) if route.header.address_family == family => {
                read_one(&route, missing)
            }
            _ => None,
        }));
    }
    let unresolved = read.iter().any(|(_, object)| object.is_some());
    let objects = if unresolved { nexthops::read(netlink, missing)? } else { BTreeMap::new() };
    let mut routes: Vec<Route> =
        read.into_iter().map(|(route, object)| resolve(route, object, &objects, missing)).collect();
    routes.sort_by_key(|route| (route.table, route.dst, route.tos, route.metric));
    Ok(routes)
}

/// Puts the next hops of a nexthop object into the route that names it. The kernel does it by itself
/// unless `net.ipv4.nexthop_compat_mode` is 0.
fn resolve(
    mut route: Route,
    object: Option<u32>,
    objects: &BTreeMap<u32, Vec<NextHop>>,
    missing: &mut Missing,
) -> Route {
    let Some(id) = object else { return route };
    match objects.get(&id) {
        Some(hops) => route.next_hops.clone_from(hops),
        None => missing.note(&name(&route), format!("no nexthop {id}")),
    }
    route
}

/// The route, and the nexthop object that it leads to if the kernel did not spell it out. `None` for a
/// route that would mislead because the vocabulary has no words for it.
fn read_one(message: &RouteMessage, missing: &mut Missing) -> Option<(Route, Option<u32>)> {
    let header = &message.header;
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let mut route = Route {
        table: header.table.into(),
        dst: IpNet::new(any, header.destination_prefix_length).ok()?,
        kind: kind(header.kind),
        metric: 0,
        tos: header.tos,
        prefsrc: None,
        next_hops: Vec::new(),
    };
    let mut hop = NextHop {
        via: None,
        index: None,
        weight: 1,
        onlink: header.flags.contains(RouteFlags::Onlink),
        dead: header.flags.contains(RouteFlags::Dead),
        linkdown: header.flags.contains(RouteFlags::Linkdown),
    };
    let (mut object, mut encapsulated) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.dst = IpNet::new(ip(address)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(address) => route.prefsrc = ip(address),
            RouteAttribute::Gateway(address) => hop.via = ip(address),
            RouteAttribute::Via(address) => hop.via = via(address),
            RouteAttribute::Oif(index) => hop.index = Some(*index),
            RouteAttribute::MultiPath(hops) => route.next_hops = hops.iter().map(next_hop).collect(),
            RouteAttribute::NhId(id) => object = Some(*id),
            RouteAttribute::EncapType(_) => encapsulated = true,
            _ => {}
        }
    }
    if header.source_prefix_length != 0 {
        missing.note(&name(&route), "depends on the source, which is not modelled".to_owned());
        return None;
    }
    if encapsulated {
        missing.note(&name(&route), "encapsulates, which is not modelled".to_owned());
    }
    if route.next_hops.is_empty() && needs_next_hop(route.kind) && (hop.index.is_some() || hop.via.is_some())
    {
        route.next_hops.push(hop);
    }
    let object = object.filter(|_| route.next_hops.is_empty() && needs_next_hop(route.kind));
    Some((route, object))
}

/// What names one route among what is missing: lookups that cannot take it stay certain.
fn name(route: &Route) -> String {
    format!("routes.{} table {}", route.dst, route.table)
}

/// The kernel names the loopback device on IPv6 routes that go nowhere.
fn needs_next_hop(kind: RouteType) -> bool {
    !matches!(kind, RouteType::Blackhole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw)
}

fn next_hop(hop: &RouteNextHop) -> NextHop {
    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(address) => via(address),
        _ => None,
    });
    NextHop {
        via: gateway,
        index: (hop.interface_index != 0).then_some(hop.interface_index),
        // `rtnh_hops` is the weight less one.
        weight: u32::from(hop.hops) + 1,
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        dead: hop.flags.contains(RouteNextHopFlags::Dead),
        linkdown: hop.flags.contains(RouteNextHopFlags::Linkdown),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn via(address: &RouteVia) -> Option<IpAddr> {
    match address {
        RouteVia::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteVia::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn kind(kind: WireType) -> RouteType {
    match kind {
        WireType::Unicast => RouteType::Unicast,
        WireType::Local => RouteType::Local,
        WireType::Broadcast => RouteType::Broadcast,
        WireType::Anycast => RouteType::Anycast,
        WireType::Multicast => RouteType::Multicast,
        WireType::BlackHole => RouteType::Blackhole,
        WireType::Unreachable => RouteType::Unreachable,
        WireType::Prohibit => RouteType::Prohibit,
        WireType::Throw => RouteType::Throw,
        _ => RouteType::Other,
    }
}
