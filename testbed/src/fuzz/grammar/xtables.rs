//! Rulesets of iptables.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::pool::{device, host, mark, net, port, target, word};

/// The rules of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xtables {
    /// IPv6, or else IPv4.
    pub ipv6: bool,
    /// Tables in the form of `iptables-save`.
    pub tables: Vec<XTable>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XTable {
    /// `raw`, `mangle`, `nat`, `filter`.
    pub name: String,
    /// Chains with policies: `:FORWARD DROP`.
    pub chains: Vec<String>,
    /// Rules: `-A FORWARD …`.
    pub rules: Vec<String>,
}

impl Xtables {
    /// As `iptables-restore` reads it.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for table in &self.tables {
            lines.push(format!("*{}", table.name));
            lines.extend(table.chains.iter().map(|chain| format!("{chain} [0:0]")));
            lines.extend(table.rules.iter().cloned());
            lines.push("COMMIT".to_owned());
        }
        lines
    }
}

/// Rules of one family.
pub(super) fn xtables(ipv6: bool) -> impl Strategy<Value = Xtables> {
    let table = |name| option::weighted(0.5, table(name, ipv6));
    let tables = [table("raw"), table("mangle"), table("nat"), table("filter")];
    Vec::from(tables).prop_map(move |tables| Xtables { ipv6, tables: tables.into_iter().flatten().collect() })
}

fn table(name: &'static str, ipv6: bool) -> impl Strategy<Value = XTable> {
    let builtin: &'static [&'static str] = match name {
        "raw" => &["PREROUTING", "OUTPUT"],
        "nat" => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        "filter" => &["INPUT", "FORWARD", "OUTPUT"],
        _ => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    };
    let policies = vec(prop_oneof![9 => Just("ACCEPT"), 1 => Just("DROP")], builtin.len());
    let policies = if name == "nat" { vec(Just("ACCEPT"), builtin.len()).boxed() } else { policies.boxed() };
    let site = Site { ipv6, table: name };
    let own = vec(rule(word(builtin).boxed(), site, 0), 1..8);
    let first = vec(rule(Just("A".to_owned()).boxed(), site, 1), 0..4);
    let second = vec(rule(Just("B".to_owned()).boxed(), site, 2), 0..4);
    (policies, own, first, second).prop_map(move |(policies, own, first, second)| {
        let mut chains: Vec<String> =
            builtin.iter().zip(policies).map(|(chain, policy)| format!(":{chain} {policy}")).collect();
        chains.extend([":A -".to_owned(), ":B -".to_owned()]);
        XTable { name: name.to_owned(), chains, rules: [own, first, second].concat() }
    })
}

#[derive(Clone, Copy, Debug)]
struct Site {
    ipv6: bool,
    table: &'static str,
}

fn rule(chain: BoxedStrategy<String>, site: Site, level: u8) -> impl Strategy<Value = String> {
    chain.prop_flat_map(move |chain| {
        let matches = (
            option::weighted(0.4, network(site)),
            option::weighted(0.4, transport(site)),
            option::weighted(0.5, other(site, &chain)),
        );
        (matches, target_of(site, &chain, level)).prop_map(move |((network, transport, other), target)| {
            // What needs a protocol names it before.
            let (needs, target) = target;
            let transport = if needs { Some("-p tcp".to_owned()) } else { transport };
            let parts = [Some(format!("-A {chain}")), network, transport, other, Some(target)];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
        })
    })
}

