//! Rulesets of nftables.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde::{Deserialize, Serialize};

use super::pool::{device, host, mark, net, port, target, word};

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `ip`, `ip6`, `inet`.
    pub family: String,
    /// Sets and maps, each as in a ruleset.
    pub sets: Vec<String>,
    /// Chains; those that others lead to come first.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Of a base chain what it is attached to.
    pub head: Option<String>,
    /// Its rules.
    pub rules: Vec<String>,
}

impl Table {
    /// The table as `nft -f` reads it.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let mut lines = vec![format!("table {} {name} {{", self.family)];
        lines.extend(self.sets.iter().cloned());
        for chain in &self.chains {
            lines.push(format!("chain {} {{", chain.name));
            lines.extend(chain.head.clone());
            lines.extend(chain.rules.iter().cloned());
            lines.push("}".to_owned());
        }
        lines.push("}".to_owned());
        lines
    }
}

/// Where a rule is to stand, as far as that decides what it may say.
#[derive(Clone, Copy, Debug)]
struct Site {
    /// IPv6, or else IPv4.
    ipv6: bool,
    /// Whether its table sees both.
    both: bool,
    /// How deep its chain is: it may lead to deeper ones only.
    level: u8,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Filters, where the kernel may send an error.
    Filter,
    /// Filters behind routing, where it may not, or a chain that may be led to from there.
    Mute,
    /// Before the connection is looked up.
    Raw,
    DestinationNat,
    SourceNat,
}

/// Base chains: name, type, hook, priority, and what rules may say there.
const BASES: [(&str, &str, &str, i32, Kind); 12] = [
    ("at_raw_pre", "filter", "prerouting", -310, Kind::Raw),
    ("at_pre", "filter", "prerouting", -140, Kind::Mute),
    ("at_dnat", "nat", "prerouting", -90, Kind::DestinationNat),
    ("at_late_pre", "filter", "prerouting", 10, Kind::Mute),
    ("at_in", "filter", "input", 5, Kind::Filter),
    ("at_fwd", "filter", "forward", -10, Kind::Filter),
    ("at_fwd_late", "filter", "forward", 20, Kind::Filter),
    ("at_raw_out", "filter", "output", -310, Kind::Raw),
    ("at_reroute", "route", "output", -140, Kind::Mute),
    ("at_dnat_out", "nat", "output", -90, Kind::DestinationNat),
    ("at_post", "filter", "postrouting", 10, Kind::Mute),
    ("at_snat", "nat", "postrouting", 90, Kind::SourceNat),
];

/// A table with any number of chains.
pub(super) fn table() -> impl Strategy<Value = Table> {
    select(&["inet", "ip", "ip6"][..]).prop_flat_map(|family| {
        let families = match family {
            "ip" => vec![false],
            "ip6" => vec![true],
            _ => vec![false, true],
        };
        let called = (1..4u8).map(|level| called(level, families.clone())).collect::<Vec<_>>();
        let bases = BASES.map(|base| option::weighted(0.3, self::base(base, families.clone())));
        (called, Vec::from(bases), sets()).prop_map(move |(mut chains, bases, sets)| {
            chains.reverse();
            chains.extend(bases.into_iter().flatten());
            Table { family: family.to_owned(), sets, chains }
        })
    })
}

fn called(level: u8, families: Vec<bool>) -> impl Strategy<Value = Chain> {
    let rules = vec(rule(families, level, Kind::Mute), 0..4);
    rules.prop_map(move |rules| Chain { name: format!("c{level}"), head: None, rules })
}

