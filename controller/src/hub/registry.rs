//! Who is attached, which orders wait for an answer, and who wants the sightings of which check.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;
use waymark_proto::rpc::{ToAgent, from_agent, to_agent};
use waymark_proto::{NodeName, ProbeReport, Sighting, rpc};

use super::remembered::Remembered;
use super::scopes::Assigned;
use crate::agents::AgentError;

/// One attached agent, for a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedAgent {
    /// Its node.
    pub node: NodeName,
    /// Its version.
    pub version: String,
    /// Whole seconds since it attached.
    pub seconds: u64,
    /// Which of all the streams of agents this is.
    pub generation: u64,
}

/// An agent that was not taken, for a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedAgent {
    /// Its node.
    pub node: NodeName,
    /// Its version.
    pub version: String,
    /// Why it was not taken.
    pub why: String,
}

/// Reports of probes, with the node that they come from.
pub(super) type Reports = mpsc::Sender<(NodeName, Vec<ProbeReport>)>;

type Orders = mpsc::Sender<Result<ToAgent, Status>>;

#[derive(Debug)]
struct Attached {
    generation: u64,
    version: String,
    since: Instant,
    orders: Orders,
    waiting: HashMap<u64, oneshot::Sender<from_agent::Body>>,
    sinks: HashMap<u32, mpsc::Sender<Sighting>>,
    /// What it was told of the cluster; absent if it has an inventory of its own.
    assigned: Option<Arc<tokio::sync::Mutex<Assigned>>>,
}

#[derive(Debug, Default)]
struct State {
    agents: BTreeMap<NodeName, Attached>,
    last_words: Remembered<String>,
    refused: Remembered<RefusedAgent>,
    generations: u64,
    closed: Option<String>,
}

impl State {
    /// An answer came that nobody waits for any more. What was armed meanwhile is not to stay so.
    fn unwanted(&self, node: &NodeName, body: from_agent::Body) {
        let from_agent::Body::Armed(armed) = body else { return };
        if let Some(agent) = self.agents.get(node) {
            let body = Some(to_agent::Body::Disarm(rpc::Disarm { check: armed.check }));
            // Nobody waits for the answer. If there is no room in the queue, the lease ends it.
            drop(agent.orders.try_send(Ok(ToAgent { order: NO_ANSWER, body })));
        }
    }
}

/// The number of orders whose answer nobody waits for.
const NO_ANSWER: u64 = 0;

/// The registry. Its lock is never held across an await.
#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    /// Grows with each agent that attaches.
    arrivals: watch::Sender<u64>,
    /// Who wants the reports of probes.
    reports: OnceLock<Reports>,
}

impl Registry {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one insert or remove, so a panic elsewhere cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers an agent and returns the generation of its stream. An agent that was attached for the node
    /// loses its place: what it was asked fails.
    pub(super) fn attach(
        &self,
        node: &NodeName,
        version: String,
        wants_scope: bool,
        orders: Orders,
    ) -> Result<u64, String> {
        let mut state = self.state();
        if let Some(why) = &state.closed {
            return Err(why.clone());
        }
        state.generations += 1;
        let generation = state.generations;
        let attached = Attached {
            generation,
            version,
            since: Instant::now(),
            orders,
            waiting: HashMap::new(),
            sinks: HashMap::new(),
            assigned: wants_scope.then(Arc::default),
        };
        state.last_words.remove(node);
        state.refused.remove(node);
        if let Some(old) = state.agents.insert(node.clone(), attached) {
            let why = format!("another agent of {node} attached in its place");
            state.last_words.insert(node.clone(), why.clone());
            drop(state);
            end(&old, &why);
        }
        self.arrivals.send_replace(generation);
        Ok(generation)
    }

    /// Remembers an agent that was not taken.
    pub(super) fn refuse(&self, node: NodeName, version: String, why: String) {
        self.state().refused.insert(node.clone(), RefusedAgent { node, version, why });
    }

    pub(super) fn refused(&self) -> Vec<RefusedAgent> {
        self.state().refused.values().cloned().collect()
    }

    /// What the agent of a node was told; `None` if it is not to be told anything.
    pub(super) fn assigned(&self, node: &NodeName) -> Option<Arc<tokio::sync::Mutex<Assigned>>> {
        self.state().agents.get(node)?.assigned.clone()
    }

    /// Forgets an agent, if it is still the one of that generation.
    pub(super) fn detach(&self, node: &NodeName, generation: u64, why: &str) {
        let mut state = self.state();
        if state.agents.get(node).is_some_and(|agent| agent.generation == generation) {
            state.last_words.insert(node.clone(), why.to_owned());
            state.agents.remove(node);
        }
    }

