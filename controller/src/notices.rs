//! What whoever runs the controller should know, a sentence each: logged once, and shown by `waymark status`
//! as long as it is so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The notices. Cheap to clone; all clones are one board.
#[derive(Clone, Debug, Default)]
pub struct Notices(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Notices {
    /// Says something about a subject, instead of what was said about it before.
    pub fn say(&self, subject: &'static str, sentence: impl Into<String>) {
        let sentence = sentence.into();
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if board.get(subject) != Some(&sentence) {
            tracing::warn!("{sentence}");
            board.insert(subject, sentence);
        }
    }

    /// All is well with a subject.
    pub fn withdraw(&self, subject: &'static str) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if board.remove(subject).is_some() {
            tracing::info!("{subject}: all is well again");
        }
    }

    /// What there is to know now.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_one_sentence_at_most() {
        let notices = Notices::default();
        notices.say("b", "the first");
        notices.clone().say("b", "the second");
        notices.say("a", "another");
        assert_eq!(notices.all(), ["another", "the second"]);
        notices.withdraw("b");
        notices.withdraw("c");
        assert_eq!(notices.all(), ["another"]);
    }
}