fn network(site: Site) -> BoxedStrategy<String> {
    let Site { ipv6, .. } = site;
    let digit = if ipv6 { 6 } else { 4 };
    let not = word(&["", "! "]);
    prop_oneof![
        4 => (not.clone(), word(&["-s", "-d"]), net(ipv6)).prop_map(|(not, end, net)| format!("{not}{end} {net}")),
        1 => (not.clone(), word(&["--src-range", "--dst-range"]), host(ipv6))
            .prop_map(|(not, end, host)| format!("-m iprange {not}{end} {host}-{host}")),
        1 => (not.clone(), word(&["n", "h", "l"]), word(&["src", "dst"]))
            .prop_map(move |(not, set, end)| format!("-m set {not}--match-set {set}{digit} {end}")),
        1 => (not.clone(), word(&["src,src", "dst,dst", "src,dst"]))
            .prop_map(move |(not, ends)| format!("-m set {not}--match-set p{digit} {ends}")),
        1 => (not.clone(), word(&["src,src", "dst,dst", "src,dst"]))
            .prop_map(move |(not, ends)| format!("-m set {not}--match-set q{digit} {ends}")),
        1 => (not.clone(), word(&["src,dst,src", "src,dst,dst", "dst,dst,src"]))
            .prop_map(move |(not, ends)| format!("-m set {not}--match-set t{digit} {ends}")),
        1 => (not.clone(), word(&["src", "dst"]))
            .prop_map(|(not, end)| format!("-m set {not}--match-set ports {end}")),
        1 => (word(&["eq", "lt", "gt"]), 1..65u8).prop_map(move |(op, ttl)| {
            if ipv6 { format!("-m hl --hl-{op} {ttl}") } else { format!("-m ttl --ttl-{op} {ttl}") }
        }),
        1 => (not.clone(), word(&["-m dscp|--dscp 4", "-m dscp|--dscp 0", "-m tos|--tos 0x10/0xff", "-m length|--length 44:60"]))
            .prop_map(|(not, test)| test.replace('|', if not.is_empty() { " " } else { " ! " })),
        1 => (word(&["--src-type", "--dst-type"]), word(if ipv6 { &["LOCAL", "UNICAST"] } else { &["LOCAL", "UNICAST", "BROADCAST"] }))
            .prop_map(|(end, kind)| format!("-m addrtype {end} {kind}")),
    ]
    .boxed()
}

fn transport(site: Site) -> BoxedStrategy<String> {
    let not = word(&["", "! "]);
    let protocol = word(&["tcp", "udp"]);
    let icmp =
        if site.ipv6 { "-p ipv6-icmp -m icmp6 --icmpv6-type 128" } else { "-p icmp -m icmp --icmp-type 8" };
    prop_oneof![
        4 => (protocol.clone(), not.clone(), port())
            .prop_map(|(protocol, not, port)| format!("-p {protocol} {not}--dport {port}")),
        1 => (protocol.clone(), not.clone(), vec(port(), 1..4)).prop_map(|(protocol, not, ports)| {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!("-p {protocol} -m multiport {not}--dports {}", ports.join(","))
        }),
        1 => protocol.clone().prop_map(|protocol| format!("-p {protocol} --sport 20000:40000")),
        1 => (not.clone(), protocol).prop_map(|(not, protocol)| format!("{not}-p {protocol}")),
        1 => not.prop_map(|not| format!("-p tcp {not}--syn")),
        1 => Just("-p tcp --tcp-flags SYN,ACK SYN".to_owned()),
        1 => Just(icmp.to_owned()),
    ]
    .boxed()
}

fn other(site: Site, chain: &str) -> BoxedStrategy<String> {
    let not = word(&["", "! "]);
    let input = matches!(chain, "PREROUTING" | "INPUT" | "FORWARD" | "A" | "B");
    let output = matches!(chain, "POSTROUTING" | "OUTPUT" | "FORWARD" | "A" | "B");
    let way: &'static [&'static str] = match (input, output) {
        (true, true) => &["-i", "-o"],
        (true, false) => &["-i"],
        _ => &["-o"],
    };
    prop_oneof![
        2 => (not.clone(), word(way), device()).prop_map(|(not, way, device)| format!("{not}{way} {device}")),
        1 => word(way).prop_map(|way| format!("{way} p+")),
        2 => (not.clone(), word(&["NEW", "ESTABLISHED", "NEW,ESTABLISHED", "INVALID", "UNTRACKED", "DNAT", "SNAT", "NEW,DNAT"]))
            .prop_map(|(not, state)| format!("-m conntrack {not}--ctstate {state}")),
        1 => (not.clone(), word(&["ORIGINAL", "REPLY"]))
            .prop_map(|(_, way)| format!("-m conntrack --ctdir {way}")),
        1 => (not.clone(), word(&["--ctorigsrc", "--ctorigdst", "--ctreplsrc", "--ctrepldst"]), host(site.ipv6))
            .prop_map(|(not, end, host)| format!("-m conntrack {not}{end} {host}")),
        1 => (not.clone(), word(&["SEEN_REPLY", "CONFIRMED", "NONE"]))
            .prop_map(|(not, status)| format!("-m conntrack {not}--ctstatus {status}")),
        2 => (not.clone(), mark(), word(&["", "/0x1", "/0x2"]))
            .prop_map(|(not, mark, mask)| format!("-m mark {not}--mark {mark}{mask}")),
        1 => (not, mark()).prop_map(|(not, mark)| format!("-m connmark {not}--mark {mark}")),
    ]
    .boxed()
}

