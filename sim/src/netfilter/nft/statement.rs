//! Statements of nft's JSON: what a rule does.

use serde_json::Value as Json;
use waymark_proto::{Text, text};

use super::super::rule::{Expr, Lookup, Nat, NatKind, Op, Statement, Test, Verdict};
use super::super::value::{Elements, Pattern};
use super::constant::{self, Kind};
use super::{Within, expression};

/// Compiles a rule's `expr` list.
pub(super) fn compile(list: Option<&Json>, within: &Within<'_>) -> Vec<Statement> {
    let Some(list) = list.and_then(Json::as_array) else {
        return vec![Statement::Unknown(text!(model::EmptyRule))];
    };
    list.iter().filter_map(|json| one(json, within)).collect()
}

fn one(json: &Json, within: &Within<'_>) -> Option<Statement> {
    let unknown = || Some(Statement::Unknown(not_modelled(json)));
    let Some((name, body)) = json.as_object().and_then(|object| object.iter().next()) else {
        return unknown();
    };
    match name.as_str() {
        "match" => Some(Statement::Test(compare(body, within))),
        "vmap" => Some(vmap(body, within)),
        "accept" | "drop" | "continue" | "return" | "jump" | "goto" => {
            Some(Statement::Verdict(verdict(json, within)))
        }
        "reject" => Some(Statement::Verdict(Verdict::Reject)),
        "mangle" => mangle(body, within),
        "dnat" => Some(nat(NatKind::Destination, body, within)),
        "snat" => Some(nat(NatKind::Source, body, within)),
        "masquerade" => Some(nat(NatKind::Masquerade, body, within)),
        "redirect" => Some(nat(NatKind::Redirect, body, within)),
        "notrack" => Some(Statement::Notrack),
        // A single packet stays below any rate that lets something through.
        "limit" if body.get("inv").and_then(Json::as_bool) == Some(true) => {
            Some(Statement::Test(Test::field(super::super::rule::Field::Family, Vec::new(), false)))
        }
        "limit" => Some(Statement::Note(text!(model::WithinRulesLimit))),
        // These leave the packet's way as it is.
        "set" | "map" => dynamic(json, body, within),
        "counter" | "log" | "comment" | "dup" | "ct timeout" | "ct helper" | "secmark" | "flow" | "last" => {
            None
        }
        // Quotas, NFQUEUE, synproxy, tproxy, xt, …
        _ => unknown(),
    }
}

/// `add` and `update` of a set or map: the elements of a set do not matter to the packet that adds them, but
/// statements within run for it, once per element.
fn dynamic(json: &Json, body: &Json, within: &Within<'_>) -> Option<Statement> {
    let nested = body
        .get("stmt")
        .map_or(&[][..], |list| list.as_array().map_or(std::slice::from_ref(list), Vec::as_slice));
    let mut limit = None;
    for inner in nested {
        let name = inner.as_object().and_then(|object| object.keys().next()).map(String::as_str);
        match name {
            Some("counter" | "last") => {}
            // Its rate is that of the element alone.
            Some("limit") => limit = limit.or(one(inner, within)),
            _ => return Some(Statement::Unknown(not_modelled(json))),
        }
    }
    limit
}

fn not_modelled(json: &Json) -> Text {
    text!(model::NotModelled { what: json.to_string() })
}

fn operator(name: &str) -> Option<Op> {
    Some(match name {
        "==" => Op::Equal,
        "!=" => Op::NotEqual,
        "<" => Op::Less,
        "<=" => Op::LessEqual,
        ">" => Op::Greater,
        ">=" => Op::GreaterEqual,
        "in" => Op::Any,
        _ => return None,
    })
}

fn compare(body: &Json, within: &Within<'_>) -> Test {
    let op = body.get("op").and_then(Json::as_str).and_then(operator);
    let (Some(op), Some(left), Some(right)) = (op, body.get("left"), body.get("right")) else {
        return Test::Unknown(not_modelled(body));
    };
    let (left, kinds) = expression::compile(left, Kind::Guess, within);
    let right = elements(right, &kinds, within);
    Test::Compare { left, op, right }
}

/// The right-hand side of a comparison: a named set, a set in place, or one pattern.
fn elements(json: &Json, kinds: &[Kind], within: &Within<'_>) -> Lookup<()> {
    if let Some(name) = json.as_str().and_then(|text| text.strip_prefix('@')) {
        return match within.set(name) {
            Some(index) => Lookup::Named(index, name.to_owned()),
            None => Lookup::Unknown(text!(model::SetAbsent { name })),
        };
    }
    let mut elements = Elements::new();
    let list: Vec<&Json> = match json.get("set").and_then(Json::as_array) {
        Some(list) => list.iter().collect(),
        None => vec![json],
    };
    for element in list {
        match constant::key(element, kinds) {
            Ok(key) => elements.insert(key, ()),
            Err(what) => return Lookup::Unknown(text!(model::NotModelled { what })),
        }
    }
    Lookup::Inline(elements)
}

