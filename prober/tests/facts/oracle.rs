//! What iproute2 says about a namespace, in sorted lines, and facts in the same lines.

use std::collections::BTreeMap;

use serde_json::Value;
use waymark_proto::{
    Address, FdbEntry, Link, LinkKind, NetnsFacts, PolicyRule, PortRange, Protocol, Route, RouteType,
    RuleAction, Socket,
};

use super::rig::Ns;

/// The output of an iproute2 tool as JSON rows.
fn rows(ns: &Ns, line: &str) -> Vec<Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let text = ns.exec(&words, "");
    let rows: Vec<Value> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"));
    // iproute2 prints an empty object for a row that it filtered out.
    rows.into_iter().filter(|row| row.as_object().is_some_and(|row| !row.is_empty())).collect()
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn has_flag(row: &Value, flag: &str) -> bool {
    row["flags"].as_array().is_some_and(|flags| flags.iter().any(|entry| entry == flag))
}

fn names(facts: &NetnsFacts) -> BTreeMap<u32, &str> {
    facts.links.iter().map(|link| (link.index, link.name.as_str())).collect()
}

/// Whether the kernel has done what it does in its own time when links come up: devices have addresses of their own
/// that can be used, ports of bridges forward, and who is behind them was heard of.
pub(crate) fn is_settled(ns: &Ns) -> bool {
    let heard = rows(ns, "bridge -j fdb show");
    let is_heard_at = |port: &Value| {
        heard
            .iter()
            .any(|row| row["ifname"] == *port && !row["master"].is_null() && row["state"] != "permanent")
    };
    let links = rows(ns, "ip -j -d addr");
    let mut carrying = links.iter().filter(|row| has_flag(row, "LOWER_UP") && !has_flag(row, "LOOPBACK"));
    carrying.all(|row| {
        let addresses = row["addr_info"].as_array().unwrap();
        let info = &row["linkinfo"];
        addresses.iter().any(|address| address["family"] == "inet6" && address["scope"] == "link")
            && addresses.iter().all(|address| address["tentative"].is_null())
            && (info["info_slave_kind"] != "bridge"
                || (info["info_slave_data"]["state"] == "forwarding" && is_heard_at(&row["ifname"])))
    })
}

/// Devices; a peer in the namespace `stranger` counts as unknown.
pub(crate) fn links(ns: &Ns, stranger: &str) -> Vec<String> {
    let ids: BTreeMap<String, String> = rows(ns, "ip -j netns list-id")
        .iter()
        .map(|row| (row["nsid"].to_string(), row["name"].as_str().unwrap_or("-").replace(stranger, "-")))
        .collect();
    let rows = rows(ns, "ip -j -d link");
    let index = |name: &Value| {
        rows.iter().find(|row| row["ifname"] == *name).map_or(0, |row| row["ifindex"].as_u64().unwrap())
    };
    sorted(rows.iter().map(|row| {
        let info = &row["linkinfo"];
        let data = &info["info_data"];
        let kind = match info["info_kind"].as_str() {
            _ if has_flag(row, "LOOPBACK") => "loopback".to_owned(),
            None => "physical".to_owned(),
            Some("veth") => {
                let peer = if row["link_index"].is_null() {
                    index(&row["link"])
                } else {
                    row["link_index"].as_u64().unwrap()
                };
                let netns = match &row["link_netnsid"] {
                    Value::Null => ns.name.clone(),
                    id => ids.get(&id.to_string()).cloned().unwrap_or("-".to_owned()),
                };
                format!("veth {peer} {netns}")
            }
            Some("bridge") => format!("bridge {}", data["vlan_filtering"]),
            Some("vxlan") => format!(
                "vxlan {} {} local {} remote {} link {} learning {}",
                data["id"],
                data["port"],
                text(if data["local"].is_null() { &data["local6"] } else { &data["local"] }),
                text(
                    ["group", "remote", "group6", "remote6"]
                        .iter()
                        .map(|&key| &data[key])
                        .find(|v| !v.is_null())
                        .unwrap_or(&Value::Null)
                ),
                index(&data["link"]),
                data["learning"],
            ),
            Some(other) => other.to_owned(),
        };
        let port = &info["info_slave_data"];
        let port = if info["info_slave_kind"] == "bridge" {
            format!(
                "port {} {} {} {}",
                port["state"].as_str().unwrap(),
                port["hairpin"],
                port["isolated"],
                port["flood"]
            )
        } else {
            "-".to_owned()
        };
        format!(
            "{} {} {} mtu {} up {} carrier {} master {} {kind} {port}",
            row["ifindex"],
            text(&row["ifname"]),
            // Tunnels that every namespace has once their module is loaded have an IP address there.
            row["address"].as_str().filter(|mac| kind != "loopback" && mac.contains(':')).unwrap_or("-"),
            row["mtu"],
            has_flag(row, "UP"),
            has_flag(row, "LOWER_UP"),
            index(&row["master"]),
        )
    }))
}

