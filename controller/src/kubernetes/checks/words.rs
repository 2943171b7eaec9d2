//! Errors of the API server about Checks, in one sentence: pure.

use kube::runtime::watcher;

use crate::kubernetes::error::{KubernetesError, Verb};

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Writing a status.
    Writing,
    /// Deleting after the time to live.
    Deleting,
}

/// The kind, as roles name it.
const KIND: &str = "checks.waymark.io";
/// Its status, as roles name it.
const STATUS: &str = "checks.waymark.io/status";

/// What does not happen, what is in the way, and what to do.
pub(super) fn of_change(doing: Doing, address: &str, error: &kube::Error) -> String {
    let (consequence, verb, resource) = match doing {
        Doing::Writing => ("the results of Checks are not written", Verb::Patch, STATUS),
        Doing::Deleting => ("Checks are not deleted after their time", Verb::Delete, KIND),
    };
    format!("{consequence}: {}", KubernetesError::new(verb, resource, address, error))
}

/// The same of a watch.
pub(super) fn of_watch(address: &str, error: &watcher::Error) -> String {
    let consequence = "Checks are not run";
    match KubernetesError::of_watcher(KIND, address, error) {
        KubernetesError::NotServed { address, .. } => format!(
            "{consequence}: the Kubernetes API server at {address} does not know {KIND}: install its definition, which the Helm chart has in crds/ and `crdgen` prints"
        ),
        other => format!("{consequence}: {other}"),
    }
}

/// Whether a watch's error is one of those that belong to its life, which the next attempt mends.
pub(super) fn is_passing(error: &watcher::Error) -> bool {
    match error {
        // The connection ended, or what was seen last is too long ago (410 Gone).
        watcher::Error::WatchFailed(_) => true,
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

#[cfg(test)]
mod tests {
    use kube::Error;
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_lacks_is_named() {
        let api = |message: &str, code| Box::new(Status::failure(message, "").with_code(code));
        let missing = watcher::Error::InitialListFailed(Error::Api(api("404 page not found", 404)));
        assert_eq!(
            of_watch("https://h:1", &missing),
            "Checks are not run: the Kubernetes API server at https://h:1 does not know checks.waymark.io: install its definition, which the Helm chart has in crds/ and `crdgen` prints"
        );
        let forbidden = Error::Api(api(r#"checks.waymark.io "c" is forbidden: User "x" cannot patch"#, 403));
        assert_eq!(
            of_change(Doing::Writing, "https://h:1", &forbidden),
            "the results of Checks are not written: not permitted to patch checks.waymark.io/status (as user x): grant it the verb patch on checks.waymark.io/status by a ClusterRole, as the Helm chart does"
        );
        assert!(is_passing(&watcher::Error::WatchError(api("too old resource version", 410))));
        assert!(!is_passing(&watcher::Error::NoResourceVersion));
    }
}
