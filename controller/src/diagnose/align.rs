//! Lays an observed walk beside a predicted one.
//!
//! Steps are matched by place, hook, device and encapsulation, the n-th of a kind to the n-th of its kind. So
//! a step that was out of sight, or one too many, does not shift those behind it.

use std::collections::BTreeMap;

use waymark_proto::{Branch, Choice, Disposition, Hook, Path, Place, Step};

use crate::observe::Walk;

/// An observed walk beside a predicted one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Alignment {
    /// For each predicted step the index of the observed one.
    pub(super) matched: Vec<Option<usize>>,
    /// The farthest predicted step that was observed.
    pub(super) progress: Option<usize>,
    /// The observed steps that were not predicted.
    pub(super) unexpected: Vec<usize>,
}

type Kind<'a> = (&'a Place, Hook, Option<&'a str>, bool);

fn kind(step: &Step) -> Kind<'_> {
    // Netfilter sees another device than predicted where a bridge or a second routing decision is involved;
    // the hook's turn in its namespace says enough.
    let device =
        step.device.as_deref().filter(|_| matches!(step.hook, Hook::Qdisc | Hook::DriverTx | Hook::DriverRx));
    (&step.place, step.hook, device, step.outer.is_some())
}

/// Aligns a walk with a path.
pub(super) fn align(path: &Path, walk: &Walk) -> Alignment {
    let mut turns: BTreeMap<Kind<'_>, Vec<usize>> = BTreeMap::new();
    let (passed, ended) = match walk.steps.split_last() {
        Some((last, before)) if !last.action.continues() => (before, Some(last)),
        _ => (walk.steps.as_slice(), None),
    };
    for (index, step) in passed.iter().enumerate().rev() {
        turns.entry(kind(step)).or_default().push(index);
    }
    let mut matched: Vec<Option<usize>> =
        path.steps().iter().map(|step| turns.get_mut(&kind(step)).and_then(Vec::pop)).collect();
    let mut progress = matched.iter().rposition(Option::is_some);
    if let Some(last) = ended {
        // The end belongs to the first predicted step of its kind that the walk had not gone beyond.
        let same = |step: &Step| {
            step.place == last.place && step.hook == last.hook && step.outer.is_some() == last.outer.is_some()
        };
        let from = progress.unwrap_or(0);
        let here = path
            .steps()
            .iter()
            .enumerate()
            .skip(from)
            .find(|(index, step)| same(step) && matched[*index].is_none());
        if let Some((index, _)) = here {
            matched[index] = Some(walk.steps.len() - 1);
            progress = Some(index);
        }
    }
    let unexpected = (0..walk.steps.len()).filter(|index| !matched.contains(&Some(*index))).collect();
    Alignment { matched, progress, unexpected }
}

/// How well a branch fits a walk: how many steps match; how many of these have the same addresses, which tells
/// backends apart; and whether it ends as well or badly, which decides between branches that differ in nothing else.
type Score = (usize, usize, bool);

fn score(branch: &Branch, alignment: &Alignment, walk: &Walk) -> Score {
    let matched =
        || branch.path.steps().iter().zip(&alignment.matched).filter_map(|(step, at)| Some((step, (*at)?)));
    // Ports are those of another packet.
    let ends = |step: &Step| step.flow.map(|flow| (flow.src, flow.dst));
    let same = |(step, at): &(&Step, usize)| ends(step).is_some() && ends(step) == ends(&walk.steps[*at]);
    let same_end = walk.delivered() == (branch.path.disposition() == Disposition::Delivered);
    (matched().count(), matched().filter(same).count(), same_end)
}

/// A branch beside a walk.
pub(super) type Fit<'a> = (&'a Branch, Alignment);

/// The branch that fits a walk best, with its alignment; of equals the likeliest. And the choices that were made
/// for certain: those of all branches that fit as well.
pub(super) fn best<'a>(branches: &'a [Branch], walk: &Walk) -> (Option<Fit<'a>>, Vec<&'a Choice>) {
    let mut best: Option<(Score, &Branch, Alignment)> = None;
    let mut equals: Vec<&Branch> = Vec::new();
    for branch in branches {
        let alignment = align(&branch.path, walk);
        let score = score(branch, &alignment, walk);
        let most = best.as_ref().map(|(most, ..)| *most);
        if most.is_none_or(|most| score > most) {
            best = Some((score, branch, alignment));
            equals.clear();
        }
        if most.is_none_or(|most| score >= most) {
            equals.push(branch);
        }
    }
    let is_certain = |choice: &&Choice| equals.iter().all(|branch| branch.choices.contains(choice));
    let choices =
        equals.first().map_or(&[][..], |branch| &branch.choices).iter().filter(is_certain).collect();
    (best.map(|(_, branch, alignment)| (branch, alignment)), choices)
}
