//! The hub: agents dial in and keep one gRPC stream each; orders go down, answers and sightings come up.
//!
//! An order has a number that the answer repeats. Whoever waits for an answer learns at once when the agent
//! goes away or is replaced by another of the same node: the registry then drops the waiting ends.
//!
//! * `collections`: facts are collected once for all who ask at the same time
//! * `registry`: who is attached, and who waits for what
//! * `remembered`: what is known of those that are not
//! * `scopes`: what agents without an inventory are told

mod collections;
mod registry;
mod remembered;
mod scopes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use waymark_proto::rpc::{self, FromAgent, ToAgent, from_agent, to_agent};
use waymark_proto::{
    CheckId, Facts, HookReport, Losses, NodeName, ProbePlan, ProbeReport, Refusal, Sighting, short,
};

use crate::agents::{AgentError, Agents, NodeFacts};
use collections::Collections;
pub use waymark_proto::rpc::MAX_MESSAGE;

pub use registry::{AttachedAgent, RefusedAgent};
use registry::{Registry, Ticket};
use scopes::Scopes;

use crate::source::Source;
use crate::target::MAX_NAME;

/// Orders that may wait for a slow agent before ordering itself waits.
const QUEUED_ORDERS: usize = 64;

/// How long agents have for each kind of order.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To collect facts: rulesets of tens of thousands of rules take seconds to dump.
    pub facts: Duration,
    /// To arm.
    pub arm: Duration,
    /// To inject, beyond the time that the intervals take.
    pub inject: Duration,
    /// To disarm.
    pub disarm: Duration,
    /// To learn what belongs to its node.
    pub assign: Duration,
    /// To take on a plan of probes.
    pub probe: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            facts: Duration::from_secs(30),
            arm: Duration::from_secs(15),
            inject: Duration::from_secs(10),
            disarm: Duration::from_secs(10),
            assign: Duration::from_secs(10),
            probe: Duration::from_secs(10),
        }
    }
}

/// The attached agents. Cheap to clone; all clones are one hub.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    registry: Arc<Registry>,
    orders: Arc<AtomicU64>,
    patience: Patience,
    scopes: Option<Arc<Scopes>>,
    collections: Arc<Collections>,
}

impl Hub {
    /// A hub without agents, for agents that have an inventory of their own.
    pub fn new(patience: Patience) -> Self {
        Self { patience, ..Self::default() }
    }

    /// A hub without agents. To those without an inventory it says what this source has about their nodes.
    pub fn with_source(patience: Patience, source: Arc<dyn Source>) -> Self {
        Self { scopes: Some(Arc::new(Scopes::new(source))), ..Self::new(patience) }
    }

    /// The agents that are attached now, by node.
    pub fn attached(&self) -> Vec<AttachedAgent> {
        self.registry.attached()
    }

    /// The agents that were refused and have not come back otherwise, by node.
    pub fn refused(&self) -> Vec<RefusedAgent> {
        self.registry.refused()
    }

    /// Ends all streams and refuses new agents. Orders under way fail at once.
    pub fn close(&self) {
        self.registry.close("the controller stops");
    }

    /// Changes whenever an agent attaches.
    pub(crate) fn arrivals(&self) -> tokio::sync::watch::Receiver<u64> {
        self.registry.arrivals()
    }

    /// Sends the reports of probes to this one; whoever came first keeps them.
    pub(crate) fn report_to(&self, reports: mpsc::Sender<(NodeName, Vec<ProbeReport>)>) {
        self.registry.report_to(reports);
    }

    /// Gives an agent its plan, in place of the one before; returns what it does not take on.
    pub(crate) async fn probe(
        &self,
        node: &NodeName,
        plan: &ProbePlan,
        lease: Duration,
    ) -> Result<Vec<Refusal>, AgentError> {
        let operation = "probe";
        let plan_json = serde_json::to_vec(plan).expect("a plan is plain data with text keys");
        let work = rpc::ProbeWork { plan_json, lease_ms: lease.as_millis() as u32 };
        match self.order(node, operation, self.patience.probe, to_agent::Body::Probe(work)).await? {
            from_agent::Body::Probing(probing) => {
                serde_json::from_slice(&probing.refusals_json).map_err(|error| AgentError::Failed {
                    node: node.clone(),
                    operation,
                    message: format!("its answer is malformed: {error}"),
                })
            }
            _ => Err(unexpected(node, operation)),
        }
    }

