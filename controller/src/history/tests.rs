use std::time::Duration;

use super::store::Bounds;
use super::*;
use crate::fixture;

/// The result of a check of this number.
pub(crate) fn result(id: u32) -> CheckResult {
    let text = format!(
        r#"{{"apiVersion":"waymark.io/v1alpha1","kind":"CheckResult","check":"{id:08x}","source":"pod/shop/cart",
        "destination":"svc/shop/pay:80","flow":{},"verdict":"Unreachable","sent":1,"delivered":0,
        "forward":{{"observed":"dropped","branches":1,"steps":[]}},"notObservable":[],"lostEvents":0}}"#,
        serde_json::to_string(&fixture::tcp()).unwrap()
    );
    let result: CheckResult = serde_json::from_str(&text).unwrap();
    CheckResult { fault_point: Some(fixture::fault()), ..result }
}

fn entry(id: u32, at_unix_ns: u64) -> Entry {
    Entry::new(at_unix_ns, Asker::Client, &result(id))
}

fn ids(store: &Store) -> Vec<u32> {
    store.list(MOST_LISTED).unwrap().iter().map(|summary| summary.check.get()).collect()
}

const WIDE: Bounds = Bounds { count: 100, bytes: 1 << 20, age: Duration::from_secs(1000) };

#[tokio::test]
async fn what_is_kept_is_shown() {
    let history = History::open(None, &Notices::default()).unwrap();
    assert_eq!(history.list(10).await.unwrap().results, []);
    history.keep(Asker::Client, &result(0x00c0_ffee));
    history.keep(Asker::Outage { number: 3, watch: "mesh".into() }, &result(0x00c1_0000));
    let listed = history.list(10).await.unwrap();
    let [last, first] = listed.results.as_slice() else { panic!("{listed:?}") };
    assert_eq!((last.check.get(), first.check.get()), (0x00c1_0000, 0x00c0_ffee));
    assert_eq!(last.asker.to_string(), "outage #3 of watch mesh");
    assert_eq!(first.fault_point, Some(fixture::fault()));
    assert!(last.at_unix_ns >= first.at_unix_ns && first.at_unix_ns > 0);
    assert_eq!(history.list(1).await.unwrap().results, std::slice::from_ref(last));
    for id in ["00c0ffee", "00c0", "00C0F"] {
        assert_eq!(history.show(id).await.unwrap().result, result(0x00c0_ffee), "{id}");
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_clear_is_said_in_a_sentence() {
    let history = History::open(None, &Notices::default()).unwrap();
    for id in [0x00c0_ffee, 0x00c1_0000, 0x0fff_ffff] {
        history.keep(Asker::Client, &result(id));
    }
    let error = async |id: &str| history.show(id).await.unwrap_err().to_string();
    assert_eq!(error("dead").await, "there is no result dead: see `waymark show` for those that are kept");
    assert_eq!(error("00c").await, "00c stands for several results, 00c0ffee, 00c10000: give more digits");
    for id in ["", "xyz", "123456789", "1' OR '1'='1", "%"] {
        assert!(error(id).await.contains("is not the id of a result"), "{id}");
    }
}

#[test]
fn too_many_too_large_and_too_old_go_the_oldest_first() {
    let mut store = Store::in_memory().unwrap().bounded(Bounds { count: 3, ..WIDE });
    for id in 1..=5 {
        store.keep(&entry(id, 1)).unwrap();
    }
    assert_eq!(ids(&store), [5, 4, 3]);

    let mut store = Store::in_memory().unwrap().bounded(Bounds { age: Duration::from_nanos(10), ..WIDE });
    for (id, at) in [(1, 100), (2, 108), (3, 111)] {
        store.keep(&entry(id, at)).unwrap();
    }
    assert_eq!(ids(&store), [3, 2]);

    let mut store = Store::in_memory().unwrap().bounded(WIDE);
    store.keep(&entry(1, 1)).unwrap();
    let size = store.bytes();
    let mut store = store.bounded(Bounds { bytes: 2 * size + size / 2, ..WIDE });
    for id in 2..=4 {
        store.keep(&entry(id, 1)).unwrap();
    }
    assert_eq!((ids(&store), store.bytes()), (vec![4, 3], 2 * size));
    // The same id again, as chance may have it.
    store.keep(&entry(3, 1)).unwrap();
    assert_eq!((ids(&store), store.bytes()), (vec![3, 4], 2 * size));
}

#[tokio::test]
async fn a_file_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state").join(FILE);
    let history = History::open(Some(&file), &Notices::default()).unwrap();
    history.keep(Asker::Client, &result(7));
    history.settle().await;
    let again = History::open(Some(&file), &Notices::default()).unwrap();
    assert_eq!(again.show("7").await.unwrap_err().to_string(), HistoryError::Unknown("7".into()).to_string());
    assert_eq!(again.show("00000007").await.unwrap().result, result(7));
    // What another version kept.
    let other = rusqlite::Connection::open(&file).unwrap();
    let insert = "INSERT INTO results (id, at_unix_ns, bytes, summary, asker, result) VALUES ('0000000a', 1, 6, '{}', '{}', '{}')";
    other.execute(insert, []).unwrap();
    let error = again.show("0000000a").await.unwrap_err().to_string();
    assert_eq!(error, "result 0000000a was kept by another version and is not understood");
    // Both at once, as while one controller takes over from another.
    again.keep(Asker::Client, &result(8));
    again.settle().await;
    assert_eq!(history.list(9).await.unwrap().results.len(), 2);
}

#[test]
fn files_that_cannot_be_used_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    let error = |file: &Path| History::open(Some(file), &Notices::default()).unwrap_err().to_string();
    std::fs::write(&file, "a letter to somebody, longer than the head of a database".repeat(9)).unwrap();
    let message = error(&file);
    assert!(message.starts_with(&format!("cannot use the history {}: ", file.display())), "{message}");
    assert!(error(&file.join("below")).starts_with("cannot make the folder of "));
    let later = folder.path().join("later");
    rusqlite::Connection::open(&later).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(error(&later).contains("was written by a later version"));
}

#[tokio::test]
async fn what_cannot_be_written_is_a_notice_until_it_can_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    let notices = Notices::default();
    let history = History::open(Some(&file), &notices).unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("ALTER TABLE results RENAME TO away").unwrap();
    history.keep(Asker::Client, &result(1));
    history.settle().await;
    let said = notices.all();
    assert!(said.len() == 1 && said[0].starts_with("results are not kept: "), "{said:?}");
    other.execute_batch("ALTER TABLE away RENAME TO results").unwrap();
    history.keep(Asker::Client, &result(2));
    history.settle().await;
    assert_eq!(notices.all(), [""; 0]);
    assert_eq!(history.list(9).await.unwrap().results.len(), 1);
}

#[tokio::test]
async fn nobody_waits_for_a_database_that_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    let notices = Notices::default();
    let history = History::open(Some(&file), &notices).unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // None of these returns later than at once, or the test would take as long as the database's patience with
    // each of them.
    for id in 1..=QUEUED as u32 + 10 {
        history.keep(Asker::Client, &result(id));
    }
    assert_eq!(notices.all().len(), 1, "more than may wait");
    other.execute_batch("COMMIT").unwrap();
    history.settle().await;
    let kept = history.list(MOST_LISTED).await.unwrap().results.len();
    assert!((QUEUED..QUEUED + 10).contains(&kept), "{kept}");
}
