//! Who is to blame for a predicted end: the packet dies at one place, and was sent there from another.

use std::net::IpAddr;

use waymark_proto::texts::object::{MisledNeighbour, ToOneOfSeveral};
use waymark_proto::{Action, Cause, Hook, Place, Step, Text};

use super::Case;
use super::trail::Trail;

impl Case<'_> {
    /// Where an end was really decided: a packet that comes to a stranger was sent there by whoever chose route,
    /// neighbour, port or remote for it.
    pub(super) fn really(&self, trail: &Trail<'_>, end: &Step) -> Step {
        let Some(path) = trail.path else { return end.clone() };
        let Some(home) = end.flow.and_then(|flow| self.inventory.owner(flow.dst)) else { return end.clone() };
        let before = || path.steps().iter().rev().skip_while(|step| *step != path.last()).skip(1);
        let decided = |step: Option<&Step>, cause| {
            step.map(|step| Step {
                action: Action::Dropped,
                cause: Some(cause),
                flow: end.flow,
                ..step.clone()
            })
        };
        let blame = match end.cause {
            _ if let Some(misled) = misled(path.steps(), &end.place) => {
                decided(Some(misled), Cause::WrongNeighbour)
            }
            _ if self.is_strange_pod(trail, end, &home) => {
                let outside: Vec<&Step> = before().skip_while(|step| step.place == end.place).collect();
                self.who_sent(&outside, end).and_then(|(step, cause)| decided(Some(step), cause))
            }
            Some(Cause::OtherHost) if self.is_stranger(&end.place, &home) => {
                decided(before().find(|step| chose_port(step)), Cause::WrongReceiver)
            }
            Some(Cause::NeighbourUnresolved) if self.is_elsewhere(end, &home) => {
                let route = |step: &&Step| step.hook == Hook::Route && step.place == end.place;
                decided(before().find(route).filter(|route| is_on_link(route)), Cause::WrongRoute)
            }
            _ => None,
        };
        blame.unwrap_or_else(|| end.clone())
    }

    /// The last decision that led a packet into a stranger's namespace, with what is wrong about it; `before` are the
    /// steps up to there, the last first.
    fn who_sent<'s>(&self, before: &[&'s Step], end: &Step) -> Option<(&'s Step, Cause)> {
        let find = |hook| before.iter().copied().find(|step| step.hook == hook && step.outer.is_none());
        let route = find(Hook::Route);
        let to_stranger = |ip| self.inventory.owner(ip).as_ref() == Some(&end.place);
        if let Some(route) = route.filter(|route| next_hop(route).is_some_and(to_stranger)) {
            return Some((route, Cause::WrongRoute));
        }
        let port = before.iter().copied().find(|step| chose_port(step));
        // A frame that is taken carries the address of who takes it. The bridge is right then, unless the address is
        // that of its receiver as well.
        let is_ambiguous = |step: &Step| step.object.as_ref().is_some_and(Text::is::<ToOneOfSeveral>);
        let by_port = port.filter(|port| end.cause == Some(Cause::OtherHost) || is_ambiguous(port));
        let resolved = |step: &Step| step.object.as_ref().is_some_and(|object| object.contains(" lladdr "));
        let by_neighbour = || find(Hook::Neighbour).filter(|step| resolved(step));
        by_port
            .map(|port| (port, Cause::WrongReceiver))
            .or_else(|| by_neighbour().map(|step| (step, Cause::WrongNeighbour)))
            .or_else(|| port.map(|port| (port, Cause::WrongReceiver)))
            .or_else(|| route.map(|route| (route, Cause::WrongRoute)))
    }

    /// Whether a walk ends in a pod that is neither its source nor its receiver, and is not on the way to anywhere. Who
    /// takes a packet for its own is another matter.
    pub(super) fn is_strange_pod(&self, trail: &Trail<'_>, end: &Step, home: &Place) -> bool {
        let takes = matches!(end.hook, Hook::Socket | Hook::NetfilterInput);
        let starts =
            trail.path.is_some_and(|path| path.steps().first().is_some_and(|s| s.place == end.place));
        let passes = trail.path.is_some_and(|path| {
            path.last().place != end.place && path.steps().iter().any(|step| step.place == end.place)
        });
        let known = [home, self.source].contains(&&end.place) || self.receivers.contains(&end.place);
        !takes && !starts && !passes && !known && self.inventory.pod_at(&end.place).is_some()
    }

    /// Whether a namespace has nothing to do with packets to one that lives in `home`.
    fn is_stranger(&self, place: &Place, home: &Place) -> bool {
        let host = |node| self.inventory.node(node).map(waymark_proto::Node::place);
        place != home && place != self.source && Some(place) != host(&home.node).as_ref()
    }

    /// Whether the device of a step does not lead to where an address lives: it is no way to other nodes, and home is
    /// on one; or it is another pod's.
    fn is_elsewhere(&self, step: &Step, home: &Place) -> bool {
        let device = step.device.as_deref();
        let of_pod = |place: &Place| {
            let mut pods = self.inventory.pods.iter();
            pods.find(|pod| pod.host_device.as_deref() == device && pod.node == place.node)
        };
        if step.place.node == home.node {
            return of_pod(home).is_some_and(|pod| pod.place() != *home);
        }
        let uplink = self.inventory.node(&step.place.node).and_then(|node| node.uplink.as_deref());
        device.is_some() && device != uplink && step.outer.is_none()
    }
}

