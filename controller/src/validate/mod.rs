//! Validation of a change: what it means by the objects alone, and whether that comes true.
//!
//! [`preview`] reads the change and the cluster, has the API server try the change without carrying it out, and
//! compares intended reachability before and after. [`validate`] goes on: it checks some connections for real,
//! applies the change, checks again until all is as predicted or the time is over, and takes the change back if
//! it is not: a connection that worked and does not, without anybody having said that this is wanted; one that
//! should work now and does not; one that should not and does; one that nobody could see.
//!
//! All that is decided is pure. What is done to the world goes through two traits, [`Cluster`] and [`Probe`].
//! Once something was applied there is no way out but through the end of [`validate`]: errors, a lost controller
//! and an interruption all lead to the rollback.
//!
//! * `manifest`, `change`, `expect`: what a user hands in
//! * `objects`, `endpoints`: the cluster's objects, and what a change makes of them
//! * `foresee`, `outside`, `groups`: what that means for reachability, put together for people
//! * `offline`: the same for two folders of manifests and facts
//! * `choose`: which connections to check
//! * `judge`: before, predicted and after as a table
//! * `look`: checks, many at once, until they show what was predicted
//! * `undo`: taking a change back
//! * `patience`: waiting for an API server that is away
//! * `world`: the traits
//! * `report`, `junit`: the answer as a document

mod change;
mod choose;
mod endpoints;
mod expect;
#[cfg(test)]
pub(crate) mod fixture;
mod foresee;
mod groups;
mod judge;
mod junit;
mod look;
mod manifest;
mod objects;
mod offline;
mod outside;
mod patience;
mod report;
mod undo;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use waymark_proto::{Inventory, Text, text};
use waymark_sim::Reach;

pub use change::{Change, ChangeError, Intention, Item, Key, Kind, Namespaces};
pub use choose::{Bounds, Choice, Sample, choose, unchecked_losses};
pub use expect::{ExpectError, Expectation, Expectations, Expected};
pub use foresee::{Foresight, foresee};
pub use groups::{Group, Shift};
pub use judge::{Judgement, Seen, agrees, judge};
pub use junit::junit;
pub use look::Stop;
pub use manifest::{Document, ManifestError, read as read_manifest};
pub use objects::Edit;
pub use offline::{Folder, OfflineError, compare_folders};
pub use outside::OutsideChange;
pub use report::{
    Action, ChangedObject, CheckReport, Outcome, PredictionReport, ReachabilityReport, RollbackReport,
    RolledBack, State, ValidationReport,
};
pub use undo::{Done, Undone, undo};
pub use waymark_sim::Pair;
pub use world::{Cluster, ClusterError, Mode, Observation, Probe, ProbeError, question};

use crate::kubernetes::{Objects, convert};
use look::{Looks, look, settle};
use patience::{Patience, Say};

/// When a change is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollback {
    /// If it fails.
    OnFailure,
    /// In any case: it was to be tried only.
    Always,
}

/// How to validate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What.
    pub change: Change,
    /// What is expected of it.
    pub expectations: Expectations,
    /// Which connections to check.
    pub bounds: Bounds,
    /// How long the dataplane may take until all is as predicted.
    pub settle: Duration,
    /// When to take the change back.
    pub rollback: Rollback,
    /// Whether a change is not even tried that is predicted to cut what works and nobody gave up.
    pub cautious: bool,
}

/// Why there is no answer. Nothing was applied, then.
#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    /// The API server.
    #[error("{0}; nothing was applied")]
    Cluster(#[from] ClusterError),
    /// An answer of the API server that is not of the kind it should be.
    #[error("the API server's answer about {key} was not understood: {reason}; nothing was applied")]
    Answer {
        /// The object.
        key: Key,
        /// Why not.
        reason: String,
    },
    /// An object that is to be deleted and is not there.
    #[error("{0} is not there, so it cannot be deleted; nothing was applied")]
    Missing(Key),
    /// The expectations.
    #[error("{0}")]
    Expectations(#[from] ExpectError),
    /// Checks are not to be had.
    #[error("{0}; nothing was applied; --static says what the objects alone mean")]
    Probe(ProbeError),
    /// It was interrupted before anything was done.
    #[error("interrupted; nothing was applied")]
    Interrupted,
}

/// What a change means by the objects alone.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The answer so far.
    pub report: ValidationReport,
    foresight: Foresight,
    before: Inventory,
    after: Inventory,
    /// Each object of the change with how it is, and how it would be.
    states: Vec<(Item, Option<Value>)>,
}

