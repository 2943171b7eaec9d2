//! Failures in a row: where outages begin and end.

use waymark_proto::{OUTAGE_FAILURES, Streak};

use super::pending::Fate;

/// Ended streaks that wait for a report; the oldest are forgotten. A target that comes and goes every few
/// seconds makes fewer in the longest lease.
const KEPT: usize = 256;

/// Watches the fates of one target's probes.
#[derive(Clone, Debug, Default)]
pub struct Streaks {
    /// Failures since the last answer: when the first was sent, and how many.
    current: Option<Streak>,
    /// Whether it changed since it was last told.
    news: bool,
    ended: Vec<Streak>,
}

impl Streaks {
    /// Takes the next fate, in the order of sending.
    pub fn add(&mut self, sent_unix_ns: u64, fate: Fate) {
        match fate {
            Fate::Failed => {
                let first = Streak { since_unix_ns: sent_unix_ns, failures: 0, until_unix_ns: None };
                self.current.get_or_insert(first).failures += 1;
                self.news = true;
            }
            Fate::Answered => {
                if let Some(streak) = self.current.take().filter(is_outage) {
                    if self.ended.len() == KEPT {
                        self.ended.remove(0);
                    }
                    self.ended.push(Streak { until_unix_ns: Some(sent_unix_ns), ..streak });
                }
            }
        }
    }

    /// Whether there is an outage now.
    pub fn is_out(&self) -> bool {
        self.current.as_ref().is_some_and(is_outage)
    }

    /// What began, went on or ended since this was last asked, oldest first.
    pub fn take(&mut self) -> Vec<Streak> {
        let mut news = std::mem::take(&mut self.ended);
        if std::mem::take(&mut self.news) {
            news.extend(self.current.filter(is_outage));
        }
        news
    }
}

fn is_outage(streak: &Streak) -> bool {
    streak.failures >= u64::from(OUTAGE_FAILURES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(fates: &str) -> Streaks {
        let mut streaks = Streaks::default();
        for (time, fate) in (1..).zip(fates.chars()) {
            streaks.add(time, if fate == '.' { Fate::Answered } else { Fate::Failed });
        }
        streaks
    }

    #[test]
    fn fewer_than_three_in_a_row_are_no_outage() {
        let mut streaks = after(".!!.!!.!");
        assert_eq!(streaks.take(), []);
        assert!(!streaks.is_out());
    }

    #[test]
    fn an_outage_lasts_from_the_first_failure_to_the_first_answer() {
        let mut streaks = after(".!!!!");
        assert!(streaks.is_out());
        assert_eq!(streaks.take(), [Streak { since_unix_ns: 2, failures: 4, until_unix_ns: None }]);
        assert_eq!(streaks.take(), [], "nothing new");
        streaks.add(6, Fate::Failed);
        streaks.add(7, Fate::Answered);
        streaks.add(8, Fate::Answered);
        assert_eq!(streaks.take(), [Streak { since_unix_ns: 2, failures: 5, until_unix_ns: Some(7) }]);
        assert!(!streaks.is_out());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut streaks = after(&"!!!.".repeat(KEPT + 5));
        let kept = streaks.take();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].since_unix_ns, 5 * 4 + 1);
    }
}
