//! The demonstration on a real control plane says what it promises, and leaves nothing.

mod common;

use std::process::Command;

use common::{PROGRAM, Testbed, privileged, text};
use waymark_testbed::kubernetes::{Assets, Program};

#[test]
fn the_four_uses_are_shown() {
    let wanted = [Program::Etcd, Program::ApiServer, Program::ControllerManager, Program::Proxy];
    if !privileged("the demonstration on Kubernetes") {
        return;
    }
    if let Err(error) = Assets::find(&wanted) {
        assert!(std::env::var_os("CI").is_none(), "{error}");
        eprintln!("SKIPPED: the demonstration on Kubernetes: {error}");
        return;
    }
    let testbed = Testbed::named();
    let output =
        Command::new(PROGRAM).args(["demo", "--kubernetes", "--name", &testbed.name]).output().unwrap();
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}\n{printed}\n{}", output.status, text(&output.stderr));
    for words in [
        "Culprit:  Service shop/stock",
        "nobody listens on tcp",
        "policy shop/pay-strict",
        "Culprit:  Node node2",
        "Outage #1",
        "silent-loss",
        "Failed; rolled back",
        "no namespace, device, rule or process is left",
    ] {
        assert!(printed.contains(words), "{words:?} is missing:\n{printed}");
    }
    assert_eq!(testbed.leftovers(), Vec::<String>::new());
}
