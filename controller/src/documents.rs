//! Documents that clients print, beside the result of a check.

use serde::{Deserialize, Serialize};
use waymark_proto::{Flow, IntentReport, NodeName, PathSet, Text};

/// A prediction: what `waymark predict -o json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prediction {
    /// [`waymark_proto::API_VERSION`].
    pub api_version: String,
    /// `Prediction`.
    pub kind: String,
    /// The source as it was asked for.
    pub source: String,
    /// The destination as it was asked for.
    pub destination: String,
    /// The flow.
    pub flow: Flow,
    /// What Kubernetes' objects ask for, and what is otherwise; absent if the source of the inventory knows no
    /// such objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<IntentReport>,
    /// The ways that it may take.
    #[serde(flatten)]
    pub paths: PathSet,
    /// Remarks: facts that were missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Text>,
}

/// The state of a controller: what `waymark status -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`waymark_proto::API_VERSION`].
    pub api_version: String,
    /// `Status`.
    pub kind: String,
    /// The controller's version.
    pub version: String,
    /// The nodes of the inventory, and those of agents that are not in it.
    pub nodes: Vec<NodeStatus>,
    /// What is in the way of its work, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// One node in a [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Name.
    pub name: NodeName,
    /// Whether the inventory has it.
    pub known: bool,
    /// Whether its agent is attached.
    pub attached: bool,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whole seconds since the agent attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Why an agent of this node was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}
