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
