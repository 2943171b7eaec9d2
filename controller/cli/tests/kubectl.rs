//! The client as kubectl's users meet it: names without a namespace, and the plugin.

use std::path::PathBuf;
use std::process::{Command, Output};

const INVENTORY: &str = r#"{"nodes":[{"name":"a","netns":"a","ip":"10.0.0.1"}]}"#;
const FACTS: &str = r#"{"apiVersion":"waymark.io/facts/v1alpha1","node":"a","kernel":"6","namespaces":[]}"#;
const KUBECONFIG: &str = r#"{"apiVersion":"v1","kind":"Config","current-context":"dev",
    "clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:1"}},
                {"name":"far","cluster":{"server":"http://127.0.0.1:2"}}],
    "users":[{"name":"u","user":{"token":"t"}}],
    "contexts":[{"name":"dev","context":{"cluster":"c","user":"u","namespace":"shop"}},
                {"name":"bare","context":{"cluster":"c","user":"u"}},
                {"name":"far","context":{"cluster":"far","user":"u"}}]}"#;

/// A home without anything, and files beside it.
struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { folder: tempfile::tempdir().unwrap() };
        for (name, content) in
            [("inventory.json", INVENTORY), ("facts.json", FACTS), ("kubeconfig", KUBECONFIG)]
        {
            std::fs::write(stage.path(name), content).unwrap();
        }
        std::fs::create_dir(stage.path("home")).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a command one of a user who has nothing configured.
    fn bare(&self, mut command: Command) -> Command {
        for variable in ["KUBECONFIG", "WAYMARK_CONTROLLER", "WAYMARK_TLS"] {
            command.env_remove(variable);
        }
        command.env("HOME", self.path("home"));
        command
    }

    /// The arguments of a prediction for which all names are looked up in the inventory.
    fn question(&self, source: &str) -> Vec<String> {
        let path = |name| self.path(name).display().to_string();
        let words = ["predict", source, "10.0.0.1", "--inventory", &path("inventory.json"), "--facts"];
        words.iter().map(ToString::to_string).chain([path("facts.json")]).collect()
    }

    /// What is said when this is run by somebody with the kubeconfig.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.bare(Command::new(env!("CARGO_BIN_EXE_waymark")));
        command.env("KUBECONFIG", self.path("kubeconfig")).args(arguments).output().unwrap()
    }

    /// What is said of a source that is not there.
    fn says(&self, source: &str, kubeconfig: Option<&str>, more: &[&str]) -> String {
        let mut command = self.bare(Command::new(env!("CARGO_BIN_EXE_waymark")));
        command.args(self.question(source)).args(more);
        if let Some(name) = kubeconfig {
            command.env("KUBECONFIG", self.path(name));
        }
        said(&command.output().unwrap())
    }
}

fn said(output: &Output) -> String {
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "{text}");
    text.split_once("error: ").unwrap().1.trim_end().to_owned()
}

#[test]
fn names_are_completed_by_flag_context_and_default() {
    let stage = Stage::new();
    for (more, whole) in [
        (&[][..], "shop/cart"),
        (&["--namespace", "till"], "till/cart"),
        (&["-n", "till"], "till/cart"),
        (&["--context", "bare"], "default/cart"),
        (&["--context", "bare", "-n", "till"], "till/cart"),
    ] {
        assert_eq!(stage.says("pod/cart", Some("kubeconfig"), more), format!("there is no pod {whole}"));
    }
    assert_eq!(stage.says("pod/own/cart", Some("kubeconfig"), &[]), "there is no pod own/cart");
    let kubeconfig = stage.path("kubeconfig").display().to_string();
    assert_eq!(stage.says("pod/cart", None, &["--kubeconfig", &kubeconfig]), "there is no pod shop/cart");
}

#[test]
fn without_a_kubeconfig_names_stay_as_they_are() {
    let stage = Stage::new();
    let unchanged = stage.says("pod/cart", None, &[]);
    assert!(unchanged.starts_with("\"pod/cart\" is not a target: use pod/NAMESPACE/NAME"), "{unchanged}");
    assert_eq!(stage.says("pod/cart", None, &["-n", "till"]), "there is no pod till/cart");
    // What needs no kubeconfig does not read one.
    assert_eq!(stage.says("pod/own/cart", Some("missing"), &[]), "there is no pod own/cart");
}

