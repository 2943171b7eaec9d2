//! Routing decisions: of packets of this host (`ip_route_output_key`) and of packets that came in
//! (`ip_route_input_slow`, `ip6_route_input`, `ip_forward`).

use std::net::IpAddr;

use smallvec::smallvec;
use waymark_proto::{
    Action, Cause, Choice, ChoiceKind, Hook, Link, LinkKind, NextHop, Protocol, Route, RouteType, Text, text,
};

use super::{Here, source};
use crate::fib::{self, Found, Transport};
use crate::namespace::TABLE_LOCAL;
use crate::walk::{Egress, Stage, Walk, Walks};

/// Routes a packet of this host, by a device if its sender names one.
pub(super) fn output(here: Here<'_>, mut walk: Walk, again: bool, oif: Option<u32>) -> Walks {
    let flow = walk.packet.flow;
    let echo_reply = walk.packet.answer && flow.protocol == Protocol::Icmp && flow.is_ipv6();
    let key = if again {
        fib::Key::again(&walk.packet)
    } else {
        // IPv6 copies the code point of a request to the reply's header, and does not route by it (`icmpv6_echo_reply`).
        let dscp = if echo_reply { 0 } else { walk.packet.dscp };
        let (mark, transport) = (walk.packet.mark, Transport::of(&flow));
        fib::Key { dst: flow.dst, src: flow.src, iif: "lo", oif, mark, dscp, transport }
    };
    match (fib::lookup(here.namespace, &key), oif) {
        // IPv4 then takes everything to be on the link (ip_route_output_key_hash_rcu).
        (Found::Nothing | Found::Refused(..), Some(device)) if !flow.is_ipv6() => {
            let name = here.namespace.name_of(device);
            walk.step(Hook::Route, Some(&name), Action::Forwarded, |step| {
                step.object = Some(text!(object::TakenOnLink { dst: flow.dst, device: &name }));
            });
            let egress = Egress { device, next_hop: flow.dst, local: false };
            smallvec![walk.to(behind(egress, again))]
        }
        (found, _) => send(here, walk, again, found),
    }
}

/// Sends by what the lookup found.
fn send(here: Here<'_>, walk: Walk, again: bool, found: Found<'_>) -> Walks {
    let flow = walk.packet.flow;
    match found {
        Found::Local(route) => {
            let Some(loopback) = here.namespace.loopback() else {
                return smallvec![walk.unknown(Hook::Route, Some("lo"), text!(model::LoopbackAbsent))];
            };
            let egress = Egress { device: loopback.index, next_hop: flow.dst, local: true };
            smallvec![leave(here, walk, route, egress, again)]
        }
        Found::Unicast(route, hops) => {
            by_hops(here, &walk, route, &hops, |walk, egress| leave(here, walk, route, egress, again))
        }
        other => smallvec![refuse(here, walk, None, other)],
    }
}

/// A packet of this host goes on to the output hook, or past it if that made it be routed again.
fn leave(here: Here<'_>, mut walk: Walk, route: &Route, egress: Egress, again: bool) -> Walk {
    forwarded(here, &mut walk, route, &egress);
    walk.to(behind(egress, again))
}

fn behind(egress: Egress, again: bool) -> Stage {
    if again { Stage::FilterPostrouting { input: None, egress } } else { Stage::FilterOutput(egress) }
}

fn forwarded(here: Here<'_>, walk: &mut Walk, route: &Route, egress: &Egress) {
    let device = here.namespace.name_of(egress.device);
    walk.step(Hook::Route, Some(&device), Action::Forwarded, |step| {
        step.object = Some(Text::verbatim(fib::describe(here.namespace, route)));
    });
}

/// Branches over next hops.
fn by_hops(
    here: Here<'_>,
    walk: &Walk,
    route: &Route,
    hops: &[(f64, &NextHop)],
    go: impl Fn(Walk, Egress) -> Walk,
) -> Walks {
    let several = hops.len() > 1;
    hops.iter()
        .map(|(share, hop)| {
            let mut branch = walk.clone();
            branch.probability *= share;
            let Some(device) = hop.index else {
                let why = text!(model::RouteWithoutDevice { route: fib::describe(here.namespace, route) });
                return branch.unknown(Hook::Route, None, why);
            };
            let next_hop = hop.via.unwrap_or(branch.packet.flow.dst);
            if several {
                let name = here.namespace.name_of(device);
                let taken = format!("{next_hop} dev {name}");
                branch.choices.push(Choice { kind: ChoiceKind::NextHop, taken, probability: *share });
            }
            go(branch, Egress { device, next_hop, local: false })
        })
        .collect()
}

/// No route, a route that refuses, or one that is not known.
fn refuse(here: Here<'_>, walk: Walk, device: Option<&str>, found: Found<'_>) -> Walk {
    let dst = walk.packet.flow.dst;
    match found {
        Found::Refused(cause, object) => walk.dropped(Hook::Route, device, cause, object),
        Found::Unknown(why) => walk.unknown(Hook::Route, device, why),
        Found::Nothing | Found::Local(_) | Found::Unicast(..) => match all_down(here) {
            Some(link) => {
                let object = text!(object::RoutesWent { link: &link.name });
                walk.dropped(Hook::Route, Some(&link.name), Cause::DeviceDown, object)
            }
            None => walk.dropped(Hook::Route, device, Cause::NoRoute, text!(object::NoRouteTo { dst })),
        },
    }
}

