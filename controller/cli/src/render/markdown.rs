//! The result of a check as Markdown, as GitHub, GitLab and most trackers read it: what one pastes into an
//! incident.

use std::fmt::Write;

use waymark_proto::{CheckResult, Direction, FaultPoint, Language, Text, Verdict, WalkComparison, text};

use super::rows::{Row, Rows};
use super::sentence::sentence;
use super::{after_verdict, fault, intent, line, remarks, walk};

/// The document.
pub(super) fn markdown(result: &CheckResult, language: Language) -> String {
    Page { out: String::new(), language }.of(result)
}

/// A document in the making.
struct Page {
    out: String,
    language: Language,
}

impl Page {
    fn of(mut self, result: &CheckResult) -> String {
        let sign = match result.verdict {
            Verdict::Reachable => "✅",
            Verdict::Unreachable => "❌",
            Verdict::Inconsistent | Verdict::Undetermined => "⚠️",
        };
        let (verdict, rest) = (self.say(&result.verdict.words()), escaped(&self.say(&after_verdict(result))));
        line!(self.out, "{sign} **{verdict}**{rest}");
        if let Some(report) = &result.intent {
            self.labelled(&text!(label::Intended), &escaped(&self.say(&intent::sentence(&report.intent))));
        }
        if let Some(point) = &result.fault_point {
            self.fault(result, point);
        }
        for anomaly in &result.anomalies {
            let label = text!(label::BesideThat { anomaly: anomaly.kind.words() });
            self.finding(&label, &escaped(&self.say(&anomaly.sentence())), &anomaly.advice);
        }
        if let Some(report) = &result.intent {
            let rest = report.deviations.iter().filter(|deviation| {
                !result.fault_point.as_ref().is_some_and(|point| point.evidence.contains(&deviation.summary))
            });
            for deviation in rest {
                let words =
                    text!(label::CulpritIs { summary: &deviation.summary, culprit: &deviation.culprit });
                let words = escaped(&self.say(&words));
                self.finding(&text!(label::NotAsIntended), &words, &deviation.advice);
            }
        }
        let there = (text!(walk::There), Direction::Forward, Some(&result.forward));
        let back = (text!(walk::Back), Direction::Return, result.return_.as_ref());
        for (title, direction, comparison) in [there, back] {
            let Some(comparison) = comparison else { continue };
            let point = result.fault_point.as_ref().filter(|fault| fault.direction == direction);
            self.way(&title, comparison, point);
        }
        self.notes(result);
        let check = text!(label::CheckNumber { check: result.check });
        line!(self.out, "\n<sub>{}</sub>", self.say(&check));
        self.out
    }

    fn say(&self, text: &Text) -> String {
        text.say(self.language)
    }

    /// A paragraph that begins with a label. The words are Markdown.
    fn labelled(&mut self, label: &Text, words: &str) {
        line!(self.out, "\n**{}** {words}", self.say(label));
    }

    /// The same with what to do about it.
    fn finding(&mut self, label: &Text, words: &str, advice: &Text) {
        self.labelled(label, &format!("{words}  "));
        line!(self.out, "**{}** {}", self.say(&text!(label::Next)), commands(&self.say(advice)));
    }

    /// The fault, with all that belongs to it.
    fn fault(&mut self, result: &CheckResult, point: &FaultPoint) {
        self.labelled(&text!(label::Fault), &escaped(&self.say(&sentence(point))));
        let culprit = point.culprit.as_ref().map(|culprit| Text::verbatim(culprit.to_string()));
        let loss = result.loss.as_ref().map(|loss| {
            let share = text!(loss::OfPackets { share: loss.share.words() });
            text!(loss::AndPattern { loss: share, pattern: fault::pattern(loss) })
        });
        let told = [
            (text!(label::Culprit), culprit),
            (text!(label::Object), point.object.clone()),
            (text!(label::Loss), loss),
        ];
        let told: Vec<(Text, Text)> =
            told.into_iter().filter_map(|(label, words)| Some((label, words?))).collect();
        if !told.is_empty() {
            line!(self.out);
        }
        for (label, words) in told {
            line!(self.out, "- {} {}", self.say(&label), escaped(&self.say(&words)));
        }
        let confidence = text!(label::WithConfidence {
            confidence: fault::how_sure(point.confidence),
            ground: point.ground.as_ref(),
        });
        let heading = self.say(&text!(label::EvidenceHeading));
        line!(self.out, "\n**{heading}** {}\n", escaped(&self.say(&confidence)));
        for evidence in &point.evidence {
            line!(self.out, "- {}", commands(&self.say(evidence)));
        }
        self.labelled(&text!(label::Next), &commands(&self.say(&point.advice)));
    }

    /// One direction: the steps around the end, and all of them for those who open them.
    fn way(&mut self, title: &Text, comparison: &WalkComparison, point: Option<&FaultPoint>) {
        let rows = Rows::of(comparison, point);
        let label = text!(label::Of { words: title });
        self.labelled(&label, &format!("{}\n", self.say(&walk::summary(comparison))));
        for hop in walk::hops(&rows.all) {
            let words = text!(label::With { label: text!(label::Of { words: hop.node }), words: hop.words });
            line!(self.out, "- {} {}", hop.mark.symbol(), escaped(&self.say(&words)));
        }
        let end = rows.around_the_end();
        if !end.is_empty() {
            line!(self.out);
            self.table(end);
        }
        let summary = self.say(&text!(label::StepByStep { way: title }));
        line!(self.out, "\n<details><summary>{summary}</summary>\n");
        self.table(&rows.all);
        line!(self.out, "\n</details>");
    }

    fn table(&mut self, rows: &[Row<'_>]) {
        line!(self.out, "{}", self.say(&text!(label::TableHead)));
        line!(self.out, "|---|---|---|---|---|---|---|");
        for row in rows {
            let cells = [
                row.place.node.as_str(),
                row.place.netns.as_str(),
                row.hook.name(),
                row.device,
                &row.predicted(self.language),
                &row.observed(self.language),
            ];
            let cells = cells.map(escaped).join(" | ");
            line!(self.out, "| {} | {cells} |", row.mark.symbol());
        }
    }

    fn notes(&mut self, result: &CheckResult) {
        let wrong = |error| text!(label::With { label: text!(label::PredictionWrong), words: error });
        let remarks: Vec<Text> = result.model_errors.iter().map(wrong).chain(remarks(result)).collect();
        if !remarks.is_empty() {
            line!(self.out, "\n**{}**\n", self.say(&text!(label::NotesHeading)));
        }
        for remark in remarks {
            line!(self.out, "- {}", commands(&self.say(&remark)));
        }
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
