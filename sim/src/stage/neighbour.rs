//! Link-layer addresses of next hops (`neigh_resolve_output`, ARP and neighbour discovery).

use std::net::IpAddr;

use smallvec::smallvec;
use waymark_proto::{Action, Cause, Hook, Link, LinkKind, Neighbour, Place, Text, text};

use super::Here;
use super::route::{Forwarding, forwarding};
use crate::fib::{self, Found, Transport};
use crate::graph::{Device, Segment};
use crate::walk::{Egress, Stage, Walk, Walks};

/// What is known about a next hop's link-layer address.
pub(super) enum Resolved {
    /// The address, absent where only the wire knows it; and what is wrong with it.
    To(Option<String>, Option<Text>),
    /// It fails; why, and what decides.
    Fails(Cause, Text),
    Unknown(Text),
}

/// Resolves the next hop and goes on to the device.
pub(super) fn resolve(here: Here<'_>, mut walk: Walk, egress: &Egress) -> Walks {
    let Some(link) = here.namespace.link(egress.device) else {
        let why = text!(model::DeviceAbsent { index: egress.device });
        return smallvec![walk.unknown(Hook::Neighbour, None, why)];
    };
    let on = Some(link.name.as_str());
    walk.next_hop = Some(egress.next_hop);
    let next = Stage::Transmit(egress.device);
    if matches!(link.kind, LinkKind::Loopback | LinkKind::Dummy | LinkKind::Other { .. }) {
        return smallvec![walk.to(next)];
    }
    if !link.up || !link.carrier {
        // Nothing can be asked on such a device; what is wrong with it is told there.
        walk.step(Hook::Neighbour, on, Action::Forwarded, |step| {
            step.note = Some(text!(model::NotAsked { next_hop: egress.next_hop }));
        });
        return smallvec![walk.to(next)];
    }
    match lookup(here, &walk.at, link, egress.next_hop) {
        Resolved::To(mac, remark) => {
            walk.packet.mac.clone_from(&mac);
            walk.step(Hook::Neighbour, on, Action::Forwarded, |step| {
                let told =
                    |mac| Text::verbatim(format!("{} dev {} lladdr {mac}", egress.next_hop, link.name));
                step.object = remark.or(mac.map(told));
            });
            smallvec![walk.to(next)]
        }
        Resolved::Fails(cause, object) => smallvec![walk.dropped(Hook::Neighbour, on, cause, object)],
        Resolved::Unknown(why) => smallvec![walk.unknown(Hook::Neighbour, on, why)],
    }
}

fn usable(entry: &Neighbour) -> bool {
    entry.mac.is_some()
        && !matches!(entry.state.to_ascii_lowercase().as_str(), "failed" | "incomplete" | "none")
}

/// Finds the link-layer address of a next hop on a device.
pub(super) fn lookup(here: Here<'_>, at: &Place, link: &Link, next_hop: IpAddr) -> Resolved {
    let segment = here.cluster.segment(&(at.clone(), link.index));
    let owners = owners(here, at, &segment, next_hop);
    let entry = here.namespace.neighbour(link.index, next_hop);
    match entry.filter(|entry| usable(entry)) {
        Some(entry) => check(here, link, entry, &segment, &owners),
        None => ask(here, at, link, next_hop, &segment, &owners),
    }
}

fn mac_of(here: Here<'_>, device: &Device) -> Option<String> {
    here.cluster.link(device)?.mac.clone()
}

/// The devices of a segment whose host has an address; those that carry it themselves first.
fn owners(here: Here<'_>, at: &Place, segment: &Segment, ip: IpAddr) -> Vec<Device> {
    let others = here.cluster.hosts_with(ip).into_iter().filter(|place| *place != at);
    let mut owners: Vec<Device> = others.flat_map(|place| segment.devices_of(place)).collect();
    if owners.len() < 2 {
        return owners;
    }
    owners.sort_by_key(|device| {
        let namespace = here.cluster.namespace(&device.0);
        namespace.and_then(|namespace| namespace.device_with(ip)).is_none_or(|link| link.index != device.1)
    });
    owners
}

