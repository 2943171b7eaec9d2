//! An agent of another version than its controller's: what the two say of it.

mod world;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use waymark_controller::watching::Watches;
use waymark_controller::{Api, FileSource, Hub, Listener, NodeStatus, Patience, Security, serve};
use waymark_proto::rpc::agent_hub_client::AgentHubClient;
use waymark_proto::rpc::agent_hub_server::{AgentHub, AgentHubServer};
use waymark_proto::rpc::waymark_client::WaymarkClient;
use waymark_proto::rpc::{self, FromAgent, PROTOCOL, ToAgent, from_agent};
use waymark_proto::{Dial, Endpoint, Plaintext};

/// Longer than anything takes here.
const LIMIT: Duration = Duration::from_secs(60);

/// Stands between an agent and its controller, and makes the agent one of a later protocol.
struct Relay {
    controller: Dial,
    /// By how much.
    later: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl AgentHub for Relay {
    type AttachStream = Streaming<ToAgent>;

    async fn attach(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let later = self.later.load(Ordering::Relaxed);
        let says = request.into_inner().map_while(Result::ok).map(move |mut message| {
            if let Some(from_agent::Body::Hello(hello)) = &mut message.body {
                hello.protocol += later;
            }
            message
        });
        let channel = self.controller.connect().await.expect("the controller listens");
        match AgentHubClient::new(channel).attach(says).await {
            Ok(orders) => Ok(Response::new(orders.into_inner())),
            Err(refusal) => Err(Status::new(refusal.code(), refusal.message())),
        }
    }
}

/// What the controller says of its only node.
async fn status(controller: &Dial) -> NodeStatus {
    let mut client = WaymarkClient::new(controller.connect().await.unwrap());
    let document = client.status(rpc::StatusRequest {}).await.unwrap().into_inner();
    let mut status: waymark_controller::Status = serde_json::from_slice(&document.json).unwrap();
    assert_eq!(status.nodes.len(), 1);
    status.nodes.remove(0)
}

/// The next line with these words.
async fn line_with(lines: &mut Lines<impl AsyncBufRead + Unpin>, words: &str) -> String {
    let search = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(words) {
                return line;
            }
        }
        panic!("the agent ended without {words:?}");
    };
    tokio::time::timeout(LIMIT, search).await.expect("the agent says it in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_protocol_is_refused_in_a_sentence_that_both_sides_tell() {
    if !world::privileged() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let inventory = folder.path().join("inventory.json");
    std::fs::write(&inventory, r#"{"nodes":[{"name":"node1","ip":"10.0.0.1"}]}"#).unwrap();
    let endpoint = Endpoint::Unix(folder.path().join("controller.sock"));
    let listener = Listener::bind(&endpoint).await.unwrap();
    let (hub, source) = (Hub::new(Patience::default()), Arc::new(FileSource::new(inventory)));
    let (watches, _incoming) = Watches::new(hub.clone(), source.clone(), None).unwrap();
    let api = Api::new(hub.clone(), source, watches);
    let controller = tokio::spawn(async move {
        serve(listener, Security::Open, &hub, &api, std::future::pending()).await.unwrap();
    });
    let dial = Dial::new(endpoint, None, Plaintext::Refused).unwrap();

    let between = folder.path().join("relay.sock");
    let incoming = UnixListenerStream::new(UnixListener::bind(&between).unwrap());
    let later = Arc::new(AtomicU32::new(1));
    let relay = AgentHubServer::new(Relay { controller: dial.clone(), later: Arc::clone(&later) });
    let relay = tokio::spawn(Server::builder().add_service(relay).serve_with_incoming(incoming));
    let between = format!("unix:{}", between.display());

    let mut agent = Command::new(env!("CARGO_BIN_EXE_waymark-agent"))
        .args(["run", "--node", "node1", "--controller", &between])
        .env("RUST_LOG", "warn")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut told = BufReader::new(agent.stderr.take().unwrap()).lines();
    let mut shown = BufReader::new(agent.stdout.take().unwrap()).lines();

    let version = env!("CARGO_PKG_VERSION");
    let why = format!(
        "its version {version} speaks protocol {}, this controller's version {version} speaks protocol {PROTOCOL}; run both in the same version",
        PROTOCOL + 1
    );
    let line = line_with(&mut told, "will dial again").await;
    let sentence = format!(
        "error=the controller at {between} ended the connection: the agent of node1 is not taken: {why}"
    );
    assert!(line.ends_with(&sentence), "{line}");
    let node = status(&dial).await;
    assert_eq!((node.known, node.attached, node.refused.as_deref()), (true, false, Some(why.as_str())));

    // The same agent in the controller's version is taken, and what was said of it is forgotten.
    later.store(0, Ordering::Relaxed);
    assert_eq!(line_with(&mut shown, "").await, format!("attached to {between}"));
    let node = status(&dial).await;
    assert_eq!((node.attached, node.version.as_deref(), node.refused), (true, Some(version), None));

    agent.kill().await.unwrap();
    relay.abort();
    controller.abort();
}
