//! A packet in the chains of one hook: an interpreter of rules that branches where chance decides.

use smallvec::SmallVec;
use waymark_proto::{Choice, ChoiceKind, RuleRef, Text, text};

use super::nat;
use super::read::{self, Context, Reading, Stop};
use super::rule::{Chain, ChainId, Rule, Statement, Test, Verdict};
use super::ruleset::BaseChain;
use crate::conntrack::Tracking;
use crate::packet::Packet;

/// How deep chains may call one another; the kernel's own limit is 16 for nft.
const MAX_DEPTH: usize = 64;
/// Statements after which a run is given up: rulesets of 10,000 Services have some 100,000 rules.
const MAX_STATEMENTS: usize = 1_000_000;
/// Branches after which a run is given up.
const MAX_RUNS: usize = 1024;

/// Where in a chain a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    chain: ChainId,
    rule: usize,
    statement: usize,
}

/// One branch of a packet's way through a hook.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) packet: Packet,
    /// How likely it is among the branches of this hook.
    pub(crate) probability: f64,
    /// Where chance sent it: the new destination of a translation.
    pub(crate) backend: Option<String>,
    pub(crate) notes: Vec<Text>,
    /// The rule that translated it.
    pub(crate) translated_by: Option<RuleRef>,
    /// Whether a Service without endpoints was looked up (a map of kube-proxy's nftables mode).
    pub(crate) without_endpoints: bool,
    /// Rules that chance decided for or against, until a translation says it better.
    pub(crate) chances: Vec<Choice>,
    /// The rules that it matched, in order, if somebody wants to know.
    pub(crate) matched: Vec<RuleRef>,
    frames: Vec<Frame>,
}

impl Run {
    pub(crate) fn new(packet: Packet) -> Self {
        Self {
            packet,
            probability: 1.0,
            backend: None,
            notes: Vec::new(),
            translated_by: None,
            without_endpoints: false,
            chances: Vec::new(),
            matched: Vec::new(),
            frames: Vec::new(),
        }
    }
}

impl Run {
    /// Whether a chain did no more to it than to mark the packet.
    pub(crate) fn is_plain(&self) -> bool {
        let translated = self.backend.is_some() || self.translated_by.is_some();
        self.chances.is_empty() && !translated && !self.without_endpoints
    }
}

/// How a chain ended for a packet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Accept,
    Drop(RuleRef),
    Reject(RuleRef),
    /// Not known; why.
    Unknown(Option<RuleRef>, Text),
}

/// A branch, and how it ended if it did.
type Branch = (Box<Run>, Option<End>);

/// What a statement did.
enum Next {
    /// On to the next statement, rule or chain.
    On,
    End(End),
    /// It depends on chance: the runs that are there now.
    Branches(Vec<Branch>),
}

/// Runs one base chain.
pub(crate) fn chain(at: Context<'_>, base: &BaseChain, mut run: Box<Run>) -> SmallVec<[(Box<Run>, End); 1]> {
    run.frames.clear();
    run.frames.push(Frame { chain: base.chain, rule: 0, statement: 0 });
    let mut ended = SmallVec::new();
    // Where chance decides, the others wait.
    let mut waiting: Vec<Box<Run>> = Vec::new();
    let mut statements = 0;
    loop {
        statements += 1;
        let next = if statements > MAX_STATEMENTS || waiting.len() + ended.len() > MAX_RUNS {
            Next::End(End::Unknown(None, text!(model::TooManyRules)))
        } else {
            statement(at, base, &mut run)
        };
        match next {
            Next::On => continue,
            Next::End(end) => ended.push((run, end)),
            Next::Branches(branches) => {
                for (run, end) in branches {
                    match end {
                        None => waiting.push(run),
                        Some(end) => ended.push((run, end)),
                    }
                }
            }
        }
        match waiting.pop() {
            Some(next) => run = next,
            None => return ended,
        }
    }
}

