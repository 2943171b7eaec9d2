//! Expressions of nft's JSON: what is read of a packet.

use serde_json::Value as Json;
use waymark_proto::text;

use super::super::raw::Base;
use super::super::rule::{Bitwise, Expr, Field, Lookup};
use super::super::value::{Elements, Value};
use super::constant::{self, Kind};
use super::{Within, statement};

/// An expression with the kinds of its operands; one that is not modelled is `Expr::Unknown`.
pub(super) fn compile(json: &Json, kind: Kind, within: &Within<'_>) -> (Expr, Vec<Kind>) {
    let body = |key: &str| json.get(key);
    if let Some(payload) = body("payload") {
        let (field, kind) = self::payload(payload);
        (Expr::Field(field), vec![kind])
    } else if let Some(meta) = body("meta") {
        let (field, kind) = self::meta(meta.get("key").and_then(Json::as_str).unwrap_or_default());
        (Expr::Field(field), vec![kind])
    } else if let Some(ct) = body("ct") {
        let (field, kind) = self::ct(ct, within);
        (Expr::Field(field), vec![kind])
    } else if let Some(fib) = body("fib") {
        let (field, kind) = self::fib(fib);
        (Expr::Field(field), vec![kind])
    } else if let Some(parts) = body("concat").and_then(Json::as_array) {
        let parts: Vec<_> = parts.iter().map(|part| compile(part, Kind::Guess, within)).collect();
        let kinds = parts.iter().map(|(_, kinds)| kinds.first().copied().unwrap_or(Kind::Guess)).collect();
        (Expr::Concat(parts.into_iter().map(|(expr, _)| expr).collect()), kinds)
    } else if let Some(numgen) = body("numgen").or_else(|| body("jhash")).or_else(|| body("symhash")) {
        // A hash of headers is as good as random to one who does not know its seed.
        let number = |key: &str| numgen.get(key).and_then(Json::as_u64);
        match number("mod").filter(|modulus| *modulus > 0) {
            Some(modulus) => {
                (Expr::Random { modulus, offset: number("offset").unwrap_or_default() }, vec![Kind::Number])
            }
            None => (Expr::Unknown(json.to_string()), vec![Kind::Number]),
        }
    } else if let Some(map) = body("map") {
        (self::map(map, within), vec![Kind::Guess])
    } else if let Some((op, [left, right])) = binary(json) {
        let (left, kinds) = compile(left, kind, within);
        let (right, _) = compile(right, kinds.first().copied().unwrap_or(kind), within);
        (Expr::Binary(op, Box::new(left), Box::new(right)), kinds)
    } else {
        match constant::value(json, kind) {
            Ok(value) => (Expr::Const(value), vec![kind]),
            Err(why) => (Expr::Unknown(why), vec![kind]),
        }
    }
}

fn binary(json: &Json) -> Option<(Bitwise, [&Json; 2])> {
    let operators = [
        ("&", Bitwise::And),
        ("|", Bitwise::Or),
        ("^", Bitwise::Xor),
        ("<<", Bitwise::ShiftLeft),
        (">>", Bitwise::ShiftRight),
    ];
    let (key, operands) = json.as_object()?.iter().next()?;
    let op = operators.iter().find(|(name, _)| name == key)?.1;
    match operands.as_array()?.as_slice() {
        // A list of names alone is a constant of flags.
        [left, right] if left.is_object() => Some((op, [left, right])),
        _ => None,
    }
}

fn map(map: &Json, within: &Within<'_>) -> Expr {
    let empty = Json::Null;
    let (key, kinds) = compile(map.get("key").unwrap_or(&empty), Kind::Guess, within);
    let data = map.get("data").unwrap_or(&empty);
    let lookup = match data.as_str().and_then(|name| name.strip_prefix('@')) {
        Some(name) => match within.map(name) {
            Some(index) => Lookup::Named(index, name.to_owned()),
            None => Lookup::Unknown(text!(model::MapAbsent { name })),
        },
        None => inline_map(data, &kinds),
    };
    Expr::Map { key: Box::new(key), map: lookup }
}

fn inline_map(data: &Json, kinds: &[Kind]) -> Lookup<Vec<Value>> {
    let mut elements = Elements::new();
    for entry in data.get("set").and_then(Json::as_array).into_iter().flatten() {
        let read = statement::pair(entry, kinds)
            .and_then(|(key, value)| Some((key, constant::values(value, &[]).ok()?)));
        match read {
            Some((key, values)) => elements.insert(key, values),
            None => return Lookup::Unknown(text!(model::MapElement { element: entry.to_string() })),
        }
    }
    Lookup::Inline(elements)
}

