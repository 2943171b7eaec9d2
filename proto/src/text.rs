//! What Waymark says to people, in the languages it knows.
//!
//! Answers are made of [`Text`]s: each names an entry of the catalogue, `texts.toml`, and holds what that entry's
//! variables stand for. It is written in English when it is made, which is what logs, statuses and histories show; who
//! prints an answer may have it said in another language, also years later. The catalogue is the one place where
//! the words are: each entry is a type of the module [`texts`], so one that is not there, or is given other variables
//! than it has, does not compile.
//!
//! ```
//! use waymark_proto::{Language, text};
//!
//! let text = text!(evidence::LastSeen { at: "node1/host driver-tx eth0" });
//! assert_eq!(text, "last seen at node1/host driver-tx eth0");
//! assert_eq!(text.say(Language::Zh), "最后一次出现在 node1/host driver-tx eth0");
//! ```
//!
//! What is no prose is the same in all languages: names of hooks and causes, commands, what the kernel and other
//! programs print. Words that came from elsewhere are [`Text::verbatim`]. Error messages, logs, `--help` and progress are
//! English only: they are for those who run Waymark, and are searched for.
//!
//! * `arg`: what variables stand for
//! * `catalogue`: the entries as templates
//! * `words`: what the enums of the vocabulary are called

mod arg;
mod catalogue;
#[cfg(test)]
mod tests;
mod words;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

pub use arg::Arg;
pub use words::{listed, quoted};

/// The entries of the catalogue, a type each.
pub mod texts {
    include!(concat!(env!("OUT_DIR"), "/texts.rs"));
}

/// An entry of the catalogue, as its type.
pub trait Entry {
    /// Its section and name: `evidence.last-seen`.
    const ID: &'static str;
}

/// A language.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// English.
    #[default]
    En,
    /// Chinese, in simplified characters.
    Zh,
}

/// The id of words that are in no catalogue.
const VERBATIM: &str = "verbatim";

/// Something that is said to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Text {
    /// What is said.
    #[serde(rename = "text")]
    words: String,
    /// The entry of the catalogue.
    id: Cow<'static, str>,
    /// What its variables stand for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    args: Args,
}

type Args = BTreeMap<Cow<'static, str>, Arg>;

impl Text {
    /// An entry of the catalogue, in English. [`text!`](crate::text!) is how one writes it.
    fn of<const N: usize>(id: &'static str, args: [(&'static str, Arg); N]) -> Self {
        let args: Args = args.into_iter().map(|(name, arg)| (Cow::Borrowed(name), arg)).collect();
        // That it is there, with these variables, the compiler has seen.
        let words = catalogue::render(id, &args, Language::En);
        debug_assert!(words.is_some(), "{id} cannot be said of {args:?}");
        let words = words.unwrap_or_else(|| id.to_owned());
        Self { words, id: Cow::Borrowed(id), args }
    }

    /// The entry without variables that a section has for a name, if it has one: for names that are told by others,
    /// such as the kernel's.
    pub fn named(section: &str, name: &str) -> Option<Self> {
        let id = format!("{section}.{name}");
        let words = catalogue::render(&id, &Args::new(), Language::En)?;
        Some(Self { words, id: Cow::Owned(id), args: Args::new() })
    }

    /// Words that came from elsewhere: nobody translates them.
    pub fn verbatim(words: impl Into<String>) -> Self {
        Self { words: words.into(), id: Cow::Borrowed(VERBATIM), args: Args::new() }
    }

    /// The entry of the catalogue.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it is this entry of the catalogue: `text.is::<texts::evidence::LastSeen>()`.
    pub fn is<E: Entry>(&self) -> bool {
        self.id == E::ID
    }

    /// What one of its variables stands for; `None` if it has no such variable.
    pub fn arg(&self, name: &str) -> Option<&Arg> {
        self.args.get(name)
    }

    /// The words, in the language in which they were written.
    pub fn as_str(&self) -> &str {
        &self.words
    }

    /// The words in a language. What this program's catalogue does not have, it says as it came.
    pub fn say(&self, language: Language) -> String {
        catalogue::render(&self.id, &self.args, language).unwrap_or_else(|| self.words.clone())
    }
}

impl Default for Text {
    /// Nothing is said.
    fn default() -> Self {
        Self::verbatim("")
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.words
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.words == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.words == *other
    }
}

impl<'de> Deserialize<'de> for Text {
    /// Documents of older versions have a string where a text is now.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Words(String),
            Whole {
                text: String,
                id: String,
                #[serde(default)]
                args: BTreeMap<String, Arg>,
            },
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Words(words) => Self::verbatim(words),
            Written::Whole { text, id, args } => {
                let args = args.into_iter().map(|(name, arg)| (Cow::Owned(name), arg)).collect();
                Self { words: text, id: Cow::Owned(id), args }
            }
        })
    }
}

/// A document with all its texts in a language.
///
/// It is walked as JSON, so that no text of it can be forgotten.
///
/// # Panics
/// Never for the documents of this crate: they are plain data with text keys, and remain what they are.
pub fn translated<T: Serialize + DeserializeOwned>(document: &T, language: Language) -> T {
    serde_json::from_value(translated_json(document, language))
        .expect("what was written is read again: only words changed")
}

/// The same for a document that is only written.
///
/// # Panics
/// Never for the documents of this crate: they are plain data with text keys.
pub fn translated_json(document: &impl Serialize, language: Language) -> Value {
    let mut value = serde_json::to_value(document).expect("documents are plain data with text keys");
    translate(&mut value, language);
    value
}

fn translate(value: &mut Value, language: Language) {
    match value {
        Value::Object(members) => {
            if members.contains_key("id")
                && let Ok(text) = Text::deserialize(&Value::Object(members.clone()))
            {
                members.insert("text".to_owned(), Value::String(text.say(language)));
            }
            members.values_mut().for_each(|member| translate(member, language));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| translate(value, language)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// An entry of the catalogue with what its variables stand for: `text!(evidence::LastSeen { at })`.
#[macro_export]
macro_rules! text {
    ($section:ident::$name:ident) => {
        $crate::Text::from($crate::texts::$section::$name)
    };
    ($section:ident::$name:ident { $($arg:ident $(: $value:expr)?),* $(,)? }) => {
        $crate::Text::from($crate::texts::$section::$name {
            $($arg: $crate::text!(@arg $arg $(, $value)?)),*
        })
    };
    (@arg $arg:ident) => {
        $crate::Arg::from($arg)
    };
    (@arg $arg:ident, $value:expr) => {
        $crate::Arg::from($value)
    };
}
