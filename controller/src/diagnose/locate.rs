//! Where one walk ended, and why.
//!
//! The ground for an answer, best first: the kernel reported the drop; the sending system call failed; the
//! packet vanished where the prediction has it die; it vanished between two hooks, of which the second was
//! watched. If the second was not watched, nothing is said.

use waymark_proto::texts::model::BeforeTraces;
use waymark_proto::{
    Action, Branch, Cause, Confidence, Detour, Direction, Disposition, FaultPoint, Flow, Hook, Span, SpanEnd,
    Step, Text, text,
};

use super::blame::{explains, strays, vanished_misled};
use super::errno;
use super::sight::See;
use super::trail::Trail;
use super::{Case, Leg};
use crate::observe::Walk;
use crate::reasons::{self, Meaning};

/// What became of one packet on one way.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// It came to its receiver.
    Delivered,
    /// It died there.
    Died(Box<Fault>),
    /// Sight did not suffice; why.
    Unknown(Text),
}

/// A fault point in the making.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) point: FaultPoint,
    /// The packet's headers at that place.
    pub(super) flow: Flow,
}

impl Case<'_> {
    /// Finds where a walk ended.
    pub(super) fn locate(&self, trail: &Trail<'_>) -> Fate {
        if trail.walk.delivered() {
            return Fate::Delivered;
        }
        let predicted = trail.predicted.as_ref();
        let clash = self.clash(trail);
        let death = clash.as_ref().or(trail.walk.death()).filter(|_| !trail.is_flooded());
        let predicted = predicted.map_or_else(
            || death.and_then(|death| self.sent_astray(trail, death)),
            |predicted| Some(self.really(trail, predicted)),
        );
        let predicted = predicted.or_else(|| vanished_misled(trail));
        let predicted = predicted.as_ref();
        // What the prediction has go astray is explained by it.
        let explained = predicted.is_some_and(|predicted| strays(predicted, predicted));
        if let Some(fault) = Some(trail).filter(|_| !explained).and_then(|trail| self.diverted(trail)) {
            return Fate::Died(Box::new(fault));
        }
        let fault = match (death, trail.send_error) {
            (Some(death), _) => self.reported(trail, death, predicted),
            (None, Some(error)) => self.refused(trail, error, predicted),
            (None, None) => match self.vanished(trail, predicted) {
                Ok(fault) => fault,
                Err(why) => return Fate::Unknown(why),
            },
        };
        Fate::Died(Box::new(fault))
    }

    /// What becomes of an application's packets where the prober's are routed otherwise: the prediction alone can tell,
    /// and only if all that it thinks possible end badly.
    pub(super) fn foretold(&self, walk: &Walk, branches: &[Branch], detour: &Detour) -> Fate {
        let Detour { application, prober } = detour;
        let ends = |branches: &[Branch], direction| -> Option<Vec<Step>> {
            branches.iter().map(|branch| self.predicted_death(&branch.path, direction)).collect()
        };
        let answers =
            || -> Vec<Branch> { branches.iter().flat_map(|branch| branch.answer.clone()).collect() };
        let all_deliver = branches.iter().all(|branch| branch.path.disposition() == Disposition::Delivered);
        let directions = [
            (Direction::Forward, ends(branches, Direction::Forward)),
            (Direction::Return, ends(&answers(), Direction::Return).filter(|_| all_deliver && !self.one_way)),
        ];
        let death = directions.into_iter().find_map(|(direction, deaths)| {
            let death = deaths?.into_iter().next()?;
            Some((direction, death))
        });
        let Some((direction, death)) = death else {
            return Fate::Unknown(text!(note::RoutedPast { application, prober }));
        };
        let trail = Trail {
            direction,
            walk,
            path: None,
            alignment: None,
            predicted: None,
            receiver: None,
            send_error: None,
        };
        let mut fault = self.fault(&trail, &death, Confidence::Medium, text!(ground::ForetoldAlone));
        fault.point.evidence.push(text!(evidence::RoutedPast { application, prober }));
        Fate::Died(Box::new(fault))
    }

    /// Who sent a packet to a stranger that the prediction has it come to, without knowing that it dies there.
    fn sent_astray(&self, trail: &Trail<'_>, death: &Step) -> Option<Step> {
        let ends_there = trail.path.is_some_and(|path| path.last().place == death.place);
        Some(self.really(trail, death)).filter(|blamed| ends_there && blamed != death)
    }

    /// A drop that the kernel or a rule reported.
    fn reported(&self, trail: &Trail<'_>, death: &Step, predicted: Option<&Step>) -> Fault {
        let words = reported_in_words(death);
        let traced = death.function.is_none();
        let alone = || if traced { text!(ground::Traced) } else { text!(ground::Reported) };
        let Some(predicted) = predicted else {
            // Where the kernel names neither a cause nor, for certain, a place, that it dropped the packet is all it says.
            let vague = death.cause == Some(Cause::KernelDrop) && is_ambiguous(death);
            let confidence = if vague { Confidence::Medium } else { Confidence::High };
            let mut fault = self.fault(trail, death, confidence, alone());
            fault.point.evidence.push(words);
            if death.cause == Some(Cause::OtherHost)
                && let [.., before, _] = trail.walk.steps.as_slice()
            {
                // Whoever gave the frame its address did so before.
                fault.point.span =
                    Some(Span { last_seen: SpanEnd::from(before), first_missing: SpanEnd::from(death) });
            }
            // Predictions are about packets of ordinary size and TTL.
            let of_its_own = matches!(death.cause, Some(Cause::TtlExpired | Cause::MtuExceeded));
            if trail.path.is_some_and(|path| path.disposition() == Disposition::Delivered) && !of_its_own {
                fault.point.evidence.push(text!(evidence::ExpectedToPass));
            }
            return fault;
        };
        let unseen = self.came_before_traces(trail, death, predicted);
        let agrees = predicted.place == death.place
            && (predicted.hook == death.hook
                || could_be(death, predicted.hook)
                || is_of_the_same_rule(death, predicted)
                || unseen);
        if !agrees && !strays(predicted, death) && !explains(predicted, death) {
            let mut fault = self.fault(trail, death, Confidence::High, alone());
            fault.point.evidence.push(words);
            fault.point.evidence.push(text!(evidence::PredictedElsewhere { step: predicted.words() }));
            return fault;
        }
        let ground = match (agrees, traced) {
            (false, _) => text!(ground::Consequence),
            (true, true) => text!(ground::TracedAsPredicted),
            (true, false) => text!(ground::ReportedAsPredicted),
        };
        let mut fault = self.fault(trail, predicted, Confidence::High, ground);
        if unseen {
            // That no hook shows it is explained.
            let plain = Step { note: None, ..death.clone() };
            fault.point.evidence.push(reported_in_words(&plain));
            fault.point.evidence.push(text!(evidence::BeforeTraces { hook: predicted.hook }));
        } else {
            fault.point.evidence.push(words);
        }
        if agrees {
            fault.point.reason.clone_from(&death.reason);
            fault.point.function.clone_from(&death.function);
            fault.point.device = fault.point.device.take().or_else(|| death.device.clone());
            if let Some(rule) = &death.rule {
                let text = predicted.rule.as_ref().and_then(|rule| rule.text.clone());
                let mut rule = rule.clone();
                rule.text = rule.text.or(text);
                fault.point.rule = Some(rule);
            }
            fault.point.evidence.push(text!(evidence::PredictedHere));
        } else {
            let (hook, step) = (predicted.hook, predicted.words());
            fault.point.evidence.push(text!(evidence::FollowsFrom { hook, step }));
        }
        fault
    }

    /// Whether netfilter dropped a packet right before a hook at which the prediction has a chain drop it that comes
    /// before those which show what comes to the hook.
    fn came_before_traces(&self, trail: &Trail<'_>, death: &Step, predicted: &Step) -> bool {
        let Some((path, alignment)) = trail.path.zip(trail.alignment) else { return false };
        let function = death.function.as_deref().unwrap_or_default();
        let by_netfilter = reasons::meaning(death.reason.as_deref(), function) == Some(Meaning::Netfilter);
        let ahead = path.steps().iter().skip(alignment.progress.map_or(0, |progress| progress + 1));
        let mut between = ahead.take_while(|step| *step != predicted);
        by_netfilter
            && death.place == predicted.place
            && path.last() == predicted
            && predicted.note.as_ref().is_some_and(Text::is::<BeforeTraces>)
            && between.all(|step| self.look.sight.see(step) != See::Passing)
    }

    /// A packet that left the hook where its source was translated, and was dropped by netfilter before it came to a queue:
    /// connection tracking, which confirms connections behind all rules, has another one with those addresses and ports.
    fn clash(&self, trail: &Trail<'_>) -> Option<Step> {
        let [.., translated, death] = trail.walk.steps.as_slice() else { return None };
        let outside = death.cause == Some(Cause::FilterDrop) && death.note == Some(text!(seen::OutsideIp));
        let gave_a_source = translated.hook == Hook::NetfilterPostrouting
            && translated.action == Action::Translated
            && translated.place == death.place
            && translated.outer.is_none();
        let device = translated.device.as_deref().or(death.device.as_deref())?;
        if !outside || !gave_a_source || self.cluster.has_chains_behind(&death.place, device) {
            return None;
        }
        Some(Step {
            action: Action::Dropped,
            cause: Some(Cause::NoFreePort),
            reason: death.reason.clone(),
            function: death.function.clone(),
            ..translated.clone()
        })
    }

    /// The sending system call failed and no drop was reported.
    fn refused(&self, trail: &Trail<'_>, error: &str, predicted: Option<&Step>) -> Fault {
        let words = text!(evidence::SendingFailed { error });
        let here = predicted.filter(|step| step.place == *self.source);
        let step = here.cloned().unwrap_or_else(|| {
            let (hook, cause) = errno::meaning(error);
            let mut step = Step::new(self.source.clone(), hook, Action::Dropped);
            step.cause = Some(cause);
            step.flow = Some(self.flow);
            step
        });
        let (confidence, ground) = match here {
            Some(_) => (Confidence::High, text!(ground::SendRefusedAsPredicted)),
            None => (Confidence::Medium, text!(ground::SendRefused)),
        };
        let mut fault = self.fault(trail, &step, confidence, ground);
        fault.point.evidence.push(words);
        if here.is_some() {
            fault.point.evidence.push(text!(evidence::PredictedHere));
        }
        fault
    }

    /// A packet that came to its receiver's stack and was not answered, where the prediction has the socket or
    /// the kernel's responder refuse it: no hook tells such a refusal from a delivery.
    pub(super) fn refused_by_receiver<'a>(&self, leg: Leg<'a>) -> Leg<'a> {
        let path = leg.fit.as_ref().map(|(branch, _)| &branch.path);
        let predicted = path.and_then(|path| self.predicted_death(path, Direction::Forward));
        let here = |step: &Step| {
            step.hook == Hook::Socket && leg.walk.steps.last().is_some_and(|last| last.place == step.place)
        };
        let Some(death) = predicted.filter(|step| leg.fate == Fate::Delivered && here(step)) else {
            return leg;
        };
        let trail = Trail {
            direction: Direction::Forward,
            walk: leg.walk,
            path,
            alignment: None,
            predicted: None,
            receiver: None,
            send_error: None,
        };
        let mut fault = self.fault(&trail, &death, Confidence::High, text!(ground::VanishedAsPredicted));
        fault.point.evidence.push(text!(evidence::ReceiverSilent));
        fault.point.evidence.push(text!(evidence::PredictedRefused));
        Leg { fate: Fate::Died(Box::new(fault)), ..leg }
    }

    /// The fault point of a step on a leg that is located already.
    pub(super) fn fault_of(
        &self,
        leg: &super::Leg<'_>,
        direction: Direction,
        step: &Step,
        confidence: Confidence,
        ground: Text,
    ) -> Fault {
        let trail = Trail {
            direction,
            walk: leg.walk,
            path: None,
            alignment: None,
            predicted: None,
            receiver: None,
            send_error: None,
        };
        self.fault(&trail, step, confidence, ground)
    }

    /// The fault point of a step that ends a walk.
    pub(super) fn fault(
        &self,
        trail: &Trail<'_>,
        step: &Step,
        confidence: Confidence,
        ground: Text,
    ) -> Fault {
        let point = FaultPoint {
            node: step.place.node.clone(),
            netns: step.place.netns.clone(),
            pod: self.inventory.pod_at(&step.place).map(waymark_proto::Pod::full_name),
            device: step.device.clone(),
            hook: step.hook,
            direction: trail.direction,
            span: None,
            cause: step.cause.unwrap_or(Cause::Unknown),
            reason: step.reason.clone(),
            function: step.function.clone(),
            rule: step.rule.clone(),
            object: step.object.clone(),
            culprit: None,
            // What to do depends on all else, and is said when that is known.
            advice: Text::default(),
            confidence,
            ground: Some(ground),
            evidence: Vec::new(),
        };
        let mut point = point;
        let meant = step.flow.or(trail.walk.steps.iter().rev().find_map(|step| step.flow));
        if point.cause == Cause::ForwardingDisabled
            && let Some(flow) = meant
            && self.inventory.owner(flow.dst).as_ref() == Some(&step.place)
        {
            // It did not go astray, it came home, and home has lost its address.
            point.cause = Cause::AddressMissing;
            point.object = Some(text!(object::AddressOfNoDevice { ip: flow.dst }));
        }
        let seen = trail.walk.steps.iter().rev().find_map(|step| step.flow);
        let asked = match trail.direction {
            Direction::Forward => self.flow,
            Direction::Return => self.flow.reversed(),
        };
        Fault { point, flow: step.flow.or(seen).unwrap_or(asked) }
    }
}

