//! Agents within this process, one for each node of an inventory of this machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use caps::{CapSet, Capability};
use tokio::sync::mpsc;
use waymark_controller::{AgentError, Agents, NodeFacts};
use waymark_prober::agent::Agent;
use waymark_proto::{CheckId, HookReport, Inventory, Losses, NodeName, Sighting, rpc};

use crate::failure::{Exit, Failure};

/// The agents. Each is made when it is first needed: loading tracers takes time.
pub(crate) struct LocalAgents {
    inventory: Inventory,
    agents: Mutex<BTreeMap<NodeName, Agent>>,
}

impl LocalAgents {
    pub(crate) fn new(inventory: Inventory) -> Self {
        Self { inventory, agents: Mutex::default() }
    }

    /// Whether this process may enter network namespaces and read what is in them.
    pub(crate) fn may_look() -> Result<(), Failure> {
        permitted(&[Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN])
    }

    /// Whether this process may trace and inject as well.
    pub(crate) fn may_trace() -> Result<(), Failure> {
        permitted(&[Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW])
    }

    fn agent(&self, node: &NodeName) -> Result<Agent, AgentError> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(node) {
            return Ok(agent.clone());
        }
        let agent =
            Agent::new(&self.inventory, node.clone()).map_err(|error| failed(node, "start", &error))?;
        agents.insert(node.clone(), agent.clone());
        Ok(agent)
    }
}

fn permitted(needed: &[Capability]) -> Result<(), Failure> {
    let missing: Vec<String> = needed
        .iter()
        .filter(|capability| !caps::has_cap(None, CapSet::Effective, **capability).unwrap_or(false))
        .map(ToString::to_string)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message =
        format!("--local needs {}: run it as root, or ask a controller instead", missing.join(", "));
    Err(Failure::new(Exit::NoPermission, message))
}

fn failed(node: &NodeName, operation: &'static str, error: &dyn std::fmt::Display) -> AgentError {
    AgentError::Failed { node: node.clone(), operation, message: error.to_string() }
}

#[async_trait]
impl Agents for LocalAgents {
    async fn facts(&self, node: &NodeName) -> Result<Arc<NodeFacts>, AgentError> {
        let (inventory, wanted) = (self.inventory.clone(), node.clone());
        // No tracer is needed for this, so no agent.
        let collected =
            tokio::task::spawn_blocking(move || waymark_prober::facts::collect(&inventory, &wanted)).await;
        match collected {
            Ok(facts) => facts
                .map(|facts| Arc::new(NodeFacts::from(facts)))
                .map_err(|error| failed(node, "collect facts", &error)),
            Err(error) => Err(failed(node, "collect facts", &error)),
        }
    }

    async fn arm(
        &self,
        node: &NodeName,
        arm: rpc::Arm,
        sink: mpsc::Sender<Sighting>,
    ) -> Result<Vec<HookReport>, AgentError> {
        self.agent(node)?.arm(&arm, sink).await.map_err(|error| failed(node, "arm", &error))
    }

    async fn inject(&self, node: &NodeName, inject: rpc::Inject) -> Result<rpc::Injected, AgentError> {
        self.agent(node)?.inject(&inject).await.map_err(|error| failed(node, "inject", &error))
    }

    async fn disarm(&self, node: &NodeName, check: CheckId) -> Result<Losses, AgentError> {
        self.agent(node)?.disarm(check).await.map_err(|error| failed(node, "disarm", &error))
    }
}
