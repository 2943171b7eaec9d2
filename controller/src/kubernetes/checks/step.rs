//! What is to be done about a Check now: pure.

use jiff::{SignedDuration, Timestamp};
use kube::api::ObjectMeta;

use super::question::{Rejection, Tenancy, question};
use crate::kubernetes::crd::{Check, CheckStatus, ConditionType, Expectation};
use crate::request::Request;

/// A Check as it was last heard of; what it could not be read as, where it could not be read.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) meta: ObjectMeta,
    pub(super) check: Result<Box<Check>, String>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing until it changes.
    Rest,
    /// Nothing until then.
    Wait(Timestamp),
    /// Run it.
    Run(Box<Request>),
    /// Say why it is not run.
    Reject(Rejection),
    /// Delete it: its time is over.
    Delete,
}

/// What is to be done about a Check. `done` is the generation that this controller brought to an end, of
/// which the watch may not have told yet.
pub(super) fn next(heard: &Heard, done: Option<i64>, tenancy: &Tenancy, now: Timestamp) -> Step {
    if heard.meta.deletion_timestamp.is_some() {
        return Step::Rest;
    }
    let generation = heard.generation();
    let check = match &heard.check {
        Ok(check) => check,
        Err(_) if done == Some(generation) => return Step::Rest,
        Err(error) => return Step::Reject(Rejection::Unreadable(error.clone())),
    };
    let finished = check.status.as_ref().filter(|status| complete(status, generation));
    match finished {
        Some(status) => afterwards(check, status, now),
        None if done == Some(generation) => Step::Rest,
        None => {
            let namespace = heard.meta.namespace.as_deref().unwrap_or_default();
            match question(&check.spec, namespace, tenancy) {
                Ok(request) => Step::Run(Box::new(request)),
                Err(rejection) => Step::Reject(rejection),
            }
        }
    }
}

/// Whether a status says that this generation has come to an end.
fn complete(status: &CheckStatus, generation: i64) -> bool {
    let of_type = |name| status.conditions.iter().find(move |condition| condition.type_ == name);
    status.observed_generation == Some(generation)
        && of_type(ConditionType::Complete.name()).is_some_and(|condition| condition.status == "True")
}

/// What is to be done about a Check that has come to an end.
fn afterwards(check: &Check, status: &CheckStatus, now: Timestamp) -> Step {
    let (Some(ttl), Some(end)) = (check.spec.ttl_seconds_after_finished, &status.completion_time) else {
        return Step::Rest;
    };
    match end.0.checked_add(SignedDuration::from_secs(ttl.into())) {
        Ok(due) if due <= now => Step::Delete,
        Ok(due) => Step::Wait(due),
        // Beyond the end of the calendar.
        Err(_) => Step::Rest,
    }
}

impl Heard {
    /// The generation of the spec.
    pub(super) fn generation(&self) -> i64 {
        self.meta.generation.unwrap_or_default()
    }

    /// Whether an answer for this generation is still wanted.
    pub(super) fn wants(&self, generation: i64) -> bool {
        self.generation() == generation && self.meta.deletion_timestamp.is_none()
    }

    /// What the verdict should be.
    pub(super) fn expectation(&self) -> Expectation {
        self.check.as_ref().map(|check| check.spec.expect).unwrap_or_default()
    }

    /// The status as far as it could be read.
    pub(super) fn status(&self) -> Option<&CheckStatus> {
        self.check.as_ref().ok()?.status.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2030-01-01T00:01:00Z";

    fn heard(part: &Value) -> Heard {
        let mut value = json!({
            "apiVersion": "waymark.io/v1alpha1", "kind": "Check",
            "metadata": {"name": "c", "namespace": "shop", "uid": "u", "generation": 2},
            "spec": {"source": {"pod": "cart"}, "destination": {"pod": "pay"}},
        });
        for (path, field) in part.as_object().unwrap() {
            *value.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = field.clone();
        }
        let check: Check = serde_json::from_value(value).unwrap();
        Heard { meta: check.metadata.clone(), check: Ok(Box::new(check)) }
    }

    fn ended(generation: i64, complete: &str, ttl: Option<u32>) -> Heard {
        let mut heard = heard(&json!({}));
        let check = heard.check.as_mut().unwrap();
        check.spec.ttl_seconds_after_finished = ttl;
        check.status = serde_json::from_value(json!({
            "observedGeneration": generation,
            "completionTime": "2030-01-01T00:00:30Z",
            "conditions": [{
                "type": "Complete", "status": complete, "reason": "Finished", "message": "",
                "lastTransitionTime": "2030-01-01T00:00:30Z"
            }],
        }))
        .unwrap();
        heard
    }

    fn step(heard: &Heard, done: Option<i64>) -> Step {
        next(heard, done, &Tenancy::default(), NOW.parse().unwrap())
    }

    #[test]
    fn each_generation_is_run_once() {
        assert!(matches!(step(&heard(&json!({})), None), Step::Run(_)));
        assert!(matches!(step(&heard(&json!({})), Some(1)), Step::Run(_)), "the spec has changed since");
        assert_eq!(step(&heard(&json!({})), Some(2)), Step::Rest, "the watch has not told yet");
        assert_eq!(step(&ended(2, "True", None), None), Step::Rest);
        assert!(matches!(step(&ended(1, "True", None), None), Step::Run(_)), "that was the spec before");
    }

    #[test]
    fn what_was_running_when_its_controller_died_is_run_again() {
        assert!(matches!(step(&ended(2, "False", None), None), Step::Run(_)));
    }

    #[test]
    fn the_time_to_live_counts_from_the_end() {
        assert_eq!(step(&ended(2, "True", Some(30)), None), Step::Delete);
        assert_eq!(step(&ended(2, "True", Some(0)), Some(2)), Step::Delete);
        let due = "2030-01-01T00:01:01Z".parse().unwrap();
        assert_eq!(step(&ended(2, "True", Some(31)), None), Step::Wait(due));
        assert!(matches!(step(&ended(1, "True", Some(0)), None), Step::Run(_)), "not before it was run");
    }

    #[test]
    fn what_is_being_deleted_is_left_alone() {
        let mut heard = heard(&json!({}));
        heard.meta.deletion_timestamp = ended(2, "True", None).status().unwrap().completion_time.clone();
        assert_eq!(step(&heard, None), Step::Rest);
    }

    #[test]
    fn what_cannot_be_asked_is_rejected_once() {
        let node = heard(&json!({"/spec/source": {"node": "n1"}}));
        assert!(matches!(step(&node, None), Step::Reject(Rejection::NotPermitted { .. })));
        let unreadable = Heard { check: Err("missing field `source`".to_owned()), ..heard(&json!({})) };
        let Step::Reject(rejection) = step(&unreadable, None) else { panic!("not rejected") };
        assert_eq!(rejection.to_string(), "the Check cannot be read: missing field `source`");
        assert_eq!(step(&unreadable, Some(2)), Step::Rest);
    }
}
