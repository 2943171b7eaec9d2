//! The catalogue as Rust: each text is a type, each of its variables a field.
//!
//! So a text that is not there, or one that is given other variables than it has, does not compile. What a compiler
//! of Rust does not see is checked here: that every text is there in all languages, with the same variables.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;

use minijinja::Environment;
use serde::Deserialize;

/// The catalogue.
pub const FILE: &str = "texts.toml";

/// One text in all languages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    en: String,
    zh: String,
}

type Catalogue = BTreeMap<String, BTreeMap<String, Entry>>;

/// Writes `texts.rs` for `src/text.rs` to include.
pub fn generate() -> Result<(), Box<dyn Error>> {
    let catalogue: Catalogue =
        toml::from_str(&std::fs::read_to_string(FILE)?).map_err(|error| format!("{FILE}: {error}"))?;
    let mut types = String::new();
    let mut table = String::new();
    for (section, entries) in &catalogue {
        writeln!(types, "/// Texts of the section `{section}`.\npub mod {section} {{")?;
        for (name, entry) in entries {
            let id = format!("{section}.{name}");
            let variables = variables(entry).map_err(|error| format!("{FILE}: {id}: {error}"))?;
            declare(&mut types, &id, name, &variables, entry)?;
            writeln!(table, "({id:?}, [{:?}, {:?}]),", entry.en, entry.zh)?;
        }
        writeln!(types, "}}")?;
    }
    let code = format!("{types}\npub(super) const TEXTS: &[(&str, [&str; 2])] = &[\n{table}];\n");
    let folder = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?;
    std::fs::write(PathBuf::from(folder).join("texts.rs"), code)?;
    Ok(())
}

/// The variables of a text, which are the same in all languages.
fn variables(entry: &Entry) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let of = |template: &str| -> Result<BTreeSet<String>, Box<dyn Error>> {
        let environment = Environment::empty();
        let template = environment.template_from_str(template)?;
        Ok(template.undeclared_variables(false).into_iter().collect())
    };
    let (en, zh) = (of(&entry.en)?, of(&entry.zh)?);
    if en != zh {
        return Err(format!("en has the variables {en:?}, and zh has {zh:?}; they must be the same").into());
    }
    Ok(en)
}

/// Declares the type of a text.
fn declare(
    out: &mut String,
    id: &str,
    name: &str,
    variables: &BTreeSet<String>,
    entry: &Entry,
) -> std::fmt::Result {
    let camel: String = name.split('-').map(capitalized).collect();
    for line in
        [format!("Says `{id}`:").as_str(), "", "```text"].into_iter().chain(entry.en.lines()).chain(["```"])
    {
        writeln!(out, "#[doc = {line:?}]")?;
    }
    writeln!(out, "#[derive(Clone, Debug)]")?;
    if variables.is_empty() {
        writeln!(out, "pub struct {camel};")?;
    } else {
        writeln!(out, "pub struct {camel} {{")?;
        for variable in variables {
            writeln!(out, "/// Stands for `{variable}`.\npub {variable}: super::super::Arg,")?;
        }
        writeln!(out, "}}")?;
    }
    writeln!(out, "impl super::super::Entry for {camel} {{ const ID: &'static str = {id:?}; }}")?;
    let text = if variables.is_empty() { "_text" } else { "text" };
    // A text may have the name of what is meant otherwise: `From`, `None`.
    writeln!(out, "impl ::core::convert::From<{camel}> for super::super::Text {{")?;
    writeln!(out, "fn from({text}: {camel}) -> Self {{")?;
    let pairs = variables.iter().map(|variable| format!("({variable:?}, text.{variable})"));
    writeln!(out, "Self::of({id:?}, [{}]) }} }}", pairs.collect::<Vec<_>>().join(", "))
}

fn capitalized(word: &str) -> String {
    let mut characters = word.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}
