//! What the controller asks of the agents, whoever carries the orders: gRPC streams ([`Hub`](crate::Hub)),
//! or calls within one process.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use waymark_proto::{CheckId, Facts, HookReport, Losses, NodeName, Sighting, rpc};

/// The agents of a cluster, by node.
#[async_trait]
pub trait Agents: Send + Sync {
    /// Collects the facts of a node.
    async fn facts(&self, node: &NodeName) -> Result<Facts, AgentError>;

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
