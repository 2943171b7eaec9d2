//! Watches over the line to the controller: plans, refusals, reports, and a controller that comes and goes.

mod world;

use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};
use waymark_prober::link;
use waymark_proto::rpc::agent_hub_server::{AgentHub, AgentHubServer};
use waymark_proto::rpc::{self, FromAgent, ToAgent, from_agent, to_agent};
use waymark_proto::{Dial, Endpoint, Plaintext, Probe, ProbeId, ProbePlan, Protocol, Refusal};
use world::World;

/// Longer than anything takes here.
const LIMIT: Duration = Duration::from_secs(60);
const INTERVAL_US: u64 = 20_000;

/// One attached agent: what to tell it, and what it says.
struct Line {
    orders: mpsc::Sender<Result<ToAgent, Status>>,
    heard: mpsc::Receiver<FromAgent>,
}

impl Line {
    /// Hears what the agent says next; reports are kept.
    async fn hear(&mut self, reports: &mut Vec<rpc::ProbeReport>) -> FromAgent {
        let heard = tokio::time::timeout(LIMIT, self.heard.recv()).await;
        let heard = heard.expect("the agent says something in time").expect("it is attached");
        if let Some(from_agent::Body::ProbeReports(batch)) = &heard.body {
            assert_eq!(heard.order, 0);
            reports.extend_from_slice(&batch.reports);
        }
        heard
    }

    /// Orders a plan and gives what was refused of it.
    async fn plan(
        &mut self,
        order: u64,
        plan: &ProbePlan,
        reports: &mut Vec<rpc::ProbeReport>,
    ) -> Vec<Refusal> {
        let work = rpc::ProbeWork { plan_json: serde_json::to_vec(plan).unwrap(), lease_ms: 60_000 };
        let message = ToAgent { order, body: Some(to_agent::Body::Probe(work)) };
        self.orders.send(Ok(message)).await.expect("it listens");
        loop {
            let heard = self.hear(reports).await;
            if let Some(from_agent::Body::Probing(rpc::Probing { refusals_json })) = heard.body {
                assert_eq!(heard.order, order);
                return serde_json::from_slice(&refusals_json).unwrap();
            }
        }
    }

    /// Hears until there are so many reports more.
    async fn more(&mut self, count: usize, reports: &mut Vec<rpc::ProbeReport>) {
        let until = reports.len() + count;
        while reports.len() < until {
            self.hear(reports).await;
        }
    }
}

/// A controller that hands each agent that attaches to the test.
struct Hub(mpsc::Sender<Line>);

#[tonic::async_trait]
impl AgentHub for Hub {
    type AttachStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (orders, stream) = mpsc::channel(16);
        let (says, heard) = mpsc::channel(1024);
        let mut from_agent = request.into_inner();
        self.0.send(Line { orders, heard }).await.map_err(|_| Status::unavailable("the test is over"))?;
        tokio::spawn(async move {
            while let Some(Ok(message)) = from_agent.next().await {
                if says.send(message).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probing_outlives_the_controller_and_nothing_is_lost_or_counted_twice() {
    let Some(world) = World::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("controller.sock");
    let (attached, mut lines) = mpsc::channel(4);
    let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let hub = AgentHubServer::new(Hub(attached));
    let server =
        tokio::spawn(tonic::transport::Server::builder().add_service(hub).serve_with_incoming(incoming));
    let dial = Dial::new(Endpoint::Unix(socket), None, Plaintext::Refused).unwrap();
    let agent = world.agent.clone();
    let agent = tokio::spawn(async move { link::run(&agent, &dial, || {}, || {}).await });

    let probe = |id: u64, netns: &str| Probe {
        id: ProbeId(id),
        watch: "test".to_owned(),
        source: "pod/test/client".to_owned(),
        destination: "pod/test/server".to_owned(),
        netns: netns.into(),
        address: "10.9.2.2".parse().unwrap(),
        port: None,
        protocol: Protocol::Icmp,
        interval_us: INTERVAL_US,
        timeout_us: 500_000,
    };
    let plan = ProbePlan {
        probes: vec![probe(1, &world.netns("client")), probe(2, "elsewhere")],
        responders: vec![],
    };
    let mut reports = Vec::new();
    let mut line = lines.recv().await.unwrap();
    let refusals = line.plan(7, &plan, &mut reports).await;
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!(refusals[0].probe, Some(ProbeId(2)));
    line.more(2, &mut reports).await;

    // The controller goes, right after a report, and comes back.
    drop(line);
    let mut line = lines.recv().await.unwrap();
    assert_eq!(line.plan(1, &plan, &mut reports).await.len(), 1);
    line.more(2, &mut reports).await;

    assert!(reports.iter().all(|report| report.id == 1), "{reports:?}");
    let counted: u64 = reports[1..].iter().map(|report| report.sent + report.missed).sum();
    let took_ns = reports[reports.len() - 1].at_unix_ns - reports[0].at_unix_ns;
    let slots = took_ns / (INTERVAL_US * 1000);
    assert!(counted.abs_diff(slots) <= 2, "{counted} of {slots}: {reports:?}");

    agent.abort();
    server.abort();
    world.agent.stop_probing().await;
}
