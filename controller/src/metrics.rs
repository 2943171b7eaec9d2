//! The controller's figures for Prometheus. What single targets measure, their agents tell.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::hub::Hub;
use crate::watching::{WatchCounts, Watches};

/// What is counted, and where.
#[derive(Clone)]
pub struct Figures {
    hub: Hub,
    watches: Watches,
}

/// The labels of a watch's targets: as many series as watches times states.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Targets {
    watch: String,
    state: &'static str,
}

impl Figures {
    /// The figures of this hub and these watches.
    pub fn new(hub: Hub, watches: Watches) -> Self {
        Self { hub, watches }
    }

    /// The figures as they are now, in the text format of `OpenMetrics`.
    ///
    /// # Panics
    /// Never: writing to a string does not fail.
    pub fn text(&self) -> String {
        let mut registry = Registry::with_prefix("waymark");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("controller", "The controller", version);
        let count = |number: usize| ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
        registry.register("agents_attached", "Agents that are attached", count(self.hub.attached().len()));
        registry.register("agents_refused", "Agents that were not taken", count(self.hub.refused().len()));
        let watches = self.watches.counts();
        registry.register("watches", "Watches", count(watches.len()));
        let targets = Family::<Targets, Gauge>::default();
        for WatchCounts { watch, targets: counts } in watches {
            for (state, count) in counts {
                let labels = Targets { watch: watch.clone(), state };
                targets.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        registry.register("watch_targets", "Targets of watches, by how they are", targets);
        let outages = ConstCounter::new(self.watches.outages_opened());
        registry.register("outages", "Outages since the controller started", outages);
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hub::Patience;
    use crate::source::FileSource;
    use crate::watching::WatchSpec;

    #[tokio::test]
    async fn figures_are_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("inventory.json");
        std::fs::write(
            &inventory,
            r#"{"nodes":[{"name":"a","ip":"10.0.0.1"},{"name":"b","ip":"10.0.0.2"}]}"#,
        )
        .unwrap();
        let hub = Hub::new(Patience::default());
        let source = Arc::new(FileSource::new(inventory));
        let (watches, _incoming) = Watches::new(hub.clone(), source, None).unwrap();
        let spec = WatchSpec {
            name: "mesh".into(),
            from: vec!["nodes".into()],
            to: vec!["nodes".into()],
            protocol: None,
            interval_us: 1_000_000,
            timeout_us: 1_000_000,
            ipv6: false,
        };
        watches.start(spec).await.unwrap();
        let text = Figures::new(hub, watches).text();
        for line in [
            "waymark_agents_attached 0",
            "waymark_watches 1",
            "waymark_watch_targets{watch=\"mesh\",state=\"silent\"} 2",
            "waymark_watch_targets{watch=\"mesh\",state=\"up\"} 0",
            "waymark_outages_total 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is missing:\n{text}");
        }
    }
}
