//! Packets that arrive by another way than the prediction has them take: a mark, a program or a redirect that it does
//! not know leads them. Where the ways part, one device was to have them and did not, and another has them instead.
//!
//! A device that was merely not seen proves nothing: a record may be missing, or the prediction be too fine.

use std::collections::BTreeMap;

use waymark_proto::{Anomaly, AnomalyKind, Direction, Disposition, Flow, Hook, Share, Span, SpanEnd, Step};

use super::anomaly::{self, told_of};
use super::sight::See;
use super::{Case, Leg, Packet};
use crate::advice;

/// Where two ways part.
struct Parting<'l> {
    /// The last step that both have.
    last: &'l Step,
    /// The predicted step that was to decide where the packet goes next.
    decision: &'l Step,
    /// The first device that was to have it.
    predicted: &'l Step,
    /// The first that has it instead.
    instead: &'l Step,
    /// The device by which it came to where the ways part.
    came_by: Option<&'l str>,
    flow: Option<Flow>,
}

impl Case<'_> {
    /// What happens to the packets that arrive.
    pub(super) fn anomalies(&self, packets: &[Packet<'_>]) -> Vec<Anomaly> {
        let mut found = anomaly::anomalies(packets, self.flow.protocol);
        // What the prober's packets do tells nothing where an application's are routed otherwise.
        if self.prediction.detour.is_none() {
            found.extend(
                [Direction::Forward, Direction::Return]
                    .map(|way| self.other_way(packets, way))
                    .into_iter()
                    .flatten(),
            );
        }
        found
    }

    /// Where most of the packets leave the predicted way that do.
    fn other_way(&self, packets: &[Packet<'_>], direction: Direction) -> Option<Anomaly> {
        let legs: Vec<&Leg<'_>> = packets
            .iter()
            .filter(|packet| packet.arrived())
            .filter_map(|packet| match direction {
                Direction::Forward => Some(&packet.forward),
                Direction::Return => packet.back.as_ref(),
            })
            .collect();
        let mut groups: BTreeMap<[String; 2], (u32, Parting<'_>)> = BTreeMap::new();
        for parting in legs.iter().filter_map(|leg| self.parting(leg)) {
            let ends =
                [parting.predicted, parting.instead].map(|step| SpanEnd::from(step).words().to_string());
            groups.entry(ends).or_insert((0, parting)).0 += 1;
        }
        let (hit, parting) = groups.into_values().max_by_key(|(hit, _)| *hit)?;
        let share = Share::new(hit, legs.len() as u32);
        told_of(share).then(|| parting.anomaly(direction, share, self.flow))
    }

    /// Where a packet that arrived left the way that was predicted for it.
    fn parting<'l>(&self, leg: &'l Leg<'_>) -> Option<Parting<'l>> {
        let (branch, alignment) = leg.fit.as_ref()?;
        let steps = branch.path.steps();
        if branch.path.disposition() != Disposition::Delivered {
            return None;
        }
        let matched = &alignment.matched;
        let misses = |index: &usize| {
            is_device(&steps[*index])
                && matched[*index].is_none()
                && self.look.sight.see(&steps[*index]) == See::Passing
        };
        (0..alignment.progress?).filter(misses).find_map(|index| {
            let at = matched[..index].iter().rposition(Option::is_some)?;
            let before = matched[..index].iter().flatten().max()?;
            let behind = matched[index..].iter().flatten().min()?;
            let seen = &leg.walk.steps;
            let between = seen.get(before + 1..*behind)?;
            let first = between.iter().find(|step| is_device(step))?;
            let decides = |step: &&Step| {
                matches!(step.hook, Hook::Route | Hook::Neighbour | Hook::Bridge | Hook::Tunnel | Hook::Wire)
            };
            // A route may come before hooks that were passed by either way.
            let device = steps[..index].iter().rposition(is_device).map_or(0, |device| device + 1);
            let ahead = &steps[device.min(index)..index];
            let came_by = steps[..index].iter().rev().find(|step| step.hook == Hook::DriverRx);
            Some(Parting {
                last: &steps[at],
                decision: ahead.iter().find(decides).unwrap_or(&steps[at]),
                predicted: &steps[index],
                instead: first,
                came_by: came_by.and_then(|step| step.device.as_deref()),
                flow: first.flow,
            })
        })
    }
}

impl Parting<'_> {
    fn anomaly(&self, direction: Direction, share: Share, asked: Flow) -> Anomaly {
        let place = &self.decision.place;
        let on_device = matches!(self.decision.hook, Hook::Bridge | Hook::Tunnel | Hook::Wire);
        Anomaly {
            kind: AnomalyKind::OtherWay,
            node: place.node.clone(),
            netns: place.netns.clone(),
            device: self.decision.device.clone().filter(|_| on_device),
            hook: self.decision.hook,
            direction,
            span: Span { last_seen: SpanEnd::from(self.last), first_missing: SpanEnd::from(self.predicted) },
            share,
            delay_ns: None,
            instead: Some(SpanEnd::from(self.instead)),
            object: self.decision.object.clone(),
            advice: advice::of_other_way(place, self.came_by, &self.flow.unwrap_or(asked)),
        }
    }
}

/// Whether a step is a device's: which way a packet goes is which devices have it.
fn is_device(step: &Step) -> bool {
    matches!(step.hook, Hook::Qdisc | Hook::DriverTx | Hook::DriverRx)
}
