//! The steps of prediction and observation side by side.

use std::collections::BTreeMap;

use waymark_proto::{
    Action, Agreement, Branch, ComparedStep, Direction, Disposition, Step, WalkComparison, text,
};

use super::align::Alignment;
use super::locate::{Fate, Fault};
use super::sight::See;
use super::{Case, Leg, same_fault};
use crate::observe::Call;

impl Case<'_> {
    /// Compares the walks of one direction, along the branch that most packets took; of the packets that met
    /// the fault, if it was met in this direction.
    pub(super) fn compare(
        &self,
        legs: &[&Leg<'_>],
        fault: Option<&Fault>,
        direction: Direction,
    ) -> WalkComparison {
        let fault = fault.filter(|fault| fault.point.direction == direction);
        let met = |leg: &&&Leg<'_>| match (&leg.fate, fault) {
            (Fate::Died(own), Some(fault)) => same_fault(&own.point, &fault.point),
            _ => false,
        };
        let mut telling: Vec<&Leg<'_>> = legs.iter().filter(met).copied().collect();
        if telling.is_empty() {
            telling = legs.to_vec();
        }
        let branch = most_taken(&telling);
        let on_branch = |leg: &&Leg<'_>| match (&leg.fit, branch) {
            (Some((own, _)), Some(branch)) => std::ptr::eq(*own, branch),
            (None, None) => true,
            _ => false,
        };
        let along: Vec<&Leg<'_>> = legs.iter().copied().filter(on_branch).collect();
        let example = telling.iter().copied().filter(on_branch).max_by_key(|leg| leg.walk.steps.len());
        let branches = match direction {
            Direction::Forward => self.prediction.branches.len(),
            // All packets of a branch share its answers.
            Direction::Return => self.prediction.branches.iter().map(|b| b.answer.len()).max().unwrap_or(0),
        };
        WalkComparison {
            predicted: branch.map(|branch| branch.path.disposition()),
            observed: most_common(legs.iter().map(|leg| disposition(&leg.fate))),
            branches,
            steps: self.rows(branch, &along, example),
        }
    }

    fn rows(
        &self,
        branch: Option<&Branch>,
        along: &[&Leg<'_>],
        example: Option<&Leg<'_>>,
    ) -> Vec<ComparedStep> {
        let predicted = branch.map_or(&[][..], |branch| branch.path.steps());
        let alignments: Vec<&Alignment> =
            along.iter().filter_map(|leg| leg.fit.as_ref().map(|(_, a)| a)).collect();
        let of_example = example.and_then(|leg| leg.fit.as_ref().map(|(_, a)| a).map(|a| (leg, a)));
        let mut rows: Vec<ComparedStep> = Vec::new();
        // Unexpected steps before the first that matches.
        let mut extras = example.map_or(Vec::new(), |leg| extras(leg));
        rows.extend(
            extras.extract_if(.., |(after, _)| after.is_none()).map(|(_, step)| unexpected(step, along)),
        );
        for (index, step) in predicted.iter().enumerate() {
            let packets = alignments.iter().filter(|a| a.matched[index].is_some()).count() as u32;
            let reached = alignments.iter().filter(|a| a.progress >= Some(index)).count() as u32;
            let observed = of_example
                .and_then(|(leg, alignment)| alignment.matched[index].map(|at| leg.walk.steps[at].clone()));
            let calls = along.iter().filter(|leg| called(leg, index).is_some()).count() as u32;
            let died = observed.as_ref().is_some_and(|step| step.cause.is_some());
            let agreement = match () {
                () if died => Agreement::Died,
                () if packets > 0 && packets >= reached => Agreement::Seen,
                () if packets > 0 => Agreement::Partly,
                // Of whom no call is known was here all the same: not all ways through the kernel lead by it.
                () if calls > 0 => Agreement::Seen,
                () if self.look.sight.see(step) != See::Passing => Agreement::NotObservable,
                // It went on, so it was here or the prediction is wrong about this step: not a death.
                () if reached > 0 => Agreement::Partly,
                () => Agreement::Missing,
            };
            // What functions answered is told of a step that was seen without them, too.
            let told = example.and_then(|leg| called(leg, index));
            let observed = match (observed, told) {
                (Some(seen), Some(told)) => Some(Step { note: seen.note.clone().or(told.note), ..seen }),
                (seen, told) => seen.or(told),
            };
            let packets = if packets > 0 { packets } else { calls };
            rows.push(ComparedStep { agreement, packets, predicted: Some(step.clone()), observed });
            let here = extras.extract_if(.., |(after, _)| *after == Some(index));
            rows.extend(here.map(|(_, step)| unexpected(step, along)));
        }
        rows
    }
}

