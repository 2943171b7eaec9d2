//! Taking a change back: each object as it was, in the opposite order.
//!
//! What was there is put back by a replacement, so that fields which the change added go as well, and then its
//! `managedFields` by a second one: a replacement that changes nothing leaves those as they are given, so that
//! fields belong to whom they belonged. An object that somebody else has changed meanwhile is left alone, and
//! named. A server that is away is waited for, as long as a restart takes.

use serde_json::Value;
use waymark_proto::{Text, text};

use super::change::Key;
use super::patience::{PAUSE, Patience, Say};
use super::world::{Cluster, ClusterError, Mode};

/// How often a request is tried that met a newer version of the object.
const TRIES: usize = 5;
/// What is done, for who waits for it.
const DOING: &str = "taking the change back";

/// What was done to an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// The object.
    pub key: Key,
    /// As it was; `None` if it was not there.
    pub before: Option<Value>,
    /// As it was made; `None` if it was deleted.
    pub after: Option<Value>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// It is as it was.
    Restored,
    /// It is not; why.
    Left(Text),
}

/// Takes everything back, the last first, and says what it waits for.
pub async fn undo(cluster: &dyn Cluster, done: &[Done], say: Say<'_>) -> Vec<(Key, Undone)> {
    say(DOING.to_owned());
    undo_within(cluster, done, Patience::new(say)).await
}

/// The same with this patience.
pub(super) async fn undo_within(
    cluster: &dyn Cluster,
    done: &[Done],
    mut patience: Patience<'_>,
) -> Vec<(Key, Undone)> {
    let mut undone = Vec::new();
    for one in done.iter().rev() {
        undone.push((one.key.clone(), undo_one(cluster, one, &mut patience).await));
    }
    undone
}

async fn undo_one(cluster: &dyn Cluster, done: &Done, patience: &mut Patience<'_>) -> Undone {
    let mut tries = 1;
    loop {
        match patience.ask(DOING, async || try_once(cluster, done).await).await {
            Ok(undone) => return undone,
            // Read again: it may be a harmless change, as of its status, or a token that is being renewed.
            Err(ClusterError::Conflict(_) | ClusterError::Unauthorized(_)) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Undone::Left(Text::verbatim(error.to_string())),
        }
    }
}

/// What has to be done to an object as it is now.
#[derive(Debug, PartialEq)]
enum Remedy {
    Nothing,
    Replace(Value),
    Create(Value),
    Delete(String),
    Leave(Text),
}

async fn try_once(cluster: &dyn Cluster, done: &Done) -> Result<Undone, ClusterError> {
    let key = &done.key;
    match remedy(done, cluster.get(key).await?.as_ref()) {
        Remedy::Nothing => {}
        Remedy::Leave(why) => return Ok(Undone::Left(why)),
        Remedy::Delete(uid) => cluster.delete(key, &uid, Mode::Real).await?,
        Remedy::Create(manifest) => drop(cluster.create(key, &manifest).await?),
        Remedy::Replace(manifest) => {
            let now = cluster.replace(key, &manifest).await?;
            if now["metadata"]["managedFields"] != manifest["metadata"]["managedFields"] {
                let mut again = manifest;
                again["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
                cluster.replace(key, &again).await?;
            }
        }
    }
    Ok(Undone::Restored)
}

fn remedy(done: &Done, now: Option<&Value>) -> Remedy {
    match (&done.before, &done.after, now) {
        (None, _, None) => Remedy::Nothing,
        (None, after, Some(now)) => match after {
            Some(after) if same(after, now) && uid(after) == uid(now) => Remedy::Delete(uid(now)),
            _ => Remedy::Leave(meddled(now)),
        },
        (Some(before), _, Some(now)) if uid(before) == uid(now) && same(before, now) => {
            // Not only alike: managed by the same, too.
            if before["metadata"]["managedFields"] == now["metadata"]["managedFields"] {
                Remedy::Nothing
            } else {
                Remedy::Replace(at_version_of(before, now))
            }
        }
        (Some(before), Some(after), Some(now)) => {
            if same(after, now) && uid(after) == uid(now) {
                Remedy::Replace(at_version_of(before, now))
            } else {
                Remedy::Leave(meddled(now))
            }
        }
        (Some(before), None, None) => Remedy::Create(as_new(before)),
        // Made anew already: by somebody else, or by a request whose answer was lost.
        (Some(before), None, Some(now)) if same(before, now) => Remedy::Nothing,
        (Some(_), None, Some(now)) => Remedy::Leave(meddled(now)),
        (Some(_), Some(_), None) => Remedy::Leave(text!(validation::DeletedMeanwhile)),
    }
}

/// Whether two states of an object are the same in all that people write.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
    let alike = |one: &Value, other: &Value| one == other || (empty(one) && empty(other));
    one["spec"] == other["spec"]
        && ["labels", "annotations", "finalizers", "ownerReferences"]
            .into_iter()
            .all(|key| alike(&one["metadata"][key], &other["metadata"][key]))
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn at_version_of(before: &Value, now: &Value) -> Value {
    let mut manifest = before.clone();
    manifest["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
    manifest
}

/// An object to be created again: what the server gives anew is left out.
fn as_new(before: &Value) -> Value {
    let mut manifest = before.clone();
    if let Some(metadata) = manifest["metadata"].as_object_mut() {
        for key in ["resourceVersion", "uid", "creationTimestamp", "generation", "selfLink", "managedFields"]
        {
            metadata.remove(key);
        }
    }
    manifest
}

/// Who has changed an object last, as far as it says.
fn meddled(now: &Value) -> Text {
    let managers = now["metadata"]["managedFields"].as_array();
    let last = managers.into_iter().flatten().max_by_key(|entry| entry["time"].as_str().unwrap_or_default());
    text!(validation::ChangedMeanwhile { manager: last.and_then(|entry| entry["manager"].as_str()) })
}
