//! A check that was recorded is answered again as it was, whoever made it.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{PROGRAM, Testbed, privileged, text};

const QUESTION: [&str; 5] = ["check", "pod/shop/cart", "pod/shop/pay-1:80", "-o", "json"];

fn client() -> Command {
    Command::new(Path::new(PROGRAM).with_file_name("waymark"))
}

fn replay(file: &Path) -> Output {
    client().arg("replay").arg(file).args(["-o", "json"]).output().unwrap()
}

#[test]
fn a_recorded_check_is_answered_as_it_was() {
    if !privileged("recording checks") {
        return;
    }
    let testbed = Testbed::named();
    testbed.succeed(&["up", "--dataplane", "bridge-vxlan"]);
    testbed.succeed(&["fault", "inject", "forward-drop"]);
    let folder = tempfile::tempdir().unwrap();
    let inventory = testbed.folder().join("inventory.json");
    let controller = format!("unix:{}", testbed.folder().join("controller.sock").display());
    let local = ["--local", "--inventory", inventory.to_str().unwrap()];
    for (name, way) in [("asked.json.gz", &["--controller", &controller][..]), ("local.json", &local)] {
        let file = folder.path().join(name);
        let asked = client().args(QUESTION).args(way).arg("--record").arg(&file).output().unwrap();
        assert_eq!(asked.status.code(), Some(1), "{}", text(&asked.stderr));
        let again = replay(&file);
        assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
        assert!(text(&asked.stdout).contains("filter-drop"));
        assert_eq!(text(&again.stdout), text(&asked.stdout));
    }
    // More than a message holds: the answer is told all the same.
    testbed.succeed(&["fault", "clear"]);
    let file = folder.path().join("large.json");
    let many = ["--controller", &controller, "--wide", "-c", "4000", "-i", "1ms", "--record"];
    let asked = client().args(QUESTION).args(many).arg(&file).output().unwrap();
    let said = text(&asked.stderr);
    assert_eq!(asked.status.code(), Some(73), "{said}");
    assert!(said.contains("the recording is larger than 60 MiB"), "{said}");
    let result: waymark_proto::CheckResult = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!((result.sent, file.exists()), (4000, false));
}

#[test]
fn a_snapshot_of_a_cluster_predicts_as_its_controller_does() {
    if !privileged("collecting facts") {
        return;
    }
    let testbed = Testbed::named();
    testbed.succeed(&["up", "--dataplane", "bridge-vxlan"]);
    let folder = tempfile::tempdir().unwrap();
    let inventory = testbed.folder().join("inventory.json");
    let controller = format!("unix:{}", testbed.folder().join("controller.sock").display());
    let controller = ["--controller", &controller];
    let local = ["--local", "--inventory", inventory.to_str().unwrap()];
    let ask = |to: &str, way: &[&str]| {
        client().args(["predict", "pod/shop/cart", to, "-o", "json"]).args(way).output().unwrap()
    };
    for (name, way) in [("asked", &controller[..]), ("local", &local)] {
        let snapshot = folder.path().join(name);
        let snapshot = snapshot.to_str().unwrap();
        let taken = client().args(["facts", "--cluster", "-o", snapshot]).args(way).output().unwrap();
        assert_eq!(taken.status.code(), Some(0), "{}", text(&taken.stderr));
        for to in ["pod/shop/pay-1:80", "svc/shop/pay:80", "svc/shop/empty:80"] {
            let (there, here) = (ask(to, &controller), ask(to, &["--facts", snapshot]));
            assert_eq!(here.status, there.status, "{}", text(&here.stderr));
            assert_eq!(text(&here.stdout), text(&there.stdout), "{to}");
        }
        let again = client().args(["facts", "--cluster", "-o", snapshot]).args(way).output().unwrap();
        assert_eq!(again.status.code(), Some(73), "{}", text(&again.stderr));
    }
}

#[test]
fn what_follow_ups_told_is_recorded() {
    if !privileged("following up") {
        return;
    }
    let testbed = Testbed::named();
    testbed.succeed(&["up", "--dataplane", "bridge-vxlan"]);
    let folder = tempfile::tempdir().unwrap();
    let controller = format!("unix:{}", testbed.folder().join("controller.sock").display());
    for (fault, tells) in [
        ("underlay-router-drop", "172.18.0.1 answered and nobody behind"),
        ("underlay-wrong-port", "3 of 3 came in at node3 (eth0) instead"),
        ("underlay-vxlan-block", "the network between them works, and loses these packets"),
    ] {
        testbed.succeed(&["fault", "inject", fault]);
        let file = folder.path().join(fault);
        let recorded = ["--controller", &controller, "--record"];
        let asked = client().args(QUESTION).args(recorded).arg(&file).output().unwrap();
        testbed.succeed(&["fault", "clear", fault]);
        assert!(text(&asked.stdout).contains(tells), "{fault}: {}", text(&asked.stdout));
        assert_eq!(text(&replay(&file).stdout), text(&asked.stdout), "{fault}");
    }
}

#[test]
fn the_catalogue_is_recorded() {
    if !privileged("recording faults") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let testbed = Testbed::named();
    let out = folder.path().to_str().unwrap();
    let faults = ["--fault", "no-listener", "--fault", "forward-reject"];
    testbed.succeed(&[&["record", "--dataplane", "routed", "--out", out], &faults[..]].concat());
    assert!(testbed.leftovers().is_empty());
    for (name, cause) in [("no-listener", "no-listener"), ("forward-reject", "filter-reject")] {
        let file = folder.path().join(format!("{name}-routed.json.gz"));
        let answer = text(&replay(&file).stdout);
        assert!(answer.contains(&format!("\"cause\": \"{cause}\"")), "{answer}");
    }
}
