//! One packet of a check, and what became of it.

use waymark_proto::{Choice, FaultPoint, Text};

use super::Sent;
use super::align::Fit;
use super::locate::{Fate, Fault};
use crate::observe::Walk;

/// One packet with all that was found out about it.
pub(super) struct Packet<'a> {
    pub(super) sent: &'a Sent,
    pub(super) forward: Leg<'a>,
    /// Absent if no answer is expected.
    pub(super) back: Option<Leg<'a>>,
}

/// One packet on one way.
pub(super) struct Leg<'a> {
    pub(super) walk: &'a Walk,
    pub(super) fit: Option<Fit<'a>>,
    /// What was chosen on its way, as far as that is certain.
    pub(super) choices: Vec<&'a Choice>,
    pub(super) fate: Fate,
}

impl Packet<'_> {
    pub(super) fn fault(&self) -> Option<&Fault> {
        let died = |leg: &'_ Leg<'_>| matches!(leg.fate, Fate::Died(_));
        let leg = [Some(&self.forward), self.back.as_ref()].into_iter().flatten().find(|leg| died(leg))?;
        match &leg.fate {
            Fate::Died(fault) => Some(fault),
            Fate::Delivered | Fate::Unknown(_) => None,
        }
    }

    /// Takes a fault that others met while more was watched for the one that this packet met, the first of them that lies in
    /// the stretch of the way in which it died.
    pub(super) fn see_through(&mut self, faults: &[Fault]) {
        let legs = [Some(&mut self.forward), self.back.as_mut()];
        for leg in legs.into_iter().flatten() {
            if let Fate::Died(own) = &mut leg.fate
                && let Some(fault) = faults.iter().find(|fault| holds(&own.point, &fault.point))
            {
                **own = fault.clone();
            }
        }
    }

    pub(super) fn arrived(&self) -> bool {
        let delivered = |leg: &Leg<'_>| leg.fate == Fate::Delivered;
        delivered(&self.forward) && self.back.as_ref().is_none_or(delivered)
    }

    pub(super) fn mystery(&self) -> Option<&Text> {
        [Some(&self.forward), self.back.as_ref()].into_iter().flatten().find_map(|leg| match &leg.fate {
            Fate::Unknown(why) => Some(why),
            Fate::Delivered | Fate::Died(_) => None,
        })
    }
}

/// Whether a fault that was seen from afar may be another that was seen closely.
fn holds(afar: &FaultPoint, close: &FaultPoint) -> bool {
    let ends = afar.span.iter().flat_map(|span| [&span.last_seen.node, &span.first_missing.node]);
    afar.direction == close.direction && ends.chain([&afar.node]).any(|node| *node == close.node)
}
