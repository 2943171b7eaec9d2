//! What the owner of a cluster asked for, of one flow: the answer of `waymark_sim::intend`; and where the
//! machines, or the objects among themselves, do not agree with it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{NodeName, ObjectRef, PolicyType, RuleRef, Text};

/// What Services and NetworkPolicies ask for, of one flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// The answer over all receivers.
    pub expectation: Expectation,
    /// The Service to whose address the flow goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectRef>,
    /// The traffic policy by which only some of the Service's ready backends count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_only: Option<LocalOnly>,
    /// Who may receive it: the owner of the address, or each ready backend of the Service that counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receivers: Vec<Receiver>,
}

/// A Service's traffic policy that is Local: of its backends those on one node count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalOnly {
    /// Which of its policies.
    pub policy: PolicyField,
    /// The node.
    pub node: NodeName,
}

/// The fields of a Service that hold a traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyField {
    /// For traffic to its virtual address.
    #[serde(rename = "internalTrafficPolicy")]
    Internal,
    /// For traffic to a port of a node.
    #[serde(rename = "externalTrafficPolicy")]
    External,
}

impl fmt::Display for PolicyField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Internal => "internalTrafficPolicy",
            Self::External => "externalTrafficPolicy",
        })
    }
}

/// Whether a flow is meant to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Expectation {
    /// Every receiver may be reached.
    Allowed,
    /// Some backends of the Service may be reached and some may not.
    Partly,
    /// No receiver may be reached.
    Denied,
    /// The Service has no ready backend, or none that its traffic policy lets count.
    NoEndpoints,
    /// The objects do not say; [`Admission::Unknown`] has the reason.
    Unknown,
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words())
    }
}

/// One that may receive a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receiver {
    /// The pod, as `namespace/name`; absent for nodes and for addresses outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The address at which it receives.
    pub address: IpAddr,
    /// The port at which it receives; absent for ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether policies let it.
    pub admission: Admission,
}

/// Whether policies let a source send to a receiver. Answers to what is let through always pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "verdict")]
pub enum Admission {
    /// They do.
    Allowed {
        /// The policies with a rule for it; none where no policy isolates an end.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        by: Vec<ObjectRef>,
    },
    /// They don't.
    Denied {
        /// One or both directions; not empty.
        by: Vec<Denial>,
    },
    /// Policies have no say in it.
    NotSubject {
        /// Why not.
        why: Exemption,
    },
    /// That cannot be said.
    Unknown {
        /// Why not, as a sentence.
        why: Text,
    },
}

impl Admission {
    /// Whether nothing forbids it.
    pub fn admits(&self) -> bool {
        matches!(self, Self::Allowed { .. } | Self::NotSubject { .. })
    }
}

/// A direction in which a pod is isolated without a rule for the flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    /// Egress of the source or ingress of the destination.
    pub direction: PolicyType,
    /// The isolated pod, as `namespace/name`.
    pub pod: String,
    /// The policies that isolate it, none of which has a rule for the flow; not empty.
    pub policies: Vec<ObjectRef>,
}

/// Why policies have no say in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Exemption {
    /// A pod always reaches itself.
    SamePod,
    /// A pod always reaches its own node, and is reached from there.
    OwnNode,
    /// Neither end is a pod with a network of its own.
    NoPod,
}

impl fmt::Display for Exemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words())
    }
}

/// What was asked for, and what is not as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntentReport {
    /// What was asked for.
    #[serde(flatten)]
    pub intent: Intent,
    /// What is otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<Deviation>,
}

/// Something that is not as Kubernetes' objects ask for it, or an object that asks for what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deviation {
    /// What kind of thing it is.
    pub kind: DeviationKind,
    /// The object to mend.
    pub culprit: ObjectRef,
    /// The node on which it is so; absent if it is so in the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The address of the endpoint concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<IpAddr>,
    /// The rule concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// What is so, as a sentence.
    pub summary: Text,
    /// What to do next.
    pub advice: Text,
}

/// Kinds of deviations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviationKind {
    /// A rule of a node leads a Service to what is no ready endpoint of it, or refuses it though it has some.
    StaleServiceRule,
    /// No rule of a node leads a Service to one of its ready endpoints.
    MissingServiceRule,
    /// No rule of a node translates a Service's address at all.
    NoServiceRule,
    /// An endpoint that no pod of the Service stands behind.
    WrongEndpoint,
    /// A Service without a selector and without ready endpoints.
    NoEndpoints,
    /// A Service whose traffic policy is Local, and none of its ready endpoints is on the node.
    NoLocalEndpoints,
    /// A Service whose selector selects no running pod.
    NoMatchingPod,
    /// Pods that a Service selects, none of which is ready.
    NotReady,
    /// A Service's target port that its pods do not have.
    WrongTargetPort,
    /// A pod that does not listen on a port that it declares.
    NotListening,
    /// A policy denies what was sent.
    PolicyDenied,
    /// A rule of a node refuses what no policy denies.
    UnwantedRule,
    /// Nothing enforces a policy that denies what was sent.
    NotEnforced,
}
