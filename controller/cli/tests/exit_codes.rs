//! The program as its callers see it: exit codes and the one sentence on standard error.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use waymark_controller::Snapshot;
use waymark_proto::{FACTS_API_VERSION, Facts, Inventory, NetnsFacts};

const INVENTORY: &str =
    r#"{"nodes":[{"name":"a","netns":"a","ip":"10.0.0.1"},{"name":"b","netns":"b","ip":"10.0.0.2"}]}"#;

/// Of an API server that nobody is.
const KUBECONFIG: &str = r#"{"apiVersion":"v1","kind":"Config","current-context":"dev",
    "clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:1"}}],
    "users":[{"name":"u","user":{"token":"t"}}],
    "contexts":[{"name":"dev","context":{"cluster":"c","user":"u"}}]}"#;
const CHANGE: &str = "{apiVersion: v1, kind: Service, metadata: {name: pay}, spec: {ports: [{port: 80}]}}\n";

struct Stage {
    folder: tempfile::TempDir,
    inventory: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("inventory.json");
        std::fs::write(&inventory, INVENTORY).unwrap();
        Self { folder, inventory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn waymark<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_waymark"))
        .args(arguments)
        .env_remove("WAYMARK_CONTROLLER")
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

/// Exit code and standard error.
fn outcome(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn predict(inventory: &Path, facts: &Path, source: &str, destination: &str) -> Output {
    let [inventory, facts] = [inventory, facts].map(|path| path.to_str().unwrap());
    waymark(["predict", source, destination, "--inventory", inventory, "--facts", facts])
}

fn is_one_sentence(message: &str) -> bool {
    message.starts_with("waymark: error: ") && message.trim_end().lines().count() == 1
}

#[test]
fn wrong_usage_is_64() {
    for arguments in [
        &["check"][..],
        &["check", "pod/a/b"],
        &["frobnicate"],
        &["check", "pod/a/b", "1.2.3.4", "--count", "0"],
        &["check", "pod/a/b", "1.2.3.4", "--count", "10001"],
        &["check", "pod/a/b", "1.2.3.4", "--loss", "0"],
        &["check", "pod/a/b", "1.2.3.4", "--loss", "1", "--count", "9"],
        &["check", "pod/a/b", "1.2.3.4", "--dscp", "64"],
        &["check", "pod/a/b", "1.2.3.4", "--size", "70000"],
        &["check", "pod/a/b", "1.2.3.4", "--timeout", "soon"],
        &["check", "pod/a/b", "1.2.3.4", "--proto", "gre"],
        &["check", "pod/a/b", "1.2.3.4", "--local"],
        &["check", "pod/a/b", "1.2.3.4", "--controller", "nowhere"],
        &["check", "pod/a/b", "1.2.3.4", "-o", "pdf"],
        &["predict", "pod/a/b", "1.2.3.4", "-o", "junit"],
        &["trace"],
        &["trace", "--live", "tcp", "-c", "1001"],
        &["trace", "--live", "tcp", "--for", "5m"],
        &["show", "--limit", "0"],
        &["show", "00c0ffee", "--limit", "3"],
        &["show", "-o", "svg"],
    ] {
        assert_eq!(outcome(&waymark(arguments)).0, 64, "{arguments:?}");
    }
}

#[test]
fn mistakes_on_the_command_line_are_told_in_one_sentence() {
    let long = "a".repeat(100_000);
    let target = format!("pod/shop/{long}:80");
    let check = ["check", "pod/a/b", "1.2.3.4"];
    for (arguments, words) in [
        (&["--timeout", "99999999999s"][..], "'99999999999s' for '--timeout <TIME>': must be 1ms to 60s"),
        (&["--timeout", "0"], "'0' for '--timeout <TIME>': must be 1ms to 60s"),
        (&["-i", "0"], "must be 1µs to 10s"),
        (&["-i", "-1s"], "must be 1µs to 10s"),
        (&["-c", "-1"], "'-1' for '--count <COUNT>': must be 1 to 10000"),
        (&["-s", "-5"], "must be 1 to 65535"),
        (&["--ttl", "-1"], "must be 1 to 255"),
        (&["--ttl", "x"], "must be a number from 1 to 255"),
        (&["--inventory", "x"], "--inventory is of no use without --local"),
        (&["--local"], "--inventory <FILE>"),
        (&["--proto", &long], "unknown protocol"),
        (&["--controller", &long], "is not an address"),
        (&["--inventory", &long], "a path has at most"),
        (&["-c", &long], "must be a number from"),
        (&[&long], "unexpected argument"),
    ] {
        let (code, message) = outcome(&waymark(check.iter().chain(arguments)));
        assert_eq!(code, 64, "{message}");
        assert!(is_one_sentence(&message) && message.contains(words), "{message}");
        assert!(message.chars().count() < 300, "{message}");
    }
    for arguments in [&["check", "pod/a/b", &target][..], &["check", &target, "1.2.3.4"], &["facts", &long]] {
        let (code, message) = outcome(&waymark(arguments));
        assert_eq!(code, 64, "{message}");
        assert!(is_one_sentence(&message) && message.contains("at most 253"), "{message}");
        assert!(message.chars().count() < 300, "{message}");
    }
    let (code, message) = outcome(&waymark(["check"]));
    assert_eq!(code, 64);
    assert!(is_one_sentence(&message) && message.contains("<SRC> <DST>; try --help"), "{message}");
}

#[test]
fn a_controller_that_hangs_up_is_69() {
    let stage = Stage::new();
    let path = stage.path("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let calls = 4;
    let hangs_up = std::thread::spawn(move || {
        for _ in 0..calls {
            // Taken in and dropped, as by a controller that is being killed.
            drop(listener.accept().unwrap());
        }
    });
    let address = format!("unix:{}", path.display());
    let questions = [
        &["check", "node/a", "10.0.0.2"][..],
        &["predict", "node/a", "10.0.0.2"],
        &["facts", "a"],
        &["status"],
    ];
    assert_eq!(questions.len(), calls);
    for arguments in questions {
        let (code, message) = outcome(&waymark(arguments.iter().copied().chain(["--controller", &address])));
        assert_eq!(code, 69, "{message}");
        assert!(is_one_sentence(&message) && message.contains("no controller answers at"), "{message}");
    }
    hangs_up.join().unwrap();
}

#[test]
fn a_malformed_target_is_64_before_anybody_is_asked() {
    let (code, message) = outcome(&waymark(["check", "pod/cart", "1.2.3.4"]));
    assert_eq!(code, 64);
    assert!(is_one_sentence(&message) && message.contains("\"pod/cart\" is not a target"), "{message}");
}

#[test]
fn a_trace_that_makes_no_sense_is_64() {
    let stage = Stage::new();
    let inventory = stage.inventory.to_str().unwrap();
    for (filter, on, words) in [
        ("tcp prt 80", "node/a", "\"prt\" of the filter is not taken here"),
        ("", "node/a", "a filter is needed, as tcpdump takes it"),
        ("ether host 02:00:00:00:00:01", "node/a", "from their IP header on"),
        ("tcp", "svc/a/b:80", "svc/a/b:80 is not where to look"),
        ("tcp", "pod/cart", "\"pod/cart\" is not a target"),
    ] {
        let local = ["trace", "--live", filter, "--on", on, "--local", "--inventory", inventory];
        let (code, message) = outcome(&waymark(local));
        assert_eq!(code, 64, "{message}");
        assert!(is_one_sentence(&message) && message.contains(words), "{message}");
    }
}

#[test]
fn no_controller_is_69_and_says_what_to_do() {
    let stage = Stage::new();
    let address = format!("unix:{}", stage.path("nobody").display());
    // No API server is asked before the controller was found.
    let (kubeconfig, change) = (stage.path("kubeconfig"), stage.path("change.yaml"));
    std::fs::write(&kubeconfig, KUBECONFIG).unwrap();
    std::fs::write(&change, CHANGE).unwrap();
    let (kubeconfig, change) = (kubeconfig.to_str().unwrap(), change.to_str().unwrap());
    for arguments in [
        &["check", "node/a", "10.0.0.2"][..],
        &["predict", "node/a", "10.0.0.2"],
        &["facts", "a"],
        &["status"],
        &["trace", "--live", "tcp port 80"],
        &["show"],
        &["show", "00c0ffee"],
        &["watch", "start", "mesh", "--from", "nodes", "--to", "nodes"],
        &["watch", "stop", "mesh"],
        &["watch", "stop", "--all"],
        &["watch", "list"],
        &["watch", "top", "--once"],
        &["validate", "-f", change, "--kubeconfig", kubeconfig],
    ] {
        let (code, message) = outcome(&waymark(arguments.iter().copied().chain(["--controller", &address])));
        assert_eq!(code, 69, "{message}");
        assert!(is_one_sentence(&message), "{message}");
        for hint in [address.as_str(), "waymark-controller run", "--local"] {
            assert!(message.contains(hint), "{message}");
        }
    }
}

#[test]
fn a_way_that_makes_no_sense_is_told_in_one_sentence() {
    let stage = Stage::new();
    let (nothing, empty) = (stage.path("nothing"), stage.path("empty"));
    std::fs::create_dir(&empty).unwrap();
    let (nothing, empty) = (nothing.to_str().unwrap(), empty.to_str().unwrap());
    for (arguments, exit, words) in [
        (&["--controller", "h:1"][..], 64, "https://h:1 wants a certificate"),
        (&["--controller", "http://h:1"], 64, "or say --insecure"),
        (&["--tls", empty], 64, "--tls is of no use for unix:"),
        (&["--controller", "h:1", "--tls", nothing], 66, "there is no "),
        (&["--controller", "h:1", "--tls", empty], 66, "ca.crt: --tls wants a folder with"),
    ] {
        let (code, message) = outcome(&waymark(["status"].iter().chain(arguments)));
        assert_eq!(code, exit, "{message}");
        assert!(is_one_sentence(&message) && message.contains(words), "{message}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [["--help"], ["--version"]] {
        let output = waymark(arguments);
        assert_eq!(outcome(&output), (0, String::new()));
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn saved_facts_are_checked() {
    let stage = Stage::new();
    let facts = stage.path("facts.json");
    let whole = r#"{"apiVersion":"waymark.io/facts/v1alpha1","node":"a","kernel":"6","namespaces":[]}"#;
    std::fs::write(&facts, &whole[..40]).unwrap();
    let (code, message) = outcome(&predict(&stage.inventory, &facts, "node/a", "node/b"));
    assert_eq!(code, 65);
    assert!(is_one_sentence(&message) && message.contains("not a complete facts document"), "{message}");

    let (code, message) = outcome(&predict(&stage.inventory, &stage.path("none"), "node/a", "node/b"));
    assert_eq!(code, 66);
    assert!(is_one_sentence(&message), "{message}");

    std::fs::write(&facts, whole).unwrap();
    let (code, message) = outcome(&predict(&stage.inventory, &facts, "node/a", "node/b"));
    assert_eq!(code, 65, "facts without the node's own namespace: {message}");
    assert!(is_one_sentence(&message), "{message}");

    std::fs::write(&facts, whole.replace("[]", r#"[{"name":"a","inode":1}]"#)).unwrap();
    let output = predict(&stage.inventory, &facts, "node/a", "node/b");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "a node without routes: {text}");
    assert!(text.contains("no route"), "{text}");
    let output = predict(&stage.inventory, &facts, "node/b", "node/a");
    assert_eq!(output.status.code(), Some(2), "no facts of the source");

    let (code, message) = outcome(&predict(&stage.inventory, &facts, "node/c", "node/b"));
    assert_eq!(code, 64);
    assert!(message.contains("there is no node c"), "{message}");
}

#[test]
fn a_broken_inventory_is_65() {
    let stage = Stage::new();
    std::fs::write(&stage.inventory, "{").unwrap();
    let (code, message) = outcome(&predict(&stage.inventory, &stage.path("none"), "node/a", "node/b"));
    assert_eq!(code, 65);
    assert!(is_one_sentence(&message) && message.contains("inventory"), "{message}");
}

#[test]
fn a_snapshot_is_all_that_a_prediction_needs() {
    let stage = Stage::new();
    let folder = stage.path("snapshot");
    let node = Facts {
        api_version: FACTS_API_VERSION.into(),
        node: "a".into(),
        kernel: String::new(),
        namespaces: vec![NetnsFacts { name: "a".into(), ..NetnsFacts::default() }],
    };
    let snapshot = Snapshot {
        taken: jiff::Timestamp::UNIX_EPOCH,
        inventory: Inventory::from_json(INVENTORY.as_bytes()).unwrap(),
        facts: vec![node],
        missing: Vec::new(),
    };
    snapshot.write(&folder).unwrap();
    let ask = || waymark(["predict", "node/a", "node/b", "--facts", folder.to_str().unwrap()]);
    let output = ask();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text} {}", outcome(&output).1);
    assert!(text.contains("no route"), "{text}");

    std::fs::write(folder.join("nodes/0.json.gz"), "{").unwrap();
    let (code, message) = outcome(&ask());
    assert_eq!(code, 65);
    assert!(is_one_sentence(&message) && message.contains("nodes/0.json.gz"), "{message}");
    std::fs::remove_dir_all(&folder).unwrap();
    let (code, message) = outcome(&ask());
    assert_eq!(code, 66);
    assert!(is_one_sentence(&message) && message.contains("snapshot.json"), "{message}");
}
