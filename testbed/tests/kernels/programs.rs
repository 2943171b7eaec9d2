//! What runs in the guests: the workspace's programs and tests, as cargo built them for this machine.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// A program of the workspace.
pub fn path(name: &str) -> String {
    let folder = Path::new(env!("CARGO_BIN_EXE_waymark-testbed")).parent().expect("a program is in a folder");
    folder.join(name).to_str().expect("paths of the workspace are text").to_owned()
}

/// A test of the workspace, by its package's folder and its name: `prober/trace`.
pub fn test(name: &str) -> &'static str {
    static TESTS: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    let tests = TESTS.get_or_init(tests);
    tests.get(name).unwrap_or_else(|| panic!("there is no test {name} among {:?}", tests.keys()))
}

/// All tests, built where they are not yet.
fn tests() -> BTreeMap<String, String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--workspace", "--locked", "--no-run", "--message-format=json"]);
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).stdin(Stdio::null());
    // What cargo says of the package whose test this is would have crates compiled anew whose build looks at it.
    let said = std::env::vars_os().map(|(name, _)| name);
    said.filter(|name| name.to_string_lossy().starts_with("CARGO_PKG_")).for_each(|name| {
        cargo.env_remove(name);
    });
    cargo.env_remove("CARGO_MANIFEST_DIR");
    let output = cargo.output().unwrap_or_else(|error| panic!("{cargo:?}: {error}"));
    assert!(output.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).expect("JSON is text");
    messages.lines().filter_map(|line| artifact(&serde_json::from_str(line).ok()?)).collect()
}

/// The test that a message of cargo's is about.
fn artifact(message: &Value) -> Option<(String, String)> {
    let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let executable = message["executable"].as_str().filter(|_| is_test)?;
    let package = Path::new(message["manifest_path"].as_str()?).parent()?.file_name()?.to_str()?;
    Some((format!("{package}/{}", message["target"]["name"].as_str()?), executable.to_owned()))
}
