//! One walk beside its prediction.

use waymark_proto::{Cause, Direction, Disposition, Hook, Path, Place, Step, Text};

use super::align::Alignment;
use crate::observe::Walk;

/// One walk beside its prediction.
pub(super) struct Trail<'a> {
    pub(super) direction: Direction,
    pub(super) walk: &'a Walk,
    pub(super) path: Option<&'a Path>,
    pub(super) alignment: Option<&'a Alignment>,
    /// The step at which the prediction has the walk die.
    pub(super) predicted: Option<Step>,
    /// For an answer: the step at which its sender took the packet.
    pub(super) receiver: Option<&'a Step>,
    /// The error of the sending system call.
    pub(super) send_error: Option<&'a str>,
}

impl Trail<'_> {
    /// Whether the prediction has the packet come out of a namespace.
    pub(super) fn leaves(&self, place: &Place) -> bool {
        self.path.is_some_and(|path| {
            path.disposition() == Disposition::Delivered
                || path.steps().iter().any(|step| step.place != *place)
        })
    }

    /// Why the prediction does not know further.
    pub(super) fn doubt(&self) -> Option<&Text> {
        self.path.and_then(|path| path.last().note.as_ref())
    }

    /// Whether the walk ends with the copies of a frame that was flooded: what refused them was off the path, so they
    /// tell nothing about the packet.
    pub(super) fn is_flooded(&self) -> bool {
        let refused = self.walk.death().filter(|death| death.cause == Some(Cause::OtherHost));
        refused.is_some_and(|death| !self.is_on_path(&death.place)) && self.comes_from_several_ports()
    }

    pub(super) fn is_on_path(&self, place: &Place) -> bool {
        self.path.is_none_or(|path| path.steps().iter().any(|step| step.place == *place))
    }

    /// Whether what was seen behind the last step on the path may come from who sends one frame to several: a bridge,
    /// a switch between nodes, a tunnel with many remotes.
    pub(super) fn comes_from_several_ports(&self) -> bool {
        let Some((path, alignment)) = self.path.zip(self.alignment) else { return true };
        let Some(progress) = alignment.progress else { return true };
        let is_device = |step: &Step| matches!(step.hook, Hook::Qdisc | Hook::DriverTx | Hook::DriverRx);
        // Netfilter on a bridge's behalf is seen around its decision.
        let steps = path.steps();
        let from = steps[..=progress].iter().rposition(is_device).unwrap_or(0);
        let to = steps.iter().skip(progress + 1).position(is_device);
        let to = to.map_or(steps.len(), |ahead| progress + 1 + ahead);
        let floods = |step: &Step| matches!(step.hook, Hook::Bridge | Hook::Wire | Hook::Tunnel);
        // A device whose frames go on to another one of its host is a bridge, whether or not it was predicted.
        let farthest = alignment.matched.iter().flatten().max().map_or(0, |last| last + 1);
        let goes_on = |pair: &[Step]| {
            (pair[0].hook, pair[1].hook) == (Hook::DriverTx, Hook::Qdisc)
                && pair[0].place == pair[1].place
                && pair[0].device != pair[1].device
                && pair[0].outer.is_some() == pair[1].outer.is_some()
        };
        steps[from..to].iter().any(floods) || self.walk.steps[farthest..].windows(2).any(goes_on)
    }

    /// Whether the packet was seen where the prediction does not have it, after all that it has.
    pub(super) fn went_beyond(&self) -> bool {
        if self.is_flooded() {
            return false;
        }
        let Some(alignment) = self.alignment else { return true };
        let farthest = alignment.matched.iter().flatten().max();
        alignment.unexpected.iter().max() > farthest && !alignment.unexpected.is_empty()
    }
}
