//! The forwarding information base: policy rules, tables, longest prefix (`fib_lookup`).

use std::net::IpAddr;

use waymark_proto::{Cause, Flow, NextHop, PolicyRule, Route, RouteType, RuleAction, Text, text};

use crate::namespace::{Namespace, TABLE_LOCAL};
use crate::packet::Packet;

/// What a route is looked up for.
#[derive(Clone, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) dst: IpAddr,
    pub(crate) src: IpAddr,
    /// The input device's name; `lo` for packets of this host.
    pub(crate) iif: &'a str,
    /// A required output device.
    pub(crate) oif: Option<u32>,
    pub(crate) mark: u32,
    /// The DSCP of the packet, or of the socket that sends it.
    pub(crate) dscp: u8,
    pub(crate) transport: Transport,
}

impl Key<'static> {
    /// For a packet of this host that the output hook has changed (`ip_route_me_harder`, which reads ports since Linux 5.13).
    pub(crate) fn again(packet: &Packet) -> Self {
        let &Packet { flow, mark, dscp, .. } = packet;
        let (dst, src, transport) = (flow.dst, flow.src, Transport::of(&flow));
        Self { dst, src, iif: "lo", oif: None, mark, dscp, transport }
    }
}

/// What a lookup knows of the transport layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transport {
    protocol: u8,
    /// `None` if the packet has one that cannot be known.
    src_port: Option<u16>,
    dst_port: u16,
}

impl Transport {
    /// What the kernel looks up without a packet's transport header at hand: zeros, which no selector takes.
    pub(crate) const NONE: Self = Self { protocol: 0, src_port: Some(0), dst_port: 0 };

    /// Of a raw socket that writes headers itself (`raw_sendmsg`, `rawv6_sendmsg`): what they say is not read.
    pub(crate) const RAW: Self = Self { protocol: 255, ..Self::NONE };

    /// Of a socket that is not bound yet.
    pub(crate) fn without_source(self) -> Self {
        Self { src_port: Some(0), ..self }
    }

    /// Of a packet, or of the socket that sends it.
    pub(crate) fn of(flow: &Flow) -> Self {
        let protocol = flow.protocol.number(flow.is_ipv6());
        if flow.protocol.has_ports() {
            // No packet has port 0: it stands for any.
            let src_port = Some(flow.src_port).filter(|&port| port != 0);
            Self { protocol, src_port, dst_port: flow.dst_port }
        } else {
            Self { protocol, ..Self::NONE }
        }
    }
}

/// What a lookup finds.
#[derive(Clone, Debug)]
pub(crate) enum Found<'a> {
    /// The destination is this host.
    Local(&'a Route),
    /// Next hops that may be taken, each with its share of the traffic.
    Unicast(&'a Route, Vec<(f64, &'a NextHop)>),
    /// A route or rule that refuses; as its tool prints it.
    Refused(Cause, Text),
    /// No route.
    Nothing,
    /// The facts or the model do not suffice; why.
    Unknown(Text),
}

impl Found<'_> {
    /// Whether packets go the same way by both.
    pub(crate) fn leads_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unicast(_, hops), Self::Unicast(_, others)) => hops == others,
            (Self::Refused(cause, _), Self::Refused(other, _)) => cause == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// What decided.
    pub(crate) fn words(&self, namespace: &Namespace, dst: IpAddr) -> Text {
        match self {
            Self::Local(route) | Self::Unicast(route, _) => Text::verbatim(describe(namespace, route)),
            Self::Refused(_, text) | Self::Unknown(text) => text.clone(),
            Self::Nothing => text!(object::NoRouteTo { dst }),
        }
    }
}

/// Does a rule's selectors match? `None` if it has selectors that cannot be decided and the others match.
fn selects(rule: &PolicyRule, key: &Key<'_>, namespace: &Namespace) -> Option<bool> {
    let oif = key.oif.map(|index| namespace.name_of(index));
    let mask = rule.mask.unwrap_or(u32::MAX);
    let known = rule.src.is_none_or(|net| net.contains(&key.src))
        && rule.dst.is_none_or(|net| net.contains(&key.dst))
        && rule.iif.as_deref().is_none_or(|name| name == key.iif)
        && rule.oif.as_deref().is_none_or(|name| Some(name) == oif.as_deref())
        && rule.mark.is_none_or(|mark| (key.mark ^ mark) & mask == 0)
        && rule.ip_protocol.is_none_or(|protocol| protocol == key.transport.protocol)
        && rule.dst_ports.is_none_or(|ports| ports.contains(key.transport.dst_port))
        && rule.src_ports.is_none_or(|ports| key.transport.src_port.is_none_or(|port| ports.contains(port)))
        && rule.tos.is_none_or(|tos| has_tos(key, tos));
    if known && undecided(rule, key).next().is_some() {
        return None;
    }
    Some(known != rule.invert)
}

