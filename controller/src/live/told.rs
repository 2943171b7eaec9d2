//! What a trace tells, as it happens.

use serde::{Deserialize, Serialize};
use waymark_proto::{Hook, Inventory, Losses, NodeName, Place, Sighting, Text};

/// One thing that a trace tells: a line of `waymark trace -o json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum Told {
    /// It begins.
    Begun {
        /// The nodes that look.
        nodes: Vec<NodeName>,
        /// The hooks at which some of them see no packet pass.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        blind: Vec<Blind>,
        /// Why others do not.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<Text>,
    },
    /// A packet was seen.
    Sighted {
        /// Which: one number wherever it is seen.
        number: u32,
        /// Whose network namespace it is: `pod/NAMESPACE/NAME`, `node/NAME`.
        object: String,
        /// What was seen. Its marker is the node's own.
        #[serde(flatten)]
        sighting: Box<Sighting>,
    },
    /// It ended.
    Ended {
        /// Why.
        because: Because,
        /// How many packets there were.
        packets: u32,
        /// Of how many of them the last that was seen is a drop.
        dropped: u32,
        /// How often they were seen, together.
        sightings: u64,
        /// What was not told for want of room.
        losses: Losses,
        /// Nodes that did not look, or not to the end.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<Text>,
    },
}

/// A hook at which packets are not seen passing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blind {
    /// On which nodes.
    pub nodes: Vec<NodeName>,
    /// Which.
    pub hook: Hook,
    /// Why.
    pub why: Text,
}

/// Why a trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Because {
    /// Its time was over.
    Time,
    /// A node had picked as many packets as it may.
    Packets,
    /// No agent was left that looked.
    Agents,
}

/// Whose network namespace a place is.
pub(super) fn object(inventory: &Inventory, place: &Place) -> String {
    match inventory.pod_at(place) {
        Some(pod) => format!("pod/{}/{}", pod.namespace, pod.name),
        None => format!("node/{}", place.node),
    }
}
