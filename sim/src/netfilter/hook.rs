//! A packet passes a netfilter hook of a namespace (`nf_hook_slow`).

use std::iter::repeat_n;
use std::net::IpAddr;

use smallvec::{SmallVec, smallvec};
use waymark_proto::{Action, Cause, Choice, ChoiceKind, FIRST_TRACED_PRIORITY, Hook, RuleRef, Text, text};

use super::nat;
use super::read::Context;
use super::ruleset::{BaseChain, ChainKind, Phase, joined};
use super::run::{self, End, Run};
use crate::conntrack;
use crate::fib::{self, Found};
use crate::namespace::Namespace;
use crate::packet::Packet;
use crate::walk::{Detail, Walk};

/// Where a packet passes a hook. Devices are given by index.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct At {
    pub(crate) input: Option<u32>,
    pub(crate) output: Option<u32>,
    /// Bridge ports, while the packet is bridged.
    pub(crate) port_in: Option<u32>,
    pub(crate) port_out: Option<u32>,
    /// The next hop, where it is chosen.
    pub(crate) next_hop: Option<IpAddr>,
}

/// A walk that came through, and whether it must be routed again.
pub(crate) struct Passage {
    pub(crate) walk: Walk,
    pub(crate) reroute: bool,
}

/// Takes a walk through a hook. Walks that ended there come back with their fate.
pub(crate) fn pass(namespace: &Namespace, hook: Hook, at: At, mut walk: Walk) -> SmallVec<[Passage; 1]> {
    let devices = [at.input, at.output, at.port_in, at.port_out];
    let [input, output, port_in, port_out] = devices.map(|index| namespace.name(index?));
    let memory = walk.memory.clone();
    let context = Context {
        memory: memory.as_deref(),
        namespace,
        hook,
        input,
        output,
        port_in,
        port_out,
        next_hop: at.next_hop,
        tells_matches: walk.detail == Detail::Matches,
    };
    // Postrouting and output are named after the device ahead, the others after the one behind.
    let leaving = matches!(hook, Hook::NetfilterOutput | Hook::NetfilterPostrouting);
    let device = if leaving { output } else { input }.map(|name| &**name);
    // Rules go by names of devices.
    if let Some(index) = devices.into_iter().flatten().find(|index| namespace.link(*index).is_none()) {
        let why = text!(model::DeviceAbsent { index });
        return smallvec![Passage { walk: walk.unknown(hook, device, why), reroute: false }];
    }
    if let Some(why) = &namespace.ruleset.missing {
        return smallvec![Passage { walk: walk.unknown(hook, device, why.clone()), reroute: false }];
    }
    let mut phases = namespace.ruleset.phases(hook, walk.packet.flow.is_ipv6());
    while let [Phase::Conntrack, later @ ..] = phases {
        walk.track();
        phases = later;
    }
    if phases.is_empty() {
        if confirms(hook, &walk) {
            walk.confirm();
        }
        walk.step(hook, device, Action::Forwarded, |_| {});
        return smallvec![Passage { walk, reroute: false }];
    }
    let run = Box::new(Run::new(walk.packet.clone()));
    let mut runs: SmallVec<[(Box<Run>, bool); 1]> = smallvec![(run, false)];
    let mut passages = SmallVec::new();
    for (position, phase) in phases.iter().enumerate() {
        let rivals = rivals(phase, &phases[position + 1..]);
        let mut survivors = SmallVec::new();
        for (run, reroute) in runs {
            let before = (!rivals.is_empty()).then(|| run.clone());
            for (run, end, again) in self::phase(context, at, phase, &walk, run) {
                let refused = if again { refused(namespace, &run.packet) } else { None };
                match (end, refused) {
                    (End::Accept, Some((cause, object))) => {
                        let (mut walk, left) = branch(walk.clone(), *run);
                        walk = walk.dropped(hook, device, cause, object);
                        if let Some(step) = walk.steps.last_mut() {
                            (step.rule, step.matched) = (left.translated_by, left.matched);
                        }
                        passages.push(Passage { walk, reroute: false });
                    }
                    (End::Accept, None) => survivors.push((run, reroute || again)),
                    (ended, _) => {
                        let rival =
                            before.as_ref().and_then(|before| rival(context, &rivals, before, &ended));
                        let remark = rival.or_else(|| before_traces(phase));
                        let mut walk = finish(walk.clone(), hook, device, *run, ended);
                        if let (Some(note), Some(step)) = (remark, walk.steps.last_mut()) {
                            step.note = Some(note);
                        }
                        passages.push(Passage { walk, reroute: false });
                    }
                }
            }
        }
        runs = survivors;
    }
    // The last of them, mostly the only one, takes the walk itself.
    let walks = repeat_n(walk, runs.len());
    let through = |((run, reroute), walk): ((Box<Run>, bool), Walk)| Passage {
        walk: through(walk, hook, device, *run),
        reroute,
    };
    passages.extend(runs.into_iter().zip(walks).map(through));
    passages
}

