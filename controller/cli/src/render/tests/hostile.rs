//! Names and rules that want to be more than text.

use pulldown_cmark::{Event, Options, Parser, Tag};
use quick_xml::events::Event as Xml;

use super::*;

const HOSTILE: &str = "<script>alert(\"1\")</script>|`rm -rf`\n# h\r\n| a | b |\u{1b}[31m*b* [x](http://y) ]]>&lt; \\ \"; evil -> s0; }//\u{202e}";

/// A result in which everything that comes from elsewhere is hostile.
fn hostile() -> CheckResult {
    let mut result = unreachable();
    let text = || HOSTILE.to_owned();
    let said = || Text::verbatim(HOSTILE);
    result.source = text();
    result.destination = text();
    result.notes = vec![said()];
    result.model_errors = vec![said()];
    for step in &mut result.forward.steps {
        for step in [&mut step.predicted, &mut step.observed].into_iter().flatten() {
            step.place = Place::new(HOSTILE, HOSTILE);
            step.device = Some(text());
            step.object = Some(said());
            step.reason = step.reason.as_ref().map(|_| text());
        }
    }
    let fault = result.fault_point.as_mut().unwrap();
    (fault.node, fault.netns) = (HOSTILE.into(), HOSTILE.into());
    fault.pod = Some(text());
    fault.device = Some(text());
    fault.object = Some(said());
    fault.evidence = vec![said(), said()];
    fault.advice =
        Text::verbatim(format!("on {HOSTILE}: look with `ip netns exec {HOSTILE} nft list ruleset`"));
    fault.culprit = Some(ObjectRef::namespaced(HOSTILE, HOSTILE, HOSTILE));
    fault.rule.as_mut().unwrap().text = Some(text());
    let deviation = deviation(DeviationKind::PolicyDenied, (HOSTILE, HOSTILE), HOSTILE);
    result.intent = Some(IntentReport {
        intent: serde_json::from_str(r#"{"expectation": "allowed"}"#).unwrap(),
        deviations: vec![deviation],
    });
    result
}

/// As much of it as is left when control characters are gone, in one line.
fn tamed() -> String {
    HOSTILE.replace(['\n', '\r'], " ").replace(['\u{1b}', '\u{202e}'], "\u{fffd}")
}

#[test]
fn terminals_are_told_nothing() {
    for explain in [false, true] {
        let manner =
            Manner { format: ResultFormat::Text, explain, expect: Expect::Reachable, language: Language::En };
        let text = super::super::result(&hostile(), manner, Paint::new(false)).unwrap();
        assert!(text.contains(&tamed()));
        assert_eq!(text.find(|c: char| c.is_control() && c != '\n'), None);
        assert!(!text.lines().any(|line| line.starts_with("# h")), "{text}");
    }
}

#[test]
fn documents_keep_every_character() {
    let value: serde_json::Value = serde_saphyr::from_str(&shown(&hostile(), ResultFormat::Yaml)).unwrap();
    assert_eq!(value, serde_json::to_value(hostile()).unwrap());
}

/// Names of elements, and the text of all of them.
fn xml(document: &str) -> (Vec<String>, Vec<String>) {
    let mut reader = quick_xml::Reader::from_str(document);
    let (mut elements, mut texts, mut text) = (Vec::new(), Vec::new(), String::new());
    loop {
        match reader.read_event().unwrap() {
            Xml::Start(start) | Xml::Empty(start) => {
                elements.push(String::from_utf8(start.name().as_ref().to_vec()).unwrap());
                for attribute in start.attributes() {
                    texts.push(
                        attribute
                            .unwrap()
                            .normalized_value(quick_xml::XmlVersion::Explicit1_0)
                            .unwrap()
                            .into_owned(),
                    );
                }
            }
            Xml::Text(piece) => text.push_str(&piece.decode().unwrap()),
            Xml::GeneralRef(name) => {
                text.push_str(
                    &quick_xml::escape::unescape(&format!("&{};", name.decode().unwrap())).unwrap(),
                );
            }
            Xml::End(_) => texts.push(std::mem::take(&mut text)),
            Xml::Eof => return (elements, texts),
            _ => {}
        }
    }
}

#[test]
fn xml_has_only_elements_of_ours() {
    for (format, known) in [
        (
            ResultFormat::Svg,
            &["svg", "title", "style", "defs", "marker", "path", "rect", "text", "g", "circle"][..],
        ),
        (ResultFormat::Junit, &["testsuites", "testsuite", "testcase", "failure", "system-out"]),
    ] {
        let document = shown(&hostile(), format);
        let (elements, texts) = xml(&document);
        let others: Vec<_> = elements.iter().filter(|name| !known.contains(&name.as_str())).collect();
        assert_eq!(others, [""; 0], "{document}");
        assert!(texts.iter().any(|text| text.contains(&tamed())), "{document}");
    }
}

#[test]
fn markdown_shows_what_it_was_given() {
    let document = shown(&hostile(), ResultFormat::Markdown);
    let (mut text, mut html, mut cells) = (String::new(), Vec::new(), 0);
    for event in Parser::new_ext(&document, Options::ENABLE_TABLES) {
        match event {
            Event::Text(piece) | Event::Code(piece) => text.push_str(&piece),
            Event::Html(piece) | Event::InlineHtml(piece) => html.push(piece.trim().to_owned()),
            Event::Start(Tag::TableCell) => cells += 1,
            Event::Start(Tag::Link { .. } | Tag::Image { .. } | Tag::Heading { .. } | Tag::Emphasis) => {
                panic!("{event:?} in\n{document}")
            }
            _ => {}
        }
    }
    html.retain(|piece| !piece.is_empty());
    let ours = ["<details><summary>The way there, step by step</summary>", "</details>", "<sub>", "</sub>"];
    assert_eq!(html, ours, "{document}");
    assert_eq!(cells % 7, 0, "{document}");
    assert!(text.contains(&tamed().replace('`', "")) || text.contains(&tamed()), "{text}");
}

/// The words of a graph's source: what is quoted, and what is not.
fn dot_words(source: &str) -> (Vec<String>, String) {
    let (mut quoted, mut bare, mut within) = (Vec::new(), String::new(), None::<String>);
    let mut characters = source.chars();
    while let Some(character) = characters.next() {
        match (&mut within, character) {
            (None, '"') => within = Some(String::new()),
            (None, other) => bare.push(other),
            (Some(_), '"') => quoted.extend(within.take()),
            (Some(text), '\\') => {
                text.extend(characters.next().map(|next| if next == 'n' { '\n' } else { next }));
            }
            (Some(text), other) => text.push(other),
        }
    }
    assert_eq!(within, None, "a quote is open");
    (quoted, bare)
}

#[test]
fn graphs_have_only_statements_of_ours() {
    let plain = dot_words(&shown(&unreachable(), ResultFormat::Dot)).1;
    let (quoted, bare) = dot_words(&shown(&hostile(), ResultFormat::Dot));
    assert!(!bare.contains("evil") && !bare.contains("script"), "{bare}");
    assert_eq!(bare.matches("->").count(), plain.matches("->").count());
    let entities = tamed().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    assert!(quoted.iter().any(|text| text.contains(&entities)), "{quoted:?}");
}
