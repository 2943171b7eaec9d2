//! What is armed, from the order to the end of its lease.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use waymark_proto::{
    CheckId, FilterInstruction, HookReport, HookSet, Losses, MarkerKey, NetnsName, Sighting, rpc,
};

use super::{Agent, AgentError, Inner, check_id, key, protocol, within};
use crate::inject::Reservations;
use crate::live::Live;
use crate::netns::Netns;
use crate::tracer::{self, ArmSpec, Traced, Tracer};

/// An armed check's belongings beside its trace.
pub(super) struct Lease {
    timer: AbortHandle,
    pub(super) length: Duration,
    pub(super) key: MarkerKey,
    pub(super) count: u32,
    pub(super) reservations: Vec<Reservations>,
    /// Injections in progress: they end when these are dropped.
    pub(super) injecting: Vec<std::sync::mpsc::Sender<()>>,
    /// Of what is not marked.
    live: Option<OwnTracer>,
}

/// A tracer of one trace's own: every packet of the node pays for each.
pub(super) struct OwnTracer {
    tracer: Arc<Tracer>,
    /// Finds the namespaces of pods that begin meanwhile.
    finding: AbortHandle,
    _permit: OwnedSemaphorePermit,
}

impl Drop for OwnTracer {
    fn drop(&mut self) {
        self.finding.abort();
    }
}

/// How often such a tracer learns which namespaces there are.
const FINDING: Duration = Duration::from_secs(1);

impl Drop for Lease {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

/// Expired checks that are remembered.
const MAX_EXPIRED: usize = 1024;

impl Agent {
    /// Watches for a check's markers; sightings go to `sink` until [`Agent::disarm`] or the lease's end.
    pub async fn arm(
        &self,
        order: &rpc::Arm,
        sink: mpsc::Sender<Sighting>,
    ) -> Result<Vec<HookReport>, AgentError> {
        let check = check_id(order.check)?;
        let lease = Duration::from_millis(order.lease_ms.into());
        if lease.is_zero() {
            return Err(AgentError::Malformed("a lease of no length".to_owned()));
        }
        within("a number of packets of", order.count, self.0.limits.count)?;
        within(
            "a lease in milliseconds of",
            order.lease_ms,
            u32::try_from(self.0.limits.lease.as_millis()).unwrap_or(u32::MAX),
        )?;
        if !order.filter.is_empty() {
            return self.arm_live(check, lease, order, sink).await;
        }
        let (namespaces, closed) = self.0.open_namespaces().await?;
        let set = rpc::HookSet::try_from(order.hooks).map(HookSet::from);
        let set = set.map_err(|error| AgentError::Malformed(error.to_string()))?;
        let wanted = |netns: &Netns| {
            (order.netns.is_empty() && set == HookSet::All)
                || order.netns.iter().any(|name| name == netns.name().as_str())
        };
        let (key, protocol) = (key(&order.key)?, protocol(order.protocol)?);
        let spec = ArmSpec {
            traced: Traced {
                check,
                key,
                count: order.count,
                protocol,
                set,
                capture: order.capture,
                every_rule: order.every_rule,
            },
            lease,
            netfilter: namespaces
                .iter()
                .map(|(_, netns)| netns)
                .filter(|netns| wanted(netns))
                .cloned()
                .collect(),
        };
        let absent = order.netns.iter().map(|name| NetnsName::from(name.as_str()));
        let absent: Vec<_> =
            absent.filter(|name| namespaces.iter().all(|(_, netns)| netns.name() != name)).collect();
        let inner = self.0.clone();
        let mut reports = tokio::task::spawn_blocking(move || {
            inner.tracer.set_namespaces(&namespaces)?;
            inner.tracer.arm(spec, sink)
        })
        .await??;
        self.0.metrics.count_armed(set);
        for name in absent {
            let why = closed.get(&name).cloned();
            let why =
                why.unwrap_or_else(|| "the namespace is not one of this node's, or it is gone".to_owned());
            reports.extend(tracer::netfilter_reports(&name, Err(why), set));
        }
        self.start_lease(check, lease, (key, order.count), None)?;
        Ok(reports)
    }

