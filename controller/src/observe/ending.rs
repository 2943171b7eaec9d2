//! What became of a packet in the end, and its walk up to there.
//!
//! The kernel frees copies too: of a frame that a bridge flooded, of a buffer that a tunnel rewrote. So a drop
//! or a free ends the walk only if nothing shows that the packet itself went on.

use waymark_proto::{Action, Cause, Direction, Hook, MATCHED, Place, RuleRef, Step, text};

use super::timeline::{Item, What};
use super::{Call, Lens, Observed, Walk};
use crate::reasons::{self, Meaning};

/// Makes the walk of ordered items. Passages and calls are left to others.
pub(super) fn finish(items: &[Item], calls: &[Call], direction: Direction, lens: &Lens<'_>) -> Walk {
    let arrival = arrival(items, direction, lens);
    let death = death(items, arrival, direction);
    let last = death.or(arrival).unwrap_or(items.len().saturating_sub(1));
    let mut steps: Vec<Step> = Vec::new();
    for (index, item) in items.iter().enumerate().take(last + 1) {
        match &item.what {
            What::Passed { .. } | What::Filtered { .. } => steps.push(step(item, &items[index + 1..])),
            What::Dropped { reason, function } if Some(index) == death => {
                die(&mut steps, item, reason.as_deref(), function, calls, lens);
            }
            What::Dropped { .. } | What::Consumed { .. } => {}
        }
    }
    let mut arrived_ns = None;
    if let (Some(arrival), None) = (arrival, death) {
        let place = &items[arrival].place;
        let mut delivered = Step::new(place.clone(), Hook::Socket, Action::Delivered);
        delivered.flow = steps.iter().rev().find_map(|step| step.flow);
        steps.push(delivered);
        let received = items[..=arrival].iter().rev();
        let received = received.filter(|item| item.place == *place).find(|item| item.hook == Hook::DriverRx);
        arrived_ns = Some(received.map_or(items[arrival].at_ns, |item| item.at_ns));
    }
    Walk { steps, arrived_ns, passages: Vec::new(), calls: Vec::new() }
}

/// The item with which the packet is in the hands of its receiver's IP stack.
fn arrival(items: &[Item], direction: Direction, lens: &Lens<'_>) -> Option<usize> {
    let home = |item: &Item| direction == Direction::Forward || item.place == *lens.source;
    let through_input = items.iter().position(|item| {
        item.hook == Hook::NetfilterInput
            && item.outer.is_none()
            && matches!(item.what, What::Filtered { left: true, .. })
            && home(item)
    });
    // Where netfilter is out of sight, a free in the namespace that owns the address tells as much.
    through_input.or_else(|| {
        items.iter().enumerate().position(|(index, item)| {
            let taken = match &item.what {
                What::Consumed { .. } => item.hook == Hook::Socket || owns_destination(item, lens),
                What::Dropped { reason, function } => {
                    direction == Direction::Return && is_socket(reason.as_deref(), function)
                }
                _ => false,
            };
            let went_on =
                || items[index + 1..].iter().any(|later| matches!(later.hook, Hook::Qdisc | Hook::DriverTx));
            taken && home(item) && item.outer.is_none() && !went_on()
        })
    })
}

fn owns_destination(item: &Item, lens: &Lens<'_>) -> bool {
    item.flow.is_some_and(|flow| lens.inventory.owner(flow.dst).as_ref() == Some(&item.place))
}

fn is_socket(reason: Option<&str>, function: &str) -> bool {
    matches!(
        reasons::meaning(reason, function),
        Some(Meaning::At(Hook::Socket, _) | Meaning::Ambiguous(Hook::Socket, _))
    )
}

