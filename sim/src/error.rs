//! What is wrong with facts that were handed in.

use waymark_proto::NodeName;

/// Why facts were not taken into a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimError {
    /// They are of another version.
    #[error("adding the facts of node {node:?}: they are of version {version:?}")]
    Version {
        /// The node.
        node: NodeName,
        /// The version that they name.
        version: String,
    },
    /// Their node is unknown.
    #[error("adding the facts of node {node:?}: the inventory has no such node")]
    UnknownNode {
        /// The node.
        node: NodeName,
    },
    /// They hold no namespace at all.
    #[error("adding the facts of node {node:?}: they describe no network namespace")]
    Empty {
        /// The node.
        node: NodeName,
    },
    /// Two namespaces of one name.
    #[error("adding the facts of node {node:?}: network namespace {netns:?} is there twice")]
    Twice {
        /// The node.
        node: NodeName,
        /// The namespace.
        netns: String,
    },
}