    /// Traces what a filter picks. Such a trace has a tracer of its own, and marks nothing, so nothing can be injected for it.
    async fn arm_live(
        &self,
        check: CheckId,
        lease: Duration,
        order: &rpc::Arm,
        sink: mpsc::Sender<Sighting>,
    ) -> Result<Vec<HookReport>, AgentError> {
        let limit = self.0.limits.live_traces;
        let permit = Arc::clone(&self.0.live).try_acquire_owned().map_err(|_| AgentError::Limit {
            what: "a number of live traces at once of",
            asked: limit + 1,
            limit,
        })?;
        let key = key(&order.key)?;
        let filter = order.filter.iter().map(FilterInstruction::try_from).collect::<Result<_, _>>();
        let filter = filter.map_err(|error| AgentError::Malformed(error.to_string()))?;
        let live = Live { filter, packets: order.count };
        let (namespaces, _) = self.0.open_namespaces().await?;
        // Its readers are tasks of this runtime, which the thread that loads the programs belongs to.
        let (tracer, reports) = tokio::task::spawn_blocking(move || {
            let tracer = Tracer::live(check, &live)?;
            tracer.set_namespaces(&namespaces)?;
            let reports = tracer.arm(tracer::unmarked(check, key, lease), sink)?;
            Ok::<_, tracer::TracerError>((Arc::new(tracer), reports))
        })
        .await??;
        self.0.metrics.count_armed(HookSet::All);
        let finding = tokio::spawn(find_namespaces(Arc::clone(&self.0), Arc::downgrade(&tracer)));
        let own = OwnTracer { tracer, finding: finding.abort_handle(), _permit: permit };
        self.start_lease(check, lease, (key, 0), Some(own))?;
        Ok(reports)
    }

    pub(super) fn start_lease(
        &self,
        check: CheckId,
        length: Duration,
        (key, count): (MarkerKey, u32),
        live: Option<OwnTracer>,
    ) -> Result<(), AgentError> {
        // Held until the entry is there, which the timer looks for.
        let mut leases = self.0.leases();
        if leases.contains_key(&check) {
            drop(leases);
            // A live trace and a check of one number: what came last ends, with its tracer or in that of all.
            if live.is_none() {
                self.0.tracer.disarm(check);
            }
            return Err(tracer::TracerError::Twice(check).into());
        }
        let agent = self.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(length).await;
            tracing::warn!(%check, "the lease ended without a word from the controller");
            let ending = tokio::task::spawn_blocking(move || {
                {
                    let mut expired = agent.0.expired.lock().unwrap_or_else(PoisonError::into_inner);
                    expired.truncate(MAX_EXPIRED - 1);
                    expired.push_front(check);
                }
                agent.end(check);
            });
            if let Err(error) = ending.await {
                tracing::error!(%check, %error, "cannot end the check");
            }
        });
        let timer = timer.abort_handle();
        let (reservations, injecting) = (Vec::new(), Vec::new());
        let lease = Lease { timer, length, key, count, reservations, injecting, live };
        leases.insert(check, lease);
        Ok(())
    }

    /// Ends a check. It is no error if it was not armed; it is one if its lease ended before.
    pub async fn disarm(&self, check: CheckId) -> Result<Losses, AgentError> {
        let agent = self.clone();
        let losses = tokio::task::spawn_blocking(move || agent.end(check)).await?;
        let mut expired = self.0.expired.lock().unwrap_or_else(PoisonError::into_inner);
        match expired.iter().position(|ended| *ended == check) {
            Some(index) => {
                expired.remove(index);
                Err(AgentError::LeaseEnded(check))
            }
            None => Ok(losses),
        }
    }

    /// Ends every injection in progress; what is armed stays armed.
    pub fn stop_injecting(&self) {
        for lease in self.0.leases().values_mut() {
            lease.injecting.clear();
        }
    }

    /// Ends every check that is armed, and gives back the first error that it meets on the way.
    pub async fn disarm_all(&self) -> Result<(), AgentError> {
        let checks: Vec<_> = self.0.leases().keys().copied().collect();
        let mut outcome = Ok(());
        for check in checks {
            let ended = self.disarm(check).await.map(drop);
            // The others must not stay armed because of this one.
            outcome = outcome.and(ended);
        }
        outcome
    }

    fn end(&self, check: CheckId) -> Losses {
        if let Some(lease) = self.0.leases().get_mut(&check) {
            lease.injecting.clear();
        }
        let leases = self.0.leases();
        let live = leases.get(&check).and_then(|lease| Some(Arc::clone(&lease.live.as_ref()?.tracer)));
        drop(leases);
        let losses = live.as_deref().unwrap_or(&self.0.tracer).disarm(check);
        // Reserved ports last: what closing them does to late answers is no sighting any more.
        let ended = self.0.leases().remove(&check);
        // A tracer of its own takes a while to end, for which the others need not wait.
        drop(ended);
        losses
    }
}

/// Tells a tracer of its own, as long as there is one, which namespaces there are.
async fn find_namespaces(inner: Arc<Inner>, tracer: Weak<Tracer>) {
    loop {
        tokio::time::sleep(FINDING).await;
        let Some(tracer) = tracer.upgrade() else { return };
        let told = match inner.open_namespaces().await {
            Ok((namespaces, _)) => tracer.set_namespaces(&namespaces).map_err(AgentError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "a trace does not learn of new namespaces");
        }
    }
}