/// The target, and whether it needs `-p tcp`.
fn target_of(site: Site, chain: &str, level: u8) -> BoxedStrategy<(bool, String)> {
    let plain = |target: &str| Just((false, format!("-j {target}")));
    let leads: BoxedStrategy<(bool, String)> = match level {
        0 => word(&["-j A", "-g A", "-j B", "-g B"]).prop_map(|jump| (false, jump)).boxed(),
        1 => word(&["-j B", "-g B"]).prop_map(|jump| (false, jump)).boxed(),
        _ => plain("RETURN").boxed(),
    };
    let common = prop_oneof![2 => plain("ACCEPT"), 1 => plain("RETURN"), 2 => leads];
    let marks = prop_oneof![
        (word(&["--set-mark", "--set-xmark", "--or-mark", "--and-mark", "--xor-mark"]), mark())
            .prop_map(|(how, mark)| (false, format!("-j MARK {how} {mark}"))),
        word(&["--save-mark", "--restore-mark", "--set-mark 1", "--set-xmark 0x2/0x3"])
            .prop_map(|how| (false, format!("-j CONNMARK {how}"))),
        (word(&["--save-mark", "--restore-mark"]), word(&["--nfmask 0x1 --ctmask 0x1", "--mask 0x3"]))
            .prop_map(|(how, mask)| (false, format!("-j CONNMARK {how} {mask}"))),
    ];
    let socket = move |host: &str, port: u16| {
        if site.ipv6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    };
    match (site.table, chain) {
        ("raw", "PREROUTING" | "OUTPUT") => {
            prop_oneof![3 => common, 1 => plain("DROP"), 1 => plain("NOTRACK"), 1 => plain("CT --notrack")].boxed()
        }
        ("nat", "PREROUTING" | "OUTPUT") => prop_oneof![
            1 => common,
            2 => target(site.ipv6).prop_map(|host| (false, format!("-j DNAT --to-destination {host}"))),
            2 => (target(site.ipv6), port())
                .prop_map(move |(host, port)| (true, format!("-j DNAT --to-destination {}", socket(&host, port)))),
            1 => port().prop_map(|port| (true, format!("-j REDIRECT --to-ports {port}"))),
            1 => Just((false, if site.ipv6 { "-j DNAT --to-destination fd00:2:0::2-fd00:2:0::3" } else { "-j DNAT --to-destination 10.2.0.2-10.2.0.3" }.to_owned())),
        ]
        .boxed(),
        ("nat", "POSTROUTING") => prop_oneof![
            1 => common,
            1 => plain("MASQUERADE"),
            1 => target(site.ipv6).prop_map(|host| (false, format!("-j SNAT --to-source {host}"))),
        ]
        .boxed(),
        ("nat", "INPUT") => prop_oneof![
            2 => common,
            1 => target(site.ipv6).prop_map(|host| (false, format!("-j SNAT --to-source {host}"))),
        ]
        .boxed(),
        ("nat", _) => common.boxed(),
        ("filter", _) => prop_oneof![2 => common, 1 => plain("DROP"), 1 => plain("REJECT"), 1 => marks_only()].boxed(),
        ("mangle", _) => {
            let headers = prop_oneof![
                word(&["-j DSCP --set-dscp 0", "-j DSCP --set-dscp 4", "-j TOS --set-tos 0x10", "-j TOS --set-tos 0/0xff"]),
                (word(&["set", "inc", "dec"]), 1..64u8).prop_map(move |(how, ttl)| {
                    if site.ipv6 { format!("-j HL --hl-{how} {ttl}") } else { format!("-j TTL --ttl-{how} {ttl}") }
                }),
            ];
            let headers = headers.prop_map(|target| (false, target));
            prop_oneof![2 => common, 1 => plain("DROP"), 3 => marks, 1 => headers].boxed()
        }
        _ => prop_oneof![3 => common, 1 => plain("DROP")].boxed(),
    }
}

/// Marks may be set in any table since Linux 2.6.
fn marks_only() -> impl Strategy<Value = (bool, String)> {
    mark().prop_map(|mark| (false, format!("-j MARK --set-mark {mark}")))
}
