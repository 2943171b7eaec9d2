//! Partial loss at the fault point: its rate, what it goes with, and whether more packets would tell more.

use std::collections::BTreeMap;

use waymark_proto::{
    ChoiceKind, Direction, FactorKind, FaultPoint, LossReport, Share, SpanEnd, Step, Text, text,
};

use super::factor::{Trial, decisive};
use super::locate::Fault;
use super::{Fate, Packet, same_fault};

/// Losses after which a factor that mattered would have shown: with fewer, chance can hide it.
pub const ENOUGH_LOSSES: u32 = 10;

impl Packet<'_> {
    /// Whether it was seen behind the place of a fault that it did not meet.
    fn came_by(&self, point: &FaultPoint) -> bool {
        let leg = match point.direction {
            // Who is on the way back has left all of the way there behind.
            Direction::Forward if self.forward.fate == Fate::Delivered => return true,
            Direction::Forward => &self.forward,
            Direction::Return => match &self.back {
                Some(back) => back,
                None => return false,
            },
        };
        // Of what vanished between two hooks, who was seen at the second came by; else who went on from the hook itself.
        let step = |end: &SpanEnd, step: &Step| SpanEnd::from(step) == *end;
        if let Some(span) = &point.span {
            return leg.walk.steps.iter().any(|own| step(&span.first_missing, own));
        }
        let at = SpanEnd {
            node: point.node.clone(),
            netns: point.netns.clone(),
            hook: point.hook,
            device: point.device.clone(),
        };
        leg.walk.steps.iter().any(|own| own.action.continues() && step(&at, own))
    }
}

/// What is known of a fault that some packets met and others did not; `None` if all did that came to it.
pub(super) fn loss(packets: &[Packet<'_>], fault: &Fault) -> Option<LossReport> {
    let trials: Vec<Trial> = packets.iter().filter_map(|packet| trial(packet, fault)).collect();
    let lost = trials.iter().filter(|trial| trial.lost).count() as u32;
    let share = Share::new(lost, trials.len() as u32);
    if share.lost == share.of {
        return None;
    }
    let factor = decisive(&trials);
    let wanted = (factor.is_none() && share.lost < ENOUGH_LOSSES)
        .then(|| (ENOUGH_LOSSES * share.of).div_ceil(share.lost.max(1)))
        .map(|all| all.saturating_sub(share.of).max(1));
    Some(LossReport { share, factor, wanted })
}

/// What one packet says about a fault: it met it, or it came by, wherever it died behind it. One that died before it
/// or whose fate is not known says nothing.
fn trial(packet: &Packet<'_>, fault: &Fault) -> Option<Trial> {
    let sent = packet.sent;
    let lost = match packet.fault() {
        Some(own) if same_fault(&own.point, &fault.point) => true,
        Some(_) => packet.came_by(&fault.point).then_some(false)?,
        None => packet.arrived().then_some(false)?,
    };
    let mut values = BTreeMap::from([
        (FactorKind::Size, text!(factor::Bytes { size: sent.size })),
        (FactorKind::Dscp, Text::verbatim(sent.dscp.to_string())),
        (FactorKind::SourcePort, Text::verbatim(sent.source_port.to_string())),
    ]);
    // How it was steered is known as far as it was seen.
    let walks = [Some(&packet.forward), packet.back.as_ref()].into_iter().flatten();
    for choice in walks.flat_map(|leg| &leg.choices) {
        let kind = match choice.kind {
            ChoiceKind::Backend => FactorKind::Backend,
            ChoiceKind::NextHop => FactorKind::NextHop,
            ChoiceKind::Rule => FactorKind::Rule,
        };
        let before = values.get(&kind).map(|value| format!("{value}, ")).unwrap_or_default();
        values.insert(kind, Text::verbatim(before + &choice.taken));
    }
    Some(Trial { lost, values })
}
