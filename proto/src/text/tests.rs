use std::path::{Path, PathBuf};

use serde_json::json;

use super::texts::TEXTS;
use super::*;
use crate::{Disposition, text};

#[test]
fn a_text_is_the_same_in_all_languages_but_for_its_words() {
    let text = text!(evidence::PacketsMet { met: 3_u32, all: 5_u32 });
    assert_eq!(text, "3 of 5 packets met this fault");
    assert_eq!(text.say(Language::Zh), "5 个报文中有 3 个遇到此故障");
    let written = serde_json::to_value(&text).unwrap();
    let whole = json!({
        "text": "3 of 5 packets met this fault",
        "id": "evidence.packets-met",
        "args": {"met": 3, "all": 5},
    });
    assert_eq!(written, whole);
    assert_eq!(serde_json::from_value::<Text>(written).unwrap(), text);
}

#[test]
fn texts_within_texts_are_said_in_the_same_language() {
    let step = text!(step::Did { at: "node1/host route", action: Disposition::NoRoute.words() });
    let text = text!(note::PredictedBut { step, why: text!(note::NothingSeen) });
    assert!(text.starts_with("the prediction has it die at node1/host route no route, but no hook saw"));
    let chinese = text.say(Language::Zh);
    assert!(
        chinese.contains("node1/host route 无路由") && chinese.contains("没有任何挂钩点看到"),
        "{chinese}"
    );
}

#[test]
fn a_text_knows_what_it_is_and_says() {
    let text = text!(factor::Bytes { size: 1450_u32 });
    assert!(text.is::<texts::factor::Bytes>() && !text.is::<texts::evidence::LastSeen>());
    assert_eq!((text.arg("size"), text.arg("at")), (Some(&Arg::Number(1450)), None));
    // Also when it has been written and read.
    let read: Text = serde_json::from_value(serde_json::to_value(&text).unwrap()).unwrap();
    assert!(read.is::<texts::factor::Bytes>());
    assert_eq!(read.arg("size"), text.arg("size"));
}

#[test]
fn documents_are_translated_with_all_that_is_in_them() {
    let document = json!({
        "rule": {"id": 5, "text": "not a text of ours"},
        "evidence": [text!(evidence::SeenNowhere), Text::verbatim("as it came")],
        "old": "a string",
    });
    let chinese = translated(&document, Language::Zh);
    assert_eq!(chinese["evidence"][0]["text"], "没有任何挂钩点看到它");
    assert_eq!(chinese["evidence"][0]["id"], "evidence.seen-nowhere");
    assert_eq!((&chinese["rule"], &chinese["old"]), (&document["rule"], &document["old"]));
    assert_eq!(chinese["evidence"][1], document["evidence"][1]);
    assert_eq!(translated(&chinese, Language::En), document);
}

#[test]
fn what_another_version_said_stays_as_it_came() {
    let read = |value| serde_json::from_value::<Text>(value).unwrap();
    let old = read(json!("a string"));
    assert_eq!((old.id(), old.say(Language::Zh).as_str()), (VERBATIM, "a string"));
    for stranger in [
        json!({"text": "later words", "id": "evidence.of-later", "args": {"some": 1.5, "more": {"a": [null]}}}),
        // The entry is known, its variables were others.
        json!({"text": "later words", "id": "evidence.last-seen", "args": {"place": "a"}}),
        json!({"text": "later words", "id": "evidence.last-seen", "args": {"at": {"a": 1}}}),
        json!({"text": "later words", "id": "evidence.last-seen"}),
    ] {
        let text = read(stranger.clone());
        assert_eq!(text.say(Language::Zh), "later words", "{stranger}");
        assert_eq!(serde_json::to_value(&text).unwrap(), stranger);
    }
    assert!(serde_json::from_value::<Text>(json!({"words": "a"})).is_err());
}

#[test]
fn several_things_are_enumerated() {
    let said = |items: &[&str]| {
        let text = listed(items);
        (text.say(Language::En), text.say(Language::Zh))
    };
    let both = |en: &str, zh: &str| (en.to_owned(), zh.to_owned());
    assert_eq!(said(&[]), both("nothing", "无"));
    assert_eq!(said(&["a"]), both("a", "a"));
    assert_eq!(said(&["a", "b"]), both("a and b", "a 和 b"));
    assert_eq!(said(&["a", "b", "c"]), both("a, b and c", "a、b 和 c"));
    let many = ["a", "b", "c", "d", "e", "f", "g"];
    assert_eq!(said(&many), both("a, b, c, d, e and 2 more", "a、b、c、d、e 等共 7 个"));
}

/// A template without its variables, conditions and commands.
fn prose(template: &str) -> String {
    let mut out = template.to_owned();
    for (open, close) in [("{{", "}}"), ("{%", "%}"), ("`", "`")] {
        while let Some(begin) = out.find(open) {
            let rest = &out[begin + open.len()..];
            let end = rest.find(close).unwrap_or_else(|| panic!("{template}: {open} without {close}"));
            out.replace_range(begin..begin + open.len() + end + close.len(), "\u{1}");
        }
    }
    out
}

/// The longest run of words of English.
fn english(text: &str) -> usize {
    let is_word = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic());
    let runs = text.split(|c: char| !(c.is_ascii_alphanumeric() || " -./_".contains(c)));
    runs.map(|run| run.split(' ').filter(is_word).count()).max().unwrap_or(0)
}

#[test]
fn each_language_is_written_in_its_own() {
    let is_han = |c: char| ('\u{3000}'..='\u{9fff}').contains(&c) || ('\u{ff00}'..='\u{ffef}').contains(&c);
    for (id, [en, zh]) in TEXTS {
        let (en, zh) = (prose(en), prose(zh));
        assert!(!en.contains(is_han), "{id}: {en}");
        assert!(english(&zh) < 3, "{id}: {zh}");
        // What has words in English has them in Chinese: only names are the same.
        let names_alone = matches!(*id, "factor.dscp" | "history.check" | "deviation.policies");
        let has_words = english(&en) > 0;
        assert!(!has_words || names_alone || zh.contains(is_han), "{id}: {zh}");
        // Commands are the same.
        let commands = |template: &str| template.matches('`').count();
        let [en, zh] = TEXTS.iter().find(|(other, _)| other == id).map(|(_, both)| both).unwrap();
        assert_eq!(commands(en), commands(zh), "{id}");
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_entry_is_used() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for folder in ["proto/src", "sim/src", "prober/src", "controller/src", "controller/cli/src"] {
        sources(&workspace.join(folder), &mut files);
    }
    let code: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let unused = |id: &&str| {
        let (section, name) = id.split_once('.').unwrap();
        let mut upper = true;
        let name = name.chars().filter_map(|c| match c {
            '-' => {
                upper = true;
                None
            }
            c if std::mem::take(&mut upper) => Some(c.to_ascii_uppercase()),
            c => Some(c),
        });
        let used = format!("{section}::{}", name.collect::<String>());
        // The kernel's reasons are found by their names.
        section != "reason"
            && !code.match_indices(&used).any(|(at, used)| {
                !code[at + used.len()..].starts_with(|next: char| next.is_ascii_alphanumeric())
            })
    };
    let unused: Vec<&str> = TEXTS.iter().map(|(id, _)| *id).filter(unused).collect();
    assert_eq!(unused, [""; 0]);
}