/// The drop that ended the walk.
fn death(items: &[Item], arrival: Option<usize>, direction: Direction) -> Option<usize> {
    let drops = |wanted: &dyn Fn(&Item, Option<&str>, &str) -> bool| {
        let matches = |item: &Item| match &item.what {
            What::Dropped { reason, function } => wanted(item, reason.as_deref(), function),
            _ => false,
        };
        items.iter().rposition(matches)
    };
    match arrival {
        // A lone SYN's sender does not know the connection that is answered: its drop is an arrival.
        Some(_) if direction == Direction::Return => None,
        Some(at) => {
            drops(&|item, reason, function| item.place == items[at].place && is_socket(reason, function))
                .filter(|&index| index > at)
        }
        None => drops(&|_, reason, _| reason != Some("OTHERHOST")).or_else(|| drops(&|_, _, _| true)),
    }
}

/// The step of an item that is no drop. `later` tells what came of it.
fn step(item: &Item, later: &[Item]) -> Step {
    let mut step = Step::new(item.place.clone(), item.hook, Action::Forwarded);
    step.device.clone_from(&item.device);
    step.flow = item.flow;
    step.outer.clone_from(&item.outer);
    step.at_ns = Some(item.at_ns);
    step.conntrack.clone_from(&item.conntrack);
    let mut here = later.iter().filter(|other| other.place == item.place);
    match &item.what {
        What::Passed { note } => step.note.clone_from(note),
        What::Filtered { left, after, verdicts } => {
            let rewritten = after.filter(|after| item.flow != Some(*after));
            // What is given back behind it may be a copy from further on: of a packet that waits for its neighbour.
            let tells = |other: &&Item| other.flow.is_some() && !(*left && other.is_freed());
            let next = here.clone().find(tells);
            // What it left with says it best: a queue may have a program before it that changes packets, too.
            let next = next.filter(|next| after.is_none() || next.hook != Hook::Qdisc);
            let next_flow = rewritten.or_else(|| next.and_then(|next| next.flow));
            if let (Some(before), Some(after)) = (item.flow, next_flow)
                && before != after
                && (*left || here.clone().next().is_some())
            {
                step.action = Action::Translated;
                step.flow = Some(after);
                step.rule = translator(verdicts);
            }
            let went_on =
                *left || here.any(|other| matches!(other.what, What::Passed { .. } | What::Filtered { .. }));
            if !went_on {
                stop(&mut step, verdicts);
            }
        }
        What::Dropped { .. } | What::Consumed { .. } => {}
    }
    step
}

/// The rule that most likely rewrote the packet: the last that accepted it, of iptables' table for that if it is there.
fn translator(verdicts: &[(RuleRef, String)]) -> Option<RuleRef> {
    let is_rule = |rule: &RuleRef| rule.handle.is_some() || rule.position.is_some();
    let mut accepted = verdicts.iter().filter(|(rule, verdict)| verdict == "accept" && is_rule(rule));
    let of_nat = accepted.clone().rfind(|(rule, _)| rule.table == "nat");
    of_nat.or_else(|| accepted.next_back()).map(|(rule, _)| rule.clone())
}

/// A netfilter hook that was entered and not left.
fn stop(step: &mut Step, verdicts: &[(RuleRef, String)]) {
    match verdicts.last() {
        Some((rule, verdict)) if verdict == "drop" => {
            let rejects = rule.text.as_deref().is_some_and(|text| text.to_lowercase().contains("reject"));
            end(step, if rejects { Cause::FilterReject } else { Cause::FilterDrop });
            step.rule = Some(rule.clone());
        }
        // It may have, but nobody knows what it does.
        Some((rule, verdict)) if verdict == MATCHED => {
            step.action = Action::Unknown;
            step.rule = Some(rule.clone());
            step.note = Some(text!(seen::NotLeft));
        }
        Some((rule, verdict)) if verdict.starts_with("queue") => {
            step.action = Action::Queued;
            step.rule = Some(rule.clone());
            step.note = Some(text!(seen::WaitsInUserSpace));
        }
        _ => {
            step.action = Action::Unknown;
            step.note = Some(text!(seen::NotLeft));
        }
    }
}

fn end(step: &mut Step, cause: Cause) {
    let rejected = cause.fate() == waymark_proto::Disposition::Rejected;
    step.action = if rejected { Action::Rejected } else { Action::Dropped };
    step.cause = Some(cause);
}