fn base(
    (name, kind, hook, priority, site): (&'static str, &'static str, &'static str, i32, Kind),
    families: Vec<bool>,
) -> impl Strategy<Value = Chain> {
    let policy = prop_oneof![9 => Just("accept"), 1 => Just("drop")];
    let policy = if kind == "nat" { Just("accept").boxed() } else { policy.boxed() };
    (policy, vec(rule(families, 0, site), 1..6)).prop_map(move |(policy, rules)| Chain {
        name: name.to_owned(),
        head: Some(format!("type {kind} hook {hook} priority {priority}; policy {policy};")),
        rules,
    })
}

/// Sets that rules may name; all of them are there, each with some elements.
fn sets() -> impl Strategy<Value = Vec<String>> {
    let addresses = |ipv6| vec(net(ipv6), 1..5).prop_map(|nets| nets.join(", "));
    let pairs = |ipv6| {
        let pair = (host(ipv6), port()).prop_map(|(host, port)| format!("{host} . {port}"));
        vec(pair, 1..5).prop_map(|pairs| pairs.join(", "))
    };
    let ports = vec((port(), word(&["accept", "drop", "jump c3", "continue", "return"])), 1..4);
    (addresses(false), addresses(true), pairs(false), pairs(true), ports).prop_map(
        |(four, six, pairs4, pairs6, ports)| {
            let mut verdicts: Vec<(u16, String)> = ports;
            verdicts.sort();
            verdicts.dedup_by_key(|(port, _)| *port);
            let verdicts: Vec<String> =
                verdicts.iter().map(|(port, verdict)| format!("{port} : {verdict}")).collect();
            vec![
                // What a map leads to must be there before.
                "chain c3 { }".to_owned(),
                format!("set s4 {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {four} }} }}"),
                format!("set s6 {{ type ipv6_addr; flags interval; auto-merge; elements = {{ {six} }} }}"),
                format!("set p4 {{ type ipv4_addr . inet_service; elements = {{ {pairs4} }} }}"),
                format!("set p6 {{ type ipv6_addr . inet_service; elements = {{ {pairs6} }} }}"),
                format!(
                    "map ports {{ type inet_service : verdict; elements = {{ {} }} }}",
                    verdicts.join(", ")
                ),
            ]
        },
    )
}

/// A rule: matches, then what it does.
fn rule(families: Vec<bool>, level: u8, kind: Kind) -> impl Strategy<Value = String> {
    let both = families.len() > 1;
    select(families).prop_flat_map(move |ipv6| {
        let site = Site { ipv6, both, level, kind };
        let matches = (
            option::weighted(0.4, network(site)),
            option::weighted(0.4, transport(site)),
            option::weighted(0.4, other(site)),
        );
        (matches, action(site)).prop_map(|((network, transport, other), (names_protocol, action))| {
            let transport = transport.filter(|_| !names_protocol);
            let parts = [network, transport, other, Some(action)];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
        })
    })
}

/// A match on the network header.
fn network(site: Site) -> BoxedStrategy<String> {
    let Site { ipv6, .. } = site;
    let family = if ipv6 { "ip6" } else { "ip" };
    let digit = if ipv6 { 6 } else { 4 };
    let end = word(&["saddr", "daddr"]);
    let not = word(&["", "!= "]);
    prop_oneof![
        4 => (end.clone(), not.clone(), net(ipv6))
            .prop_map(move |(end, not, net)| format!("{family} {end} {not}{net}")),
        2 => (end.clone(), not.clone(), vec(host(ipv6), 1..4))
            .prop_map(move |(end, not, hosts)| format!("{family} {end} {not}{{ {} }}", hosts.join(", "))),
        2 => (end, not).prop_map(move |(end, not)| format!("{family} {end} {not}@s{digit}")),
        1 => word(&["cs0", "cs2", "!= cs0"]).prop_map(move |class| format!("{family} dscp {class}")),
        1 => word(if ipv6 { &["@nh,48,8 6", "@nh,48,8 != 17", "@nh,56,8 64"] } else { &["@nh,72,8 6", "@nh,72,8 != 17", "@nh,64,8 64"] })
            .prop_map(move |raw| format!("{}{raw}", of_family(site))),
        1 => (word(&["<", ">", "=="]), 1..65u8).prop_map(move |(op, ttl)| {
            format!("{family} {} {op} {ttl}", if ipv6 { "hoplimit" } else { "ttl" })
        }),
        1 => word(&["local", "unicast", "broadcast"])
            .prop_map(move |kind| format!("{}fib daddr type {kind}", of_family(site))),
    ]
    .boxed()
}

/// A match on the transport header.
fn transport(site: Site) -> BoxedStrategy<String> {
    let digit = if site.ipv6 { 6 } else { 4 };
    let family = if site.ipv6 { "ip6" } else { "ip" };
    let protocol = word(&["tcp", "udp"]);
    let not = word(&["", "!= "]);
    prop_oneof![
        4 => (protocol.clone(), not.clone(), port())
            .prop_map(|(protocol, not, port)| format!("{protocol} dport {not}{port}")),
        2 => (protocol.clone(), not, vec(port(), 1..4)).prop_map(|(protocol, not, ports)| {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!("{protocol} dport {not}{{ {} }}", ports.join(", "))
        }),
        1 => protocol.clone().prop_map(|protocol| format!("{protocol} sport 20000-40000")),
        1 => port().prop_map(|port| format!("meta l4proto {{ tcp, udp }} th dport {port}")),
        1 => (word(&["", "!= "]), port()).prop_map(|(not, port)| format!("meta l4proto {{ tcp, udp }} @th,16,16 {not}{port}")),
        1 => Just("tcp flags syn".to_owned()),
        1 => word(&["== syn", "!= syn"]).prop_map(|op| format!("tcp flags & (syn|ack) {op}")),
        1 => Just(if site.ipv6 { "icmpv6 type echo-request" } else { "icmp type echo-request" }.to_owned()),
        1 => protocol.clone().prop_map(|protocol| format!("meta l4proto {protocol}")),
        1 => protocol.clone().prop_map(move |protocol| {
            format!("{family} {} {protocol}", if site.ipv6 { "nexthdr" } else { "protocol" })
        }),
        1 => protocol.clone().prop_map(move |protocol| format!("{family} daddr . {protocol} dport @p{digit}")),
    ]
    .boxed()
}

/// A match on something else.
fn other(site: Site) -> BoxedStrategy<String> {
    let not = word(&["", "!= "]);
    let way = word(&["iifname", "oifname"]);
    let tracked = prop_oneof![
        word(&["new", "established", "{ established, related }", "invalid", "untracked", "!= new"])
            .prop_map(|state| format!("ct state {state}")),
        word(&["dnat", "snat", "!= dnat"]).prop_map(|status| format!("ct status {status}")),
        word(&["original", "reply"]).prop_map(|way| format!("ct direction {way}")),
        (not.clone(), mark()).prop_map(|(not, mark)| format!("ct mark {not}{mark}")),
        (word(&["original", "reply"]), word(&["saddr", "daddr"]), host(site.ipv6)).prop_map(
            move |(way, end, host)| {
                format!("ct {way} {} {end} {host}", if site.ipv6 { "ip6" } else { "ip" })
            }
        ),
    ];
    let general = prop_oneof![
        (way.clone(), not.clone(), device())
            .prop_map(|(way, not, device)| format!("{way} {not}\"{device}\"")),
        way.prop_map(|way| format!("{way} \"p*\"")),
        (not.clone(), mark()).prop_map(|(not, mark)| format!("meta mark {not}{mark}")),
        mark().prop_map(|mark| format!("meta mark & 0x1 == {}", mark & 1)),
        Just(format!("{}meta length 44-60", of_family(site))),
    ];
    prop_oneof![general, tracked].boxed()
}

/// Restricts a rule to its family, where its table sees both.
fn of_family(site: Site) -> &'static str {
    match (site.both, site.ipv6) {
        (false, _) => "",
        (true, false) => "meta nfproto ipv4 ",
        (true, true) => "meta nfproto ipv6 ",
    }
}

