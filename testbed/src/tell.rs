//! Lines for people. A reader that went away wants no more of them; that is no error, and above all it
//! must not stop a clean-up half-way, as a panic of `println!` would.

use std::fmt::Display;
use std::io::{self, Write};

/// A line to stdout.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line to stderr.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line between two parts of a story.
pub(crate) fn chapter(line: impl Display) {
    say(format_args!("\n== {line}"));
}
