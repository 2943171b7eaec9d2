//! Lays an observed walk beside a predicted one.
//!
//! Steps are matched by place, hook, device and encapsulation, the n-th of a kind to the n-th of its kind. So
//! a step that was out of sight, or one too many, does not shift those behind it.

use std::collections::BTreeMap;

use waymark_proto::{Branch, Disposition, Hook, Path, Place, Step};

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

/// The branch that fits a walk best, with its alignment; of equals the likeliest.
pub(super) fn best<'a>(branches: &'a [Branch], walk: &Walk) -> Option<(&'a Branch, Alignment)> {
    let mut best: Option<(usize, &Branch, Alignment)> = None;
    for branch in branches {
        let alignment = align(&branch.path, walk);
        let hits = alignment.matched.iter().flatten().count();
        let same_end = usize::from(walk.delivered() == (branch.path.disposition() == Disposition::Delivered));
        // Each observed step is a hit or a miss, so hits alone tell; the end decides between branches that
        // differ in nothing else.
        let score = 2 * hits + same_end;
        if best.as_ref().is_none_or(|(most, _, _)| score > *most) {
            best = Some((score, branch, alignment));
        }
    }
    best.map(|(_, branch, alignment)| (branch, alignment))
}
