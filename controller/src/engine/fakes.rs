//! Agents of a check that need no cluster.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use waymark_proto::{HookReport, HookSet, Losses, Sighting, rpc};

use super::*;
use crate::agents::NodeFacts;
use crate::fixture::{BACK, THERE, inventory, reports, sightings, steps, tcp};

/// Agents that see a healthy round trip of whatever is sent, and know no facts.
#[derive(Default)]
pub(crate) struct Fakes {
    pub(crate) sinks: Mutex<HashMap<NodeName, mpsc::Sender<Sighting>>>,
    pub(crate) disarmed: Mutex<Vec<NodeName>>,
    /// The node that has no agent.
    pub(crate) absent: Option<NodeName>,
    /// Whether injecting fails.
    pub(crate) broken: bool,
    /// Whether answers come back.
    pub(crate) mute: bool,
    /// Whether every second packet is lost on its way, and injecting fails from the second time on.
    pub(crate) fading: bool,
    /// The node whose agent never answers when it is to arm.
    pub(crate) stuck: Option<NodeName>,
    /// What each order to arm wanted watched.
    pub(crate) hooks: Mutex<Vec<HookSet>>,
    /// How many injections were asked for.
    pub(crate) injections: watch::Sender<usize>,
}

#[async_trait]
impl Agents for Fakes {
    async fn facts(&self, node: &NodeName) -> Result<Arc<NodeFacts>, AgentError> {
        let message = "nothing is known".to_owned();
        match &self.absent {
            Some(absent) if absent == node => Err(AgentError::NoAgent { node: node.clone() }),
            _ => Err(AgentError::Failed { node: node.clone(), operation: "collect facts", message }),
        }
    }

    async fn arm(
        &self,
        node: &NodeName,
        arm: rpc::Arm,
        sink: mpsc::Sender<Sighting>,
    ) -> Result<Vec<HookReport>, AgentError> {
        if self.absent.as_ref() == Some(node) {
            return Err(AgentError::NoAgent { node: node.clone() });
        }
        if self.stuck.as_ref() == Some(node) {
            std::future::pending::<()>().await;
        }
        self.hooks.lock().unwrap().push(arm.hooks().into());
        self.sinks.lock().unwrap().insert(node.clone(), sink);
        let own = if node.as_str() == "node1" { ["t-cart", "t-node1"] } else { ["t-pay", "t-node2"] };
        Ok(reports(&own))
    }

    async fn inject(&self, node: &NodeName, inject: rpc::Inject) -> Result<rpc::Injected, AgentError> {
        self.injections.send_modify(|count| *count += 1);
        if self.broken || (self.fading && *self.injections.borrow() > 1) {
            let message = "no socket".to_owned();
            return Err(AgentError::Failed { node: node.clone(), operation: "inject", message });
        }
        let packets = (0..inject.count).map(|seq| rpc::SentPacket {
            seq,
            source_port: tcp().src_port.into(),
            sent_ns: 9_000_000,
            size: 44,
            ..Default::default()
        });
        let sinks = self.sinks.lock().unwrap().clone();
        for seq in 0..inject.count {
            let mut way = steps(THERE, tcp());
            let lost = self.fading && seq % 2 == 1;
            if lost {
                way.truncate(way.len() / 2);
            }
            let mut seen = sightings(&way, seq, false);
            if !self.mute && !lost {
                seen.extend(sightings(&steps(BACK, tcp().reversed()), seq, true));
            }
            for sighting in seen {
                if let Some(sink) = sinks.get(&sighting.place.node) {
                    sink.send(sighting).await.unwrap();
                }
            }
        }
        Ok(rpc::Injected { packets: packets.collect() })
    }

    async fn disarm(&self, node: &NodeName, _check: CheckId) -> Result<Losses, AgentError> {
        self.sinks.lock().unwrap().remove(node);
        self.disarmed.lock().unwrap().push(node.clone());
        Ok(Losses::default())
    }
}

/// What a check finds that they carry out, `wide` from the first packet on or not, and its recording.
pub(crate) async fn recorded(wide: bool) -> (CheckResult, Recording) {
    let agents: Arc<dyn Agents> = Arc::new(Fakes::default());
    let [source, destination] = ["pod/shop/cart", "pod/shop/pay:80"].map(|end| end.parse().unwrap());
    let request = Request { wide, ..Request::new(source, destination) };
    let (progress, _lines) = Progress::channel();
    check_and_record(&agents, &inventory(), &request, &progress).await.unwrap()
}

/// What a check finds that they carry out.
pub(crate) async fn result() -> CheckResult {
    recorded(false).await.0
}
