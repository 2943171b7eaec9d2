//! `nft -j list ruleset`.
//!
//! * [`constant`]: literals, prefixes, ranges
//! * [`expression`]: what is read of a packet
//! * [`statement`]: what a rule does
//! * [`foreign`]: chains of hooks that the walk does not run
//! * [`text`]: a rule as `nft list ruleset` prints it

mod constant;
mod expression;
mod foreign;
mod statement;
mod text;

use std::collections::BTreeMap;

use serde_json::Value as Json;
use waymark_proto::Hook;

use super::rule::{Chain, ChainId, Rule, Verdict};
use super::ruleset::{BaseChain, ChainKind, Ruleset};
use super::value::Elements;
use constant::Kind;
pub(crate) use foreign::Foreign;

/// Rule handles by family, table and chain, in the chain's order.
pub(crate) type Handles = BTreeMap<(String, String, String), Vec<u64>>;

/// The objects of a dump: `("rule", {…})`.
pub(crate) fn objects(dump: &Json) -> Vec<(&str, &Json)> {
    let list = dump.get("nftables").unwrap_or(dump).as_array();
    let objects = list.into_iter().flatten().filter_map(|object| object.as_object()?.iter().next());
    objects.map(|(kind, body)| (kind.as_str(), body)).collect()
}

/// The rule handles of a dump.
pub(crate) fn handles(objects: &[(&str, &Json)]) -> Handles {
    let mut handles = Handles::new();
    for (_, rule) in objects.iter().filter(|(kind, _)| *kind == "rule") {
        if let (Some(at), Some(handle)) =
            (Names::of(rule, "chain"), rule.get("handle").and_then(Json::as_u64))
        {
            handles.entry((at.family, at.table, at.name)).or_default().push(handle);
        }
    }
    handles
}

/// The places of chains in a dump, by family, table and name.
pub(crate) fn chain_order<'a>(objects: &[(&str, &'a Json)]) -> BTreeMap<(&'a str, &'a str, &'a str), usize> {
    let chains = objects.iter().filter(|(kind, _)| *kind == "chain").enumerate();
    let named = chains.filter_map(|(position, (_, body))| {
        let text = |key: &str| body.get(key).and_then(Json::as_str);
        Some(((text("family")?, text("table")?, text("name")?), position))
    });
    named.collect()
}

/// Family, table and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Names {
    family: String,
    table: String,
    name: String,
}

impl Names {
    fn of(object: &Json, name: &str) -> Option<Self> {
        let text = |key: &str| object.get(key).and_then(Json::as_str).map(str::to_owned);
        Some(Self { family: text("family")?, table: text("table")?, name: text(name)? })
    }
}

/// What rules of one table may refer to, while the dump is compiled.
#[derive(Default)]
struct Scope {
    chains: BTreeMap<Names, ChainId>,
    sets: BTreeMap<Names, usize>,
    maps: BTreeMap<Names, usize>,
    vmaps: BTreeMap<Names, usize>,
}

/// The scope as seen from within one table.
struct Within<'a> {
    scope: &'a Scope,
    family: &'a str,
    table: &'a str,
}

impl Within<'_> {
    fn find(&self, kind: &BTreeMap<Names, usize>, name: &str) -> Option<usize> {
        let names =
            Names { family: self.family.to_owned(), table: self.table.to_owned(), name: name.to_owned() };
        kind.get(&names).copied()
    }

    fn chain(&self, name: &str) -> Option<ChainId> {
        self.find(&self.scope.chains, name)
    }

    fn set(&self, name: &str) -> Option<usize> {
        self.find(&self.scope.sets, name)
    }

    fn map(&self, name: &str) -> Option<usize> {
        self.find(&self.scope.maps, name)
    }

    fn vmap(&self, name: &str) -> Option<usize> {
        self.find(&self.scope.vmaps, name)
    }

    /// The family that addresses of untyped expressions have, where the table fixes it.
    fn ipv6(&self) -> Option<bool> {
        match self.family {
            "ip" => Some(false),
            "ip6" => Some(true),
            _ => None,
        }
    }
}

