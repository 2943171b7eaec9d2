//! What a check before and a check after a change say, held against the prediction: a table.

use serde::Serialize;
use waymark_proto::{Text, Verdict, text};
use waymark_sim::Reach;

/// What became of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Judgement {
    /// As predicted, and nothing is lost that somebody wants.
    AsPredicted,
    /// As predicted: it worked and does not any more, and nobody said that this is wanted.
    Lost,
    /// It worked, it should still work, and it does not.
    Broken,
    /// It should work now, and does not.
    NotOpened,
    /// It should not work now, and does.
    NotEnforced,
    /// It should work, and worked neither before nor after.
    StillBroken,
    /// It should not work, and worked before and after.
    StillOpen,
    /// A check could not tell.
    Undetermined,
}

/// How a connection was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Seen {
    /// It works.
    Works,
    /// It works for some packets only.
    Sometimes,
    /// It does not work.
    Fails,
    /// It was not to be seen.
    Unseen,
}

impl Seen {
    /// The word in text.
    pub fn words(self) -> Text {
        match self {
            Self::Works => text!(seen::Works),
            Self::Sometimes => text!(seen::Sometimes),
            Self::Fails => text!(seen::Fails),
            Self::Unseen => text!(seen::Unseen),
        }
    }
}

impl From<Verdict> for Seen {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Reachable => Self::Works,
            Verdict::Inconsistent => Self::Sometimes,
            Verdict::Unreachable => Self::Fails,
            Verdict::Undetermined => Self::Unseen,
        }
    }
}

/// Whether the fate of a connection is the predicted one.
pub fn agrees(predicted: Reach, seen: Seen) -> bool {
    match (predicted, seen) {
        (Reach::Allowed, seen) => seen == Seen::Works,
        (Reach::Denied | Reach::NoEndpoints | Reach::Absent, seen) => seen == Seen::Fails,
        // Few packets may all go to backends of one kind.
        (Reach::Partly | Reach::Unknown, seen) => seen != Seen::Unseen,
    }
}

/// Judges a connection by what the objects ask for before (`intended`) and after (`predicted`), and what was
/// seen before and after; `accepted` if its loss is.
pub fn judge(intended: Reach, predicted: Reach, before: Seen, after: Seen, accepted: bool) -> Judgement {
    let worked = before == Seen::Works;
    match (predicted, after) {
        (_, Seen::Unseen) => Judgement::Undetermined,
        (Reach::Allowed, Seen::Works) => Judgement::AsPredicted,
        (Reach::Allowed, Seen::Sometimes | Seen::Fails) if worked => Judgement::Broken,
        (Reach::Allowed, Seen::Sometimes | Seen::Fails) if intended == Reach::Allowed => {
            Judgement::StillBroken
        }
        (Reach::Allowed, Seen::Sometimes | Seen::Fails) => Judgement::NotOpened,
        (Reach::Denied | Reach::NoEndpoints | Reach::Absent, Seen::Works | Seen::Sometimes) => {
            if intended == predicted && before != Seen::Fails {
                Judgement::StillOpen
            } else {
                Judgement::NotEnforced
            }
        }
        // What worked and does not is lost, however little was predicted.
        (_, Seen::Fails | Seen::Sometimes) if worked && !accepted => Judgement::Lost,
        (Reach::Denied | Reach::NoEndpoints | Reach::Absent, Seen::Fails)
        | (Reach::Partly | Reach::Unknown, Seen::Works | Seen::Sometimes | Seen::Fails) => {
            Judgement::AsPredicted
        }
    }
}

impl Judgement {
    /// Whether the change fails for this. What was wrong before, and still is, is told, but is not the
    /// change's fault.
    pub fn fails(self) -> bool {
        match self {
            Self::Lost | Self::Broken | Self::NotOpened | Self::NotEnforced | Self::Undetermined => true,
            Self::AsPredicted | Self::StillBroken | Self::StillOpen => false,
        }
    }

    /// In words that follow a connection.
    pub fn words(self) -> Text {
        match self {
            Self::AsPredicted => text!(judgement::AsPredicted),
            Self::Lost => text!(judgement::Lost),
            Self::Broken => text!(judgement::Broken),
            Self::NotOpened => text!(judgement::NotOpened),
            Self::NotEnforced => text!(judgement::NotEnforced),
            Self::StillBroken => text!(judgement::StillBroken),
            Self::StillOpen => text!(judgement::StillOpen),
            Self::Undetermined => text!(judgement::Undetermined),
        }
    }
}

impl std::fmt::Display for Judgement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds() {
        use Judgement as J;
        use Reach::{Allowed, Denied, NoEndpoints, Partly, Unknown};
        use Seen::{Fails, Sometimes, Unseen, Works};
        for (intended, predicted, before, after, accepted, judgement) in [
            (Allowed, Allowed, Works, Works, false, J::AsPredicted),
            (Allowed, Allowed, Works, Fails, false, J::Broken),
            (Allowed, Allowed, Works, Fails, true, J::Broken),
            (Allowed, Allowed, Works, Sometimes, false, J::Broken),
            (Allowed, Allowed, Fails, Fails, false, J::StillBroken),
            (Denied, Allowed, Fails, Works, false, J::AsPredicted),
            (Denied, Allowed, Fails, Fails, false, J::NotOpened),
            (NoEndpoints, Allowed, Fails, Fails, false, J::NotOpened),
            (Allowed, Denied, Works, Fails, false, J::Lost),
            (Allowed, Denied, Works, Fails, true, J::AsPredicted),
            (Allowed, Denied, Fails, Fails, false, J::AsPredicted),
            (Allowed, Denied, Works, Works, true, J::NotEnforced),
            (Allowed, Denied, Works, Sometimes, true, J::NotEnforced),
            (Denied, Denied, Works, Works, false, J::StillOpen),
            (Denied, Denied, Fails, Works, false, J::NotEnforced),
            (Denied, Denied, Fails, Fails, false, J::AsPredicted),
            (Allowed, Partly, Works, Sometimes, false, J::Lost),
            (Allowed, Partly, Works, Works, false, J::AsPredicted),
            (Allowed, Unknown, Works, Fails, false, J::Lost),
            (Allowed, Unknown, Fails, Fails, false, J::AsPredicted),
            (Allowed, Allowed, Works, Unseen, false, J::Undetermined),
        ] {
            let case = (intended, predicted, before, after, accepted);
            assert_eq!(judge(intended, predicted, before, after, accepted), judgement, "{case:?}");
        }
    }

    #[test]
    fn what_agrees_never_fails_but_for_losses() {
        let all = [Reach::Allowed, Reach::Partly, Reach::Denied, Reach::NoEndpoints, Reach::Unknown];
        let seen = [Seen::Works, Seen::Sometimes, Seen::Fails];
        for (intended, predicted, before, after) in every_case(all, seen) {
            let judgement = judge(intended, predicted, before, after, true);
            if agrees(predicted, after) {
                assert!(!judgement.fails(), "{intended} {predicted} {before:?} {after:?}: {judgement}");
            }
        }
    }

    fn every_case(all: [Reach; 5], seen: [Seen; 3]) -> Vec<(Reach, Reach, Seen, Seen)> {
        let mut cases = Vec::new();
        for intended in all {
            for predicted in all {
                for before in seen {
                    cases.extend(seen.map(|after| (intended, predicted, before, after)));
                }
            }
        }
        cases
    }
}
