//! The report as text: the answer first, then what it rests on.

use std::collections::BTreeSet;
use std::fmt::Write;

use waymark_controller::validate::{
    Action, CheckReport, Group, Judgement, Outcome, PredictionReport, RollbackReport, Seen, Shift, State,
    ValidationReport, agrees,
};
use waymark_proto::PolicyType;

use crate::render::{Paint, line};

/// Most lines of one kind; `-o json` has them all.
const MOST_LINES: usize = 30;
/// Most names in one line.
const MOST_NAMES: usize = 4;

/// The whole report.
pub(super) fn report(report: &ValidationReport, paint: Paint) -> String {
    let mut out = String::new();
    headline(&mut out, report, paint);
    for failure in &report.failures {
        line!(out, "  {} {failure}", paint.bad("✗"));
    }
    if !report.change.is_empty() {
        line!(out);
        line!(out, "{}", paint.strong("Change"));
    }
    for change in &report.change {
        let action = match change.action {
            Action::Created => paint.good("created"),
            Action::Changed => paint.odd("changed"),
            Action::Unchanged => paint.faint("unchanged"),
            Action::Deleted => paint.bad("deleted"),
        };
        line!(out, "  {} {action}", change.object);
    }
    reachability(&mut out, report, paint);
    checks(&mut out, &report.checks, paint);
    predictions(&mut out, &report.predictions, paint);
    if let Some(ms) = report.settled_ms {
        line!(
            out,
            "The predicted state was seen {:.1} s after the change.",
            std::time::Duration::from_millis(ms).as_secs_f64()
        );
    }
    if let Some(rollback) = &report.rollback {
        rolled_back(&mut out, rollback, paint);
    }
    if !report.remarks.is_empty() {
        line!(out);
    }
    for remark in &report.remarks {
        line!(out, "{} {remark}", paint.faint("Note:"));
    }
    out
}

fn headline(out: &mut String, report: &ValidationReport, paint: Paint) {
    let state = match report.state {
        State::NotApplied => "nothing was applied",
        State::Applied => "the change is in place",
        State::RolledBack => "rolled back: the cluster is as it was",
        State::PartlyRolledBack => "ROLLED BACK IN PART ONLY: see below what is left",
    };
    let checked = report.checks.iter().any(|check| check.after.is_some());
    let answer = match (report.outcome, checked) {
        (Outcome::Unchanged, _) => paint.good("Nothing changes in reachability"),
        (Outcome::AsPredicted, true) => paint.good("As predicted"),
        (Outcome::AsPredicted, false) => paint.odd("Reachability changes"),
        (Outcome::Failed, _) => paint.bad("Failed"),
        (Outcome::Interrupted, _) => paint.bad("Interrupted"),
    };
    line!(out, "{}; {state}", paint.strong(&answer));
}

fn reachability(out: &mut String, report: &ValidationReport, paint: Paint) {
    let reach = &report.reachability;
    line!(out);
    line!(
        out,
        "{}: {} lost, {} gained{} of {} connections between {} namespaces",
        paint.strong("Reachability by the objects"),
        reach.lost,
        reach.gained,
        if reach.other > 0 { format!(", {} otherwise changed,", reach.other) } else { String::new() },
        reach.pairs,
        reach.namespaces.len()
    );
    for group in reach.groups.iter().take(MOST_LINES) {
        group_line(out, group, paint);
    }
    more(out, reach.groups.len(), "groups of connections", paint);
    if !reach.outside.is_empty() {
        line!(out);
        line!(out, "{}", paint.strong("With the world outside, by samples"));
    }
    for change in reach.outside.iter().take(MOST_LINES) {
        let (from, to) = match change.direction {
            PolicyType::Ingress => (change.address.to_string(), change.pods.clone()),
            PolicyType::Egress => (change.pods.clone(), change.address.to_string()),
        };
        line!(
            out,
            "  {from} → {to} {}/{}: {} → {}",
            change.port,
            change.protocol,
            change.before,
            change.after
        );
    }
    more(out, reach.outside.len(), "of these", paint);
}

fn more(out: &mut String, all: usize, what: &str, paint: Paint) {
    if all > MOST_LINES {
        line!(out, "  {}", paint.faint(&format!("and {} more {what}: -o json has all", all - MOST_LINES)));
    }
}

fn group_line(out: &mut String, group: &Group, paint: Paint) {
    let sign = match Shift::of(group.before, group.after) {
        Shift::Lost => paint.bad("-"),
        Shift::Gained => paint.good("+"),
        Shift::Other => paint.odd("~"),
    };
    let (from, to) = (names(&group.sources), names(&group.destinations));
    line!(out, "  {sign} {from} → {to}: {} → {}", group.before, group.after);
    if let Some(because) = &group.because {
        line!(out, "      {}", paint.faint(because));
    }
}

