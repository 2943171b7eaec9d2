//! A check of which all is known that was seen: the same functions, without agents.

use std::collections::BTreeMap;

use waymark_proto::{CheckResult, Inventory, InventoryError, Sighting};

use super::{Examined, Further, Looks, Question, hops, second, survey, witness};
use crate::gather::{GatherError, Picture};
use crate::recording::{Examination, RECORDING_API_VERSION, Recording};

/// Why a recording gives no result.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Its inventory contradicts itself.
    #[error("its inventory is of no use: {0}")]
    Inventory(#[from] InventoryError),
    /// Its facts contradict themselves, or the inventory.
    #[error(transparent)]
    Facts(#[from] GatherError),
}

/// The result of a recorded check: predicted, observed and diagnosed again, as it was when it was recorded.
///
/// # Errors
/// Contradictions that no recorded check has.
pub fn replay(recording: &Recording) -> Result<CheckResult, ReplayError> {
    let Recording { inventory, doubt, check, opinions, routers, witnessed, .. } = recording;
    inventory.check()?;
    let examined = recorded(inventory, check)?;
    let mut result = examined.result();
    second::recall(inventory, &examined, opinions, &mut result)?;
    hops::weigh(&mut result, routers);
    if let Some(witnessed) = witnessed {
        witness::weigh(&mut result, witnessed);
    }
    result.notes.extend(doubt.clone());
    Ok(result)
}

/// What was asked, sent and seen, and what that says now.
pub(super) fn recorded<'a>(
    inventory: &'a Inventory,
    examination: &'a Examination,
) -> Result<Examined<'a>, GatherError> {
    let Examination { id, request, ends, facts, notes, light, wide, all } = examination;
    let mut picture = Picture::of(inventory, facts.clone(), ends, notes.clone())?;
    picture.heed(ends, &survey::dscps(request));
    let question = Question { check: *id, inventory, request, ends: ends.clone(), picture };
    let looks = Looks { light: light.clone(), wide: wide.clone(), all: all.clone() };
    let diagnosis = question.diagnose(&looks);
    Ok(Examined { question, looks, diagnosis })
}

impl Examined<'_> {
    /// All that the result rests on.
    pub(super) fn recording(self, inventory: &Inventory, further: Further) -> Recording {
        let Further { opinions, mut witnessed, routers } = further;
        if let Some(trials) = &mut witnessed {
            number_buffers(&mut trials.seen.sightings);
        }
        Recording {
            api_version: RECORDING_API_VERSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            inventory: inventory.clone(),
            doubt: None,
            check: self.examination(),
            opinions,
            routers,
            witnessed,
        }
    }

    /// The same without the cluster.
    pub(super) fn examination(self) -> Examination {
        let Self { question, looks: Looks { mut light, mut wide, mut all }, .. } = self;
        for trials in [&mut light, &mut wide, &mut all] {
            number_buffers(&mut trials.seen.sightings);
        }
        let Question { check: id, request, ends, picture: Picture { facts, notes, .. }, .. } = question;
        Examination { id, request: request.clone(), ends, facts, notes, light, wide, all }
    }
}

/// Puts a number in place of each buffer's address: which of them are the same is all that matters, and where a
/// kernel has its memory should not leave the machine.
fn number_buffers(sightings: &mut [Sighting]) {
    // 0 is no buffer.
    let mut numbers = BTreeMap::from([(0, 0)]);
    for sighting in sightings {
        let next = numbers.len() as u64;
        sighting.buffer = *numbers.entry(sighting.buffer).or_insert(next);
    }
}