    /// The gRPC service for a server.
    pub fn service(&self) -> rpc::agent_hub_server::AgentHubServer<Self> {
        rpc::agent_hub_server::AgentHubServer::new(self.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Tells an agent without an inventory what it must know, if it does not know it yet.
    async fn assign(&self, node: &NodeName) -> Result<(), AgentError> {
        let (Some(scopes), Some(assigned)) = (&self.scopes, self.registry.assigned(node)) else {
            return Ok(());
        };
        // Held until the agent has answered: an order that comes meanwhile waits for the news too.
        let mut assigned = assigned.lock().await;
        let Some(news) = scopes.news(node, &mut assigned).await else { return Ok(()) };
        let operation = "learn what runs on its node";
        let scope_json = serde_json::to_vec(&news.scope).expect("a scope is plain data with text keys");
        let body = to_agent::Body::Assign(rpc::Assign { scope_json });
        match self.send(node, operation, self.patience.assign, body).await? {
            from_agent::Body::Assigned(rpc::Assigned {}) => assigned.told(news),
            _ => return Err(unexpected(node, operation)),
        }
        Ok(())
    }

    /// Has an agent collect its node's facts.
    async fn collect(&self, node: &NodeName) -> Result<Arc<NodeFacts>, AgentError> {
        let operation = "collect facts";
        let body = to_agent::Body::CollectFacts(rpc::CollectFacts {});
        match self.order(node, operation, self.patience.facts, body).await? {
            from_agent::Body::Facts(facts) => Facts::from_json(&facts.json)
                .map(|facts| Arc::new(NodeFacts::from(facts)))
                .map_err(|message| AgentError::Failed { node: node.clone(), operation, message }),
            _ => Err(unexpected(node, operation)),
        }
    }

    /// Gives an order to an agent that knows what it is about, and waits for the answer.
    async fn order(
        &self,
        node: &NodeName,
        operation: &'static str,
        patience: Duration,
        body: to_agent::Body,
    ) -> Result<from_agent::Body, AgentError> {
        self.assign(node).await?;
        self.send(node, operation, patience, body).await
    }

    async fn send(
        &self,
        node: &NodeName,
        operation: &'static str,
        patience: Duration,
        body: to_agent::Body,
    ) -> Result<from_agent::Body, AgentError> {
        let order = self.orders.fetch_add(1, Ordering::Relaxed) + 1;
        let gone = || AgentError::Gone {
            node: node.clone(),
            operation,
            why: self.registry.last_words(node).unwrap_or_else(|| "its stream ended".to_owned()),
        };
        let (ticket, stream) = Ticket::new(&self.registry, node, order)?;
        let conversation = async {
            stream.send(Ok(ToAgent { order, body: Some(body) })).await.map_err(|_| gone())?;
            ticket.answer().await.ok_or_else(gone)
        };
        match tokio::time::timeout(patience, conversation).await {
            Ok(Ok(from_agent::Body::Failure(failure))) => {
                Err(AgentError::Failed { node: node.clone(), operation, message: failure.message })
            }
            Ok(answer) => answer,
            Err(_) => Err(AgentError::Timeout { node: node.clone(), operation, after: patience }),
        }
    }
}

fn unexpected(node: &NodeName, operation: &'static str) -> AgentError {
    let message = "it answered with something else than was asked".to_owned();
    AgentError::Failed { node: node.clone(), operation, message }
}

#[async_trait]
impl Agents for Hub {
    async fn facts(&self, node: &NodeName) -> Result<Arc<NodeFacts>, AgentError> {
        let (hub, wanted) = (self.clone(), node.clone());
        self.collections.join(node, async move { hub.collect(&wanted).await }).await
    }

    async fn arm(
        &self,
        node: &NodeName,
        arm: rpc::Arm,
        sink: mpsc::Sender<Sighting>,
    ) -> Result<Vec<HookReport>, AgentError> {
        let operation = "arm";
        let check = arm.check;
        self.registry.subscribe(node, check, sink)?;
        let answer = self.order(node, operation, self.patience.arm, to_agent::Body::Arm(arm)).await;
        let reports = match answer {
            Ok(from_agent::Body::Armed(armed)) => {
                serde_json::from_slice(&armed.reports_json).map_err(|error| AgentError::Failed {
                    node: node.clone(),
                    operation,
                    message: format!("its report is malformed: {error}"),
                })
            }
            Ok(_) => Err(unexpected(node, operation)),
            Err(error) => Err(error),
        };
        if reports.is_err() {
            self.registry.unsubscribe(node, check);
        }
        reports
    }

    async fn inject(&self, node: &NodeName, inject: rpc::Inject) -> Result<rpc::Injected, AgentError> {
        let operation = "inject";
        let sending = Duration::from_micros(u64::from(inject.count) * u64::from(inject.interval_us));
        let patience = self.patience.inject + sending;
        match self.order(node, operation, patience, to_agent::Body::Inject(inject)).await? {
            from_agent::Body::Injected(injected) => Ok(injected),
            _ => Err(unexpected(node, operation)),
        }
    }

    async fn disarm(&self, node: &NodeName, check: CheckId) -> Result<Losses, AgentError> {
        let operation = "disarm";
        let body = to_agent::Body::Disarm(rpc::Disarm { check: check.get() });
        let answer = self.order(node, operation, self.patience.disarm, body).await;
        self.registry.unsubscribe(node, check.get());
        match answer? {
            from_agent::Body::Disarmed(disarmed) => Ok(disarmed.into()),
            _ => Err(unexpected(node, operation)),
        }
    }
}

#[async_trait]
impl rpc::agent_hub_server::AgentHub for Hub {
    type AttachStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut messages = request.into_inner();
        let hello = match messages.message().await?.and_then(|message| message.body) {
            Some(from_agent::Body::Hello(hello)) if (1..=MAX_NAME).contains(&hello.node.chars().count()) => {
                hello
            }
            _ => {
                return Err(Status::invalid_argument(format!(
                    "an agent's first message must be a Hello with its node, a name of 1 to {MAX_NAME} characters"
                )));
            }
        };
        let version = short(&hello.version).into_owned();
        let node = NodeName::from(hello.node);
        if hello.protocol != rpc::PROTOCOL {
            let why = other_protocol(&version, hello.protocol);
            tracing::warn!(%node, why, "agent refused");
            let refusal = Status::failed_precondition(format!("the agent of {node} is not taken: {why}"));
            self.registry.refuse(node, version, why);
            return Err(refusal);
        }
        let (orders, stream) = mpsc::channel(QUEUED_ORDERS);
        let generation = self
            .registry
            .attach(&node, version, hello.wants_scope, orders)
            .map_err(|why| Status::unavailable(format!("no agents are taken: {why}")))?;
        tracing::info!(%node, "agent attached");
        let registry = Arc::clone(&self.registry);
        let hub = self.clone();
        let told = node.clone();
        tokio::spawn(async move {
            if let Err(error) = hub.assign(&told).await {
                tracing::warn!(%error, "will be told before the next order");
            }
        });
        tokio::spawn(async move {
            let why = listen(&registry, &node, generation, messages).await;
            tracing::info!(%node, why, "agent detached");
            registry.detach(&node, generation, &why);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Why an agent that speaks another protocol cannot be ordered.
fn other_protocol(version: &str, protocol: u32) -> String {
    format!(
        "its version {version} speaks protocol {protocol}, this controller's version {} speaks protocol {}; run both in the same version",
        env!("CARGO_PKG_VERSION"),
        rpc::PROTOCOL
    )
}

/// Passes on what an agent says until its stream ends; returns why it ended.
async fn listen(
    registry: &Registry,
    node: &NodeName,
    generation: u64,
    mut messages: Streaming<FromAgent>,
) -> String {
    loop {
        match messages.message().await {
            Ok(Some(FromAgent { body: Some(from_agent::Body::Sightings(batch)), .. })) => {
                deliver(registry, node, batch).await;
            }
            Ok(Some(FromAgent { body: Some(from_agent::Body::ProbeReports(batch)), .. })) => {
                if let Some(wanted) = registry.reports() {
                    let reports = batch.reports.into_iter().map(ProbeReport::from).collect();
                    // Who wanted them may be stopping.
                    drop(wanted.send((node.clone(), reports)).await);
                }
            }
            Ok(Some(FromAgent { order, body: Some(body) })) => registry.answer(node, generation, order, body),
            Ok(Some(FromAgent { body: None, .. })) => tracing::warn!(%node, "an empty message from an agent"),
            Ok(None) => return "its stream ended".to_owned(),
            Err(status) => return format!("its stream broke: {}", status.message()),
        }
    }
}

async fn deliver(registry: &Registry, node: &NodeName, batch: rpc::SightingBatch) {
    let Some(check) = CheckId::new(batch.check) else { return };
    // After a disarm or the end of a check, late sightings have nobody who wants them.
    let Some(sink) = registry.sink(node, batch.check) else { return };
    for sighting in batch.sightings {
        match sighting.into_sighting(node, check) {
            Ok(sighting) => {
                if sink.send(sighting).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%node, %error, "a sighting was not understood"),
        }
    }
}

#[cfg(test)]
pub(crate) mod puppet;
#[cfg(test)]
mod tests;