/// Reads the cluster, has the API server try the change, and compares reachability before and after.
///
/// # Errors
/// The API server does not answer or refuses the change; an expectation fits nothing.
pub async fn preview(cluster: &dyn Cluster, plan: &Plan) -> Result<Preview, ValidateError> {
    let mut states = Vec::new();
    let mut edits = Vec::new();
    let mut changed = Vec::new();
    for item in &plan.change.items {
        let now = cluster.get(&item.key).await?;
        let (edit, action) = rehearse(cluster, plan.change.intention, item, now.as_ref()).await?;
        changed.push(ChangedObject { object: item.key.object(), action });
        edits.push(edit);
        states.push((item.clone(), now));
    }
    let now = cluster.objects().await?;
    let (before, after) = (convert(&now), convert(&objects::after(&now, &edits)));
    let foresight = foresee(&before, &after, &plan.change.namespaces());
    let mut report = ValidationReport::new(changed, &foresight);
    for unmet in shortened(plan.expectations.unmet(&foresight.after)?) {
        report.outcome = Outcome::Failed;
        report.failures.push(unmet);
    }
    Ok(Preview { report, foresight, before, after, states })
}

/// Has the API server try one object of a change.
async fn rehearse(
    cluster: &dyn Cluster,
    intention: Intention,
    item: &Item,
    now: Option<&Value>,
) -> Result<(Edit, Action), ValidateError> {
    let key = &item.key;
    if intention == Intention::Delete {
        let Some(now) = now else { return Err(ValidateError::Missing(key.clone())) };
        let uid = now["metadata"]["uid"].as_str().unwrap_or_default();
        cluster.delete(key, uid, Mode::DryRun).await?;
        return Ok((Edit::Gone(key.clone()), Action::Deleted));
    }
    let then = cluster.apply(item, Mode::DryRun).await?;
    let action = match now {
        None => Action::Created,
        Some(now) if undo::same(now, &then) => Action::Unchanged,
        Some(_) => Action::Changed,
    };
    let understood =
        |error: serde_json::Error| ValidateError::Answer { key: key.clone(), reason: error.to_string() };
    let edit = match key.kind {
        Kind::NetworkPolicy => Edit::Policy(serde_json::from_value(then).map_err(understood)?),
        Kind::Service => Edit::Service(serde_json::from_value(then).map_err(understood)?),
    };
    Ok((edit, action))
}

/// Validates a change: previews it, checks, applies it, checks again, and takes it back if it fails.
///
/// # Errors
/// Whatever happens before something was applied. After that, there is always a report.
pub async fn validate(
    cluster: &dyn Cluster,
    probe: &dyn Probe,
    plan: &Plan,
    stop: &Stop,
    say: Say<'_>,
) -> Result<ValidationReport, ValidateError> {
    say("comparing what the objects mean before and after".to_owned());
    let Preview { mut report, foresight, before, after, states } = preview(cluster, plan).await?;
    if report.outcome == Outcome::Failed || report.change.iter().all(|one| one.action == Action::Unchanged) {
        return Ok(report);
    }
    let choice =
        choose(&foresight, &[&before, &after], &plan.change.namespaces(), &plan.expectations, plan.bounds);
    report.remarks.extend(choice.remarks);
    say(format!("checking {} connections as they are", choice.samples.len()));
    let looks = baseline(probe, choice.samples, &mut report, stop).await?;
    let checked: Vec<&Sample> = looks.iter().map(|look| &look.sample).collect();
    let foreseen = predicted_losses(&looks, &plan.expectations);
    let unchecked =
        unchecked_losses(&foresight, &[&before, &after], &checked, &plan.expectations, plan.bounds);
    // Where no check would show anything of what is lost, the change would be taken back for nothing.
    if (plan.cautious || foreseen.is_empty()) && !(foreseen.is_empty() && unchecked.is_empty()) {
        report.outcome = Outcome::Failed;
        report.failures = shortened([foreseen, unchecked].concat());
        report.checks = looks.iter().map(|look| look.report(&plan.expectations)).collect();
        return Ok(report);
    }
    if stop.is_set() {
        return Err(ValidateError::Interrupted);
    }
    say("applying the change".to_owned());
    let (done, refused) = apply(cluster, plan.change.intention, &states, stop, say).await;
    let verdict = match refused {
        Some(failure) => failure,
        None => observe(probe, plan, looks.clone(), unchecked, &mut report, stop, say).await,
    };
    conclude(cluster, probe, plan, &looks, &done, verdict, &mut report, say).await;
    Ok(report)
}