/// Compares an entry that somebody set with who has the address in truth.
fn check(here: Here<'_>, link: &Link, entry: &Neighbour, segment: &Segment, owners: &[Device]) -> Resolved {
    let mac = entry.mac.clone().unwrap_or_default();
    let shown = || {
        let state = entry.state.to_ascii_uppercase();
        format!("neighbour {} dev {} lladdr {mac} {state}", entry.address, link.name)
    };
    let wrong = |object| Resolved::Fails(Cause::WrongNeighbour, object);
    if !matches!(entry.state.to_ascii_lowercase().as_str(), "permanent" | "noarp") {
        // Learnt: if it is out of date, the frame goes to the old place, and what is there will tell.
        let remark = misled(here, link, shown(), &mac, entry.address, segment, owners);
        return Resolved::To(Some(mac), remark);
    }
    let has = |device: &Device| here.cluster.link(device).and_then(|link| link.mac.as_deref()) == Some(&*mac);
    if owners.iter().any(has) {
        return Resolved::To(Some(mac), None);
    }
    let truths: Vec<(&Device, String)> =
        owners.iter().filter_map(|device| Some((device, mac_of(here, device)?))).collect();
    if truths.is_empty() {
        // A device elsewhere may have it: behind a port that is shut, say. The bridge will tell.
        let anywhere = || here.cluster.has_mac(&mac);
        if segment.whole && !anywhere() {
            return wrong(text!(object::NobodysNeighbour { entry: shown() }));
        }
    } else {
        let (device, truth) = &truths[0];
        let name = here.cluster.link(device).map(|link| link.name.clone()).unwrap_or_default();
        return wrong(text!(object::WrongNeighbour {
            entry: shown(),
            ip: entry.address,
            device: name,
            place: &device.0,
            mac: truth,
        }));
    }
    Resolved::To(Some(mac), None)
}

/// What is wrong with a learnt entry: that its address is that of another host's device than of the one that has the next
/// hop. The frame goes there, and what becomes of it there tells whether that is a fault: the other may pass it on.
fn misled(
    here: Here<'_>,
    link: &Link,
    entry: String,
    mac: &str,
    ip: IpAddr,
    segment: &Segment,
    owners: &[Device],
) -> Option<Text> {
    let has_it =
        |device: &&Device| here.cluster.link(device).and_then(|link| link.mac.as_deref()) == Some(mac);
    // Of several that have an address, it is the one's who should.
    let home = here.cluster.home_of(ip);
    let rightful = owners.iter().filter(|owner| home.is_none_or(|home| owner.0 == *home));
    let rightful: Vec<&Device> = rightful.collect();
    if rightful.iter().any(has_it) {
        return None;
    }
    let owner = *rightful.first()?;
    let is_own = |(place, index): &Device| *place == here.namespace.place && *index == link.index;
    let mut with_mac = here.cluster.with_mac(mac).iter();
    let stranger = with_mac.find(|device| segment.has(device) && !is_own(device));
    let name = |device: &Device| here.cluster.link(device).map(|link| link.name.clone()).unwrap_or_default();
    Some(text!(object::MisledNeighbour {
        entry,
        of: stranger.map(name),
        stranger: stranger.map(|device| &device.0),
        twice: stranger.is_some_and(|stranger| owners.contains(stranger)),
        ip,
        device: name(owner),
        place: &owner.0,
        mac: mac_of(here, owner)?,
    }))
}

/// Asks on the link.
fn ask(
    here: Here<'_>,
    at: &Place,
    link: &Link,
    next_hop: IpAddr,
    segment: &Segment,
    owners: &[Device],
) -> Resolved {
    if let LinkKind::Vxlan { remote: None, .. } = link.kind
        && !here.namespace.fdb_of(ANY).any(|entry| entry.index == link.index)
    {
        let object = text!(object::NeighbourWithoutRemote { next_hop, device: &link.name });
        return Resolved::Fails(Cause::NeighbourUnresolved, object);
    }
    let answerer = owners
        .first()
        .cloned()
        .or_else(|| segment.devices().find(|device| proxies(here, at, device, next_hop)));
    match answerer {
        Some(device) => Resolved::To(mac_of(here, &device), None),
        None if !segment.whole => Resolved::To(None, None),
        None => match here.namespace.lacks("neighbours") {
            Some(why) => Resolved::Unknown(why),
            None => Resolved::Fails(
                Cause::NeighbourUnresolved,
                text!(object::NeighbourSilent { next_hop, device: &link.name }),
            ),
        },
    }
}

/// The address of a VXLAN device's default destinations.
pub(super) const ANY: &str = "00:00:00:00:00:00";

/// Whether a device answers for an address that another host has (`arp_process`, proxy entries).
fn proxies(here: Here<'_>, at: &Place, device: &Device, ip: IpAddr) -> bool {
    let Some(namespace) = here.cluster.namespace(&device.0).filter(|_| device.0 != *at) else { return false };
    let name = namespace.name_of(device.1);
    let there = Here { cluster: here.cluster, namespace };
    if !matches!(forwarding(there, &name, ip.is_ipv6()), Forwarding::On) {
        return false;
    }
    if namespace.proxies(device.1, ip) {
        return true;
    }
    if ip.is_ipv6() || namespace.conf_max(&name, "proxy_arp") == 0 {
        return false;
    }
    // Only for what it would send out by another device.
    let key =
        fib::Key { dst: ip, src: ip, iif: &name, oif: None, mark: 0, dscp: 0, transport: Transport::NONE };
    match fib::lookup(namespace, &key) {
        Found::Unicast(_, hops) => hops.iter().any(|(_, hop)| hop.index != Some(device.1)),
        _ => false,
    }
}
