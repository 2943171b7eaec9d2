//! Where a packet most likely vanished when no kernel says.

use waymark_proto::{Action, Cause, Hook, Step};

/// Of hidden steps the one where a packet most likely vanishes without a report.
pub(super) fn suspect(last: &Step, hidden: &[Step]) -> Step {
    let order: [(Hook, Cause); 5] = [
        (Hook::Wire, Cause::SilentLoss),
        // An unresolved next hop holds packets back and drops them seconds later. The others tell at once.
        (Hook::Neighbour, Cause::NeighbourUnresolved),
        (Hook::Tunnel, Cause::TunnelDrop),
        (Hook::Bridge, Cause::BridgePort),
        (Hook::Route, Cause::Unknown),
    ];
    let found = order
        .iter()
        .find_map(|(hook, cause)| hidden.iter().find(|step| step.hook == *hook).map(|step| (step, *cause)));
    let (mut step, cause) = match found {
        Some((step, Cause::TunnelDrop)) if step.action == Action::Encapsulated => {
            (step.clone(), Cause::TunnelNoRemote)
        }
        Some((step, Cause::TunnelDrop)) if step.action == Action::Decapsulated => {
            (step.clone(), Cause::TunnelUnknownVni)
        }
        // The wire is the sender's to look into, at its uplink.
        Some((step, Cause::SilentLoss)) => {
            let mut wire = last.clone();
            wire.hook = Hook::Wire;
            wire.device = last.device.clone().or_else(|| step.device.clone());
            (wire, Cause::SilentLoss)
        }
        Some((step, cause)) => (step.clone(), cause),
        None => match last.hook {
            Hook::Qdisc => (last.clone(), Cause::QueueDrop),
            Hook::DriverTx => (last.clone(), Cause::SilentLoss),
            _ => (last.clone(), Cause::Unknown),
        },
    };
    step.action = Action::Dropped;
    step.cause = Some(cause);
    step
}
