//! What drawings of a check and of a prediction have in common: the ways, and the words around them.

use waymark_controller::Prediction;
use waymark_proto::{CheckResult, Direction, Language, Text, Verdict, text};

use super::rows::{Row, Rows, predicted};
use super::sentence::sentence;
use super::{answer_title, branch_title, counts, ends, walk};

/// How good the news is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Odd,
}

impl From<Verdict> for Tone {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Reachable => Self::Good,
            Verdict::Unreachable => Self::Bad,
            Verdict::Inconsistent | Verdict::Undetermined => Self::Odd,
        }
    }
}

/// What is to be drawn.
pub(super) struct Drawing<'a> {
    /// One word: the answer.
    pub(super) answer: String,
    pub(super) tone: Tone,
    /// From where to where.
    pub(super) title: String,
    /// More about it.
    pub(super) subtitle: String,
    /// Where and why it ends, and what to do.
    pub(super) fault: Vec<String>,
    pub(super) ways: Vec<Way<'a>>,
    pub(super) language: Language,
}

/// One walk.
pub(super) struct Way<'a> {
    pub(super) title: String,
    /// Whether it is that of the answer.
    pub(super) back: bool,
    /// How likely it is, 0 to 1.
    pub(super) probability: f64,
    pub(super) rows: Vec<Row<'a>>,
    /// The most packets that any step saw; 0 in a prediction.
    pub(super) packets: u32,
}

impl<'a> Drawing<'a> {
    /// Of the result of a check.
    pub(super) fn of_check(result: &'a CheckResult, language: Language) -> Self {
        let point = result.fault_point.as_ref();
        let there = (text!(walk::There), Direction::Forward, Some(&result.forward));
        let back = (text!(walk::Back), Direction::Return, result.return_.as_ref());
        let ways = [there, back].into_iter().filter_map(|(way, direction, comparison)| {
            let comparison = comparison?;
            let rows = Rows::of(comparison, point.filter(|fault| fault.direction == direction));
            Some(Way {
                title: text!(walk::Titled { way, summary: walk::summary(comparison) }).say(language),
                back: direction == Direction::Return,
                probability: 1.0,
                rows: rows.all,
                packets: rows.packets,
            })
        });
        let labelled = |label: Text, words: &Text| text!(label::With { label, words }).say(language);
        let point = point.map(|fault| {
            vec![labelled(text!(label::Fault), &sentence(fault)), labelled(text!(label::Next), &fault.advice)]
        });
        Self {
            answer: result.verdict.words().say(language),
            tone: result.verdict.into(),
            title: ends(result).say(language),
            subtitle: text!(walk::Subtitle { counts: counts(result), check: result.check }).say(language),
            fault: point.unwrap_or_default(),
            ways: ways.collect(),
            language,
        }
    }

    /// Of a prediction.
    pub(super) fn of_prediction(prediction: &'a Prediction, language: Language) -> Self {
        let mut ways = Vec::new();
        let branches = &prediction.paths.branches;
        for (index, branch) in branches.iter().enumerate() {
            ways.push(Way {
                title: branch_title(index, branches.len(), branch).say(language),
                back: false,
                probability: branch.probability,
                rows: predicted(branch.path.steps()),
                packets: 0,
            });
            ways.extend(branch.answer.iter().map(|answer| Way {
                title: answer_title(answer).say(language),
                back: true,
                probability: branch.probability * answer.probability,
                rows: predicted(answer.path.steps()),
                packets: 0,
            }));
        }
        Self {
            answer: text!(prediction::Word).say(language),
            tone: crate::foreseen(prediction).into(),
            title: format!("{} → {}", prediction.source, prediction.destination),
            subtitle: prediction.flow.to_string(),
            fault: Vec::new(),
            ways,
            language,
        }
    }
}

impl Way<'_> {
    /// The share of the packets that came to a step, where it is another than before; for a comparison.
    pub(super) fn share(&self, index: usize) -> Option<Text> {
        let packets = self.rows[index].packets?;
        let before = self.rows[..index].iter().rev().find_map(|row| row.packets).unwrap_or(self.packets);
        (self.packets > 0 && packets != before)
            .then(|| text!(walk::PacketsOf { some: packets, all: self.packets }))
    }
}
