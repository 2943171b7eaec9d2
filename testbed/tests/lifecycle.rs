//! Up, down, and everything that may go wrong between.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::traffic::{PATIENT, talk};
use common::{PROGRAM, Testbed, privileged, text};
use waymark_proto::{Inventory, Protocol};

#[test]
fn status_is_an_inventory_and_down_leaves_nothing() {
    if !privileged("up and down") {
        return;
    }
    let testbed = Testbed::up(&["--dataplane", "bridge-vxlan"]);
    let inventory = Inventory::from_json(testbed.succeed(&["status", "-o", "json"]).as_bytes()).unwrap();
    assert_eq!((inventory.nodes.len(), inventory.pods.len()), (3, 6));
    assert_eq!(inventory, testbed.instance().inventory().unwrap());
    assert_eq!(
        fs::read(testbed.folder().join("inventory.json")).map(|b| Inventory::from_json(&b)).unwrap(),
        Ok(inventory)
    );
    assert!(testbed.succeed(&["status"]).contains("serve-shop-cart   running"));
    assert!(testbed.succeed(&["down"]).contains("is down"));
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
    assert!(testbed.succeed(&["down"]).contains("was not up"));
    assert!(testbed.fail(3, &["status"]).contains("is not up; start it with"));
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

#[test]
fn a_second_up_changes_nothing() {
    if !privileged("a second up") {
        return;
    }
    let testbed = Testbed::up(&[]);
    let before = (testbed.instance().state().unwrap(), testbed.leftovers());
    assert!(testbed.fail(3, &["up", "--no-agents", "--dataplane", "routed"]).contains("already up"));
    assert_eq!((testbed.instance().state().unwrap(), testbed.leftovers()), before);
    let cluster = testbed.cluster();
    let to = (cluster.pods[2].ip, 80).into();
    talk(&cluster.pods[0].netns, Protocol::Tcp, to, PATIENT).unwrap();
}

#[test]
fn down_after_kill_9_and_with_processes_inside() {
    if !privileged("down after kill -9") {
        return;
    }
    let testbed = Testbed::up(&[]);
    let processes = testbed.instance().processes();
    assert_eq!(processes.len(), 6);
    for (_, pid) in &processes[..3] {
        let status = Command::new("kill").args(["-9", &pid.unwrap().to_string()]).status().unwrap();
        assert!(status.success());
    }
    // Somebody's shell in a pod keeps its namespace alive, and has no note.
    let mut shell = Command::new(PROGRAM);
    shell.args(["exec", "--name", &testbed.name, "shop/cart", "--", "sleep", "1000"]);
    let mut shell = shell.spawn().unwrap();
    let netns = format!("/run/netns/wm-{}-shop-cart", testbed.name);
    let inode = |path: &str| fs::metadata(path).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).ok();
    while inode(&format!("/proc/{}/ns/net", shell.id())) != inode(&netns) {
        assert!(shell.try_wait().unwrap().is_none(), "the shell ended");
        std::thread::yield_now();
    }
    testbed.succeed(&["down"]);
    assert!(shell.wait().unwrap().code().is_none(), "ended by a signal");
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

#[test]
fn down_with_a_damaged_or_missing_state() {
    if !privileged("down without a state") {
        return;
    }
    let testbed = Testbed::up(&[]);
    fs::write(testbed.folder().join("state.json"), "{\"dataplane\": \"bri").unwrap();
    assert!(testbed.fail(3, &["status"]).contains("is damaged"));
    assert!(testbed.fail(3, &["up", "--no-agents"]).contains("is damaged"));
    testbed.succeed(&["down"]);
    assert_eq!(testbed.leftovers(), Vec::<String>::new());

    testbed.succeed(&["up", "--no-agents"]);
    fs::remove_dir_all(testbed.folder()).unwrap();
    assert!(testbed.fail(3, &["up", "--no-agents"]).contains("exists already"));
    assert!(testbed.fail(3, &["status"]).contains("is not up"));
    testbed.succeed(&["down"]);
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

#[test]
fn names_that_begin_alike_do_not_touch_one_another() {
    if !privileged("two instances") {
        return;
    }
    let short = Testbed::up(&[]);
    let long = Testbed { name: format!("{}-b", short.name) };
    long.succeed(&["up", "--no-agents", "--dataplane", "routed"]);
    let before = long.leftovers().len();
    fs::remove_dir_all(short.folder()).unwrap();
    short.succeed(&["down"]);
    assert_eq!(long.leftovers().len(), before);
}

/// Programs that stand in for controller, agent and client.
fn programs(controller: &str, agent: &str) -> tempfile::TempDir {
    programs_with_client(controller, agent, "exit 3")
}

fn programs_with_client(controller: &str, agent: &str, client: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, body) in [("waymark-controller", controller), ("waymark-agent", agent), ("waymark", client)] {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// Becomes ready as the real programs do, and stays.
const READY: &str = "while [ \"$1\" != --ready-file ]; do shift; done; : > \"$2\"; exec sleep 1000";

#[test]
fn up_that_fails_half_way_cleans_up() {
    if !privileged("a failing up") {
        return;
    }
    let testbed = Testbed::named();
    let folder = programs(READY, "echo agents have a bad day; exit 7");
    let error = testbed.fail(3, &["up", "--bin-dir", folder.path().to_str().unwrap()]);
    assert!(error.contains("agent-node1 ended before it was ready (exit status: 7)"), "{error}");
    assert!(error.contains("agents have a bad day"), "{error}");
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
    let error = testbed.fail(3, &["up", "--bin-dir", "/nonexistent"]);
    assert!(error.contains("/nonexistent/waymark-controller") && error.contains("cargo build"), "{error}");
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

#[test]
fn controller_and_agents_live_until_down() {
    if !privileged("background processes") {
        return;
    }
    let testbed = Testbed::named();
    let folder = programs(READY, READY);
    testbed.succeed(&["up", "--bin-dir", folder.path().to_str().unwrap()]);
    let processes = testbed.instance().processes();
    assert_eq!(processes.len(), 10);
    assert!(processes.iter().all(|(_, pid)| pid.is_some()), "{processes:?}");
    let netns = |role: &str| {
        let (_, pid) = processes.iter().find(|(name, _)| name == role).unwrap();
        fs::read_link(format!("/proc/{}/ns/net", pid.unwrap())).unwrap()
    };
    assert_eq!(netns("controller"), fs::read_link("/proc/self/ns/net").unwrap());
    let agent = testbed.succeed(&["exec", "node2", "--", "readlink", "/proc/self/ns/net"]);
    assert_eq!(netns("agent-node2").to_str().unwrap(), agent.trim());
    testbed.succeed(&["down"]);
    for (role, pid) in processes {
        // One that ended and was not collected yet has no command line.
        let line = fs::read(format!("/proc/{}/cmdline", pid.unwrap())).unwrap_or_default();
        assert!(line.is_empty(), "{role} lives");
    }
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

/// Runs `up` with the programs of a folder, and its pid in a file there.
fn up_with_its_pid(testbed: &Testbed, folder: &std::path::Path) -> std::process::Output {
    with_its_pid("up", testbed, folder)
}

fn with_its_pid(verb: &str, testbed: &Testbed, folder: &std::path::Path) -> std::process::Output {
    let script = "echo $$ > \"$0/pid\"; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(folder).arg(PROGRAM);
    command.args([verb, "--name", &testbed.name, "--bin-dir"]).arg(folder).output().unwrap()
}

#[test]
fn ctrl_c_during_up_cleans_up() {
    if !privileged("Ctrl-C") {
        return;
    }
    let testbed = Testbed::named();
    // The controller itself sends the signal, and never gets ready: no moment has to be guessed.
    let interrupt = "kill -INT $(cat \"$(dirname \"$0\")/pid\"); exec sleep 1000";
    let folder = programs(interrupt, READY);
    let output = up_with_its_pid(&testbed, folder.path());
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("interrupted"));
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

#[test]
fn ctrl_c_during_a_check_of_the_demo_is_no_failure_of_the_check() {
    if !privileged("Ctrl-C in the demo") {
        return;
    }
    let testbed = Testbed::named();
    // A terminal sends the signal to both. The checks before it end as they should: 0, then 1.
    let client = "cd \"$(dirname \"$0\")\"
        case \"$*\" in *json*) kill -INT $(cat pid); kill -INT $$;; esac
        [ -e first ] && exit 1
        : > first";
    let folder = programs_with_client(READY, READY, client);
    let output = with_its_pid("demo", &testbed, folder.path());
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr).trim(), "waymark-testbed: error: interrupted");
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

#[test]
fn down_after_kill_9_of_up() {
    if !privileged("kill -9 of up") {
        return;
    }
    let testbed = Testbed::named();
    let kill = "kill -9 $(cat \"$(dirname \"$0\")/pid\"); exec sleep 1000";
    let folder = programs(kill, READY);
    let output = up_with_its_pid(&testbed, folder.path());
    assert_eq!(output.status.code(), None, "{}", text(&output.stderr));
    assert!(testbed.succeed(&["status"]).contains("not complete"));
    let error = testbed.fail(3, &["up", "--no-agents"]);
    assert!(error.contains("is half made") && error.contains("waymark-testbed down --name"), "{error}");
    testbed.succeed(&["down"]);
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}

#[test]
fn a_topology_of_ones_own() {
    if !privileged("another topology") {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let pod = |name, node, rest| {
        format!("[[pods]]\nnamespace = \"x\"\nname = \"{name}\"\nnode = \"{node}\"\n{rest}\n")
    };
    let nodes = "[[nodes]]\nname = \"left\"\n[[nodes]]\nname = \"right\"\n";
    fs::write(
        file.path(),
        format!("{nodes}{}{}", pod("a", "left", "tcp = [8080, 9090]"), pod("b", "right", "tcp = []")),
    )
    .unwrap();
    let testbed = Testbed::up(&["-f", file.path().to_str().unwrap()]);
    let cluster = testbed.cluster();
    for port in [8080, 9090] {
        talk(&cluster.pods[1].netns, Protocol::Tcp, (cluster.pods[0].ip, port).into(), PATIENT).unwrap();
    }
    assert!(testbed.fail(3, &["fault", "inject", "forward-drop"]).contains("no two pods"));
}

#[test]
fn exec_passes_everything_on() {
    if !privileged("exec") {
        return;
    }
    let testbed = Testbed::up(&[]);
    assert_eq!(testbed.run(&["exec", "shop/cart", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert!(testbed.succeed(&["exec", "shop/cart", "--", "ip", "-br", "address"]).contains("10.244.1.10/24"));
    assert!(testbed.succeed(&["exec", "fabric", "--", "ip", "-br", "link"]).contains("node3"));
    let error = testbed.fail(3, &["exec", "shop/nobody", "--", "true"]);
    assert!(error.contains("no node or pod \"shop/nobody\"") && error.contains("shop/cart"), "{error}");
    assert!(
        testbed.fail(3, &["exec", "node1", "--", "no-such-program"]).contains("cannot run no-such-program")
    );
}

#[test]
fn wrong_command_lines() {
    for args in [vec!["upp"], vec!["up", "--dataplane", "carrier-pigeon"], vec!["exec", "node1"], vec![]] {
        let output = Command::new(PROGRAM).args(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}");
    }
    let testbed = Testbed { name: "Not A Name".into() };
    assert!(testbed.fail(3, &["status"]).contains("cannot be the name of a testbed"));
    let missing = Testbed::named();
    assert!(missing.fail(3, &["up", "-f", "/nonexistent.toml"]).contains("/nonexistent.toml"));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "[[nodes]]\nname = \"a\"\ncolour = 1\n").unwrap();
    let error = missing.fail(3, &["up", "-f", file.path().to_str().unwrap()]);
    assert!(error.contains("colour") && error.contains("line 3"), "{error}");
}
