//! Results as people read them. In text the answer comes first, then the way hop by hop, then where and why it ends
//! and what to do.
//!
//! * `format`: which formats there are
//! * `rows`: the steps of a walk, for all formats
//! * `walk`: the steps in columns of text
//! * `fault`: the fault point with all that belongs to it
//! * `sentence`, `rule`: the same in one sentence, and a netfilter rule within it
//! * `anomaly`: what happens to packets that arrive
//! * `intent`: what was asked for in words
//! * `text`: text in lines
//! * `drawing`: what there is to draw, for `dot` and `svg`
//! * `dot`, `svg`, `markdown`, `junit`: those formats

mod anomaly;
mod dot;
mod drawing;
mod fault;
mod format;
mod intent;
mod junit;
mod markdown;
mod rows;
mod rule;
mod sentence;
mod svg;
#[cfg(test)]
pub(crate) mod tests;
mod text;
mod walk;

use std::fmt::Write;
use std::time::Duration;

use owo_colors::OwoColorize;
use waymark_controller::{Prediction, Status};
use waymark_proto::{CheckResult, Choice, Direction, Verdict};

/// Paints text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    pub(crate) fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn with(self, text: &str, painted: impl Fn(&str) -> String) -> String {
        if self.colour { painted(text) } else { text.to_owned() }
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.with(text, |text| text.green().to_string())
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.with(text, |text| text.red().to_string())
    }

    pub(crate) fn odd(self, text: &str) -> String {
        self.with(text, |text| text.yellow().to_string())
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.with(text, |text| text.dimmed().to_string())
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.with(text, |text| text.bold().to_string())
    }
}

/// Writing to a `String` cannot fail; this says so once.
macro_rules! line {
    ($out:expr) => { $out.push('\n') };
    ($out:expr, $($arg:tt)*) => {{
        let _infallible = writeln!($out, $($arg)*);
    }};
}
pub(crate) use line;

pub(crate) use format::{Manner, PredictionFormat, ResultFormat, foresight, result, tame, yaml};
pub(crate) use sentence::sentence as fault_in_words;

/// The result of a check, with every step or with those around the fault.
fn check(result: &CheckResult, explain: bool, paint: Paint) -> String {
    let mut out = String::new();
    let verdict = result.verdict.to_string();
    let verdict = match result.verdict {
        Verdict::Reachable => paint.good(&verdict),
        Verdict::Unreachable => paint.bad(&verdict),
        Verdict::Inconsistent | Verdict::Undetermined => paint.odd(&verdict),
    };
    line!(
        out,
        "{}: {} → {} ({}), {}",
        paint.strong(&verdict),
        result.source,
        result.destination,
        result.flow.protocol,
        counts(result)
    );
    if let Some(report) = &result.intent {
        intent::expectation(&mut out, report, paint);
    }
    let fault = result.fault_point.as_ref();
    let of = |direction| fault.filter(|fault| fault.direction == direction);
    line!(out);
    line!(out, "{}", paint.strong(&format!("The way there: {}", walk::summary(&result.forward))));
    let walk = if explain { walk::whole } else { walk::brief };
    walk(&mut out, &result.forward, of(Direction::Forward), paint);
    if let Some(back) = &result.return_ {
        line!(out);
        line!(out, "{}", paint.strong(&format!("The way back: {}", walk::summary(back))));
        walk(&mut out, back, of(Direction::Return), paint);
    }
    if let Some(fault) = fault {
        line!(out);
        fault::point(&mut out, fault, result.loss.as_ref(), paint);
    }
    if let Some(report) = &result.intent {
        intent::deviations(&mut out, report, fault, paint);
    }
    anomaly::all(&mut out, &result.anomalies, paint);
    for error in &result.model_errors {
        line!(out, "{} {error}", paint.odd("The prediction was wrong:"));
    }
    let notes = remarks(result);
    if !notes.is_empty() {
        line!(out);
    }
    for note in notes {
        line!(out, "{} {note}", paint.faint("Note:"));
    }
    out
}

