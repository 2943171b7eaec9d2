//! What the agent tells Prometheus, and where.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use waymark_proto::{HookSet, NodeName};

use crate::watch::ProbeMetrics;

/// The media type of `OpenMetrics`, which is the format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of an agent. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Of its probes.
    pub probes: ProbeMetrics,
    attached: Gauge,
    armed: Family<Armed, Counter>,
}

/// What armed checks are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Armed {
    hooks: &'static str,
}

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics at {address}: {source}; --metrics wants an address of this machine and a free port"
)]
pub struct MetricsError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

impl Metrics {
    /// Notes whether there is a controller.
    pub fn set_attached(&self, attached: bool) {
        self.attached.set(i64::from(attached));
    }

    /// Counts a check that was armed.
    pub fn count_armed(&self, set: HookSet) {
        let hooks = match set {
            HookSet::Light => "light",
            HookSet::Wide => "wide",
            HookSet::All => "all",
        };
        self.armed.get_or_create(&Armed { hooks }).inc();
    }

    fn registry(&self, node: &NodeName) -> Registry {
        let mut registry = Registry::default();
        let info = [("node", node.to_string()), ("version", env!("CARGO_PKG_VERSION").to_owned())];
        registry.register("waymark_agent", "The agent", Info::new(info.to_vec()));
        let attached = self.attached.clone();
        registry.register("waymark_agent_attached", "Whether a controller has taken the agent in", attached);
        let armed = "Checks that were armed, by the hooks that they wanted";
        registry.register("waymark_agent_armed_checks", armed, self.armed.clone());
        self.probes.register(&mut registry);
        registry
    }

    /// Serves them at `http://ADDRESS/metrics` from now on, in the background. Gives the address, with the port
    /// that was chosen where 0 was asked for.
    pub async fn serve(&self, address: SocketAddr, node: &NodeName) -> Result<SocketAddr, MetricsError> {
        let failed = |source| MetricsError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let registry = Arc::new(self.registry(node));
        let page = move || async move {
            let mut text = String::new();
            match encode(&mut text, &registry) {
                Ok(()) => Ok(([(CONTENT_TYPE, OPEN_METRICS)], text)),
                Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
            }
        };
        let router = Router::new().route("/metrics", get(page));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "metrics are not served any more");
            }
        });
        Ok(bound)
    }
}
