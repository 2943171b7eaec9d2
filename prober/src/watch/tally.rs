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

/// The histogram that all tallies share.
pub struct Scale {
    histogram: Histogram<u64>,
    serializer: V2Serializer,
}

impl Default for Scale {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(RTT_LOWEST_NS, RTT_HIGHEST_NS, RTT_DIGITS);
        Self { histogram: histogram.expect("the bounds are constants"), serializer: V2Serializer::new() }
    }
}

impl Scale {
    fn serialize(&mut self, rtts: &BTreeMap<u64, u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        if rtts.is_empty() {
            return bytes;
        }
        self.histogram.reset();
        for (&ns, &count) in rtts {
            self.histogram.saturating_record_n(ns, count);
        }
        self.serializer
            .serialize(&self.histogram, &mut bytes)
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
        *self.rtts.entry(scale.histogram.lowest_equivalent(ns)).or_default() += 1;
        self.by_agent |= rtt.clock == Clock::Agent;
    }

    /// A probe failed, if for a known reason then for this.
    pub fn lost(&mut self, reason: Option<&str>) {
        self.counts.lost += 1;
        if let Some(reason) = reason {
            *self.counts.errors.entry(reason.to_owned()).or_default() += 1;
        }
    }

    /// Counts, histogram as V2 and clock since this was last asked.
    pub fn take(&mut self, scale: &mut Scale) -> (ProbeCounts, Vec<u8>, Clock) {
        let Self { counts, rtts, by_agent } = std::mem::take(self);
        let clock = if by_agent || rtts.is_empty() { Clock::Agent } else { Clock::Kernel };
        (counts, scale.serialize(&rtts), clock)
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
        let (mut tally, mut scale) = (Tally::default(), Scale::default());
        let times = [0, 1, 999, 52_345, 52_346, 1_234_567, 3_000_000_000, u64::MAX];
        for ns in times {
            tally.received(Rtt { ns, clock: Clock::Kernel }, &scale);
        }
        let (counts, bytes, clock) = tally.take(&mut scale);
        assert_eq!((counts.received, clock), (8, Clock::Kernel));
        let histogram = read(&bytes);
        assert_eq!(histogram.len(), 8);
        for (index, ns) in (0_u32..).zip(times) {
            let expected = ns.clamp(RTT_LOWEST_NS, RTT_HIGHEST_NS);
            let found = histogram.value_at_quantile((f64::from(index) + 0.5) / 8.0);
            assert!(histogram.equivalent(found, expected), "{found} for {expected}");
        }
        assert_eq!(tally.take(&mut scale), (ProbeCounts::default(), Vec::new(), Clock::Agent));
    }

    #[test]
    fn one_time_by_the_agents_clock_is_said() {
        let (mut tally, mut scale) = (Tally::default(), Scale::default());
        tally.received(Rtt { ns: 5000, clock: Clock::Kernel }, &scale);
        tally.received(Rtt { ns: 5000, clock: Clock::Agent }, &scale);
        tally.lost(Some("connection refused"));
        tally.lost(None);
        let (counts, _, clock) = tally.take(&mut scale);
        assert_eq!(clock, Clock::Agent);
        assert_eq!((counts.lost, counts.errors["connection refused"]), (2, 1));
    }
}
