//! What lies between nodes. Nobody watches it; who receives is known by the next hop's address.

use std::net::IpAddr;

use smallvec::smallvec;
use waymark_proto::{Action, Cause, Disposition, Hook, NodeName, Place, Text, text};

use super::Here;
use crate::graph::Device;
use crate::walk::{Stage, Walk, Walks};

/// Where a frame on the wire comes out.
enum Receiver {
    Device(Device),
    /// The underlay's routers bring it there: the link-layer address says nothing.
    Routed(Device),
    /// A node whose facts are not there.
    Needs(NodeName),
    /// A node whose facts do not fit.
    Unclear(Text),
    /// A node that has lost the address by which the others know it.
    Addressless(Place, IpAddr),
    Nobody(Text),
}

/// Crosses the wire from a device.
pub(super) fn cross(here: Here<'_>, mut walk: Walk, device: u32) -> Walks {
    let name = here.namespace.name_of(device);
    let on = Some(&*name);
    let (place, index) = match receiver(here, &walk, device) {
        Receiver::Device(device) => device,
        Receiver::Routed(device) => {
            walk.packet.mac = None;
            device
        }
        Receiver::Needs(node) => {
            let why = text!(model::FactsNeeded { node: &node });
            walk.needs = Some(node);
            return smallvec![walk.unknown(Hook::Wire, on, why)];
        }
        Receiver::Unclear(why) => return smallvec![walk.unknown(Hook::Wire, on, why)],
        Receiver::Addressless(place, ip) => {
            walk.step(Hook::Wire, on, Action::Forwarded, |_| {});
            walk.move_to(place);
            let object = text!(object::AddressOfNoDevice { ip });
            return smallvec![walk.dropped(Hook::Route, None, Cause::AddressMissing, object)];
        }
        Receiver::Nobody(note) => {
            walk.step(Hook::Wire, on, Action::Forwarded, |step| step.note = Some(note));
            walk.fate = Some(Disposition::ExitsCluster);
            return smallvec![walk];
        }
    };
    walk.step(Hook::Wire, on, Action::Forwarded, |_| {});
    walk.packet.scrub(true);
    walk.port = None;
    walk.move_to(place);
    smallvec![walk.to(Stage::Receive(index))]
}

fn receiver(here: Here<'_>, walk: &Walk, device: u32) -> Receiver {
    let cluster = here.cluster;
    let other = |(place, index): &&Device| *place != walk.at || *index != device;
    let by_mac = walk.packet.mac.as_deref().and_then(|mac| cluster.uplink_with_mac(mac)).filter(other);
    let by_address = walk.next_hop.and_then(|ip| cluster.uplink_with(ip)).filter(other);
    let of_another =
        |found: &&Device| cluster.link(found).and_then(|link| link.mac.as_ref()) != walk.packet.mac.as_ref();
    if by_mac.is_none()
        && by_address.as_ref().is_some_and(of_another)
        && let Some(node) = walk.packet.mac.as_deref().and_then(|mac| cluster.may_know(mac))
    {
        return Receiver::Needs(node.clone());
    }
    if let Some(device) = by_mac.or(by_address) {
        return Receiver::Device(device.clone());
    }
    if let Some(node) = walk.next_hop.and_then(|ip| cluster.node_with(ip)) {
        if !cluster.has(node) {
            return Receiver::Needs(node.clone());
        }
        let lost = walk.next_hop.and_then(|ip| Some((cluster.has_lost(node, ip)?, ip)));
        return match lost {
            Some((place, ip)) => Receiver::Addressless(place, ip),
            None => Receiver::Unclear(text!(model::UplinkWithoutAddress { node })),
        };
    }
    // A packet to a node by way of a router that is none: the underlay is taken to route.
    let dst = walk.packet.flow.dst;
    if let Some(node) = cluster.node_with(dst).filter(|node| **node != walk.at.node) {
        return match cluster.uplink_with(dst) {
            Some(device) => Receiver::Routed(device.clone()),
            None if cluster.has(node) => match cluster.has_lost(node, dst) {
                Some(place) => Receiver::Addressless(place, dst),
                None => Receiver::Unclear(text!(model::UplinkWithout { node, ip: dst })),
            },
            None => Receiver::Needs(node.clone()),
        };
    }
    Receiver::Nobody(match walk.next_hop {
        Some(ip) => text!(model::NextHopOutside { ip }),
        None => text!(model::FrameOutside),
    })
}
