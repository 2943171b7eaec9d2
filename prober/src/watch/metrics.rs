//! Metrics of probes, for Prometheus.
//!
//! A series per target, up to [`SERIES`] of them; what is beyond is counted in one more, whose labels all are
//! `overflow`. Series end with their target.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use waymark_proto::{Probe, RTT_BUCKET_BOUNDS_NS};

/// Targets with a series of their own. A histogram has twenty lines, so this is a page of some megabytes.
pub const SERIES: usize = 1000;

/// What tells series apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Labels {
    watch: String,
    source: String,
    destination: String,
    protocol: String,
}

impl Labels {
    fn of(probe: &Probe) -> Self {
        let Probe { watch, source, destination, protocol, .. } = probe;
        Self {
            watch: watch.clone(),
            source: source.clone(),
            destination: destination.clone(),
            protocol: protocol.to_string(),
        }
    }

    fn overflow() -> Self {
        let overflow = || "overflow".to_owned();
        Self { watch: overflow(), source: overflow(), destination: overflow(), protocol: overflow() }
    }
}

#[derive(Clone, Debug)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(RTT_BUCKET_BOUNDS_NS.into_iter().map(seconds))
    }
}

#[expect(clippy::cast_precision_loss, reason = "an hour in nanoseconds has 42 bits, of which 52 are kept")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The metrics of one target. Without any, nothing is counted.
#[derive(Clone, Debug, Default)]
pub struct Series(Option<Counts>);

#[derive(Clone, Debug)]
struct Counts {
    sent: Counter,
    received: Counter,
    lost: Counter,
    missed: Counter,
    rtt: Histogram,
    /// Absent for the series that several targets share.
    out: Option<Gauge>,
}

impl Series {
    pub(super) fn sent(&self) {
        if let Some(counts) = &self.0 {
            counts.sent.inc();
        }
    }

    pub(super) fn received(&self, rtt_ns: u64) {
        if let Some(counts) = &self.0 {
            counts.received.inc();
            counts.rtt.observe(seconds(rtt_ns));
        }
    }

    pub(super) fn lost(&self) {
        if let Some(counts) = &self.0 {
            counts.lost.inc();
        }
    }

    pub(super) fn missed(&self, times: u64) {
        if let Some(counts) = &self.0 {
            counts.missed.inc_by(times);
        }
    }

    pub(super) fn out(&self, is_out: bool) {
        if let Some(out) = self.0.as_ref().and_then(|counts| counts.out.as_ref()) {
            out.set(i64::from(is_out));
        }
    }
}

/// The metrics of all targets.
#[derive(Clone, Debug)]
pub struct ProbeMetrics {
    sent: Family<Labels, Counter>,
    received: Family<Labels, Counter>,
    lost: Family<Labels, Counter>,
    missed: Family<Labels, Counter>,
    rtt: Family<Labels, Histogram, Buckets>,
    out: Family<Labels, Gauge>,
    known: Arc<Mutex<BTreeSet<Labels>>>,
}

impl Default for ProbeMetrics {
    fn default() -> Self {
        Self {
            sent: Family::default(),
            received: Family::default(),
            lost: Family::default(),
            missed: Family::default(),
            rtt: Family::new_with_constructor(Buckets),
            out: Family::default(),
            known: Arc::default(),
        }
    }
}

impl ProbeMetrics {
    /// Adds them to what is served.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("waymark_probe_sent", "Probes that were sent", self.sent.clone());
        registry.register(
            "waymark_probe_received",
            "Probes that were answered in time",
            self.received.clone(),
        );
        registry.register(
            "waymark_probe_lost",
            "Probes that were not answered in time, or refused",
            self.lost.clone(),
        );
        registry.register(
            "waymark_probe_missed",
            "Probes that were not sent, because the agent was too slow",
            self.missed.clone(),
        );
        registry.register(
            "waymark_probe_rtt_seconds",
            "Round-trip times of answered probes",
            self.rtt.clone(),
        );
        registry.register("waymark_probe_outage", "Whether three probes in a row failed", self.out.clone());
    }

    /// The series of a target.
    pub fn series(&self, probe: &Probe) -> Series {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let own = Labels::of(probe);
        let shared = !known.contains(&own) && known.len() >= SERIES;
        let labels = if shared { Labels::overflow() } else { own };
        known.insert(labels.clone());
        Series(Some(Counts {
            sent: self.sent.get_or_create_owned(&labels),
            received: self.received.get_or_create_owned(&labels),
            lost: self.lost.get_or_create_owned(&labels),
            missed: self.missed.get_or_create_owned(&labels),
            rtt: self.rtt.get_or_create_owned(&labels),
            out: (!shared).then(|| self.out.get_or_create_owned(&labels)),
        }))
    }

    /// Ends the series of all targets but these.
    pub fn retain<'a>(&self, probes: impl Iterator<Item = &'a Probe>) {
        let kept: BTreeSet<Labels> = probes.map(Labels::of).chain([Labels::overflow()]).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|labels| {
            let keep = kept.contains(labels);
            if !keep {
                self.sent.remove(labels);
                self.received.remove(labels);
                self.lost.remove(labels);
                self.missed.remove(labels);
                self.rtt.remove(labels);
                self.out.remove(labels);
            }
            keep
        });
    }
}
