//! What the kernel did with one packet, kept with the facts of its node: later predictions are held to it without a kernel.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use waymark_proto::{Facts, Flow, Hook, Inventory, Place, RuleRef, Step};
use waymark_sim::{Cluster, Manner, predict_as};

use super::compare::{Comparison, compare};
use crate::{Error, Result};

/// What was seen of a packet and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Evidence {
    /// Where it was sent.
    pub(super) start: Place,
    /// As it was sent.
    pub(super) flow: Flow,
    /// Its code point.
    pub(super) dscp: u8,
    /// Its TTL or hop limit.
    pub(super) ttl: u8,
    /// Its length.
    #[serde(default)]
    pub(super) len: Option<u16>,
    /// Why the sending system call refused it.
    pub(super) error: Option<String>,
    /// Its way.
    pub(super) forward: Vec<Step>,
    /// The way of its answer.
    pub(super) back: Vec<Step>,
    /// The rules of the node that both matched, in order.
    pub(super) rules: Vec<(Hook, RuleRef)>,
}

/// A case that is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fixture {
    /// What it shows.
    about: String,
    inventory: Inventory,
    facts: Facts,
    evidence: Evidence,
}

/// Writes a fixture. Who listens, and how this run named its namespaces, is left out.
pub(super) fn save(
    file: &Path,
    about: &str,
    inventory: &Inventory,
    facts: &Facts,
    evidence: &Evidence,
    prefix: &str,
) -> Result<()> {
    let mut facts = facts.clone();
    for socket in facts.namespaces.iter_mut().flat_map(|netns| &mut netns.sockets) {
        socket.holder = None;
    }
    let release: Vec<&str> = facts.kernel.split('.').take(2).collect();
    facts.kernel = release.join(".");
    let (inventory, evidence, about) = (inventory.clone(), evidence.clone(), about.to_owned());
    let fixture = Fixture { about, inventory, facts, evidence };
    let text = serde_json::to_string(&fixture).map_err(|error| Error::Fuzz(error.to_string()))?;
    fs::write(file, text.replace(prefix, "fuzz") + "\n").map_err(Error::file("write", file))
}

/// Predicts the way of a fixture's packet again, and compares it with what the kernel did.
///
/// # Errors
/// If they differ, or the file is no fixture.
pub fn check_fixture(file: &Path) -> Result<()> {
    let text = fs::read(file).map_err(Error::file("read", file))?;
    let fault = |why: &str| Error::Fuzz(format!("{}: {why}", file.display()));
    let fixture: Fixture = serde_json::from_slice(&text).map_err(|error| fault(&error.to_string()))?;
    let Fixture { about, inventory, facts, evidence } = fixture;
    let mut cluster = Cluster::new(&inventory);
    cluster.add(facts).map_err(|error| fault(&error.to_string()))?;
    let manner = Manner { dscp: evidence.dscp, ttl: evidence.ttl, len: evidence.len, matches: true };
    let paths = predict_as(&cluster, &evidence.start, &evidence.flow, manner);
    match compare(&paths, &evidence) {
        Comparison::Agrees => Ok(()),
        Comparison::Unknown(why) => {
            Err(fault(&format!("{about}: the prediction does not know to the end: {why}")))
        }
        Comparison::Differs(why) => Err(fault(&format!("{about}: {why}"))),
    }
}
