//! Devices: queueing discipline, driver, reception.

use waymark_proto::{Action, Cause, Disposition, Hook, Link, LinkKind};

use super::Here;
use crate::cluster::is_uplink;
use crate::graph::Peer;
use crate::walk::{Stage, Walk};

/// Sends on a device (`__dev_queue_xmit`, `dev_hard_start_xmit`).
pub(super) fn transmit(here: Here<'_>, mut walk: Walk, device: u32) -> Vec<Walk> {
    let Some(link) = here.namespace.link(device) else {
        return vec![walk.unknown(Hook::Qdisc, None, format!("device {device} is not in the facts"))];
    };
    let on = Some(link.name.as_str());
    if !link.up {
        let object = format!("link {} down", link.name);
        return vec![walk.dropped(Hook::Qdisc, on, Cause::DeviceDown, object)];
    }
    if !link.carrier {
        // A device without carrier has the queueing discipline noop (dev_deactivate).
        let object = format!("link {} has no carrier{}", link.name, peer_text(here, &walk, link));
        return vec![walk.dropped(Hook::Qdisc, on, Cause::NoCarrier, object)];
    }
    walk.step(Hook::Qdisc, on, Action::Forwarded).note =
        here.namespace.ruleset.remark_on_device("egress", &link.name);
    if link.kind == LinkKind::Dummy {
        let object = format!("link {} is a dummy: it swallows what it is given", link.name);
        return vec![walk.dropped(Hook::DriverTx, on, Cause::KernelDrop, object)];
    }
    if let LinkKind::Other { kind } = &link.kind {
        return vec![walk.unknown(Hook::DriverTx, on, format!("devices of kind {kind} are not modelled"))];
    }
    walk.step(Hook::DriverTx, on, Action::Forwarded);
    let name = link.name.clone();
    match &link.kind {
        LinkKind::Loopback => vec![walk.to(Stage::Receive(device))],
        LinkKind::Bridge { .. } => vec![walk.to(Stage::BridgeSend(device))],
        LinkKind::Vxlan { .. } => vec![walk.to(Stage::Encapsulate(device))],
        _ if is_uplink(link) => vec![walk.to(Stage::Wire(device))],
        _ => match here.cluster.graph().peer(&(walk.at.clone(), device), link) {
            Peer::Device((place, index)) => {
                walk.packet.scrub(place != walk.at);
                walk.port = None;
                walk.at = place;
                vec![walk.to(Stage::Receive(index))]
            }
            Peer::Outside => vec![walk.to(Stage::Wire(device))],
            Peer::Missing => {
                let why = format!("the other end of {name} is not in the facts");
                // The frame left the driver; where it comes out cannot be said.
                if let Some(step) = walk.steps.last_mut() {
                    step.action = Action::Unknown;
                    step.note = Some(why);
                }
                walk.fate = Some(Disposition::InsufficientInfo);
                vec![walk]
            }
        },
    }
}

/// `: its peer X in NAMESPACE is down`, where that is so.
fn peer_text(here: Here<'_>, walk: &Walk, link: &Link) -> String {
    let Peer::Device(peer) = here.cluster.graph().peer(&(walk.at.clone(), link.index), link) else {
        return String::new();
    };
    let state = |link: &Link| if link.up { "has no carrier" } else { "is down" };
    match here.cluster.link(&peer) {
        Some(other) => format!(": its peer {} in {} {}", other.name, peer.0.netns, state(other)),
        None => String::new(),
    }
}

/// Receives from a device (`__netif_receive_skb_core`).
pub(super) fn receive(here: Here<'_>, mut walk: Walk, device: u32) -> Vec<Walk> {
    let Some(link) = here.namespace.link(device) else {
        return vec![walk.unknown(Hook::DriverRx, None, format!("device {device} is not in the facts"))];
    };
    let on = Some(link.name.as_str());
    if !link.up {
        let object = format!("link {} down", link.name);
        return vec![walk.dropped(Hook::DriverRx, on, Cause::DeviceDown, object)];
    }
    walk.step(Hook::DriverRx, on, Action::Forwarded).note =
        here.namespace.ruleset.remark_on_device("ingress", &link.name);
    walk.next_hop = None;
    let Some(master) = link.master else { return vec![walk.to(Stage::Ip(device))] };
    if here.namespace.bridge_of(link).is_some() {
        return vec![walk.to(Stage::BridgePort(device))];
    }
    let name = here.namespace.name_of(master);
    vec![walk.unknown(Hook::Ip, on, format!("{} is a port of {name}, which is no bridge", link.name))]
}
