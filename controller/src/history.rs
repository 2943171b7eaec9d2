//! Results of the past: what checks found, whoever asked for them, to be shown again.
//!
//! They are kept in a file of `SQLite`, or in memory where the controller has no place for files. One thread owns the
//! database and does one thing after the other: whoever asks sees all that was kept before. A check only leaves
//! its result in a queue: it neither waits for the disk nor fails with it. What could not be kept is a notice.
//!
//! * `store`: the database, and how much it holds
//! * `documents`: what clients print

mod documents;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};
use waymark_proto::{API_VERSION, CheckResult};

use crate::notices::{Notice, Notices};
pub use documents::{Asker, KeptResult, ResultList, ResultSummary};
use store::{Entry, Store};

/// Name of the file within a folder of state.
pub const FILE: &str = "history.sqlite";
/// Most results that a list has.
pub const MOST_LISTED: u32 = 1000;
/// Results that may wait to be written. More than a thousand are written per second; whoever asks for more would
/// rather have their checks than their history.
const QUEUED: usize = 256;
/// The subject of notices.
const SUBJECT: &str = "keeping results";

/// The history. Cheap to clone; clones are the same.
#[derive(Clone, Debug)]
pub struct History {
    orders: mpsc::Sender<Order>,
    notice: Arc<Notice>,
}

/// Why the history does not answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file cannot be used.
    #[error("cannot use the history {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The database's error.
        source: rusqlite::Error,
    },
    /// The folder of the file cannot be made.
    #[error("cannot make the folder of {}: {source}", path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// The file is of a later version of this program.
    #[error("the history {} was written by a later version: use that, or name another file with --history", path.display())]
    Later {
        /// The file.
        path: PathBuf,
    },
    /// A text that cannot be the beginning of an id.
    #[error("{0:?} is not the id of a result: it has one to eight hexadecimal digits")]
    NotAnId(String),
    /// No result has it.
    #[error("there is no result {0}: see `waymark show` for those that are kept")]
    Unknown(String),
    /// Several results begin with it.
    #[error("{id} stands for several results, {}: give more digits", matches.join(", "))]
    Ambiguous {
        /// The beginning.
        id: String,
        /// Some that begin so.
        matches: Vec<String>,
    },
    /// The database does not answer.
    #[error("the history cannot be read: {0}")]
    Read(rusqlite::Error),
    /// What was kept is not understood.
    #[error("result {0} was kept by another version and is not understood")]
    NotUnderstood(String),
    /// The system gives no thread.
    #[error("no thread for the history: {0}")]
    Thread(std::io::Error),
    /// The thread is gone.
    #[error("the history is closed")]
    Closed,
}

/// What the thread is to do.
enum Order {
    Keep(Box<Entry>),
    List(u32, oneshot::Sender<Result<Vec<ResultSummary>, HistoryError>>),
    Show(String, oneshot::Sender<Result<KeptResult, HistoryError>>),
    Settle(oneshot::Sender<()>),
}

impl History {
    /// A history in a file, which is made if it is not there, or in memory. Trouble is told by `notices`.
    ///
    /// # Errors
    /// A file that cannot be used, or no thread.
    pub fn open(file: Option<&Path>, notices: &Notices) -> Result<Self, HistoryError> {
        let store = file.map_or_else(Store::in_memory, Store::open)?;
        let (orders, taken) = mpsc::channel(QUEUED);
        let notice = Arc::new(notices.about(SUBJECT));
        let teller = Arc::clone(&notice);
        std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || work(store, taken, &teller))
            .map_err(HistoryError::Thread)?;
        Ok(Self { orders, notice })
    }

    /// Keeps a result. Returns at once, with the document that stands for it; what cannot be kept is a notice.
    pub fn keep(&self, asker: Asker, result: &CheckResult) -> String {
        let entry = Entry::new(now_unix_ns(), asker, result);
        let document = entry.document.clone();
        if self.orders.try_send(Order::Keep(Box::new(entry))).is_err() {
            self.notice.say(format!(
                "results are not kept: {QUEUED} others wait to be written, the disk is too slow for so many checks"
            ));
        }
        document
    }

    /// The latest results, the last first.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(&self, most: u32) -> Result<ResultList, HistoryError> {
        let results = self.ask(|answer| Order::List(most.min(MOST_LISTED), answer)).await??;
        Ok(ResultList { api_version: API_VERSION.to_owned(), kind: "ResultList".to_owned(), results })
    }

    /// The result of an id, or of the beginning of one that no other begins with.
    ///
    /// # Errors
    /// There is none, there are several, or the database's.
    pub async fn show(&self, id: &str) -> Result<KeptResult, HistoryError> {
        let id = id.to_ascii_lowercase();
        self.ask(|answer| Order::Show(id, answer)).await?
    }

    /// Waits until all is written that was to be kept.
    pub async fn settle(&self) {
        // Without the thread there is nothing to wait for.
        drop(self.ask(Order::Settle).await);
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, HistoryError> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| HistoryError::Closed)?;
        answered.await.map_err(|_| HistoryError::Closed)
    }
}

/// The thread: it ends when nobody has the history any more and all is done.
fn work(mut store: Store, mut orders: mpsc::Receiver<Order>, notice: &Notice) {
    while let Some(order) = orders.blocking_recv() {
        // Whoever asked may be gone.
        match order {
            Order::Keep(entry) => match store.keep(&entry) {
                Ok(()) => notice.withdraw(),
                Err(error) => notice.say(format!("results are not kept: {}: {error}", store.name())),
            },
            Order::List(most, answer) => drop(answer.send(store.list(most).map_err(HistoryError::Read))),
            Order::Show(id, answer) => drop(answer.send(store.show(&id))),
            Order::Settle(answer) => drop(answer.send(())),
        }
    }
}

/// Nanoseconds since the Unix epoch.
fn now_unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
