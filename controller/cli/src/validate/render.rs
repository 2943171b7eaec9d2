//! The report as text: the answer first, then what it rests on.

use std::collections::BTreeSet;
use std::fmt::Write;

use waymark_controller::validate::{
    Action, CheckReport, Group, Judgement, Outcome, PredictionReport, RollbackReport, Seen, Shift, State,
    ValidationReport, agrees,
};
use waymark_proto::{PolicyType, Text, text};

use crate::render::{Paint, line, padded, width};

/// Most lines of one kind; `-o json` has them all.
const MOST_LINES: usize = 30;
/// Most names in one line.
const MOST_NAMES: usize = 4;

/// The whole report.
pub(super) fn report(report: &ValidationReport, paint: Paint) -> String {
    let mut out = String::new();
    headline(&mut out, report, paint);
    for failure in &report.failures {
        line!(out, "  {} {}", paint.bad("✗"), paint.say(failure));
    }
    if !report.change.is_empty() {
        line!(out);
        line!(out, "{}", paint.strong(&paint.say(&text!(validation::Change))));
    }
    for change in &report.change {
        let action = match change.action {
            Action::Created => paint.good(&paint.say(&text!(validation::Created))),
            Action::Changed => paint.odd(&paint.say(&text!(validation::Changed))),
            Action::Unchanged => paint.faint(&paint.say(&text!(validation::Kept))),
            Action::Deleted => paint.bad(&paint.say(&text!(validation::Deleted))),
        };
        line!(out, "  {} {action}", change.object);
    }
    reachability(&mut out, report, paint);
    checks(&mut out, &report.checks, paint);
    predictions(&mut out, &report.predictions, paint);
    if let Some(ms) = report.settled_ms {
        let seconds = format!("{:.1}", std::time::Duration::from_millis(ms).as_secs_f64());
        line!(out, "{}", paint.say(&text!(validation::Settled { seconds })));
    }
    if let Some(rollback) = &report.rollback {
        rolled_back(&mut out, rollback, paint);
    }
    if !report.remarks.is_empty() {
        line!(out);
    }
    for remark in &report.remarks {
        let label = paint.faint(&paint.say(&text!(label::Note)));
        line!(out, "{label}{}{}", paint.gap(), paint.say(remark));
    }
    out
}

fn headline(out: &mut String, report: &ValidationReport, paint: Paint) {
    let state = match report.state {
        State::NotApplied => text!(validation::NothingApplied),
        State::Applied => text!(validation::InPlace),
        State::RolledBack => text!(validation::RolledBack),
        State::PartlyRolledBack => text!(validation::PartlyRolledBack),
    };
    let checked = report.checks.iter().any(|check| check.after.is_some());
    let answer = match (report.outcome, checked) {
        (Outcome::Unchanged, _) => paint.good(&paint.say(&text!(validation::Unchanged))),
        (Outcome::AsPredicted, true) => paint.good(&paint.say(&text!(validation::AsPredicted))),
        (Outcome::AsPredicted, false) => paint.odd(&paint.say(&text!(validation::Changes))),
        (Outcome::Failed, _) => paint.bad(&paint.say(&text!(validation::Failed))),
        (Outcome::Interrupted, _) => paint.bad(&paint.say(&text!(validation::Stopped))),
    };
    line!(out, "{}{}", paint.strong(&answer), paint.say(&text!(validation::Headline { state })));
}

fn reachability(out: &mut String, report: &ValidationReport, paint: Paint) {
    let reach = &report.reachability;
    line!(out);
    let counts = text!(validation::Reachability {
        lost: reach.lost,
        gained: reach.gained,
        other: reach.other,
        pairs: reach.pairs,
        namespaces: reach.namespaces.len(),
    });
    let heading = paint.say(&text!(validation::ByObjects));
    line!(out, "{}{}", paint.strong(&heading), paint.say(&counts));
    for group in reach.groups.iter().take(MOST_LINES) {
        group_line(out, group, paint);
    }
    more(out, reach.groups.len(), |more| text!(validation::MoreGroups { more }), paint);
    if !reach.outside.is_empty() {
        line!(out);
        line!(out, "{}", paint.strong(&paint.say(&text!(validation::Outside))));
    }
    for change in reach.outside.iter().take(MOST_LINES) {
        let (from, to) = match change.direction {
            PolicyType::Ingress => (change.address.to_string(), change.pods.clone()),
            PolicyType::Egress => (change.pods.clone(), change.address.to_string()),
        };
        let words = text!(validation::Shift {
            from,
            to: format!("{to} {}/{}", change.port, change.protocol),
            before: change.before.words(),
            after: change.after.words(),
        });
        line!(out, "  {}", paint.say(&words));
    }
    more(out, reach.outside.len(), |more| text!(validation::MoreSamples { more }), paint);
}

fn more(out: &mut String, all: usize, words: impl Fn(usize) -> Text, paint: Paint) {
    if all > MOST_LINES {
        line!(out, "  {}", paint.faint(&paint.say(&words(all - MOST_LINES))));
    }
}

