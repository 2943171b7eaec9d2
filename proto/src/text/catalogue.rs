//! The entries of the catalogue as templates, one set for each language.

use std::sync::LazyLock;

use minijinja::value::Value;
use minijinja::{Environment, UndefinedBehavior};

use super::texts::TEXTS;
use super::{Arg, Args, Language};

static TEMPLATES: LazyLock<[Environment<'static>; 2]> =
    LazyLock::new(|| [Language::En, Language::Zh].map(environment));

fn environment(language: Language) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    for (id, words) in TEXTS {
        environment
            .add_template(id, words[language as usize])
            .expect("the build has compiled every template");
    }
    environment
}

/// An entry in a language; `None` if there is no such entry, or it has other variables.
pub(super) fn render(id: &str, args: &Args, language: Language) -> Option<String> {
    let template = TEMPLATES[language as usize].get_template(id).ok()?;
    template
        .render(Value::from_pairs(args.iter().map(|(name, arg)| (name.as_ref(), value(arg, language)))))
        .ok()
}

fn value(arg: &Arg, language: Language) -> Value {
    match arg {
        Arg::Nothing => Value::from(()),
        Arg::Flag(flag) => Value::from(*flag),
        Arg::Number(number) => Value::from(*number),
        Arg::Name(name) => Value::from(name.as_str()),
        Arg::Text(text) => Value::from(text.say(language)),
        Arg::List(args) => args.iter().map(|arg| value(arg, language)).collect(),
        // Then the text cannot be written, and stays as it came.
        Arg::Other(_) => Value::UNDEFINED,
    }
}
