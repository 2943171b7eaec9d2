//! Bridges: forwarding by link-layer address, and netfilter on behalf of the network layer
//! (`br_handle_frame`, `br_netfilter`).

use std::collections::BTreeSet;

use smallvec::smallvec;
use waymark_proto::{Action, Cause, Choice, ChoiceKind, Hook, Link, LinkKind, Place, Text, text};

use super::Here;
use super::neighbour::{self, Resolved};
use crate::cluster::is_uplink;
use crate::fib::{self, Found, Transport};
use crate::graph::Peer;
use crate::netfilter::{At, pass};
use crate::walk::{Stage, Walk, Walks};

/// A frame comes in at a port.
pub(super) fn enter(here: Here<'_>, walk: Walk, port: u32) -> Walks {
    let found = here.namespace.link(port).and_then(|link| Some((link, here.namespace.bridge_of(link)?)));
    let Some((link, bridge)) = found else {
        return smallvec![walk.unknown(Hook::Bridge, None, text!(model::BridgeAbsent))];
    };
    if let Some(object) = closed(link, bridge) {
        let cause = if bridge.up { Cause::BridgePort } else { Cause::DeviceDown };
        return smallvec![walk.dropped(Hook::Bridge, Some(&bridge.name), cause, object)];
    }
    let next = Stage::BridgeForward { bridge: bridge.index, from: port };
    if !calls_netfilter(here, walk.packet.flow.is_ipv6()) {
        if let Some(remark) = here.namespace.remark_on(bridge) {
            return smallvec![walk.unknown(Hook::Bridge, Some(&bridge.name), remark)];
        }
        return smallvec![walk.to(next)];
    }
    let mut walk = walk;
    walk.port = Some(port);
    let before = walk.packet.flow.dst;
    let at = At { input: Some(bridge.index), port_in: Some(port), ..At::default() };
    let passages = pass(here.namespace, Hook::NetfilterPrerouting, at, walk).into_iter();
    passages
        .flat_map(|passage| {
            let mut walk = passage.walk;
            walk.filtered_by_bridge = true;
            let redirected = walk.fate.is_none() && walk.packet.flow.dst != before;
            if redirected { redirect(here, walk, bridge, &next) } else { smallvec![walk.to(next.clone())] }
        })
        .collect()
}

/// `net.bridge.bridge-nf-call-iptables`; the kernel's module is not there if the sysctl is not.
fn calls_netfilter(here: Here<'_>, ipv6: bool) -> bool {
    let sysctl = if ipv6 { "bridge.bridge-nf-call-ip6tables" } else { "bridge.bridge-nf-call-iptables" };
    here.namespace.sysctl(sysctl).unwrap_or(0) != 0
}

/// A frame whose destination address was translated: what routing sends out by this very bridge stays
/// bridged, with the next hop's link-layer address; the rest goes up (`br_nf_pre_routing_finish`).
fn redirect(here: Here<'_>, mut walk: Walk, bridge: &Link, next: &Stage) -> Walks {
    let flow = walk.packet.flow;
    let on = Some(bridge.name.as_str());
    let (mark, transport) = (walk.packet.mark, Transport::of(&flow));
    let key = fib::Key {
        dst: flow.dst,
        src: flow.src,
        iif: &bridge.name,
        oif: None,
        mark,
        dscp: walk.packet.dscp,
        transport,
    };
    let hops = match fib::lookup(here.namespace, &key) {
        Found::Unicast(_, hops) => hops,
        Found::Unknown(why) => return smallvec![walk.unknown(Hook::Route, on, why)],
        // Routing will say what becomes of it.
        Found::Local(_) | Found::Nothing | Found::Refused(..) => {
            walk.packet.mac.clone_from(&bridge.mac);
            return smallvec![walk.to(next.clone())];
        }
    };
    let several = hops.len() > 1;
    let redirected = hops.into_iter().map(|(share, hop)| {
        let mut branch = walk.clone();
        branch.probability *= share;
        let next_hop = hop.via.unwrap_or(flow.dst);
        if several {
            let taken = next_hop.to_string();
            branch.choices.push(Choice { kind: ChoiceKind::NextHop, taken, probability: share });
        }
        if hop.index != Some(bridge.index) {
            branch.packet.mac.clone_from(&bridge.mac);
            return branch.to(next.clone());
        }
        match neighbour::lookup(here, &branch.at, bridge, next_hop) {
            Resolved::To(mac, _) => {
                branch.packet.mac = mac;
                branch.to(next.clone())
            }
            Resolved::Fails(cause, object) => branch.dropped(Hook::Neighbour, on, cause, object),
            Resolved::Unknown(why) => branch.unknown(Hook::Neighbour, on, why),
        }
    });
    redirected.collect()
}