/// A drop as it was reported.
pub(super) fn reported_in_words(death: &Step) -> Text {
    let mut words = match &death.function {
        Some(function) => {
            let reason = death.reason.as_deref();
            let meaning = reason.and_then(reasons::in_words);
            text!(evidence::KernelDropped { node: &death.place.node, function, reason, meaning })
        }
        None => text!(evidence::TraceEnds { netns: &death.place.netns, hook: death.hook }),
    };
    if let Some(note) = &death.note {
        words = text!(evidence::WithNote { evidence: words, note });
    }
    words
}

/// Whether the rule that was seen to drop a packet is the one that was predicted to: rules say better than hooks where
/// it was.
fn is_of_the_same_rule(death: &Step, predicted: &Step) -> bool {
    death.rule.as_ref().zip(predicted.rule.as_ref()).is_some_and(|(seen, meant)| {
        seen.handle.is_some()
            && (&seen.family, &seen.table, &seen.chain, seen.handle)
                == (&meant.family, &meant.table, &meant.chain, meant.handle)
    })
}

/// Whether the kernel's words for an observed drop leave open what it was.
fn is_ambiguous(death: &Step) -> bool {
    let reason = death.reason.as_deref().filter(|reason| *reason != reasons::NO_REASON);
    death.function.as_deref().is_some_and(|function| {
        reason.is_none() && matches!(reasons::meaning(None, function), Some(Meaning::Ambiguous(..)) | None)
    })
}

/// Whether an observed drop that does not say well where in its namespace it happened could have been at a
/// hook.
fn could_be(death: &Step, hook: Hook) -> bool {
    let function = death.function.as_deref().unwrap_or_default();
    match reasons::meaning(death.reason.as_deref(), function) {
        Some(Meaning::At(..)) => false,
        Some(Meaning::Netfilter) => hook.is_netfilter() && death.note == Some(text!(seen::GuessedHook)),
        Some(Meaning::Ambiguous(..)) | None => true,
    }
}
