//! Watches and targets as plain text.

use std::fmt::Write;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use waymark_controller::watching::{TargetState, TargetStatus, WatchList, WatchSpec, WatchStatus};

use super::{every, words};
use crate::render::Paint;

/// What a new watch does.
pub(super) fn started(spec: &WatchSpec, list: &WatchList, paint: Paint) -> String {
    let targets: usize = list.watches.iter().map(|watch| watch.targets.len()).sum();
    let noun = if targets == 1 { "target" } else { "targets" };
    let mut out = format!(
        "watch {} probes {targets} {noun} every {}; see `waymark watch top {}`\n",
        paint.strong(&spec.name),
        every(spec),
        spec.name
    );
    problems(&mut out, &list.watches, paint);
    out
}

/// One line per watch.
pub(super) fn watches(list: &WatchList, paint: Paint) -> String {
    if list.watches.is_empty() {
        return "no watches; start one with `waymark watch start`\n".to_owned();
    }
    let mut table =
        plain(&["NAME", "FROM", "TO", "PROTO", "EVERY", "TARGETS", "UP", "DOWN", "UNSEEN", "OUTAGES", "AGE"]);
    for watch in &list.watches {
        let spec = &watch.spec;
        let count = |wanted: fn(&TargetState) -> bool| {
            watch.targets.iter().filter(|target| wanted(&target.state)).count().to_string()
        };
        let outages = list.outages.iter().filter(|outage| outage.watch == spec.name).count();
        table.add_row([
            spec.name.clone(),
            few(&spec.from),
            few(&spec.to),
            spec.protocol.map_or_else(|| "-".to_owned(), |protocol| protocol.to_string()),
            every(spec),
            watch.targets.len().to_string(),
            count(|state| matches!(state, TargetState::Up)),
            count(|state| matches!(state, TargetState::Down { .. })),
            count(|state| matches!(state, TargetState::Silent { .. } | TargetState::Refused { .. })),
            outages.to_string(),
            words::span(Duration::from_nanos(list.at_unix_ns.saturating_sub(watch.since_unix_ns))),
        ]);
    }
    let mut out = format!("{}\n", table.trim_fmt());
    problems(&mut out, &list.watches, paint);
    out
}

/// The head of the table of targets.
pub(super) const HEAD: [&str; 10] =
    ["SOURCE", "DESTINATION", "PROTO", "STATE", "SENT", "LOSS", "P50", "P90", "P99", "MAX"];

/// The cells of a target: the last minute, but the state.
pub(super) fn cells(target: &TargetStatus) -> [String; 10] {
    let rtt = |pick: fn(&waymark_controller::watching::RttSummary) -> u64| {
        target.recent.rtt.as_ref().map_or_else(|| "-".to_owned(), |rtt| words::rtt(pick(rtt)))
    };
    [
        target.source.clone(),
        target.destination.clone(),
        target.protocol.to_string(),
        target.state.name().to_owned(),
        target.recent.counts.sent.to_string(),
        words::loss(&target.recent),
        rtt(|rtt| rtt.p50_ns),
        rtt(|rtt| rtt.p90_ns),
        rtt(|rtt| rtt.p99_ns),
        rtt(|rtt| rtt.max_ns),
    ]
}

/// One line per target, then the outages.
pub(super) fn targets(list: &WatchList, paint: Paint) -> String {
    let mut out = String::new();
    for watch in &list.watches {
        let _infallible = writeln!(out, "{} (the last minute)", paint.strong(&watch.spec.name));
        let mut table = plain(&[&HEAD[..], &["ROUND TRIPS"]].concat());
        for target in &watch.targets {
            table.add_row(cells(target).into_iter().chain([words::bars(&target.recent_buckets)]));
        }
        for column in 4..HEAD.len() {
            table.column_mut(column).expect("of this table").set_cell_alignment(CellAlignment::Right);
        }
        let _infallible = writeln!(out, "{}", table.trim_fmt());
        for target in &watch.targets {
            if let TargetState::Silent { why } | TargetState::Refused { why } = &target.state {
                let ends = format!("{} → {}", target.source, target.destination);
                let _infallible = writeln!(out, "{} {ends}: {why}", paint.odd("Note:"));
            }
        }
    }
    if list.watches.is_empty() {
        out.push_str("no watches; start one with `waymark watch start`\n");
    }
    for outage in &list.outages {
        let words = words::outage(outage, list.at_unix_ns);
        let _infallible = writeln!(out, "{} {words}", paint.bad("Outage"));
    }
    problems(&mut out, &list.watches, paint);
    out
}

fn problems(out: &mut String, watches: &[WatchStatus], paint: Paint) {
    for watch in watches {
        for problem in &watch.problems {
            let _infallible = writeln!(out, "{} {}: {problem}", paint.odd("Note:"), watch.spec.name);
        }
    }
}

fn plain(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The first of some names, and how many more there are.
fn few(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}
