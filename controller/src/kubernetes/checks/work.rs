//! One run of one Check: the thin edge around the engine.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::ObjectMeta;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use waymark_proto::CheckResult;

use super::Limits;
use super::cancel::Cancel;
use super::question::Rejection;
use super::report::{NoResult, Run, Stage, status};
use super::store::{Store, Written};
use crate::agents::{AgentError, Agents};
use crate::armed::Progress;
use crate::engine::{CheckError, check};
use crate::gather::GatherError;
use crate::history::{Asker, History};
use crate::kubernetes::crd::{CheckStatus, Expectation};
use crate::request::{Request, RequestError};
use crate::resolve::{ResolveError, resolve};
use crate::source::{Source, SourceError};

/// How often a run that waits for something tries again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long what was just created may be unknown: the watches of several kinds tell at their own pace.
const UNKNOWN: Duration = Duration::from_secs(2);

/// What runs need, whichever Check they are of.
pub(super) struct Bench {
    pub(super) agents: Arc<dyn Agents>,
    pub(super) source: Arc<dyn Source>,
    pub(super) store: Store,
    pub(super) slots: Semaphore,
    pub(super) limits: Limits,
    pub(super) history: Option<History>,
}

/// What is to be run.
#[derive(Clone)]
pub(super) struct Order {
    pub(super) meta: ObjectMeta,
    pub(super) request: Request,
    pub(super) expect: Expectation,
    pub(super) before: Option<CheckStatus>,
}

/// Why one attempt gave no result.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// Says why a Check is not run.
pub(super) async fn reject(
    bench: &Bench,
    meta: &ObjectMeta,
    rejection: &Rejection,
    before: Option<&CheckStatus>,
    cancel: &Cancel,
) -> Written {
    let now = Timestamp::now();
    let run = Run {
        generation: meta.generation.unwrap_or_default(),
        request: None,
        started: now,
        before: before.map(|status| status.conditions.as_slice()).unwrap_or_default(),
    };
    bench.store.write(meta, &status(&run, &Stage::Rejected(rejection), now), cancel).await
}

/// Runs a Check from its turn to its written answer.
pub(super) async fn run(bench: &Bench, order: &Order, cancel: &Cancel) -> Written {
    let run = Running { bench, order, cancel, started: Timestamp::now() };
    let slot = match run.queue().await {
        Ok(slot) => slot,
        Err(written) => return written,
    };
    let run = Running { started: Timestamp::now(), ..run };
    let told = run.tell(&Stage::Running).await;
    if told != Written::Done {
        return told;
    }
    let outcome = run.persevere(slot).await;
    match outcome {
        _ if cancel.is_asked() => Written::Cancelled,
        Ok(result) => {
            run.keep(&result);
            run.tell(&Stage::Answered(&result, order.expect)).await
        }
        Err(trouble) => run.tell(&Stage::NoResult(trouble.kind(), &trouble.words())).await,
    }
}

/// Brings a Check to an end whose run was cut short by a mistake of this program: nobody waits for it in vain.
pub(super) async fn give_up(bench: &Bench, order: &Order, why: &str, cancel: &Cancel) -> Written {
    let begun = order.before.as_ref().and_then(|before| before.start_time.as_ref());
    let started = begun.map_or_else(Timestamp::now, |begun| begun.0);
    let run = Running { bench, order, cancel, started };
    run.tell(&Stage::NoResult(NoResult::CannotRun, why)).await
}

/// A run under way.
struct Running<'a> {
    bench: &'a Bench,
    order: &'a Order,
    cancel: &'a Cancel,
    started: Timestamp,
}

impl<'a> Running<'a> {
    /// Writes how far it is.
    async fn tell(&self, stage: &Stage<'_>) -> Written {
        let Order { meta, request, before, .. } = self.order;
        let run = Run {
            generation: meta.generation.unwrap_or_default(),
            request: Some(request),
            started: self.started,
            before: before.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default(),
        };
        self.bench.store.write(meta, &status(&run, stage, Timestamp::now()), self.cancel).await
    }

    /// Keeps its result.
    fn keep(&self, result: &CheckResult) {
        if let Some(history) = &self.bench.history {
            let ObjectMeta { namespace, name, .. } = &self.order.meta;
            let [namespace, name] = [namespace, name].map(|name| name.clone().unwrap_or_default());
            history.keep(Asker::Check { namespace, name }, result);
        }
    }

