//! The preflight on this machine, with and without privileges.

use std::process::Command;

use waymark_prober::doctor::{self, Finding, State};
use waymark_proto::{Inventory, NodeName};

fn finding<'a>(findings: &'a [Finding], what: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.what == what).unwrap_or_else(|| panic!("nothing about {what}"))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

#[test]
fn every_lack_has_a_remedy_and_the_text_shows_it() {
    let findings = doctor::examine(None);
    for finding in &findings {
        assert_eq!(finding.remedy.is_none(), finding.state == State::Ok, "{finding:?}");
        assert!(!finding.detail.is_empty(), "{finding:?}");
    }
    let text = doctor::render(&findings);
    println!("{text}");
    let lacks = findings.iter().filter(|finding| finding.state != State::Ok).count();
    assert_eq!(text.lines().count(), findings.len() + lacks);
    assert_eq!(text.matches("→").count(), lacks);
    let json = serde_json::to_value(&findings).unwrap();
    assert_eq!(json[0]["what"], "CAP_SYS_ADMIN");
    assert!(["ok", "warn", "missing"].contains(&json[0]["state"].as_str().unwrap()));
}

#[test]
fn root_of_this_machine_is_enough() {
    if !is_root() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "root_of_this_machine_is_enough needs root");
        eprintln!("root_of_this_machine_is_enough: skipped, needs root");
        return;
    }
    let findings = doctor::examine(None);
    assert!(doctor::usable(&findings), "{}", doctor::render(&findings));
    for what in ["CAP_SYS_ADMIN", "CAP_NET_RAW", "kernel BTF", "nf_tables", "kernel symbols", "nft"] {
        assert_eq!(finding(&findings, what).state, State::Ok, "{what}");
    }
}

/// Runs itself again without any capability.
#[test]
fn without_privileges_it_says_what_is_missing() {
    if std::env::var_os("WAYMARK_TEST_UNPRIVILEGED").is_some() || !is_root() {
        let findings = doctor::examine(None);
        assert!(!doctor::usable(&findings));
        let raw = finding(&findings, "CAP_NET_RAW");
        assert_eq!(raw.state, State::Missing);
        assert!(raw.remedy.as_ref().unwrap().contains("root"), "{raw:?}");
        let nf_tables = finding(&findings, "nf_tables");
        assert_eq!(nf_tables.state, State::Warn);
        assert!(nf_tables.detail.contains("CAP_NET_ADMIN"), "{nf_tables:?}");
        return;
    }
    let name = "without_privileges_it_says_what_is_missing";
    let again = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env("WAYMARK_TEST_UNPRIVILEGED", "1")
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
}

#[test]
fn namespaces_that_cannot_be_opened_are_named() {
    let json = br#"{
        "nodes": [{"name": "here", "netns": "host", "ip": "10.0.0.1"},
                  {"name": "gone", "netns": "wmd-never-there", "ip": "10.0.0.2"}],
        "pods": [{"namespace": "shop", "name": "cart", "node": "here", "netns": "wmd-no-pod", "ip": "10.1.0.1"}]
    }"#;
    let inventory = Inventory::from_json(json).unwrap();
    let examine = |node: &str| doctor::examine(Some((&inventory, &NodeName::from(node))));

    let here = examine("here");
    assert_eq!(finding(&here, "node here").state, State::Ok);
    let pod = finding(&here, "pod shop/cart");
    assert_eq!(pod.state, State::Warn);
    assert!(pod.detail.contains("/run/netns/wmd-no-pod"), "{pod:?}");

    let gone = examine("gone");
    assert_eq!(finding(&gone, "node gone").state, State::Missing);
    assert!(!doctor::usable(&gone));

    let unknown = examine("nowhere");
    let node = finding(&unknown, "node nowhere");
    assert_eq!(
        (node.state, node.detail.as_str()),
        (State::Missing, "not in the inventory, which has here, gone")
    );
}