fn names(names: &[String]) -> String {
    let shown = names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MOST_NAMES) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

fn checks(out: &mut String, checks: &[CheckReport], paint: Paint) {
    if checks.is_empty() {
        return;
    }
    line!(out);
    line!(out, "{} (before, predicted, after)", paint.strong("Checks"));
    let mut sorted: Vec<&CheckReport> = checks.iter().collect();
    sorted.sort_by_key(|check| {
        (!check.judgement.is_some_and(Judgement::fails), check.intended == check.predicted)
    });
    // Those that should not change and do not are many and tell little.
    let quiet = |check: &CheckReport| {
        check.judgement == Some(Judgement::AsPredicted) && check.intended == check.predicted
    };
    let calm = sorted.iter().filter(|check| quiet(check)).count();
    sorted.retain(|check| !quiet(check));
    let mut told: BTreeSet<String> = BTreeSet::new();
    let width = sorted.iter().map(|check| check.pair.to_string().chars().count()).max().unwrap_or(0);
    for check in sorted.iter().take(MOST_LINES) {
        let after = check.after.map_or("not checked", word);
        let (sign, judgement) = match check.judgement {
            None => (paint.faint("·"), String::new()),
            Some(Judgement::AsPredicted) => (paint.good("✓"), String::new()),
            Some(judgement) if judgement.fails() => (paint.bad("✗"), format!("  {}", judgement.words())),
            Some(judgement) => (paint.odd("!"), format!("  {}", judgement.words())),
        };
        let pair = check.pair.to_string();
        line!(
            out,
            "  {sign} {pair:<width$}  {:<9} {:<14} {after:<11}{judgement}",
            word(check.before),
            check.predicted.to_string()
        );
        let wrong = check.judgement.is_some_and(|judgement| judgement != Judgement::AsPredicted);
        if let Some(fault) = check.fault_point.as_ref().filter(|_| wrong) {
            let culprit = fault.culprit.as_ref().map(|culprit| format!(", {culprit}")).unwrap_or_default();
            // The same advice once.
            let is_new = told.insert(fault.advice.clone());
            let advice = if is_new { format!("; {}", fault.advice) } else { String::new() };
            line!(out, "      at {} of {}: {}{culprit}{advice}", fault.hook, fault.node, fault.cause);
        }
        if let Some(note) = &check.note {
            line!(out, "      {}", paint.faint(note));
        }
    }
    more(out, sorted.len(), "checks", paint);
    if calm > 0 {
        line!(out, "  {} {calm} that should not change do not: -o json lists them", paint.good("✓"));
    }
}

fn word(seen: Seen) -> &'static str {
    match seen {
        Seen::Works => "works",
        Seen::Sometimes => "sometimes",
        Seen::Fails => "fails",
        Seen::Unseen => "unseen",
    }
}

fn predictions(out: &mut String, predictions: &[PredictionReport], paint: Paint) {
    if predictions.is_empty() {
        return;
    }
    line!(out);
    line!(out, "{} (before, intended, after)", paint.strong("By the nodes' facts"));
    for prediction in predictions.iter().take(MOST_LINES) {
        let side = |seen: Option<Seen>| seen.map_or("no facts", word);
        let sign = match prediction.after {
            None | Some(Seen::Unseen) => paint.faint("·"),
            Some(after) if agrees(prediction.intended, after) => paint.good("✓"),
            Some(_) => paint.bad("✗"),
        };
        line!(
            out,
            "  {sign} {}: {}, {}, {}",
            prediction.pair,
            side(prediction.before),
            prediction.intended,
            side(prediction.after)
        );
    }
    more(out, predictions.len(), "predictions", paint);
}

fn rolled_back(out: &mut String, rollback: &RollbackReport, paint: Paint) {
    line!(out);
    line!(out, "{}: {}", paint.strong("Rolled back"), rollback.because);
    for object in &rollback.objects {
        match &object.left {
            None => line!(out, "  {} {} is as it was", paint.good("✓"), object.object),
            Some(why) => line!(out, "  {} {} is left: {why}", paint.bad("✗"), object.object),
        }
    }
    match (&rollback.unverified, rollback.back) {
        (Some(why), _) => line!(out, "  {} nobody could look whether all is back: {why}", paint.odd("!")),
        (None, Some(back)) => {
            line!(out, "  {back} of {} checks are as before", back + rollback.not_back.len());
        }
        (None, None) => {}
    }
    for pair in &rollback.not_back {
        line!(out, "  {} {pair}", paint.bad("✗"));
    }
}
