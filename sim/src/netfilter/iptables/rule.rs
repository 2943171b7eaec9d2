//! One `-A` line.

use std::collections::BTreeMap;

use waymark_proto::text;

use super::super::rule::{ChainId, Rule, Statement, Test};
use super::options::{self, Opt};
use super::{matches, targets};

/// Compiles a rule. `text` is what follows the chain's name in `line`.
pub(super) fn compile(
    text: &str,
    line: &str,
    ipv6: bool,
    chains: &BTreeMap<String, ChainId>,
    handle: Option<u64>,
    position: u32,
) -> Rule {
    let statements = match options::split(text) {
        Some(options) => statements(&options, ipv6, chains),
        None => vec![Statement::Unknown(text!(model::OpenQuotes))],
    };
    Rule::new(handle, Some(position), line.to_owned(), statements)
}

/// Whether the kernel tracks connections because of a rule: all that calls `nf_ct_netns_get` when it is loaded.
pub(super) fn needs_connections(text: &str) -> bool {
    let options = options::split(text).unwrap_or_default();
    let asks = |opt: &Opt| match (opt.name.as_str(), opt.arg()) {
        ("-m" | "--match", module) => matches!(
            module,
            "conntrack"
                | "state"
                | "connmark"
                | "connbytes"
                | "connlimit"
                | "connlabel"
                | "helper"
                | "cluster"
        ),
        ("-j" | "--jump", target) => matches!(
            target,
            "DNAT" | "SNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP" | "CONNMARK" | "CONNSECMARK" | "SYNPROXY"
        ),
        _ => false,
    };
    // A template for a connection, unless it is there to have none.
    let template =
        options.iter().any(|opt| opt.arg() == "CT") && !options.iter().any(|opt| opt.name == "--notrack");
    template || options.iter().any(asks)
}

fn statements(options: &[Opt], ipv6: bool, chains: &BTreeMap<String, ChainId>) -> Vec<Statement> {
    let target =
        options.iter().position(|opt| matches!(opt.name.as_str(), "-j" | "-g" | "--jump" | "--goto"));
    let (before, rest) = options.split_at(target.unwrap_or(options.len()));
    let mut statements = matches::compile(before, ipv6);
    if let [jump, arguments @ ..] = rest {
        if arguments.iter().any(|opt| opt.name == "-m") {
            statements.push(Statement::Test(Test::Unknown(text!(model::MatchAfterTarget))));
        }
        statements.extend(targets::compile(jump, arguments, chains));
    }
    statements
}