/// A map's entry: `[key, data]`.
pub(super) fn pair<'a>(json: &'a Json, kinds: &[Kind]) -> Option<(Vec<Pattern>, &'a Json)> {
    match json.as_array()?.as_slice() {
        [key, data] => Some((constant::key(key, kinds).ok()?, data)),
        _ => None,
    }
}

fn vmap(body: &Json, within: &Within<'_>) -> Statement {
    let (Some(key), Some(data)) = (body.get("key"), body.get("data")) else {
        return Statement::Unknown(not_modelled(body));
    };
    let (key, kinds) = expression::compile(key, Kind::Guess, within);
    if let Some(name) = data.as_str().and_then(|text| text.strip_prefix('@')) {
        let map = match within.vmap(name) {
            Some(index) => Lookup::Named(index, name.to_owned()),
            None => Lookup::Unknown(text!(model::MapAbsent { name })),
        };
        return Statement::Vmap { key, map };
    }
    let mut elements = Elements::new();
    for entry in data.get("set").and_then(Json::as_array).into_iter().flatten() {
        match pair(entry, &kinds) {
            Some((pattern, data)) => elements.insert(pattern, verdict(data, within)),
            None => return Statement::Unknown(text!(model::MapElement { element: entry.to_string() })),
        }
    }
    Statement::Vmap { key, map: Lookup::Inline(elements) }
}

/// A verdict: `{"accept": null}`, `{"jump": {"target": "x"}}`, …
pub(super) fn verdict(json: &Json, within: &Within<'_>) -> Verdict {
    let unknown = || Verdict::Unknown(not_modelled(json));
    let Some((name, body)) = json.as_object().and_then(|object| object.iter().next()) else {
        return unknown();
    };
    let target = body.get("target").and_then(Json::as_str);
    let chain = |make: fn(usize) -> Verdict| match target {
        Some(name) => {
            within.chain(name).map_or_else(|| Verdict::Unknown(text!(model::ChainAbsent { name })), make)
        }
        None => unknown(),
    };
    match name.as_str() {
        "accept" => Verdict::Accept,
        "drop" => Verdict::Drop,
        "return" => Verdict::Return,
        "continue" => Verdict::Continue,
        "jump" => chain(Verdict::Jump),
        "goto" => chain(Verdict::Goto),
        _ => unknown(),
    }
}

fn mangle(body: &Json, within: &Within<'_>) -> Option<Statement> {
    let (Some(key), Some(value)) = (body.get("key"), body.get("value")) else {
        return Some(Statement::Unknown(not_modelled(body)));
    };
    let name = |of: &str| key.get(of).and_then(|body| body.get("key")).and_then(Json::as_str);
    let payload = |of: &str| key.get("payload").and_then(|body| body.get(of)).and_then(Json::as_str);
    match (payload("protocol"), payload("field")) {
        (Some(protocol @ ("ip" | "ip6")), Some("dscp")) => {
            let value = expression::compile(value, Kind::Dscp, within).0;
            return Some(Statement::SetDscp(Some(protocol == "ip6"), value));
        }
        (Some(protocol @ "ip"), Some("ttl")) | (Some(protocol @ "ip6"), Some("hoplimit")) => {
            let value = expression::compile(value, Kind::Number, within).0;
            return Some(Statement::SetTtl(Some(protocol == "ip6"), value));
        }
        _ => {}
    }
    let (value, _) = expression::compile(value, Kind::Number, within);
    match (name("meta"), name("ct")) {
        (Some("mark"), _) => Some(Statement::SetMark(value)),
        (_, Some("mark")) => Some(Statement::SetConnMark(value)),
        // No hook of this walk looks at these.
        (Some("nftrace" | "priority" | "secmark"), _)
        | (_, Some("helper" | "label" | "event" | "secmark")) => None,
        _ => Some(Statement::Unknown(text!(model::Setting { key: key.to_string() }))),
    }
}

fn nat(kind: NatKind, body: &Json, within: &Within<'_>) -> Statement {
    let operand = |key: &str, kind: Kind| -> Option<Expr> {
        body.get(key).map(|json| expression::compile(json, kind, within).0)
    };
    Statement::Nat(Nat { kind, address: operand("addr", Kind::Address), port: operand("port", Kind::Port) })
}
