//! Who is to blame for a predicted end: the packet dies at one place, and was sent there from another.

use waymark_proto::{Action, Cause, Hook, Place, Step};

use super::Case;
use super::locate::Trail;

impl Case<'_> {
    /// Where a predicted end was really decided: a frame that comes to a stranger was sent there by whoever chose
    /// port, remote or device for it.
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
            Some(Cause::OtherHost) if self.is_stranger(&end.place, &home) => {
                let chose = |step: &&Step| {
                    step.hook == Hook::Bridge
                        || (step.hook == Hook::Tunnel && step.action == Action::Encapsulated)
                };
                decided(before().find(chose), Cause::WrongReceiver)
            }
            Some(Cause::NeighbourUnresolved) if self.is_elsewhere(end, &home) => {
                let route = |step: &&Step| step.hook == Hook::Route && step.place == end.place;
                decided(before().find(route).filter(|route| is_on_link(route)), Cause::WrongRoute)
            }
            _ => None,
        };
        blame.unwrap_or_else(|| end.clone())
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
    predicted.place == death.place
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