/// Runs the next statement of a rule that the packet may match.
fn statement(at: Context<'_>, base: &BaseChain, run: &mut Run) -> Next {
    let chains = &at.namespace.ruleset.chains;
    let Some(top) = run.frames.last_mut() else { return Next::End(policy(base, chains)) };
    let Some(chain) = chains.get(top.chain) else {
        return Next::End(End::Unknown(None, text!(model::SomeChainAbsent)));
    };
    if top.statement == 0 {
        let reading = Reading { at, packet: &run.packet, random: None };
        top.rule = chain.next(top.rule, |field| reading.known(field));
    }
    let Some(rule) = chain.rules.get(top.rule) else {
        // Its end: back to where it was called from.
        run.frames.pop();
        return Next::On;
    };
    let Some(statement) = rule.statements.get(top.statement) else {
        next_rule(run);
        if !rule.statements.is_empty() {
            note_match(at, run, || chain.rule_ref(rule));
        }
        return Next::On;
    };
    top.statement += 1;
    if let Statement::Test(Test::Random(probability)) = statement {
        return Next::Branches(by_chance(run, *probability, chain, rule));
    }
    match execute(at, chain, rule, statement, run, None) {
        Ok(None) => Next::On,
        Ok(Some(end)) => Next::End(end),
        Err(modulus) => match u32::try_from(modulus) {
            Ok(modulus) if modulus as usize <= MAX_RUNS => {
                Next::Branches(by_number(at, chain, rule, statement, run, modulus))
            }
            _ => {
                let why = text!(model::TooManyOutcomes { modulus });
                Next::End(End::Unknown(Some(chain.rule_ref(rule)), why))
            }
        },
    }
}

/// Notes that the packet matched a rule (`nft_trace_packet`, `trace_packet` of `ip_tables`).
fn note_match(at: Context<'_>, run: &mut Run, rule: impl Fn() -> RuleRef) {
    if at.tells_matches {
        run.matched.push(rule());
    }
}

fn next_rule(run: &mut Run) {
    if let Some(top) = run.frames.last_mut() {
        top.rule += 1;
        top.statement = 0;
    }
}

fn policy(base: &BaseChain, chains: &[Chain]) -> End {
    let rule = chains.get(base.chain).map(Chain::policy_ref);
    match (&base.policy, rule) {
        (Verdict::Accept, _) => End::Accept,
        (Verdict::Drop, Some(rule)) => End::Drop(rule),
        (policy, rule) => End::Unknown(rule, text!(model::AsPolicy { verdict: format!("{policy:?}") })),
    }
}

/// Branches: the rule matches, or it does not.
fn by_chance(run: &Run, probability: f64, chain: &Chain, rule: &Rule) -> Vec<Branch> {
    let mut branches = Vec::new();
    let name = chain.rule_ref(rule);
    for (matches, share) in [(true, probability), (false, 1.0 - probability)] {
        if share <= 0.0 {
            continue;
        }
        let mut branch = Box::new(run.clone());
        branch.probability *= share;
        if share < 1.0 {
            let verb = if matches { "matches" } else { "does not match" };
            let position = name.position.map(|n| format!(" rule {n}")).unwrap_or_default();
            let taken = format!("{} {}{position} {verb}", name.table, name.chain);
            branch.chances.push(Choice { kind: ChoiceKind::Rule, taken, probability: share });
        }
        if !matches {
            next_rule(&mut branch);
        }
        branches.push((branch, None));
    }
    branches
}

/// Branches: one per outcome of a random number; outcomes that lead to the same are one.
fn by_number(
    at: Context<'_>,
    chain: &Chain,
    rule: &Rule,
    statement: &Statement,
    asked: &Run,
    modulus: u32,
) -> Vec<Branch> {
    let mut branches: Vec<Branch> = Vec::new();
    for number in 0..u64::from(modulus) {
        let mut branch = Box::new(asked.clone());
        branch.probability /= f64::from(modulus);
        let taken = format!("{} {} outcome {number} of {modulus}", chain.table, chain.name);
        let probability = 1.0 / f64::from(modulus);
        branch.chances.push(Choice { kind: ChoiceKind::Rule, taken, probability });
        let Ok(end) = execute(at, chain, rule, statement, &mut branch, Some(number)) else { continue };
        let twin = branches.iter_mut().find(|(twin, other)| {
            *other == end
                && twin.frames == branch.frames
                && twin.packet == branch.packet
                && twin.backend == branch.backend
        });
        match twin {
            Some((twin, _)) => twin.probability += branch.probability,
            None => branches.push((branch, end)),
        }
    }
    branches
}

