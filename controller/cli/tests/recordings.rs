//! Recorded checks of the testbed, answered again: what the answers say, and what is said of files that are none.
//!
//! `waymark-testbed record --name golden --dataplane DATAPLANE --out DIR` makes such recordings.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::GzEncoder;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings");

fn replay(file: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_waymark"))
        .arg("replay")
        .arg(file)
        .args(options)
        .env_remove("WAYMARK_CONTROLLER")
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

fn recordings() -> Vec<PathBuf> {
    let files = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "gz")).collect();
    files.sort();
    files
}

#[test]
fn answers_read_like_this() {
    let files = recordings();
    assert!(files.len() >= 12, "{files:?}");
    for file in files {
        let output = replay(&file, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        let code = output.status.code().unwrap();
        assert_eq!(code, i32::from(!text.starts_with("Reachable: ")), "{}", file.display());
        golden(&file, "txt", &text);
    }
}

fn golden(recording: &Path, ending: &str, text: &str) {
    let golden = recording.with_extension("").with_extension(ending);
    // UPDATE_GOLDEN=1 writes what is now printed; look at the difference before committing it.
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&golden).unwrap(), "{}", golden.display());
}

/// What is no prose in a document: what its texts' variables stand for, words that came from elsewhere, and rules.
fn names(value: &serde_json::Value, within: &str, found: &mut Vec<String>) {
    match value {
        serde_json::Value::String(words) => {
            found.extend(matches!(within, "args" | "rule" | "verbatim").then(|| words.clone()));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| names(value, within, found)),
        serde_json::Value::Object(members) => {
            let is_text = members.contains_key("id");
            for (key, member) in members {
                let within = match key.as_str() {
                    "text" if is_text && members["id"] == "verbatim" => "verbatim",
                    "text" | "id" if is_text => "",
                    "args" | "rule" => key,
                    _ => within,
                };
                names(member, within, found);
            }
        }
        _ => {}
    }
}

/// Runs of three words and more that look English, but for commands between backticks and for names.
fn english(text: &str, names: &[String]) -> Vec<String> {
    let mut prose: String = text.split('`').step_by(2).collect::<Vec<_>>().join("\u{1}");
    for name in names {
        prose = prose.replace(name.as_str(), "\u{1}");
    }
    let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_alphabetic());
    let lines = prose.split(['\n', '\u{1}']).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let runs = lines.flat_map(|words| {
        let runs = words.split(|word| !is_word(word)).filter(|run| run.len() >= 3);
        runs.map(|run| run.join(" ")).collect::<Vec<_>>()
    });
    runs.collect()
}

#[test]
fn answers_read_like_this_in_chinese() {
    assert_eq!(english("1 the kernel dropped `it is a command` it", &[]), ["the kernel dropped"]);
    for file in recordings() {
        let output = replay(&file, &["--lang", "zh"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), replay(&file, &[]).status.code(), "{}", file.display());
        let document = serde_json::from_slice(&replay(&file, &["-o", "json"]).stdout).unwrap();
        let mut foreign = Vec::new();
        names(&document, "", &mut foreign);
        // The longest first: they contain others. Single words are no sentences.
        foreign.retain(|name| name.contains(' '));
        foreign.sort_by_key(|name| std::cmp::Reverse(name.len()));
        assert_eq!(english(&text, &foreign), [""; 0], "{}", file.display());
        golden(&file, "zh.txt", &text);
        for format in ["markdown", "junit", "svg", "dot"] {
            let output = replay(&file, &["--lang", "zh", "-o", format]);
            let text = String::from_utf8(output.stdout).unwrap();
            // Of formats that are no prose, what has words in Chinese.
            let parts = if format == "markdown" {
                vec![text.as_str()]
            } else {
                text.split(['<', '>', '"']).collect()
            };
            let shown: String = parts.into_iter().filter(|part| part.contains(is_han)).collect();
            let shown = shown.replace("&gt;", ">").replace("&lt;", "<").replace("&quot;", "\"");
            let shown = shown.replace("\\n", "\n").replace("\\l", "\n").replace('\\', "");
            assert!(shown.contains(is_han), "{format}: {shown}");
            assert_eq!(english(&shown, &foreign), [""; 0], "{format} of {}", file.display());
        }
    }
}

fn is_han(c: char) -> bool {
    ('\u{4e00}'..='\u{9fff}').contains(&c)
}

/// Takes the words of all texts out of a document.
fn take_words(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(members) => {
            if members.contains_key("id") {
                members.remove("text");
            }
            members.values_mut().for_each(take_words);
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(take_words),
        _ => {}
    }
}

#[test]
fn documents_differ_by_language_in_nothing_but_words() {
    for file in recordings() {
        let document = |options: &[&str]| -> serde_json::Value {
            serde_json::from_slice(&replay(&file, &[&["-o", "json"], options].concat()).stdout).unwrap()
        };
        let (mut english, mut chinese) = (document(&[]), document(&["--lang", "zh"]));
        if let Some(fault) = chinese.get("faultPoint") {
            assert!(fault["advice"]["text"].as_str().unwrap().contains(is_han), "{fault}");
            assert!(fault["ground"]["text"].as_str().unwrap().contains(is_han), "{fault}");
        }
        assert_ne!(chinese, english);
        take_words(&mut english);
        take_words(&mut chinese);
        assert_eq!(chinese, english, "{}", file.display());
    }
}

