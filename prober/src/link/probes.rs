//! The part of the line that is about watches: plans one after the other, and what was counted, about once a
//! second.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use waymark_proto::rpc::{self, from_agent};

use crate::agent::{Agent, AgentError};

/// Between two reports. Whoever looks at a live table wants about that.
const REPORTS: Duration = Duration::from_secs(1);
/// Reports between two looks for namespaces that were not there yet.
const LOOKS: u32 = 5;
/// Reports per message at most: some 100 kB.
const BATCH: usize = 500;

/// What is to be done, in this order.
pub enum Order {
    /// A plan, by the number of its order.
    Work(u64, rpc::ProbeWork),
    /// What belongs to the node changed.
    ScopeChanged,
}

/// Serves until no orders can come any more, or the line is gone.
pub async fn serve(agent: Agent, mut orders: mpsc::Receiver<Order>, outbox: mpsc::Sender<rpc::FromAgent>) {
    let mut ticks = tokio::time::interval(REPORTS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut until_look = LOOKS;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Work(number, work)) => {
                    // What was counted of targets that this plan ends would be lost.
                    report(&agent, &outbox).await;
                    let body = match carry_out(&agent, &work).await {
                        Ok(body) => body,
                        Err(error) => from_agent::Body::Failure(rpc::Failure { message: error.to_string() }),
                    };
                    // Without a line nobody waits for the answer.
                    let _ = outbox.send(rpc::FromAgent { order: number, body: Some(body) }).await;
                }
                Some(Order::ScopeChanged) => renew(&agent).await,
                None => return,
            },
            _ = ticks.tick() => {
                report(&agent, &outbox).await;
                until_look -= 1;
                if until_look == 0 {
                    until_look = LOOKS;
                    if agent.waits_for_namespaces().await {
                        renew(&agent).await;
                    }
                }
            }
        }
    }
}

async fn carry_out(agent: &Agent, work: &rpc::ProbeWork) -> Result<from_agent::Body, AgentError> {
    let refusals = agent.probe(work).await?;
    let refusals_json =
        serde_json::to_vec(&refusals).map_err(|error| AgentError::Malformed(error.to_string()))?;
    Ok(from_agent::Body::Probing(rpc::Probing { refusals_json }))
}

async fn renew(agent: &Agent) {
    if let Err(error) = agent.renew_probes().await {
        tracing::warn!(%error, "cannot look for the namespaces of probes");
    }
}

/// Sends what was counted. It is taken from the prober only once there is room to send it.
async fn report(agent: &Agent, outbox: &mpsc::Sender<rpc::FromAgent>) {
    let Ok(room) = outbox.reserve().await else { return };
    let reports = match agent.probe_reports().await {
        Ok(reports) => reports,
        Err(error) => {
            tracing::warn!(%error, "no reports");
            return;
        }
    };
    let mut reports: Vec<_> = reports.into_iter().map(rpc::ProbeReport::from).collect();
    let mut room = Some(room);
    while !reports.is_empty() {
        let rest = reports.split_off(reports.len().min(BATCH));
        let body = from_agent::Body::ProbeReports(rpc::ProbeReports { reports });
        let message = rpc::FromAgent { order: 0, body: Some(body) };
        match room.take() {
            Some(room) => room.send(message),
            None if outbox.send(message).await.is_err() => return,
            None => {}
        }
        reports = rest;
    }
}
