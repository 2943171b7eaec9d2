//! A packet in the chains of one hook: an interpreter of rules that branches where chance decides.

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

/// How a chain ended for a packet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Accept,
    Drop(RuleRef),
    Reject(RuleRef),
    /// Not known; why.
    Unknown(Option<RuleRef>, Text),
}

/// What a statement did.
#[derive(Clone, Debug, PartialEq)]
enum Next {
    /// On to the next statement, rule or chain.
    On,
    End(End),
}

/// Runs one base chain.
pub(crate) fn chain(at: Context<'_>, base: &BaseChain, mut run: Run) -> Vec<(Run, End)> {
    run.frames = vec![Frame { chain: base.chain, rule: 0, statement: 0 }];
    let mut ended = Vec::new();
    let mut open = vec![run];
    let mut statements = 0;
    while let Some(run) = open.pop() {
        statements += 1;
        if statements > MAX_STATEMENTS || open.len() + ended.len() > MAX_RUNS {
            ended.push((run, End::Unknown(None, text!(model::TooManyRules))));
            continue;
        }
        for (run, next) in statement(at, base, run) {
            match next {
                Next::On => open.push(run),
                Next::End(end) => ended.push((run, end)),
            }
        }
    }
    ended
}

/// Runs the next statement.
fn statement(at: Context<'_>, base: &BaseChain, mut run: Run) -> Vec<(Run, Next)> {
    let chains = &at.namespace.ruleset.chains;
    let Some(frame) = run.frames.last().copied() else {
        let end = policy(base, chains);
        return vec![(run, Next::End(end))];
    };
    let Some(chain) = chains.get(frame.chain) else {
        return vec![(run, Next::End(End::Unknown(None, text!(model::SomeChainAbsent))))];
    };
    let Some(rule) = chain.rules.get(frame.rule) else {
        // Its end: back to where it was called from.
        run.frames.pop();
        return vec![(run, Next::On)];
    };
    let Some(statement) = rule.statements.get(frame.statement) else {
        if !rule.statements.is_empty() {
            note_match(at, &mut run, || chain.rule_ref(rule));
        }
        next_rule(&mut run);
        return vec![(run, Next::On)];
    };
    if let Some(top) = run.frames.last_mut() {
        top.statement += 1;
    }
    if let Statement::Test(Test::Random(probability)) = statement {
        return by_chance(&run, *probability, chain, rule);
    }
    let asked = run.clone();
    match execute(at, chain, rule, statement, run, None) {
        Ok(done) => vec![done],
        Err(modulus) => {
            if let Some(modulus) = u32::try_from(modulus).ok().filter(|modulus| *modulus as usize <= MAX_RUNS)
            {
                return by_number(at, chain, rule, statement, &asked, modulus);
            }
            let why = text!(model::TooManyOutcomes { modulus });
            vec![(asked, Next::End(End::Unknown(Some(chain.rule_ref(rule)), why)))]
        }
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
fn by_chance(run: &Run, probability: f64, chain: &Chain, rule: &Rule) -> Vec<(Run, Next)> {
    let mut branches = Vec::new();
    let name = chain.rule_ref(rule);
    for (matches, share) in [(true, probability), (false, 1.0 - probability)] {
        if share <= 0.0 {
            continue;
        }
        let mut branch = run.clone();
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
        branches.push((branch, Next::On));
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
) -> Vec<(Run, Next)> {
    let mut branches: Vec<(Run, Next)> = Vec::new();
    for number in 0..u64::from(modulus) {
        let mut branch = asked.clone();
        branch.probability /= f64::from(modulus);
        let taken = format!("{} {} outcome {number} of {modulus}", chain.table, chain.name);
        let probability = 1.0 / f64::from(modulus);
        branch.chances.push(Choice { kind: ChoiceKind::Rule, taken, probability });
        let Ok((run, next)) = execute(at, chain, rule, statement, branch, Some(number)) else { continue };
        let twin = branches.iter_mut().find(|(twin, other)| {
            *other == next
                && twin.frames == run.frames
                && twin.packet == run.packet
                && twin.backend == run.backend
        });
        match twin {
            Some((twin, _)) => twin.probability += run.probability,
            None => branches.push((run, next)),
        }
    }
    branches
}

/// Executes a statement. The error asks for a random number below so much.
fn execute(
    at: Context<'_>,
    chain: &Chain,
    rule: &Rule,
    statement: &Statement,
    mut run: Run,
    random: Option<u64>,
) -> Result<(Run, Next), u64> {
    let rule_ref = || chain.rule_ref(rule);
    let statement = match statement {
        Statement::IfTracked(_) if !matches!(run.packet.tracking, Tracking::Tracked { .. }) => {
            return Ok((run, Next::On));
        }
        Statement::IfTracked(inner) => inner,
        other => other,
    };
    let packet = run.packet.clone();
    let reading = Reading { at, packet: &packet, random };
    let outcome = match statement {
        Statement::Test(test) => reading.test(test).map(|holds| {
            if !holds {
                next_rule(&mut run);
            }
            Next::On
        }),
        Statement::SetMark(value) => reading.number(value).map(|mark| {
            run.packet.mark = mark as u32;
            Next::On
        }),
        Statement::SetConnMark(value) => reading.number(value).map(|mark| {
            if let Tracking::Tracked { connection, .. } = &mut run.packet.tracking {
                connection.mark = mark as u32;
            }
            Next::On
        }),
        Statement::SetDscp(Some(family), _) | Statement::SetTtl(Some(family), _)
            if *family != run.packet.flow.is_ipv6() =>
        {
            Err(Stop::Break)
        }
        Statement::SetDscp(_, value) => reading.number(value).map(|dscp| {
            run.packet.dscp = (dscp & 0x3f) as u8;
            Next::On
        }),
        Statement::SetTtl(_, value) => reading.number(value).map(|ttl| {
            run.packet.ttl = (ttl & 0xff) as u8;
            Next::On
        }),
        Statement::AddTtl(more) => {
            let ttl = i16::from(run.packet.ttl).saturating_add(*more).clamp(0, 255);
            run.packet.ttl = u8::try_from(ttl).unwrap_or_default();
            Ok(Next::On)
        }
        Statement::Verdict(verdict) => Ok(self::verdict(at, verdict, &mut run, rule_ref)),
        Statement::Vmap { key, map } => reading.expr(key).and_then(|key| {
            let maps = &at.namespace.ruleset.vmaps;
            // A miss ends the rule (nft_lookup_eval).
            let verdict = read::find(read::lookup(map, maps)?, &key)?.ok_or(Stop::Break)?;
            run.without_endpoints |=
                matches!(map, super::rule::Lookup::Named(_, name) if name.starts_with("no-endpoint"));
            Ok(self::verdict(at, verdict, &mut run, rule_ref))
        }),
        Statement::Nat(nat) => nat::apply(&reading, nat, &mut run, rule_ref()).map(|()| {
            note_match(at, &mut run, rule_ref);
            Next::End(End::Accept)
        }),
        Statement::Notrack => {
            if run.packet.tracking == Tracking::None {
                run.packet.tracking = Tracking::Untracked;
            }
            Ok(Next::On)
        }
        Statement::Note(note) => {
            run.notes.push(note.clone());
            Ok(Next::On)
        }
        Statement::Unknown(why) => Err(Stop::Unknown(why.clone())),
        Statement::IfTracked(_) => Ok(Next::On),
    };
    match outcome {
        Ok(next) => Ok((run, next)),
        Err(Stop::Random(modulus)) if random.is_none() => Err(modulus),
        Err(Stop::Random(_)) => {
            let why = text!(model::TwoRandomNumbers);
            Ok((run, Next::End(End::Unknown(Some(rule_ref()), why))))
        }
        Err(Stop::Break) => {
            next_rule(&mut run);
            Ok((run, Next::On))
        }
        Err(Stop::Unknown(why)) => Ok((run, Next::End(End::Unknown(Some(rule_ref()), why)))),
    }
}

fn verdict(at: Context<'_>, verdict: &Verdict, run: &mut Run, rule: impl Fn() -> RuleRef) -> Next {
    if *verdict != Verdict::Continue {
        note_match(at, run, &rule);
    }
    match verdict {
        Verdict::Accept => Next::End(End::Accept),
        Verdict::Drop => Next::End(End::Drop(rule())),
        Verdict::Reject => Next::End(End::Reject(rule())),
        Verdict::Unknown(why) => Next::End(End::Unknown(Some(rule()), why.clone())),
        Verdict::Return => {
            run.frames.pop();
            Next::On
        }
        // On with the rule's next expression, if it has one (nft_do_chain).
        Verdict::Continue => Next::On,
        Verdict::Jump(target) | Verdict::Goto(target) => {
            if matches!(verdict, Verdict::Goto(_)) {
                run.frames.pop();
            } else {
                next_rule(run);
            }
            if run.frames.len() >= MAX_DEPTH {
                return Next::End(End::Unknown(Some(rule()), text!(model::TooDeep)));
            }
            run.frames.push(Frame { chain: *target, rule: 0, statement: 0 });
            Next::On
        }
    }
}
