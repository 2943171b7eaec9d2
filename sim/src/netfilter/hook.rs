//! A packet passes a netfilter hook of a namespace (`nf_hook_slow`).

use std::iter::repeat_n;
use std::net::IpAddr;

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
pub(crate) fn pass(namespace: &Namespace, hook: Hook, at: At, walk: Walk) -> Vec<Passage> {
    let name = |index: Option<u32>| index.map(|index| namespace.name_of(index));
    let devices = [at.input, at.output, at.port_in, at.port_out];
    let [input, output, port_in, port_out] = devices.map(name);
    let context = Context {
        namespace,
        hook,
        input: input.as_ref(),
        output: output.as_ref(),
        port_in: port_in.as_ref(),
        port_out: port_out.as_ref(),
        next_hop: at.next_hop,
        tells_matches: walk.detail == Detail::Matches,
    };
    // Postrouting and output are named after the device ahead, the others after the one behind.
    let leaving = matches!(hook, Hook::NetfilterOutput | Hook::NetfilterPostrouting);
    let device = if leaving { output.as_deref() } else { input.as_deref() };
    // Rules go by names of devices.
    if let Some(index) = devices.into_iter().flatten().find(|index| namespace.link(*index).is_none()) {
        let why = text!(model::DeviceAbsent { index });
        return vec![Passage { walk: walk.unknown(hook, device, why), reroute: false }];
    }
    if let Some(why) = &namespace.ruleset.missing {
        return vec![Passage { walk: walk.unknown(hook, device, why.clone()), reroute: false }];
    }
    let mut runs = vec![(Run::new(walk.packet.clone()), false)];
    let mut passages = Vec::new();
    let phases = namespace.ruleset.phases(hook, walk.packet.flow.is_ipv6());
    for (at, phase) in phases.iter().enumerate() {
        let mut survivors = Vec::new();
        for (run, reroute) in runs {
            let before = run.clone();
            for (run, end, again) in self::phase(context, phase, &walk, run) {
                let refused = if again { refused(namespace, &run.packet) } else { None };
                match (end, refused) {
                    (End::Accept, Some((cause, object))) => {
                        let (mut walk, left) = branch(walk.clone(), run);
                        walk = walk.dropped(hook, device, cause, object);
                        if let Some(step) = walk.steps.last_mut() {
                            (step.rule, step.matched) = (left.translated_by, left.matched);
                        }
                        passages.push(Passage { walk, reroute: false });
                    }
                    (End::Accept, None) => survivors.push((run, reroute || again)),
                    (ended, _) => {
                        let remark = rival(context, phase, &phases[at + 1..], &before, &ended)
                            .or_else(|| before_traces(phase));
                        let mut walk = finish(walk.clone(), hook, device, run, ended);
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
    let through = |((run, reroute), walk)| Passage { walk: through(walk, hook, device, run), reroute };
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

/// A remark on a packet refused by a chain of `x_tables`, if one of nftables with the same priority refuses
/// it too: which of them was registered last, and so is asked first, cannot be read.
fn rival(at: Context<'_>, phase: &Phase, later: &[Phase], run: &Run, end: &End) -> Option<Text> {
    let refuses = |end: &End| matches!(end, End::Drop(_) | End::Reject(_));
    let Phase::Chain(base) = phase else { return None };
    if !base.legacy || !refuses(end) {
        return None;
    }
    let equals = later.iter().filter_map(|phase| match phase {
        Phase::Chain(other) if !other.legacy && other.priority == base.priority => Some(other),
        _ => None,
    });
    for other in equals {
        for (_, end) in run::chain(at, other, run.clone()) {
            if let End::Drop(rule) | End::Reject(rule) = end {
                return Some(text!(model::Rival { rule }));
            }
        }
    }
    None
}

/// A remark on a packet that a chain ends which comes before those that show that it came to the hook.
fn before_traces(phase: &Phase) -> Option<Text> {
    let Phase::Chain(base) = phase else { return None };
    (base.priority < FIRST_TRACED_PRIORITY)
        .then(|| text!(model::BeforeTraces { priority: base.priority.to_string() }))
}

/// One phase; the flag asks for routing again.
fn phase(at: Context<'_>, phase: &Phase, walk: &Walk, mut run: Run) -> Vec<(Run, End, bool)> {
    match phase {
        Phase::Conntrack => {
            let empty = conntrack::Table::new();
            conntrack::track(&mut run.packet, walk.connections.get(&walk.at).unwrap_or(&empty));
            vec![(run, End::Accept, false)]
        }
        Phase::Chain(base) => {
            let before = run.packet.clone();
            let routed_by = |packet: &Packet| {
                let limit = packet.ttl * u8::from(packet.flow.is_ipv6());
                (packet.mark, packet.flow, packet.dscp, limit)
            };
            let decides =
                |run: &Run| base.kind == ChainKind::Route && routed_by(&run.packet) != routed_by(&before);
            let ended = run::chain(at, base, run);
            ended
                .into_iter()
                .map(|(run, end)| (decides(&run), run, end))
                .map(|(r, run, e)| (run, e, r))
                .collect()
        }
        Phase::Nat(bases) => translate(at, bases, run),
    }
}

/// Address translation (`nf_nat_inet_fn`): chains are asked for new connections only, one after the other
/// until one of them has settled it.
fn translate(at: Context<'_>, bases: &[BaseChain], run: Run) -> Vec<(Run, End, bool)> {
    let Some(end) = nat::end_at(at.hook) else { return vec![(run, End::Accept, false)] };
    let mut runs = vec![run];
    let mut done = Vec::new();
    for base in bases {
        let (open, settled): (Vec<_>, Vec<_>) =
            runs.into_iter().partition(|run| conntrack::unsettled(&run.packet, end));
        runs = settled;
        for run in open {
            for (run, ended) in run::chain(at, base, run) {
                match ended {
                    End::Accept => runs.push(run),
                    ended => done.push((run, ended, false)),
                }
            }
        }
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
    if matches!(hook, Hook::NetfilterInput | Hook::NetfilterPostrouting) || is_confirmed(&walk) {
        let table = walk.connections.entry(walk.at.clone()).or_default();
        conntrack::confirm(&mut walk.packet, table);
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

fn is_confirmed(walk: &Walk) -> bool {
    matches!(walk.packet.tracking, conntrack::Tracking::Tracked { confirmed: true, .. })
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
