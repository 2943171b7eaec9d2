//! The database of results.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use waymark_proto::CheckResult;

use super::documents::{Asker, KeptResult, ResultSummary};
use super::{HistoryError, now_unix_ns};

/// What is to be kept.
pub(super) struct Entry {
    summary: ResultSummary,
    /// The result as JSON.
    pub(super) document: String,
}

impl Entry {
    /// The result of a check that ended at this time.
    pub(super) fn new(at_unix_ns: u64, asker: Asker, result: &CheckResult) -> Self {
        let summary = ResultSummary {
            check: result.check,
            at_unix_ns,
            asker,
            source: result.source.clone(),
            destination: result.destination.clone(),
            protocol: result.flow.protocol,
            verdict: result.verdict,
            fault_point: result.fault_point.clone(),
        };
        Self { summary, document: json(result) }
    }
}

/// How much is kept. Whatever exceeds one of these goes, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Results.
    pub(super) count: u64,
    /// Bytes of their documents, each 10 to 30 kB.
    pub(super) bytes: u64,
    /// Age.
    pub(super) age: Duration,
}

/// A month is how long people come back to an incident. With `SQLite`'s own overhead and its log of at most
/// [`LOG_BYTES`] the file stays below 48 MiB: the chart gives a controller without a claim 64 MiB in all, and a pod
/// that takes more is evicted.
const ON_DISK: Bounds = Bounds { count: 2000, bytes: 32 << 20, age: Duration::from_secs(30 * 24 * 60 * 60) };
/// In memory they vanish with the controller, and its memory is for other things: some hours of somebody's work.
const IN_MEMORY: Bounds = Bounds { count: 200, bytes: 8 << 20, age: ON_DISK.age };
/// To how much the write-ahead log is cut after a checkpoint. `SQLite` makes one every 4 MiB.
const LOG_BYTES: u32 = 4 << 20;
/// Version of the tables, in the file's `user_version`. An empty file has 0.
const VERSION: u32 = 1;
/// How many results are named that an abbreviation may stand for.
const NAMED: usize = 4;

const TABLES: &str = "
    CREATE TABLE results (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        at_unix_ns INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        summary TEXT NOT NULL,
        asker TEXT NOT NULL,
        result TEXT NOT NULL
    );
    CREATE INDEX results_by_time ON results (at_unix_ns);";

/// The database.
pub(super) struct Store {
    connection: Connection,
    file: Option<PathBuf>,
    bounds: Bounds,
    /// The bytes of all documents that it holds.
    bytes: u64,
}

impl Store {
    /// In memory.
    pub(super) fn in_memory() -> Result<Self, HistoryError> {
        let failed = |source| HistoryError::Open { path: ":memory:".into(), source };
        Self::prepared(Connection::open_in_memory().map_err(failed)?, None, IN_MEMORY).map_err(failed)
    }

