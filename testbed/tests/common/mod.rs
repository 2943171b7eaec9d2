//! What the tests share: a testbed that goes with its guard, and traffic inside it.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod traffic;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use waymark_testbed::{Cluster, Instance, Programs};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_waymark-testbed");

/// Whether this test can run. Without root it says what it skips, and under CI it fails.
pub fn privileged(test: &str) -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    assert!(root || std::env::var_os("CI").is_none(), "{test} needs root, and under CI nothing is skipped");
    if !root {
        eprintln!("SKIPPED: {test} needs root to make network namespaces");
    }
    root
}

/// A testbed under a name of its own; taken down when dropped.
pub struct Testbed {
    pub name: String,
}

impl Testbed {
    /// A name for an instance that is not up yet.
    pub fn named() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { name }
    }

    /// An instance without agents.
    pub fn up(args: &[&str]) -> Self {
        let testbed = Self::named();
        let mut all = vec!["up", "--no-agents"];
        all.extend(args);
        testbed.succeed(&all);
        testbed
    }

    /// Runs a command on this instance: `--name` is put behind the first word, or the second of `fault`.
    pub fn run(&self, args: &[&str]) -> Output {
        let words = if args[0] == "fault" { 2 } else { 1 };
        let mut command = Command::new(PROGRAM);
        command.args(&args[..words]).args(["--name", &self.name]).args(&args[words..]);
        command.output().expect("the program is there")
    }

    /// Runs a command that must succeed, and gives back what it printed.
    #[track_caller]
    pub fn succeed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a command that must fail with this code, and gives back its one sentence.
    #[track_caller]
    pub fn fail(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.starts_with("waymark-testbed: error: "), "{error}");
        error
    }

    pub fn instance(&self) -> Instance {
        // A test is a program too, but not in the folder of those that it tests.
        let folder = Path::new(PROGRAM).parent().map(Path::to_owned);
        Instance::new(&self.name, Programs::find(folder).unwrap()).unwrap()
    }

    pub fn cluster(&self) -> Cluster {
        self.instance().state().unwrap().cluster(&self.name)
    }

    pub fn folder(&self) -> PathBuf {
        Path::new("/run/waymark/testbed").join(&self.name)
    }

    /// All that could be left of it: namespaces, processes that name it, its folder.
    pub fn leftovers(&self) -> Vec<String> {
        let prefix = format!("wm-{}-", self.name);
        let mut found = entries("/run/netns");
        found.retain(|name| name.starts_with(&prefix));
        for pid in entries("/proc") {
            let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
            let line = text(&line).replace('\0', " ");
            if line.contains(&format!("/testbed/{}/", self.name)) {
                found.push(format!("{pid}: {line}"));
            }
        }
        found.extend(self.folder().exists().then(|| self.folder().display().to_string()));
        found
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        let output = self.run(&["down"]);
        if !output.status.success() {
            eprintln!("down: {}", text(&output.stderr));
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn entries(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
