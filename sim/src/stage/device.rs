//! Devices: queueing discipline, driver, reception.

use smallvec::smallvec;
use waymark_proto::{Action, Cause, Disposition, Hook, Link, LinkKind, Text, text};

use super::Here;
use crate::cluster::is_uplink;
use crate::graph::Peer;
use crate::walk::{Stage, Walk, Walks};

/// Sends on a device (`__dev_queue_xmit`, `dev_hard_start_xmit`).
pub(super) fn transmit(here: Here<'_>, mut walk: Walk, device: u32) -> Walks {
    let Some(link) = here.namespace.link(device) else {
        return smallvec![walk.unknown(Hook::Qdisc, None, text!(model::DeviceAbsent { index: device }))];
    };
    let on = Some(link.name.as_str());
    if !link.up {
        let object = text!(object::LinkDown { link: &link.name });
        return smallvec![walk.dropped(Hook::Qdisc, on, Cause::DeviceDown, object)];
    }
    if !link.carrier {
        // A device without carrier has the queueing discipline noop (dev_deactivate).
        let object = no_carrier(here, &walk, link);
        return smallvec![walk.dropped(Hook::Qdisc, on, Cause::NoCarrier, object)];
    }
    walk.step(Hook::Qdisc, on, Action::Forwarded, |step| {
        step.note = here.namespace.ruleset.remark_on_device("egress", &link.name);
    });
    if link.kind == LinkKind::Dummy {
        let object = text!(object::Dummy { link: &link.name });
        return smallvec![walk.dropped(Hook::DriverTx, on, Cause::KernelDrop, object)];
    }
    if let LinkKind::Other { kind } = &link.kind {
        return smallvec![walk.unknown(Hook::DriverTx, on, text!(model::DeviceKind { kind }))];
    }
    walk.step(Hook::DriverTx, on, Action::Forwarded, |_| {});
    let name = link.name.clone();
    match &link.kind {
        LinkKind::Loopback => smallvec![walk.to(Stage::Receive(device))],
        LinkKind::Bridge { .. } => smallvec![walk.to(Stage::BridgeSend(device))],
        LinkKind::Vxlan { .. } => smallvec![walk.to(Stage::Encapsulate(device))],
        _ if is_uplink(link) => smallvec![walk.to(Stage::Wire(device))],
        _ => match here.cluster.peer(&(walk.at.clone(), device)) {
            Peer::Device((place, index)) => {
                walk.packet.scrub(*place != walk.at);
                walk.port = None;
                walk.move_to(place.clone());
                smallvec![walk.to(Stage::Receive(*index))]
            }
            Peer::Outside => smallvec![walk.to(Stage::Wire(device))],
            Peer::Missing => {
                let why = text!(model::PeerAbsent { device: name });
                // The frame left the driver; where it comes out cannot be said.
                if let Some(step) = walk.steps.last_mut() {
                    step.action = Action::Unknown;
                    step.note = Some(why);
                }
                walk.fate = Some(Disposition::InsufficientInfo);
                smallvec![walk]
            }
        },
    }
}

/// `link X has no carrier`, with what its peer is like, where it is known.
fn no_carrier(here: Here<'_>, walk: &Walk, link: &Link) -> Text {
    let peer = match here.cluster.peer(&(walk.at.clone(), link.index)) {
        Peer::Device(peer) => Some(peer),
        Peer::Outside | Peer::Missing => None,
    };
    let other = peer.as_ref().and_then(|peer| here.cluster.link(peer));
    text!(object::NoCarrier {
        link: &link.name,
        peer: other.map(|other| &other.name),
        netns: peer.as_ref().map(|peer| &peer.0.netns),
        peer_up: other.is_some_and(|other| other.up),
    })
}

/// Receives from a device (`__netif_receive_skb_core`).
pub(super) fn receive(here: Here<'_>, mut walk: Walk, device: u32) -> Walks {
    let Some(link) = here.namespace.link(device) else {
        return smallvec![walk.unknown(Hook::DriverRx, None, text!(model::DeviceAbsent { index: device }))];
    };
    let on = Some(link.name.as_str());
    if !link.up {
        let object = text!(object::LinkDown { link: &link.name });
        return smallvec![walk.dropped(Hook::DriverRx, on, Cause::DeviceDown, object)];
    }
    walk.step(Hook::DriverRx, on, Action::Forwarded, |step| {
        step.note = here.namespace.ruleset.remark_on_device("ingress", &link.name);
    });
    walk.next_hop = None;
    let Some(master) = link.master else { return smallvec![walk.to(Stage::Ip(device))] };
    if here.namespace.bridge_of(link).is_some() {
        return smallvec![walk.to(Stage::BridgePort(device))];
    }
    let name = here.namespace.name_of(master);
    smallvec![walk.unknown(Hook::Ip, on, text!(model::PortOfNoBridge { link: &link.name, master: name }))]
}
