//! What the controller has to do with the Kubernetes API.
//!
//! * [`crd`]: the custom resources
//! * `checks`: Checks are run, and their status says what came out

mod checks;
pub mod crd;

pub use checks::{Checks, ChecksOptions, Limits, Tenancy};
