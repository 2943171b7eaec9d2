//! What the images hold, by the commands of their Dockerfile that lay it out, with empty files for programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The instructions of the Dockerfile, each in one line.
fn instructions() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/images/Dockerfile");
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    lines.replace("\\\n", " ").lines().map(str::to_owned).collect()
}

/// What a stage copies from the build into its `/usr/local/bin`, of a tree that was laid out.
fn programs(stage: &str, instructions: &[String], tree: &Path) -> BTreeSet<String> {
    let begin = instructions.iter().position(|line| line.ends_with(&format!(" AS {stage}"))).expect(stage);
    let own = instructions[begin + 1..].iter().take_while(|line| !line.starts_with("FROM "));
    let sources =
        own.filter_map(|line| line.strip_prefix("COPY --from=build /")?.strip_suffix("/ /usr/local/bin/"));
    let folders = sources.map(|folder| fs::read_dir(tree.join(folder)).unwrap());
    folders.flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn each_image_has_its_programs_and_the_controllers_has_the_plugin() {
    let instructions = instructions();
    let tree = tempfile::tempdir().unwrap();
    let release = tree.path().join("target/release");
    fs::create_dir_all(&release).unwrap();
    for name in ["waymark-agent", "waymark-controller", "waymark"] {
        fs::write(release.join(name), name).unwrap();
    }
    let build = instructions.iter().find(|line| line.contains("cargo build")).expect("it is built");
    // The libraries are the image's own, and there is nothing to strip.
    let layout = build
        .split(" && ")
        .map(str::trim)
        .filter(|command| ["mkdir ", "cp target/", "ln "].iter().any(|begin| command.starts_with(begin)));
    let script = layout.collect::<Vec<_>>().join(" && ").replace(" /out/", " out/");
    let status = Command::new("sh").args(["-euc", &script]).current_dir(tree.path()).status().unwrap();
    assert!(status.success(), "{script}");

    let controller = ["kubectl-waymark", "waymark", "waymark-controller"].map(str::to_owned);
    assert_eq!(programs("controller", &instructions, tree.path()), controller.into());
    assert_eq!(programs("agent", &instructions, tree.path()), BTreeSet::from(["waymark-agent".to_owned()]));
    let plugin = tree.path().join("out/controller/kubectl-waymark");
    assert_eq!(fs::read_link(&plugin).unwrap(), Path::new("waymark"), "it leads to its neighbour anywhere");
    assert_eq!(fs::read_to_string(plugin).unwrap(), "waymark");
}