/// Whether a packet has the TOS that a rule or route asks for: IPv4 looks at what RFC 1349 calls the TOS alone
/// (`fib_dscp_masked_match`), IPv6 at the whole code point.
fn has_tos(key: &Key<'_>, tos: u8) -> bool {
    const LEGACY: u8 = 0x1c;
    let own = key.dscp << 2;
    if key.dst.is_ipv6() { own == tos & !0b11 } else { own & LEGACY == tos & LEGACY }
}

/// The selectors of a rule that cannot be decided.
fn undecided<'a>(rule: &'a PolicyRule, key: &Key<'_>) -> impl Iterator<Item = &'a str> {
    let any_port = rule.src_ports.filter(|_| key.transport.src_port.is_none()).map(|_| "sport");
    let unmodelled = rule.unmodelled.iter().map(String::as_str);
    unmodelled.filter(|selector| suppressed(selector).is_none()).chain(any_port)
}

/// The prefix length of `suppress_prefixlength N`, which facts list with the selectors.
fn suppressed(selector: &str) -> Option<u8> {
    selector.strip_prefix("suppress_prefixlength ")?.parse().ok()
}

/// Whether a rule refuses a route for being too general (`fib4_rule_suppress`).
fn suppresses(rule: &PolicyRule, found: &Found<'_>) -> bool {
    let Some(most) = rule.unmodelled.iter().find_map(|selector| suppressed(selector)) else { return false };
    matches!(found, Found::Local(route) | Found::Unicast(route, _) if route.dst.prefix_len() <= most)
}

/// Looks a destination up, rule by rule.
pub(crate) fn lookup<'a>(namespace: &'a Namespace, key: &Key<'_>) -> Found<'a> {
    let ipv6 = key.dst.is_ipv6();
    let lacks = ["routes", "rules"].into_iter().find_map(|kind| namespace.lacks_family(kind, ipv6));
    if let Some(why) = lacks {
        return Found::Unknown(why);
    }
    let rules = namespace.rules(ipv6);
    if rules.is_empty() {
        // The rules that every namespace starts with.
        let standard = [TABLE_LOCAL, 254, 253].map(|table| in_table(namespace, table, key));
        return standard.into_iter().flatten().next().unwrap_or(Found::Nothing);
    }
    let mut at = 0;
    while let Some(rule) = rules.get(at) {
        at += 1;
        match selects(rule, key, namespace) {
            Some(false) => continue,
            Some(true) => {}
            None => {
                let selectors = undecided(rule, key).collect::<Vec<_>>().join(", ");
                return Found::Unknown(text!(model::RuleSelector { priority: rule.priority, selectors }));
            }
        }
        let refused = |cause, kind: &str| {
            Found::Refused(cause, Text::verbatim(format!("rule {}: {kind}", rule.priority)))
        };
        match rule.action {
            RuleAction::Table => {
                if let Some(found) = in_table(namespace, rule.table, key)
                    && !suppresses(rule, &found)
                {
                    return found;
                }
            }
            RuleAction::Goto => {
                // Only forward, so this ends. Where no rule has that very priority, the next one is asked (`FIB_RULE_UNRESOLVED`).
                let target = rules[at..].iter().position(|next| Some(next.priority) == rule.goto);
                at += target.unwrap_or(0);
            }
            RuleAction::Nop => {}
            RuleAction::Blackhole => return refused(Cause::BlackholeRoute, "blackhole"),
            RuleAction::Unreachable => return refused(Cause::UnreachableRoute, "unreachable"),
            RuleAction::Prohibit => return refused(Cause::ProhibitRoute, "prohibit"),
            RuleAction::Other => {
                return Found::Unknown(text!(model::RuleAction { priority: rule.priority }));
            }
        }
    }
    Found::Nothing
}