fn payload(json: &Json) -> (Field, Kind) {
    let number =
        |key: &str| json.get(key).and_then(Json::as_u64).and_then(|number| u32::try_from(number).ok());
    if let (Some(base), Some(offset), Some(length)) = (json.get("base"), number("offset"), number("len")) {
        let base = match base.as_str() {
            Some("nh") => Base::Network,
            Some("th") => Base::Transport,
            _ => return (Field::Unknown(json.to_string()), Kind::Guess),
        };
        return (Field::Raw { base, offset, length }, Kind::Number);
    }
    let text = |key: &str| json.get(key).and_then(Json::as_str).unwrap_or_default();
    let of = |number| Some(number);
    match (text("protocol"), text("field")) {
        ("ip", "saddr") => (Field::Source(Some(false)), Kind::Address),
        ("ip", "daddr") => (Field::Destination(Some(false)), Kind::Address),
        ("ip6", "saddr") => (Field::Source(Some(true)), Kind::Address),
        ("ip6", "daddr") => (Field::Destination(Some(true)), Kind::Address),
        ("ip", "protocol") => (Field::HeaderProtocol(false), Kind::Protocol),
        ("ip6", "nexthdr") => (Field::HeaderProtocol(true), Kind::Protocol),
        ("ip", "dscp") => (Field::Dscp(Some(false)), Kind::Dscp),
        ("ip6", "dscp") => (Field::Dscp(Some(true)), Kind::Dscp),
        ("ip", "length") => (Field::Length, Kind::Number),
        ("ip", "ttl") => (Field::Ttl(false), Kind::Number),
        ("ip6", "hoplimit") => (Field::Ttl(true), Kind::Number),
        ("th", "sport") => (Field::SourcePort(None), Kind::Port),
        ("th", "dport") => (Field::DestinationPort(None), Kind::Port),
        ("tcp", "sport") => (Field::SourcePort(of(6)), Kind::Port),
        ("tcp", "dport") => (Field::DestinationPort(of(6)), Kind::Port),
        ("udp", "sport") => (Field::SourcePort(of(17)), Kind::Port),
        ("udp", "dport") => (Field::DestinationPort(of(17)), Kind::Port),
        ("sctp", "sport") => (Field::SourcePort(of(132)), Kind::Port),
        ("sctp", "dport") => (Field::DestinationPort(of(132)), Kind::Port),
        ("tcp", "flags") => (Field::TcpFlags, Kind::TcpFlags),
        ("icmp", "type") => (Field::IcmpType(false), Kind::IcmpType),
        ("icmpv6", "type") => (Field::IcmpType(true), Kind::Icmp6Type),
        ("icmp", "code") => (Field::IcmpCode(false), Kind::Number),
        ("icmpv6", "code") => (Field::IcmpCode(true), Kind::Number),
        _ => (Field::Unknown(json.to_string()), Kind::Guess),
    }
}

fn meta(key: &str) -> (Field, Kind) {
    match key {
        "l4proto" => (Field::L4Protocol, Kind::Protocol),
        "nfproto" => (Field::Family, Kind::Family),
        "protocol" => (Field::EtherType, Kind::EtherType),
        "mark" => (Field::Mark, Kind::Number),
        "length" => (Field::Length, Kind::Number),
        // A device's index is printed by its name.
        "iifname" | "iif" => (Field::InName, Kind::Device),
        "oifname" | "oif" => (Field::OutName, Kind::Device),
        "pkttype" => (Field::PacketType, Kind::PacketType),
        _ => (Field::Unknown(format!("meta {key}")), Kind::Guess),
    }
}

fn ct(json: &Json, within: &Within<'_>) -> (Field, Kind) {
    let text = |key: &str| json.get(key).and_then(Json::as_str).unwrap_or_default();
    let reply = text("dir") == "reply";
    let address = |destination| (Field::ConnAddress { reply, destination }, Kind::Address);
    let port = |destination| (Field::ConnPort { reply, destination }, Kind::Port);
    let directed = json.get("dir").is_some();
    match text("key") {
        "state" => (Field::ConnState, Kind::ConnState),
        "status" => (Field::ConnStatus, Kind::ConnStatus),
        "mark" => (Field::ConnMark, Kind::Number),
        "direction" => (Field::ConnDirection, Kind::ConnDirection),
        "ip saddr" | "ip6 saddr" if directed => address(false),
        "ip daddr" | "ip6 daddr" if directed => address(true),
        "saddr" if directed && within.ipv6().is_some() => address(false),
        "daddr" if directed && within.ipv6().is_some() => address(true),
        "proto-src" if directed => port(false),
        "proto-dst" if directed => port(true),
        key => (Field::Unknown(format!("ct {key}")), Kind::Guess),
    }
}

fn fib(json: &Json) -> (Field, Kind) {
    let flags: Vec<&str> = json
        .get("flags")
        .map(|flags| match flags {
            Json::String(flag) => vec![flag.as_str()],
            other => other.as_array().into_iter().flatten().filter_map(Json::as_str).collect(),
        })
        .unwrap_or_default();
    match (json.get("result").and_then(Json::as_str).unwrap_or_default(), flags.as_slice()) {
        ("type", ["daddr"]) => (Field::AddressType { destination: true }, Kind::AddressType),
        ("type", ["saddr"]) => (Field::AddressType { destination: false }, Kind::AddressType),
        ("oif", flags) if flags.len() == 2 && flags.contains(&"saddr") && flags.contains(&"iif") => {
            (Field::ReverseRoute, Kind::Number)
        }
        _ => (Field::Unknown(format!("fib {json}")), Kind::Guess),
    }
}
