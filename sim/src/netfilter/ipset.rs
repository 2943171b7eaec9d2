//! Sets as `ipset save` prints them.

use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::symbols;
use super::value::{Elements, Pattern, Value};

/// One dimension of a set's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dimension {
    Address,
    /// Protocol and port, compared as two operands.
    Port,
    /// A port of any protocol (`bitmap:port`).
    BarePort,
    Interface,
    Unknown,
}

/// A set.
#[derive(Clone, Debug)]
pub(crate) struct IpSet {
    pub(crate) dimensions: Vec<Dimension>,
    /// The elements; `false` marks exceptions (`nomatch`).
    pub(crate) elements: Elements<bool>,
    /// Members of a `list:set`.
    pub(crate) lists: Vec<String>,
}

/// Reads `ipset save`. Lines that it does not know are skipped; elements that it does not know mark
/// their set ([`Elements::note_unread`]).
pub(crate) fn parse(text: &str) -> FxHashMap<String, IpSet> {
    let mut sets = FxHashMap::default();
    for line in text.lines() {
        let words = shlex::split(line).unwrap_or_default();
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["create", name, kind, ..] => {
                sets.insert((*name).to_owned(), create(kind));
            }
            ["add", name, element, options @ ..] => {
                if let Some(set) = sets.get_mut(*name) {
                    add(set, element, options);
                }
            }
            _ => {}
        }
    }
    sets
}

fn create(kind: &str) -> IpSet {
    let (method, data) = kind.split_once(':').unwrap_or((kind, ""));
    let dimension = |part: &str| match part {
        "ip" | "net" => Dimension::Address,
        "port" if method == "bitmap" => Dimension::BarePort,
        "port" => Dimension::Port,
        "iface" => Dimension::Interface,
        _ => Dimension::Unknown,
    };
    let dimensions = if method == "list" { Vec::new() } else { data.split(',').map(dimension).collect() };
    IpSet { dimensions, elements: Elements::new(), lists: Vec::new() }
}

fn add(set: &mut IpSet, element: &str, options: &[&str]) {
    if set.dimensions.is_empty() {
        set.lists.push(element.to_owned());
        return;
    }
    let parts: Vec<&str> = element.split(',').collect();
    let read: Option<Vec<Vec<Pattern>>> =
        set.dimensions.iter().zip(&parts).map(|(dimension, part)| patterns(*dimension, part)).collect();
    let key = read.filter(|_| parts.len() == set.dimensions.len()).map(|patterns| patterns.concat());
    match key {
        Some(key) => set.elements.insert(key, !options.contains(&"nomatch")),
        None => set.elements.note_unread(element.to_owned()),
    }
}

fn patterns(dimension: Dimension, part: &str) -> Option<Vec<Pattern>> {
    match dimension {
        Dimension::Address => address(part).map(|pattern| vec![pattern]),
        Dimension::Port => {
            let (protocol, number) = part.split_once(':').unwrap_or(("tcp", part));
            let protocol = symbols::protocol(protocol)?;
            let number = match protocol {
                1 | 58 => {
                    let (kind, code) = symbols::icmp_type(number, protocol == 58)?;
                    Pattern::Is(Value::Number(kind << 8 | code.unwrap_or_default()))
                }
                _ => range(number)?,
            };
            Some(vec![Pattern::Is(Value::Number(protocol)), number])
        }
        Dimension::BarePort => range(part).map(|pattern| vec![pattern]),
        Dimension::Interface => {
            let name = part.strip_prefix("physdev:").map_or(Some(part), |_| None)?;
            Some(vec![Pattern::Is(Value::text(name))])
        }
        Dimension::Unknown => None,
    }
}

fn address(part: &str) -> Option<Pattern> {
    if let Ok(net) = part.parse::<IpNet>() {
        return Some(Pattern::net(net));
    }
    if let Ok(ip) = part.parse::<IpAddr>() {
        return Some(Pattern::Is(Value::Ip(ip)));
    }
    let (low, high) = part.split_once('-')?;
    Some(Pattern::Range(Value::Ip(low.parse().ok()?), Value::Ip(high.parse().ok()?)))
}

fn range(part: &str) -> Option<Pattern> {
    if let Some((low, high)) = part.split_once('-') {
        return Some(Pattern::Range(
            Value::Number(symbols::number(low)?),
            Value::Number(symbols::number(high)?),
        ));
    }
    symbols::port(part).map(|port| Pattern::Is(Value::Number(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "create b hash:ip,port family inet hashsize 1024 maxelem 65536\n\
        add b 10.0.0.1,tcp:80 comment \"x y\"\n\
        create d hash:net family inet\n\
        add d 10.0.0.0/8\n\
        add d 10.1.0.0/16 nomatch\n\
        create m hash:mac\n\
        add m 00:11:22:33:44:55\n\
        create f list:set size 8\n\
        add f d\n";

    #[test]
    fn saved_sets_are_read() {
        let sets = parse(SAVED);
        let ip = |text: &str| Value::Ip(text.parse().unwrap());
        let pair = [ip("10.0.0.1"), Value::Number(6), Value::Number(80)];
        assert_eq!(sets["b"].elements.get(&pair), Some(&true));
        assert_eq!(sets["d"].elements.get(&[ip("10.2.0.1")]), Some(&true));
        assert_eq!(sets["d"].elements.get(&[ip("10.1.0.1")]), Some(&false));
        assert!(sets["m"].elements.unread().is_some(), "a kind that is not modelled is not silently empty");
        assert_eq!(sets["f"].lists, ["d"]);
    }
}
