//! Kubernetes: the only folder that speaks with its API.
//!
//! * `client`: from kubeconfig, context or service account to a connection
//! * `error`: what can go wrong with it, one sentence each
//! * `tracked`: the kinds of objects that are watched, and what is kept of them
//! * `source`: a [`Source`](crate::Source) that watches them
//! * `convert`: API objects to an inventory, pure
//! * `changes`: a cluster that a change is validated against
//! * `workloads`: names of workloads that stand for one of their pods
//! * `secrets`: certificates as Secrets
//! * [`crd`]: the custom resources
//! * `checks`: Checks are run, and their status says what came out

mod changes;
mod checks;
mod client;
mod convert;
pub mod crd;
mod error;
mod secrets;
mod source;
mod tracked;
mod workloads;

pub use changes::LiveCluster;
pub use checks::{Checks, ChecksOptions, Limits, Tenancy};
pub use client::{Access, Connection};
pub use convert::{Objects, convert};
pub use error::{KubernetesError, Verb};
pub use secrets::SecretStore;
pub use source::KubernetesSource;
pub use workloads::pod_of_deployment;
