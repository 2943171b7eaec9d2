//! Literals of nft's JSON: what they mean depends on what they are compared with.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::super::symbols;
use super::super::value::{Pattern, Value};

/// Kinds of operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Address,
    Protocol,
    Port,
    Device,
    ConnState,
    ConnStatus,
    ConnDirection,
    TcpFlags,
    IcmpType,
    Icmp6Type,
    Family,
    EtherType,
    AddressType,
    PacketType,
    Dscp,
    Number,
    /// Taken by its looks.
    Guess,
}

impl Kind {
    /// The kind of a set's data type.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "ipv4_addr" | "ipv6_addr" => Self::Address,
            "inet_proto" => Self::Protocol,
            "inet_service" => Self::Port,
            "ifname" | "iface_index" => Self::Device,
            "ct_state" => Self::ConnState,
            "ct_status" => Self::ConnStatus,
            "tcp_flag" => Self::TcpFlags,
            "icmp_type" => Self::IcmpType,
            "icmpv6_type" => Self::Icmp6Type,
            "nf_proto" => Self::Family,
            "ether_type" => Self::EtherType,
            "fib_addrtype" => Self::AddressType,
            "dscp" => Self::Dscp,
            "mark" => Self::Number,
            _ => Self::Guess,
        }
    }

    fn read(self, text: &str) -> Option<Value> {
        let number = match self {
            Self::Address => return text.parse::<IpAddr>().ok().map(Value::Ip),
            Self::Device => return Some(Value::text(text)),
            Self::Protocol => symbols::protocol(text),
            Self::Port => symbols::port(text),
            Self::ConnState => symbols::conn_state(text),
            Self::ConnStatus => symbols::conn_status(text),
            Self::ConnDirection => match text {
                "original" => Some(0),
                "reply" => Some(1),
                _ => None,
            },
            Self::TcpFlags => symbols::tcp_flag(text),
            Self::IcmpType => symbols::icmp_type(text, false).map(|(kind, _)| kind),
            Self::Icmp6Type => symbols::icmp_type(text, true).map(|(kind, _)| kind),
            Self::Family => match text {
                "ipv4" => Some(2),
                "ipv6" => Some(10),
                _ => symbols::number(text),
            },
            Self::EtherType => match text {
                "ip" => Some(0x0800),
                "ip6" => Some(0x86dd),
                "arp" => Some(0x0806),
                "vlan" | "8021q" => Some(0x8100),
                _ => symbols::number(text),
            },
            Self::AddressType => symbols::address_type(text),
            Self::PacketType => symbols::packet_type(text),
            Self::Dscp => symbols::dscp(text),
            Self::Number => symbols::number(text),
            Self::Guess => {
                return text.parse::<IpAddr>().ok().map(Value::Ip).or_else(|| {
                    let number = symbols::protocol(text).or_else(|| symbols::port(text));
                    Some(number.map_or_else(|| Value::text(text), Value::Number))
                });
            }
        };
        number.map(Value::Number)
    }

    /// Whether several names together stand for the bits of one operand.
    fn is_flags(self) -> bool {
        matches!(self, Self::ConnState | Self::ConnStatus | Self::TcpFlags)
    }
}

/// The error is what is not modelled.
type Read<T> = Result<T, String>;

fn unreadable<T>(json: &Json) -> Read<T> {
    Err(json.to_string())
}

/// One literal.
pub(super) fn value(json: &Json, kind: Kind) -> Read<Value> {
    match json {
        Json::Number(number) => match number.as_u64() {
            Some(number) => Ok(Value::Number(number)),
            None => unreadable(json),
        },
        Json::Bool(flag) => Ok(Value::Number(u64::from(*flag))),
        Json::String(text) => kind.read(text).map_or_else(|| unreadable(json), Ok),
        Json::Array(_) if kind.is_flags() => bits(json, kind).map(Value::Number),
        Json::Object(object) if kind.is_flags() && object.contains_key("|") => {
            bits(&object["|"], kind).map(Value::Number)
        }
        _ => unreadable(json),
    }
}

fn bits(json: &Json, kind: Kind) -> Read<u64> {
    let mut all = 0;
    for part in json.as_array().into_iter().flatten() {
        match value(part, kind)? {
            Value::Number(bit) => all |= bit,
            _ => return unreadable(json),
        }
    }
    Ok(all)
}

/// A literal, a prefix, a range, or a name with a trailing `*`.
pub(super) fn pattern(json: &Json, kind: Kind) -> Read<Pattern> {
    match json {
        Json::String(text) if text == "*" => return Ok(Pattern::Any),
        Json::String(text) if kind == Kind::Device => {
            if let Some(start) = text.strip_suffix('*') {
                return Ok(Pattern::StartsWith(start.to_owned()));
            }
        }
        Json::Object(object) => {
            if let Some(inner) = object.get("elem") {
                return pattern(inner.get("val").unwrap_or(inner), kind);
            }
            if let Some(prefix) = object.get("prefix") {
                return self::prefix(prefix);
            }
            if let Some([low, high]) = object.get("range").and_then(Json::as_array).map(Vec::as_slice) {
                return Ok(Pattern::Range(value(low, kind)?, value(high, kind)?));
            }
        }
        _ => {}
    }
    value(json, kind).map(Pattern::Is)
}

fn prefix(json: &Json) -> Read<Pattern> {
    let address = json.get("addr").and_then(Json::as_str).and_then(|text| text.parse::<IpAddr>().ok());
    let len = json.get("len").and_then(Json::as_u64).and_then(|len| u8::try_from(len).ok());
    match address.zip(len).and_then(|(address, len)| IpNet::new(address, len).ok()) {
        Some(net) => Ok(Pattern::net(net)),
        None => unreadable(json),
    }
}

/// The operands of a set's key: one, or those of a concatenation.
pub(super) fn key(json: &Json, kinds: &[Kind]) -> Read<Vec<Pattern>> {
    let inner = json.get("elem").and_then(|elem| elem.get("val")).unwrap_or(json);
    let kind = |at: usize| kinds.get(at).copied().unwrap_or(Kind::Guess);
    match inner.get("concat").and_then(Json::as_array) {
        Some(parts) => parts.iter().enumerate().map(|(at, part)| pattern(part, kind(at))).collect(),
        None => Ok(vec![pattern(inner, kind(0))?]),
    }
}

/// The same for literals alone.
pub(super) fn values(json: &Json, kinds: &[Kind]) -> Read<Vec<Value>> {
    let kind = |at: usize| kinds.get(at).copied().unwrap_or(Kind::Guess);
    match json.get("concat").and_then(Json::as_array) {
        Some(parts) => parts.iter().enumerate().map(|(at, part)| value(part, kind(at))).collect(),
        None => Ok(vec![value(json, kind(0))?]),
    }
}
