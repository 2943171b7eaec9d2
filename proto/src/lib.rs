//! The vocabulary of Waymark: what two of its parts must agree on.
//!
//! Waymark compares three walks of a packet through a cluster: the *intended*, the *predicted* and the
//! *observed*. All three are sequences of the same [`Step`]: a [`Hook`] in a network namespace of a node,
//! with what it did.
//!
//! ```
//! use waymark_proto::{Action, Cause, Disposition, Hook, Path, Place, Step};
//!
//! let pod = Place::new("node1", "shop-cart");
//! let mut last = Step::new(pod.clone(), Hook::Route, Action::Dropped);
//! last.cause = Some(Cause::NoRoute);
//! let path = Path::new(Disposition::NoRoute, vec![Step::new(pod, Hook::Inject, Action::Injected), last])?;
//! assert_eq!(path.hops().count(), 1);
//! # Ok::<(), waymark_proto::PathShape>(())
//! ```
//!
//! * `ids`: names and numbers, one type each
//! * `flow`: the traffic in question
//! * [`marker`]: the identity of one injected packet, as it travels
//! * `hook`: the places of the datapath, and who can see them
//! * `cause`: why packets die, one table
//! * `walk`: steps, hops, paths and their branches
//! * `sighting`: records from the kernel
//! * `endpoint`: where the controller listens
//! * `dial`: dialling it: TLS, and what went wrong
//! * `facts`: what is known about a node
//! * `filter`: which packets are meant, where none are sent
//! * [`command_line`]: command lines that make no sense
//! * `inventory`: the cluster as a file
//! * `policy`: NetworkPolicies, as Kubernetes writes them
//! * `probe`: continuous probing
//! * `intent`: what the cluster's owner asked for
//! * `service`: Services and their endpoints
//! * `result`, `loss`, `anomaly`: what a check answers
//! * `short`: input as errors repeat it
//! * [`text!`]: what is said to people, in the languages that it is said in
//! * [`rpc`]: the gRPC messages and their conversions

mod anomaly;
mod cause;
pub mod command_line;
mod dial;
mod endpoint;
mod facts;
mod filter;
mod flow;
mod hook;
mod ids;
mod intent;
mod inventory;
mod loss;
pub mod marker;
pub mod metadata;
mod policy;
mod probe;
mod result;
pub mod rpc;
mod service;
mod short;
mod sighting;
mod text;
mod walk;

pub use anomaly::{Anomaly, AnomalyKind};
pub use cause::Cause;
pub use dial::{
    CA_FILE, CERTIFICATE_FILE, Credentials, CredentialsError, Dial, DialError, KEY_FILE, Pem, Plaintext,
    Trouble,
};
pub use endpoint::{DEFAULT_ENDPOINT, Endpoint, EndpointError, KEEP_ALIVE};
pub use facts::{
    Address, BridgePort, DeviceProgram, FACTS_API_VERSION, Facts, FdbEntry, IptablesBackend, IptablesDump,
    Link, LinkKind, MissingFact, Neighbour, NetfilterFacts, NetnsFacts, NextHop, PolicyRule, PortRange,
    ProgramPoint, Route, RouteType, RuleAction, Socket, SocketHolder,
};
pub use filter::FilterInstruction;
pub use flow::{Flow, Protocol};
pub use hook::{FIRST_TRACED_PRIORITY, Hook, HookReport, HookSet, Observability};
pub use ids::{CheckId, NetnsInode, NetnsName, NodeName, Place, Seq};
pub use intent::{
    Admission, Denial, Deviation, DeviationKind, Exemption, Expectation, Intent, IntentReport, LocalOnly,
    PolicyField, Receiver,
};
pub use inventory::{Absent, ContainerPort, Fabric, Inventory, InventoryError, Namespace, Node, Pod, Scope};
pub use loss::{Factor, FactorKind, LossReport, Share};
pub use marker::{Marker, MarkerKey, Tag};
pub use metadata::{Checksum, Conntrack, ConntrackState, Metadata};
pub use policy::{
    EgressRule, IngressRule, IpBlock, LabelOperator, LabelRequirement, LabelSelector, NetworkPolicy,
    NetworkPolicySpec, PolicyPeer, PolicyPort, PolicyType, PortRef, TransportProtocol,
};
pub use probe::{
    Clock, OUTAGE_FAILURES, Probe, ProbeCounts, ProbeId, ProbePlan, ProbeReport, RTT_BUCKET_BOUNDS_NS,
    RTT_DIGITS, RTT_HIGHEST_NS, RTT_LOWEST_NS, Refusal, Responder, Streak,
};
pub use result::{
    API_VERSION, Agreement, CheckResult, ComparedStep, Confidence, FaultPoint, NotObservable, ObjectRef,
    Span, SpanEnd, Verdict, WalkComparison,
};
pub use service::{Backend, Service, TrafficPolicy};
pub use short::short;
pub use sighting::{Event, Headers, Losses, MATCHED, Match, Sighting};
pub use text::{Arg, Entry, Language, Text, listed, quoted, texts, translated, translated_json};
pub use walk::{
    Action, Branch, Choice, ChoiceKind, Detour, Direction, Disposition, Outer, Path, PathSet, PathShape,
    RuleRef, Step,
};
