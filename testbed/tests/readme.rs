//! The README's commands work as printed.
//!
//! Every `sh` block is run, those of a section one after the other in one shell, with the built programs in
//! `PATH` and a testbed of its own. A command must exit with 0, or with what a comment behind it says:
//! `# exit 1`. Not run: `make` targets, which must exist, and blocks marked `sh interactive`. Where the programs of
//! a Kubernetes control plane are missing, the sections that need them are left out, and that is said.

mod common;
#[path = "common/lacking.rs"]
mod lacking;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{PROGRAM, Testbed, privileged, text};
use lacking::or_left_out;
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Parser, Tag, TagEnd};
use waymark_testbed::kubernetes::{Assets, KubernetesError, Program};

/// The commands of one section.
struct Section {
    heading: String,
    script: String,
}

impl Section {
    /// Whether its commands can be run; where they cannot, it is said what is left out.
    fn can_run(&self) -> bool {
        let what = format!("section {:?} of the README", self.heading);
        !needs_kubernetes(&self.script) || or_left_out(&what, kubernetes()).is_some()
    }
}

/// Whether a script brings up a testbed with a real control plane.
fn needs_kubernetes(script: &str) -> bool {
    script.lines().any(|line| line.split_whitespace().any(|word| word == "--kubernetes"))
}

/// What such a testbed needs of this machine, and what the README asks it with.
fn kubernetes() -> Result<(), KubernetesError> {
    Assets::find(&[Program::Etcd, Program::ApiServer, Program::ControllerManager, Program::Proxy])?;
    match Command::new("kubectl").arg("help").output() {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(KubernetesError::NotInstalled { program: "kubectl".into(), package: "kubernetes-client" })
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace").to_owned()
}

fn sections(markdown: &str) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut events = Parser::new(markdown);
    while let Some(event) = events.next() {
        match event {
            Event::Start(Tag::Heading { level: HeadingLevel::H2, .. }) => {
                let heading = until(&mut events, TagEnd::Heading(HeadingLevel::H2));
                sections.push(Section { heading, script: String::new() });
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                let code = until(&mut events, TagEnd::CodeBlock);
                if let Some(section) = sections.last_mut().filter(|_| &*info == "sh") {
                    section.script.push_str(&code);
                }
            }
            _ => {}
        }
    }
    sections
}

fn until(events: &mut Parser<'_>, end: TagEnd) -> String {
    let inside = events.take_while(|event| !matches!(event, Event::End(tag) if *tag == end));
    inside
        .filter_map(|event| match event {
            Event::Text(text) | Event::Code(text) => Some(text.into_string()),
            _ => None,
        })
        .collect()
}

/// The exit codes other than 0 that the comments of a script promise, by line from 1.
fn promised(script: &str) -> BTreeMap<usize, i32> {
    let promise = |line: &str| line.rsplit_once("# exit ")?.1.split([' ', ':']).next()?.parse().ok();
    (1..).zip(script.lines()).filter_map(|(number, line)| Some((number, promise(line)?))).collect()
}

/// Runs a script; gives back the exit codes other than 0 by line, and what it printed.
fn run(script: &str, testbed: &Testbed) -> (BTreeMap<usize, i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let (file, failures) = (folder.path().join("section.sh"), folder.path().join("failures"));
    std::fs::write(&file, script).unwrap();
    std::fs::write(&failures, "").unwrap();
    let programs = Path::new(PROGRAM).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let traps = format!("trap 'echo $LINENO $? >> {}' ERR; . {}", failures.display(), file.display());
    let output = Command::new("bash")
        .args(["-E", "-c", &traps])
        .current_dir(root())
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("WAYMARK_TESTBED", &testbed.name)
        .env("TMPDIR", folder.path())
        .env("WAYMARK_CONTROLLER", format!("unix:{}", testbed.folder().join("controller.sock").display()))
        .output()
        .unwrap();
    let failed = std::fs::read_to_string(&failures).unwrap();
    let pair = |line: &str| {
        let (number, code) = line.split_once(' ')?;
        Some((number.parse().ok()?, code.parse().ok()?))
    };
    let failed = failed.lines().map(|line| pair(line).expect("the trap writes two numbers")).collect();
    (failed, text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn the_commands_of_the_readme_work() {
    if !privileged("the README's commands") {
        return;
    }
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let mut commands = 0;
    for mut section in sections(&readme) {
        for line in section.script.lines() {
            if let Some(target) = line.strip_prefix("make ") {
                assert!(makefile.contains(&format!("\n{target}:")), "no such target: {line}");
            }
        }
        let lines = section.script.lines();
        section.script =
            lines.map(|line| if line.starts_with("make ") { "\n" } else { line }.to_owned() + "\n").collect();
        if section.script.trim().is_empty() || !section.can_run() {
            continue;
        }
        commands += section.script.lines().filter(|line| !line.trim().is_empty()).count();
        let testbed = Testbed::named();
        let (failed, printed) = run(&section.script, &testbed);
        let numbered: Vec<String> =
            (1..).zip(section.script.lines()).map(|(number, line)| format!("{number:3} {line}")).collect();
        assert_eq!(
            failed,
            promised(&section.script),
            "exit codes by line of {:?}:\n{}\n{printed}",
            section.heading,
            numbered.join("\n")
        );
        assert_eq!(testbed.leftovers(), Vec::<String>::new(), "left by {:?}", section.heading);
    }
    assert!(commands > 0, "the README has no commands");
}

#[test]
fn the_sections_that_need_a_control_plane_are_known() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let sections = sections(&readme);
    let needing: Vec<&str> = sections
        .iter()
        .filter(|section| needs_kubernetes(&section.script))
        .map(|section| section.heading.as_str())
        .collect();
    assert_eq!(needing, ["On Kubernetes"]);
    let others = sections.iter().filter(|section| !needs_kubernetes(&section.script));
    for section in others {
        let asks =
            section.script.lines().find(|line| line.contains("kubectl") || line.contains("KUBECONFIG"));
        assert_eq!(asks, None, "{:?}", section.heading);
    }
}
