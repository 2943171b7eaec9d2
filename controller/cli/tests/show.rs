//! `waymark show` against a controller that has kept results.

use std::process::{Command, Output};
use std::sync::Arc;

use waymark_controller::history::{Asker, History, ResultList};
use waymark_controller::watching::Watches;
use waymark_controller::{Api, FileSource, Hub, Listener, Notices, Patience, Security, serve};
use waymark_proto::{CheckResult, Endpoint};

/// A controller, with what it needs.
struct Stage {
    _folder: tempfile::TempDir,
    address: String,
    history: History,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("inventory.json");
        std::fs::write(&inventory, r#"{"nodes":[{"name":"a","ip":"10.0.0.1"}]}"#).unwrap();
        let endpoint = Endpoint::Unix(folder.path().join("socket"));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let history = History::open(Some(&folder.path().join("history")), &Notices::default()).unwrap();
        let kept = history.clone();
        let address = endpoint.to_string();
        let listener = runtime.block_on(Listener::bind(&endpoint)).unwrap();
        runtime.spawn(async move {
            let hub = Hub::new(Patience::default());
            let source = Arc::new(FileSource::new(inventory));
            let (watches, _incoming) = Watches::new(hub.clone(), source.clone(), None).unwrap();
            let api = Api::new(hub.clone(), source, watches).with_history(kept);
            serve(listener, Security::Open, &hub, &api, std::future::pending()).await.unwrap();
        });
        Self { _folder: folder, address, history, runtime }
    }

    /// Keeps a result of this id.
    fn keep(&self, id: &str) -> CheckResult {
        self.keep_this(id, serde_json::from_str(include_str!("data/unreachable.json")).unwrap())
    }

    fn keep_this(&self, id: &str, mut result: CheckResult) -> CheckResult {
        result.check = id.parse().unwrap();
        self.history.keep(Asker::Check { namespace: "shop".into(), name: "cart-to-pay".into() }, &result);
        self.runtime.block_on(self.history.settle());
        result
    }

    fn show(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_waymark"))
            .arg("show")
            .args(arguments)
            .args(["--controller", &self.address])
            .env_remove("KUBECONFIG")
            .env("HOME", "/nonexistent")
            .output()
            .unwrap()
    }

    fn shown(&self, arguments: &[&str]) -> String {
        let output = self.show(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn results_are_listed_and_shown_in_every_format() {
    let stage = Stage::new();
    assert_eq!(stage.shown(&[]), "no results yet; `waymark check` makes one\n");
    stage.keep("00c0ffee");
    let result = stage.keep("beef0001");

    let list = stage.shown(&[]);
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.lines().nth(1).unwrap().starts_with("beef0001  2"), "the last comes first: {list}");
    assert_eq!(stage.shown(&["--limit", "1"]).lines().count(), 2);
    let list: ResultList = serde_json::from_str(&stage.shown(&["-o", "json"])).unwrap();
    assert_eq!((list.kind.as_str(), list.results.len()), ("ResultList", 2));
    assert!(stage.shown(&["-o", "yaml"]).contains("kind: ResultList\n"));

    let text = stage.shown(&["beef"]);
    assert!(text.starts_with("Check beef0001 of 2"), "{text}");
    assert!(text.lines().next().unwrap().ends_with("Z, asked for by Check shop/cart-to-pay"), "{text}");
    assert!(text.contains("\nUnreachable: pod/shop/cart → pod/shop/pay-1:80 (tcp)"), "{text}");
    assert!(stage.shown(&["beef", "--explain"]).len() > text.len());
    assert_eq!(serde_json::from_str::<CheckResult>(&stage.shown(&["beef", "-o", "json"])).unwrap(), result);
    for (format, begin) in [
        ("yaml", "apiVersion:"),
        ("dot", "digraph"),
        ("svg", "<?xml"),
        ("junit", "<?xml"),
        ("markdown", "❌ **Unreachable**"),
    ] {
        let shown = stage.shown(&["00c0ffee", "-o", format]);
        assert!(shown.starts_with(begin), "{format}: {shown}");
    }
}

#[test]
fn a_result_that_was_kept_in_english_is_shown_in_chinese() {
    let stage = Stage::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings");
    for (index, name) in ["stale-dnat-bridge-hostgw", "underlay-return-drop-routed"].iter().enumerate() {
        let recording = format!("{folder}/{name}.json.gz");
        let replay = ["replay", &recording, "-o", "json"];
        let output = Command::new(env!("CARGO_BIN_EXE_waymark")).args(replay).output().unwrap();
        let id = format!("{index:08x}").replace("0000000", "abcdef0");
        let result = stage.keep_this(&id, serde_json::from_slice(&output.stdout).unwrap());
        assert!(result.fault_point.unwrap().advice.is_ascii(), "kept in English");

        let shown = stage.shown(&[&id, "--lang", "zh"]);
        let (heading, answer) = shown.split_once('\n').unwrap();
        assert!(heading.starts_with(&format!("检查 {id}，时间 2")), "{heading}");
        assert!(heading.ends_with("Z，发起者：Check shop/cart-to-pay"), "{heading}");
        let golden = std::fs::read_to_string(format!("{folder}/{name}.zh.txt")).unwrap();
        assert_eq!(answer, golden);
    }
    let list = stage.shown(&["--lang", "zh"]);
    assert!(list.starts_with("编号") && list.contains("不可达（Unreachable）"), "{list}");
    let mut lines = list.lines();
    let columns = |line: &str| {
        let (before, _) = line.split_once("pod/").or_else(|| line.split_once('源')).unwrap();
        unicode_width::UnicodeWidthStr::width(before)
    };
    let first = columns(lines.next().unwrap());
    assert!(lines.all(|line| columns(line) == first), "{list}");
}

#[test]
fn what_is_not_there_is_told_in_one_sentence() {
    let stage = Stage::new();
    for id in ["00c0ffee", "00c00000"] {
        stage.keep(id);
    }
    for (id, words) in [
        ("dead", "there is no result dead: see `waymark show` for those that are kept"),
        ("00c0", "00c0 stands for several results, 00c00000, 00c0ffee: give more digits"),
        ("pod/shop/cart", "\"pod/shop/cart\" is not the id of a result"),
    ] {
        let output = stage.show(&[id]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{message}");
        assert!(message.starts_with("waymark: error: ") && message.contains(words), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}