/// The host sends a frame on the bridge device.
pub(super) fn send(here: Here<'_>, walk: Walk, bridge: u32) -> Walks {
    decide(here, walk, bridge, None)
}

/// A frame from a port goes to another port or up to the host.
pub(super) fn forward(here: Here<'_>, walk: Walk, bridge: u32, from: u32) -> Walks {
    decide(here, walk, bridge, Some(from))
}

fn decide(here: Here<'_>, mut walk: Walk, bridge: u32, from: Option<u32>) -> Walks {
    let Some(bridge) = here.namespace.link(bridge) else {
        return smallvec![walk.unknown(Hook::Bridge, None, text!(model::BridgeAbsent))];
    };
    let on = Some(bridge.name.as_str());
    if has_vlans(here, bridge) {
        return smallvec![walk.unknown(
            Hook::Bridge,
            on,
            text!(model::VlanFiltering { bridge: &bridge.name })
        )];
    }
    if from.is_some() && is_for_host(here, bridge, walk.packet.mac.as_deref()) {
        walk.step(Hook::Bridge, on, Action::Forwarded, |step| {
            step.object = Some(text!(object::UpTo { bridge: &bridge.name }));
            step.note = here.namespace.ruleset.remark_on_bridge(&["prerouting", "input"]);
        });
        walk.packet.mac = None;
        return smallvec![walk.to(Stage::Receive(bridge.index))];
    }
    match choose(here, &walk, bridge, from) {
        Chosen::Port(port) => {
            let hooks: &[&str] = match from {
                Some(_) => &["prerouting", "forward", "postrouting"],
                None => &["output", "postrouting"],
            };
            let object = walk.tells_steps().then(|| to_port(here, &walk, bridge, port));
            walk.step(Hook::Bridge, on, Action::Forwarded, |step| {
                step.object = object;
                step.note = here.namespace.ruleset.remark_on_bridge(hooks);
            });
            across(here, walk, bridge, from, port)
        }
        Chosen::Nobody(object) => smallvec![walk.dropped(Hook::Bridge, on, Cause::BridgePort, object)],
    }
}

/// Says to which port a frame goes, and if its address is that of several hosts, which: a bridge knows one port for it.
fn to_port(here: Here<'_>, walk: &Walk, bridge: &Link, port: &Link) -> Text {
    let port = &port.name;
    let Some(mac) = walk.packet.mac.as_deref() else { return text!(object::ToPort { port }) };
    let segment = here.cluster.segment(&(walk.at.clone(), bridge.index));
    let with_mac = here.cluster.with_mac(mac).iter().filter(|device| {
        // Not the bridge itself.
        segment.has(device) && **device != (walk.at.clone(), bridge.index)
    });
    let hosts: BTreeSet<&Place> = with_mac.map(|(place, _)| place).collect();
    if hosts.len() < 2 {
        return text!(object::ToPort { port });
    }
    let hosts: Vec<&Place> = hosts.into_iter().collect();
    text!(object::ToOneOfSeveral { port, mac, hosts: hosts.as_slice() })
}

fn has_vlans(here: Here<'_>, bridge: &Link) -> bool {
    let filters = matches!(bridge.kind, LinkKind::Bridge { vlan_filtering: true });
    // VLAN 1 is everybody's default and separates nobody.
    let other = |vlan: Option<u16>| vlan.is_some_and(|vlan| vlan > 1);
    filters && here.namespace.fdb.iter().any(|entry| entry.master == Some(bridge.index) && other(entry.vlan))
}

/// Whether a frame is for the host: to the bridge's own address, or to one of its ports'.
fn is_for_host(here: Here<'_>, bridge: &Link, mac: Option<&str>) -> bool {
    let Some(mac) = mac else { return true };
    let of_port = || {
        here.cluster.with_mac(mac).iter().any(|(place, index)| {
            let port = here.namespace.link(*index).filter(|_| *place == here.namespace.place);
            port.is_some_and(|port| port.master == Some(bridge.index))
        })
    };
    let in_fdb = || {
        here.namespace.fdb_of(mac).any(|entry| {
            let ours = entry.master == Some(bridge.index) || entry.index == bridge.index;
            ours && entry.local && entry.remote.is_none()
        })
    };
    bridge.mac.as_deref() == Some(mac) || of_port() || in_fdb()
}

/// From one port to another, netfilter sees the packet pass; from the host it did already.
fn across(here: Here<'_>, mut walk: Walk, bridge: &Link, from: Option<u32>, port: &Link) -> Walks {
    walk.port = None;
    let next = Stage::Transmit(port.index);
    if from.is_none() || !std::mem::take(&mut walk.filtered_by_bridge) {
        return smallvec![walk.to(next)];
    }
    let on = Some(bridge.index);
    let at = At { input: on, output: on, port_in: from, port_out: Some(port.index), ..At::default() };
    let mut done = Walks::new();
    for passage in pass(here.namespace, Hook::NetfilterForward, at, walk) {
        if passage.walk.fate.is_some() {
            done.push(passage.walk);
            continue;
        }
        let at = At { input: None, ..at };
        let left = pass(here.namespace, Hook::NetfilterPostrouting, at, passage.walk);
        done.extend(left.into_iter().map(|passage| passage.walk.to(next.clone())));
    }
    done
}

