//! What drawings of a check and of a prediction have in common: the ways, and the words around them.

use waymark_controller::Prediction;
use waymark_proto::{CheckResult, Direction, Verdict};

use super::rows::{Row, Rows, predicted};
use super::sentence::sentence;
use super::{counts, listed, walk};

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
    pub(super) fn of_check(result: &'a CheckResult) -> Self {
        let point = result.fault_point.as_ref();
        let there = ("The way there", Direction::Forward, Some(&result.forward));
        let back = ("The way back", Direction::Return, result.return_.as_ref());
        let ways = [there, back].into_iter().filter_map(|(title, direction, comparison)| {
            let comparison = comparison?;
            let rows = Rows::of(comparison, point.filter(|fault| fault.direction == direction));
            Some(Way {
                title: format!("{title}: {}", walk::summary(comparison)),
                back: direction == Direction::Return,
                probability: 1.0,
                rows: rows.all,
                packets: rows.packets,
            })
        });
        let point =
            point.map(|fault| vec![format!("Fault: {}", sentence(fault)), format!("Next: {}", fault.advice)]);
        Self {
            answer: result.verdict.to_string(),
            tone: result.verdict.into(),
            title: format!("{} → {} ({})", result.source, result.destination, result.flow.protocol),
            subtitle: format!("{}, check {}", counts(result), result.check),
            fault: point.unwrap_or_default(),
            ways: ways.collect(),
        }
    }

    /// Of a prediction.
    pub(super) fn of_prediction(prediction: &'a Prediction) -> Self {
        let mut ways = Vec::new();
        let branches = &prediction.paths.branches;
        for (index, branch) in branches.iter().enumerate() {
            let title = format!(
                "Branch {} of {}, {:.0} %{}: {}",
                index + 1,
                branches.len(),
                branch.probability * 100.0,
                listed(&branch.choices),
                branch.path.disposition()
            );
            ways.push(Way {
                title,
                back: false,
                probability: branch.probability,
                rows: predicted(branch.path.steps()),
                packets: 0,
            });
            ways.extend(branch.answer.iter().map(|answer| Way {
                title: format!("The answer{}: {}", listed(&answer.choices), answer.path.disposition()),
                back: true,
                probability: branch.probability * answer.probability,
                rows: predicted(answer.path.steps()),
                packets: 0,
            }));
        }
        Self {
            answer: "Predicted".to_owned(),
            tone: crate::foreseen(prediction).into(),
            title: format!("{} → {}", prediction.source, prediction.destination),
            subtitle: prediction.flow.to_string(),
            fault: Vec::new(),
            ways,
        }
    }
}

impl Way<'_> {
    /// The share of the packets that came to a step, where it is another than before; for a comparison.
    pub(super) fn share(&self, index: usize) -> Option<String> {
        let packets = self.rows[index].packets?;
        let before = self.rows[..index].iter().rev().find_map(|row| row.packets).unwrap_or(self.packets);
        (self.packets > 0 && packets != before).then(|| format!("{packets} of {}", self.packets))
    }
}
