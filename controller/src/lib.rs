//! The controller: orders agents, joins their sightings, compares the walks.
//!
//! The heart is what [`check`] does, a function of a dozen verbs. It talks to agents through [`Agents`] and to
//! the cluster through [`Source`]; all that decides an answer is pure: [`observe()`] and [`diagnose()`]. So a
//! recorded check is answered again by [`replay`].
//!
//! ```
//! use waymark_controller::{Request, Target, resolve};
//! use waymark_proto::Inventory;
//!
//! let inventory = Inventory::from_json(br#"{"nodes":[{"name":"a","ip":"10.0.0.1"}]}"#)?;
//! let request = Request::new("node/a".parse()?, "10.0.0.9:80".parse::<Target>()?);
//! let ends = resolve(&inventory, &request)?;
//! assert_eq!(ends.flow.to_string(), "tcp 10.0.0.1:0 → 10.0.0.9:80");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! * `target`, `request`, `resolve`: a question, from text to a flow
//! * `source`: where the inventory comes from
//! * `snapshot`: the facts of a cluster as a folder; `packed`: documents as files
//! * `agents`: what is asked of agents, whoever carries it
//! * `hub`: agents over gRPC
//! * `gather`: facts and prediction, node by node
//! * `tracers`: those of several nodes, from arming to disarming
//! * `armed`: those of a check, and what they saw
//! * [`live`]: traces of traffic that is there anyway
//! * [`watching`]: continuous probing
//! * `engine`: a check from question to result
//! * `recording`: all that the result of a check rests on, as a document
//! * `observe`: sightings to walks
//! * `diagnose`: walks to verdict and fault point
//! * `deviation`: what is not as Kubernetes' objects ask for it, and which of them is to mend
//! * `owners`: which program wrote a netfilter rule, and for which object
//! * `reasons`, `advice`: tables of kernel reasons and of remedies
//! * `documents`: predictions and status as JSON
//! * `api`: the gRPC service for clients
//! * [`history`]: results of the past
//! * [`kubernetes`]: what it has to do with the Kubernetes API
//! * `notices`: what whoever runs the controller should know
//! * [`validate`]: changes of policies and Services, before they are made and while they are
//! * `health`: whether the controller lives and is ready, and its figures
//! * `metrics`: those figures
//! * `listen`: sockets and ready files
//! * `serve`: agents and clients on one listener
//! * [`tls`]: the controller's CA, certificates, who may call what

mod advice;
mod agents;
mod api;
mod armed;
mod deviation;
mod diagnose;
mod documents;
mod engine;
#[cfg(test)]
mod fixture;
mod gather;
mod health;
pub mod history;
mod hub;
pub mod kubernetes;
mod listen;
pub mod live;
mod metrics;
mod notices;
mod observe;
mod owners;
mod packed;
mod reasons;
mod recording;
mod request;
mod resolve;
mod serve;
mod snapshot;
mod source;
mod target;
pub mod tls;
mod tracers;
pub mod validate;
pub mod watching;

pub use advice::advice;
pub use agents::{AgentError, Agents, NodeFacts};
pub use api::Api;
pub use armed::Progress;
pub use diagnose::{Case, Diagnosis, Sent, Sight, diagnose};
pub use documents::{NodeStatus, Prediction, Status};
pub use engine::{CheckError, ReplayError, check, check_and_record, replay};
pub use gather::{GatherError, predict, predict_offline};
pub use health::Health;
pub use hub::{AttachedAgent, Hub, MAX_MESSAGE, Patience, RefusedAgent};
pub use listen::{ListenError, Listener, SocketFile, write_ready_file};
pub use metrics::Figures;
pub use notices::{Notice, Notices};
pub use observe::{Lens, Observed, Walk, observe};
pub use packed::save;
pub use reasons::{Meaning, meaning};
pub use recording::{MAX_RECORDING, PcapngError, RECORDING_API_VERSION, Recording, RecordingError};
pub use request::{
    DEFAULT_COUNT, DEFAULT_INTERVAL, DEFAULT_MAX_PACKETS, DEFAULT_TIMEOUT, DEFAULT_TTL, MAX_COUNT,
    MAX_INTERVAL, MAX_TIMEOUT, MIN_INTERVAL, MIN_TIMEOUT, Request, RequestError,
};
pub use resolve::{Ends, ResolveError, resolve};
pub use serve::{Security, serve};
pub use snapshot::{MissingNode, SNAPSHOT_API_VERSION, Snapshot, SnapshotError};
pub use source::{FileSource, Source, SourceError};
pub use target::{Target, TargetError};
