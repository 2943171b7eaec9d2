//! Accuracy and demonstration judge answers: stand-ins for the client give some.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use common::{PROGRAM, privileged, text};

/// Becomes ready as controller and agent do, and stays.
const READY: &str = "while [ \"$1\" != --ready-file ]; do shift; done; : > \"$2\"; exec sleep 1000";

/// What the client prints; the names of the testbed's namespaces do not matter.
fn answer(verdict: &str, point: &str) -> String {
    let walk = r#"{"observed":"delivered","branches":1,"steps":[]}"#;
    let flow = r#"{"src":"10.0.0.1","dst":"10.0.0.2","protocol":"tcp","srcPort":1,"dstPort":2}"#;
    format!(
        r#"{{"apiVersion":"waymark.io/v1alpha1","kind":"CheckResult","check":"00000001","source":"a","destination":"b","flow":{flow},"verdict":"{verdict}","sent":1,"delivered":1,{point}"forward":{walk},"notObservable":[],"lostEvents":0}}"#
    )
}

/// Runs the program with a client that gives this answer.
fn judge(args: &[&str], client: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    for (name, body) in [("waymark-controller", READY), ("waymark-agent", READY), ("waymark", client)] {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    Command::new(PROGRAM).args(args).arg("--bin-dir").arg(folder.path()).output().unwrap()
}

fn accuracy(name: &str, client: &str) -> (Option<i32>, serde_json::Value) {
    accuracy_of("forward-drop", name, client)
}

fn accuracy_of(fault: &str, name: &str, client: &str) -> (Option<i32>, serde_json::Value) {
    let name = format!("{name}{}", std::process::id());
    let args = [
        "accuracy",
        "--name",
        &name,
        "--dataplane",
        "routed",
        "--healthy",
        "2",
        "--fault",
        fault,
        "-o",
        "json",
    ];
    let output = judge(&args, client);
    assert!(!fs::exists(format!("/run/waymark/testbed/{name}-routed")).unwrap());
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)));
    (output.status.code(), report)
}

#[test]
fn wrong_answers_are_called_wrong() {
    if !privileged("judging answers") {
        return;
    }
    let reachable = answer("Reachable", "");
    let (code, report) = accuracy("j", &format!("echo '{reachable}'"));
    assert_eq!((code, &report["accurate"]), (Some(1), &false.into()));
    let report = &report["dataplanes"][0];
    assert_eq!(
        (&report["healthy"][0]["right"], &report["healthy"][1]["right"]),
        (&true.into(), &true.into())
    );
    assert_eq!(
        (&report["faults"][0]["rightNode"], &report["faults"][0]["rightHook"]),
        (&false.into(), &false.into())
    );

    let (code, report) = accuracy("k", "echo no controller >&2; exit 3");
    assert_eq!(code, Some(1));
    let got = report["dataplanes"][0]["healthy"][0]["got"]["error"].as_str().unwrap();
    assert!(got.contains("no controller") && got.contains("exit status: 3"), "{got}");
}

#[test]
fn right_answers_are_called_right() {
    if !privileged("judging answers") {
        return;
    }
    let netns = format!("wm-l{}-routed-node2", std::process::id());
    let point = format!(
        r#""faultPoint":{{"node":"node2","netns":"{netns}","hook":"netfilter-forward","direction":"forward","cause":"filter-drop","object":"-A FORWARD -d 10.244.2.10/32 -j DROP","advice":"","confidence":"high"}},"#
    );
    let (bad, good) = (answer("Unreachable", &point), answer("Reachable", ""));
    // The fault shows on the first pods' TCP port alone; the healthy flows are others or come before it.
    let client = format!(
        "if ip netns exec {netns} iptables-nft-save | grep -q 'd 10.244.2.10/32 -j DROP'; then echo '{bad}'; exit 1; else echo '{good}'; fi"
    );
    let (code, report) = accuracy("l", &client);
    assert_eq!((code, &report["accurate"]), (Some(0), &true.into()), "{report:#}");
    let fault = &report["dataplanes"][0]["faults"][0];
    assert_eq!((&fault["rightCause"], &fault["rightObject"]), (&true.into(), &true.into()));
    assert_eq!((&fault["category"], &fault["packets"]), (&"netfilter".into(), &1.into()));
}

/// A delay on the wire behind node1, as part of an answer.
fn delay(netns: &str, ms: u32) -> String {
    let end = |node: &str| format!(r#"{{"node":"{node}","netns":"x","hook":"driver-tx"}}"#);
    let span = format!(r#"{{"lastSeen":{},"firstMissing":{}}}"#, end("node1"), end("node2"));
    let share = r#"{"lost":5,"of":5,"low":0.5,"high":1.0}"#;
    format!(
        r#""anomalies":[{{"kind":"delay","node":"node1","netns":"{netns}","hook":"wire","direction":"forward","span":{span},"share":{share},"delayNs":{ms}000000,"advice":""}}],"#
    )
}

#[test]
fn anomalies_are_judged_like_fault_points() {
    if !privileged("judging answers") {
        return;
    }
    // While the fault is in, the client tells of a delay.
    let judged = |name: &str, ms: u32, otherwise: u32| {
        let own = format!("{name}{}", std::process::id());
        let told = |ms| {
            let delay = if ms == 0 { String::new() } else { delay(&format!("wm-{own}-routed-node1"), ms) };
            answer("Reachable", &delay)
        };
        let tables = format!("ip netns exec wm-{own}-routed-fabric nft list tables");
        let client = format!(
            "if {tables} | grep -q 'netdev impaired-delay'; then echo '{}'; else echo '{}'; fi",
            told(ms),
            told(otherwise)
        );
        let (code, report) = accuracy_of("impaired-delay", name, &client);
        let dataplane = &report["dataplanes"][0];
        let fault = &dataplane["faults"][0];
        let ticks =
            ["rightNode", "rightHook", "rightCause", "rightDirection"].map(|tick| fault[tick] == true);
        (code, ticks, dataplane["healthy"][0]["right"] == true)
    };
    assert_eq!(judged("n", 51, 0), (Some(0), [true; 4], true));
    assert_eq!(judged("o", 49, 0), (Some(1), [true, true, false, true], true), "too short a delay");
    assert_eq!(judged("p", 0, 0), (Some(1), [false; 4], true), "nothing told");
    assert_eq!(judged("q", 51, 51), (Some(1), [true; 4], false), "a healthy flow has none");
}

#[test]
fn a_demonstration_that_fails_says_so_and_cleans_up() {
    if !privileged("the demonstration") {
        return;
    }
    let name = format!("d{}", std::process::id());
    let output = judge(&["demo", "--name", &name], "echo all is well; exit 0");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("ended with 0 where 1 was expected"), "{}", text(&output.stderr));
    assert!(!fs::exists(format!("/run/waymark/testbed/{name}")).unwrap());
}
