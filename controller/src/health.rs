//! Whether the controller lives and can be used, for who starts and restarts it: `/livez` and `/readyz` over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::listen::ListenError;

/// Answers from when it is made until it is dropped.
#[derive(Debug)]
pub struct Health {
    ready: Arc<AtomicBool>,
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
        let ready = Arc::new(AtomicBool::new(false));
        let router = router(Arc::clone(&ready));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "nobody can ask any more whether the controller lives");
            }
        });
        Ok(Self { ready, address, task })
    }

    /// Agents and clients can dial in now.
    pub fn ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
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

fn router(ready: Arc<AtomicBool>) -> Router {
    let readiness = move || async move {
        if ready.load(Ordering::Relaxed) {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the cluster is still being read\n")
        }
    };
    Router::new().route("/livez", get(|| async { "alive\n" })).route("/readyz", get(readiness))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

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
        health.ready();
        assert_eq!(status(&health, "/readyz").await, "200");
        assert_eq!(status(&health, "/other").await, "404");
        let taken = Health::listen(health.address()).await.unwrap_err().to_string();
        assert!(taken.starts_with("cannot listen on http://127.0.0.1:"), "{taken}");
    }
}
