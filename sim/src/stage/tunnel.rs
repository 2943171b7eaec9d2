//! VXLAN: encapsulation and decapsulation (`vxlan_xmit`, `vxlan_rcv`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::smallvec;
use waymark_proto::{Action, Cause, FdbEntry, Flow, Hook, Link, LinkKind, Outer, Protocol, Text, text};

use super::Here;
use super::neighbour::ANY;
use crate::fib::{self, Found, Transport};
use crate::netfilter::select_source;
use crate::packet::Packet;
use crate::walk::{Stage, Walk, Walks};

/// Any: the outer source port is a hash of the inner packet with a key of the kernel's.
const OUTER_SOURCE_PORT: u16 = 0;

/// A remote end.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Remote {
    ip: IpAddr,
    /// The VNI, if its entry names one.
    vni: Option<u32>,
    /// The device that the outer packet must leave by. The underlying device is that of the device's own
    /// remote only; entries of the forwarding database go wherever routing says (`vxlan_fdb_parse`).
    oif: Option<u32>,
}

/// Wraps a packet and sends it as one of this host.
pub(super) fn encapsulate(here: Here<'_>, mut walk: Walk, device: u32) -> Walks {
    let Some(link) = here.namespace.link(device) else {
        return smallvec![walk.unknown(Hook::Tunnel, None, text!(model::TunnelAbsent))];
    };
    let on = Some(link.name.as_str());
    let LinkKind::Vxlan { vni, port, local, remote, underlay, .. } = link.kind else {
        return smallvec![walk.unknown(Hook::Tunnel, on, text!(model::TunnelKind))];
    };
    if let Some(remark) = here.namespace.remark_on(link) {
        return smallvec![walk.unknown(Hook::Tunnel, on, remark)];
    }
    let mac = walk.packet.mac.clone();
    let given =
        remote.filter(|remote| !remote.is_unspecified()).map(|ip| Remote { ip, vni: None, oif: underlay });
    let Remote { ip: to, vni: own_vni, oif } = match remotes(here, link, mac.as_deref(), given).as_slice() {
        [] => {
            let mac = mac.map_or_else(|| text!(object::UnknownAddress), Text::verbatim);
            let object = text!(object::NoFdbEntry { device: &link.name, mac });
            return smallvec![walk.dropped(Hook::Tunnel, on, Cause::TunnelNoRemote, object)];
        }
        [one] => *one,
        several => match owner(here, mac.as_deref(), several) {
            Ok(remote) => remote,
            Err(needs) => {
                let why = text!(model::Floods { device: &link.name, remotes: several.len() });
                walk.needs = needs;
                return smallvec![walk.unknown(Hook::Tunnel, on, why)];
            }
        },
    };
    let wanted = |entry: &&FdbEntry| entry.index == device && entry.remote == Some(to);
    if here.namespace.remarks_on_fdb()
        && let Some(remark) =
            here.namespace.fdb.iter().filter(wanted).find_map(|entry| here.namespace.remark_on_entry(entry))
    {
        return smallvec![walk.unknown(
            Hook::Tunnel,
            on,
            text!(model::FdbRemark { device: &link.name, remark })
        )];
    }
    if to.is_multicast() {
        return smallvec![walk.unknown(Hook::Tunnel, on, text!(model::MulticastRemote { remote: to }))];
    }
    let vni = own_vni.unwrap_or(vni);
    let unbound = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let (src_port, protocol) = (OUTER_SOURCE_PORT, Protocol::Udp);
    let flow = Flow { src: unbound, dst: to, protocol, src_port, dst_port: port };
    let Some(src) = local.or_else(|| source(here, &flow, walk.packet.mark, oif)) else {
        return smallvec![walk.unknown(Hook::Tunnel, on, text!(model::NoSourceTowards { remote: to }))];
    };
    let flow = Flow { src, ..flow };
    // The mark stays within a namespace; the connection does not (iptunnel_xmit).
    let mark = walk.packet.mark;
    let mut inner = std::mem::replace(&mut walk.packet, Packet { mark, ..Packet::new(flow, false) });
    inner.scrub(false);
    walk.port = None;
    walk.carried.push((inner, Outer { kind: "vxlan".to_owned(), src, dst: to, vni: Some(vni) }));
    walk.step(Hook::Tunnel, on, Action::Encapsulated, |step| {
        step.object = Some(Text::verbatim(format!("remote {to} id {vni}")));
    });
    smallvec![walk.to(Stage::RouteOutput { again: false, oif })]
}

