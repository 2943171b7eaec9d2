//! The result of a check as Markdown, as GitHub, GitLab and most trackers read it: what one pastes into an
//! incident.

use std::fmt::Write;

use waymark_proto::{CheckResult, Direction, FaultPoint, Verdict, WalkComparison};

use super::rows::{Row, Rows};
use super::sentence::sentence;
use super::{anomaly, counts, fault, intent, line, remarks, walk};

/// The document.
pub(super) fn markdown(result: &CheckResult) -> String {
    let mut out = String::new();
    let sign = match result.verdict {
        Verdict::Reachable => "✅",
        Verdict::Unreachable => "❌",
        Verdict::Inconsistent | Verdict::Undetermined => "⚠️",
    };
    line!(
        out,
        "{sign} **{}**: {} → {} ({}), {}",
        result.verdict,
        escaped(&result.source),
        escaped(&result.destination),
        result.flow.protocol,
        escaped(&counts(result))
    );
    if let Some(report) = &result.intent {
        line!(out, "\n**Intended:** {}", escaped(&intent::sentence(&report.intent)));
    }
    if let Some(point) = &result.fault_point {
        told(&mut out, result, point);
    }
    for anomaly in &result.anomalies {
        let name = anomaly.kind.name();
        line!(out, "\n**Beside that, {name}:** {}  ", escaped(&anomaly::sentence(anomaly)));
        line!(out, "**Next:** {}", commands(&anomaly.advice));
    }
    if let Some(report) = &result.intent {
        let rest = report.deviations.iter().filter(|deviation| {
            !result.fault_point.as_ref().is_some_and(|point| point.evidence.contains(&deviation.summary))
        });
        for deviation in rest {
            let culprit = escaped(&deviation.culprit.to_string());
            line!(out, "\n**Not as intended:** {} (culprit: {culprit})  ", escaped(&deviation.summary));
            line!(out, "**Next:** {}", commands(&deviation.advice));
        }
    }
    let there = ("The way there", Direction::Forward, Some(&result.forward));
    let back = ("The way back", Direction::Return, result.return_.as_ref());
    for (title, direction, comparison) in [there, back] {
        let Some(comparison) = comparison else { continue };
        let point = result.fault_point.as_ref().filter(|fault| fault.direction == direction);
        way(&mut out, title, comparison, point);
    }
    let errors = result.model_errors.iter().map(|error| format!("The prediction was wrong: {error}"));
    let remarks: Vec<String> = errors.chain(remarks(result)).collect();
    if !remarks.is_empty() {
        line!(out, "\n**Notes**\n");
    }
    for remark in remarks {
        line!(out, "- {}", commands(&remark));
    }
    line!(out, "\n<sub>Waymark check {}</sub>", result.check);
    out
}

/// The fault, with all that belongs to it.
fn told(out: &mut String, result: &CheckResult, point: &FaultPoint) {
    line!(out, "\n**Fault:** {}", escaped(&sentence(point)));
    let culprit = point.culprit.as_ref().map(|culprit| ("Culprit", culprit.to_string()));
    let object = point.object.as_ref().map(|object| ("Object", object.clone()));
    let loss = result.loss.as_ref().map(|loss| {
        ("Loss", format!("{} of the packets that came there; {}", loss.share, fault::pattern(loss)))
    });
    let told: Vec<(&str, String)> = [culprit, object, loss].into_iter().flatten().collect();
    if !told.is_empty() {
        line!(out);
    }
    for (name, words) in told {
        line!(out, "- {name}: {}", escaped(&words));
    }
    let confidence = fault::confidence(point.confidence);
    line!(out, "\n**Evidence** (confidence {confidence})\n");
    for evidence in &point.evidence {
        line!(out, "- {}", commands(evidence));
    }
    line!(out, "\n**Next:** {}", commands(&point.advice));
}

/// One direction: the steps around the end, and all of them for those who open them.
fn way(out: &mut String, title: &str, comparison: &WalkComparison, point: Option<&FaultPoint>) {
    let rows = Rows::of(comparison, point);
    let (end, summary) = (rows.around_the_end(), walk::summary(comparison));
    line!(out, "\n**{title}:** {summary}\n");
    for hop in walk::hops(&rows.all) {
        line!(out, "- {} {}: {}", hop.mark.symbol(), escaped(hop.node), hop.words);
    }
    if !end.is_empty() {
        line!(out);
        table(out, end);
    }
    line!(out, "\n<details><summary>{title}, step by step</summary>\n");
    table(out, &rows.all);
    line!(out, "\n</details>");
}

fn table(out: &mut String, rows: &[Row<'_>]) {
    line!(out, "| | node | netns | hook | device | predicted | observed |");
    line!(out, "|---|---|---|---|---|---|---|");
    for row in rows {
        let cells = [
            row.place.node.as_str(),
            row.place.netns.as_str(),
            row.hook.name(),
            row.device,
            &row.predicted,
            &row.observed,
        ];
        let cells = cells.map(escaped).join(" | ");
        line!(out, "| {} | {cells} |", row.mark.symbol());
    }
}

/// A text of which no character means anything.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, character) in text.char_indices() {
        let link = match character {
            ':' => text[index..].starts_with("://"),
            '.' => text[..index].to_ascii_lowercase().ends_with("www"),
            _ => false,
        };
        match character {
            _ if link => out.extend(['\\', character]),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // Within words, where they mean nothing anyway, these would only make the source hard to read; at the
            // beginning of a line no text of ours stands.
            '-' | '.' | ',' | ':' | '/' | '(' | ')' | '=' | '%' | ';' | '?' | '\'' => out.push(character),
            other if other.is_ascii_punctuation() => out.extend(['\\', other]),
            other => out.push(other),
        }
    }
    out
}

/// A sentence with commands between backticks, which stay commands; all else means nothing.
fn commands(text: &str) -> String {
    let pieces: Vec<&str> = text.split('`').collect();
    if pieces.len().is_multiple_of(2) {
        return escaped(text);
    }
    let piece = |(index, piece): (usize, &&str)| match (index % 2, piece.trim()) {
        (1, command) if !command.is_empty() => format!("`{command}`"),
        (1, _) => String::new(),
        _ => escaped(piece),
    };
    pieces.iter().enumerate().map(piece).collect()
}
