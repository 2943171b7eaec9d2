//! Routes, policy rules and settings.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::pool::{device, host, net, port, word};

/// Routes and rules of one family, as lines of `ip -batch`, and settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routing {
    /// `route add …`
    pub routes: Vec<String>,
    /// `rule add …`
    pub rules: Vec<String>,
    /// `path=value` below `/proc/sys/net`.
    pub sysctls: Vec<String>,
}

/// Routing of both families.
pub(super) fn routing() -> impl Strategy<Value = Routing> {
    let family = |ipv6| (routes(ipv6), vec(rule(ipv6), 0..4));
    (family(false), family(true), settings()).prop_map(|(four, six, sysctls)| {
        let (mut routes, mut rules) = four;
        routes.extend(six.0);
        rules.extend(six.1);
        Routing { routes, rules: numbered(&rules), sysctls }
    })
}

/// Gives each rule a priority of its own: the order in which the kernel asks equals is that of their coming.
fn numbered(rules: &[String]) -> Vec<String> {
    let priority = |index| 100 + 10 * index;
    rules.iter().enumerate().map(|(index, rule)| format!("{rule} priority {}", priority(index))).collect()
}

/// Routes; of one table, prefix and metric there is but one.
fn routes(ipv6: bool) -> impl Strategy<Value = Vec<String>> {
    let table = word(&["main", "main", "100", "101"]);
    let key =
        (table, prop_oneof![4 => net(ipv6), 1 => Just("default".to_owned())], word(&["", " metric 50"]));
    btree_map(key, way(ipv6), 0..8).prop_map(move |routes: BTreeMap<_, String>| {
        // Connected networks have routes of metric 0 in IPv4.
        let (family, add) = if ipv6 { ("-6 ", "add") } else { ("", "append") };
        let line = |((table, net, metric), way): ((String, String, String), String)| match way.split_once(' ')
        {
            Some(("kind", kind)) => format!("{family}route {add} {kind} {net} table {table}{metric}"),
            _ => format!("{family}route {add} {net} table {table}{metric} {way}"),
        };
        routes.into_iter().map(line).collect()
    })
}

fn gateway(ipv6: bool) -> impl Strategy<Value = String> + Clone {
    let words: &'static [&'static str] = if ipv6 {
        &["via fd00:2:0::2 dev pb", "via fd00:3:0::2 dev pc", "via fd00:1:0::2 dev pa"]
    } else {
        &["via 10.2.0.2 dev pb", "via 10.3.0.2 dev pc", "via 10.1.0.2 dev pa"]
    };
    word(words)
}

/// Where a route leads.
fn way(ipv6: bool) -> impl Strategy<Value = String> {
    let several = (gateway(ipv6), gateway(ipv6), 1..4u8).prop_map(|(one, other, weight)| {
        if one == other { one } else { format!("nexthop {one} weight {weight} nexthop {other}") }
    });
    prop_oneof![
        6 => gateway(ipv6),
        2 => word(&["pb", "pc"]).prop_map(|device| format!("dev {device}")),
        2 => several,
        2 => word(&["kind blackhole", "kind unreachable", "kind prohibit", "kind throw"]),
    ]
}

/// A policy rule without its priority.
fn rule(ipv6: bool) -> impl Strategy<Value = String> {
    let family = if ipv6 { "-6 " } else { "" };
    let selector = prop_oneof![
        net(ipv6).prop_map(|net| format!("from {net}")),
        net(ipv6).prop_map(|net| format!("to {net}")),
        host(ipv6).prop_map(|host| format!("from {host}")),
        device().prop_map(|device| format!("iif {device}")),
        (0..4u8, word(&["", "/0x1", "/0x3"])).prop_map(|(mark, mask)| format!("fwmark {mark}{mask}")),
        (word(&["tcp", "udp"]), port())
            .prop_map(|(protocol, port)| format!("ipproto {protocol} dport {port}")),
        Just("dsfield 0x10".to_owned()),
    ];
    let action = prop_oneof![
        5 => word(&["table 100", "table 101", "table main"]),
        1 => word(&["table main suppress_prefixlength 0", "table main suppress_prefixlength 16"]),
        1 => word(&["unreachable", "prohibit", "blackhole"]),
        1 => word(&["goto 1000", "goto 120", "goto 32766"]),
    ];
    let selectors = vec(selector, 1..3).prop_map(|selectors| {
        let mut chosen: BTreeMap<String, String> = BTreeMap::new();
        for selector in selectors {
            let name = selector.split(' ').next().unwrap_or_default().to_owned();
            chosen.insert(name, selector);
        }
        chosen.into_values().collect::<Vec<_>>().join(" ")
    });
    (word(&["", "", "", "not "]), selectors, action)
        .prop_map(move |(not, selectors, action)| format!("{family}rule add {not}{selectors} {action}"))
}

fn settings() -> impl Strategy<Value = Vec<String>> {
    let of = |name: &'static str, values: &'static [&'static str]| {
        option::weighted(0.15, word(values).prop_map(move |value| format!("{name}={value}")))
    };
    vec![
        of("ipv4/conf/all/rp_filter", &["0", "1", "2"]),
        of("ipv4/conf/pa/rp_filter", &["0", "1", "2"]),
        of("ipv4/conf/pa/src_valid_mark", &["1"]),
        of("ipv4/conf/pa/accept_local", &["1"]),
        of("ipv4/conf/pa/route_localnet", &["1"]),
        of("ipv4/conf/pa/forwarding", &["0"]),
        of("ipv4/ip_forward", &["0"]),
        of("ipv6/conf/all/forwarding", &["0"]),
        of("ipv4/icmp_echo_ignore_all", &["1"]),
    ]
    .prop_map(|settings| settings.into_iter().flatten().collect())
}