/// A predicted step that functions of the kernel were called for, as they showed it: of each the call whose turn it was.
fn called(leg: &Leg<'_>, index: usize) -> Option<Step> {
    let (branch, _) = leg.fit.as_ref()?;
    let steps = branch.path.steps();
    let predicted = &steps[index];
    let same = |step: &&Step| {
        (&step.place, step.hook, step.outer.is_some())
            == (&predicted.place, predicted.hook, predicted.outer.is_some())
    };
    let turn = steps[..index].iter().filter(same).count();
    let mut turns: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    let here = |call: &&Call| {
        (&call.place, call.hook) == (&predicted.place, predicted.hook)
            && call.encapsulated.is_none_or(|encapsulated| encapsulated == predicted.outer.is_some())
    };
    for call in leg.walk.calls.iter().filter(here) {
        turns.entry(&call.function).or_default().push(call);
    }
    let mut calls: Vec<&Call> = turns.values().filter_map(|calls| calls.get(turn).copied()).collect();
    calls.sort_by_key(|call| call.at_ns);
    let first = calls.first()?;
    let mut step = Step::new(predicted.place.clone(), predicted.hook, Action::Forwarded);
    step.device.clone_from(&predicted.device);
    step.at_ns = Some(first.at_ns);
    let calls = calls.iter().map(|call| call.words()).collect::<Vec<_>>().join(", ");
    step.note = Some(text!(seen::Called { calls }));
    Some(step)
}

/// The steps of a walk that were not predicted, each with the predicted step after which it came.
fn extras<'l>(leg: &'l Leg<'_>) -> Vec<(Option<usize>, &'l Step)> {
    let Some((_, alignment)) = &leg.fit else {
        return leg.walk.steps.iter().map(|step| (None, step)).collect();
    };
    let predicted_of = |at: usize| alignment.matched.iter().position(|matched| *matched == Some(at));
    let after = |at: usize| (0..at).rev().find_map(predicted_of);
    alignment.unexpected.iter().map(|&at| (after(at), &leg.walk.steps[at])).collect()
}

fn unexpected(step: &Step, along: &[&Leg<'_>]) -> ComparedStep {
    let same =
        |other: &Step| (&other.place, other.hook, &other.device) == (&step.place, step.hook, &step.device);
    let packets = along.iter().filter(|leg| leg.walk.steps.iter().any(same)).count() as u32;
    let agreement = if step.cause.is_some() { Agreement::Died } else { Agreement::Unexpected };
    ComparedStep { agreement, packets, predicted: None, observed: Some(step.clone()) }
}

fn most_taken<'a>(legs: &[&Leg<'a>]) -> Option<&'a Branch> {
    let mut counts: Vec<(usize, &'a Branch)> = Vec::new();
    for (branch, _) in legs.iter().filter_map(|leg| leg.fit.as_ref()) {
        match counts.iter_mut().find(|(_, known)| std::ptr::eq(*known, *branch)) {
            Some((count, _)) => *count += 1,
            None => counts.push((1, branch)),
        }
    }
    counts.into_iter().rev().max_by_key(|(count, _)| *count).map(|(_, branch)| branch)
}

fn disposition(fate: &Fate) -> Disposition {
    match fate {
        Fate::Delivered => Disposition::Delivered,
        Fate::Died(fault) => fault.point.cause.fate(),
        Fate::Unknown(_) => Disposition::InsufficientInfo,
    }
}

fn most_common(all: impl Iterator<Item = Disposition>) -> Disposition {
    let mut counts = std::collections::BTreeMap::<Disposition, usize>::new();
    for one in all {
        *counts.entry(one).or_default() += 1;
    }
    counts.into_iter().rev().max_by_key(|(_, n)| *n).map_or(Disposition::InsufficientInfo, |(one, _)| one)
}