pub(crate) fn fact_links(facts: &NetnsFacts) -> Vec<String> {
    let states = ["disabled", "listening", "learning", "forwarding", "blocking"];
    let ip = |ip: &Option<std::net::IpAddr>| ip.map_or("null".to_owned(), |ip| ip.to_string());
    let line = |link: &Link| {
        let kind = match &link.kind {
            LinkKind::Loopback => "loopback".to_owned(),
            LinkKind::Physical => "physical".to_owned(),
            LinkKind::Veth { peer_index, peer_netns } => {
                format!("veth {peer_index} {}", peer_netns.as_deref().unwrap_or("-"))
            }
            LinkKind::Bridge { vlan_filtering } => format!("bridge {}", u8::from(*vlan_filtering)),
            LinkKind::Vxlan { vni, port, local, remote, underlay, learning } => format!(
                "vxlan {vni} {port} local {} remote {} link {} learning {learning}",
                ip(local),
                ip(remote),
                underlay.unwrap_or(0)
            ),
            LinkKind::Dummy => "dummy".to_owned(),
            LinkKind::Other { kind } => kind.clone(),
        };
        let port = link.bridge_port.map_or("-".to_owned(), |port| {
            format!(
                "port {} {} {} {}",
                states[usize::from(port.state)],
                port.hairpin,
                port.isolated,
                port.flood
            )
        });
        format!(
            "{} {} {} mtu {} up {} carrier {} master {} {kind} {port}",
            link.index,
            link.name,
            link.mac.as_deref().unwrap_or("-"),
            link.mtu,
            link.up,
            link.carrier,
            link.master.unwrap_or(0)
        )
    };
    sorted(facts.links.iter().map(line))
}

pub(crate) fn addresses(ns: &Ns) -> Vec<String> {
    let rows = rows(ns, "ip -j addr");
    sorted(rows.iter().flat_map(|row| {
        row["addr_info"].as_array().unwrap().iter().map(|info| {
            let peer = info["address"].as_str().unwrap_or("-");
            format!("{} {}/{} {peer}", row["ifindex"], text(&info["local"]), info["prefixlen"])
        })
    }))
}

pub(crate) fn fact_addresses(facts: &NetnsFacts) -> Vec<String> {
    let line = |address: &Address| {
        let peer = address.peer.map_or("-".to_owned(), |ip| ip.to_string());
        format!("{} {} {peer}", address.index, address.address)
    };
    sorted(facts.addresses.iter().map(line))
}

/// Route types by number: `ip -N` prints them so.
const TYPES: [RouteType; 10] = [
    RouteType::Other,
    RouteType::Unicast,
    RouteType::Local,
    RouteType::Broadcast,
    RouteType::Anycast,
    RouteType::Multicast,
    RouteType::Blackhole,
    RouteType::Unreachable,
    RouteType::Prohibit,
    RouteType::Throw,
];

/// Routes without those that only name a nexthop object.
pub(crate) fn routes(ns: &Ns) -> Vec<String> {
    let hop = |row: &Value| {
        let via = if row["via"].is_null() { &row["gateway"] } else { &row["via"]["host"] };
        let weight = row["weight"].as_u64().unwrap_or(1);
        let flags = ["onlink", "dead"].map(|flag| u8::from(has_flag(row, flag)));
        format!("[{} {} {weight} {flags:?}]", text(via), text(&row["dev"]))
    };
    let mut lines = Vec::new();
    for (family, any) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        for row in rows(ns, &format!("ip -j -N {family} route show table all")) {
            if !row["nhid"].is_null() && row["dev"].is_null() && row["nexthops"].is_null() {
                continue;
            }
            let number: usize = row["type"].as_str().map_or(1, |number| number.parse().unwrap());
            let full = if family == "-4" { "/32" } else { "/128" };
            let dst = match row["dst"].as_str().unwrap() {
                "default" => any.to_owned(),
                net if net.contains('/') => net.to_owned(),
                host => format!("{host}{full}"),
            };
            let hops: Vec<String> = match row["nexthops"].as_array() {
                Some(hops) => hops.iter().map(hop).collect(),
                // The device of a route that goes nowhere means nothing.
                None if number >= 6 => Vec::new(),
                None => vec![hop(&row)],
            };
            lines.push(format!(
                "{} {dst} {:?} metric {} tos {} src {} {}",
                row["table"].as_str().unwrap_or("254"),
                TYPES[number],
                row["metric"].as_u64().unwrap_or(0),
                u8::from_str_radix(row["tos"].as_str().unwrap_or("0").trim_start_matches("0x"), 16).unwrap(),
                text(&row["prefsrc"]),
                hops.concat()
            ));
        }
    }
    sorted(lines.into_iter())
}