/// Ends a walk with a drop that the kernel reported.
fn die(
    steps: &mut Vec<Step>,
    item: &Item,
    reason: Option<&str>,
    function: &str,
    calls: &[Call],
    lens: &Lens<'_>,
) {
    let meaning = reasons::meaning(reason, function);
    let in_netfilter = matches!(meaning, Some(Meaning::Netfilter) | None);
    let open = steps.last().is_some_and(|last| {
        last.place == item.place
            && (last.hook.is_netfilter() || last.rule.is_some())
            && !matches!(last.action, Action::Forwarded | Action::Translated)
    });
    // A rule that was seen to drop it, and a reason, say better than a function what that function decided.
    let decided =
        decision(calls, item).filter(|_| !open && reason.is_none_or(|reason| reason == reasons::NO_REASON));
    let meaning = decided.map(|(_, meaning)| meaning).or(meaning);
    // Where the IP hooks are watched, a drop that none of them shows was in a chain outside of them.
    // Of a later fragment they show nothing anywhere.
    let fragment = item.fragment_offset != 0;
    let shown = !fragment && lens.filters_watched.contains(&item.place);
    let outside = meaning == Some(Meaning::Netfilter) && !open && shown;
    let guess = match item.hook {
        Hook::Ip if fragment => hook_of_fragment(steps, &item.place),
        _ if outside => outside_ip(steps, &item.place),
        Hook::Ip => guess_hook(steps, &item.place),
        hook => hook,
    };
    let hook = match meaning {
        Some(Meaning::Netfilter) if outside => guess,
        Some(meaning) => meaning.hook(guess),
        None => item.hook,
    };
    let same = |last: &Step| {
        last.place == item.place
            && last.hook == hook
            && (last.device.is_none() || item.device.is_none() || last.device == item.device)
    };
    let joins = (open && in_netfilter) || steps.last().is_some_and(same);
    let mut step = steps.pop_if(|_| joins).unwrap_or_else(|| {
        let mut step = Step::new(item.place.clone(), hook, Action::Dropped);
        step.device.clone_from(&item.device);
        step.flow = item.flow.or_else(|| steps.last().and_then(|last| last.flow));
        step.outer.clone_from(&item.outer);
        step
    });
    if step.cause.is_none() {
        end(&mut step, meaning.map_or(Cause::KernelDrop, Meaning::cause));
    }
    step.at_ns = Some(item.at_ns);
    step.conntrack.clone_from(&item.conntrack);
    let sure = if fragment { open } else { joins || outside };
    let guessed = meaning == Some(Meaning::Netfilter) && !sure;
    step.note =
        if outside { Some(text!(seen::OutsideIp)) } else { guessed.then(|| text!(seen::GuessedHook)) };
    if fragment {
        let offset = u32::from(item.fragment_offset);
        step.note = Some(if guessed {
            text!(seen::FragmentSomewhere { offset })
        } else {
            text!(seen::Fragment { offset })
        });
    } else if let Some((call, _)) = decided {
        step.note = Some(text!(seen::Answered {
            function: &call.function,
            answer: call.answer.as_deref().unwrap_or_default()
        }));
    }
    step.reason = reason.map(str::to_owned);
    step.function = Some(function.to_owned());
    steps.push(step);
}

/// The last call before a drop whose answer was the packet's end.
fn decision<'c>(calls: &'c [Call], item: &Item) -> Option<(&'c Call, Meaning)> {
    let before = calls.iter().rev().filter(|call| call.place == item.place && call.at_ns <= item.at_ns);
    let mut telling = before.filter_map(|call| {
        let meaning = reasons::answered(call.hook, &call.function, call.answer.as_deref()?)?;
        Some((call, meaning))
    });
    telling.next()
}

/// Where a chain of the families `netdev` and `bridge` took a packet: behind the reception or the queue that
/// saw it last, or in the bridge whose device it went through.
fn outside_ip(steps: &[Step], place: &Place) -> Hook {
    match steps.iter().rev().find(|step| step.place == *place).map(|step| step.hook) {
        Some(hook @ (Hook::DriverRx | Hook::Qdisc)) => hook,
        // A bridge's own transmission is its decision to which port.
        Some(Hook::DriverTx | Hook::NetfilterPrerouting) => Hook::Bridge,
        _ => Hook::Qdisc,
    }
}

