//! Continuous probing: an agent's part of a watch.
//!
//! An agent is told all that it is to probe ([`ProbePlan`](waymark_proto::ProbePlan)), probes it open loop, and
//! is asked for what it counted. One thread probes all targets, with one socket per namespace, family and
//! protocol for ICMP and UDP, and as many for TCP as connections are open at a time; another answers. When the
//! controller is gone it goes on until its lease ends, and keeps what it counted.
//!
//! * `budget`: what of a plan is served
//! * `engine`: such a thread, and what it waits for
//! * `target`: one target; pure, as are the four it is made of:
//!   `schedule` when, `pending` what is open, `streaks` failures in a row, `tally` what was counted
//! * `payload`: what a probe carries
//! * `datagrams`: ICMP and UDP probes, stamped by the kernel
//! * `connections`: TCP probes that no application sees
//! * `responder`: UDP ports that answer
//! * `options`: socket options without a name elsewhere
//! * `metrics`: for Prometheus

mod budget;
mod connections;
mod datagrams;
mod engine;
mod metrics;
mod options;
mod payload;
mod pending;
mod responder;
mod schedule;
mod streaks;
mod tally;
mod target;

use std::io;
use std::sync::{Arc, mpsc};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::oneshot;
use waymark_proto::{ProbeReport, Refusal};

pub use budget::{Budget, admit};
pub use engine::Work;
pub use metrics::{ProbeMetrics, SERIES};

use engine::{Command, Engine};
use payload::Nonce;

/// Why nothing is probed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The thread could not be started.
    #[error("cannot start to probe: {source}")]
    Start {
        /// Why.
        source: io::Error,
    },
    /// The thread ended by itself.
    #[error(
        "the agent's prober ended unexpectedly: its log tells why; it is started again with the next plan"
    )]
    Ended,
}

/// A running prober. When it is dropped its threads end, and every socket is closed.
#[derive(Clone, Debug)]
pub struct Prober {
    probing: Worker,
    /// Answers others' probes, at once and not when its own leave it time.
    answering: Worker,
}

impl Prober {
    /// Starts the threads, without work.
    pub fn start(metrics: ProbeMetrics) -> Result<Self, WatchError> {
        allow_descriptors();
        let probing = Worker::start("waymark-probes", metrics)?;
        Ok(Self { probing, answering: Worker::start("waymark-answers", ProbeMetrics::default())? })
    }

    /// Replaces the work. What of it is not possible is told; the rest is being done, and what ended has closed
    /// its sockets.
    pub async fn set(&self, work: Work) -> Result<Vec<Refusal>, WatchError> {
        let Work { probes, responders } = work;
        let answers = Work { responders, ..Work::default() };
        let mut refusals = self.answering.order(|answer| Command::Set(answers, answer)).await?;
        let probes = Work { probes, ..Work::default() };
        refusals.extend(self.probing.order(|answer| Command::Set(probes, answer)).await?);
        Ok(refusals)
    }

    /// What was counted since this was last asked, of all targets.
    pub async fn reports(&self) -> Result<Vec<ProbeReport>, WatchError> {
        let reports = self.probing.order(Command::Report).await?;
        let write = || reports.into_iter().map(ProbeReport::from).collect();
        tokio::task::spawn_blocking(write).await.map_err(|_| WatchError::Ended)
    }
}

/// A thread with an engine.
#[derive(Clone, Debug)]
struct Worker {
    commands: mpsc::Sender<Command>,
    // Dropped after the sender, so that the thread finds that nobody can give it orders any more.
    wake: Arc<Waker>,
}

/// Wakes the thread when it is dropped too.
#[derive(Debug)]
struct Waker(Arc<EventFd>);

impl Drop for Waker {
    fn drop(&mut self) {
        let _ = self.0.write(1);
    }
}

impl Worker {
    fn start(name: &str, metrics: ProbeMetrics) -> Result<Self, WatchError> {
        let failed = |source| WatchError::Start { source };
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = Arc::new(wake.map_err(|errno: Errno| failed(errno.into()))?);
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| failed(io::Error::other(error)))?;
        let (commands, orders) = mpsc::channel();
        let engine =
            Engine::new(orders, wake.clone(), Nonce(u64::from_be_bytes(nonce)), metrics).map_err(failed)?;
        let work = || {
            if let Err(error) = engine.run() {
                tracing::error!(%error, "the prober ended");
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed)?;
        Ok(Self { commands, wake: Arc::new(Waker(wake)) })
    }

    async fn order<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, WatchError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).map_err(|_| WatchError::Ended)?;
        // A counter that is full has woken it already.
        let _ = self.wake.0.write(1);
        answered.await.map_err(|_| WatchError::Ended)
    }
}

/// Raises the limit of open files as far as it goes without asking: thousands of connections may be open.
fn allow_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(errno) = raised {
        tracing::debug!(%errno, "the limit of open files stays");
    }
}
