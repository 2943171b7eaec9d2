//! Neighbours and forwarding databases: `RTM_GETNEIGH` of the IP families, of proxies, and of `AF_BRIDGE`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_core::Nla;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use waymark_proto::{FdbEntry, Link, LinkKind, Neighbour};

use super::Missing;
use super::netlink::{Netlink, NetlinkError};

/// `NUD_*` in the order in which a combination is named by its strongest.
const STATES: [(u16, &str); 8] = [
    (0x80, "permanent"),
    (0x40, "noarp"),
    (0x02, "reachable"),
    (0x04, "stale"),
    (0x08, "delay"),
    (0x10, "probe"),
    (0x20, "failed"),
    (0x01, "incomplete"),
];
const NUD_PERMANENT: u16 = 0x80;
/// `NDA_NH_ID`: a VXLAN entry that leads to a nexthop object.
const NDA_NH_ID: u16 = 13;

/// Reads the neighbours of the thread's namespace and those that it answers for, by device and address.
pub(super) fn read(netlink: &mut Netlink, missing: &mut Missing) -> Result<Vec<Neighbour>, NetlinkError> {
    let mut neighbours = Vec::new();
    for flags in [NeighbourFlags::empty(), NeighbourFlags::Proxy] {
        let mut request = NeighbourMessage::default();
        request.header.flags = flags;
        neighbours.extend(dump(netlink, request, "neighbours", missing)?.iter().filter_map(neighbour));
    }
    neighbours.sort_by_key(|entry| (entry.index, entry.address, entry.proxy));
    Ok(neighbours)
}

/// Reads the forwarding databases of the bridges and VXLAN devices among `links`, by device and address.
pub(super) fn read_fdb(
    netlink: &mut Netlink,
    links: &[Link],
    missing: &mut Missing,
) -> Result<Vec<FdbEntry>, NetlinkError> {
    let underlay = |link: &Link| match link.kind {
        LinkKind::Vxlan { underlay, .. } => Some((link.index, underlay)),
        _ => None,
    };
    let tunnels: BTreeMap<u32, Option<u32>> = links.iter().filter_map(underlay).collect();
    let has_bridge = links.iter().any(|link| matches!(link.kind, LinkKind::Bridge { .. }));
    if tunnels.is_empty() && !has_bridge {
        return Ok(Vec::new());
    }
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Bridge;
    let messages = dump(netlink, request, "fdb", missing)?;
    let mut entries: Vec<FdbEntry> =
        messages.iter().filter_map(|message| fdb_entry(message, &tunnels, missing)).collect();
    entries.sort_by(|a, b| {
        let key = |entry: &FdbEntry| (entry.index, entry.master, entry.vlan, entry.remote, entry.vni);
        key(a).cmp(&key(b)).then_with(|| a.mac.cmp(&b.mac))
    });
    Ok(entries)
}

fn dump(
    netlink: &mut Netlink,
    request: NeighbourMessage,
    what: &'static str,
    missing: &mut Missing,
) -> Result<Vec<NeighbourMessage>, NetlinkError> {
    let dump = netlink.dump(&RouteNetlinkMessage::GetNeighbour(request))?;
    missing.remarks(what, dump.remarks);
    let entries = dump.messages.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewNeighbour(entry) => Some(entry),
        _ => None,
    });
    Ok(entries.collect())
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(destination) => address = ip(destination),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = super::mac_text(bytes),
            _ => {}
        }
    }
    Some(Neighbour {
        index: message.header.ifindex,
        address: address?,
        mac,
        state: state(message.header.state),
        proxy: message.header.flags.contains(NeighbourFlags::Proxy),
    })
}

fn state(state: NeighbourState) -> String {
    let bits = u16::from(state);
    let known = STATES.iter().find(|(bit, _)| bits & bit != 0);
    known.map_or("none", |(_, name)| name).to_owned()
}

/// `tunnels` maps the VXLAN devices to the devices below them. Every Ethernet device also lists the addresses that its filter takes (`ndo_dflt_fdb_dump`): they are no
/// forwarding entries and have neither a bridge nor a VXLAN device.
fn fdb_entry(
    message: &NeighbourMessage,
    tunnels: &BTreeMap<u32, Option<u32>>,
    missing: &mut Missing,
) -> Option<FdbEntry> {
    let mut entry = FdbEntry {
        index: message.header.ifindex,
        mac: String::new(),
        remote: None,
        vni: None,
        vlan: None,
        master: None,
        local: false,
    };
    let mut unmodelled = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => entry.mac = super::mac_text(bytes)?,
            NeighbourAttribute::Destination(destination) => entry.remote = ip(destination),
            NeighbourAttribute::Vni(vni) => entry.vni = Some(*vni),
            NeighbourAttribute::Vlan(vlan) => entry.vlan = Some(*vlan),
            NeighbourAttribute::Controller(index) => entry.master = Some(*index),
            NeighbourAttribute::Port(port) => unmodelled.push(format!("remote port {port}")),
            // The default destination repeats the device below.
            NeighbourAttribute::IfIndex(index) if tunnels.get(&entry.index) == Some(&Some(*index)) => {}
            NeighbourAttribute::IfIndex(index) => unmodelled.push(format!("by device {index}")),
            NeighbourAttribute::SourceVni(vni) => unmodelled.push(format!("source VNI {vni}")),
            other if other.kind() == NDA_NH_ID => unmodelled.push("by nexthop object".to_owned()),
            _ => {}
        }
    }
    if entry.mac.is_empty() || (entry.master.is_none() && !tunnels.contains_key(&entry.index)) {
        return None;
    }
    entry.local = entry.master.is_some() && u16::from(message.header.state) & NUD_PERMANENT != 0;
    for what in unmodelled {
        missing
            .note("fdb", format!("{} on device {}: {what}, which is not modelled", entry.mac, entry.index));
    }
    Some(entry)
}

/// The packet crate leaves the addresses of `AF_BRIDGE` entries as bytes.
fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        NeighbourAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        NeighbourAddress::Other(bytes) => super::ip_from_bytes(bytes),
        _ => None,
    }
}
