//! Checks as objects of the API: each generation of each is run once, and its status says what came out.
//!
//! One task watches the objects and owns what is known about them, so that no two runs of one Check can
//! overlap; each run is a task of its own. What is to be done is decided by a pure function, `step::next`;
//! what is said by another, `report::status`.
//!
//! Nothing is lost when the controller dies: what has no status that says `Complete` for its generation is
//! run when there is a controller again. A changed spec cancels the run and begins another; so does
//! deletion, without another. Two controllers at once would each run every Check: there has to be one.
//!
//! * `question`: from a spec to the engine's question, and who may send from where
//! * `step`: what is to be done about a Check now
//! * `report`: what is written into its status
//! * `work`: one run
//! * `store`: writing to the API server
//! * `ledger`: what is known about all Checks
//! * `cancel`: the end of interest in something under way
//! * `words`: errors in one sentence

mod cancel;
mod ledger;
mod question;
mod report;
mod step;
mod store;
mod words;
mod work;

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, future, stream};
use kube::Resource;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use self::ledger::Ledger;
pub use self::question::Tenancy;
use self::step::Heard;
use self::store::Store;
use self::work::Bench;
use crate::agents::Agents;
use crate::history::History;
use crate::kubernetes::client::Connection;
use crate::kubernetes::crd::Check;
use crate::notices::{Notice, Notices};
use crate::source::Source;

/// The subject of notices about the watch.
const SUBJECT: &str = "watching Checks";
/// First and longest wait before the API server is asked again. So long it may take to notice that the
/// definition of Checks was installed.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// How much is run, and how long is waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Checks that run at the same time; the others wait for their turn. One that waits for something is not
    /// running meanwhile.
    pub at_once: usize,
    /// How long a Check waits for an agent that is not attached or a pod that has no address, before it
    /// fails for that.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { at_once: 8, patience: Duration::from_secs(20) }
    }
}

/// Which Checks are run, and how.
#[derive(Clone, Debug, Default)]
pub struct ChecksOptions {
    /// The Kubernetes namespace whose Checks are run; default: all.
    pub namespace: Option<String>,
    /// From where they may send.
    pub tenancy: Tenancy,
    /// How much is run.
    pub limits: Limits,
    /// Where results are kept beside the objects, which have room for outlines only.
    pub history: Option<History>,
}

/// Runs the Checks of a cluster, until it is dropped; [`Checks::stop`] waits for the end as well.
#[derive(Debug)]
pub struct Checks {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Checks {
    /// Begins to run Checks, now and when their definition is installed. What is in the way is told by
    /// `notices`.
    pub fn start(
        connection: &Connection,
        agents: Arc<dyn Agents>,
        source: Arc<dyn Source>,
        options: ChecksOptions,
        notices: &Notices,
    ) -> Self {
        let ChecksOptions { namespace, tenancy, limits, history } = options;
        let bench = Bench {
            agents,
            source,
            store: Store::new(connection.clone(), notices.clone()),
            slots: Semaphore::new(limits.at_once.max(1)),
            limits,
            history,
        };
        let ledger = Ledger::new(Arc::new(bench), tenancy);
        let (stop, stopped) = oneshot::channel();
        let client = connection.client.clone();
        let api = match &namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let board = Board { notice: notices.about(SUBJECT), address: connection.address.clone() };
        let task = tokio::spawn(serve(api, ledger, board, stopped));
        Self { stop, task }
    }

    /// Cancels what is running, and waits until no tracer is armed for it. It will be run again by the next
    /// controller.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!("the task that runs Checks failed: {error}");
        }
    }
}

/// Whether a Check could be read is known of each on its own: one that cannot be read must not hide others.
type Object = DeserializeGuard<Check>;

/// What is heard of Checks, after a wait. After trouble a new one is begun: it lists anew, which shows that
/// all is well also where nothing changes.
fn events(
    api: &Api<Object>,
    wait: Duration,
) -> impl Stream<Item = watcher::Result<Event<Object>>> + Send + use<> {
    let first = stream::once(tokio::time::sleep(wait)).filter_map(|()| future::ready(None));
    first.chain(watcher(api.clone(), watcher::Config::default()).backoff(Pace::default()))
}

/// Where the watch tells what is in its way.
struct Board {
    notice: Notice,
    /// The API server, for messages.
    address: String,
}

impl Board {
    fn say(&self, error: &watcher::Error) {
        self.notice.say(words::of_watch(&self.address, error));
    }
}

/// The loop: hears, decides, orders.
async fn serve(api: Api<Object>, mut ledger: Ledger, board: Board, mut stopped: oneshot::Receiver<()>) {
    let mut pace = Pace::default();
    let heard = events(&api, Duration::ZERO);
    tokio::pin!(heard);
    loop {
        tokio::select! {
            event = heard.next() => match event {
                Some(Ok(event)) => {
                    if matches!(event, Event::InitDone) {
                        pace.reset();
                    }
                    hear(&mut ledger, event, &board);
                }
                Some(Err(error)) if words::is_passing(&error) => tracing::debug!("watching Checks: {error}"),
                Some(Err(error)) => {
                    board.say(&error);
                    heard.set(events(&api, pace.wait()));
                }
                None => unreachable!("a watcher never ends"),
            },
            () = ledger.turn() => {}
            _ = &mut stopped => break,
        }
    }
    ledger.close().await;
}

fn hear(ledger: &mut Ledger, event: Event<Object>, board: &Board) {
    match event {
        Event::Init => ledger.relist(),
        Event::InitApply(object) | Event::Apply(object) => ledger.learn(heard(object)),
        Event::Delete(object) => ledger.forget(object.meta().uid.as_deref().unwrap_or_default()),
        Event::InitDone => {
            ledger.relisted();
            board.notice.withdraw();
        }
    }
}

fn heard(object: Object) -> Heard {
    match object.0 {
        Ok(check) => Heard { meta: check.metadata.clone(), check: Ok(Box::new(check)) },
        Err(invalid) => Heard { meta: invalid.metadata, check: Err(invalid.error) },
    }
}

/// Waits that double.
struct Pace(Duration);

impl Default for Pace {
    fn default() -> Self {
        Self(WAITS.0)
    }
}

impl Pace {
    fn wait(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(WAITS.1);
        wait
    }
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.wait())
    }
}

impl Backoff for Pace {
    fn reset(&mut self) {
        *self = Self::default();
    }
}
