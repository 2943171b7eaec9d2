//! What the owner of a cluster asked for, of one flow: the answer of `waymark_sim::intend`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ObjectRef, PolicyType};

/// What Services and NetworkPolicies ask for, of one flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// The answer over all receivers.
    pub expectation: Expectation,
    /// The Service to whose address the flow goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectRef>,
    /// Who may receive it: the owner of the address, or each ready backend of the Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receivers: Vec<Receiver>,
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
    /// The Service has no ready backend.
    NoEndpoints,
    /// The objects do not say; [`Admission::Unknown`] has the reason.
    Unknown,
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allowed => "allowed",
            Self::Partly => "partly allowed",
            Self::Denied => "denied",
            Self::NoEndpoints => "no endpoints",
            Self::Unknown => "unknown",
        })
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
        why: String,
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
        f.pad(match self {
            Self::SamePod => "a pod always reaches itself",
            Self::OwnNode => "policies have no say between a pod and its own node",
            Self::NoPod => "policies have no say where neither end is a pod with a network of its own",
        })
    }
}