    /// Waits for its first turn, and says so if others come first.
    async fn queue(&self) -> Result<SemaphorePermit<'a>, Written> {
        if let Ok(slot) = self.bench.slots.try_acquire() {
            return Ok(slot);
        }
        match self.tell(&Stage::Queued).await {
            Written::Done => self.turn().await.ok_or(Written::Cancelled),
            ended => Err(ended),
        }
    }

    /// Waits for a turn; who waits longest has the next. `None` if it was cancelled.
    async fn turn(&self) -> Option<SemaphorePermit<'a>> {
        tokio::select! {
            slot = self.bench.slots.acquire() => Some(slot.expect("nobody closes the slots")),
            () = self.cancel.asked() => None,
        }
    }

    /// Tries until there is a result or no hope: agents come back a moment after a controller was restarted,
    /// and a pod that was created together with its Check has no address at once. Between the attempts others
    /// have the slot: who waits for something must not keep those from running who do not.
    async fn persevere(&self, mut slot: SemaphorePermit<'a>) -> Result<CheckResult, Trouble> {
        let (limits, cancel) = (self.bench.limits, self.cancel);
        let began = Instant::now();
        let mut said = String::new();
        loop {
            let outcome = attempt(self.bench, self.order, cancel).await;
            drop(slot);
            let trouble = match outcome {
                Err(trouble) if !cancel.is_asked() && began.elapsed() < trouble.patience(limits) => trouble,
                outcome => return outcome,
            };
            let words = trouble.words();
            if said != words {
                if self.tell(&Stage::Waiting(&words)).await != Written::Done {
                    return Err(trouble);
                }
                said = words;
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = cancel.asked() => return Err(trouble),
            }
            slot = match self.turn().await {
                Some(slot) => slot,
                None => return Err(trouble),
            };
        }
    }
}

/// One attempt. When it is cancelled the tracers are disarmed before it returns.
async fn attempt(bench: &Bench, order: &Order, cancel: &Cancel) -> Result<CheckResult, Trouble> {
    let inventory = bench.source.inventory().await?;
    order.request.check_size(&resolve(&inventory, &order.request)?.flow)?;
    let (progress, lines) = Progress::channel();
    let running = check(&bench.agents, &inventory, &order.request, &progress);
    tokio::pin!(running);
    let outcome = tokio::select! {
        outcome = &mut running => outcome,
        () = cancel.asked() => {
            drop(lines);
            running.await
        }
    };
    let mut result = outcome?;
    result.notes.extend(bench.source.doubt());
    Ok(result)
}

impl Trouble {
    /// How long it may be hoped to pass.
    fn patience(&self, limits: Limits) -> Duration {
        match self {
            Self::Source(_) => limits.patience,
            Self::Resolve(error) => of_resolve(error, limits),
            Self::Request(_) => Duration::ZERO,
            Self::Check(error) => match error {
                CheckError::Resolve(error) | CheckError::Gather(GatherError::Resolve(error)) => {
                    of_resolve(error, limits)
                }
                CheckError::Gather(GatherError::Source(error)) | CheckError::Inject(error) => match error {
                    AgentError::NoAgent { .. } | AgentError::Refused { .. } | AgentError::Gone { .. } => {
                        limits.patience
                    }
                    AgentError::Timeout { .. } | AgentError::Failed { .. } => Duration::ZERO,
                },
                CheckError::Arm(_)
                | CheckError::Gather(GatherError::Facts { .. })
                | CheckError::UdpNotAsked(_)
                | CheckError::Cancelled
                | CheckError::Random(_) => Duration::ZERO,
            },
        }
    }

    fn kind(&self) -> NoResult {
        match self {
            Self::Resolve(_)
            | Self::Check(CheckError::Resolve(_) | CheckError::Gather(GatherError::Resolve(_))) => {
                NoResult::NotFound
            }
            Self::Source(_) | Self::Request(_) | Self::Check(_) => NoResult::CannotRun,
        }
    }

    /// The sentence; where the command line's own names its flag, the field instead.
    fn words(&self) -> String {
        match self {
            Self::Check(CheckError::UdpNotAsked(target)) => format!(
                "{target} is a UDP port, and a UDP probe reaches the application behind it: set spec.protocol to UDP if that is wanted"
            ),
            other => other.to_string(),
        }
    }
}

fn of_resolve(error: &ResolveError, limits: Limits) -> Duration {
    match error {
        ResolveError::Absent { .. } => limits.patience,
        ResolveError::Unknown { .. } => UNKNOWN.min(limits.patience),
        ResolveError::Source { .. }
        | ResolveError::SourcePort { .. }
        | ResolveError::PortNeeded { .. }
        | ResolveError::NoSuchPort { .. }
        | ResolveError::Port { .. }
        | ResolveError::Family { .. } => Duration::ZERO,
    }
}
