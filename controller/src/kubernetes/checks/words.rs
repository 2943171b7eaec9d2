//! Errors of the API server about Checks, in one sentence: pure.

use kube::Error;
use kube::runtime::watcher;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Listing and watching.
    Watching,
    /// Writing a status.
    Writing,
    /// Deleting after the time to live.
    Deleting,
}

impl Doing {
    /// What does not happen.
    fn consequence(self) -> &'static str {
        match self {
            Self::Watching => "Checks are not run",
            Self::Writing => "the results of Checks are not written",
            Self::Deleting => "Checks are not deleted after their time",
        }
    }

    /// What a role has to grant.
    fn grant(self) -> &'static str {
        match self {
            Self::Watching => "list and watch on checks.waymark.io",
            Self::Writing => "patch on checks.waymark.io/status",
            Self::Deleting => "delete on checks.waymark.io",
        }
    }
}

/// What is wrong, and what to do.
pub(super) fn sentence(doing: Doing, error: &Error) -> String {
    let consequence = doing.consequence();
    match error {
        Error::Api(status) => by_code(doing, status.code, &status.message),
        other => format!("{consequence}: the API server could not be asked: {}", chain(other)),
    }
}

/// The same of a watch.
pub(super) fn of_watch(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => sentence(Doing::Watching, error),
        watcher::Error::WatchError(status) => by_code(Doing::Watching, status.code, &status.message),
        watcher::Error::NoResourceVersion => {
            format!("{}: {error}", Doing::Watching.consequence())
        }
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

fn by_code(doing: Doing, code: u16, message: &str) -> String {
    let consequence = doing.consequence();
    match code {
        404 => format!(
            "{consequence}: the API server does not know checks.waymark.io; install its definition, which the chart has in crds/ and `crdgen` prints"
        ),
        401 => {
            format!("{consequence}: the API server does not accept the controller's credentials: {message}")
        }
        403 => format!(
            "{consequence}: the controller lacks a permission ({message}); grant it {}",
            doing.grant()
        ),
        _ => format!("{consequence}: the API server refused: {message}"),
    }
}

/// An error with its causes, without those that say the same again.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_lacks_is_named() {
        let api = |message: &str, code| Box::new(Status::failure(message, "").with_code(code));
        let missing =
            of_watch(&watcher::Error::InitialListFailed(Error::Api(api("404 page not found", 404))));
        assert!(missing.contains("does not know checks.waymark.io; install"), "{missing}");
        let forbidden = sentence(Doing::Writing, &Error::Api(api("checks.waymark.io is forbidden", 403)));
        assert_eq!(
            forbidden,
            "the results of Checks are not written: the controller lacks a permission (checks.waymark.io is forbidden); grant it patch on checks.waymark.io/status"
        );
        let expired = watcher::Error::WatchError(api("too old resource version", 410));
        assert!(is_passing(&expired));
        assert!(!is_passing(&watcher::Error::NoResourceVersion));
    }
}
