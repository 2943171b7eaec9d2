//! The question: what a `Check` asks.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{DURATION, LABEL, SUBDOMAIN, any_address, destination_rules, one_of, source_rules};
use super::status::CheckStatus;
use crate::request::{DEFAULT_COUNT, DEFAULT_MAX_PACKETS, DEFAULT_TTL, MAX_COUNT};

/// A question about connectivity: marked packets are sent, watched on their way, and compared with the
/// predicted one. It is asked once; a changed spec asks again.
#[allow(clippy::duplicated_attributes, reason = "every column has a name, a type and a path of its own")]
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "waymark.io",
    version = "v1alpha1",
    kind = "Check",
    namespaced,
    status = "CheckStatus",
    derive = "PartialEq",
    shortname = "wmc",
    category = "waymark",
    doc = "A Check asks whether packets get from one place in the cluster to another, and if not, where exactly they die and why. Marked packets are sent from the source's network namespace and watched on their way. It is run once; a changed spec runs it again.",
    printcolumn(name = "Source", type_ = "string", json_path = ".status.source"),
    printcolumn(name = "Destination", type_ = "string", json_path = ".status.destination"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict"),
    printcolumn(name = "Fault", type_ = "string", json_path = ".status.faultPoint.summary"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CheckSpec {
    /// Who sends.
    pub source: Source,
    /// Who is to receive.
    pub destination: Destination,
    /// The protocol, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The family of addresses, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family: Option<Family>,
    /// How many packets are sent, and more where some of them are lost and some are not.
    #[serde(default = "default_count")]
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub count: u32,
    /// Most packets with those that follow to find out what the loss of some goes with.
    #[serde(default = "default_max_packets")]
    #[schemars(range(min = 0, max = MAX_COUNT))]
    pub max_packets: u32,
    /// Time between packets, from 1us to 10s: a number with one of the units us, ms, s, m. All packets must
    /// be sent within three minutes.
    #[serde(default = "default_interval")]
    #[schemars(length(max = 16), pattern(DURATION))]
    pub interval: String,
    /// How long to wait for the last packet, from 1ms to 60s: a number with one of the units us, ms, s, m.
    #[serde(default = "default_timeout")]
    #[schemars(length(max = 16), pattern(DURATION))]
    pub timeout: String,
    /// Length of the IP packets in bytes. Without it: by turns the smallest that holds a marker and the largest that
    /// leaves the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 44, max = 65535))]
    pub size: Option<u16>,
    /// The packets' hop limit: TTL in IPv4.
    #[serde(default = "default_hop_limit")]
    #[schemars(range(min = 1, max = 255))]
    pub hop_limit: u8,
    /// Whether to ask for the way there alone, and for no answers.
    #[serde(default)]
    pub one_way: bool,
    /// What the verdict should be for the condition `Succeeded`.
    #[serde(default)]
    pub expect: Expectation,
    /// How many seconds after its end the Check is deleted. Without it: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<u32>,
}

/// Who sends: a pod or a node. A Check may send from pods of its own namespace; from pods of others and
/// from nodes only in namespaces that the controller was told of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["pod", "node"]), "allOf" = source_rules()))]
pub struct Source {
    /// A pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), pattern(SUBDOMAIN))]
    pub pod: Option<String>,
    /// The pod's namespace. Without it: the Check's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), pattern(LABEL))]
    pub namespace: Option<String>,
    /// A node: packets are sent from its own network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), pattern(SUBDOMAIN))]
    pub node: Option<String>,
}

/// Who is to receive: a pod, a Service, a node or an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["pod", "service", "node", "ip"]), "allOf" = destination_rules()))]
pub struct Destination {
    /// A pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), pattern(SUBDOMAIN))]
    pub pod: Option<String>,
    /// A Service; it needs a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), pattern(LABEL))]
    pub service: Option<String>,
    /// The namespace of the pod or Service. Without it: the Check's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), pattern(LABEL))]
    pub namespace: Option<String>,
    /// A node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), pattern(SUBDOMAIN))]
    pub node: Option<String>,
    /// An address, IPv4 or IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45), extend("anyOf" = any_address()))]
    pub ip: Option<String>,
    /// The port. Without it the Check is an ICMP echo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// The protocol. Without it: TCP to a port, ICMP echo to none, a Service's own to a Service. UDP has to be
/// asked for, because a UDP packet reaches the application behind its port; TCP sends a lone SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// A lone SYN, reset by the sender's own kernel when it is answered.
    Tcp,
    /// A datagram; it reaches the application behind the port.
    Udp,
    /// An echo request.
    Icmp,
}

/// The family of addresses. Without it: IPv4 where the destination has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Family {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

/// What a verdict should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Expectation {
    /// Every packet arrives.
    #[default]
    Reachable,
    /// None does.
    Unreachable,
}

fn default_count() -> u32 {
    DEFAULT_COUNT
}

fn default_max_packets() -> u32 {
    DEFAULT_MAX_PACKETS
}

fn default_interval() -> String {
    "10ms".to_owned()
}

fn default_timeout() -> String {
    "2s".to_owned()
}

fn default_hop_limit() -> u8 {
    DEFAULT_TTL
}
