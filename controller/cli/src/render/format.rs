//! The formats of results and predictions.

use clap::ValueEnum;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use waymark_controller::Prediction;
use waymark_proto::{CheckResult, Language, translated};

use super::dot::dot;
use super::drawing::Drawing;
use super::junit::junit;
use super::markdown::markdown;
use super::svg::svg;
use super::{Paint, check, prediction};
use crate::args::Expect;
use crate::failure::{Exit, Failure};
use crate::pretty;

/// Formats of the result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResultFormat {
    /// For people.
    Text,
    /// The document.
    Json,
    /// The same.
    Yaml,
    /// The walk as a graph for Graphviz.
    Dot,
    /// The walk as a picture.
    Svg,
    /// A test report.
    Junit,
    /// For an incident's page.
    Markdown,
}

/// Formats of a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PredictionFormat {
    /// For people.
    Text,
    /// The document.
    Json,
    /// The same.
    Yaml,
    /// The branches as a graph for Graphviz.
    Dot,
    /// The branches as a picture.
    Svg,
}

/// How a result is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// The format.
    pub(crate) format: ResultFormat,
    /// Whether text shows every step.
    pub(crate) explain: bool,
    /// What a test report takes for success.
    pub(crate) expect: Expect,
    /// In which language.
    pub(crate) language: Language,
}

/// A result in its format.
pub(crate) fn result(result: &CheckResult, manner: Manner, paint: Paint) -> Result<String, Failure> {
    let tame = || tame(result);
    let language = manner.language;
    Ok(match manner.format {
        ResultFormat::Text => check(&tame(), manner.explain, paint.in_language(language)),
        ResultFormat::Json => pretty(&in_language(result, language)),
        ResultFormat::Yaml => yaml(&in_language(result, language)),
        ResultFormat::Dot => dot(&Drawing::of_check(&tame(), language)),
        ResultFormat::Svg => svg(&Drawing::of_check(&tame(), language)),
        ResultFormat::Junit => junit(&tame(), manner.expect, language)
            .map_err(|error| Failure::new(Exit::Software, format!("cannot write the report: {error}")))?,
        ResultFormat::Markdown => markdown(&tame(), language),
    })
}

/// A prediction in its format.
pub(crate) fn foresight(
    foreseen: &Prediction,
    format: PredictionFormat,
    language: Language,
    paint: Paint,
) -> String {
    let tame = || tame(foreseen);
    match format {
        PredictionFormat::Text => prediction(&tame(), paint.in_language(language)),
        PredictionFormat::Json => pretty(&in_language(foreseen, language)),
        PredictionFormat::Yaml => yaml(&in_language(foreseen, language)),
        PredictionFormat::Dot => dot(&Drawing::of_prediction(&tame(), language)),
        PredictionFormat::Svg => svg(&Drawing::of_prediction(&tame(), language)),
    }
}

/// A document with its texts in a language. In English it is what the controller said, word by word: a document of
/// another version may have other words.
pub(crate) fn in_language<T: Serialize + DeserializeOwned + Clone>(document: &T, language: Language) -> T {
    if language == Language::En { document.clone() } else { translated(document, language) }
}

/// A document as YAML.
pub(crate) fn yaml(document: &impl Serialize) -> String {
    serde_saphyr::to_string(document).expect("documents are plain data with text keys")
}

/// The same document without control characters: names and rules come from elsewhere, and a terminal would obey
/// what they say, a line break would look like the next line of ours.
pub(crate) fn tame<T: Serialize + DeserializeOwned>(document: &T) -> T {
    let mut value = serde_json::to_value(document).expect("documents are plain data with text keys");
    calm(&mut value);
    serde_json::from_value(value).expect("what was written is read again: only texts changed")
}

fn calm(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(is_wild) => {
            *text = text
                .chars()
                .map(|c| {
                    if c.is_whitespace() {
                        ' '
                    } else if is_wild(c) {
                        '\u{fffd}'
                    } else {
                        c
                    }
                })
                .collect();
        }
        Value::Array(values) => values.iter_mut().for_each(calm),
        Value::Object(members) => members.values_mut().for_each(calm),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether a character controls a terminal, ends a line, or turns the direction of text around.
fn is_wild(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
}
