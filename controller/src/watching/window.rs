//! What was counted of a target lately, and since it is watched.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde::{Deserialize, Serialize};
use waymark_proto::{ProbeCounts, RTT_DIGITS, RTT_HIGHEST_NS, RTT_LOWEST_NS};

/// What "lately" means.
pub const RECENT: Duration = Duration::from_secs(60);
/// Length of a slice: the recent window moves in steps of this.
const SLICE: Duration = Duration::from_secs(10);

/// Round-trip times of a target in nanoseconds.
pub(super) type Rtt = Histogram<u64>;

/// An empty histogram. It grows with what it holds: most targets answer within a narrow range.
pub(super) fn empty() -> Rtt {
    let mut histogram = Histogram::new_with_bounds(RTT_LOWEST_NS, RTT_LOWEST_NS * 2, RTT_DIGITS)
        .expect("constants that hdrhistogram takes");
    histogram.auto(true);
    histogram
}

/// Counts and times over some span.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) counts: ProbeCounts,
    pub(super) rtt: Rtt,
}

impl Default for Tally {
    fn default() -> Self {
        Self { counts: ProbeCounts::default(), rtt: empty() }
    }
}

impl Tally {
    fn add(&mut self, counts: &ProbeCounts, rtt: Option<&Rtt>) {
        self.counts.sent += counts.sent;
        self.counts.received += counts.received;
        self.counts.lost += counts.lost;
        self.counts.missed += counts.missed;
        for (why, count) in &counts.errors {
            *self.counts.errors.entry(why.clone()).or_default() += count;
        }
        if let Some(rtt) = rtt {
            for value in rtt.iter_recorded() {
                let ns = value.value_iterated_to().clamp(RTT_LOWEST_NS, RTT_HIGHEST_NS);
                self.rtt
                    .record_n(ns, value.count_since_last_iteration())
                    .expect("a histogram that grows takes values within its bounds");
            }
        }
    }

    /// The tally for people.
    pub(super) fn summary(&self) -> Summary {
        let quantile = |q| self.rtt.value_at_quantile(q);
        let rtt = (!self.rtt.is_empty()).then(|| RttSummary {
            min_ns: self.rtt.min(),
            p50_ns: quantile(0.5),
            p90_ns: quantile(0.9),
            p99_ns: quantile(0.99),
            max_ns: self.rtt.max(),
        });
        Summary { counts: self.counts.clone(), rtt }
    }
}

/// Counts and times over some span, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Counts.
    #[serde(flatten)]
    pub counts: ProbeCounts,
    /// Round-trip times; absent if nothing was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<RttSummary>,
}

impl Summary {
    /// The share of probes that were lost, from 0 to 1; absent if none has had its fate yet.
    pub fn loss(&self) -> Option<f64> {
        let decided = self.counts.received + self.counts.lost;
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let loss = (decided > 0).then(|| self.counts.lost as f64 / decided as f64);
        loss
    }
}

/// Round-trip times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RttSummary {
    /// Shortest.
    pub min_ns: u64,
    /// Half were no longer.
    pub p50_ns: u64,
    /// 90 of 100 were no longer.
    pub p90_ns: u64,
    /// 99 of 100 were no longer.
    pub p99_ns: u64,
    /// Longest.
    pub max_ns: u64,
}

/// What was counted of a target.
#[derive(Debug, Default)]
pub(super) struct Windows {
    pub(super) total: Tally,
    slices: VecDeque<(Instant, Tally)>,
}

impl Windows {
    /// Adds what a report holds.
    pub(super) fn add(&mut self, now: Instant, counts: &ProbeCounts, rtt_v2: &[u8]) -> Result<(), String> {
        let rtt = decode(rtt_v2)?;
        self.total.add(counts, rtt.as_ref());
        self.forget(now);
        if self.slices.back().is_none_or(|(begun, _)| now.duration_since(*begun) >= SLICE) {
            self.slices.push_back((now, Tally::default()));
        }
        let (_, slice) = self.slices.back_mut().expect("one was just made");
        slice.add(counts, rtt.as_ref());
        Ok(())
    }

    /// What was counted in the last minute.
    pub(super) fn recent(&mut self, now: Instant) -> Tally {
        self.forget(now);
        let mut recent = Tally::default();
        for (_, slice) in &self.slices {
            recent.add(&slice.counts, Some(&slice.rtt));
        }
        recent
    }

    fn forget(&mut self, now: Instant) {
        while self.slices.front().is_some_and(|(begun, _)| now.duration_since(*begun) >= RECENT) {
            self.slices.pop_front();
        }
    }
}

fn decode(rtt_v2: &[u8]) -> Result<Option<Rtt>, String> {
    if rtt_v2.is_empty() {
        return Ok(None);
    }
    let read = Deserializer::new().deserialize(&mut &rtt_v2[..]);
    read.map(Some).map_err(|error| format!("its histogram is malformed: {error}"))
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::{Serializer, V2Serializer};

    use super::*;

    fn encoded(times: &[u64]) -> Vec<u8> {
        let mut histogram =
            Rtt::new_with_bounds(RTT_LOWEST_NS, RTT_HIGHEST_NS, RTT_DIGITS).expect("valid bounds");
        for time in times {
            histogram.record(*time).unwrap();
        }
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&histogram, &mut bytes).unwrap();
        bytes
    }

    fn counts(received: u64, lost: u64) -> ProbeCounts {
        ProbeCounts { sent: received + lost, received, lost, ..ProbeCounts::default() }
    }

    #[test]
    fn the_recent_window_forgets_and_the_total_does_not() {
        let (mut windows, start) = (Windows::default(), Instant::now());
        windows.add(start, &counts(2, 1), &encoded(&[1_000_000, 3_000_000])).unwrap();
        windows.add(start + Duration::from_secs(30), &counts(1, 0), &encoded(&[2_000_000])).unwrap();
        let all = windows.recent(start + Duration::from_secs(59)).summary();
        assert_eq!((all.counts.received, all.counts.lost), (3, 1));
        assert_eq!(all.loss(), Some(0.25));
        let p50 = all.rtt.unwrap().p50_ns;
        assert!((1_990_000..2_010_000).contains(&p50), "{p50}");
        let late = windows.recent(start + Duration::from_secs(61)).summary();
        assert_eq!((late.counts.received, late.counts.lost), (1, 0));
        assert_eq!(windows.recent(start + Duration::from_secs(200)).summary(), Summary::default());
        assert_eq!(windows.total.summary().counts.received, 3);
    }

    #[test]
    fn malformed_histograms_are_an_error() {
        let mut windows = Windows::default();
        assert!(windows.add(Instant::now(), &counts(1, 0), b"what").unwrap_err().contains("malformed"));
        assert_eq!(windows.total.counts.sent, 0);
    }
}