/// Routes a packet that came in on a device.
pub(super) fn input(here: Here<'_>, mut walk: Walk, device: u32) -> Walks {
    let name = here.namespace.name_of(device);
    let on = Some(&*name);
    if !walk.visit(device) {
        let object = text!(object::CameBefore { flow: walk.flow(), device: &name });
        return smallvec![walk.dropped(Hook::Route, on, Cause::RoutingLoop, object)];
    }
    let flow = walk.packet.flow;
    // What this host sent to itself keeps the route of its way out.
    let looped = here.namespace.loopback().is_some_and(|loopback| loopback.index == device);
    if !looped && let Some(object) = martian(here, &name, flow.src, flow.dst) {
        return smallvec![walk.dropped(Hook::Route, on, Cause::MartianAddress, object)];
    }
    let (mark, transport) = (walk.packet.mark, Transport::of(&flow));
    let key = fib::Key {
        dst: flow.dst,
        src: flow.src,
        iif: &name,
        oif: None,
        mark,
        dscp: walk.packet.dscp,
        transport,
    };
    let found = fib::lookup(here.namespace, &key);
    let validates = !looped && !flow.is_ipv6();
    match found {
        Found::Local(route) => {
            if validates && let Some(walk) = source::validate(here, &walk, device, None) {
                return smallvec![walk];
            }
            let loopback = here.namespace.loopback().map_or("lo", |link| link.name.as_str());
            walk.step(Hook::Route, Some(loopback), Action::Forwarded, |step| {
                step.object = Some(Text::verbatim(fib::describe(here.namespace, route)));
            });
            smallvec![walk.to(Stage::FilterInput(device))]
        }
        // It might be for this host.
        Found::Unknown(why) => smallvec![walk.unknown(Hook::Route, on, why)],
        other => transit(here, walk, device, &name, validates, other),
    }
}

/// A packet for another host: whether it may pass at all is asked before its source is
/// (`ip_route_input_slow`, then `__mkroute_input`).
fn transit(here: Here<'_>, walk: Walk, device: u32, name: &str, validates: bool, found: Found<'_>) -> Walks {
    let ipv6 = walk.packet.flow.is_ipv6();
    match forwarding(here, name, ipv6) {
        Forwarding::On => {}
        Forwarding::Off(sysctl) => {
            let (cause, object) = match homeless(here, walk.packet.flow.dst) {
                Some(object) => (Cause::NoRoute, object),
                None => (Cause::ForwardingDisabled, sysctl),
            };
            return smallvec![walk.dropped(Hook::Route, Some(name), cause, object)];
        }
        Forwarding::Unknown(why) => return smallvec![walk.unknown(Hook::Route, Some(name), why)],
    }
    match found {
        Found::Unicast(route, hops) => by_hops(here, &walk, route, &hops, |mut walk, egress| {
            if validates && let Some(walk) = source::validate(here, &walk, device, Some(egress.device)) {
                return walk;
            }
            forwarded(here, &mut walk, route, &egress);
            if walk.packet.ttl <= 1 {
                let object = text!(object::TtlOf { flow: walk.flow() });
                return walk.dropped(Hook::Ip, Some(name), Cause::TtlExpired, object);
            }
            walk.packet.ttl -= 1;
            walk.to(Stage::FilterForward { input: device, egress })
        }),
        other => smallvec![refuse(here, walk, None, other)],
    }
}

/// What is wrong with an address of this host that routing takes for another's: its route in the local table is gone,
/// or no rule asks that table in time.
fn homeless(here: Here<'_>, dst: IpAddr) -> Option<Text> {
    let device = here.namespace.device_with(dst)?;
    let in_table = here.namespace.routes_to(TABLE_LOCAL, dst).any(|route| route.kind == RouteType::Local);
    Some(text!(object::NoLocalRoute { dst, device: &device.name, in_table }))
}

/// Whether packets that came in on a device are passed on.
pub(super) enum Forwarding {
    On,
    /// The sysctl that forbids it.
    Off(Text),
    Unknown(Text),
}

/// `IN_DEV_FORWARD`; for IPv6 the setting of `all` alone decides (`ip6_forward`).
pub(super) fn forwarding(here: Here<'_>, device: &str, ipv6: bool) -> Forwarding {
    let global = if ipv6 { "ipv6.conf.all.forwarding" } else { "ipv4.ip_forward" };
    let all = here.namespace.sysctl(global);
    let own = if ipv6 { None } else { here.namespace.conf("ipv4", device, "forwarding") };
    match (own, all) {
        (Some(1), _) => Forwarding::On,
        (_, Some(0)) => Forwarding::Off(Text::verbatim(format!("net.{global} = 0"))),
        (Some(0), _) => Forwarding::Off(Text::verbatim(format!("net.ipv4.conf.{device}.forwarding = 0"))),
        (Some(_), _) | (None, Some(_)) => Forwarding::On,
        (None, None) => Forwarding::Unknown(text!(model::SysctlAbsent { sysctl: format!("net.{global}") })),
    }
}

/// Addresses that may not be on a link (`martian_source`, `martian_destination`); what is wrong.
fn martian(here: Here<'_>, device: &str, src: IpAddr, dst: IpAddr) -> Option<Text> {
    let localnet = !dst.is_ipv6() && here.namespace.conf_max(device, "route_localnet") != 0;
    let strange = |ip: IpAddr| ip.is_unspecified() || (ip.is_loopback() && !localnet);
    let broadcast = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if strange(src) || src.is_multicast() || broadcast(src) {
        return Some(text!(object::MartianSource { ip: src, device }));
    }
    strange(dst).then(|| text!(object::MartianDestination { ip: dst, device }))
}

/// A device that is down, if none but the loopback is up: routes go with their devices (`fib_disable_ip`).
fn all_down(here: Here<'_>) -> Option<&Link> {
    let mut others = here.namespace.links().filter(|link| link.kind != LinkKind::Loopback).peekable();
    let first = *others.peek()?;
    others.all(|link| !link.up).then_some(first)
}