#[test]
fn mistakes_of_a_kubeconfig_are_told() {
    let stage = Stage::new();
    let unknown = stage.says("pod/own/cart", Some("kubeconfig"), &["--context", "prod"]);
    assert!(unknown.ends_with("has no context \"prod\": it has dev, bare, far"), "{unknown}");
    let missing = stage.says("pod/own/cart", None, &["--kubeconfig", "/no/such"]);
    assert!(missing.starts_with("cannot use the kubeconfig /no/such: No such file"), "{missing}");
    let nobody = stage.says("deploy/cart", Some("kubeconfig"), &[]);
    assert!(nobody.starts_with("no Kubernetes API server answers at http://127.0.0.1:1"), "{nobody}");
    let nowhere = stage.says("deploy/cart", None, &[]);
    assert!(nowhere.starts_with("there is no Kubernetes cluster to talk to"), "{nowhere}");
}

/// Every command that talks to a controller.
const COMMANDS: [&[&str]; 9] = [
    &["check", "pod/own/cart", "10.0.0.1"],
    &["predict", "pod/own/cart", "10.0.0.1"],
    &["facts", "a"],
    &["status"],
    &["validate", "-f", "CHANGE"],
    &["watch", "start", "mesh", "--from", "nodes", "--to", "nodes"],
    &["watch", "stop", "mesh"],
    &["watch", "list"],
    &["watch", "top", "--once"],
];

#[test]
fn every_command_reads_the_secret_of_the_context_that_was_said() {
    let stage = Stage::new();
    let change = stage.path("change.yaml");
    let manifest = "{apiVersion: v1, kind: Service, metadata: {name: pay}, spec: {ports: [{port: 80}]}}\n";
    std::fs::write(&change, manifest).unwrap();
    let line = ["--tls-secret", "waymark", "--controller", "https://127.0.0.1:3"];
    let kubeconfig = stage.path("kubeconfig").display().to_string();
    for command in COMMANDS {
        let command: Vec<&str> = command
            .iter()
            .map(|word| if *word == "CHANGE" { change.to_str().unwrap() } else { word })
            .collect();
        for (more, server) in [
            (&[][..], "http://127.0.0.1:1"),
            (&["--context", "far"], "http://127.0.0.1:2"),
            (&["--kubeconfig", &kubeconfig, "--context", "far"], "http://127.0.0.1:2"),
        ] {
            let output = stage.run(&[&command[..], &line, more].concat());
            let words = said(&output);
            assert_eq!(output.status.code(), Some(69), "{command:?} {more:?}: {words}");
            let told = words.contains("Secret waymark/waymark-client-tls") && words.contains(server);
            assert!(told, "{command:?} {more:?}: {words}");
        }
        let output = stage.run(&[&command[..], &["--context", "prod"]].concat());
        let words = said(&output);
        assert_eq!(output.status.code(), Some(64), "{command:?}: {words}");
        assert!(words.contains("has no context \"prod\""), "{command:?}: {words}");
    }
}

#[test]
fn only_commands_that_complete_names_take_a_namespace() {
    let stage = Stage::new();
    for command in COMMANDS {
        let verb: Vec<&str> =
            command.iter().copied().take(if command[0] == "watch" { 2 } else { 1 }).collect();
        let help = stage.run(&[&verb[..], &["--help"]].concat());
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("--context") && help.contains("--kubeconfig"), "{help}");
        let completes = matches!(verb[..], ["check" | "predict" | "validate"] | ["watch", "start"]);
        assert_eq!(help.contains("--namespace"), completes, "{verb:?}: {help}");
    }
}

#[test]
fn kubectl_runs_it_as_a_plugin() {
    let stage = Stage::new();
    let bin = stage.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_waymark"), bin.join("kubectl-waymark")).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let kubectl = |arguments: &[&str]| {
        let mut command = stage.bare(Command::new("kubectl"));
        command.env("PATH", &path).env("KUBECONFIG", stage.path("kubeconfig")).arg("waymark").args(arguments);
        command.output()
    };
    let help = match kubectl(&["check", "--help"]) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: there is no kubectl");
            return;
        }
        help => help.unwrap(),
    };
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(help.status.success() && text.contains("Usage: kubectl waymark check"), "{text}");
    let question = stage.question("pod/cart");
    let asked = kubectl(&question.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    assert_eq!(asked.status.code(), Some(64));
    assert_eq!(String::from_utf8_lossy(&asked.stderr), "kubectl waymark: error: there is no pod shop/cart\n");
}