/// Why a packet of this host, which a chain has changed, is dropped there: routing has no way for it any more
/// (`nf_nat_ipv4_local_fn`, `ipt_mangle_out`, `nf_route_table_hook4`).
fn refused(namespace: &Namespace, packet: &Packet) -> Option<(Cause, Text)> {
    match fib::lookup(namespace, &fib::Key::again(packet)) {
        Found::Refused(cause, object) => Some((cause, object)),
        Found::Nothing => Some((Cause::NoRoute, text!(object::NoRouteTo { dst: packet.flow.dst }))),
        Found::Local(_) | Found::Unicast(..) | Found::Unknown(_) => None,
    }
}

/// The chains of nftables with the priority of one of `x_tables`: which of them was registered last, and so is asked first,
/// cannot be read.
fn rivals<'a>(phase: &Phase, later: &'a [Phase]) -> Vec<&'a BaseChain> {
    let Phase::Chain(base) = phase else { return Vec::new() };
    let is_rival = |other: &&BaseChain| base.legacy && !other.legacy && other.priority == base.priority;
    let chains = later.iter().filter_map(|phase| match phase {
        Phase::Chain(other) => Some(other),
        _ => None,
    });
    chains.filter(is_rival).collect()
}

/// A remark on a packet that a chain refused, if a rival refuses it, too.
fn rival(at: Context<'_>, rivals: &[&BaseChain], run: &Run, end: &End) -> Option<Text> {
    if !matches!(end, End::Drop(_) | End::Reject(_)) {
        return None;
    }
    let mut ends = rivals.iter().flat_map(|other| run::chain(at, other, Box::new(run.clone())));
    ends.find_map(|(_, end)| match end {
        End::Drop(rule) | End::Reject(rule) => Some(text!(model::Rival { rule })),
        _ => None,
    })
}

/// A remark on a packet that a chain ends which comes before those that show that it came to the hook.
fn before_traces(phase: &Phase) -> Option<Text> {
    let Phase::Chain(base) = phase else { return None };
    (base.priority < FIRST_TRACED_PRIORITY)
        .then(|| text!(model::BeforeTraces { priority: base.priority.to_string() }))
}

/// What became of a run in a phase; the flag asks for routing again.
type Ended = SmallVec<[(Box<Run>, End, bool); 1]>;

/// One phase.
fn phase(context: Context<'_>, at: At, phase: &Phase, walk: &Walk, mut run: Box<Run>) -> Ended {
    match phase {
        Phase::Conntrack => {
            conntrack::track(&mut run.packet, walk.table());
            smallvec![(run, End::Accept, false)]
        }
        Phase::Chain(base) => {
            let routed_by = |packet: &Packet| {
                let limit = packet.ttl * u8::from(packet.flow.is_ipv6());
                (packet.mark, packet.flow, packet.dscp, limit)
            };
            let before = routed_by(&run.packet);
            let decides = |run: &Run| base.kind == ChainKind::Route && routed_by(&run.packet) != before;
            let ended = match (context.memory, walk.home) {
                (Some(memory), Some(number)) => memory.run(number, context, at, base, run),
                _ => run::chain(context, base, run),
            };
            let ended = ended.into_iter();
            ended.map(|(run, end)| (decides(&run), run, end)).map(|(r, run, e)| (run, e, r)).collect()
        }
        Phase::Nat(bases) => translate(context, bases, run),
    }
}

