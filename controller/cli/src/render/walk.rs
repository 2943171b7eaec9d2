//! The steps of a walk in columns, all of them or those that matter.

use std::fmt::Write;

use waymark_proto::{CheckResult, FaultPoint, Hook, Observability, Step, WalkComparison};

use super::rows::{Mark, Row, Rows, predicted as predicted_rows};
use super::{Paint, line};

/// `predicted delivered, observed dropped; 3 packets took this one of 2 branches`
pub(super) fn summary(walk: &WalkComparison) -> String {
    let mut words = match walk.predicted {
        Some(predicted) => format!("predicted {predicted}, observed {}", walk.observed),
        None => format!("no prediction, observed {}", walk.observed),
    };
    if walk.branches > 1 {
        let packets = walk.steps.iter().map(|step| step.packets).max().unwrap_or(0);
        let _infallible = write!(words, "; {packets} packets took this one of {} branches", walk.branches);
    }
    words
}

/// Writes every step of a comparison. What lies behind the fault is cut short.
pub(super) fn whole(out: &mut String, walk: &WalkComparison, fault: Option<&FaultPoint>, paint: Paint) {
    let rows = Rows::of(walk, fault);
    table(out, &rows.all[..rows.telling], paint);
    if rows.telling < rows.all.len() {
        line!(
            out,
            "{}",
            paint.faint(&format!("  … {} more steps that it did not come to", rows.all.len() - rows.telling))
        );
    }
}

/// Writes a line for each node, and the steps around the fault.
pub(super) fn brief(out: &mut String, walk: &WalkComparison, fault: Option<&FaultPoint>, paint: Paint) {
    let rows = Rows::of(walk, fault);
    let width = rows.all.iter().map(|row| row.place.node.as_str().chars().count()).max().unwrap_or(0);
    for hop in hops(&rows.all) {
        let mark = hop.mark.paint(hop.mark.symbol(), paint);
        line!(out, "  {mark} {:<width$}  {}", hop.node, hop.words);
    }
    let end = rows.around_the_end();
    if !end.is_empty() {
        line!(out);
        table(out, end, paint);
    }
}

/// A walk's steps on one node, in a few words.
#[derive(Debug, PartialEq)]
pub(super) struct Hop<'a> {
    pub(super) mark: Mark,
    pub(super) node: &'a str,
    pub(super) words: String,
}

/// The hops of rows.
pub(super) fn hops<'a>(rows: &'a [Row<'_>]) -> Vec<Hop<'a>> {
    rows.chunk_by(|a, b| a.place.node == b.place.node).map(hop).collect()
}

fn hop<'a>(rows: &'a [Row<'_>]) -> Hop<'a> {
    let count = |mark: Mark| rows.iter().filter(|row| row.mark == mark).count();
    let many = |count: usize| if count == 1 { "1 step".to_owned() } else { format!("{count} steps") };
    let [seen, unexpected, partly] = [Mark::Seen, Mark::Unexpected, Mark::Partly].map(count);
    let known = rows.iter().any(|row| !matches!(row.mark, Mark::Hidden | Mark::Missing | Mark::Fault));
    let end = rows.iter().find(|row| row.mark == Mark::Fault);
    // What lies between two nodes belongs to neither.
    let (ends, behind) = match end {
        Some(row) if row.hook == Hook::Wire && known => (false, true),
        Some(_) => (true, false),
        None => (false, false),
    };
    let missing = count(Mark::Missing) > 0;
    let mut words: Vec<String> = Vec::new();
    if seen + unexpected + partly > 0 || !(ends || missing) {
        words.push(format!("{} seen", many(seen + unexpected + partly)));
    }
    if unexpected > 0 {
        words.push(format!("{unexpected} of them not predicted"));
    }
    if partly > 0 {
        words.push(format!("{partly} of them for some packets only"));
    }
    if ends {
        words.push("here it ends".to_owned());
    } else if behind {
        words.push("it is lost behind it".to_owned());
    } else if missing {
        words.push(if known { "the rest is not seen" } else { "it is not seen here" }.to_owned());
    }
    let mark = match () {
        () if ends => Mark::Fault,
        () if missing => Mark::Missing,
        () if partly > 0 => Mark::Partly,
        () if unexpected > 0 => Mark::Unexpected,
        () if seen > 0 => Mark::Seen,
        () => Mark::Hidden,
    };
    if mark == Mark::Hidden {
        words = vec!["nobody can see it here".to_owned()];
    }
    Hop { mark, node: rows[0].place.node.as_str(), words: words.join(", ") }
}

/// Writes predicted steps alone.
pub(super) fn predicted(out: &mut String, steps: &[Step], paint: Paint) {
    table(out, &predicted_rows(steps), paint);
}

impl Mark {
    /// A text in its colour.
    fn paint(self, text: &str, paint: Paint) -> String {
        match self {
            Self::Seen => paint.good(text),
            Self::Fault | Self::Missing => paint.bad(text),
            Self::Hidden => paint.faint(text),
            Self::Partly | Self::Unexpected => paint.odd(text),
        }
    }
}

fn table(out: &mut String, rows: &[Row<'_>], paint: Paint) {
    let width = |cell: &dyn Fn(&Row<'_>) -> usize| rows.iter().map(cell).max().unwrap_or(0);
    let hooks = width(&|row| row.hook.name().len());
    let devices = width(&|row| row.device.chars().count());
    let predictions = width(&|row| row.predicted.chars().count()).min(40);
    let mut place = None;
    for row in rows {
        if place != Some(row.place) {
            place = Some(row.place);
            line!(out, "  {}", paint.strong(&format!("{}, netns {}", row.place.node, row.place.netns)));
        }
        let predicted = if row.predicted.is_empty() { "–" } else { &row.predicted };
        let cells = format!(
            "{:<hooks$}  {:<devices$}  {predicted:<predictions$}  {}",
            row.hook.name(),
            row.device,
            row.observed
        );
        line!(out, "    {} {}", row.mark.paint(row.mark.symbol(), paint), cells.trim_end());
    }
}

/// Remarks about hooks that are normally seen and here were not.
pub(super) fn out_of_sight(result: &CheckResult) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for row in &result.not_observable {
        let usual = row.report.hook.is_netfilter()
            || matches!(row.report.hook, Hook::Qdisc | Hook::DriverTx | Hook::DriverRx);
        let Observability::NotObservable { why } = &row.report.observability else { continue };
        if usual {
            let netns = row.report.netns.as_ref().map(|netns| format!(" netns {netns}")).unwrap_or_default();
            notes.push(format!("{}{netns}: {} could not be watched: {why}", row.node, row.report.hook));
        }
    }
    notes
}
