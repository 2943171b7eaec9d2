//! What machines ask the controller over HTTP: whether it lives (`/livez`), whether it can be used (`/readyz`),
//! and its figures (`/metrics`).

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::listen::ListenError;
use crate::metrics::Figures;

/// The text format of `OpenMetrics`.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures, once there are any: then the controller is ready.
type Ready = Arc<OnceLock<Figures>>;

/// Answers from when it is made until it is dropped.
pub struct Health {
    ready: Ready,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Health {
    /// Listens. The controller lives, and is not ready.
    pub async fn listen(address: SocketAddr) -> Result<Self, ListenError> {
        let io = |operation| {
            move |source| ListenError::Io { operation, subject: format!("http://{address}"), source }
        };
        let listener = TcpListener::bind(address).await.map_err(io("listen on"))?;
        let address = listener.local_addr().map_err(io("read the address of"))?;
        let ready = Ready::default();
        let router = router(Arc::clone(&ready));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "nobody can ask any more whether the controller lives");
            }
        });
        Ok(Self { ready, address, task })
    }

    /// Agents and clients can dial in now, and these are the figures.
    pub fn ready(&self, figures: Figures) {
        // Whoever says it twice has said it already.
        drop(self.ready.set(figures));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn router(ready: Ready) -> Router {
    let unready = || (StatusCode::SERVICE_UNAVAILABLE, "the cluster is still being read\n").into_response();
    let figures = Arc::clone(&ready);
    let readiness = move || async move { ready.get().map_or_else(unready, |_| "ready\n".into_response()) };
    let metrics = move || async move { figures.get().map_or_else(unready, page) };
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
}

fn page(figures: &Figures) -> Response {
    ([(header::CONTENT_TYPE, METRICS)], figures.text()).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::hub::{Hub, Patience};
    use crate::source::FileSource;
    use crate::watching::Watches;

    async fn status(health: &Health, path: &str) -> String {
        let mut connection = tokio::net::TcpStream::connect(health.address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    }

    #[tokio::test]
    async fn it_lives_before_it_is_ready() {
        let health = Health::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert_eq!(status(&health, "/livez").await, "200");
        assert_eq!(status(&health, "/readyz").await, "503");
        assert_eq!(status(&health, "/metrics").await, "503");
        let hub = Hub::new(Patience::default());
        let (watches, _) = Watches::new(hub.clone(), Arc::new(FileSource::new("none")), None).unwrap();
        health.ready(Figures::new(hub, watches));
        assert_eq!(status(&health, "/metrics").await, "200");
        assert_eq!(status(&health, "/readyz").await, "200");
        assert_eq!(status(&health, "/other").await, "404");
        let taken = Health::listen(health.address()).await.err().expect("it is taken").to_string();
        assert!(taken.starts_with("cannot listen on http://127.0.0.1:"), "{taken}");
    }
}
