//! An agent that is killed leaves nothing behind.

mod world;

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};
use waymark_proto::rpc::agent_hub_server::{AgentHub, AgentHubServer};
use waymark_proto::rpc::{FromAgent, ToAgent, from_agent, to_agent};
use waymark_proto::{CheckId, Protocol};
use world::{World, run};

/// Longer than a process takes to notice that another has died, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(30);

/// A controller that gives one order and hands on what the agent says.
struct OneOrder {
    order: ToAgent,
    heard: mpsc::Sender<from_agent::Body>,
}

#[tonic::async_trait]
impl AgentHub for OneOrder {
    type AttachStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (orders, stream) = mpsc::channel(1);
        let mut from_agent = request.into_inner();
        let (order, heard) = (self.order.clone(), self.heard.clone());
        tokio::spawn(async move {
            orders.send(Ok(order)).await.expect("the agent listens");
            while let Some(Ok(message)) = from_agent.next().await {
                let body = message.body.expect("an answer has a body");
                if heard.send(body).await.is_err() {
                    break;
                }
            }
            drop(orders);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let node = world.netns("node");
    run(&format!("ip netns exec {node} iptables-legacy -A FORWARD -p sctp -j DROP"));
    let logger = || run(&format!("ip netns exec {node} cat /proc/sys/net/netfilter/nf_log/2"));
    let before = logger();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("controller.sock");
    let inventory = folder.path().join("inventory.json");
    std::fs::write(&inventory, serde_json::to_vec(&world.inventory).unwrap()).unwrap();

    let arm = world::arm(CheckId::new(0xdead).unwrap().get(), Protocol::Tcp, 10, 60_000);
    let order = ToAgent { order: 1, body: Some(to_agent::Body::Arm(arm)) };
    let (heard, mut answers) = mpsc::channel(16);
    let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let hub = AgentHubServer::new(OneOrder { order, heard });
    let server =
        tokio::spawn(tonic::transport::Server::builder().add_service(hub).serve_with_incoming(incoming));

    let mut agent = Command::new(env!("CARGO_BIN_EXE_waymark-agent"))
        .args(["run", "--node", "node", "--inventory"])
        .arg(&inventory)
        .args(["--controller", &format!("unix:{}", socket.display())])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    assert!(matches!(answers.recv().await, Some(from_agent::Body::Hello(_))));
    match answers.recv().await {
        Some(from_agent::Body::Armed(_)) => {}
        other => panic!("the agent answered {other:?}"),
    }
    let tables = || run(&format!("ip netns exec {node} nft list tables"));
    assert!(tables().contains("waymark_"), "it is armed");
    assert_eq!(logger(), "nfnetlink_log\n");

    agent.start_kill().unwrap();
    agent.wait().await.unwrap();
    // What the kernel does not remove a guard does, which hears of the end a moment later.
    let end = Instant::now() + LIMIT;
    while (tables(), logger()) != (String::new(), before.clone()) {
        assert!(Instant::now() < end, "{} is left, and the logger {}", tables(), logger());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.abort();
}
