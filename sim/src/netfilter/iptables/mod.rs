//! `iptables-save` and `ip6tables-save`, of both back ends.
//!
//! * `rule`: one `-A` line, split by `options`
//! * `matches`: its matches
//! * `targets`: its target

mod matches;
mod options;
mod rule;
mod targets;

use std::collections::BTreeMap;

use waymark_proto::{Hook, IptablesDump, text};

use super::nft::Handles;
use super::rule::{Chain, ChainId, Verdict};
use super::ruleset::{BaseChain, ChainKind, Ruleset};

/// Priority, kind and hook of a built-in chain.
fn builtin(table: &str, chain: &str) -> Option<(Hook, i32, ChainKind)> {
    let hook = match chain {
        "PREROUTING" => Hook::NetfilterPrerouting,
        "INPUT" => Hook::NetfilterInput,
        "FORWARD" => Hook::NetfilterForward,
        "OUTPUT" => Hook::NetfilterOutput,
        "POSTROUTING" => Hook::NetfilterPostrouting,
        _ => return None,
    };
    let (priority, kind) = match table {
        "raw" => (-300, ChainKind::Filter),
        // Only the output chain of mangle routes again (ipt_mangle_out).
        "mangle" if hook == Hook::NetfilterOutput => (-150, ChainKind::Route),
        "mangle" => (-150, ChainKind::Filter),
        "nat" if matches!(hook, Hook::NetfilterInput | Hook::NetfilterPostrouting) => (100, ChainKind::Nat),
        "nat" => (-100, ChainKind::Nat),
        "filter" => (0, ChainKind::Filter),
        "security" => (50, ChainKind::Filter),
        _ => return None,
    };
    Some((hook, priority, kind))
}

/// A table while it is read.
#[derive(Default)]
struct Table {
    name: String,
    chains: BTreeMap<String, ChainId>,
}

/// Compiles one dump into a ruleset; gives the names of its tables.
pub(crate) fn compile(dump: &IptablesDump, handles: &Handles, ruleset: &mut Ruleset) -> Vec<String> {
    let family = if dump.ipv6 { "ip6" } else { "ip" };
    let mut tables: Vec<Table> = Vec::new();
    // Chains first: a rule may jump to a chain that is declared after it.
    for line in dump.text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table { name: name.to_owned(), chains: BTreeMap::new() });
        } else if let (Some(declared), Some(table)) = (line.strip_prefix(':'), tables.last_mut()) {
            declare(declared, family, dump.ipv6, table, ruleset);
        }
    }
    let mut current = tables.iter().peekable();
    let mut table: Option<&Table> = None;
    for line in dump.text.lines().map(str::trim) {
        if line.starts_with('*') {
            table = current.next();
        }
        let Some(table) = table else { continue };
        let line = uncounted(line);
        if let Some((chain, text)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
            append(table, chain.trim_matches('"'), text, line, dump.ipv6, family, handles, ruleset);
        } else if let Some(chain) = line.strip_prefix("-A ") {
            append(table, chain.trim_matches('"'), "", line, dump.ipv6, family, handles, ruleset);
        }
    }
    tables.into_iter().map(|table| table.name).collect()
}

/// A rule without the counters that `iptables-save -c` puts before it.
fn uncounted(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, rule)) => rule,
        None => line,
    }
}

fn declare(declared: &str, family: &str, ipv6: bool, table: &mut Table, ruleset: &mut Ruleset) {
    let mut words = declared.split_whitespace();
    let Some(name) = words.next() else { return };
    let policy = words.next().unwrap_or("-");
    let id = ruleset.add_chain(Chain::new(family, &table.name, name));
    table.chains.insert(name.to_owned(), id);
    let Some((hook, priority, kind)) = builtin(&table.name, name).filter(|_| policy != "-") else { return };
    let policy = match policy {
        "ACCEPT" => Verdict::Accept,
        "DROP" => Verdict::Drop,
        other => Verdict::Unknown(text!(model::Policy { policy: other })),
    };
    ruleset.add_base(BaseChain {
        chain: id,
        hook,
        kind,
        priority,
        policy,
        families: [!ipv6, ipv6],
        legacy: false,
        rank: 0,
    });
}

#[allow(clippy::too_many_arguments, reason = "one call site; each is a different part of the dump's context")]
fn append(
    table: &Table,
    chain: &str,
    text: &str,
    line: &str,
    ipv6: bool,
    family: &str,
    handles: &Handles,
    ruleset: &mut Ruleset,
) {
    let Some(&id) = table.chains.get(chain) else { return };
    ruleset.tracks[usize::from(ipv6)] |= rule::needs_connections(text);
    let position = ruleset.chains[id].rules.len();
    let key = (family.to_owned(), table.name.clone(), chain.to_owned());
    let handle = handles.get(&key).and_then(|handles| handles.get(position)).copied();
    let rule = rule::compile(text, line, ipv6, &table.chains, handle, position as u32 + 1);
    ruleset.chains[id].rules.push(rule);
}