fn group_line(out: &mut String, group: &Group, paint: Paint) {
    let sign = match Shift::of(group.before, group.after) {
        Shift::Lost => paint.bad("-"),
        Shift::Gained => paint.good("+"),
        Shift::Other => paint.odd("~"),
    };
    let words = text!(validation::Shift {
        from: names(&group.sources),
        to: names(&group.destinations),
        before: group.before.words(),
        after: group.after.words(),
    });
    line!(out, "  {sign} {}", paint.say(&words));
    if let Some(because) = &group.because {
        line!(out, "      {}", paint.faint(&paint.say(because)));
    }
}

fn names(names: &[Text]) -> Text {
    let (items, rest) = names.split_at(names.len().min(MOST_NAMES));
    text!(validation::Names { items, more: rest.len() })
}

fn checks(out: &mut String, checks: &[CheckReport], paint: Paint) {
    if checks.is_empty() {
        return;
    }
    line!(out);
    let columns = paint.say(&text!(validation::ChecksColumns));
    line!(out, "{} {columns}", paint.strong(&paint.say(&text!(validation::Checks))));
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
    let pairs = sorted.iter().map(|check| width(&check.pair.to_string())).max().unwrap_or(0);
    for check in sorted.iter().take(MOST_LINES) {
        let after = check.after.map_or_else(|| text!(validation::Unlooked), Seen::words);
        let judged = |judgement: Judgement| format!("  {}", paint.say(&judgement.words()));
        let (sign, judgement) = match check.judgement {
            None => (paint.faint("·"), String::new()),
            Some(Judgement::AsPredicted) => (paint.good("✓"), String::new()),
            Some(judgement) if judgement.fails() => (paint.bad("✗"), judged(judgement)),
            Some(judgement) => (paint.odd("!"), judged(judgement)),
        };
        line!(
            out,
            "  {sign} {}  {} {} {}{judgement}",
            padded(&check.pair.to_string(), pairs),
            padded(&paint.say(&check.before.words()), 9),
            padded(&paint.say(&check.predicted.words()), 14),
            padded(&paint.say(&after), 11)
        );
        let wrong = check.judgement.is_some_and(|judgement| judgement != Judgement::AsPredicted);
        if let Some(fault) = check.fault_point.as_ref().filter(|_| wrong) {
            // The same advice once.
            let is_new = told.insert(fault.advice.to_string());
            let words = text!(validation::Fault {
                hook: fault.hook,
                node: &fault.node,
                cause: fault.cause,
                culprit: fault.culprit.as_ref(),
                advice: is_new.then_some(&fault.advice),
            });
            line!(out, "      {}", paint.say(&words));
        }
        if let Some(note) = &check.note {
            line!(out, "      {}", paint.faint(&paint.say(note)));
        }
    }
    more(out, sorted.len(), |more| text!(validation::MoreChecks { more }), paint);
    if calm > 0 {
        line!(out, "  {} {}", paint.good("✓"), paint.say(&text!(validation::Calm { calm })));
    }
}

fn predictions(out: &mut String, predictions: &[PredictionReport], paint: Paint) {
    if predictions.is_empty() {
        return;
    }
    line!(out);
    let columns = paint.say(&text!(validation::FactsColumns));
    line!(out, "{} {columns}", paint.strong(&paint.say(&text!(validation::ByNodeFacts))));
    for prediction in predictions.iter().take(MOST_LINES) {
        let side = |seen: Option<Seen>| seen.map_or_else(|| text!(validation::NoFacts), Seen::words);
        let sign = match prediction.after {
            None | Some(Seen::Unseen) => paint.faint("·"),
            Some(after) if agrees(prediction.intended, after) => paint.good("✓"),
            Some(_) => paint.bad("✗"),
        };
        let words = text!(validation::Prediction {
            pair: prediction.pair.to_string(),
            before: side(prediction.before),
            intended: prediction.intended.words(),
            after: side(prediction.after),
        });
        line!(out, "  {sign} {}", paint.say(&words));
    }
    more(out, predictions.len(), |more| text!(validation::MorePredictions { more }), paint);
}

fn rolled_back(out: &mut String, rollback: &RollbackReport, paint: Paint) {
    let heading = text!(label::Of { words: text!(validation::RolledBackHeading) });
    line!(out);
    let label = paint.strong(&paint.say(&heading));
    line!(out, "{label}{}{}", paint.gap(), paint.say(&rollback.because));
    for object in &rollback.objects {
        let name = &object.object;
        let (sign, words) = match &object.left {
            None => (paint.good("✓"), text!(validation::ObjectBack { object: name })),
            Some(why) => (paint.bad("✗"), text!(validation::ObjectLeft { object: name, why })),
        };
        line!(out, "  {sign} {}", paint.say(&words));
    }
    match (&rollback.unverified, rollback.back) {
        (Some(why), _) => {
            line!(out, "  {} {}", paint.odd("!"), paint.say(&text!(validation::Unverified { why })));
        }
        (None, Some(back)) => {
            let all = back + rollback.not_back.len();
            line!(out, "  {}", paint.say(&text!(validation::Back { back, all })));
        }
        (None, None) => {}
    }
    for pair in &rollback.not_back {
        line!(out, "  {} {}", paint.bad("✗"), paint.say(pair));
    }
}
