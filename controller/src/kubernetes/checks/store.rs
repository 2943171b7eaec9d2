//! Writing Checks: their status, and their end.

use std::time::Duration;

use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::core::DeserializeGuard;
use kube::{Error, Resource};
use serde_json::json;

use super::cancel::Cancel;
use super::words::{Doing, of_change};
use crate::kubernetes::client::Connection;
use crate::kubernetes::crd::{Check, CheckStatus};
use crate::notices::Notices;

/// Who owns the fields of a status. Nobody may apply a spec by this name: API servers before 1.22 keep one
/// set of fields by name, whichever subresource they were applied to.
const FIELD_MANAGER: &str = "waymark-controller-status";
/// The subject of notices about writing.
const SUBJECT: &str = "writing Checks";
/// First and longest wait before something is tried again.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is written.
    Done,
    /// There is no such object any more, or another by its name.
    Gone,
    /// It has changed meanwhile.
    Changed,
    /// Nobody wants it any more.
    Cancelled,
}

/// What is written.
enum Change {
    Status(Patch<serde_json::Value>),
    Deletion(DeleteParams),
}

impl Change {
    fn doing(&self) -> Doing {
        match self {
            Self::Status(_) => Doing::Writing,
            Self::Deletion(_) => Doing::Deleting,
        }
    }
}

/// The Checks of the API server.
#[derive(Clone)]
pub(super) struct Store {
    connection: Connection,
    notices: Notices,
}

impl Store {
    pub(super) fn new(connection: Connection, notices: Notices) -> Self {
        Self { connection, notices }
    }

    /// Writes a status; tries until it is written or cannot be any more.
    pub(super) async fn write(&self, meta: &ObjectMeta, status: &CheckStatus, cancel: &Cancel) -> Written {
        let body = json!({
            "apiVersion": Check::api_version(&()),
            "kind": Check::kind(&()),
            "metadata": {"name": meta.name, "uid": meta.uid},
            "status": status,
        });
        match self.persist(meta, &Change::Status(Patch::Apply(body)), cancel).await {
            // Nothing but the identity of the object was asked to be as it was.
            Written::Changed => Written::Gone,
            written => written,
        }
    }

    /// Deletes an object if it is still as it was; tries until it is gone.
    pub(super) async fn delete(&self, meta: &ObjectMeta, cancel: &Cancel) -> Written {
        let as_it_was =
            Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
        let params = DeleteParams::background().preconditions(as_it_was);
        self.persist(meta, &Change::Deletion(params), cancel).await
    }

    async fn attempt(&self, meta: &ObjectMeta, change: &Change) -> Result<(), Error> {
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = meta.name.as_deref().unwrap_or_default();
        let api: Api<DeserializeGuard<Check>> = Api::namespaced(self.connection.client.clone(), namespace);
        match change {
            Change::Status(body) => {
                let params = PatchParams::apply(FIELD_MANAGER).force();
                api.patch_status(name, &params, body).await.map(drop)
            }
            Change::Deletion(params) => api.delete(name, params).await.map(drop),
        }
    }

    async fn persist(&self, meta: &ObjectMeta, change: &Change, cancel: &Cancel) -> Written {
        let (mut wait, longest) = WAITS;
        // However this ends, its trouble ends with it.
        let notice = self.notices.about(SUBJECT);
        loop {
            let outcome = tokio::select! {
                outcome = self.attempt(meta, change) => outcome,
                () = cancel.asked() => return Written::Cancelled,
            };
            let error = match outcome {
                Ok(()) => return Written::Done,
                Err(error) => error,
            };
            match refusal(&error) {
                Refusal::Gone => return Written::Gone,
                Refusal::Changed => return Written::Changed,
                Refusal::Again => {}
                Refusal::Trouble => {
                    notice.say(of_change(change.doing(), &self.connection.address, &error));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = cancel.asked() => return Written::Cancelled,
            }
            wait = (wait * 2).min(longest);
        }
    }
}

/// What a refused write means.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The object is not there.
    Gone,
    /// A precondition does not hold.
    Changed,
    /// Somebody wrote at the same time.
    Again,
    /// Anything else.
    Trouble,
}

fn refusal(error: &Error) -> Refusal {
    match error {
        Error::Api(status) if status.code == 404 => Refusal::Gone,
        Error::Api(status) if status.code == 409 && status.message.contains("recondition failed") => {
            Refusal::Changed
        }
        Error::Api(status) if status.code == 409 => Refusal::Again,
        _ => Refusal::Trouble,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn conflicts_are_told_from_lost_objects() {
        let api =
            |message: &str, code| Error::Api(Box::new(Status::failure(message, "Conflict").with_code(code)));
        assert_eq!(refusal(&api("checks.waymark.io \"c\" not found", 404)), Refusal::Gone);
        // As API servers 1.20 and 1.36 say it.
        let other = "Operation cannot be fulfilled on checks.waymark.io \"c\": StorageError: invalid object, Code: 4, Key: /registry/waymark.io/checks/shop/c, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: a, UID in object meta: b";
        assert_eq!(refusal(&api(other, 409)), Refusal::Changed);
        let both = "Operation cannot be fulfilled on checks.waymark.io \"c\": the object has been modified; please apply your changes to the latest version and try again";
        assert_eq!(refusal(&api(both, 409)), Refusal::Again);
        assert_eq!(refusal(&api("forbidden", 403)), Refusal::Trouble);
    }
}