    /// In a file, which is made with its folder.
    pub(super) fn open(file: &Path) -> Result<Self, HistoryError> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| HistoryError::Folder { path: file.to_owned(), source })?;
        }
        let failed = |source| HistoryError::Open { path: file.to_owned(), source };
        let connection = Connection::open(file).map_err(failed)?;
        let version: u32 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        if version > VERSION {
            return Err(HistoryError::Later { path: file.to_owned() });
        }
        Self::prepared(connection, Some(file.to_owned()), ON_DISK).map_err(failed)
    }

    fn prepared(connection: Connection, file: Option<PathBuf>, bounds: Bounds) -> rusqlite::Result<Self> {
        // Readers and the writer do not wait for one another, and a commit is one write at the end of the log. What
        // a power failure takes of it are the last results, never the file.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
            ))?;
        }
        let bytes = connection
            .query_row("SELECT coalesce(sum(bytes), 0) FROM results", [], |row| row.get::<_, i64>(0))?;
        let mut store = Self { connection, file, bounds, bytes: bytes.unsigned_abs() };
        store.forget(now_unix_ns())?;
        Ok(store)
    }

    /// The same store, which keeps as much as this.
    #[cfg(test)]
    pub(super) fn bounded(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// How many bytes its documents have.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What to call it.
    pub(super) fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "memory".to_owned(), |file| file.display().to_string())
    }

    /// Keeps a result, and forgets what is too much. Ids are random: a result takes the place of one that happens
    /// to have the same.
    pub(super) fn keep(&mut self, entry: &Entry) -> rusqlite::Result<()> {
        let Entry { summary, document } = entry;
        let at_unix_ns = summary.at_unix_ns;
        let [outline, asker] = [json(summary), json(&summary.asker)];
        let bytes = (outline.len() + asker.len() + document.len()) as u64;
        let id = summary.check.to_string();
        self.remove("id = ?1", &id)?;
        self.connection
            .prepare_cached(
                "INSERT INTO results (id, at_unix_ns, bytes, summary, asker, result) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![id, signed(at_unix_ns), signed(bytes), outline, asker, document])?;
        self.bytes += bytes;
        self.forget(at_unix_ns)
    }

    /// The outlines of the latest results, the last first. What another version kept and this does not understand
    /// must not hide the rest.
    pub(super) fn list(&self, most: u32) -> rusqlite::Result<Vec<ResultSummary>> {
        let mut query =
            self.connection.prepare("SELECT summary FROM results ORDER BY number DESC LIMIT ?1")?;
        let texts = query.query_map([most], |row| row.get::<_, String>(0))?;
        let understood =
            texts.filter_map(|text| text.map(|text| serde_json::from_str(&text).ok()).transpose());
        understood.collect()
    }

    /// The result whose id begins like this.
    pub(super) fn show(&self, id: &str) -> Result<KeptResult, HistoryError> {
        if !(1..=8).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(HistoryError::NotAnId(waymark_proto::short(id).into_owned()));
        }
        let matches = self.ids(id).map_err(HistoryError::Read)?;
        match matches.as_slice() {
            [] => Err(HistoryError::Unknown(id.to_owned())),
            [one] => self.one(one),
            _ => Err(HistoryError::Ambiguous { id: id.to_owned(), matches }),
        }
    }

    /// Some ids that begin like this.
    fn ids(&self, prefix: &str) -> rusqlite::Result<Vec<String>> {
        // `g` comes behind every digit.
        let mut query = self
            .connection
            .prepare("SELECT id FROM results WHERE id >= ?1 AND id < ?1 || 'g' ORDER BY id LIMIT ?2")?;
        query.query_map(params![prefix, NAMED as u32], |row| row.get(0))?.collect()
    }

    fn one(&self, id: &str) -> Result<KeptResult, HistoryError> {
        let row = self
            .connection
            .query_row("SELECT at_unix_ns, asker, result FROM results WHERE id = ?1", [id], |row| {
                let [asker, result] = [row.get::<_, String>(1)?, row.get(2)?];
                Ok((row.get::<_, i64>(0)?, asker, result))
            })
            .optional()
            .map_err(HistoryError::Read)?;
        let (at, asker, result) = row.ok_or_else(|| HistoryError::Unknown(id.to_owned()))?;
        let understood = || {
            Some(KeptResult {
                at_unix_ns: at.unsigned_abs(),
                asker: serde_json::from_str(&asker).ok()?,
                result: serde_json::from_str(&result).ok()?,
            })
        };
        understood().ok_or_else(|| HistoryError::NotUnderstood(id.to_owned()))
    }

    /// Forgets what exceeds the bounds at this time.
    fn forget(&mut self, now_unix_ns: u64) -> rusqlite::Result<()> {
        let age = u64::try_from(self.bounds.age.as_nanos()).unwrap_or(u64::MAX);
        self.remove("at_unix_ns < ?1", signed(now_unix_ns.saturating_sub(age)))?;
        self.remove(
            "number <= (SELECT number FROM results ORDER BY number DESC LIMIT 1 OFFSET ?1)",
            signed(self.bounds.count),
        )?;
        while self.bytes > self.bounds.bytes
            && self.remove("number = (SELECT min(number) FROM results) AND ?1", true)? > 0
        {}
        Ok(())
    }

    /// Removes the results of which this is true. Gives back how many.
    fn remove(&mut self, condition: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<usize> {
        let mut removal = self
            .connection
            .prepare_cached(&format!("DELETE FROM results WHERE {condition} RETURNING bytes"))?;
        let removed: Vec<i64> = removal.query_map([value], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let bytes: u64 = removed.iter().map(|bytes| bytes.unsigned_abs()).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        Ok(removed.len())
    }
}

fn json(document: &impl serde::Serialize) -> String {
    serde_json::to_string(document).expect("documents are plain data with text keys")
}

/// `SQLite` has signed numbers only; of these none comes near the limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
