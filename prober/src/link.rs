//! The agent's line to its controller: it dials in, keeps one stream, carries out orders and answers.
//!
//! Orders run side by side; each answer carries the number of its order. When the line breaks, what is being
//! done is finished and everything that is armed ends, while probing goes on until its lease ends; then the agent dials again with growing pauses.

mod probes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use waymark_proto::rpc::{self, from_agent, to_agent};
use waymark_proto::{CheckId, Dial, DialError, Endpoint, Sighting};

use crate::agent::{Agent, AgentError};

/// Answers and batches that may wait for the network.
const OUTBOX: usize = 256;
/// Sightings of one check that may wait to be put into a batch.
const SIGHTINGS: usize = 65536;
/// Sightings per message at most: some 100 kB.
const BATCH: usize = 1024;
/// Plans that may wait for the ones before them.
const PLANS: usize = 16;
/// Pause before dialling again: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How a line ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answered, or not as one should.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The controller refused or went away.
    #[error("the controller at {endpoint} ended the connection: {}", status.message())]
    Ended {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        status: Box<tonic::Status>,
    },
}

/// Stays attached to the controller for ever. `attached` is called whenever a controller has taken the
/// agent in, `lost` whenever there is none any more, or still none.
pub async fn run(
    agent: &Agent,
    dial: &Dial,
    mut attached: impl FnMut(),
    mut lost: impl FnMut(),
) -> std::convert::Infallible {
    let endpoint = dial.endpoint();
    let mut pause = PAUSE.0;
    loop {
        let outcome = attach(agent, dial, || {
            pause = PAUSE.0;
            agent.metrics().set_attached(true);
            attached();
        })
        .await;
        agent.metrics().set_attached(false);
        lost();
        match outcome {
            Ok(()) => tracing::info!(%endpoint, "the controller closed the connection"),
            Err(error) => tracing::warn!(%error, "will dial again"),
        }
        if let Err(error) = agent.disarm_all().await {
            tracing::warn!(%error, "cannot disarm");
        }
        agent.begin_probe_lease().await;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// One connection, from dialling to its end.
async fn attach(agent: &Agent, dial: &Dial, attached: impl FnOnce()) -> Result<(), LinkError> {
    let ended = |status| match dial.refusal(&status) {
        Some(refused) => LinkError::Dial(refused),
        None => LinkError::Ended { endpoint: dial.endpoint().clone(), status: Box::new(status) },
    };
    let channel = dial.connect().await?;
    let mut client =
        rpc::agent_hub_client::AgentHubClient::new(channel).max_decoding_message_size(rpc::MAX_MESSAGE);

    let (outbox, answers) = mpsc::channel(OUTBOX);
    let hello = rpc::Hello {
        node: agent.node().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: rpc::PROTOCOL,
        wants_scope: agent.wants_scope(),
    };
    let hello = rpc::FromAgent { order: 0, body: Some(from_agent::Body::Hello(hello)) };
    outbox.send(hello).await.expect("the receiver is held below");
    let mut orders = client.attach(ReceiverStream::new(answers)).await.map_err(ended)?.into_inner();
    // Headers came back: the hub has read the Hello and accepted it.
    attached();

    let forwarders = Forwarders::default();
    let mut working = JoinSet::new();
    let (probe_orders, plans) = mpsc::channel(PLANS);
    working.spawn(probes::serve(agent.clone(), plans, outbox.clone()));
    let outcome = loop {
        let order = match orders.message().await {
            Ok(Some(order)) => order,
            Ok(None) => break Ok(()),
            Err(status) => break Err(ended(status)),
        };
        while working.try_join_next().is_some() {}
        if let Some(to_agent::Body::Assign(assign)) = &order.body {
            // At once, and not beside others: the orders behind it depend on it.
            let body = match agent.assign(assign) {
                Ok(()) => from_agent::Body::Assigned(rpc::Assigned {}),
                Err(error) => from_agent::Body::Failure(rpc::Failure { message: error.to_string() }),
            };
            // Without a line nobody waits for the answer.
            let _ = outbox.send(rpc::FromAgent { order: order.order, body: Some(body) }).await;
            let _ = probe_orders.send(probes::Order::ScopeChanged).await;
            continue;
        }
        if let Some(to_agent::Body::Probe(work)) = order.body {
            // One after the other: the last one counts.
            let _ = probe_orders.send(probes::Order::Work(order.order, work)).await;
            continue;
        }
        let (agent, outbox, forwarders) = (agent.clone(), outbox.clone(), forwarders.clone());
        working.spawn(async move {
            let number = order.order;
            let body = match carry_out(&agent, order, &outbox, &forwarders).await {
                Ok(body) => body,
                Err(error) => from_agent::Body::Failure(rpc::Failure { message: error.to_string() }),
            };
            // The line may be gone; then nobody waits for the answer.
            let _ = outbox.send(rpc::FromAgent { order: number, body: Some(body) }).await;
        });
    };
    // An order that is cut short here could leave something armed behind it. Injections end at once.
    agent.stop_injecting();
    drop(orders);
    drop(probe_orders);
    working.join_all().await;
    outcome
}

async fn carry_out(
    agent: &Agent,
    order: rpc::ToAgent,
    outbox: &mpsc::Sender<rpc::FromAgent>,
    forwarders: &Forwarders,
) -> Result<from_agent::Body, AgentError> {
    let malformed = |what: String| AgentError::Malformed(what);
    match order.body {
        Some(to_agent::Body::CollectFacts(rpc::CollectFacts {})) => {
            let facts = agent.collect_facts().await?;
            let json = serde_json::to_vec(&facts).map_err(|error| malformed(error.to_string()))?;
            Ok(from_agent::Body::Facts(rpc::Facts { json }))
        }
        Some(to_agent::Body::Arm(arm)) => {
            let (sink, sightings) = mpsc::channel(SIGHTINGS);
            let reports = agent.arm(&arm, sink).await?;
            forwarders.add(arm.check, tokio::spawn(forward(arm.check, sightings, outbox.clone())));
            let reports_json = serde_json::to_vec(&reports).map_err(|error| malformed(error.to_string()))?;
            Ok(from_agent::Body::Armed(rpc::Armed { reports_json, check: arm.check }))
        }
        Some(to_agent::Body::Inject(inject)) => Ok(from_agent::Body::Injected(agent.inject(&inject).await?)),
        Some(to_agent::Body::Disarm(rpc::Disarm { check })) => {
            let id = CheckId::new(check).ok_or_else(|| malformed("check id 0".to_owned()))?;
            let losses = agent.disarm(id).await?;
            // The answer says that all sightings are there, so they go first.
            if let Some(forwarder) = forwarders.take(check) {
                forwarder.await?;
            }
            Ok(from_agent::Body::Disarmed(losses.into()))
        }
        // Assignments and plans are carried out where they are read.
        Some(to_agent::Body::Assign(_) | to_agent::Body::Probe(_)) | None => {
            Err(malformed("an order of a kind that this version does not know".to_owned()))
        }
    }
}

/// The tasks that send sightings, by check.
#[derive(Clone, Default)]
struct Forwarders(Arc<Mutex<HashMap<u32, JoinHandle<()>>>>);

impl Forwarders {
    fn add(&self, check: u32, task: JoinHandle<()>) {
        self.tasks().insert(check, task);
    }

    fn take(&self, check: u32) -> Option<JoinHandle<()>> {
        self.tasks().remove(&check)
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, HashMap<u32, JoinHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a check's sightings in batches, until the check is disarmed.
async fn forward(check: u32, mut sightings: mpsc::Receiver<Sighting>, outbox: mpsc::Sender<rpc::FromAgent>) {
    let mut batch = Vec::new();
    while sightings.recv_many(&mut batch, BATCH).await > 0 {
        let sightings = batch.iter().map(rpc::Sighting::from).collect();
        batch.clear();
        let body = from_agent::Body::Sightings(rpc::SightingBatch { check, sightings });
        if outbox.send(rpc::FromAgent { order: 0, body: Some(body) }).await.is_err() {
            // The line is gone, and with it whoever asked.
            return;
        }
    }
}
