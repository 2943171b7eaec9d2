//! Outages: from streaks of failures to what people want to know about them. Pure.

use serde::{Deserialize, Serialize};
use waymark_proto::{CheckResult, FaultPoint, Protocol, Streak, Verdict};

/// A time in which a target failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// Number, counted by the controller from 1.
    pub id: u64,
    /// The watch.
    pub watch: String,
    /// The source.
    pub source: String,
    /// The destination.
    pub destination: String,
    /// The protocol.
    pub protocol: Protocol,
    /// Whether over IPv6.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6: bool,
    /// When the first failed probe was sent, in nanoseconds since the Unix epoch.
    pub since_unix_ns: u64,
    /// When the first probe that was answered again was sent, as far as an agent saw that; else when the target
    /// was given up or the next agent had answers. Absent while the outage lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_ns: Option<u64>,
    /// How many probes failed.
    pub failures: u64,
    /// What the check says that it triggered.
    pub check: OutageCheck,
}

impl Outage {
    /// How long it lasted, or lasts at that time, in nanoseconds.
    pub fn length_ns(&self, now_unix_ns: u64) -> u64 {
        self.until_unix_ns.unwrap_or(now_unix_ns).saturating_sub(self.since_unix_ns)
    }
}

/// The check that an outage triggers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "state")]
pub enum OutageCheck {
    /// It waits for its turn.
    Waiting,
    /// It is under way.
    Running,
    /// It ended.
    Done {
        /// When, in nanoseconds since the Unix epoch.
        at_unix_ns: u64,
        /// What it found.
        result: Box<CheckResult>,
    },
    /// It ended, and so many outages were examined since that the most of what it found was forgotten.
    Outlined {
        /// When, in nanoseconds since the Unix epoch.
        at_unix_ns: u64,
        /// Its answer.
        verdict: Verdict,
        /// Where and why it fails.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault_point: Option<Box<FaultPoint>>,
    },
    /// It gave no result.
    Failed {
        /// Why, as a sentence.
        message: String,
    },
    /// It was not run.
    Skipped {
        /// Why, as a sentence.
        message: String,
    },
}

impl OutageCheck {
    /// Keeps the answer and the fault point of a result, and forgets the walks.
    pub(super) fn outline(&mut self) {
        if let Self::Done { at_unix_ns, result } = self {
            let fault_point = result.fault_point.take().map(Box::new);
            *self = Self::Outlined { at_unix_ns: *at_unix_ns, verdict: result.verdict, fault_point };
        }
    }
}

/// What a report changes in the outages of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A new one.
    Opened(Streak),
    /// More failures of the one that lasts, or its end.
    Went(Streak),
}

/// What the streaks of a report change, given since when the outage that lasts does.
pub(super) fn changes(lasting: Option<u64>, streaks: &[Streak]) -> Vec<Change> {
    let known = |streak: &Streak| lasting == Some(streak.since_unix_ns);
    streaks.iter().map(|&s| if known(&s) { Change::Went(s) } else { Change::Opened(s) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_opens_goes_on_and_ends() {
        let streak =
            |since_unix_ns, failures, until_unix_ns| Streak { since_unix_ns, failures, until_unix_ns };
        let (begun, ended, next) = (streak(10, 3, None), streak(10, 5, Some(90)), streak(100, 4, None));
        assert_eq!(changes(None, &[begun]), [Change::Opened(begun)]);
        assert_eq!(changes(Some(10), &[ended, next]), [Change::Went(ended), Change::Opened(next)]);
        assert_eq!(changes(Some(10), &[]), []);
    }
}