/// Remarks, a sentence each.
fn remarks(result: &CheckResult) -> Vec<String> {
    let mut notes = result.notes.clone();
    if result.lost_events > 0 {
        notes.push(format!("{} records were lost: \"not seen\" is weaker than usual", result.lost_events));
    }
    notes.extend(walk::out_of_sight(result));
    notes
}

/// `5 sent, 5 delivered, 5 replied, rtt 0.050/0.061/0.100 ms`
fn counts(result: &CheckResult) -> String {
    let mut words = format!("{} sent, {} delivered", result.sent, result.delivered);
    if let Some(replied) = result.replied {
        let _infallible = write!(words, ", {replied} replied");
    }
    // Answers come to a one-way check too, but it did not ask for them.
    if let (Some(_), Some(times)) = (result.replied, result.rtt_ns) {
        let [min, median, max] = times.map(|ns| Duration::from_nanos(ns).as_secs_f64() * 1e3);
        let _infallible = write!(words, ", rtt min/median/max {min:.3}/{median:.3}/{max:.3} ms");
    }
    words
}

/// A prediction.
fn prediction(prediction: &Prediction, paint: Paint) -> String {
    let mut out = String::new();
    let branches = &prediction.paths.branches;
    let fate =
        prediction.disposition().map_or_else(|| "differs by branch".to_owned(), |fate| fate.to_string());
    line!(
        out,
        "{} {} → {} ({}): {fate}",
        paint.strong("Predicted:"),
        prediction.source,
        prediction.destination,
        prediction.flow
    );
    if let Some(report) = &prediction.intent {
        intent::expectation(&mut out, report, paint);
    }
    for (index, branch) in branches.iter().enumerate() {
        line!(out);
        let title = format!(
            "Branch {} of {}, {:.0} %{}: {}",
            index + 1,
            branches.len(),
            branch.probability * 100.0,
            listed(&branch.choices),
            branch.path.disposition()
        );
        line!(out, "{}", paint.strong(&title));
        walk::predicted(&mut out, branch.path.steps(), paint);
        for answer in &branch.answer {
            let choices = listed(&answer.choices);
            line!(out, "{}", paint.strong(&format!("The answer{choices}: {}", answer.path.disposition())));
            walk::predicted(&mut out, answer.path.steps(), paint);
        }
    }
    if let Some(report) = prediction.intent.as_ref().filter(|report| !report.deviations.is_empty()) {
        line!(out);
        intent::deviations(&mut out, report, None, paint);
    }
    if !prediction.notes.is_empty() {
        line!(out);
    }
    for note in &prediction.notes {
        line!(out, "{} {note}", paint.faint("Note:"));
    }
    out
}

/// Each choice after a comma.
fn listed(choices: &[Choice]) -> String {
    choices.iter().flat_map(|choice| [", ".to_owned(), choice.to_string()]).collect()
}

/// The status of a controller.
pub(crate) fn status(status: &Status, paint: Paint) -> String {
    let mut out = String::new();
    line!(out, "Controller {}", status.version);
    let width = status.nodes.iter().map(|node| node.name.as_str().chars().count()).max().unwrap_or(0);
    for node in &status.nodes {
        let agent = match (&node.version, node.seconds, &node.refused) {
            (Some(version), Some(seconds), _) => {
                paint.good(&format!("agent {version}, attached for {seconds} s"))
            }
            (.., Some(why)) => paint.bad(&format!("agent refused: {why}")),
            _ => paint.bad("no agent"),
        };
        let stray = if node.known { "" } else { ", not in the inventory" };
        line!(out, "  {:<width$}  {agent}{stray}", node.name);
    }
    for notice in &status.notices {
        line!(out, "{} {notice}", paint.bad("!"));
    }
    out
}
