//! Rendering the chart with the real helm.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/waymark");

/// Helm: in the PATH, or where `make helm` puts it. Without it a test says what it skips, and under CI it fails.
pub fn helm(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join("helm"))
        .chain([cache.join("waymark/helm/helm")])
        .find(|path| path.is_file());
    assert!(
        found.is_some() || std::env::var_os("CI").is_none(),
        "{test} needs helm: `make helm`, and under CI nothing is skipped"
    );
    if found.is_none() {
        eprintln!("SKIPPED: {test} needs helm: `make helm`");
    }
    found
}

/// `helm template` for a release in a namespace, with values as YAML.
pub fn template(helm: &Path, namespace: &str, values: &str, arguments: &[&str]) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), values).unwrap();
    Command::new(helm)
        .args(["template", "waymark", CHART, "--namespace", namespace, "--values"])
        .arg(file.path())
        .args(arguments)
        .output()
        .unwrap()
}

/// The same, which must succeed; gives back the manifests.
#[track_caller]
pub fn render(helm: &Path, namespace: &str, values: &str, arguments: &[&str]) -> String {
    let output = template(helm, namespace, values, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
