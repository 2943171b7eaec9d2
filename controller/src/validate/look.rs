//! Checks of several connections at once, again and again until they show what they should.

use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::watch;
use waymark_proto::{Text, text};
use waymark_sim::{Pair, Reach};

use super::choose::Sample;
use super::expect::Expectations;
use super::judge::{Seen, agrees, judge};
use super::report::CheckReport;
use super::world::{Observation, Probe, ProbeError};

/// How many checks run at the same time: each arms tracers on several nodes.
const AT_ONCE: usize = 4;
/// Between two rounds of checks, so that checks which fail at once do not spin.
const PAUSE: Duration = Duration::from_millis(200);
/// How long connections that should not change at all are watched after a change: nothing tells when the
/// dataplane has taken it in.
const WATCHED: Duration = Duration::from_secs(3);

/// A signal to stop, raised once.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A signal and what raises it.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Whether it was raised.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when it is raised, and never if nobody can raise it any more.
    pub async fn stopped(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A connection with what was seen of it.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    pub(super) sample: Sample,
    pub(super) before: Observation,
    /// What was seen last.
    pub(super) now: Option<Observation>,
}

impl Looks {
    pub(super) fn new(sample: Sample, before: Observation) -> Self {
        Self { sample, before, now: None }
    }

    /// Whether it shows what was predicted; or what was wrong before stays as wrong as it was.
    pub(super) fn is_as_predicted(&self) -> bool {
        let Some(now) = &self.now else { return false };
        agrees(self.sample.predicted, now.seen) || (self.was_wrong() && now.seen == self.before.seen)
    }

    /// Whether it should not change, and was not as it should be before either.
    fn was_wrong(&self) -> bool {
        self.sample.before == self.sample.predicted && !agrees(self.sample.before, self.before.seen)
    }

    /// Whether it shows what it showed before.
    pub(super) fn is_as_before(&self) -> bool {
        // What was not there before is not there again, and cannot be checked.
        let was_absent = self.sample.before == Reach::Absent;
        self.now
            .as_ref()
            .is_some_and(|now| now.seen == self.before.seen || (was_absent && now.seen == Seen::Unseen))
    }

    /// Whether the change should make a difference to it.
    fn should_change(&self) -> bool {
        self.sample.before != self.sample.predicted
    }

    /// That it is not as it was.
    pub(super) fn not_back(&self) -> Text {
        let now = self.now.as_ref().map_or(Seen::Unseen, |now| now.seen);
        text!(validation::NotBack {
            pair: self.sample.pair.to_string(),
            before: format!("{:?}", self.before.seen),
            now: format!("{now:?}"),
        })
    }

    /// All about it.
    pub(super) fn report(&self, expectations: &Expectations) -> CheckReport {
        let Sample { pair, before, predicted } = self.sample.clone();
        let accepted = expectations.accepts_loss(&pair);
        let after = self.now.as_ref().map(|now| now.seen);
        CheckReport {
            judgement: after.map(|after| judge(before, predicted, self.before.seen, after, accepted)),
            pair,
            intended: before,
            before: self.before.seen,
            predicted,
            after,
            fault_point: self.now.as_ref().and_then(|now| now.fault.clone()),
            note: self.now.as_ref().and_then(|now| now.note.clone()),
        }
    }
}

/// Checks connections, several at once; of those that are not wanted, it is known that they do not work.
pub(super) async fn look(
    probe: &dyn Probe,
    pairs: &[&Pair],
    wanted: &(dyn Fn(usize) -> bool + Send + Sync),
) -> Vec<Result<Observation, ProbeError>> {
    let nothing =
        || Observation { seen: Seen::Fails, fault: None, note: Some(text!(validation::WasNotThere)) };
    let checks = pairs.iter().enumerate().map(|(index, pair)| async move {
        if wanted(index) { probe.check(pair).await } else { Ok(nothing()) }
    });
    futures::stream::iter(checks).buffered(AT_ONCE).collect().await
}

/// Checks until all show what they should, or the time is over; answers how long it took.
///
/// What shows it is looked at once more when all do: it may have been seen before the change took effect.
pub(super) async fn settle(
    probe: &dyn Probe,
    looks: &mut [Looks],
    limit: Duration,
    shows: &(dyn Fn(&Looks) -> bool + Send + Sync),
) -> Result<Option<Duration>, ProbeError> {
    let begun = Instant::now();
    let watched = if looks.iter().any(Looks::should_change) { Duration::ZERO } else { WATCHED.min(limit) };
    loop {
        let open: Vec<usize> = (0..looks.len()).filter(|&index| !shows(&looks[index])).collect();
        see(probe, looks, &open).await?;
        let elapsed = begun.elapsed();
        let over = elapsed >= limit;
        if looks.iter().all(shows) || over {
            let all: Vec<usize> = (0..looks.len()).collect();
            see(probe, looks, &all).await?;
            match looks.iter().all(shows) {
                true if elapsed >= watched => return Ok(Some(elapsed)),
                false if over => return Ok(None),
                true | false => {}
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Looks at some of them.
async fn see(probe: &dyn Probe, looks: &mut [Looks], which: &[usize]) -> Result<(), ProbeError> {
    let pairs: Vec<Pair> = which.iter().map(|&index| looks[index].sample.pair.clone()).collect();
    let pairs: Vec<&Pair> = pairs.iter().collect();
    for (&index, seen) in which.iter().zip(look(probe, &pairs, &|_| true).await) {
        looks[index].now = Some(match seen {
            Ok(observation) => observation,
            Err(ProbeError::Impossible(why)) => {
                Observation { seen: Seen::Unseen, fault: None, note: Some(Text::verbatim(why)) }
            }
            Err(away @ ProbeError::Away(_)) => return Err(away),
        });
    }
    Ok(())
}
