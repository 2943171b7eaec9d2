//! Watches at work: agents get their plans, reports come in, outages trigger checks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use waymark_proto::{API_VERSION, Inventory, NodeName, ProbePlan, ProbeReport};

use super::board::Board;
use super::documents::{WatchCounts, WatchList};
use super::outage::{Outage, OutageCheck};
use super::spec::{WatchError, WatchSpec};
use super::store::Store;
use super::targets::{question, targets};
use crate::agents::Agents;
use crate::armed::Progress;
use crate::engine::check;
use crate::history::{Asker, History};
use crate::hub::Hub;
use crate::source::Source;

/// How long agents go on probing when the controller is gone.
const LEASE: Duration = Duration::from_secs(120);
/// How often the cluster is looked at for targets that came, went or moved.
const LOOK: Duration = Duration::from_secs(2);
/// Outages that may wait for their check. Of a hundred that open at once, the first tell enough.
const WAITING_CHECKS: usize = 32;
/// Batches of reports that may wait.
const WAITING_REPORTS: usize = 1024;
/// Checks of outages that run at the same time: what one fault breaks opens several, and the last in a row would
/// be checked when the fault is over.
const CHECKS_AT_ONCE: usize = 4;

/// All watches of a controller. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Watches(Arc<Inner>);

struct Inner {
    board: Mutex<Board>,
    hub: Hub,
    agents: Arc<dyn Agents>,
    source: Arc<dyn Source>,
    store: Option<Store>,
    /// Something is to be told to agents.
    changed: Notify,
    outages: mpsc::Sender<u64>,
    /// Where the results of outages' checks go.
    history: OnceLock<History>,
}

/// What [`Watches::run`] needs once.
pub struct Incoming {
    reports: mpsc::Receiver<(NodeName, Vec<ProbeReport>)>,
    outages: mpsc::Receiver<u64>,
}

impl Watches {
    /// Watches by this hub's agents, of this source's cluster. With a folder they are kept in a file there,
    /// and those that it holds begin.
    ///
    /// # Errors
    /// The folder or its file cannot be used.
    pub fn new(
        hub: Hub,
        source: Arc<dyn Source>,
        folder: Option<&Path>,
    ) -> Result<(Self, Incoming), WatchError> {
        let agents: Arc<dyn Agents> = Arc::new(hub.clone());
        Self::with_agents(hub, agents, source, folder)
    }

    /// The same, with checks by other agents than those of the hub.
    fn with_agents(
        hub: Hub,
        agents: Arc<dyn Agents>,
        source: Arc<dyn Source>,
        folder: Option<&Path>,
    ) -> Result<(Self, Incoming), WatchError> {
        let mut board = Board::default();
        let store = match folder {
            Some(folder) => {
                let (store, specs) = Store::open(folder)?;
                for spec in specs {
                    board.start(spec, now_unix_ns())?;
                }
                Some(store)
            }
            None => None,
        };
        let (outages, outages_in) = mpsc::channel(WAITING_CHECKS);
        let (reports, reports_in) = mpsc::channel(WAITING_REPORTS);
        hub.report_to(reports);
        let inner = Inner {
            board: Mutex::new(board),
            hub,
            agents,
            source,
            store,
            changed: Notify::new(),
            outages,
            history: OnceLock::new(),
        };
        Ok((Self(Arc::new(inner)), Incoming { reports: reports_in, outages: outages_in }))
    }

    /// Keeps the results of outages' checks in this history. The first that is given stays.
    pub fn keep_results_in(&self, history: History) {
        self.0.history.get_or_init(|| history);
    }

    /// Works for ever.
    pub async fn run(&self, incoming: Incoming) {
        let Incoming { mut reports, outages } = incoming;
        let take = async {
            while let Some((node, reports)) = reports.recv().await {
                self.take(&node, &reports);
            }
        };
        let outages = ReceiverStream::new(outages);
        let examine = outages.for_each_concurrent(CHECKS_AT_ONCE, |number| {
            let watches = self.clone();
            async move { watches.examine(number).await }
        });
        tokio::join!(take, examine, self.distribute());
    }

    /// Begins a watch.
    ///
    /// # Errors
    /// A name that is taken, an end that cannot be, too many targets, a file that cannot be written.
    pub async fn start(&self, spec: WatchSpec) -> Result<(), WatchError> {
        spec.check()?;
        let inventory =
            self.0.source.inventory().await.map_err(|error| WatchError::End(error.to_string()))?;
        let resolved = targets(&spec, &inventory)?;
        if resolved.plans.is_empty() {
            let why = resolved.problems.first().cloned();
            return Err(WatchError::End(why.unwrap_or_else(|| "this watch would have no target".to_owned())));
        }
        {
            let mut board = self.0.board();
            let name = spec.name.clone();
            board.start(spec, now_unix_ns())?;
            if let Err(error) = self.0.save(board.specs()) {
                board.stop(&name, now_unix_ns())?;
                return Err(error);
            }
            board.resolve(&inventory, Instant::now(), now_unix_ns());
        }
        self.0.changed.notify_one();
        Ok(())
    }

    /// Ends a watch, or all. Gives back the names of those that ended.
    ///
    /// # Errors
    /// There is no watch of that name, or the file cannot be written; then nothing ends.
    pub fn stop(&self, name: Option<&str>) -> Result<Vec<String>, WatchError> {
        let mut board = self.0.board();
        let names = name.map_or_else(|| board.names(), |name| vec![name.to_owned()]);
        // The file first: if it cannot be written, the watches go on and can be stopped again. Otherwise agents
        // would be left with plans of watches that nobody sees, and that come back with the next controller.
        self.0.save(board.specs_without(&names)?)?;
        for name in &names {
            board.stop(name, now_unix_ns())?;
        }
        drop(board);
        self.0.changed.notify_one();
        Ok(names)
    }

