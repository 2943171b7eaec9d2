//! What the controller asks of the agents, whoever carries the orders: gRPC streams ([`Hub`](crate::Hub)),
//! or calls within one process.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use waymark_proto::{CheckId, Facts, HookReport, Losses, NodeName, Sighting, rpc};
use waymark_sim::{Compiled, SimError};

/// The agents of a cluster, by node.
#[async_trait]
pub trait Agents: Send + Sync {
    /// The facts of a node as they are now. Who asks at the same moment may share them.
    async fn facts(&self, node: &NodeName) -> Result<Arc<NodeFacts>, AgentError>;

    /// Watches for the markers of a check until [`disarm`](Agents::disarm) or the end of the lease, and
    /// answers with what can be seen. Sightings go to `sink`; what was sighted before a disarm is in the
    /// sink when the disarm returns.
    async fn arm(
        &self,
        node: &NodeName,
        arm: rpc::Arm,
        sink: mpsc::Sender<Sighting>,
    ) -> Result<Vec<HookReport>, AgentError>;

    /// Sends the packets of a check; returns when the last one went out.
    async fn inject(&self, node: &NodeName, inject: rpc::Inject) -> Result<rpc::Injected, AgentError>;

    /// Stops watching; the sink is dropped.
    async fn disarm(&self, node: &NodeName, check: CheckId) -> Result<Losses, AgentError>;
}

/// The facts of a node as its agent told them, and what predictions make of them.
#[derive(Debug)]
pub struct NodeFacts {
    told: Facts,
    compiled: OnceLock<Result<Compiled, SimError>>,
}

impl NodeFacts {
    /// What the agent told.
    pub fn told(&self) -> &Facts {
        &self.told
    }

    /// The same compiled, which is done once, for the first who wants it.
    ///
    /// # Errors
    /// Facts that are of no use.
    pub fn compiled(&self) -> Result<&Compiled, SimError> {
        self.compiled.get_or_init(|| Compiled::new(self.told.clone())).as_ref().map_err(Clone::clone)
    }
}

impl From<Facts> for NodeFacts {
    fn from(told: Facts) -> Self {
        Self { told, compiled: OnceLock::new() }
    }
}

/// Why an agent did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// No agent of this node is attached.
    #[error("no agent is attached for node {node}")]
    NoAgent {
        /// The node.
        node: NodeName,
    },
    /// The agent of this node was not taken.
    #[error("no agent is attached for node {node}, because the one that dialled in was refused: {why}")]
    Refused {
        /// The node.
        node: NodeName,
        /// Why.
        why: String,
    },
    /// No answer came in time.
    #[error("the agent of {node} did not answer within {} s when asked to {operation}", after.as_secs())]
    Timeout {
        /// The node.
        node: NodeName,
        /// What it was asked.
        operation: &'static str,
        /// How long it had.
        after: Duration,
    },
    /// The agent said that it could not.
    #[error("the agent of {node} could not {operation}: {message}")]
    Failed {
        /// The node.
        node: NodeName,
        /// What it was asked.
        operation: &'static str,
        /// Its words.
        message: String,
    },
    /// The agent went away before it answered.
    #[error("the agent of {node} went away when asked to {operation}: {why}")]
    Gone {
        /// The node.
        node: NodeName,
        /// What it was asked.
        operation: &'static str,
        /// Why, as far as is known.
        why: String,
    },
}