/// Looks a destination up in one table. `None` makes the next rule try. A remark on a route that might
/// have been taken instead makes the outcome unknown.
fn in_table<'a>(namespace: &'a Namespace, table: u32, key: &Key<'_>) -> Option<Found<'a>> {
    let (length, found) = longest(namespace, table, key).unzip();
    let length = length.unwrap_or(0);
    let doubt = namespace.doubtful(table, key.dst).find(|route| route.dst.prefix_len() >= length);
    match doubt {
        Some(route) => Some(Found::Unknown(route.why.clone())),
        None => found.flatten(),
    }
}

/// The route with the longest prefix that can be taken, by its prefix's length; `throw` finds none.
fn longest<'a>(namespace: &'a Namespace, table: u32, key: &Key<'_>) -> Option<(u8, Option<Found<'a>>)> {
    let fits = |route: &&Route| route.tos == 0 || has_tos(key, route.tos);
    for route in namespace.routes_to(table, key.dst).filter(fits) {
        let length = route.dst.prefix_len();
        let refused =
            |cause| Some((length, Some(Found::Refused(cause, Text::verbatim(describe(namespace, route))))));
        match route.kind {
            RouteType::Blackhole => return refused(Cause::BlackholeRoute),
            RouteType::Unreachable => return refused(Cause::UnreachableRoute),
            RouteType::Prohibit => return refused(Cause::ProhibitRoute),
            RouteType::Throw => return Some((length, None)),
            RouteType::Local | RouteType::Anycast => return Some((length, Some(Found::Local(route)))),
            RouteType::Unicast => {
                let hops = usable(namespace, route, key.oif);
                if !hops.is_empty() {
                    return Some((length, Some(Found::Unicast(route, hops))));
                }
            }
            RouteType::Broadcast | RouteType::Multicast | RouteType::Other => {
                let why = text!(model::NotModelled { what: describe(namespace, route) });
                return Some((length, Some(Found::Unknown(why))));
            }
        }
    }
    None
}

/// The next hops that the kernel would choose from (`fib_lookup_good_nhc`), with their shares.
fn usable<'a>(namespace: &Namespace, route: &'a Route, oif: Option<u32>) -> Vec<(f64, &'a NextHop)> {
    let ignored = |hop: &NextHop| {
        let family = if route.dst.addr().is_ipv6() { "ipv6" } else { "ipv4" };
        let device = hop.index.map_or_else(|| "".into(), |index| namespace.name_of(index));
        let key = "ignore_routes_with_linkdown";
        hop.linkdown && namespace.conf(family, &device, key).unwrap_or(0) != 0
    };
    let hops: Vec<&NextHop> = route
        .next_hops
        .iter()
        .filter(|hop| !hop.dead && !ignored(hop) && oif.is_none_or(|oif| hop.index == Some(oif)))
        .collect();
    let total: f64 = hops.iter().map(|hop| f64::from(hop.weight.max(1))).sum();
    hops.into_iter().map(|hop| (f64::from(hop.weight.max(1)) / total, hop)).collect()
}

/// A route as `ip route` prints it, with its table.
pub(crate) fn describe(namespace: &Namespace, route: &Route) -> String {
    let kind = match route.kind {
        RouteType::Unicast => "",
        RouteType::Local => "local ",
        RouteType::Broadcast => "broadcast ",
        RouteType::Anycast => "anycast ",
        RouteType::Multicast => "multicast ",
        RouteType::Blackhole => "blackhole ",
        RouteType::Unreachable => "unreachable ",
        RouteType::Prohibit => "prohibit ",
        RouteType::Throw => "throw ",
        RouteType::Other => "(other) ",
    };
    let dst = if route.dst.prefix_len() == 0 {
        "default".to_owned()
    } else if route.dst.prefix_len() == route.dst.max_prefix_len() {
        route.dst.addr().to_string()
    } else {
        route.dst.to_string()
    };
    let hop = |hop: &NextHop| {
        let via = hop.via.map(|via| format!(" via {via}")).unwrap_or_default();
        let device = hop.index.map(|index| format!(" dev {}", namespace.name_of(index))).unwrap_or_default();
        format!("{via}{device}")
    };
    let hops = match route.next_hops.as_slice() {
        [] => String::new(),
        [one] => hop(one),
        several => several.iter().map(|one| " nexthop".to_owned() + &hop(one)).collect(),
    };
    let table = match route.table {
        254 => "main".to_owned(),
        TABLE_LOCAL => "local".to_owned(),
        253 => "default".to_owned(),
        number => number.to_string(),
    };
    format!("{kind}{dst}{hops} table {table}")
}
