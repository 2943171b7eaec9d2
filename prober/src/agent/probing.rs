//! The agent's part of watches: a plan, the prober that serves it, and the lease for when its controller is gone.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::AbortHandle;
use waymark_proto::{NetnsName, ProbePlan, ProbeReport, Refusal, rpc};

use super::{Agent, AgentError, within};
use crate::metrics::Metrics;
use crate::netns::Netns;
use crate::watch::{Prober, WatchError, Work, admit};

/// What an agent remembers of its watches.
#[derive(Debug, Default)]
pub(super) struct Probing {
    /// Runs since there was a plan.
    prober: Option<Prober>,
    /// As it was ordered.
    plan: ProbePlan,
    lease: Duration,
    /// Ends the plan; there while the controller is gone.
    end: Option<AbortHandle>,
    /// Whether a part of the plan waits for a namespace to appear.
    waiting: bool,
}

impl Probing {
    fn keep(&mut self) {
        if let Some(end) = self.end.take() {
            end.abort();
        }
    }
}

impl Agent {
    /// Replaces what is probed. Tells what of it is refused; the rest is being done.
    pub async fn probe(&self, order: &rpc::ProbeWork) -> Result<Vec<Refusal>, AgentError> {
        let plan: ProbePlan = serde_json::from_slice(&order.plan_json)
            .map_err(|error| AgentError::Malformed(format!("plan: {error}")))?;
        let most = u32::try_from(self.0.limits.probing.lease.as_millis()).unwrap_or(u32::MAX);
        within("a lease in milliseconds of", order.lease_ms, most)?;
        let mut probing = self.0.probing.lock().await;
        probing.keep();
        probing.lease = Duration::from_millis(order.lease_ms.into());
        probing.plan = plan;
        self.serve(&mut probing).await
    }

    /// Looks anew for the namespaces of the plan: after what belongs to the node changed.
    pub async fn renew_probes(&self) -> Result<(), AgentError> {
        let mut probing = self.0.probing.lock().await;
        if probing.prober.is_some() {
            for Refusal { why, .. } in self.serve(&mut probing).await? {
                tracing::debug!(why, "a part of the plan is not served");
            }
        }
        Ok(())
    }

    /// Whether a part of the plan waits for a namespace to appear.
    pub async fn waits_for_namespaces(&self) -> bool {
        self.0.probing.lock().await.waiting
    }

    /// What was counted since this was last asked.
    pub async fn probe_reports(&self) -> Result<Vec<ProbeReport>, AgentError> {
        let mut probing = self.0.probing.lock().await;
        let Some(prober) = probing.prober.clone() else { return Ok(Vec::new()) };
        let reports = prober.reports().await;
        if reports.is_err() {
            probing.prober = None;
        }
        Ok(reports?)
    }

    /// The controller is gone: probing goes on until the lease ends, unless a controller orders anew before.
    pub async fn begin_probe_lease(&self) {
        let mut probing = self.0.probing.lock().await;
        if probing.prober.is_none() || probing.end.is_some() {
            return;
        }
        let (agent, lease) = (self.clone(), probing.lease);
        let end = tokio::spawn(async move {
            tokio::time::sleep(lease).await;
            tracing::warn!(?lease, "probing ends: there was no word from a controller");
            agent.stop_probing().await;
        });
        probing.end = Some(end.abort_handle());
    }

    /// Ends the plan. What was counted and not asked for is forgotten.
    pub async fn stop_probing(&self) {
        let mut probing = self.0.probing.lock().await;
        // When this is answered its ports are free for others; dropping it alone would not wait for that.
        if let Some(prober) = &probing.prober
            && let Err(error) = prober.set(Work::default()).await
        {
            tracing::warn!(%error, "cannot end probing");
        }
        *probing = Probing::default();
    }

    /// What it tells Prometheus.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Has the prober do what of the plan is possible now.
    async fn serve(&self, probing: &mut Probing) -> Result<Vec<Refusal>, AgentError> {
        probing.waiting = false;
        if probing.plan == ProbePlan::default() {
            // Idle, the thread costs nothing; it has closed its sockets when it answers.
            return match &probing.prober {
                Some(prober) => Ok(prober.set(Work::default()).await?),
                None => Ok(Vec::new()),
            };
        }
        let (open, closed) = self.0.open_namespaces().await?;
        let scope = self.0.scope()?;
        let may_send_to = |ip| self.0.allows(&scope, ip);
        let (plan, mut refusals) = admit(probing.plan.clone(), &self.0.limits.probing, may_send_to);
        let open: HashMap<&NetnsName, &Netns> = open.iter().map(|(_, netns)| (netns.name(), netns)).collect();
        let mut find = |name: &NetnsName| {
            if let Some(netns) = open.get(name) {
                return Ok(Netns::clone(netns));
            }
            probing.waiting = true;
            let unknown = AgentError::UnknownNetns { node: self.0.node.clone(), netns: name.clone() };
            Err(closed.get(name).cloned().unwrap_or_else(|| unknown.to_string()))
        };
        let mut work = Work::default();
        for probe in plan.probes {
            match find(&probe.netns) {
                Ok(netns) => work.probes.push((probe, netns)),
                Err(why) => refusals.push(Refusal { probe: Some(probe.id), why }),
            }
        }
        for responder in plan.responders {
            match find(&responder.netns) {
                Ok(netns) => work.responders.push((responder, netns)),
                Err(why) => refusals.push(Refusal { probe: None, why }),
            }
        }
        let prober = match &probing.prober {
            Some(prober) => prober.clone(),
            None => Prober::start(self.0.metrics.probes.clone())?,
        };
        let outcome = prober.set(work).await;
        probing.prober = (!matches!(outcome, Err(WatchError::Ended))).then_some(prober);
        refusals.extend(outcome?);
        Ok(refusals)
    }
}
