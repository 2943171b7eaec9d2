//! What the controller says when it cannot start: one sentence, and an exit code.

use std::path::Path;
use std::process::Command;

fn run(home: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_waymark-controller"))
        .args(arguments)
        .env_clear()
        // Nothing of this machine's own clusters.
        .env("HOME", home)
        .env("RUST_LOG", "off")
        .output()
        .expect("the program is there");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn says(code: i32, arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}/socket", home.path().display());
    let (found, error) = run(home.path(), &[arguments, &["--listen", &socket]].concat());
    assert_eq!(found, Some(code), "{arguments:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is left behind");
    error
        .strip_prefix("waymark-controller: error: ")
        .unwrap_or_else(|| panic!("{error}"))
        .trim_end()
        .to_owned()
}

#[test]
fn mistakes_on_the_command_line_are_told_in_one_line() {
    for arguments in [
        &["run"][..],
        &["run", "--inventory", "a", "--kubernetes"],
        &["run", "--inventory", "a", "--kubeconfig", "b"],
        &["run", "--inventory", "a", "--context", "b"],
        &["walk"],
    ] {
        says(64, arguments);
    }
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    assert_eq!(
        says(70, &["run", "--inventory", "/no/such/file"]),
        "cannot read the inventory /no/such/file: No such file or directory (os error 2)"
    );
    assert_eq!(
        says(70, &["run", "--kubeconfig", "/no/such/file"]),
        "cannot use the kubeconfig /no/such/file: No such file or directory (os error 2)"
    );
    let nothing = "there is no Kubernetes cluster to talk to: name a kubeconfig by --kubeconfig";
    assert!(says(70, &["run", "--kubernetes"]).starts_with(nothing));
    assert!(says(70, &["run", "--context", "dev"]).starts_with(nothing));
}

#[test]
fn a_history_that_cannot_be_kept_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = folder.path().join("inventory.json");
    std::fs::write(&inventory, r#"{"nodes":[{"name":"a","ip":"10.0.0.1"}]}"#).unwrap();
    let [inventory, folder] = [inventory.as_path(), folder.path()].map(|path| path.display().to_string());
    let said = says(70, &["run", "--inventory", &inventory, "--history", &folder]);
    assert!(said.starts_with(&format!("cannot use the history {folder}: ")), "{said}");
}

#[test]
fn an_api_server_that_is_not_there_is_named() {
    // Port 1 of loopback is given to nobody who asks for any port.
    let port = 1;
    let file = tempfile::NamedTempFile::new().unwrap();
    let document = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]});
    serde_json::to_writer(&file, &document).unwrap();
    let said = says(70, &["run", "--kubeconfig", &file.path().display().to_string()]);
    let expected = format!("no Kubernetes API server answers at http://127.0.0.1:{port}: Connection refused");
    assert!(said.starts_with(&expected), "{said}");
}
