//! What the controller has to do with the Kubernetes API.
//!
//! * [`crd`]: the custom resources

pub mod crd;
