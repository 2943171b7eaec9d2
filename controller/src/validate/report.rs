//! What a validation answers: the document that `waymark validate -o json` prints.

use serde::Serialize;
use waymark_proto::{API_VERSION, FaultPoint, ObjectRef, Text};
use waymark_sim::{Change, Pair, Reach};

use super::foresee::Foresight;
use super::groups::{Group, Shift};
use super::judge::{Judgement, Seen};
use super::outside::OutsideChange;

/// A validation's answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidationReport {
    /// [`API_VERSION`].
    pub api_version: &'static str,
    /// `ValidationReport`.
    pub kind: &'static str,
    /// The answer.
    pub outcome: Outcome,
    /// What is in the cluster now.
    pub state: State,
    /// Why it fails, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Text>,
    /// The objects.
    pub change: Vec<ChangedObject>,
    /// What the objects say.
    pub reachability: ReachabilityReport,
    /// What checks saw.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckReport>,
    /// What a simulation of the nodes says, where their facts were given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub predictions: Vec<PredictionReport>,
    /// Milliseconds from the change until all was as predicted; absent if it never was, or nothing was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_ms: Option<u64>,
    /// How the change was taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackReport>,
    /// What is worth knowing, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<Text>,
}

/// The answer in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Nothing changes in reachability, and all that was checked is as predicted.
    Unchanged,
    /// Reachability changes, and all that was checked is as predicted.
    AsPredicted,
    /// Something is not as predicted or expected.
    Failed,
    /// It was interrupted.
    Interrupted,
}

/// What is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    /// Nothing was applied.
    NotApplied,
    /// The change.
    Applied,
    /// What was there before.
    RolledBack,
    /// Something in between: see the rollback.
    PartlyRolledBack,
}

/// An object of the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedObject {
    /// The object.
    pub object: ObjectRef,
    /// What becomes of it.
    pub action: Action,
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// It is new.
    Created,
    /// It is changed.
    Changed,
    /// It stays as it is.
    Unchanged,
    /// It goes.
    Deleted,
}

/// What the objects say about reachability.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReachabilityReport {
    /// The namespaces that were looked at.
    pub namespaces: Vec<String>,
    /// How many pairs of a pod and a destination were looked at.
    pub pairs: usize,
    /// How many connections are lost.
    pub lost: usize,
    /// How many are gained.
    pub gained: usize,
    /// How many change in another way.
    pub other: usize,
    /// The changes, put together.
    pub groups: Vec<Group>,
    /// The changes, each.
    pub connections: Vec<Change>,
    /// Changes of traffic with the world outside the cluster, by samples.
    pub outside: Vec<OutsideChange>,
}

/// A connection that was checked.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// The connection.
    #[serde(flatten)]
    pub pair: Pair,
    /// What the objects asked for before.
    pub intended: Reach,
    /// How it was seen before.
    pub before: Seen,
    /// What they ask for after.
    pub predicted: Reach,
    /// How it was seen after; absent if nothing was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Seen>,
    /// The judgement; absent if nothing was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judgement: Option<Judgement>,
    /// Where and why it fails after the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_point: Option<Box<FaultPoint>>,
    /// Why nothing was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Text>,
}

/// A connection of which facts were simulated.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PredictionReport {
    /// The connection.
    #[serde(flatten)]
    pub pair: Pair,
    /// What the newer objects ask for.
    pub intended: Reach,
    /// Its fate by the older facts; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Seen>,
    /// Its fate by the newer facts; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Seen>,
}

/// How a change was taken back.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RollbackReport {
    /// Why.
    pub because: Text,
    /// The objects.
    pub objects: Vec<RolledBack>,
    /// How many of the checked connections are seen as before; absent if nobody could look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back: Option<usize>,
    /// Connections that are not as they were, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_back: Vec<Text>,
    /// Why nobody could look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unverified: Option<Text>,
}

/// An object that was taken back, or not.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RolledBack {
    /// The object.
    pub object: ObjectRef,
    /// Why it is not as it was; absent if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<Text>,
    /// For what is left: the object as it was, to be put back by hand; absent if it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
}

impl ValidationReport {
    /// A report of what the objects say; nothing was applied.
    pub fn new(change: Vec<ChangedObject>, foresight: &Foresight) -> Self {
        let count =
            |shift| foresight.changes.iter().filter(|c| Shift::of(c.before, c.after) == shift).count();
        Self {
            api_version: API_VERSION,
            kind: "ValidationReport",
            outcome: if foresight.changes_something() { Outcome::AsPredicted } else { Outcome::Unchanged },
            state: State::NotApplied,
            failures: Vec::new(),
            change,
            reachability: ReachabilityReport {
                namespaces: foresight.namespaces.iter().cloned().collect(),
                pairs: foresight.pairs,
                lost: count(Shift::Lost),
                gained: count(Shift::Gained),
                other: count(Shift::Other),
                groups: foresight.groups.clone(),
                connections: foresight.changes.clone(),
                outside: foresight.outside.clone(),
            },
            checks: Vec::new(),
            predictions: Vec::new(),
            settled_ms: None,
            rollback: None,
            remarks: foresight.remarks.clone(),
        }
    }

    /// The exit code, as of `kubectl diff`: 0 if nothing changes, 1 if something does and all is as predicted,
    /// more if it failed: 2, or 3 if not all could be taken back.
    pub fn exit_code(&self) -> u8 {
        match (self.state, self.outcome) {
            (State::PartlyRolledBack, _) => 3,
            (_, Outcome::Unchanged) => 0,
            (_, Outcome::AsPredicted) => 1,
            (_, Outcome::Failed | Outcome::Interrupted) => 2,
        }
    }
}
