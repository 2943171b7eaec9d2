//! Two faults at once: the one that a packet meets first is the one to name.

use std::sync::LazyLock;

use serde::Deserialize;

use super::{Fault, fault};

/// Two faults, and which one hides the other.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The fault that a packet meets first: its traffic is asked about, its fault point expected.
    pub first: &'static Fault,
    /// The one behind it.
    pub second: &'static Fault,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pair: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    first: String,
    second: String,
}

static PAIRS: LazyLock<Vec<Pair>> = LazyLock::new(|| {
    let file: File = toml::from_str(super::catalogue::top_file("pairs.toml"))
        .expect("the embedded list of pairs is valid");
    let known = |name: &str| fault(name).expect("a pair is of faults in the catalogue");
    file.pair.iter().map(|entry| Pair { first: known(&entry.first), second: known(&entry.second) }).collect()
});

/// All pairs.
pub fn pairs() -> &'static [Pair] {
    &PAIRS
}

impl Pair {
    /// Both names.
    pub fn name(&self) -> String {
        format!("{} + {}", self.first.name, self.second.name)
    }
}