/// Executes a statement; tells how the chain ended if it did. The error asks for a random number below so much, and leaves
/// the run as it was.
fn execute(
    at: Context<'_>,
    chain: &Chain,
    rule: &Rule,
    statement: &Statement,
    run: &mut Run,
    random: Option<u64>,
) -> Result<Option<End>, u64> {
    let rule_ref = || chain.rule_ref(rule);
    match effect(at, rule_ref, statement, run, random) {
        Ok(end) => Ok(end),
        Err(Stop::Random(modulus)) if random.is_none() => Err(modulus),
        Err(Stop::Random(_)) => Ok(Some(End::Unknown(Some(rule_ref()), text!(model::TwoRandomNumbers)))),
        Err(Stop::Break) => {
            next_rule(run);
            Ok(None)
        }
        Err(Stop::Unknown(why)) => Ok(Some(End::Unknown(Some(rule_ref()), why))),
    }
}

/// What a statement does to a packet.
fn effect(
    at: Context<'_>,
    rule: impl Fn() -> RuleRef,
    statement: &Statement,
    run: &mut Run,
    random: Option<u64>,
) -> Result<Option<End>, Stop> {
    let reading = Reading { at, packet: &run.packet, random };
    match statement {
        Statement::IfTracked(inner) => {
            if matches!(run.packet.tracking, Tracking::Tracked { .. }) {
                return effect(at, rule, inner, run, random);
            }
        }
        Statement::Test(test) => {
            if !reading.test(test)? {
                return Err(Stop::Break);
            }
        }
        Statement::SetMark(value) => run.packet.mark = reading.number(value)? as u32,
        Statement::SetConnMark(value) => {
            let mark = reading.number(value)? as u32;
            if let Tracking::Tracked { connection, .. } = &mut run.packet.tracking {
                connection.mark = mark;
            }
        }
        Statement::SetDscp(Some(family), _) | Statement::SetTtl(Some(family), _)
            if *family != run.packet.flow.is_ipv6() =>
        {
            return Err(Stop::Break);
        }
        Statement::SetDscp(_, value) => run.packet.dscp = (reading.number(value)? & 0x3f) as u8,
        Statement::SetTtl(_, value) => run.packet.ttl = (reading.number(value)? & 0xff) as u8,
        Statement::AddTtl(more) => {
            let ttl = i16::from(run.packet.ttl).saturating_add(*more).clamp(0, 255);
            run.packet.ttl = u8::try_from(ttl).unwrap_or_default();
        }
        Statement::Verdict(verdict) => return Ok(self::verdict(at, verdict, run, rule)),
        Statement::Vmap { key, map } => {
            let key = reading.expr(key)?;
            let maps = &at.namespace.ruleset.vmaps;
            // A miss ends the rule (nft_lookup_eval).
            let verdict = read::find(read::lookup(map, maps)?, &key)?.ok_or(Stop::Break)?;
            run.without_endpoints |=
                matches!(map, super::rule::Lookup::Named(_, name) if name.starts_with("no-endpoint"));
            return Ok(self::verdict(at, verdict, run, rule));
        }
        Statement::Nat(nat) => {
            nat::translation(&reading, nat)?.settle(run, rule());
            note_match(at, run, rule);
            return Ok(Some(End::Accept));
        }
        Statement::Notrack => {
            if run.packet.tracking == Tracking::None {
                run.packet.tracking = Tracking::Untracked;
            }
        }
        Statement::Note(note) => run.notes.push(note.clone()),
        Statement::Unknown(why) => return Err(Stop::Unknown(why.clone())),
    }
    Ok(None)
}

fn verdict(at: Context<'_>, verdict: &Verdict, run: &mut Run, rule: impl Fn() -> RuleRef) -> Option<End> {
    if *verdict != Verdict::Continue {
        note_match(at, run, &rule);
    }
    match verdict {
        Verdict::Accept => Some(End::Accept),
        Verdict::Drop => Some(End::Drop(rule())),
        Verdict::Reject => Some(End::Reject(rule())),
        Verdict::Unknown(why) => Some(End::Unknown(Some(rule()), why.clone())),
        Verdict::Return => {
            run.frames.pop();
            None
        }
        // On with the rule's next expression, if it has one (nft_do_chain).
        Verdict::Continue => None,
        Verdict::Jump(target) | Verdict::Goto(target) => {
            if matches!(verdict, Verdict::Goto(_)) {
                run.frames.pop();
            } else {
                next_rule(run);
            }
            if run.frames.len() >= MAX_DEPTH {
                return Some(End::Unknown(Some(rule()), text!(model::TooDeep)));
            }
            run.frames.push(Frame { chain: *target, rule: 0, statement: 0 });
            None
        }
    }
}
