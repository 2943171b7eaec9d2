//! Entry of the network layer on a device that is no port (`ip_rcv`, `ipv6_rcv`).

use smallvec::smallvec;
use waymark_proto::{Cause, Hook, LinkKind, text};

use super::{Here, filter};
use crate::walk::{Stage, Walk, Walks};

/// Checks whom the frame is for, and goes on to prerouting unless a bridge has been there
/// (`ip_sabotage_in`).
pub(super) fn enter(here: Here<'_>, mut walk: Walk, device: u32) -> Walks {
    let link = here.namespace.link(device);
    let own = link.filter(|link| link.kind != LinkKind::Loopback).and_then(|link| link.mac.as_deref());
    if let (Some(own), Some(to)) = (own, walk.packet.mac.as_deref())
        && own != to
    {
        let name = here.namespace.name_of(device);
        let object = text!(object::FrameTo { to, device: &name, own });
        return smallvec![walk.dropped(Hook::Ip, Some(&name), Cause::OtherHost, object)];
    }
    walk.packet.mac = None;
    // IPv4 leaves this to routing, behind prerouting.
    let flow = walk.packet.flow;
    let looped = link.is_some_and(|link| link.kind == LinkKind::Loopback);
    if flow.is_ipv6() && !looped && (flow.src.is_loopback() || flow.dst.is_loopback()) {
        let name = here.namespace.name_of(device);
        let object = text!(object::LoopbackAddress { flow, device: &name });
        return smallvec![walk.dropped(Hook::Ip, Some(&name), Cause::MartianAddress, object)];
    }
    if std::mem::take(&mut walk.filtered_by_bridge) {
        return smallvec![walk.to(Stage::RouteInput(device))];
    }
    filter::prerouting(here, walk, device)
}
