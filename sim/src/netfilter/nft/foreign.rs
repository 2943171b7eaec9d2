//! Base chains of hooks that the walk does not run: those of bridges and of single devices. What they may
//! do is told where the packet passes them.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use waymark_proto::{Text, text};

use super::super::rule::{Chain, ChainId, Rule};
use super::super::ruleset::Ruleset;
use super::{Names, text};

/// A base chain that is not run, and might do something to a packet.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    family: String,
    hook: String,
    /// The devices that it is attached to; none if the dump does not tell (nft before 1.0.7).
    devices: Vec<String>,
    /// Its table and name.
    name: String,
}

impl Foreign {
    /// A remark, if it is at a hook of bridges.
    pub(crate) fn at_bridge(&self, hooks: &[&str]) -> Option<Text> {
        (self.family == "bridge" && hooks.contains(&self.hook.as_str())).then(|| self.remark())
    }

    /// A remark, if it is at the `ingress` or `egress` hook of a device.
    pub(crate) fn at_device(&self, hook: &str, device: &str) -> Option<Text> {
        let attached = self.devices.is_empty() || self.devices.iter().any(|name| name == device);
        (self.family != "bridge" && self.hook == hook && attached).then(|| self.remark())
    }

    fn remark(&self) -> Text {
        text!(model::ForeignChain { family: &self.family, chain: &self.name, hook: &self.hook })
    }
}

/// The chains of a dump that are not run, without those that plainly let everything pass.
pub(super) fn read(objects: &[(&str, &Json)]) -> Vec<Foreign> {
    let of = |wanted: &'static str, key: &'static str| {
        let objects = objects.iter().filter(move |(kind, _)| *kind == wanted);
        objects.filter_map(move |(_, body)| Some((Names::of(body, key)?, *body)))
    };
    let mut found = Vec::new();
    for (names, chain) in of("chain", "name") {
        let Some(hook) = chain.get("hook").and_then(Json::as_str) else { continue };
        // Family inet has an ingress hook, too.
        let foreign =
            matches!(names.family.as_str(), "bridge" | "netdev") || matches!(hook, "ingress" | "egress");
        let mut rules = of("rule", "chain").filter(|(at, _)| *at == names);
        let drops = chain.get("policy").and_then(Json::as_str) == Some("drop");
        if foreign && (drops || !rules.all(|(_, rule)| is_harmless(rule))) {
            found.push(Foreign {
                hook: hook.to_owned(),
                devices: devices(chain),
                name: format!("{} {}", names.table, names.name),
                family: names.family,
            });
        }
    }
    found
}

/// Adds the chains of families that are not run: nothing leads there, but traces name their rules.
pub(super) fn name_rules(objects: &[(&str, &Json)], ruleset: &mut Ruleset) {
    let mut known: BTreeMap<Names, ChainId> = BTreeMap::new();
    for (_, rule) in objects.iter().filter(|(kind, _)| *kind == "rule") {
        let names = Names::of(rule, "chain").filter(|at| matches!(at.family.as_str(), "bridge" | "netdev"));
        let Some(names) = names else { continue };
        let Names { family, table, name } = names.clone();
        let new = || ruleset.add_chain(Chain::new(&family, &table, &name));
        let id = *known.entry(names).or_insert_with(new);
        let handle = rule.get("handle").and_then(Json::as_u64);
        let position = ruleset.chains[id].rules.len() as u32 + 1;
        ruleset.chains[id].rules.push(Rule::new(handle, Some(position), text::rule(rule), Vec::new()));
    }
}

/// The devices of a chain: `dev`, one or a list.
fn devices(chain: &Json) -> Vec<String> {
    match chain.get("dev") {
        Some(Json::String(name)) => vec![name.clone()],
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Whether a rule can be seen to let packets be, whatever it matches.
fn is_harmless(rule: &Json) -> bool {
    let statements = rule.get("expr").and_then(Json::as_array);
    let name = |statement: &Json| statement.as_object().and_then(|object| object.keys().next().cloned());
    statements.is_some_and(|list| {
        list.iter().all(|statement| {
            matches!(
                name(statement).as_deref(),
                Some("match" | "counter" | "last" | "log" | "limit" | "accept" | "return" | "continue")
            )
        })
    })
}
