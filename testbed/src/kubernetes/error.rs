//! What can go wrong with a control plane, in sentences.

use std::io;
use std::path::PathBuf;

use super::assets::Program;

/// What can go wrong with a control plane.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// Programs that are nowhere.
    #[error(
        "no {missing} for a real Kubernetes control plane (looked into {looked}); \
         `make envtest` builds them once, or name a folder that has them in KUBEBUILDER_ASSETS"
    )]
    Missing {
        /// The programs.
        missing: String,
        /// Where they were looked for.
        looked: String,
    },
    /// The server for custom resources, which no target of this project makes.
    #[error(
        "no {program} of a current Kubernetes version (looked into {looked}); `make envtest` does not build it: \
         build it from k8s.io/apiextensions-apiserver, and name a folder that has it in KUBEBUILDER_ASSETS"
    )]
    NotBuilt {
        /// The program.
        program: &'static str,
        /// Where it was looked for.
        looked: String,
    },
    /// A program that Debian has, and this machine has not.
    #[error("no {program} on this machine; install it with `apt-get install {package}`")]
    NotInstalled {
        /// The program.
        program: String,
        /// Debian's package.
        package: &'static str,
    },
    /// An archive that is not what its list of checksums says.
    #[error(
        "{} is damaged: {why}; fetch it again, or remove its folder and let `make envtest` build the programs",
        path.display()
    )]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
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
    /// No port on the loopback.
    #[error("cannot reserve a port on 127.0.0.1: {0}")]
    Port(io::Error),
    /// A certificate.
    #[error("cannot make a certificate for {subject}: {source}")]
    Certificate {
        /// For whom.
        subject: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// A program that does not start.
    #[error("cannot run {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program that ended.
    #[error("{role} ended ({status}); the end of its log:\n{tail}")]
    Ended {
        /// Which one.
        role: String,
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        tail: String,
    },
    /// A server that is not ready in time.
    #[error("{server} was not ready within {seconds} s: {last}; a machine with more to give would help, or look into {}", log.display())]
    NotReady {
        /// Which one, with its address.
        server: String,
        /// How long it had.
        seconds: u64,
        /// What it answered last.
        last: String,
        /// Its log.
        log: PathBuf,
    },
    /// A kubeconfig that cannot be used.
    #[error("kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A topology that Kubernetes cannot have.
    #[error("the topology cannot be given to Kubernetes: {0}")]
    Topology(String),
    /// A request that the server refused, or that did not get there.
    #[error("cannot {what}: {source}")]
    Api {
        /// What was tried, as a verb.
        what: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A process of a testbed that ended.
    #[error(transparent)]
    Process(Box<crate::Error>),
    /// Something that did not come about in time.
    #[error("{what} did not come about within {seconds} s; the logs below /run/waymark/testbed may say why")]
    Late {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// Ctrl-C while waiting.
    #[error("interrupted")]
    Interrupted,
}

/// The module's result.
pub(crate) type Result<T> = std::result::Result<T, KubernetesError>;

impl KubernetesError {
    /// What to say of programs that are in none of the places.
    pub(crate) fn missing(programs: &[Program], looked: String) -> Self {
        match programs {
            [Program::Etcd] => Self::NotInstalled { program: "etcd".into(), package: "etcd-server" },
            [only @ Program::CrdServer] => Self::NotBuilt { program: only.name(), looked },
            several => {
                let names: Vec<_> = several.iter().map(|program| program.name()).collect();
                Self::Missing { missing: names.join(", "), looked }
            }
        }
    }

    /// Whether a program is not on this machine: what needs it can be left out.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NotBuilt { .. } | Self::NotInstalled { .. })
    }

    /// For `map_err`: a failed file operation.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
