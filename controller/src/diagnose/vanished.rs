//! Packets that were seen, and then not any more, without anybody reporting a drop.

use waymark_proto::{
    Action, Cause, Confidence, Direction, Disposition, Hook, Path, Place, Protocol, Span, SpanEnd, Step,
    Text, text,
};

use super::Case;
use super::blame::{is_on_link, strays};
use super::locate::Fault;
use super::sight::See;
use super::suspect::suspect;
use super::trail::Trail;

impl Case<'_> {
    /// Nothing reported a drop: the packet was seen, and then not any more.
    pub(super) fn vanished(&self, trail: &Trail<'_>, predicted: Option<&Step>) -> Result<Fault, Text> {
        let records_lost = self.look.losses.total();
        if records_lost >= self.look.sent.len() as u64 {
            // Any packet may have lost the record that would have told.
            return Err(text!(note::RecordsLostProveNothing { records: records_lost }));
        }
        let Some((path, alignment)) = trail.path.zip(trail.alignment) else {
            return self.unpredicted(trail);
        };
        let steps = path.steps();
        let progress = alignment.progress;
        let next = progress.map_or(0, |index| index + 1);
        let missing = (next..steps.len()).find(|&index| self.look.sight.see(&steps[index]) == See::Passing);
        let strayed = trail.went_beyond();
        if let Some(death) = predicted {
            // It dies as predicted if nothing that should have seen it before that did not.
            let in_between = missing.is_none_or(|index| index + 1 >= steps.len());
            // What waits for the link-layer address of a next hop goes nowhere, whether or not the route is right.
            let stuck = death.cause == Some(Cause::WrongRoute)
                && !is_on_link(death)
                && missing.is_some_and(|index| {
                    steps[index].hook == Hook::Qdisc && steps[index].place == death.place
                });
            if !stuck && ((in_between && !strayed) || strays(death, death)) {
                return self.as_predicted(trail, death, progress);
            }
        }
        if strayed {
            return self.unpredicted(trail);
        }
        match (progress, missing) {
            (None, _) => match trail.receiver {
                Some(receiver) => self.unanswered(trail, receiver),
                None => Err(self.nothing_seen()),
            },
            (Some(last), Some(missing)) => Ok(self.between(trail, steps, last, missing)),
            (Some(last), None) => self.beyond_sight(trail, path, last),
        }
    }

    /// It vanished where the prediction has it die.
    fn as_predicted(&self, trail: &Trail<'_>, death: &Step, progress: Option<usize>) -> Result<Fault, Text> {
        if !self.look.sight.watches(&death.place.node) {
            return Err(text!(note::PredictedBut { step: death.words(), why: self.unwatched(&death.place) }));
        }
        let mut fault = self.fault(trail, death, Confidence::High, text!(ground::VanishedAsPredicted));
        match progress.and_then(|index| trail.path.map(|path| &path.steps()[index])) {
            Some(last) => fault.point.evidence.push(text!(evidence::LastSeen { at: last.at() })),
            None if trail.direction == Direction::Return => {
                fault.point.evidence.push(text!(evidence::NoAnswerLeft));
            }
            None => {
                fault.point.confidence = Confidence::Medium;
                fault.point.ground = Some(text!(ground::PredictionAlone));
                fault.point.evidence.push(text!(evidence::SeenNowhere));
            }
        }
        fault.point.evidence.push(text!(evidence::PredictedHere));
        Ok(fault)
    }

    /// It vanished between two hooks, the second of which was watched.
    fn between(&self, trail: &Trail<'_>, steps: &[Step], last: usize, missing: usize) -> Fault {
        let (last, hidden, first_missing) = (&steps[last], &steps[last + 1..missing], &steps[missing]);
        let mut suspect = suspect(last, hidden);
        suspect.flow = suspect.flow.or(last.flow);
        let mut fault = self.fault(trail, &suspect, Confidence::Medium, text!(ground::BetweenWatched));
        fault.point.span =
            Some(Span { last_seen: SpanEnd::from(last), first_missing: SpanEnd::from(first_missing) });
        fault.point.evidence.push(text!(evidence::LastSeen { at: last.at() }));
        fault.point.evidence.push(text!(evidence::NeverSeen { at: first_missing.at() }));
        if trail.walk.death().is_none() {
            fault.point.evidence.push(text!(evidence::NoDropReported));
        }
        if self.look.losses.total() > 0 {
            fault.point.confidence = Confidence::Low;
            fault.point.ground = Some(text!(ground::BetweenWithGaps));
            fault.point.evidence.push(text!(evidence::RecordsLost { records: self.look.losses.total() }));
        }
        fault
    }

    /// The receiver took the packet and sent no answer that anybody saw.
    fn unanswered(&self, trail: &Trail<'_>, receiver: &Step) -> Result<Fault, Text> {
        if !self.look.sight.watches(&receiver.place.node) {
            return Err(text!(note::NoAnswerAnd { why: self.unwatched(&receiver.place) }));
        }
        let mut step = receiver.clone();
        step.hook = Hook::Socket;
        let (cause, confidence, words) = match self.flow.protocol {
            // A full queue is silent, and so is a kernel that cannot send what it answers.
            Protocol::Tcp if !trail.leaves(&receiver.place) => {
                (Cause::Unknown, Confidence::Low, text!(evidence::AnswerMayNotLeave { why: trail.doubt() }))
            }
            Protocol::Tcp => (Cause::SocketQueueFull, Confidence::Medium, text!(evidence::SynUnanswered)),
            Protocol::Icmp | Protocol::Udp => {
                (Cause::Unknown, Confidence::Low, text!(evidence::TakenUnanswered))
            }
        };
        step.cause = Some(cause);
        let mut fault = self.fault(trail, &step, confidence, text!(ground::NoAnswer));
        // The answer was never on its way: it is the packet that got no further.
        fault.point.direction = Direction::Forward;
        fault.point.evidence.push(words);
        if self.flow.protocol == Protocol::Icmp {
            fault.point.object = Some(Text::verbatim("net.ipv4.icmp_echo_ignore_all"));
        }
        Ok(fault)
    }

    /// No hook after the last one that saw the packet was watched.
    fn beyond_sight(&self, trail: &Trail<'_>, path: &Path, progress: usize) -> Result<Fault, Text> {
        let last = &path.steps()[progress];
        if path.disposition() == Disposition::ExitsCluster && !self.one_way {
            // An answer was asked for and did not come; where it was lost nobody can say.
            let mut step = last.clone();
            step.hook = Hook::Wire;
            step.cause = Some(Cause::SilentLoss);
            let mut fault = self.fault(trail, &step, Confidence::Low, text!(ground::BeyondSight));
            fault.point.evidence.push(text!(evidence::LeftCluster { at: last.at() }));
            return Ok(fault);
        }
        let rest = &path.steps()[progress + 1..];
        let blind =
            rest.iter().find(|step| !self.look.sight.watches(&step.place.node) && step.hook != Hook::Wire);
        Err(match blind {
            Some(step) => text!(note::LastSeenAnd { at: last.at(), why: self.unwatched(&step.place) }),
            None => text!(note::LastSeenOnly { at: last.at() }),
        })
    }

    /// There is no prediction, or the packet left it: the last step that saw it is all there is.
    fn unpredicted(&self, trail: &Trail<'_>) -> Result<Fault, Text> {
        let Some(last) = trail.walk.steps.last() else {
            return match trail.receiver {
                Some(receiver) => self.unanswered(trail, receiver),
                None => Err(self.nothing_seen()),
            };
        };
        let mut step = last.clone();
        step.action = Action::Dropped;
        step.cause = Some(match last.action {
            Action::Queued => Cause::QueueDrop,
            _ if last.hook == Hook::DriverTx => Cause::SilentLoss,
            _ => Cause::Unknown,
        });
        let mut fault = self.fault(trail, &step, Confidence::Low, text!(ground::NoPrediction));
        fault.point.evidence.push(text!(evidence::LastSeen { at: last.at() }));
        fault.point.evidence.push(text!(evidence::Unpredicted));
        // What left a hook was not dropped in it. What comes next in any kernel needs no prediction.
        if let Some(next) = next_of_any(last).filter(|next| self.look.sight.see(next) == See::Passing) {
            fault.point.span =
                Some(Span { last_seen: SpanEnd::from(last), first_missing: SpanEnd::from(&next) });
            fault.point.evidence.push(text!(evidence::NeverSeen { at: next.at() }));
        }
        Ok(fault)
    }

    fn nothing_seen(&self) -> Text {
        if self.look.sight.watches(&self.source.node) {
            text!(note::NothingSeen)
        } else {
            self.unwatched(self.source)
        }
    }

    fn unwatched(&self, place: &Place) -> Text {
        let why = self.look.sight.why_blind(&place.node).cloned().unwrap_or_else(|| text!(note::NobodyAsked));
        text!(note::Unwatched { node: &place.node, why })
    }
}

/// What follows after a step that was passed, whatever the configuration.
fn next_of_any(step: &Step) -> Option<Step> {
    let passed = step.action.continues() && step.action != Action::Queued;
    let hook = match step.hook {
        Hook::NetfilterOutput | Hook::NetfilterForward => Hook::NetfilterPostrouting,
        Hook::NetfilterPostrouting => Hook::Qdisc,
        Hook::Qdisc => Hook::DriverTx,
        _ => return None,
    };
    passed.then(|| Step { hook, ..step.clone() })
}
