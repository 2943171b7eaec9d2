//! Packets that were seen to leave the predicted way for somebody whom they do not concern, and died there. What led them
//! away sits behind the last step of that way: a bridge or tunnel that chose another port, a program or rule of tc, XDP or
//! netfilter's families `netdev` and `bridge` that redirects frames, or gives them another link-layer address.

use std::collections::BTreeSet;

use waymark_proto::{Action, Cause, Confidence, Hook, Place, Span, Step, text};

use super::Case;
use super::blame::chose_port;
use super::locate::{Fault, reported_in_words};
use super::sight::See;
use super::trail::Trail;

impl Case<'_> {
    /// The fault of who led a packet away.
    pub(super) fn diverted(&self, trail: &Trail<'_>) -> Option<Fault> {
        let (path, alignment) = trail.path.zip(trail.alignment)?;
        let death = trail.walk.death().filter(|death| is_off(path.steps(), trail, death))?;
        let home = death.flow.and_then(|flow| self.inventory.owner(flow.dst));
        let home = home.as_ref().unwrap_or(self.source);
        if death.cause != Some(Cause::OtherHost) && !self.is_strange_pod(trail, death, home) {
            return None;
        }
        // What matches behind a step that should have seen the packet and did not, matches by chance: a bridge runs the
        // hooks that routing runs.
        let steps = path.steps();
        let passed = |index: &usize| alignment.matched[*index].is_some();
        let missed = |index: &usize| !passed(index) && self.look.sight.see(&steps[*index]) == See::Passing;
        let first = (0..steps.len()).find(passed)?;
        let missing = (first..steps.len()).find(missed).unwrap_or(steps.len());
        let progress = (0..missing).rfind(passed)?;
        let farthest = alignment.matched[..missing].iter().flatten().max().copied()?;
        let (last, beyond) = (&trail.walk.steps[farthest], trail.walk.steps.get(farthest + 1..)?);
        let to = beyond.iter().find(|step| is_of_device(step)).or(beyond.first())?;
        let hidden = &steps[progress + 1..missing];
        let floods = hidden.iter().any(|step| chose_port(step) || step.hook == Hook::Wire);
        let missing = steps.get(missing);
        // A frame that its bridge takes up carries the address of the bridge. One that is passed on does not.
        let goes_up = |bridge: &&Step| {
            let up =
                missing.is_some_and(|next| (next.hook, &next.device) == (Hook::DriverRx, &bridge.device));
            bridge.hook == Hook::Bridge && up
        };
        let left = ports(beyond, &last.place) > 0;
        let astray = hidden.iter().find(goes_up).filter(|_| left);
        if astray.is_none() && floods && trail.is_flooded() {
            return None;
        }
        // A bridge or tunnel in between has chosen, for all that was seen; or something behind the queue's door.
        let chooser = hidden.iter().find(|step| chose_port(step) && (left || step.hook != Hook::Bridge));
        let queue = missing.filter(|next| {
            (last.hook, next.hook) == (Hook::NetfilterPostrouting, Hook::Qdisc) && next.place == last.place
        });
        let mut step = astray.or(chooser).or(queue).unwrap_or(last).clone();
        let note = step.note.take().or_else(|| steps[progress].note.clone());
        step.action = Action::Dropped;
        step.flow = last.flow.or(step.flow);
        step.rule = None;
        let several = ports(beyond, &last.place) > 1;
        step.cause = Some(if astray.is_some() { Cause::OtherHost } else { Cause::WrongReceiver });
        step.object = Some(match &to.device {
            _ if astray.is_some() && several => {
                text!(object::FloodedInstead { bridge: step.device.as_deref() })
            }
            Some(device) => text!(object::WentToDevice { device, place: &to.place }),
            None => text!(object::WentToPlace { place: &to.place }),
        });
        let mut fault = self.fault(trail, &step, Confidence::High, text!(ground::Diverted));
        fault.point.evidence.push(text!(evidence::LastSeen { at: last.at() }));
        fault.point.evidence.push(text!(evidence::WentTo { at: to.at() }));
        fault.point.evidence.push(reported_in_words(death));
        fault.point.evidence.extend(note.map(|note| text!(evidence::ThereToo { note })));
        let door = trail.walk.steps[..=farthest].iter().rfind(|step| is_of_device(step)).unwrap_or(last);
        fault.point.span = Some(Span { last_seen: door.into(), first_missing: to.into() });
        Some(fault)
    }
}

/// Whether a packet that died at a step was off its way: in a namespace, or on a device, that is not on it.
fn is_off(path: &[Step], trail: &Trail<'_>, death: &Step) -> bool {
    let by_device =
        |step: &Step| (&step.place, step.hook, &step.device) == (&death.place, Hook::DriverRx, &death.device);
    let on_strange_device = || {
        death.cause == Some(Cause::OtherHost)
            && death.hook == Hook::DriverRx
            && death.device.is_some()
            && !path.iter().any(by_device)
    };
    !trail.is_on_path(&death.place) || on_strange_device()
}

fn is_of_device(step: &Step) -> bool {
    matches!(step.hook, Hook::Qdisc | Hook::DriverTx | Hook::DriverRx)
}

/// By how many devices of a namespace a packet left it.
fn ports(steps: &[Step], place: &Place) -> usize {
    let left = steps.iter().filter(|step| step.hook == Hook::DriverTx && step.place == *place);
    left.map(|step| &step.device).collect::<BTreeSet<_>>().len()
}
