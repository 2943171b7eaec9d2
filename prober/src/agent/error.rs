//! Why an agent did not do what it was ordered.

use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinError;
use waymark_proto::{CheckId, NetnsName, NodeName};

use crate::facts::FactsError;
use crate::inject::InjectError;
use crate::pods::LocateError;
use crate::tracer::TracerError;
use crate::watch::WatchError;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The node is not in the inventory.
    #[error("node {node} is not in the inventory; it has {}", known.join(", "))]
    UnknownNode {
        /// The node.
        node: NodeName,
        /// Those that are.
        known: Vec<String>,
    },
    /// Nobody has said yet what belongs to the node.
    #[error(
        "the agent of {node} was not told what runs there: the controller says so as soon as its inventory has that node"
    )]
    NoScope {
        /// The node.
        node: NodeName,
    },
    /// The namespace cannot be opened.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// The namespace is not one of this node's.
    #[error("network namespace {netns} is not one of node {node}'s, or it is gone")]
    UnknownNetns {
        /// The node.
        node: NodeName,
        /// The namespace.
        netns: NetnsName,
    },
    /// The order makes no sense.
    #[error("malformed order: {0}")]
    Malformed(String),
    /// The order asks for too much.
    #[error("{what} {asked} exceeds this agent's limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much was asked for.
        asked: u32,
        /// The limit.
        limit: u32,
    },
    /// The destination is not to be disturbed.
    #[error(
        "{0} is neither an address of the cluster nor allowed: start the agent with --allow to send there"
    )]
    Destination(IpAddr),
    /// The check is not armed.
    #[error("check {0} is not armed on this node: arm it before injecting")]
    NotArmed(CheckId),
    /// The packets are not those that are armed.
    #[error(
        "check {0} was armed for other packets: inject with the key it was armed with, and no more packets"
    )]
    OtherPackets(CheckId),
    /// The packets would outlast the lease.
    #[error(
        "sending would take {takes:?}, longer than the lease of {lease:?}: send fewer packets, or faster"
    )]
    OutlastsLease {
        /// How long.
        takes: Duration,
        /// The lease.
        lease: Duration,
    },
    /// The lease was over before the controller said so.
    #[error("the lease of check {0} ended before it was disarmed: what came later was not seen")]
    LeaseEnded(CheckId),
    /// Facts.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// Tracing.
    #[error(transparent)]
    Tracer(#[from] TracerError),
    /// Injecting.
    #[error(transparent)]
    Inject(#[from] InjectError),
    /// Probing.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// A worker ended without a result: the agent was stopped, or the worker panicked.
    #[error("the agent's worker ended without a result: {0}")]
    Worker(#[from] JoinError),
}
