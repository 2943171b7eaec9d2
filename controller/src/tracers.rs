//! The tracers of several nodes, from arming to disarming, whoever reads what they see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use waymark_proto::{CheckId, Losses, NetnsName, NodeName, Sighting, Text, rpc, text};

use crate::agents::{AgentError, Agents};
use crate::diagnose::Sight;

/// Tracers that are armed. Whoever drops them disarms them.
pub(crate) struct Tracers {
    agents: Arc<dyn Agents>,
    check: CheckId,
    nodes: Vec<NodeName>,
    /// What can be seen.
    pub(crate) sight: Sight,
    /// Nodes that could not be armed.
    pub(crate) notes: Vec<Text>,
}

impl Tracers {
    /// Arms the tracers of these nodes in parallel, each for these namespaces of its own. A node that cannot be armed is noted.
    pub(crate) async fn arm(
        agents: &Arc<dyn Agents>,
        check: CheckId,
        order: &rpc::Arm,
        nodes: &BTreeMap<NodeName, BTreeSet<NetnsName>>,
        sink: &mpsc::Sender<Sighting>,
    ) -> Self {
        let orders = nodes.iter().map(|(node, namespaces)| {
            let netns = namespaces.iter().map(ToString::to_string).collect();
            let (order, sink) = (rpc::Arm { netns, ..order.clone() }, sink.clone());
            async move { (node.clone(), agents.arm(node, order, sink).await) }
        });
        let (agents, nodes) = (Arc::clone(agents), Vec::new());
        let mut tracers = Self { agents, check, nodes, sight: Sight::default(), notes: Vec::new() };
        // Each as it comes: should nobody want them any more meanwhile, those that are armed are disarmed.
        let mut outcomes: FuturesUnordered<_> = orders.collect();
        while let Some((node, outcome)) = outcomes.next().await {
            match outcome {
                Ok(reports) => {
                    tracers.sight.armed(node.clone(), reports);
                    tracers.nodes.push(node);
                }
                Err(error) => tracers.lost(node, &error),
            }
        }
        tracers.notes.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        tracers
    }

    /// Disarms everywhere, and says what was lost.
    pub(crate) async fn disarm(&mut self) -> Losses {
        let mut losses = Losses::default();
        let armed = std::mem::take(&mut self.nodes);
        let agents = Arc::clone(&self.agents);
        let orders = armed.iter().map(|node| agents.disarm(node, self.check));
        for (node, outcome) in armed.iter().zip(join_all(orders).await) {
            match outcome {
                Ok(lost) => losses += lost,
                // Late records may have been lost with it, so what it did not show proves nothing.
                Err(error) => self.lost(node.clone(), &error),
            }
        }
        losses
    }

    fn lost(&mut self, node: NodeName, error: &AgentError) {
        let why = Text::verbatim(error.to_string());
        self.notes.push(text!(note::Unwatched { node: &node, why: &why }));
        self.sight.blind(node, why);
    }
}

impl Drop for Tracers {
    /// What was cut short, for example by a panic, still disarms.
    fn drop(&mut self) {
        let armed = std::mem::take(&mut self.nodes);
        if let (false, Ok(runtime)) = (armed.is_empty(), tokio::runtime::Handle::try_current()) {
            let (agents, check) = (Arc::clone(&self.agents), self.check);
            runtime.spawn(async move {
                for node in armed {
                    if let Err(error) = agents.disarm(&node, check).await {
                        tracing::warn!(%node, %check, %error, "left armed until its lease ends");
                    }
                }
            });
        }
    }
}