    /// Forgets all agents and takes no more.
    pub(super) fn close(&self, why: &str) {
        let mut state = self.state();
        state.closed = Some(why.to_owned());
        for (node, agent) in std::mem::take(&mut state.agents) {
            end(&agent, why);
            state.last_words.insert(node, why.to_owned());
        }
    }

    /// Why the agent of a node last went away.
    pub(super) fn last_words(&self, node: &NodeName) -> Option<String> {
        self.state().last_words.get(node).cloned()
    }

    pub(super) fn attached(&self) -> Vec<AttachedAgent> {
        let one = |(node, agent): (&NodeName, &Attached)| AttachedAgent {
            node: node.clone(),
            version: agent.version.clone(),
            seconds: agent.since.elapsed().as_secs(),
            generation: agent.generation,
        };
        self.state().agents.iter().map(one).collect()
    }

    /// Changes whenever an agent attaches.
    pub(super) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Sends the reports of probes to this one from now on; whoever came first keeps them.
    pub(super) fn report_to(&self, reports: Reports) {
        drop(self.reports.set(reports));
    }

    pub(super) fn reports(&self) -> Option<&Reports> {
        self.reports.get()
    }

    /// Gives an answer to who waits for it.
    pub(super) fn answer(&self, node: &NodeName, generation: u64, order: u64, body: from_agent::Body) {
        let mut state = self.state();
        let agent = state.agents.get_mut(node).filter(|agent| agent.generation == generation);
        if let Some(waiting) = agent.and_then(|agent| agent.waiting.remove(&order)) {
            if let Err(body) = waiting.send(body) {
                state.unwanted(node, body);
            }
        } else {
            tracing::debug!(%node, order, "an answer that nobody waits for");
            state.unwanted(node, body);
        }
    }

    pub(super) fn subscribe(
        &self,
        node: &NodeName,
        check: u32,
        sink: mpsc::Sender<Sighting>,
    ) -> Result<(), AgentError> {
        let mut state = self.state();
        let State { agents, refused, .. } = &mut *state;
        let agent = agents.get_mut(node).ok_or_else(|| absent(node, refused))?;
        agent.sinks.insert(check, sink);
        Ok(())
    }

    pub(super) fn unsubscribe(&self, node: &NodeName, check: u32) {
        if let Some(agent) = self.state().agents.get_mut(node) {
            agent.sinks.remove(&check);
        }
    }

    pub(super) fn sink(&self, node: &NodeName, check: u32) -> Option<mpsc::Sender<Sighting>> {
        self.state().agents.get(node)?.sinks.get(&check).cloned()
    }
}

/// Why there is no agent of a node.
fn absent(node: &NodeName, refused: &Remembered<RefusedAgent>) -> AgentError {
    let node = node.clone();
    match refused.get(&node) {
        Some(agent) => AgentError::Refused { node, why: agent.why.clone() },
        None => AgentError::NoAgent { node },
    }
}

/// Tells an agent that its stream is over. If its queue is full it learns by the end of the stream alone.
fn end(agent: &Attached, why: &str) {
    drop(agent.orders.try_send(Err(Status::aborted(why.to_owned()))));
}

/// The right to one answer. Dropped early, as on a timeout, it is taken out of the registry.
pub(super) struct Ticket<'a> {
    registry: &'a Arc<Registry>,
    node: NodeName,
    order: u64,
    answer: oneshot::Receiver<from_agent::Body>,
}

impl<'a> Ticket<'a> {
    /// Announces an order; returns with it the stream to send it on.
    pub(super) fn new(
        registry: &'a Arc<Registry>,
        node: &NodeName,
        order: u64,
    ) -> Result<(Self, Orders), AgentError> {
        let (sender, answer) = oneshot::channel();
        let mut state = registry.state();
        let State { agents, refused, .. } = &mut *state;
        let agent = agents.get_mut(node).ok_or_else(|| absent(node, refused))?;
        agent.waiting.insert(order, sender);
        let orders = agent.orders.clone();
        drop(state);
        Ok((Self { registry, node: node.clone(), order, answer }, orders))
    }

    /// The answer; `None` if the agent went away.
    pub(super) async fn answer(mut self) -> Option<from_agent::Body> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.registry.state();
        if let Some(agent) = state.agents.get_mut(&self.node) {
            agent.waiting.remove(&self.order);
        }
        // It came, and whoever waited went away before looking.
        if let Ok(body) = self.answer.try_recv() {
            state.unwanted(&self.node, body);
        }
    }
}

#[cfg(test)]
mod tests;
