//! The steps of a walk in columns: mark, hook, device, predicted, observed.

use std::fmt::Write;

use waymark_proto::{
    Action, Agreement, CheckResult, ComparedStep, FaultPoint, Flow, Hook, Observability, Place, Step,
    WalkComparison,
};

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

/// One line of the table, before it is painted.
struct Row<'a> {
    place: &'a Place,
    mark: Mark,
    hook: Hook,
    device: &'a str,
    predicted: String,
    observed: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Seen,
    Fault,
    Missing,
    Hidden,
    Partly,
    Unexpected,
}

impl Mark {
    fn symbol(self) -> &'static str {
        match self {
            Self::Seen => "✓",
            Self::Fault | Self::Missing => "✗",
            Self::Hidden => "·",
            Self::Partly => "?",
            Self::Unexpected => "+",
        }
    }

    fn paint(self, text: &str, paint: Paint) -> String {
        match self {
            Self::Seen => paint.good(text),
            Self::Fault | Self::Missing => paint.bad(text),
            Self::Hidden => paint.faint(text),
            Self::Partly | Self::Unexpected => paint.odd(text),
        }
    }
}

/// Writes a comparison. What lies behind the fault is cut short.
pub(super) fn comparison(out: &mut String, walk: &WalkComparison, fault: Option<&FaultPoint>, paint: Paint) {
    let packets = walk.steps.iter().map(|step| step.packets).max().unwrap_or(0);
    let mut flows = [None, None];
    let at_fault = fault.and_then(|fault| walk.steps.iter().position(|step| is_at(step, fault)));
    let rows: Vec<Row<'_>> = walk
        .steps
        .iter()
        .enumerate()
        .filter_map(|(index, step)| {
            let mut row = row(step, packets, &mut flows)?;
            if Some(index) == at_fault {
                row.mark = Mark::Fault;
                if row.observed.is_empty() || row.observed == NOT_SEEN {
                    "here it ends".clone_into(&mut row.observed);
                }
            }
            Some(row)
        })
        .collect();
    // The first step that missed the packet is worth a line, the others are not.
    let last_known = rows.iter().rposition(|row| !matches!(row.mark, Mark::Missing | Mark::Hidden));
    let cut = match last_known {
        _ if !rows.iter().any(|row| matches!(row.mark, Mark::Missing | Mark::Fault)) => rows.len(),
        Some(last) => {
            let missing = rows[last + 1..].iter().position(|row| row.mark == Mark::Missing);
            missing.map_or(last + 1, |missing| last + missing + 2)
        }
        None => rows.len(),
    };
    table(out, &rows[..cut], paint);
    if cut < rows.len() {
        line!(
            out,
            "{}",
            paint.faint(&format!("  … {} more steps that it did not come to", rows.len() - cut))
        );
    }
}

/// Writes predicted steps alone.
pub(super) fn predicted(out: &mut String, steps: &[Step], paint: Paint) {
    let mut flow = None;
    let rows: Vec<Row<'_>> = steps
        .iter()
        .map(|step| Row {
            place: &step.place,
            mark: match step.action {
                Action::Dropped | Action::Rejected => Mark::Fault,
                Action::Unknown => Mark::Partly,
                _ => Mark::Seen,
            },
            hook: step.hook,
            device: step.device.as_deref().unwrap_or_default(),
            predicted: words(step, &mut flow, true),
            observed: String::new(),
        })
        .collect();
    table(out, &rows, paint);
}

/// What an observed cell says where the packet should have been seen and was not.
const NOT_SEEN: &str = "not seen";

fn row<'a>(step: &'a ComparedStep, packets: u32, flows: &mut [Option<Flow>; 2]) -> Option<Row<'a>> {
    let shown = step.predicted.as_ref().or(step.observed.as_ref())?;
    let mark = match step.agreement {
        Agreement::Seen => Mark::Seen,
        Agreement::Partly => Mark::Partly,
        Agreement::Missing => Mark::Missing,
        Agreement::NotObservable => Mark::Hidden,
        Agreement::Unexpected => Mark::Unexpected,
        Agreement::Died => Mark::Fault,
    };
    let [predicted_flow, observed_flow] = flows;
    let predicted =
        step.predicted.as_ref().map_or_else(|| "–".to_owned(), |step| words(step, predicted_flow, true));
    let mut observed = match (&step.observed, mark) {
        (Some(step), _) => words(step, observed_flow, false),
        (None, Mark::Missing | Mark::Partly) => NOT_SEEN.to_owned(),
        (None, _) => String::new(),
    };
    if step.observed.is_some() && step.packets < packets {
        let _infallible = write!(observed, ", {} of {packets}", step.packets);
    }
    Some(Row {
        place: &shown.place,
        mark,
        hook: shown.hook,
        device: shown
            .device
            .as_deref()
            .or_else(|| step.observed.as_ref()?.device.as_deref())
            .unwrap_or_default(),
        predicted,
        observed,
    })
}

/// What a step did, in words. `flow` is the flow before it, and after the call the one behind it.
fn words(step: &Step, flow: &mut Option<Flow>, why: bool) -> String {
    let before = *flow;
    *flow = step.flow.or(before);
    let mut words = step.action.to_string();
    match (step.action, before, step.flow) {
        (Action::Translated, Some(before), Some(after)) => {
            let end = |ip, port| std::net::SocketAddr::new(ip, port);
            if (before.dst, before.dst_port) != (after.dst, after.dst_port) {
                let _infallible = write!(words, " to {}", end(after.dst, after.dst_port));
            }
            if (before.src, before.src_port) != (after.src, after.src_port) {
                let _infallible = write!(words, " from {}", end(after.src, after.src_port));
            }
        }
        (Action::Encapsulated, _, _) => {
            if let Some(outer) = &step.outer {
                let _infallible = write!(words, " in {} {} → {}", outer.kind, outer.src, outer.dst);
            }
        }
        _ => {}
    }
    match (step.cause, &step.reason) {
        (_, Some(reason)) => drop(write!(words, ", {reason}")),
        (Some(cause), None) => drop(write!(words, ", {cause}")),
        (None, None) => {}
    }
    if let (true, Some(object)) = (why && !step.action.continues(), &step.object) {
        let _infallible = write!(words, ": {object}");
    }
    words
}

fn is_at(step: &ComparedStep, fault: &FaultPoint) -> bool {
    let same = |step: &Step| {
        (&step.place.node, &step.place.netns, step.hook) == (&fault.node, &fault.netns, fault.hook)
            && (step.device.is_none() || fault.device.is_none() || step.device == fault.device)
    };
    let hidden_or_dead = !matches!(step.agreement, Agreement::Seen | Agreement::Unexpected);
    (hidden_or_dead || step.predicted.as_ref().is_some_and(|step| step.cause.is_some()))
        && (step.predicted.as_ref().is_some_and(same) || step.observed.as_ref().is_some_and(same))
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
        let cells = format!(
            "{:<hooks$}  {:<devices$}  {:<predictions$}  {}",
            row.hook.name(),
            row.device,
            row.predicted,
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
