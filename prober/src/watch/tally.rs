//! What is counted of one target between two reports.
//!
//! A histogram of the wire's precision takes some 150 kB, and there may be thousands of targets; so round-trip
//! times are kept by what such a histogram would count them as, and one is filled when a report is made.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use waymark_proto::{Clock, ProbeCounts, RTT_DIGITS, RTT_HIGHEST_NS, RTT_LOWEST_NS};

/// A round-trip time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtt {
    /// In nanoseconds.
    pub ns: u64,
    /// By whose clock.
    pub clock: Clock,
}

/// The precision that all tallies count with: that of the wire's histograms.
pub struct Scale(Histogram<u64>);

impl Default for Scale {
    fn default() -> Self {
        Self(histogram())
    }
}

/// A histogram of the wire. All have the same bounds, so that any can be added to any.
fn histogram() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(RTT_LOWEST_NS, RTT_HIGHEST_NS, RTT_DIGITS);
    histogram.expect("the bounds are constants")
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Probes.
    pub counts: ProbeCounts,
    /// Whose clock timed the round trips.
    pub clock: Clock,
    /// How often, by the least time that the histogram does not tell from it.
    rtts: BTreeMap<u64, u64>,
}

impl Counted {
    /// The round-trip times as a histogram of version 2; nothing if there are none. Takes long enough to keep
    /// the thread that probes from its schedule, so another does it.
    pub fn rtt_v2(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.rtts.is_empty() {
            return bytes;
        }
        let mut histogram = histogram();
        for (&ns, &count) in &self.rtts {
            histogram.saturating_record_n(ns, count);
        }
        V2Serializer::new()
            .serialize(&histogram, &mut bytes)
            .expect("its counts fit, and memory takes what is written");
        bytes
    }
}

/// Counts of one target.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: ProbeCounts,
    /// How often, by the least time that the histogram does not tell from it.
    rtts: BTreeMap<u64, u64>,
    by_agent: bool,
}

impl Tally {
    /// Times that passed without a probe.
    pub fn missed(&mut self, times: u64) {
        self.counts.missed += times;
    }

    /// A probe was sent, or should have been.
    pub fn sent(&mut self) {
        self.counts.sent += 1;
    }

    /// A probe was answered.
    pub fn received(&mut self, rtt: Rtt, scale: &Scale) {
        self.counts.received += 1;
        let ns = rtt.ns.clamp(RTT_LOWEST_NS, RTT_HIGHEST_NS);
        *self.rtts.entry(scale.0.lowest_equivalent(ns)).or_default() += 1;
        self.by_agent |= rtt.clock == Clock::Agent;
    }

    /// A probe failed, if for a known reason then for this.
    pub fn lost(&mut self, reason: Option<&str>) {
        self.counts.lost += 1;
        if let Some(reason) = reason {
            *self.counts.errors.entry(reason.to_owned()).or_default() += 1;
        }
    }

    /// What was counted since this was last asked.
    pub fn take(&mut self) -> Counted {
        let Self { counts, rtts, by_agent } = std::mem::take(self);
        let clock = if by_agent || rtts.is_empty() { Clock::Agent } else { Clock::Kernel };
        Counted { counts, clock, rtts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Histogram<u64> {
        hdrhistogram::serialization::Deserializer::new().deserialize(&mut &bytes[..]).unwrap()
    }

    #[test]
    fn times_survive_the_wire_to_three_digits() {
        let (mut tally, scale) = (Tally::default(), Scale::default());
        let times = [0, 1, 999, 52_345, 52_346, 1_234_567, 3_000_000_000, u64::MAX];
        for ns in times {
            tally.received(Rtt { ns, clock: Clock::Kernel }, &scale);
        }
        let counted = tally.take();
        assert_eq!((counted.counts.received, counted.clock), (8, Clock::Kernel));
        let histogram = read(&counted.rtt_v2());
        assert_eq!(histogram.len(), 8);
        for (index, ns) in (0_u32..).zip(times) {
            let expected = ns.clamp(RTT_LOWEST_NS, RTT_HIGHEST_NS);
            let found = histogram.value_at_quantile((f64::from(index) + 0.5) / 8.0);
            assert!(histogram.equivalent(found, expected), "{found} for {expected}");
        }
        assert_eq!(tally.take(), Counted::default());
        assert!(Counted::default().rtt_v2().is_empty());
    }

    #[test]
    fn one_time_by_the_agents_clock_is_said() {
        let (mut tally, scale) = (Tally::default(), Scale::default());
        tally.received(Rtt { ns: 5000, clock: Clock::Kernel }, &scale);
        tally.received(Rtt { ns: 5000, clock: Clock::Agent }, &scale);
        tally.lost(Some("connection refused"));
        tally.lost(None);
        let Counted { counts, clock, .. } = tally.take();
        assert_eq!(clock, Clock::Agent);
        assert_eq!((counts.lost, counts.errors["connection refused"]), (2, 1));
    }
}
