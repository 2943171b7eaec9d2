//! Agents that do what a test tells them to, over a real stream, and a cluster that a test changes.

use std::sync::Mutex;

use tokio_stream::wrappers::UnixListenerStream;
use tonic::Streaming;
use waymark_proto::rpc::agent_hub_client::AgentHubClient;
use waymark_proto::{Dial, Endpoint, Inventory, Plaintext};

use super::*;
use crate::listen::Listener;
use crate::source::SourceError;

/// A hub that listens on a socket in a folder of its own.
pub(crate) struct Stage {
    pub(crate) hub: Hub,
    pub(crate) endpoint: Endpoint,
    _folder: tempfile::TempDir,
}

pub(crate) async fn stage(patience: Patience) -> Stage {
    stage_of(Hub::new(patience)).await
}

pub(crate) async fn stage_of(hub: Hub) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::Unix(folder.path().join("socket"));
    let Listener::Unix(listener, file) = Listener::bind(&endpoint).await.unwrap() else {
        unreachable!("a unix socket was asked for")
    };
    let server = tonic::transport::Server::builder().add_service(hub.service());
    tokio::spawn(async move {
        let outcome = server.serve_with_incoming(UnixListenerStream::new(listener)).await;
        drop(file);
        outcome
    });
    Stage { hub, endpoint, _folder: folder }
}

pub(crate) fn dial(endpoint: &Endpoint) -> Dial {
    Dial::new(endpoint.clone(), None, Plaintext::Refused).unwrap()
}

/// An agent that does what a test tells it to.
pub(crate) struct Puppet {
    says: mpsc::Sender<FromAgent>,
    pub(crate) hears: Streaming<ToAgent>,
}

impl Puppet {
    /// Attaches; returns when the hub has taken it in.
    pub(crate) async fn attach(stage: &Stage, node: &str) -> Self {
        let hello = rpc::Hello {
            node: node.into(),
            version: "9".into(),
            protocol: rpc::PROTOCOL,
            wants_scope: false,
        };
        Self::dial(stage, hello).await.unwrap()
    }

    /// Says this Hello.
    pub(crate) async fn dial(stage: &Stage, hello: rpc::Hello) -> Result<Self, Status> {
        let (says, stream) = mpsc::channel(64);
        says.send(FromAgent { order: 0, body: Some(from_agent::Body::Hello(hello)) }).await.unwrap();
        let channel = self::dial(&stage.endpoint).connect().await.unwrap();
        let hears = AgentHubClient::new(channel).attach(ReceiverStream::new(stream)).await?;
        Ok(Self { says, hears: hears.into_inner() })
    }

    pub(crate) async fn order(&mut self) -> ToAgent {
        self.hears.message().await.unwrap().expect("an order")
    }

    pub(crate) async fn answer(&self, order: u64, body: from_agent::Body) {
        self.says.send(FromAgent { order, body: Some(body) }).await.unwrap();
    }
}

/// A source whose inventory a test exchanges.
#[derive(Clone, Default)]
pub(crate) struct Changing(Arc<Mutex<Arc<Inventory>>>);

impl Changing {
    pub(crate) fn set(&self, inventory: Inventory) {
        *self.0.lock().unwrap() = Arc::new(inventory);
    }
}

#[async_trait]
impl Source for Changing {
    async fn inventory(&self) -> Result<Arc<Inventory>, SourceError> {
        Ok(Arc::clone(&self.0.lock().unwrap()))
    }
}
