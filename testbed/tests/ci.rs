//! What CI runs, with a `make` that only writes down what it is asked for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A copy of the script in a tree of its own.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/run");
        tree.program("project/.ci/run", &fs::read_to_string(script).unwrap());
        tree.program("bin/make", "#!/bin/sh\necho \"$CI: $*\" >>\"$0.log\"\n");
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Puts programs into a folder.
    fn programs(&self, folder: &str, names: &[&str]) {
        for name in names {
            self.program(&format!("{folder}/{name}"), "");
        }
    }

    /// Runs the script, and gives back what `make` was asked for.
    fn made(&self) -> Vec<String> {
        let log = self.path("bin/make.log");
        fs::write(&log, "").unwrap();
        let status = Command::new(self.path("project/.ci/run"))
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()))
            .env("HOME", self.path("home"))
            .env("KUBEBUILDER_ASSETS", self.path("assets"))
            .status()
            .unwrap();
        assert!(status.success());
        fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_control_plane_is_built_where_it_is_not_to_be_had() {
    let programs = ["kube-apiserver", "kube-controller-manager", "kube-proxy"];
    let (without, with) = (["true: check", "true: test"], ["true: envtest", "true: check", "true: test"]);
    let tree = Tree::new();
    assert_eq!(tree.made(), with);
    // What controller-runtime's envtest fetches is not enough.
    tree.programs("assets", &programs[..1]);
    assert_eq!(tree.made(), with);
    tree.programs("assets", &programs);
    assert_eq!(tree.made(), without);

    let packed = Tree::new();
    packed.programs("shared/envtest", &["SHA256SUMS"]);
    assert_eq!(packed.made(), without);

    let built = Tree::new();
    built.programs("home/.cache/waymark/envtest/built", &programs);
    assert_eq!(built.made(), without);
}
