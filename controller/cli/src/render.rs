//! Results as people read them. In text the answer comes first, then the way hop by hop, then where and why it ends
//! and what to do.
//!
//! * `format`: which formats there are
//! * `rows`: the steps of a walk, for all formats
//! * `walk`: the steps in columns of text
//! * `circle`: a walk that goes in circles, its turns folded
//! * `fault`: the fault point with all that belongs to it
//! * `sentence`, `rule`: the same in one sentence, and a netfilter rule within it
//! * `anomaly`: what happens to packets that arrive
//! * `intent`: what was asked for in words
//! * `text`: text in lines and columns
//! * `drawing`: what there is to draw, for `dot` and `svg`
//! * `dot`, `svg`, `markdown`, `junit`: those formats

mod anomaly;
mod circle;
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
use waymark_proto::{Branch, CheckResult, Direction, Language, Text, Verdict, text};

/// How text is written: in which language, painted or as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colour: bool,
    language: Language,
}

impl Paint {
    /// In English.
    pub(crate) fn new(colour: bool) -> Self {
        Self { colour, language: Language::En }
    }

    pub(crate) fn in_language(self, language: Language) -> Self {
        Self { language, ..self }
    }

    /// What stands between a label and what it is of: a colon of Chinese has its own room.
    pub(crate) fn gap(self) -> &'static str {
        match self.language {
            Language::En => " ",
            Language::Zh => "",
        }
    }

    /// The words of a text.
    pub(crate) fn say(self, text: &Text) -> String {
        text.say(self.language)
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

pub(crate) use format::{Manner, PredictionFormat, ResultFormat, foresight, in_language, result, tame, yaml};
pub(crate) use sentence::sentence as fault_in_words;
pub(crate) use text::{padded, width};

/// The result of a check, with every step or with those around the fault.
fn check(result: &CheckResult, explain: bool, paint: Paint) -> String {
    let mut out = String::new();
    let verdict = paint.say(&result.verdict.words());
    let verdict = match result.verdict {
        Verdict::Reachable => paint.good(&verdict),
        Verdict::Unreachable => paint.bad(&verdict),
        Verdict::Inconsistent | Verdict::Undetermined => paint.odd(&verdict),
    };
    line!(out, "{}{}", paint.strong(&verdict), paint.say(&after_verdict(result)));
    if let Some(report) = &result.intent {
        intent::expectation(&mut out, report, paint);
    }
    let fault = result.fault_point.as_ref();
    let of = |direction| fault.filter(|fault| fault.direction == direction);
    line!(out);
    let title = |way, summary| paint.strong(&paint.say(&text!(walk::Titled { way, summary })));
    line!(out, "{}", title(text!(walk::There), walk::summary(&result.forward)));
    let walk = if explain { walk::whole } else { walk::brief };
    walk(&mut out, &result.forward, of(Direction::Forward), paint);
    if let Some(back) = &result.return_ {
        line!(out);
        line!(out, "{}", title(text!(walk::Back), walk::summary(back)));
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
        let label = paint.odd(&paint.say(&text!(label::PredictionWrong)));
        line!(out, "{label}{}{}", paint.gap(), paint.say(error));
    }
    write_notes(&mut out, &remarks(result), paint);
    out
}

/// Writes remarks, if there are any, below an empty line.
fn write_notes(out: &mut String, notes: &[Text], paint: Paint) {
    if !notes.is_empty() {
        line!(out);
    }
    for note in notes {
        let label = paint.faint(&paint.say(&text!(label::Note)));
        line!(out, "{label}{}{}", paint.gap(), paint.say(note));
    }
}

/// `: pod/shop/cart → pod/shop/pay (tcp), 5 sent, …`
fn after_verdict(result: &CheckResult) -> Text {
    text!(walk::AfterVerdict {
        source: &result.source,
        destination: &result.destination,
        protocol: result.flow.protocol,
        counts: counts(result),
    })
}

/// `pod/shop/cart → pod/shop/pay (tcp)`
fn ends(result: &CheckResult) -> Text {
    text!(walk::Ends {
        source: &result.source,
        destination: &result.destination,
        protocol: result.flow.protocol,
    })
}

/// Remarks, a sentence each.
fn remarks(result: &CheckResult) -> Vec<Text> {
    let mut notes = result.notes.clone();
    if result.lost_events > 0 {
        notes.push(text!(note::RecordsLost { records: result.lost_events }));
    }
    notes.extend(walk::out_of_sight(result));
    notes
}

/// `5 sent, 5 delivered, 5 replied, rtt 0.050/0.061/0.100 ms`
fn counts(result: &CheckResult) -> Text {
    // Answers come to a one-way check too, but it did not ask for them.
    let rtt = result.replied.and(result.rtt_ns).map(|times| {
        let [min, median, max] = times.map(|ns| Duration::from_nanos(ns).as_secs_f64() * 1e3);
        format!("{min:.3}/{median:.3}/{max:.3}")
    });
    text!(walk::Counts { sent: result.sent, delivered: result.delivered, replied: result.replied, rtt })
}

/// A prediction.
fn prediction(prediction: &Prediction, paint: Paint) -> String {
    let mut out = String::new();
    let branches = &prediction.paths.branches;
    let fate = prediction
        .disposition()
        .map_or_else(|| text!(prediction::Differs), waymark_proto::Disposition::words);
    let head = text!(prediction::Head {
        source: &prediction.source,
        destination: &prediction.destination,
        flow: prediction.flow,
        fate,
    });
    let label = paint.strong(&paint.say(&text!(label::Predicted)));
    line!(out, "{label}{}{}", paint.gap(), paint.say(&head));
    if let Some(report) = &prediction.intent {
        intent::expectation(&mut out, report, paint);
    }
    for (index, branch) in branches.iter().enumerate() {
        line!(out);
        line!(out, "{}", paint.strong(&paint.say(&branch_title(index, branches.len(), branch))));
        walk::predicted(&mut out, branch.path.steps(), paint);
        for answer in &branch.answer {
            line!(out, "{}", paint.strong(&paint.say(&answer_title(answer))));
            walk::predicted(&mut out, answer.path.steps(), paint);
        }
    }
    if let Some(report) = prediction.intent.as_ref().filter(|report| !report.deviations.is_empty()) {
        line!(out);
        intent::deviations(&mut out, report, None, paint);
    }
    write_notes(&mut out, &prediction.notes, paint);
    out
}

/// What a branch is, how likely, and how it ends.
fn branch_title(index: usize, branches: usize, branch: &Branch) -> Text {
    text!(prediction::Branch {
        number: index + 1,
        branches,
        percent: format!("{:.0}", branch.probability * 100.0),
        choices: choices(branch),
        fate: branch.path.disposition().words(),
    })
}

/// How an answer ends.
fn answer_title(answer: &Branch) -> Text {
    text!(prediction::Answer { choices: choices(answer), fate: answer.path.disposition().words() })
}

fn choices(branch: &Branch) -> Vec<Text> {
    branch.choices.iter().map(waymark_proto::Choice::words).collect()
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