/// The netfilter hook that a later fragment was in: of those that the first went through before, the last.
fn hook_of_fragment(steps: &[Step], place: &Place) -> Hook {
    let last = steps.last().filter(|last| last.place == *place && last.hook.is_netfilter());
    last.map_or_else(|| guess_hook(steps, place), |last| last.hook)
}

/// The netfilter hook that a packet of whom no rule trace is known was most likely in.
fn guess_hook(steps: &[Step], place: &Place) -> Hook {
    match steps.iter().rev().find(|step| step.place == *place).map(|step| step.hook) {
        None => Hook::NetfilterOutput,
        Some(Hook::NetfilterForward | Hook::NetfilterOutput) => Hook::NetfilterPostrouting,
        Some(_) => Hook::NetfilterForward,
    }
}

/// Answers tell what became of the packet that they answer.
pub(super) fn heed_answers(observed: &mut Observed, lens: &Lens<'_>) {
    let forward = &mut observed.forward.steps;
    if let Some(answer) = observed.back.steps.first() {
        if !forward.last().is_some_and(|last| last.action == Action::Delivered) {
            // Whoever answers has received: in the answerer's namespace an end is how the packet was taken,
            // elsewhere it is that of a copy.
            let delivered = delivered_unseen(forward, answer, lens);
            forward.pop_if(|last| !last.action.continues() && last.place != delivered.place);
            if let Some(taken) = forward.last_mut().filter(|last| !last.action.continues()) {
                (taken.action, taken.cause) = (Action::Unknown, None);
            }
            forward.push(delivered);
        }
        return;
    }
    let Some(last) = forward.last_mut() else { return };
    let refused =
        |place: &Place| observed.reset_by.as_ref() == Some(place) || observed.errors_at.contains(place);
    if last.action == Action::Delivered && observed.reset_by.as_ref() == Some(&last.place) {
        end(last, Cause::NoListener);
        last.note = Some(text!(seen::Reset));
    } else if last.cause == Some(Cause::FilterDrop) && refused(&last.place) {
        end(last, Cause::FilterReject);
    }
}

/// The delivery of a packet that was answered, though nobody saw it being delivered.
fn delivered_unseen(forward: &[Step], answer: &Step, lens: &Lens<'_>) -> Step {
    let flow = forward.iter().rev().find_map(|step| step.flow);
    let owner = flow.and_then(|flow| lens.inventory.owner(flow.dst));
    // Only what is sent from here comes by this hook, so here it was answered, whoever owns the address.
    let sent_here = answer.hook == Hook::NetfilterOutput && answer.outer.is_none();
    let (place, hook) = match (owner, forward.last()) {
        _ if sent_here => (answer.place.clone(), Hook::Socket),
        (Some(owner), _) if may_have_answered(&owner, answer, lens) => (owner, Hook::Socket),
        (_, None) => (answer.place.clone(), Hook::Socket),
        // Outside of all that is watched.
        (_, Some(last)) => (last.place.clone(), Hook::Wire),
    };
    let mut delivered = Step::new(place, hook, Action::Delivered);
    delivered.flow = flow;
    delivered.note = Some(text!(seen::ByAnswerAlone));
    delivered
}

/// Whether an answer can be that of the namespace that owns the address: it came from there, or there is no knowing
/// where from. What is watched and was not seen to answer did not.
fn may_have_answered(owner: &Place, answer: &Step, lens: &Lens<'_>) -> bool {
    let out_of_its_device = || {
        let pod = lens.inventory.pod_at(owner).filter(|pod| pod.host_device.is_some());
        pod.is_some_and(|pod| pod.node == answer.place.node && pod.host_device == answer.device)
    };
    answer.place == *owner || !lens.watched.contains(&owner.node) || out_of_its_device()
}
