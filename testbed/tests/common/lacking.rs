//! What a test needs and this machine may lack: the programs of a Kubernetes control plane.

use std::borrow::Borrow;
use std::fmt::Display;

use waymark_testbed::kubernetes::KubernetesError;

/// What was to be had. Where its programs are not on this machine it is said what is left out, and under CI this
/// fails, as it does whatever else goes wrong.
#[track_caller]
pub fn or_left_out<T, E: Borrow<KubernetesError> + Display>(what: &str, had: Result<T, E>) -> Option<T> {
    had.map_err(|error| eprintln!("{}", left_out(what, error, std::env::var_os("CI").is_some()))).ok()
}

/// What is said of something that is left out.
#[track_caller]
fn left_out<E: Borrow<KubernetesError> + Display>(what: &str, error: E, ci: bool) -> String {
    assert!(error.borrow().is_missing(), "{what}: {error}");
    assert!(!ci, "{what}: {error}; under CI nothing is skipped");
    format!("SKIPPED: {what}: {error}")
}

#[test]
fn what_is_left_out_is_said_and_fails_under_ci() {
    let missing = || KubernetesError::NotBuilt { program: "p", looked: "/nowhere".into() };
    let said = left_out("the schema", missing(), false);
    assert!(said.starts_with("SKIPPED: the schema: no p of a current"), "{said}");
    assert!(std::panic::catch_unwind(|| left_out("the schema", missing(), true)).is_err());
    let broken = || KubernetesError::Topology("of no use".into());
    assert!(std::panic::catch_unwind(|| left_out("the schema", broken(), false)).is_err());
}
