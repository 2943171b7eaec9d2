//! What whoever runs the controller should know, a sentence each: logged once, and shown by `waymark status`
//! as long as it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The notices. Cheap to clone; all clones are one board.
#[derive(Clone, Debug, Default)]
pub struct Notices(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    /// What each speaker says about a subject. Speakers are numbered as they come.
    said: BTreeMap<(&'static str, u64), String>,
    speakers: u64,
}

/// One speaker's trouble with a subject. It is on the board until it is over, or until nobody is left whose
/// trouble it is: a dropped notice is withdrawn.
#[derive(Debug)]
pub struct Notice {
    board: Notices,
    key: (&'static str, u64),
}

impl Notices {
    /// Somebody who may have trouble with a subject, and has none yet.
    pub fn about(&self, subject: &'static str) -> Notice {
        let mut board = self.lock();
        board.speakers += 1;
        Notice { key: (subject, board.speakers), board: self.clone() }
    }

    /// What there is to know now. What many say about a subject stands here once.
    pub fn all(&self) -> Vec<String> {
        let board = self.lock();
        let sentences: BTreeSet<_> =
            board.said.iter().map(|((subject, _), sentence)| (*subject, sentence.as_str())).collect();
        sentences.into_iter().map(|(_, sentence)| sentence.to_owned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// What is said about a subject, by whoever.
    fn about(&self, subject: &'static str) -> impl Iterator<Item = &String> {
        self.said.range((subject, 0)..=(subject, u64::MAX)).map(|(_, sentence)| sentence)
    }
}

impl Notice {
    /// Says what the trouble is, instead of what it was before.
    pub fn say(&self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        let mut board = self.board.lock();
        if !board.about(self.key.0).any(|said| *said == sentence) {
            tracing::warn!("{sentence}");
        }
        board.said.insert(self.key, sentence);
    }

    /// The trouble is over.
    pub fn withdraw(&self) {
        let mut board = self.board.lock();
        if board.said.remove(&self.key).is_some() && board.about(self.key.0).next().is_none() {
            tracing::info!("{}: all is well again", self.key.0);
        }
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speaker_says_one_sentence_at_a_time() {
        let notices = Notices::default();
        let (watching, writing) = (notices.about("watching"), notices.about("writing"));
        assert_eq!(notices.all(), [""; 0]);
        writing.say("the first");
        writing.say("the second");
        watching.say("another");
        assert_eq!(notices.all(), ["another", "the second"]);
        writing.withdraw();
        assert_eq!(notices.all(), ["another"]);
    }

    #[test]
    fn the_trouble_of_many_is_told_once_and_until_the_last_is_without_it() {
        let notices = Notices::default();
        let (one, other) = (notices.about("writing"), notices.about("writing"));
        one.say("not permitted");
        other.say("not permitted");
        assert_eq!(notices.all(), ["not permitted"]);
        one.withdraw();
        assert_eq!(notices.all(), ["not permitted"]);
        drop(other);
        assert_eq!(notices.all(), [""; 0], "nobody is left whose trouble it is");
    }
}