/// How a validation stands before it is decided what stays.
enum Standing {
    /// All is as predicted.
    Good,
    /// Something is not; what, a sentence each.
    Bad(Vec<Text>),
    /// It was interrupted.
    Interrupted,
}

/// Checks everything before the change. What cannot be checked is left out, with a remark.
async fn baseline(
    probe: &dyn Probe,
    samples: Vec<Sample>,
    report: &mut ValidationReport,
    stop: &Stop,
) -> Result<Vec<Looks>, ValidateError> {
    let asked = samples.len();
    let pairs: Vec<_> = samples.iter().map(|sample| &sample.pair).collect();
    let is_there = |index: usize| samples[index].before != Reach::Absent;
    let seen = tokio::select! {
        seen = look(probe, &pairs, &is_there) => seen,
        () = stop.stopped() => return Err(ValidateError::Interrupted),
    };
    let mut looks = Vec::new();
    let mut impossible = Vec::new();
    for (sample, seen) in samples.iter().zip(seen) {
        match seen {
            Ok(observation) if observation.seen == Seen::Unseen => {
                let why = observation.note.unwrap_or_else(|| text!(validation::CouldNotTell));
                impossible.push(text!(validation::NotChecked { pair: sample.pair.to_string(), why }));
            }
            Ok(observation) => looks.push(Looks::new(sample.clone(), observation)),
            Err(error @ ProbeError::Away(_)) => return Err(ValidateError::Probe(error)),
            Err(ProbeError::Impossible(why)) => {
                impossible.push(text!(validation::NotChecked { pair: sample.pair.to_string(), why }));
            }
        }
    }
    if looks.is_empty() && asked > 0 {
        let first = impossible.swap_remove(0);
        return Err(ValidateError::Probe(ProbeError::Impossible(format!(
            "no connection can be checked: {first}"
        ))));
    }
    report.remarks.extend(shortened(impossible));
    Ok(looks)
}

/// What works, is predicted to be lost, and nobody gave up.
fn predicted_losses(looks: &[Looks], expectations: &Expectations) -> Vec<Text> {
    let lost = looks.iter().filter(|look| {
        let sample = &look.sample;
        look.before.seen == Seen::Works
            && Shift::of(sample.before, sample.predicted) == Shift::Lost
            && !expectations.accepts_loss(&sample.pair)
    });
    lost.map(|look| text!(validation::WouldBeLost { pair: look.sample.pair.to_string() })).collect()
}

/// Applies or deletes each object. Ends at the first that is refused.
async fn apply(
    cluster: &dyn Cluster,
    intention: Intention,
    states: &[(Item, Option<Value>)],
    stop: &Stop,
    say: Say<'_>,
) -> (Vec<Done>, Option<Standing>) {
    let mut done = Vec::new();
    for (item, before) in states {
        if stop.is_set() {
            return (done, Some(Standing::Interrupted));
        }
        let answer = match intention {
            Intention::Apply => cluster.apply(&pinned(item, before.as_ref()), Mode::Real).await.map(Some),
            Intention::Delete => {
                let uid = before.as_ref().and_then(|before| before["metadata"]["uid"].as_str());
                cluster.delete(&item.key, uid.unwrap_or_default(), Mode::Real).await.map(|()| None)
            }
        };
        match answer {
            Ok(after) => done.push(Done { key: item.key.clone(), before: before.clone(), after }),
            Err(error) => {
                let unknown = matches!(error, ClusterError::Unavailable(_));
                if unknown {
                    // The request may have been carried out though no answer came.
                    let look = async || cluster.get(&item.key).await;
                    let after = Patience::new(say).ask("looking what was applied", look).await;
                    let after = after.ok().flatten();
                    done.push(Done { key: item.key.clone(), before: before.clone(), after });
                }
                return (done, Some(Standing::Bad(vec![Text::verbatim(error.to_string())])));
            }
        }
    }
    (done, None)
}