pub(crate) fn fact_routes(facts: &NetnsFacts, skip: impl Fn(&Route) -> bool) -> Vec<String> {
    let names = names(facts);
    let line = |route: &Route| {
        let hops: Vec<String> = route
            .next_hops
            .iter()
            .map(|hop| {
                let via = hop.via.map_or("null".to_owned(), |ip| ip.to_string());
                let dev = hop.index.map_or("null", |index| names[&index]);
                format!("[{via} {dev} {} {:?}]", hop.weight, [hop.onlink, hop.dead].map(u8::from))
            })
            .collect();
        format!(
            "{} {} {:?} metric {} tos {} src {} {}",
            route.table,
            route.dst,
            route.kind,
            route.metric,
            route.tos,
            route.prefsrc.map_or("null".to_owned(), |ip| ip.to_string()),
            hops.concat()
        )
    };
    sorted(facts.routes.iter().filter(|route| !skip(route)).map(line))
}

pub(crate) fn rules(ns: &Ns) -> Vec<String> {
    let mut lines = Vec::new();
    for (family, full) in [("-4", 32), ("-6", 128)] {
        for row in rows(ns, &format!("ip -j -N {family} rule")) {
            let prefix = |key: &str| match row[key].as_str() {
                None | Some("all") => "-".to_owned(),
                Some(ip) => format!("{ip}/{}", row[format!("{key}len")].as_u64().unwrap_or(full)),
            };
            let full_mask = |mark: &str| if mark == "-" { "-" } else { "0xffffffff" };
            let mark = match row["fwmark"].as_str() {
                Some("0") => "0x0",
                mark => mark.unwrap_or("-"),
            };
            // A single port is a number, a range has its ends.
            let ports = |key: &str| match row[key].as_u64() {
                Some(port) => format!("{port}-{port}"),
                None => match row[format!("{key}_start")].as_u64() {
                    Some(first) => format!("{first}-{}", row[format!("{key}_end")]),
                    None => "-".to_owned(),
                },
            };
            lines.push(format!(
                "{family} {} {} table {} goto {} from {} to {} iif {} oif {} mark {mark}/{} proto {} sport {} dport {} tos {} not {}",
                row["priority"],
                row["action"].as_str().unwrap_or(if row["goto"].is_null() { "1" } else { "2" }),
                row["table"].as_str().unwrap_or("0"),
                text(&row["goto"]),
                prefix("src"),
                prefix("dst"),
                text(&row["iif"]),
                text(&row["oif"]),
                row["fwmask"].as_str().unwrap_or(full_mask(mark)),
                text(&row["ipproto"]),
                ports("sport"),
                ports("dport"),
                text(&row["tos"]),
                row.as_object().unwrap().contains_key("not"),
            ));
        }
    }
    lines
}