    /// The state of one watch or of all.
    ///
    /// # Errors
    /// There is no watch of that name.
    pub fn list(&self, watch: Option<&str>) -> Result<WatchList, WatchError> {
        let absent = self.0.absence();
        let mut board = self.0.board();
        if let Some(name) = watch
            && !board.names().iter().any(|known| known == name)
        {
            return Err(WatchError::Unknown { name: name.to_owned(), known: board.names() });
        }
        Ok(WatchList {
            api_version: API_VERSION.to_owned(),
            kind: "WatchList".to_owned(),
            at_unix_ns: now_unix_ns(),
            watches: board.statuses(watch, Instant::now(), absent),
            outages: board.outages(watch),
        })
    }

    /// How many targets of each watch are how.
    pub fn counts(&self) -> Vec<WatchCounts> {
        let absent = self.0.absence();
        self.0.board().counts(Instant::now(), absent)
    }

    /// How many outages there were since the controller started.
    pub fn outages_opened(&self) -> u64 {
        self.0.board().opened()
    }

    /// Takes reports in; the outages that they open wait for their check.
    fn take(&self, node: &NodeName, reports: &[ProbeReport]) {
        let mut board = self.0.board();
        for number in board.report(node, reports, Instant::now()) {
            if self.0.outages.try_send(number).is_err() {
                let message = format!("{WAITING_CHECKS} other outages were waiting for their checks already");
                board.set_check(number, OutageCheck::Skipped { message });
            }
        }
    }

    /// Runs the check of an outage.
    async fn examine(&self, number: u64) {
        let Some(outage) = self.0.board().outage(number).cloned() else { return };
        self.0.board().set_check(number, OutageCheck::Running);
        let check = match self.0.ask(&outage).await {
            Ok(result) => {
                if let Some(history) = self.0.history.get() {
                    history.keep(Asker::Outage { number, watch: outage.watch.clone() }, &result);
                }
                OutageCheck::Done { at_unix_ns: now_unix_ns(), result: Box::new(result) }
            }
            Err(message) => OutageCheck::Failed { message },
        };
        self.0.board().set_check(number, check);
    }

    /// Keeps every agent's plan up to date, for ever.
    async fn distribute(&self) {
        let mut told: BTreeMap<NodeName, (u64, Arc<ProbePlan>)> = BTreeMap::new();
        let mut arrivals = self.0.hub.arrivals();
        let mut seen: Option<Arc<Inventory>> = None;
        loop {
            match self.0.source.inventory().await {
                Ok(inventory) => {
                    if !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &inventory)) {
                        self.0.board().resolve(&inventory, Instant::now(), now_unix_ns());
                        seen = Some(inventory);
                    }
                }
                Err(error) => tracing::warn!(%error, "the watches go on with the cluster as it was"),
            }
            self.tell(&mut told).await;
            tokio::select! {
                () = self.0.changed.notified() => {
                    // A watch that was stopped leaves targets to be taken out of the plans.
                    if let Some(inventory) = &seen {
                        self.0.board().resolve(inventory, Instant::now(), now_unix_ns());
                    }
                }
                _ = arrivals.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Tells agents what they do not know yet.
    async fn tell(&self, told: &mut BTreeMap<NodeName, (u64, Arc<ProbePlan>)>) {
        let attached = self.0.hub.attached();
        told.retain(|node, _| attached.iter().any(|agent| agent.node == *node));
        let mut orders = Vec::new();
        for agent in attached {
            let plan = self.0.board().plan(&agent.node);
            let known = match told.get(&agent.node) {
                Some((generation, known)) => *generation == agent.generation && *known == plan,
                // An agent that has just come may still follow a plan from before.
                None => false,
            };
            if !known {
                orders.push(async move {
                    let answer = self.0.hub.probe(&agent.node, &plan, LEASE).await;
                    (agent.node, agent.generation, plan, answer)
                });
            }
        }
        for (node, generation, plan, answer) in futures::future::join_all(orders).await {
            match answer {
                Ok(refusals) => {
                    self.0.board().refused(&node, &refusals);
                    told.insert(node, (generation, plan));
                }
                Err(error) => tracing::warn!(%error, "will be told again"),
            }
        }
    }
}

impl Inner {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says why the agent of a node is not there, as it is now.
    fn absence(&self) -> impl Fn(&NodeName) -> Option<String> + use<> {
        let attached: BTreeSet<_> = self.hub.attached().into_iter().map(|agent| agent.node).collect();
        move |node| (!attached.contains(node)).then(|| format!("no agent is attached for node {node}"))
    }

    fn save(&self, specs: Vec<WatchSpec>) -> Result<(), WatchError> {
        self.store.as_ref().map_or(Ok(()), |store| store.save(specs))
    }

    /// Checks what a target's probes meet.
    async fn ask(&self, outage: &Outage) -> Result<waymark_proto::CheckResult, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let request = question(outage)?;
        let inventory = self.source.inventory().await.map_err(|error| text(&error))?;
        let (progress, mut lines) = Progress::channel();
        let drain = async { while lines.recv().await.is_some() {} };
        let run = async {
            let result = check(&self.agents, &inventory, &request, &progress).await;
            drop(progress);
            result
        };
        let (result, ()) = tokio::join!(run, drain);
        result.map_err(|error| text(&error))
    }
}

/// Nanoseconds since the Unix epoch.
fn now_unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
