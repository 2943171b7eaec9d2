//! Mistakes on the command line: one sentence, and an exit code that tells them from failures.

use std::process::Command;

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_waymark-agent"))
        .args(arguments)
        .env_remove("WAYMARK_NODE")
        .output()
        .expect("the program is there");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn mistakes_are_told_in_one_line() {
    for arguments in [
        &["run"][..],
        &["run", "--node", "n", "--inventory", "a", "--pod-netns", "b"],
        &["run", "--node", "n", "--allow", "somewhere"],
        &["rnu"],
        &["doctor", "--inventory", "a"],
    ] {
        let (code, error) = run(arguments);
        assert_eq!(code, Some(64), "{arguments:?}: {error}");
        assert!(error.starts_with("waymark-agent: error: ") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn a_missing_inventory_is_named() {
    let (code, error) = run(&["run", "--node", "n", "--inventory", "/no/such/file"]);
    assert_eq!(code, Some(70));
    assert_eq!(
        error,
        "waymark-agent: error: cannot read /no/such/file: No such file or directory (os error 2)\n"
    );
}