/// An object that is applied only to the version that was read: who comes between is not overwritten.
fn pinned(item: &Item, before: Option<&Value>) -> Item {
    let mut item = item.clone();
    if let Some(before) = before {
        item.manifest["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    }
    item
}

/// Checks until all is as predicted or the time is over, and judges. What is lost `unchecked` fails as well.
async fn observe(
    probe: &dyn Probe,
    plan: &Plan,
    mut looks: Vec<Looks>,
    unchecked: Vec<Text>,
    report: &mut ValidationReport,
    stop: &Stop,
    say: Say<'_>,
) -> Standing {
    say(format!("checking {} connections until they are as predicted", looks.len()));
    let settled = tokio::select! {
        settled = settle(probe, &mut looks, plan.settle, &Looks::is_as_predicted) => Some(settled),
        () = stop.stopped() => None,
    };
    report.checks = looks.iter().map(|look| look.report(&plan.expectations)).collect();
    match settled {
        _ if stop.is_set() => return Standing::Interrupted,
        None => return Standing::Interrupted,
        Some(Err(error)) => return Standing::Bad(vec![Text::verbatim(error.to_string())]),
        Some(Ok(after)) => report.settled_ms = after.map(|after| after.as_millis() as u64),
    }
    let failing = report.checks.iter().filter(|check| check.judgement.is_some_and(Judgement::fails));
    let failing = failing.map(|check| {
        let words = check.judgement.map(Judgement::words).unwrap_or_default();
        text!(validation::Failing { pair: check.pair.to_string(), judgement: words })
    });
    let failures: Vec<Text> = failing.chain(unchecked).collect();
    if failures.is_empty() { Standing::Good } else { Standing::Bad(failures) }
}

/// Decides what stays, takes back what does not, and looks whether all is as it was.
#[expect(
    clippy::too_many_arguments,
    reason = "the last verb of the heart; a struct would hold them for it alone"
)]
async fn conclude(
    cluster: &dyn Cluster,
    probe: &dyn Probe,
    plan: &Plan,
    looks: &[Looks],
    done: &[Done],
    standing: Standing,
    report: &mut ValidationReport,
    say: Say<'_>,
) {
    report.state = State::Applied;
    let because = match standing {
        Standing::Good if plan.rollback == Rollback::OnFailure => return,
        Standing::Good => Text::verbatim("--rollback always"),
        Standing::Bad(failures) => {
            report.outcome = Outcome::Failed;
            let first = failures.first().cloned().unwrap_or_default();
            report.failures = shortened(failures);
            first
        }
        Standing::Interrupted => {
            report.outcome = Outcome::Interrupted;
            text!(validation::Interrupted)
        }
    };
    if done.is_empty() {
        report.state = State::NotApplied;
        return;
    }
    let undone = undo(cluster, done, say).await;
    let mut rollback =
        RollbackReport { because, objects: Vec::new(), back: None, not_back: Vec::new(), unverified: None };
    report.state = State::RolledBack;
    for (key, undone) in undone {
        let mut object = RolledBack { object: key.object(), left: None, before: None };
        if let Undone::Left(why) = undone {
            report.state = State::PartlyRolledBack;
            object.left = Some(why);
            object.before = done.iter().find(|one| one.key == key).and_then(|one| one.before.clone());
        }
        rollback.objects.push(object);
    }
    say("checking whether all is as it was".to_owned());
    let mut again = looks.to_vec();
    if let Err(error) = settle(probe, &mut again, plan.settle, &Looks::is_as_before).await {
        rollback.unverified = Some(Text::verbatim(error.to_string()));
    } else {
        let not_back = again.iter().filter(|look| !look.is_as_before());
        rollback.not_back = not_back.map(Looks::not_back).collect();
        rollback.back = Some(again.len() - rollback.not_back.len());
    }
    report.rollback = Some(rollback);
}

/// Most sentences of one kind in a report.
const MOST_SENTENCES: usize = 10;

/// The first of many sentences, and how many more there are.
fn shortened(mut sentences: Vec<Text>) -> Vec<Text> {
    if sentences.len() > MOST_SENTENCES {
        let more = sentences.len() - MOST_SENTENCES;
        sentences.truncate(MOST_SENTENCES);
        sentences.push(text!(validation::More { more }));
    }
    sentences
}

/// The namespaces of which two sets of objects differ in policies or Services.
pub(crate) fn differing(before: &Objects, after: &Objects) -> BTreeSet<String> {
    use kube::ResourceExt;
    let mut namespaces = BTreeSet::new();
    let mut note = |namespace: Option<String>| namespaces.extend(namespace);
    for (one, other) in [(before, after), (after, before)] {
        one.policies
            .iter()
            .filter(|policy| !other.policies.contains(policy))
            .for_each(|p| note(p.namespace()));
        one.services
            .iter()
            .filter(|service| !other.services.contains(service))
            .for_each(|s| note(s.namespace()));
        one.pods.iter().filter(|pod| !other.pods.contains(pod)).for_each(|p| note(p.namespace()));
    }
    namespaces
}

#[cfg(test)]
mod tests;