/// What a rule does, and whether that names a transport protocol.
fn action(site: Site) -> BoxedStrategy<(bool, String)> {
    let plain = |action: &'static str| Just((false, action.to_owned()));
    let common = prop_oneof![
        3 => plain("accept"),
        1 => plain("return"),
        2 => mark().prop_map(|mark| (false, format!("meta mark set {mark}"))),
        1 => (mark(), word(&["|", "^", "&"]))
            .prop_map(|(mark, op)| (false, format!("meta mark set meta mark {op} {mark}"))),
        1 => (word(&["cs0", "cs2"]), 1..65u8, any::<bool>()).prop_map(move |(class, ttl, which)| {
            let (family, field) = if site.ipv6 { ("ip6", "hoplimit") } else { ("ip", "ttl") };
            (false, if which { format!("{family} dscp set {class}") } else { format!("{family} {field} set {ttl}") })
        }),
        1 => plain("ct mark set meta mark"),
        1 => plain("meta mark set ct mark"),
    ];
    let leads = (word(&["jump", "goto"]), site.level + 1..4.max(site.level + 2))
        .prop_map(|(verb, level)| (false, format!("{verb} c{level}")));
    let map = prop_oneof![
        plain("tcp dport vmap @ports").prop_map(|(_, map)| (true, map)),
        plain("udp dport vmap @ports").prop_map(|(_, map)| (true, map)),
        port().prop_map(|port| (true, format!("tcp dport vmap {{ {port} : drop, 9 : accept }}"))),
        plain("numgen random mod 2 vmap { 0 : drop, 1 : continue }"),
    ];
    // The deepest chain leads nowhere.
    let decides = if site.level < 3 {
        prop_oneof![2 => plain("drop"), 4 => leads, 2 => map].boxed()
    } else {
        plain("drop").boxed()
    };
    match site.kind {
        Kind::Filter => prop_oneof![3 => common, 3 => decides, 1 => plain("reject")].boxed(),
        Kind::Mute => prop_oneof![1 => common, 1 => decides].boxed(),
        Kind::Raw => prop_oneof![2 => common, 2 => decides, 1 => plain("notrack")].boxed(),
        Kind::DestinationNat => {
            let here = prop_oneof![
                plain("redirect"),
                port().prop_map(|port| (true, format!("meta l4proto tcp redirect to :{port}"))),
            ];
            prop_oneof![1 => common, 3 => translated(site, "dnat"), 1 => here].boxed()
        }
        Kind::SourceNat => {
            // Two connections cannot have one port: a source that is given one depends on what was sent before.
            let address =
                translated(site, "snat").prop_filter("no port", |(names_protocol, _)| !names_protocol);
            prop_oneof![1 => common, 2 => address, 2 => plain("masquerade")].boxed()
        }
    }
}

/// A translation to another address, and perhaps to another port.
fn translated(site: Site, verb: &'static str) -> impl Strategy<Value = (bool, String)> {
    let family = if site.ipv6 { "ip6" } else { "ip" };
    let verb = if site.both { format!("{verb} {family}") } else { verb.to_owned() };
    let [to, with_port] = [(); 2].map(|()| verb.clone());
    prop_oneof![
        target(site.ipv6).prop_map(move |host| (false, format!("{}{to} to {host}", of_family(site)))),
        (target(site.ipv6), port()).prop_map(move |(host, port)| {
            let socket = if site.ipv6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            (true, format!("{}meta l4proto tcp {with_port} to {socket}", of_family(site)))
        }),
    ]
}
