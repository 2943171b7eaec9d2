//! The result of a check: the document that `waymark check -o json` prints.

use serde::{Deserialize, Serialize};

use crate::{
    Anomaly, Cause, CheckId, Disposition, Entry, Flow, Hook, HookReport, IntentReport, LossReport, Losses,
    NetnsName, NodeName, Place, RuleRef, Step, Text, text,
};

/// Version of the result documents.
pub const API_VERSION: &str = "waymark.io/v1alpha1";

/// What a check found out about connectivity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Reachable => "Reachable",
            Self::Inconsistent => "Inconsistent",
            Self::Unreachable => "Unreachable",
            Self::Undetermined => "Undetermined",
        })
    }
}

/// How sure an answer is; [`FaultPoint::ground`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Prediction or observation alone, with gaps in sight.
    Low,
    /// Observation alone: the packet vanished between two hooks that were both watched.
    Medium,
    /// The kernel reported the drop, or prediction and observation agree on the place.
    High,
}

/// The two hooks between which a packet vanished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// The last step that saw the packet.
    pub last_seen: SpanEnd,
    /// The first step that should have seen it and did not.
    pub first_missing: SpanEnd,
}

/// One end of a span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpanEnd {
    /// Node.
    pub node: NodeName,
    /// Namespace.
    pub netns: NetnsName,
    /// Hook.
    pub hook: Hook,
    /// Device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl SpanEnd {
    /// Its namespace.
    pub fn place(&self) -> Place {
        Place::new(self.node.clone(), self.netns.clone())
    }

    /// `node1 (driver-tx eth0)`
    pub fn words(&self) -> Text {
        text!(place::End { node: &self.node, hook: self.hook, device: self.device.as_deref() })
    }
}

impl From<&Step> for SpanEnd {
    fn from(step: &Step) -> Self {
        Self {
            node: step.place.node.clone(),
            netns: step.place.netns.clone(),
            hook: step.hook,
            device: step.device.clone(),
        }
    }
}

/// A Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Kind: `Service`, `NetworkPolicy`, `Pod` …
    pub kind: String,
    /// Namespace; absent for what has none, as nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl ObjectRef {
    /// An object of a namespace.
    pub fn namespaced(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: Some(namespace.to_owned()), name: name.to_owned() }
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Where and why a flow fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultPoint {
    /// Node.
    pub node: NodeName,
    /// Namespace.
    pub netns: NetnsName,
    /// The pod whose namespace it is, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Hook.
    pub hook: Hook,
    /// Which way the packet was going.
    pub direction: crate::Direction,
    /// The span within which it vanished, where no hook reported the drop itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// Cause.
    pub cause: Cause,
    /// The kernel's drop reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The kernel function that dropped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The netfilter rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// The object to mend: a route, device, sysctl, Service …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Text>,
    /// The Kubernetes object to mend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub culprit: Option<ObjectRef>,
    /// What to do next.
    pub advice: Text,
    /// How sure this is.
    pub confidence: Confidence,
    /// Why it is as sure as that; absent in documents of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<Text>,
    /// What it rests on, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Text>,
}

impl FaultPoint {
    /// Its namespace.
    pub fn place(&self) -> Place {
        Place::new(self.node.clone(), self.netns.clone())
    }

    /// Whether its object is this entry of the catalogue: some objects say more than the cause does.
    pub fn is_about<E: Entry>(&self) -> bool {
        self.object.as_ref().is_some_and(Text::is::<E>)
    }
}

/// How one step of the prediction and of the observation compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Agreement {
    /// Predicted, and seen for every packet that came this far.
    Seen,
    /// Predicted, and seen for some of the packets that came this far.
    Partly,
    /// Predicted, observable, and seen for none.
    Missing,
    /// Predicted, but nobody could have seen it.
    NotObservable,
    /// Seen, though not predicted.
    Unexpected,
    /// The packet was seen to die here.
    Died,
}

/// One line of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComparedStep {
    /// How the two compare.
    pub agreement: Agreement,
    /// How many packets were seen here.
    pub packets: u32,
    /// The predicted step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Step>,
    /// The observed step, of the packet that serves as example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Step>,
}

/// One direction of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WalkComparison {
    /// Fate of the predicted walk; absent if there is no prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Disposition>,
    /// Fate of most observed walks.
    pub observed: Disposition,
    /// How many branches the prediction has.
    pub branches: usize,
    /// The compared steps, along the branch that most packets took.
    pub steps: Vec<ComparedStep>,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// [`API_VERSION`].
    pub api_version: String,
    /// `CheckResult`.
    pub kind: String,
    /// The check.
    pub check: CheckId,
    /// The ends as they were asked for.
    pub source: String,
    /// The destination as it was asked for.
    pub destination: String,
    /// The flow of the first packet.
    pub flow: Flow,
    /// The answer.
    pub verdict: Verdict,
    /// Packets sent.
    pub sent: u32,
    /// Packets that came to their receiver.
    pub delivered: u32,
    /// Packets whose answer came back; absent for a one-way check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replied: Option<u32>,
    /// Round-trip times in nanoseconds: minimum, median, maximum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ns: Option<[u64; 3]>,
    /// Where and why it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_point: Option<FaultPoint>,
    /// How much is lost at the fault point and what that goes with, where only some packets are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<LossReport>,
    /// What happens to packets that arrive: delays, duplication, reordering, another way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anomalies: Vec<Anomaly>,
    /// What Kubernetes' objects ask for, and what is otherwise; absent if the source of the inventory knows no
    /// such objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<IntentReport>,
    /// The way there.
    pub forward: WalkComparison,
    /// The way back.
    #[serde(default, rename = "return", skip_serializing_if = "Option::is_none")]
    pub return_: Option<WalkComparison>,
    /// Where the prediction was wrong though packets arrived, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub model_errors: Vec<Text>,
    /// Hooks of the path that nobody could see.
    #[serde(default)]
    pub not_observable: Vec<NotObservable>,
    /// Records lost on the way; more than 0 means that "not seen" is weaker.
    pub lost_events: u64,
    /// The same by kind.
    #[serde(default)]
    pub losses: Losses,
    /// Remarks: facts that were missing, nodes without an agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Text>,
}

/// A hook of a node that had no provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotObservable {
    /// Node.
    pub node: NodeName,
    /// The hook and why.
    #[serde(flatten)]
    pub report: HookReport,
}
