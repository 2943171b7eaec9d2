//! What is known about all Checks, and what is under way for each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{Id, JoinError, JoinSet};

use super::cancel::{Stopper, cancel};
use super::question::Tenancy;
use super::step::{Heard, Step, next};
use super::store::Written;
use super::work::{self, Bench, Order};

/// Longest sleep: the clock on the wall, by which times to live end, may be set meanwhile.
const NAP: Duration = Duration::from_secs(60);

/// The uid of a Check: its name may be given to another.
type Uid = String;

/// A Check.
struct Entry {
    heard: Heard,
    /// Whether the list that is under way has named it.
    listed: bool,
    /// The generation that was brought to an end here.
    done: Option<i64>,
    /// What is under way.
    work: Option<Work>,
}

/// Something under way for a Check.
struct Work {
    generation: i64,
    task: Id,
    stopper: Stopper,
    errand: Errand,
}

/// What a task is to do.
enum Errand {
    /// Run it and write its answer.
    Answer(Box<Order>),
    /// Write why there is no answer.
    Excuse,
    /// Delete it.
    Deletion,
}

/// All Checks.
pub(super) struct Ledger {
    bench: Arc<Bench>,
    tenancy: Tenancy,
    entries: BTreeMap<Uid, Entry>,
    tasks: JoinSet<Written>,
    /// Whose each task is, also when its Check is forgotten.
    owners: BTreeMap<Id, Uid>,
    /// When to look at a Check again.
    due: BTreeSet<(Timestamp, Uid)>,
}

impl Ledger {
    pub(super) fn new(bench: Arc<Bench>, tenancy: Tenancy) -> Self {
        let (entries, tasks) = (BTreeMap::new(), JoinSet::new());
        Self { bench, tenancy, entries, tasks, owners: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// A Check is there, or has changed.
    pub(super) fn learn(&mut self, heard: Heard) {
        let Some(uid) = heard.meta.uid.clone() else { return };
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.heard = heard;
            entry.listed = true;
        } else {
            let entry = Entry { heard, listed: true, done: None, work: None };
            self.entries.insert(uid.clone(), entry);
        }
        self.consider(&uid);
    }

    /// A Check was deleted.
    pub(super) fn forget(&mut self, uid: &str) {
        // What is under way stops with its entry.
        self.entries.remove(uid);
    }

    /// All Checks will be named anew.
    pub(super) fn relist(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.listed = false);
    }

    /// All Checks were named.
    pub(super) fn relisted(&mut self) {
        self.entries.retain(|_, entry| entry.listed);
    }

    /// Waits until something has ended or is due, and acts on it. Nothing is lost if it is not waited for.
    pub(super) async fn turn(&mut self) {
        let first = self.due.first().map(|(due, _)| *due);
        let nap = first.map_or(NAP, |due| {
            Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default().min(NAP)
        });
        tokio::select! {
            Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
            () = tokio::time::sleep(nap) => {
                let now = Timestamp::now();
                while self.due.first().is_some_and(|(due, _)| *due <= now) {
                    let (_, uid) = self.due.pop_first().expect("there is a first");
                    self.consider(&uid);
                }
            }
        }
    }

    /// Stops all that is under way, and waits for it.
    pub(super) async fn close(mut self) {
        self.entries.clear();
        while self.tasks.join_next().await.is_some() {}
    }

    fn ended(&mut self, ended: Result<(Id, Written), JoinError>) {
        let (task, written) = match ended {
            Ok((task, written)) => (task, Ok(written)),
            Err(error) => (error.id(), Err(failure(error))),
        };
        let Some(uid) = self.owners.remove(&task) else { return };
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        let Some(work) = entry.work.take_if(|work| work.task == task) else { return };
        match (written, work.errand) {
            // Should it not be gone, its next change will be heard of.
            (Ok(Written::Done | Written::Gone | Written::Changed), _) | (Err(_), Errand::Excuse) => {
                entry.done = Some(work.generation);
            }
            (Err(why), Errand::Answer(order)) if entry.heard.wants(work.generation) => {
                return self.excuse(&uid, *order, why);
            }
            // Something else is wanted by now.
            (Ok(Written::Cancelled), _) | (Err(_), Errand::Answer(_)) => {}
            // It would fail again; the Check is left until it changes.
            (Err(_), Errand::Deletion) => return,
        }
        self.consider(&uid);
    }

    /// Has it written why a Check has no answer.
    fn excuse(&mut self, uid: &str, order: Order, why: String) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let order = Order { before: entry.heard.status().cloned(), ..order };
        let generation = order.meta.generation.unwrap_or_default();
        let (bench, (stopper, cancel)) = (Arc::clone(&self.bench), cancel());
        let task = self.tasks.spawn(async move { work::give_up(&bench, &order, &why, &cancel).await });
        self.owners.insert(task.id(), uid.to_owned());
        entry.work = Some(Work { generation, task: task.id(), stopper, errand: Errand::Excuse });
    }

    /// Does what is to be done about a Check.
    fn consider(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let generation = entry.heard.generation();
        if let Some(work) = &entry.work {
            if work.generation != generation || entry.heard.meta.deletion_timestamp.is_some() {
                work.stopper.stop();
            }
            return;
        }
        let step = next(&entry.heard, entry.done, &self.tenancy, Timestamp::now());
        let (bench, meta, before) =
            (Arc::clone(&self.bench), entry.heard.meta.clone(), entry.heard.status().cloned());
        let (stopper, cancel) = cancel();
        let (task, errand) = match step {
            Step::Rest => return,
            Step::Wait(due) => {
                self.due.insert((due, uid.to_owned()));
                return;
            }
            Step::Run(request) => {
                let expect = entry.heard.expectation();
                let order = Order { meta, request: *request, expect, before };
                let errand = Errand::Answer(Box::new(order.clone()));
                (self.tasks.spawn(async move { work::run(&bench, &order, &cancel).await }), errand)
            }
            Step::Reject(rejection) => {
                let told =
                    async move { work::reject(&bench, &meta, &rejection, before.as_ref(), &cancel).await };
                (self.tasks.spawn(told), Errand::Excuse)
            }
            Step::Delete => {
                let deleted = async move { bench.store.delete(&meta, &cancel).await };
                (self.tasks.spawn(deleted), Errand::Deletion)
            }
        };
        self.owners.insert(task.id(), uid.to_owned());
        entry.work = Some(Work { generation, task: task.id(), stopper, errand });
    }
}

/// What the log is told of a task that failed, and its Check.
fn failure(error: JoinError) -> String {
    tracing::error!("the task of a Check failed: {error}");
    let why = match error.try_into_panic() {
        Ok(panic) => match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(words), _) => (*words).to_owned(),
            (_, Some(words)) => words.clone(),
            (None, None) => "it panicked".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    format!(
        "the controller failed while it ran this Check ({why}): that is a mistake in Waymark; its log says more"
    )
}
