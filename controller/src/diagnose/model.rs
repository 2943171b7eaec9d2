//! Where the prediction was wrong: it has all packets die, and some arrived.

use waymark_proto::{Branch, Direction, Step, Text, text};

use super::locate::Fate;
use super::{Case, Packet};

impl Case<'_> {
    /// Where the prediction has all packets die and some arrived.
    pub(super) fn model_errors(&self, packets: &[Packet<'_>]) -> Vec<Text> {
        let mut errors = Vec::new();
        let mut judge = |branches: &[Branch], direction: Direction, arrived: usize| {
            // A branch that is not known to die may be the one that was taken.
            let deaths: Option<Vec<Step>> =
                branches.iter().map(|branch| self.predicted_death(&branch.path, direction)).collect();
            if let Some(death) = deaths.as_ref().and_then(|deaths| deaths.first())
                && arrived > 0
            {
                let (at, cause, object) = (death.at(), death.cause, death.object.as_ref());
                errors.push(match direction {
                    Direction::Forward => text!(note::ModelError { at, cause, object, arrived }),
                    Direction::Return => text!(note::ModelErrorAnswers { at, cause, object, arrived }),
                });
            }
        };
        let ordinary =
            || packets.iter().filter(|packet| std::ptr::eq(self.prediction_of(packet.sent), self.prediction));
        let delivered = ordinary().filter(|packet| packet.forward.fate == Fate::Delivered).count();
        judge(&self.prediction.branches, Direction::Forward, delivered);
        let answered: Vec<&Packet<'_>> =
            ordinary().filter(|p| p.back.as_ref().is_some_and(|leg| leg.fate == Fate::Delivered)).collect();
        if let Some((branch, _)) = answered.first().and_then(|packet| packet.forward.fit.as_ref()) {
            judge(&branch.answer, Direction::Return, answered.len());
        }
        errors
    }
}