pub(crate) fn fact_rules(facts: &NetnsFacts) -> Vec<String> {
    let line = |rule: &PolicyRule| {
        let action = match rule.action {
            RuleAction::Other => 0,
            RuleAction::Table => 1,
            RuleAction::Goto => 2,
            RuleAction::Nop => 3,
            RuleAction::Blackhole => 6,
            RuleAction::Unreachable => 7,
            RuleAction::Prohibit => 8,
        };
        let or = |text: Option<String>, none: &str| text.unwrap_or(none.to_owned());
        let ports = |range: Option<PortRange>| range.map(|range| format!("{}-{}", range.first, range.last));
        format!(
            "{} {} {action} table {} goto {} from {} to {} iif {} oif {} mark {}/{} proto {} sport {} dport {} tos {} not {}",
            if rule.ipv6 { "-6" } else { "-4" },
            rule.priority,
            rule.table,
            or(rule.goto.map(|priority| priority.to_string()), "null"),
            or(rule.src.map(|net| net.to_string()), "-"),
            or(rule.dst.map(|net| net.to_string()), "-"),
            or(rule.iif.clone(), "null"),
            or(rule.oif.clone(), "null"),
            or(rule.mark.map(|mark| format!("{mark:#x}")), "-"),
            or(rule.mask.map(|mask| format!("{mask:#x}")), "-"),
            or(rule.ip_protocol.map(|protocol| format!("ipproto-{protocol}")), "null"),
            or(ports(rule.src_ports), "-"),
            or(ports(rule.dst_ports), "-"),
            or(rule.tos.map(|tos| format!("{tos:#x}")), "null"),
            rule.invert
        )
    };
    facts.rules.iter().map(line).collect()
}

/// Permanent and proxy entries; the others change by themselves.
pub(crate) fn neighbours(ns: &Ns) -> Vec<String> {
    let static_ones = rows(ns, "ip -j neigh show nud permanent");
    let proxies = rows(ns, "ip -j neigh show proxy");
    let line = |row: &Value, proxy: bool| {
        format!(
            "{} {} {} {proxy}",
            text(&row["dev"]),
            text(&row["dst"]),
            row["lladdr"].as_str().unwrap_or("-")
        )
    };
    sorted(static_ones.iter().map(|row| line(row, false)).chain(proxies.iter().map(|row| line(row, true))))
}

pub(crate) fn fact_neighbours(facts: &NetnsFacts) -> Vec<String> {
    let names = names(facts);
    let kept = facts.neighbours.iter().filter(|entry| entry.proxy || entry.state == "permanent");
    sorted(kept.map(|entry| {
        let mac = entry.mac.as_deref().unwrap_or("-");
        format!("{} {} {mac} {}", names[&entry.index], entry.address, entry.proxy)
    }))
}

/// Entries of bridges and VXLAN devices; not the filter of each device (`self` on any other).
pub(crate) fn fdb(ns: &Ns) -> Vec<String> {
    let rows = rows(ns, "bridge -j fdb show");
    let kept = rows.iter().filter(|row| !row["master"].is_null() || text(&row["ifname"]).starts_with("vx"));
    sorted(kept.map(|row| {
        format!(
            "{} {} dst {} vni {} vlan {} master {} local {}",
            text(&row["ifname"]),
            text(&row["mac"]),
            text(&row["dst"]),
            row["vni"],
            row["vlan"],
            text(&row["master"]),
            !row["master"].is_null() && row["state"] == "permanent",
        )
    }))
}

pub(crate) fn fact_fdb(facts: &NetnsFacts) -> Vec<String> {
    let names = names(facts);
    let or_null = |text: Option<String>| text.unwrap_or("null".to_owned());
    let line = |entry: &FdbEntry| {
        format!(
            "{} {} dst {} vni {} vlan {} master {} local {}",
            names[&entry.index],
            entry.mac,
            or_null(entry.remote.map(|ip| ip.to_string())),
            or_null(entry.vni.map(|vni| vni.to_string())),
            or_null(entry.vlan.map(|vlan| vlan.to_string())),
            or_null(entry.master.map(|index| names[&index].to_owned())),
            entry.local
        )
    };
    sorted(facts.fdb.iter().map(line))
}

/// `ss` shows an IPv6 socket that takes IPv4 too as `*`.
pub(crate) fn sockets(ns: &Ns) -> Vec<String> {
    let text = ns.exec(&["ss", "-Hlntu"], "");
    sorted(text.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {}", words[0], words[4])
    }))
}

pub(crate) fn fact_sockets(facts: &NetnsFacts) -> Vec<String> {
    let names = names(facts);
    let line = |socket: &Socket| {
        let ip = match socket.address {
            ip if ip.is_ipv6() && ip.is_unspecified() && !socket.v6only => "*".to_owned(),
            ip if ip.is_ipv6() => format!("[{ip}]"),
            ip => ip.to_string(),
        };
        let device = socket.device.map_or(String::new(), |index| format!("%{}", names[&index]));
        let protocol = if socket.protocol == Protocol::Tcp { "tcp" } else { "udp" };
        format!("{protocol} {ip}{device}:{}", socket.port)
    };
    sorted(facts.sockets.iter().map(line))
}
