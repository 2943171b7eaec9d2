//! What was sent and seen so far, by what was watched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waymark_proto::{HookSet, Losses, Seq, Sighting, Text, text};

use super::CheckError;
use super::round::Round;
use crate::armed::Seen;
use crate::diagnose::{Look, Sent};
use crate::observe::Observed;

/// The packets of rounds in which the same was watched, numbered through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Trials {
    pub(crate) sent: Vec<Sent>,
    pub(crate) seen: Seen,
}

/// All packets of a check, by the hooks that were watched.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks {
    pub(super) light: Trials,
    pub(super) wide: Trials,
    pub(super) all: Trials,
}

impl Trials {
    /// What was seen of its packets, as a diagnosis wants it.
    pub(super) fn look<'a>(&'a self, observed: &'a BTreeMap<Seq, Observed>) -> Look<'a> {
        Look { sent: &self.sent, observed, sight: &self.seen.sight, losses: self.seen.losses }
    }

    /// Whether there was no round.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.seen.notes.is_empty()
    }

    /// Those of a round of its own, beside the check. One that fails says nothing.
    pub(super) fn beside(round: Result<Round, CheckError>) -> Option<Self> {
        let mut trials = Self::default();
        trials.add(round.ok()?);
        Some(trials)
    }

    fn add(&mut self, (sent, seen): Round) {
        let before = self.sent.len() as u32;
        let number = |seq: Seq| Seq(seq.0 + before);
        self.sent.extend(sent.into_iter().map(|sent| Sent { seq: number(sent.seq), ..sent }));
        let renumbered = |mut sighting: Sighting| {
            sighting.marker.seq = number(sighting.marker.seq);
            sighting
        };
        self.seen.sightings.extend(seen.sightings.into_iter().map(renumbered));
        self.seen.sight.add(seen.sight);
        self.seen.losses += seen.losses;
        add_new(&mut self.seen.notes, seen.notes);
    }
}

impl Looks {
    /// Adds a round. One that failed is told as a remark if there were others, which say enough without
    /// it, and then there should be no more: `false`.
    ///
    /// # Errors
    /// The first round failed, or nobody waits for the result any more.
    pub(super) fn take(
        &mut self,
        hooks: HookSet,
        round: Result<Round, CheckError>,
    ) -> Result<bool, CheckError> {
        let first = self.sent() == 0;
        let trials = match hooks {
            HookSet::Light => &mut self.light,
            HookSet::Wide => &mut self.wide,
            HookSet::All => &mut self.all,
        };
        match round {
            Ok(round) => trials.add(round),
            Err(error) if first || matches!(error, CheckError::Cancelled) => return Err(error),
            Err(error) => {
                trials.seen.notes.push(text!(note::NoMorePackets { error: error.to_string() }));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// From little to much that was watched.
    pub(super) fn each(&self) -> [&Trials; 3] {
        [&self.light, &self.wide, &self.all]
    }

    /// How many packets were sent.
    pub(super) fn sent(&self) -> u32 {
        self.each().map(|trials| trials.sent.len() as u32).iter().sum()
    }

    /// The largest packet, in bytes.
    pub(super) fn largest(&self) -> u32 {
        let all = self.each().into_iter().flat_map(|trials| &trials.sent);
        all.map(|packet| packet.size).max().unwrap_or_default()
    }

    /// What was lost of what was seen.
    pub(super) fn losses(&self) -> Losses {
        let mut losses = Losses::default();
        self.each().iter().for_each(|trials| losses += trials.seen.losses);
        losses
    }

    /// Remarks of all rounds, each once.
    pub(super) fn notes(&self) -> Vec<Text> {
        let mut notes = Vec::new();
        self.each().iter().for_each(|trials| add_new(&mut notes, trials.seen.notes.iter().cloned()));
        notes
    }

    /// What was seen while most was watched.
    pub(super) fn sightings(&self) -> &[Sighting] {
        let last = self.each().into_iter().rfind(|trials| !trials.sent.is_empty());
        last.map_or(&[], |trials| &trials.seen.sightings)
    }
}

fn add_new(notes: &mut Vec<Text>, others: impl IntoIterator<Item = Text>) {
    for note in others {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
}
