//! What can go wrong, in sentences: what was tried, what happened, what to do.

use std::io;
use std::path::PathBuf;

use waymark_prober::netns::NetnsError;
use waymark_proto::short;

use crate::kubernetes::{CniError, KubernetesError};
use crate::topology::TopologyError;

/// What can go wrong with a testbed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not root.
    #[error("{what} makes and enters network namespaces and needs root; run it with sudo")]
    NotRoot {
        /// The command.
        what: &'static str,
    },
    /// The user pressed Ctrl-C, or somebody sent SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// Kernel and prediction could not be compared.
    #[error("comparing kernel and prediction: {0}")]
    Fuzz(String),
    /// Signal handlers.
    #[error("cannot handle SIGINT and SIGTERM: {0}")]
    Signals(io::Error),
    /// A file operation.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The topology file cannot be used.
    #[error("topology {origin}: {source}")]
    Topology {
        /// The file.
        origin: String,
        /// What is wrong with it.
        source: TopologyError,
    },
    /// A name that cannot be an instance's.
    #[error("{:?} cannot be the name of a testbed: use 1 to 32 of a-z, 0-9 and -, starting with a letter", short(.0))]
    InstanceName(String),
    /// A second `up`.
    #[error("testbed {name:?} is already up; take it down first with `waymark-testbed down --name {name}`")]
    AlreadyUp {
        /// The instance.
        name: String,
    },
    /// A question for the control plane of a testbed that has none.
    #[error(
        "testbed {name:?} has no control plane, and so no kubeconfig; \
         `waymark-testbed up --kubernetes` makes one that has"
    )]
    NoControlPlane {
        /// The instance.
        name: String,
    },
    /// What an `up` made that was killed half-way.
    #[error(
        "testbed {name:?} is half made: its `up` was killed; \
         `waymark-testbed down --name {name}` removes what there is of it"
    )]
    HalfMade {
        /// The instance.
        name: String,
    },
    /// Namespaces of that name exist though no testbed owns them.
    #[error(
        "network namespace {netns} exists already, but no testbed {name:?} is up; \
         `waymark-testbed down --name {name}` removes what is left of one"
    )]
    Leftover {
        /// The instance.
        name: String,
        /// One of the namespaces.
        netns: String,
    },
    /// No such instance.
    #[error("testbed {name:?} is not up; start it with `waymark-testbed up --name {name}`")]
    NotUp {
        /// The instance.
        name: String,
    },
    /// The instance was started without agents.
    #[error("testbed {name:?} runs no controller; take it down and start it without --no-agents")]
    NoAgents {
        /// The instance.
        name: String,
    },
    /// The state file is not what this program wrote.
    #[error("{} is damaged ({why}); `waymark-testbed down --name {name}` clears it away", path.display())]
    State {
        /// The instance.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A Kubernetes control plane.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// A CNI plug-in.
    #[error("{0}")]
    Cni(String),
    /// A CNI plug-in that gave no address.
    #[error("the CNI plug-in gave pod {pod} no IPv4 address")]
    NoAddress {
        /// The pod.
        pod: String,
    },
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A program could not be started.
    #[error("cannot run {program}: {source}; {remedy}")]
    Spawn {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A configuration command failed.
    #[error("{command} in {netns} failed: {stderr}")]
    Command {
        /// The command, with the batch line that it stopped at if there is one.
        command: String,
        /// In which namespace.
        netns: String,
        /// What it printed, or its exit status.
        stderr: String,
    },
    /// A process ended before it was ready.
    #[error("{role} ended before it was ready ({status}); the end of {}:\n{tail}", log.display())]
    Died {
        /// Which one.
        role: String,
        /// Its exit status.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A process did not become ready in time.
    #[error("{role} was not ready within {seconds} s; its log is {}", log.display())]
    NotReady {
        /// Which one.
        role: String,
        /// How long it had.
        seconds: u64,
        /// Its log.
        log: PathBuf,
    },
    /// Processes that even SIGKILL did not end.
    #[error("process {pid} of testbed {name:?} does not end, not even by SIGKILL")]
    Undead {
        /// The instance.
        name: String,
        /// The process.
        pid: i32,
    },
    /// `exec` with a name that is neither node nor pod.
    #[error("no node or pod {:?} in testbed {name:?}; there are {known}", short(target))]
    UnknownTarget {
        /// The instance.
        name: String,
        /// What was asked for.
        target: String,
        /// What there is.
        known: String,
    },
    /// A fault that is not in the catalogue.
    #[error("no fault {:?} in the catalogue; `waymark-testbed fault list` shows it", short(.0))]
    UnknownFault(String),
    /// A fault that this testbed cannot have.
    #[error("fault {fault} does not apply: {why}")]
    FaultDoesNotApply {
        /// The fault.
        fault: String,
        /// Why not.
        why: String,
    },
    /// A fault that is there already.
    #[error("fault {0} is already injected; `waymark-testbed fault clear {0}` undoes it")]
    FaultActive(String),
    /// A fault that is not there.
    #[error("fault {} is not injected", short(.0))]
    FaultNotActive(String),
    /// The client answered something that is no result.
    #[error("`{command}` gave no result (exit status {status}): {output}")]
    NoResult {
        /// The command.
        command: String,
        /// Its exit status.
        status: String,
        /// What it printed.
        output: String,
    },
    /// The client recorded something that cannot be replayed.
    #[error("{}: {why}", path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The demonstration did not show what it should.
    #[error("{0}")]
    Demo(String),
    /// Measured, and below what it must be.
    #[error("{0}")]
    Inaccurate(String),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The exit code that stands for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Demo(_) | Self::Inaccurate(_) => 1,
            Self::Interrupted | Self::Kubernetes(KubernetesError::Interrupted) => 130,
            _ => 3,
        }
    }

    /// For `map_err`: a failed file operation.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}

impl From<CniError> for Error {
    fn from(error: CniError) -> Self {
        Self::Cni(error.to_string())
    }
}
