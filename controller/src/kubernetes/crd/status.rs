//! The answer: what the controller writes into a `Check`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The answer to a Check. The whole document with every step's headers and rules is too large for an
/// object of the API: `waymark check -o json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckStatus {
    /// The generation of the spec that this answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Complete`: it has come to an end, whichever. `Succeeded`: the verdict is the expected one. `Failed`:
    /// it is not, or there is none; the reason says which.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = json!(["type"])))]
    pub conditions: Vec<Condition>,
    /// The source, as `waymark check` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The destination, as `waymark check` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// What was found out about connectivity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Where and why it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_point: Option<Fault>,
    /// What happened, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it came to an end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Protocol, addresses and ports of the first packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// Packets sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<u32>,
    /// Packets that came to their receiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<u32>,
    /// Packets whose answer came back; absent for a one-way Check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replied: Option<u32>,
    /// Round-trip times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<RoundTrip>,
    /// What happens on the way to packets that arrive all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anomalies: Vec<Anomaly>,
    /// What Services and NetworkPolicies ask for, and what is otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// The way there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<Walk>,
    /// The way back.
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    pub return_: Option<Walk>,
    /// Remarks: facts that were missing, nodes without an agent, where the prediction was wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What a Check found out about connectivity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    /// Every packet arrived, and every answer that was asked for.
    Reachable,
    /// Some packets arrived and some did not.
    Inconsistent,
    /// No packet made it.
    Unreachable,
    /// Sight did not suffice to say.
    Undetermined,
}

/// The types of a Check's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// It has come to an end, whichever.
    Complete,
    /// The verdict is the expected one.
    Succeeded,
    /// The verdict is not the expected one, or there is none.
    Failed,
}

impl ConditionType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Complete, Self::Succeeded, Self::Failed];

    /// The name in a status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "Complete",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// Where and why packets die.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Cause, place and culprit in a few words.
    pub summary: String,
    /// The node.
    pub node: String,
    /// The network namespace.
    pub netns: String,
    /// The pod whose namespace it is, as NAMESPACE/NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The hook of the datapath.
    pub hook: String,
    /// Which way the packet was going: forward or return.
    pub direction: String,
    /// The cause.
    pub cause: String,
    /// The two hooks between which packets vanished, where none reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<FaultSpan>,
    /// The kernel's drop reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The kernel function that dropped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The netfilter rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What to mend on the machine: a route, device, sysctl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The Kubernetes object to mend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub culprit: Option<Culprit>,
    /// What to do next.
    pub advice: String,
    /// How sure this is: low, medium or high.
    pub confidence: String,
    /// What this confidence rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<String>,
    /// What it rests on, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

/// The two hooks between which packets vanished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultSpan {
    /// The last that saw them.
    pub last_seen: SpanEnd,
    /// The first that should have seen them and did not.
    pub first_missing: SpanEnd,
}

/// One end of a span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpanEnd {
    /// The node.
    pub node: String,
    /// The network namespace.
    pub netns: String,
    /// The hook.
    pub hook: String,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// A Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Culprit {
    /// The kind.
    pub kind: String,
    /// The namespace, for kinds that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

/// What Services and NetworkPolicies ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Whether the packets are meant to arrive: allowed, partly, denied, noEndpoints or unknown.
    pub expectation: String,
    /// What is not as the objects ask for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<Deviation>,
}

/// Something that is not as an object asks for it, or an object that asks for what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deviation {
    /// What is so.
    pub summary: String,
    /// The object to mend.
    pub culprit: Culprit,
    /// The node on which it is so, where it is not so in the API itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What to do next.
    pub advice: String,
}

/// What happens on the way to packets that arrive all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Anomaly {
    /// What happens: delay, duplication, reordering or otherWay.
    pub kind: String,
    /// What happens where, in one sentence.
    pub summary: String,
    /// The node.
    pub node: String,
    /// The hook; wire is between two nodes.
    pub hook: String,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Which way the packets were going: forward or return.
    pub direction: String,
    /// To how many packets it happened.
    pub packets: u32,
    /// What to do next.
    pub advice: String,
}

/// Round-trip times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoundTrip {
    /// The shortest.
    pub min_microseconds: u64,
    /// The median.
    pub median_microseconds: u64,
    /// The longest.
    pub max_microseconds: u64,
}

/// One direction: what was predicted beside what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Walk {
    /// The predicted fate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<String>,
    /// The observed fate.
    pub observed: String,
    /// The steps, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<WalkStep>,
    /// How many steps more there were than are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: u32,
}

/// One step of a walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WalkStep {
    /// The node.
    pub node: String,
    /// The network namespace.
    pub netns: String,
    /// The hook.
    pub hook: String,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How prediction and observation compare: seen, partly, missing, notObservable, unexpected or died.
    pub agreement: String,
    /// How many packets were seen here.
    pub packets: u32,
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
