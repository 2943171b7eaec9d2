//! Continuous probing: watches, what agents report about them, and the outages that they show.
//!
//! A watch names sources and destinations. Each pair is a target, which the agent of the source's node probes
//! at fixed times. Three failures in a row are an outage; it triggers a check by itself, so that by the time
//! somebody looks, the fault point is there.
//!
//! * `spec`: what is asked for
//! * `targets`: from a watch to each agent's plan
//! * `window`: counts and round-trip times, lately and in all
//! * `outage`: from streaks of failures to outages
//! * `board`: all of that together
//! * `service`: agents, reports, checks
//! * `store`: watches in a file
//! * `documents`: what clients print

mod board;
mod documents;
mod outage;
mod service;
mod spec;
mod store;
mod targets;
mod window;

pub use documents::{TargetState, TargetStatus, WatchCounts, WatchList, WatchStatus};
pub use outage::{Outage, OutageCheck};
pub use service::{Incoming, Watches};
pub use spec::{
    DEFAULT_PROBE_INTERVAL, DEFAULT_PROBE_TIMEOUT, MAX_PROBE_INTERVAL, MAX_PROBE_TIMEOUT, MIN_PROBE_INTERVAL,
    MIN_PROBE_TIMEOUT, WatchError, WatchSpec,
};
pub use targets::RESPONDER_PORT;
pub use window::{RECENT, RttSummary, Summary};