enum Chosen<'a> {
    Port(&'a Link),
    /// Why no port takes the frame.
    Nobody(Text),
}

/// Finds the port for a frame: by the forwarding database, else by flooding to who has the address.
fn choose<'a>(here: Here<'a>, walk: &Walk, bridge: &Link, from: Option<u32>) -> Chosen<'a> {
    let namespace = here.namespace;
    let mac = walk.packet.mac.as_deref();
    let known = mac.and_then(|mac| {
        namespace
            .fdb_of(mac)
            .find(|entry| entry.master == Some(bridge.index) && !entry.local && entry.index != bridge.index)
    });
    if let Some(port) = known.and_then(|entry| namespace.link(entry.index)) {
        return match refuses(here, bridge, port, from) {
            None => Chosen::Port(port),
            Some(object) => Chosen::Nobody(object),
        };
    }
    let with_mac = mac.map_or(&[][..], |mac| here.cluster.with_mac(mac));
    // Mostly it is the other end of a port; what lies further behind takes a search.
    let is_peer = |port: &&Link| match here.cluster.peer(&(walk.at.clone(), port.index)) {
        Peer::Device(peer) => {
            with_mac.contains(peer) && here.cluster.link(peer).is_some_and(|link| link.master.is_none())
        }
        Peer::Outside | Peer::Missing => false,
    };
    let leads = |port: &&Link| {
        let behind = here.cluster.behind(&(walk.at.clone(), port.index));
        with_mac.iter().any(|device| behind.has(device))
    };
    let open = || {
        namespace
            .ports(bridge.index)
            .filter(|port| refuses(here, bridge, port, from).is_none())
            .filter(|port| port.bridge_port.is_none_or(|state| state.flood))
    };
    let anywhere = !with_mac.is_empty();
    let found = || open().find(is_peer).or_else(|| open().find(leads));
    let port = anywhere.then(found).flatten().or_else(|| open().find(|port| is_uplink(port)));
    match port {
        Some(port) => Chosen::Port(port),
        None => Chosen::Nobody(nobody(here, walk, bridge, from)),
    }
}

/// Why a port does not let a frame out.
fn refuses(here: Here<'_>, bridge: &Link, port: &Link, from: Option<u32>) -> Option<Text> {
    if let Some(object) = closed(port, bridge) {
        return Some(object);
    }
    let state = port.bridge_port?;
    let at = |state: &str| Some(text!(object::BridgePort { port: &port.name, bridge: &bridge.name, state }));
    if from == Some(port.index) && !state.hairpin {
        return at("hairpin off");
    }
    let isolated = |index: u32| {
        let link = here.namespace.link(index);
        link.and_then(|link| link.bridge_port).is_some_and(|state| state.isolated)
    };
    if state.isolated && from.is_some_and(isolated) {
        return at("isolated on");
    }
    None
}

/// Why a port neither takes nor gives frames.
fn closed(port: &Link, bridge: &Link) -> Option<Text> {
    let at = |state: Text| Some(text!(object::BridgePort { port: &port.name, bridge: &bridge.name, state }));
    if !bridge.up {
        return Some(text!(object::BridgeDown { bridge: &bridge.name }));
    }
    if !port.up {
        return at(text!(object::LinkDownState));
    }
    if !port.carrier {
        return at(text!(object::NoCarrierState));
    }
    match port.bridge_port.map_or(3, |state| state.state) {
        3 => None,
        0 => at(Text::verbatim("state disabled")),
        1 => at(Text::verbatim("state listening")),
        2 => at(Text::verbatim("state learning")),
        4 => at(Text::verbatim("state blocking")),
        other => at(Text::verbatim(format!("state {other}"))),
    }
}

/// The best word on why no port takes a frame.
fn nobody(here: Here<'_>, walk: &Walk, bridge: &Link, from: Option<u32>) -> Text {
    let mac = walk.packet.mac.as_deref().map_or_else(|| text!(object::UnknownAddress), Text::verbatim);
    let shut: Vec<Text> =
        here.namespace.ports(bridge.index).filter_map(|port| refuses(here, bridge, port, from)).collect();
    let shut = (!shut.is_empty()).then(|| text!(list::Clauses { items: shut }));
    text!(object::NoPort { bridge: &bridge.name, mac, next_hop: walk.next_hop, shut })
}
