//! What a validation does to the world, behind two traits: a cluster's API server, and checks.

use async_trait::async_trait;
use serde_json::Value;
use waymark_proto::{FaultPoint, Text, TransportProtocol, rpc};
use waymark_sim::{Pair, Target, Traffic};

use super::change::{Item, Key};
use super::judge::Seen;
use crate::kubernetes::Objects;
use crate::request::DEFAULT_COUNT;

/// Whether a request is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The server answers as if, and does nothing.
    DryRun,
    /// It does it.
    Real,
}

/// A cluster's API server, asked with the rights of its user.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// All objects that decide about reachability.
    async fn objects(&self) -> Result<Objects, ClusterError>;

    /// An object as it is; `None` if it is not there.
    async fn get(&self, key: &Key) -> Result<Option<Value>, ClusterError>;

    /// Applies an object on the server's side, and answers with what became of it.
    async fn apply(&self, item: &Item, mode: Mode) -> Result<Value, ClusterError>;

    /// Creates an object that is not there.
    async fn create(&self, key: &Key, manifest: &Value) -> Result<Value, ClusterError>;

    /// Replaces an object, if it still has the resource version that the manifest names.
    async fn replace(&self, key: &Key, manifest: &Value) -> Result<Value, ClusterError>;

    /// Deletes an object, if it still is the one of this `uid`.
    async fn delete(&self, key: &Key, uid: &str, mode: Mode) -> Result<(), ClusterError>;
}

/// Why the API server did not do what it was asked. Each is one sentence with what was tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// Somebody else manages the field, or changed the object meanwhile.
    #[error("{0}")]
    Conflict(String),
    /// The object is not there.
    #[error("{0}")]
    NotFound(String),
    /// The server does not know who asks: wrong or expired credentials.
    #[error("{0}")]
    Unauthorized(String),
    /// The user may not.
    #[error("{0}")]
    Forbidden(String),
    /// The server does not take the object.
    #[error("{0}")]
    Refused(String),
    /// No server, or none that answers.
    #[error("{0}")]
    Unavailable(String),
}

/// What a check saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// How the connection was seen.
    pub seen: Seen,
    /// Where and why it fails.
    pub fault: Option<Box<FaultPoint>>,
    /// What is worth knowing of it, as why nothing was seen.
    pub note: Option<Text>,
}

/// Checks, of whoever makes them.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Checks a connection.
    async fn check(&self, pair: &Pair) -> Result<Observation, ProbeError>;
}

/// Why there is no answer to a check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Whoever makes checks is away: no other check will be answered either.
    #[error("{0}")]
    Away(String),
    /// This connection cannot be checked.
    #[error("{0}")]
    Impossible(String),
}

/// The question whether a pair's connection works; `None` for SCTP, which checks do not speak.
pub fn question(pair: &Pair) -> Option<rpc::CheckRequest> {
    let protocol = match pair.destination.traffic {
        Traffic::Icmp => "icmp",
        Traffic::Port(TransportProtocol::Tcp, _) => "tcp",
        Traffic::Port(TransportProtocol::Udp, _) => "udp",
        Traffic::Port(TransportProtocol::Sctp, _) => return None,
    };
    let to = &pair.destination;
    let end = match &to.target {
        Target::Pod(name) => format!("pod/{}/{name}", to.namespace),
        Target::Service(name) => format!("svc/{}/{name}", to.namespace),
    };
    Some(rpc::CheckRequest {
        source: format!("pod/{}/{}", pair.namespace, pair.pod),
        destination: to.traffic.port().map_or(end.clone(), |port| format!("{end}:{port}")),
        protocol: protocol.to_owned(),
        // Whether it works is asked, not what a partial loss goes with.
        max_packets: DEFAULT_COUNT,
        ..Default::default()
    })
}
