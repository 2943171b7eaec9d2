//! Packets that arrived and are of no use: at somebody else than they were meant for, or as an answer that the
//! asking socket does not take.

use waymark_proto::{Action, Cause, Confidence, Direction, FaultPoint, Flow, Hook, Step, Text, text};

use super::locate::{Fate, Fault};
use super::{Case, Leg, Packet, Sent};

impl<'a> Case<'a> {
    /// A packet that somebody else received than it was meant for.
    pub(super) fn misdelivered(&self, mut leg: Leg<'a>) -> Leg<'a> {
        let refused = match &leg.fate {
            Fate::Delivered => false,
            // Who has no socket for it has taken it for its own all the same.
            Fate::Died(fault) if fault.point.cause == Cause::NoListener => true,
            Fate::Died(_) | Fate::Unknown(_) => return leg,
        };
        let Some(last) = leg.walk.steps.last().filter(|last| last.outer.is_none()) else { return leg };
        if self.receivers.is_empty() || self.receivers.contains(&last.place) {
            return leg;
        }
        let (place, meant) = (&last.place, self.receivers);
        let words = if last.hook == Hook::Wire {
            text!(evidence::AnsweredBeyond { place, meant })
        } else {
            text!(evidence::Misdelivered { refused, place, meant })
        };
        let mut astray = self.led_astray(&leg, last);
        astray.cause = Some(Cause::WrongReceiver);
        leg.fate = self.mismatch(&leg, Direction::Forward, astray, words, text!(ground::Misdelivered));
        leg
    }

    /// The step that brought a packet to a receiver that it was not meant for.
    fn led_astray(&self, leg: &Leg<'a>, last: &Step) -> Step {
        let ours = |flow: Flow| self.inventory.owner(flow.dst).is_some_and(|p| self.receivers.contains(&p));
        let before = leg.walk.steps.iter().enumerate().rev().skip(1);
        // A hook that it came into and not out of has taken it: nothing behind that decided anything.
        let taken = before.clone().find(|(_, step)| step.place == last.place && step.outer.is_none());
        let taken = taken.filter(|(_, step)| step.hook.is_netfilter() && step.action == Action::Unknown);
        let taken = taken.map(|(index, step)| leg.with_rule(index, step));
        // Who rewrote the destination is to blame only for one that is not the receiver's.
        let rewritten = || leg.rewritten().filter(|_| !last.flow.is_some_and(ours));
        let route = || {
            let mut route = last.clone();
            if last.hook == Hook::Socket {
                route.hook = Hook::Route;
                let local =
                    |flow: Flow| Text::verbatim(format!("local {} in {}", flow.dst, last.place.netns));
                route.object = route.flow.map(local);
            } else {
                route.device = before.clone().find_map(|(_, step)| step.device.clone());
            }
            route
        };
        taken.or_else(rewritten).unwrap_or_else(route)
    }

    /// An answer whose addresses or ports are not the question's.
    pub(super) fn refused_by_asker(&self, mut leg: Leg<'a>, forward: &Leg<'a>, sent: &Sent) -> Leg<'a> {
        let Some(last) = leg.walk.steps.last().filter(|_| leg.fate == Fate::Delivered) else { return leg };
        let mut question = self.flow;
        question.src_port = sent.source_port;
        if !question.protocol.has_ports() {
            question.dst_port = sent.source_port;
        }
        let expected = question.reversed();
        let Some(answer) = last.flow.filter(|answer| *answer != expected) else { return leg };
        let words = text!(evidence::AnswerDiffers { answer, expected });
        let mut culprit = leg.rewritten().or_else(|| forward.rewritten()).unwrap_or_else(|| last.clone());
        culprit.cause = Some(Cause::AnswerMismatch);
        leg.fate = self.mismatch(&leg, Direction::Return, culprit, words, text!(ground::AnswerDiffers));
        leg
    }

    /// Where the answer of a packet was rewritten to what belongs to no connection: an answer goes back through every
    /// translation that its question came through, so all that it may be is its question reversed, as somebody saw it.
    pub(super) fn foreign(&self, packet: &Packet<'a>) -> Option<FaultPoint> {
        let back = packet.back.as_ref()?;
        let questions = || packet.forward.walk.steps.iter().filter_map(|step| step.flow);
        let ends = |flow: Flow| {
            let ports = flow.protocol.has_ports().then_some((flow.src_port, flow.dst_port));
            (flow.src, flow.dst, ports)
        };
        let known = |flow: Flow| questions().any(|question| ends(question.reversed()) == ends(flow));
        let mut steps = back.walk.steps.iter().enumerate();
        let translated = steps.find(|(index, step)| {
            let predicted = back.predicted(*index).is_some_and(|p| p.action == Action::Translated);
            step.action == Action::Translated && !predicted && step.flow.is_some_and(|flow| !known(flow))
        });
        let Some((index, step)) = translated else { return self.changed_answer(back, &packet.forward) };
        let mut culprit = back.with_rule(index, step);
        culprit.cause = Some(Cause::AnswerMismatch);
        let ground = text!(ground::AnswerRewritten);
        Some(self.fault_of(back, Direction::Return, &culprit, Confidence::High, ground).point)
    }

    fn mismatch(
        &self,
        leg: &Leg<'a>,
        direction: Direction,
        mut step: Step,
        words: Text,
        ground: Text,
    ) -> Fate {
        step.action = Action::Dropped;
        let mut fault: Fault = self.fault_of(leg, direction, &step, Confidence::High, ground);
        fault.point.evidence.push(words);
        Fate::Died(Box::new(fault))
    }
}

impl Leg<'_> {
    /// A step with its rule. One that keeps or rewrites a packet without a verdict leaves no trace; where the
    /// prediction could not go on, it knows at which rule.
    fn with_rule(&self, index: usize, step: &Step) -> Step {
        let ends = self.predicted(index).filter(|predicted| !predicted.action.continues());
        Step { rule: ends.and_then(|ends| ends.rule.clone()).or_else(|| step.rule.clone()), ..step.clone() }
    }

    /// The predicted step of an observed one.
    fn predicted(&self, index: usize) -> Option<&Step> {
        let (branch, alignment) = self.fit.as_ref()?;
        let at = alignment.matched.iter().position(|matched| *matched == Some(index))?;
        branch.path.steps().get(at)
    }

    /// The last step that was seen to rewrite the packet and was not predicted to.
    fn rewritten(&self) -> Option<Step> {
        let steps = self.walk.steps.iter().enumerate().rev();
        let translated = || steps.clone().filter(|(_, step)| step.action == Action::Translated);
        let surprising = translated()
            .find(|(index, _)| self.predicted(*index).is_none_or(|step| step.action != Action::Translated));
        surprising.or_else(|| translated().next()).map(|(_, step)| step.clone())
    }
}