/// Compiles the native tables of a dump into a ruleset, leaving out those that iptables owns.
pub(crate) fn compile(objects: &[(&str, &Json)], taken: &[(String, String)], ruleset: &mut Ruleset) {
    let ours = |names: &Names| {
        matches!(names.family.as_str(), "ip" | "ip6" | "inet")
            && !taken.iter().any(|(family, table)| *family == names.family && *table == names.table)
    };
    let named = |wanted: &'static str, key: &'static str| {
        objects
            .iter()
            .filter(move |(kind, _)| *kind == wanted)
            .filter_map(move |(_, body)| Some((Names::of(body, key)?, *body)))
            .filter(|(names, _)| ours(names))
    };
    ruleset.foreign = foreign::read(objects);
    foreign::name_rules(objects, ruleset);
    let mut scope = Scope::default();
    for (names, body) in named("chain", "name") {
        let id = chain(&names, body, ruleset);
        scope.chains.insert(names, id);
    }
    for (names, body) in named("set", "name") {
        ruleset.sets.push(set_elements(body));
        scope.sets.insert(names, ruleset.sets.len() - 1);
    }
    for (names, body) in named("map", "name") {
        let within = Within { scope: &scope, family: &names.family, table: &names.table };
        if body.get("map").and_then(Json::as_str) == Some("verdict") {
            let elements = verdict_elements(body, &within);
            ruleset.vmaps.push(elements);
            let index = ruleset.vmaps.len() - 1;
            scope.vmaps.insert(names, index);
        } else {
            ruleset.maps.push(map_elements(body));
            scope.maps.insert(names, ruleset.maps.len() - 1);
        }
    }
    for (names, body) in named("rule", "chain") {
        let Some(&id) = scope.chains.get(&names) else { continue };
        let within = Within { scope: &scope, family: &names.family, table: &names.table };
        if body.get("expr").is_some_and(needs_connections) {
            let families = [names.family != "ip6", names.family != "ip"];
            ruleset.tracks.iter_mut().zip(families).for_each(|(tracks, here)| *tracks |= here);
        }
        let statements = statement::compile(body.get("expr"), &within);
        let handle = body.get("handle").and_then(Json::as_u64);
        let position = ruleset.chains[id].rules.len() as u32 + 1;
        ruleset.chains[id].rules.push(Rule::new(handle, Some(position), text::rule(body), statements));
    }
}

fn chain(names: &Names, body: &Json, ruleset: &mut Ruleset) -> ChainId {
    let text = |key: &str| body.get(key).and_then(Json::as_str);
    let id = ruleset.add_chain(Chain::new(&names.family, &names.table, &names.name));
    let hook = match text("hook") {
        Some("prerouting") => Hook::NetfilterPrerouting,
        Some("input") => Hook::NetfilterInput,
        Some("forward") => Hook::NetfilterForward,
        Some("output") => Hook::NetfilterOutput,
        Some("postrouting") => Hook::NetfilterPostrouting,
        // Hooks of devices: see `foreign`.
        _ => return id,
    };
    let kind = match text("type") {
        Some("nat") => ChainKind::Nat,
        Some("route") => ChainKind::Route,
        _ => ChainKind::Filter,
    };
    let policy = match text("policy") {
        Some("drop") => Verdict::Drop,
        _ => Verdict::Accept,
    };
    let priority = body.get("prio").and_then(Json::as_i64).unwrap_or_default();
    let priority = i32::try_from(priority).unwrap_or_default();
    let families = [names.family != "ip6", names.family != "ip"];
    ruleset.add_base(BaseChain { chain: id, hook, kind, priority, policy, families, legacy: false, rank: 0 });
    id
}

/// Whether the kernel tracks connections because of a rule: all that calls `nf_ct_netns_get` when it is loaded.
fn needs_connections(expr: &Json) -> bool {
    match expr {
        Json::Array(list) => list.iter().any(needs_connections),
        Json::Object(object) => object.iter().any(|(name, body)| {
            matches!(name.as_str(), "ct" | "dnat" | "snat" | "masquerade" | "redirect" | "flow" | "synproxy")
                || name.starts_with("ct ")
                || needs_connections(body)
        }),
        _ => false,
    }
}

/// The kinds of a set's key: its `type`, a name or a list of names.
fn key_kinds(body: &Json) -> Vec<Kind> {
    match body.get("type") {
        Some(Json::String(name)) => vec![Kind::named(name)],
        Some(Json::Array(names)) => {
            names.iter().map(|name| Kind::named(name.as_str().unwrap_or_default())).collect()
        }
        // `typeof` of newer versions: guess each constant by its looks.
        _ => Vec::new(),
    }
}

fn listed(body: &Json) -> impl Iterator<Item = &Json> {
    body.get("elem").and_then(Json::as_array).into_iter().flatten()
}

fn set_elements(body: &Json) -> Elements<()> {
    let kinds = key_kinds(body);
    let mut elements = Elements::new();
    for element in listed(body) {
        match constant::key(element, &kinds) {
            Ok(key) => elements.insert(key, ()),
            Err(why) => elements.note_unread(why),
        }
    }
    elements
}

fn verdict_elements(body: &Json, within: &Within<'_>) -> Elements<Verdict> {
    let kinds = key_kinds(body);
    let mut elements = Elements::new();
    for pair in listed(body) {
        match statement::pair(pair, &kinds) {
            Some((key, data)) => elements.insert(key, statement::verdict(data, within)),
            None => elements.note_unread(pair.to_string()),
        }
    }
    elements
}

fn map_elements(body: &Json) -> Elements<Vec<super::value::Value>> {
    let kinds = key_kinds(body);
    let mut elements = Elements::new();
    for pair in listed(body) {
        let read = statement::pair(pair, &kinds);
        match read.and_then(|(key, data)| Some((key, constant::values(data, &[]).ok()?))) {
            Some((key, values)) => elements.insert(key, values),
            None => elements.note_unread(pair.to_string()),
        }
    }
    elements
}