#[test]
fn the_language_may_be_in_the_environment() {
    let file = PathBuf::from(FOLDER).join("no-listener-routed.json.gz");
    let said = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waymark"));
        command.arg("replay").arg(&file).env("WAYMARK_LANG", name).env("HOME", "/nonexistent");
        command.output().unwrap()
    };
    assert_eq!(said("zh").stdout, replay(&file, &["--lang", "zh"]).stdout);
    let wrong = said("xx");
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("[possible values: en, zh]"));
}

#[test]
fn exit_codes_and_documents_are_those_of_a_check() {
    let file = PathBuf::from(FOLDER).join("no-listener-routed.json.gz");
    assert_eq!(replay(&file, &["--expect", "unreachable"]).status.code(), Some(0));
    let output = replay(&file, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let result: waymark_proto::CheckResult = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result.fault_point.unwrap().cause, waymark_proto::Cause::NoListener);
}

#[test]
fn recordings_tell_nothing_of_the_machine_that_made_them() {
    for file in recordings() {
        let mut text = String::new();
        let bytes = std::fs::read(&file).unwrap();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*bytes), &mut text).unwrap();
        assert!(!text.contains("\"/"), "a path in {}", file.display());
        assert_eq!(text.matches("\"kernel\":").count(), text.matches("\"kernel\":\"0.0.0\"").count());
        let names = text.match_indices("\"netns\":\"").map(|(at, found)| &text[at + found.len()..]);
        for name in names {
            assert!(name.starts_with("wm-golden-"), "{}: {}", file.display(), &name[..30]);
        }
    }
}

/// A gibibyte of spaces, packed a piece at a time: a machine that also does other things may not have room for it.
fn bomb() -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    let piece = vec![b' '; 1 << 20];
    for _ in 0..1 << 10 {
        packer.write_all(&piece).unwrap();
    }
    packer.finish().unwrap()
}

#[test]
fn files_that_are_no_recordings_are_told_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read(PathBuf::from(FOLDER).join("no-listener-routed.json.gz")).unwrap();
    let mut document = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*good), &mut document).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(document.contains(from), "{from}");
        document.replacen(from, to, 1).into_bytes()
    };
    let long = "a".repeat(100_000);
    let with_unknown_field = format!("{{\"{long}\\n\":1,");
    let version = "waymark.io/recording/v1alpha1";
    let table: [(&str, Vec<u8>, &str); 16] = [
        ("nothing", Vec::new(), "not a complete recording: EOF"),
        ("no JSON", b"not JSON".to_vec(), "not a complete recording: expected"),
        ("no text", vec![0xff; 1000], "not a complete recording: expected"),
        ("a list", b"[1, 2]".to_vec(), "not a complete recording: "),
        ("another document", b"{}".to_vec(), "missing field `apiVersion`"),
        ("a result", br#"{"apiVersion": "waymark.io/v1alpha1"}"#.to_vec(), "a document of version"),
        ("another version", changed(version, &long), "this program replays"),
        ("an unknown field", changed("{", &with_unknown_field), "unknown field `aaa"),
        ("a wrong value", changed("\"oneWay\":false", "\"oneWay\":\"no\""), "invalid type: string"),
        ("half of it", document.as_bytes()[..document.len() / 2].to_vec(), "not a complete recording: EOF"),
        ("half packed", good[..good.len() / 2].to_vec(), "cannot be decompressed"),
        ("packed and more", [&*good, b"more"].concat(), "cannot be decompressed"),
        ("deep", "[".repeat(1 << 20).into_bytes(), "not a complete recording: "),
        ("large", vec![b' '; 61 << 20], "larger than 60 MiB"),
        ("a bomb", bomb(), "larger than 60 MiB"),
        ("contradictory", changed("\"name\":\"node2\"", "\"name\":\"node1\""), "is there twice"),
    ];
    for (what, bytes, words) in table {
        let file = folder.path().join("x");
        std::fs::write(&file, bytes).unwrap();
        let output = replay(&file, &[]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(65), "{what}: {message}");
        assert!(output.stdout.is_empty(), "{what}");
        assert!(message.starts_with("waymark: error: ") && message.contains(words), "{what}: {message}");
        assert!(
            message.trim_end().lines().count() == 1 && message.chars().count() < 400,
            "{what}: {message}"
        );
    }
    for missing in [folder.path().join("nowhere"), folder.path().to_owned()] {
        let output = replay(&missing, &[]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(66), "{message}");
        assert!(message.starts_with("waymark: error: cannot read "), "{message}");
    }
}

#[test]
fn a_name_that_promises_another_compression_is_refused() {
    let check = ["check", "pod/a/b", "1.2.3.4", "--record", "x.json.zst"];
    let output = Command::new(env!("CARGO_BIN_EXE_waymark")).args(check).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{message}");
    assert!(message.contains("recordings are compressed by gzip"), "{message}");
}