/// The neighbour entry that sent a packet to another host than its next hop, where nobody saw it any more.
pub(super) fn vanished_misled(trail: &Trail<'_>) -> Option<Step> {
    let (path, alignment) = trail.path.zip(trail.alignment)?;
    let steps = path.steps();
    let last = &steps[alignment.progress?];
    let misled = misled(steps, &last.place).or_else(|| {
        // It was last seen on its way there.
        let next = steps[alignment.progress?..].iter().find(|step| step.place != last.place)?;
        misled(steps, &next.place).filter(|step| step.place == last.place)
    })?;
    let (action, cause) = (Action::Dropped, Some(Cause::WrongNeighbour));
    Some(Step { action, cause, flow: last.flow, ..misled.clone() })
}

/// The step at which a packet was sent to `place` because a neighbour entry has that host's address for another's.
fn misled<'s>(steps: &'s [Step], place: &Place) -> Option<&'s Step> {
    let is_it = |step: &Step| step.object.as_ref().is_some_and(Text::is::<MisledNeighbour>);
    let index = steps.iter().position(is_it)?;
    let next = steps[index..].iter().find(|step| step.place != steps[index].place)?;
    (next.place == *place).then_some(&steps[index])
}

/// Whether a step chooses a bridge's port or a tunnel's remote.
pub(super) fn chose_port(step: &Step) -> bool {
    step.hook == Hook::Bridge || (step.hook == Hook::Tunnel && step.action == Action::Encapsulated)
}

/// The next hop of a route that has one.
fn next_hop(route: &Step) -> Option<IpAddr> {
    let mut words = route.object.as_deref()?.split_whitespace().skip_while(|word| *word != "via").skip(1);
    // A next hop of the other family is written with it.
    words.find_map(|word| if word.starts_with("inet") { None } else { Some(word.parse().ok()) })?
}

/// Whether a packet goes on after this fault, only to be lost somewhere else, as it was.
pub(super) fn strays(predicted: &Step, death: &Step) -> bool {
    // A next hop that does not resolve is not left; what is wrong is that it is nobody's.
    let stuck = predicted.cause == Some(Cause::WrongRoute)
        && predicted.place == death.place
        && death.cause == Some(Cause::NeighbourUnresolved)
        && !is_on_link(predicted);
    let leads_astray = matches!(
        predicted.cause,
        Some(Cause::WrongNeighbour | Cause::WrongRoute | Cause::WrongReceiver | Cause::RoutingLoop)
    );
    leads_astray && !stuck
}

/// Whether a predicted end is the reason of an observed one at the same place, which tells less: what waits for a
/// link-layer address behind a device without carrier, or comes to the closed port of a tunnel that is down.
pub(super) fn explains(predicted: &Step, death: &Step) -> bool {
    // Nobody answers for an address that its host has lost, whoever asks.
    let lost =
        predicted.cause == Some(Cause::AddressMissing) && death.cause == Some(Cause::NeighbourUnresolved);
    lost || predicted.place == death.place
        && matches!(
            (predicted.cause, predicted.hook, death.cause),
            (Some(Cause::NoCarrier | Cause::DeviceDown), _, Some(Cause::NeighbourUnresolved))
                | (Some(Cause::DeviceDown), Hook::Tunnel, Some(Cause::NoListener))
        )
}

/// Whether a step's route leads to the destination without a next hop between.
pub(super) fn is_on_link(route: &Step) -> bool {
    route.object.as_deref().is_some_and(|text| !text.split_whitespace().any(|word| word == "via"))
}
