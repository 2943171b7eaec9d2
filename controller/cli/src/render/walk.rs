//! The steps of a walk in columns, all of them or those that matter.

use std::fmt::Write;

use waymark_proto::{
    CheckResult, FaultPoint, Hook, NetnsName, NodeName, NotObservable, Observability, Step, Text,
    WalkComparison, text, texts,
};

use super::circle::Circle;
use super::rows::{Mark, Row, Rows, predicted as predicted_rows};
use super::text::{padded, width};
use super::{Paint, line};

/// `predicted delivered, observed dropped; 3 packets took this one of 2 branches`
pub(super) fn summary(walk: &WalkComparison) -> Text {
    text!(walk::Summary {
        predicted: walk.predicted.map(waymark_proto::Disposition::words),
        observed: walk.observed.words(),
        packets: walk.steps.iter().map(|step| step.packets).max().unwrap_or(0),
        branches: walk.branches,
    })
}

/// Writes every step of a comparison. What lies behind the fault is cut short.
pub(super) fn whole(out: &mut String, walk: &WalkComparison, fault: Option<&FaultPoint>, paint: Paint) {
    let rows = Rows::of(walk, fault);
    table(out, &rows.all[..rows.telling], paint);
    if rows.telling < rows.all.len() {
        let more = text!(walk::MoreSteps { steps: rows.all.len() - rows.telling });
        line!(out, "{}", paint.faint(&format!("  {}", paint.say(&more))));
    }
}

/// Writes a line for each node, and the steps around the fault.
pub(super) fn brief(out: &mut String, walk: &WalkComparison, fault: Option<&FaultPoint>, paint: Paint) {
    let rows = Rows::of(walk, fault);
    let nodes = rows.all.iter().map(|row| width(row.place.node.as_str())).max().unwrap_or(0);
    let hops = hops(&rows.all);
    let circle = Circle::of(&hops, |hop| (hop.node, hop.mark, &hop.words));
    for (index, hop) in hops.iter().enumerate() {
        if circle.begins(index) {
            line!(out, "    {}", paint.faint(&paint.say(&text!(walk::MoreTurns { turns: circle.turns }))));
        }
        if circle.hides(index) {
            continue;
        }
        let mark = hop.mark.paint(hop.mark.symbol(), paint);
        line!(out, "  {mark} {}  {}", padded(hop.node, nodes), paint.say(&hop.words));
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
    pub(super) words: Text,
}

/// The hops of rows.
pub(super) fn hops<'a>(rows: &'a [Row<'_>]) -> Vec<Hop<'a>> {
    rows.chunk_by(|a, b| a.place.node == b.place.node).map(hop).collect()
}

fn hop<'a>(rows: &'a [Row<'_>]) -> Hop<'a> {
    let count = |mark: Mark| rows.iter().filter(|row| row.mark == mark).count();
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
    let mut words: Vec<Text> = Vec::new();
    if seen + unexpected + partly > 0 || !(ends || missing) {
        words.push(text!(walk::StepsSeen { steps: seen + unexpected + partly }));
    }
    if unexpected > 0 {
        words.push(text!(walk::NotPredicted { steps: unexpected }));
    }
    if partly > 0 {
        words.push(text!(walk::SomePackets { steps: partly }));
    }
    if ends {
        words.push(text!(walk::EndsHere));
    } else if behind {
        words.push(text!(walk::LostBehind));
    } else if missing {
        words.push(if known { text!(walk::RestNotSeen) } else { text!(walk::NotSeenHere) });
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
        words = vec![text!(walk::NobodySees)];
    }
    Hop { mark, node: rows[0].place.node.as_str(), words: text!(walk::Clauses { items: words }) }
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
    let widest = |cell: &dyn Fn(&Row<'_>) -> usize| rows.iter().map(cell).max().unwrap_or(0);
    let hooks = widest(&|row| width(row.hook.name()));
    let devices = widest(&|row| width(row.device));
    let predictions = widest(&|row| width(&row.predicted(paint.language))).min(40);
    let mut place = None;
    let circle = Circle::of(rows, |row| (row.place, row.hook, row.device, row.mark));
    for (index, row) in rows.iter().enumerate() {
        if circle.begins(index) {
            line!(out, "    {}", paint.faint(&paint.say(&text!(walk::MoreTurns { turns: circle.turns }))));
            place = None;
        }
        if circle.hides(index) {
            continue;
        }
        if place != Some(row.place) {
            place = Some(row.place);
            let words = text!(walk::Netns { node: &row.place.node, netns: &row.place.netns });
            line!(out, "  {}", paint.strong(&paint.say(&words)));
        }
        let predicted = row.predicted.as_ref().map_or_else(|| "–".to_owned(), |text| paint.say(text));
        let cells = format!(
            "{}  {}  {}  {}",
            padded(row.hook.name(), hooks),
            padded(row.device, devices),
            padded(&predicted, predictions),
            row.observed(paint.language)
        );
        line!(out, "    {} {}", row.mark.paint(row.mark.symbol(), paint), cells.trim_end());
    }
}

/// Remarks about hooks that are normally seen and here were not: one for all that have the same reason.
pub(super) fn out_of_sight(result: &CheckResult) -> Vec<Text> {
    let mut unseen: Vec<(&NodeName, Option<&NetnsName>, &Text, Vec<&str>)> = Vec::new();
    for NotObservable { node, report } in &result.not_observable {
        let usual = report.hook.is_netfilter()
            || matches!(report.hook, Hook::Qdisc | Hook::DriverTx | Hook::DriverRx);
        let Observability::NotObservable { why } = &report.observability else { continue };
        // A first look that was light is not worth a word if there was nothing to look for.
        if !usual || why.is::<texts::note::NotAsked>() {
            continue;
        }
        let (netns, hook) = (report.netns.as_ref(), report.hook.name());
        match unseen
            .iter_mut()
            .find(|(at, within, because, _)| (*at, *within, *because) == (node, netns, why))
        {
            Some((.., hooks)) => hooks.push(hook),
            None => unseen.push((node, netns, why, vec![hook])),
        }
    }
    let note = |(node, netns, why, hooks): (_, _, _, Vec<&str>)| {
        text!(note::OutOfSight { node, netns, hooks: hooks.join(", "), why })
    };
    unseen.into_iter().map(note).collect()
}