/// The remotes for a link-layer address: its own entries, else the default ones.
fn remotes(here: Here<'_>, link: &Link, mac: Option<&str>, given: Option<Remote>) -> Vec<Remote> {
    let entries = |mac: &str| -> Vec<Remote> {
        let of_device = here.namespace.fdb_of(mac).filter(|entry| entry.index == link.index);
        let mut remotes: Vec<Remote> = of_device
            .filter_map(|entry| Some(Remote { ip: entry.remote?, vni: entry.vni, oif: None }))
            .collect();
        remotes.dedup();
        remotes
    };
    let own = mac.map(entries).unwrap_or_default();
    if !own.is_empty() {
        return own;
    }
    let mut defaults = entries(ANY);
    // The kernel lists the device's own remote among them.
    for entry in &mut defaults {
        if let Some(given) = given.filter(|given| given.ip == entry.ip && entry.vni.is_none()) {
            *entry = given;
        }
    }
    if defaults.is_empty() { given.into_iter().collect() } else { defaults }
}

/// Of several remotes, the one whose node has the address. The error names a node whose facts may tell.
fn owner(
    here: Here<'_>,
    mac: Option<&str>,
    several: &[Remote],
) -> Result<Remote, Option<waymark_proto::NodeName>> {
    let node_of = |remote: &Remote| here.cluster.node_with(remote.ip);
    let has = |remote: &&Remote| {
        let Some(node) = node_of(remote) else { return false };
        let mut there = here.cluster.namespaces().filter(|namespace| namespace.place.node == *node);
        mac.is_some() && there.any(|namespace| namespace.links().any(|link| link.mac.as_deref() == mac))
    };
    if let Some(remote) = several.iter().find(has) {
        return Ok(*remote);
    }
    Err(several.iter().filter_map(node_of).find(|node| !here.cluster.has(node)).cloned())
}

/// The source address that routing chooses for an outer packet that has none yet.
fn source(here: Here<'_>, flow: &Flow, mark: u32, oif: Option<u32>) -> Option<IpAddr> {
    let (any, to) = (flow.src, flow.dst);
    let key = fib::Key { dst: to, src: any, iif: "lo", oif, mark, dscp: 0, transport: Transport::of(flow) };
    match fib::lookup(here.namespace, &key) {
        Found::Unicast(route, hops) => route.prefsrc.or_else(|| {
            let (_, hop) = hops.first()?;
            select_source(here.namespace, hop.index?, hop.via.unwrap_or(to))
        }),
        Found::Local(_) => Some(to),
        Found::Nothing | Found::Refused(..) if oif.is_some() && !to.is_ipv6() => {
            select_source(here.namespace, oif?, to)
        }
        // Routing the outer packet will say why; any address serves until then.
        Found::Nothing | Found::Refused(..) => Some(any),
        Found::Unknown(_) => None,
    }
}

/// Unwraps a packet that came to this host.
pub(super) fn decapsulate(here: Here<'_>, mut walk: Walk) -> Walks {
    let dst = walk.packet.flow;
    let Some((_, outer)) = walk.carried.last() else {
        return smallvec![walk.unknown(Hook::Tunnel, None, text!(model::NothingToUnwrap))];
    };
    let wanted = outer.vni.unwrap_or_default();
    let all_on_port = || {
        here.namespace.links().filter_map(|link| match link.kind {
            LinkKind::Vxlan { vni, port, .. } if port == dst.dst_port => Some((link, vni)),
            _ => None,
        })
    };
    let mut on_port = all_on_port().filter(|(link, _)| link.up);
    let Some(first) = on_port.next() else {
        // The socket of a tunnel is open as long as one of its devices is up (vxlan_open, vxlan_stop).
        if let Some((link, _)) = all_on_port().next() {
            let object = text!(object::TunnelDown { link: &link.name });
            return smallvec![walk.dropped(Hook::Tunnel, Some(&link.name), Cause::DeviceDown, object)];
        }
        let object = text!(object::NoVxlan { place: &walk.at, port: dst.dst_port });
        return smallvec![walk.dropped(Hook::Socket, None, Cause::NoListener, object)];
    };
    let Some((link, _)) = std::iter::once(first).chain(on_port).find(|(_, vni)| *vni == wanted) else {
        let (link, vni) = first;
        let object = text!(object::OtherVni { device: &link.name, own: vni, wanted });
        return smallvec![walk.dropped(Hook::Tunnel, Some(&link.name), Cause::TunnelUnknownVni, object)];
    };
    let mark = walk.packet.mark;
    if let Some((inner, _)) = walk.carried.pop() {
        walk.packet = Packet { mark, ..inner };
    }
    walk.step(Hook::Tunnel, Some(&link.name), Action::Decapsulated, |_| {});
    smallvec![walk.to(Stage::Receive(link.index))]
}