/// Address translation (`nf_nat_inet_fn`): chains are asked for new connections only, one after the other
/// until one of them has settled it.
fn translate(at: Context<'_>, bases: &[BaseChain], run: Box<Run>) -> Ended {
    let Some(end) = nat::end_at(at.hook) else { return smallvec![(run, End::Accept, false)] };
    let mut runs: SmallVec<[Box<Run>; 1]> = smallvec![run];
    let mut done = Ended::new();
    for base in bases {
        let mut asked = SmallVec::new();
        for run in runs {
            if !conntrack::unsettled(&run.packet, end) {
                asked.push(run);
                continue;
            }
            for (run, ended) in run::chain(at, base, run) {
                match ended {
                    End::Accept => asked.push(run),
                    ended => done.push((run, ended, false)),
                }
            }
        }
        runs = asked;
    }
    for mut run in runs {
        if conntrack::unsettled(&run.packet, end) {
            conntrack::settle(&mut run.packet, end, None);
        }
        let before = run.packet.flow;
        conntrack::translate(&mut run.packet, end);
        // nf_nat_ipv4_local_fn: another destination needs another route.
        let reroute = at.hook == Hook::NetfilterOutput && before.dst != run.packet.flow.dst;
        done.push((run, End::Accept, reroute));
    }
    done
}

/// What a run leaves for the step that it makes.
struct Left {
    translated_by: Option<RuleRef>,
    matched: Vec<RuleRef>,
    notes: Vec<Text>,
    without_endpoints: bool,
}

/// The walk that a run makes of the one that entered.
fn branch(mut walk: Walk, run: Run) -> (Walk, Left) {
    walk.probability *= run.probability;
    let backend =
        run.backend.map(|taken| Choice { kind: ChoiceKind::Backend, taken, probability: run.probability });
    walk.choices.extend(backend);
    walk.choices.extend(run.chances);
    walk.packet = run.packet;
    let Run { translated_by, matched, notes, without_endpoints, .. } = run;
    (walk, Left { translated_by, matched, notes, without_endpoints })
}

fn through(walk: Walk, hook: Hook, device: Option<&str>, run: Run) -> Walk {
    let before = walk.packet.flow;
    let (mut walk, left) = branch(walk, run);
    let translated = walk.packet.flow != before;
    if confirms(hook, &walk) {
        walk.confirm();
    }
    let action = if translated { Action::Translated } else { Action::Forwarded };
    walk.step(hook, device, action, |step| {
        step.rule = left.translated_by.filter(|_| translated);
        step.matched = left.matched;
        if translated && step.rule.is_none() {
            step.object = Some(text!(object::Connection));
        }
        step.note = joined(left.notes);
    });
    walk
}

/// Whether the packet's connection is entered into the table: where it leaves or is delivered, and what is there is kept up
/// to date.
fn confirms(hook: Hook, walk: &Walk) -> bool {
    matches!(hook, Hook::NetfilterInput | Hook::NetfilterPostrouting)
        || matches!(walk.packet.tracking, conntrack::Tracking::Tracked { confirmed: true, .. })
}

/// Whether a rule is one of kube-proxy's with this comment.
fn says(rule: &RuleRef, comment: &str) -> bool {
    rule.text.as_deref().is_some_and(|text| text.contains(comment))
}

/// The walk that a run ends as. kube-proxy rejects what goes to a Service without endpoints, and drops what
/// goes to one whose traffic policy leaves none on this node.
fn finish(walk: Walk, hook: Hook, device: Option<&str>, run: Run, end: End) -> Walk {
    let (walk, Left { matched, without_endpoints, .. }) = branch(walk, run);
    let mut walk = match end {
        End::Drop(rule) => {
            let local = without_endpoints || says(&rule, "has no local endpoints");
            let cause = if local { Cause::ServiceWithoutLocalEndpoints } else { Cause::FilterDrop };
            walk.refused(hook, device, cause, rule)
        }
        End::Reject(rule) => {
            let none = without_endpoints || says(&rule, "has no endpoints");
            let cause = if none { Cause::ServiceWithoutEndpoints } else { Cause::FilterReject };
            walk.refused(hook, device, cause, rule)
        }
        End::Unknown(rule, why) => {
            let mut walk = walk.unknown(hook, device, text!(model::OfRule { why, rule: rule.as_ref() }));
            if let Some(step) = walk.steps.last_mut() {
                step.rule = rule;
            }
            walk
        }
        End::Accept => return walk,
    };
    if let Some(step) = walk.steps.last_mut() {
        step.matched = matched;
    }
    walk
}
