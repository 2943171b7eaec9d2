//! Command lines that make no sense, as all programs tell them: one sentence, exit code 64.

use std::io::Write;

use clap::error::{ContextValue, ErrorKind};

use crate::short;

/// Exit code for a command line that makes no sense (`EX_USAGE` of `sysexits.h`).
pub const USAGE: u8 = 64;

/// Reads the command line of `program`. If that gives nothing to do, what there is to say was printed, and
/// the exit code is given: help and version are no errors.
///
/// # Errors
/// With the exit code, as said.
pub fn parse<T: clap::Parser>(program: &str) -> Result<T, u8> {
    let matches = T::command().bin_name(program).try_get_matches();
    matches.and_then(|matches| T::from_arg_matches(&matches)).map_err(|error| {
        let code = if error.use_stderr() { USAGE } else { 0 };
        // A closed pipe is the reader's choice.
        if code == 0 || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            // Nothing was asked, so the help is the answer.
            let _ = error.print();
        } else {
            let _ = writeln!(std::io::stderr(), "{program}: error: {}", misunderstood(&error));
        }
        code
    })
}

/// The first of clap's paragraphs in one line; the others repeat the help.
fn misunderstood(error: &clap::Error) -> String {
    let mut text = error.to_string();
    for (_, value) in error.context() {
        if let ContextValue::String(value) = value {
            text = text.replace(value.as_str(), &short(value));
        }
    }
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let words = lines.collect::<Vec<_>>().join(" ");
    format!("{}; try --help", words.strip_prefix("error: ").unwrap_or(&words))
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    fn says(arguments: &[&str]) -> String {
        let command = Command::new("x")
            .arg(Arg::new("number").long("number").value_parser(clap::value_parser!(u8)).required(true))
            .arg(Arg::new("file").required(true));
        misunderstood(&command.try_get_matches_from([&["x"], arguments].concat()).unwrap_err())
    }

    #[test]
    fn mistakes_are_told_in_one_line() {
        let missing = says(&[]);
        assert!(missing.contains("--number <number>") && missing.contains("<file>"), "{missing}");
        let long = "a".repeat(100_000);
        for said in
            [missing, says(&["--numbre", "1"]), says(&["--number", "x", "f"]), says(&["--number", &long])]
        {
            assert!(!said.contains('\n') && !said.starts_with("error"), "{said}");
            assert!(said.ends_with("; try --help") && said.len() < 300, "{said}");
        }
    }
}
