//! Addresses: `RTM_GETADDR`, both families.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use waymark_proto::Address;

use super::Missing;
use super::netlink::{Netlink, NetlinkError};

/// Reads the addresses of the thread's namespace, by device.
pub(super) fn read(netlink: &mut Netlink, missing: &mut Missing) -> Result<Vec<Address>, NetlinkError> {
    let dump = netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    missing.remarks("addresses", dump.remarks);
    let mut addresses: Vec<Address> = dump
        .messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(address) => read_one(&address),
            _ => None,
        })
        .collect();
    // In the order of the kernel within a device: the first of a subnet is its primary address.
    addresses.sort_by_key(|address| address.index);
    Ok(addresses)
}

/// On a point-to-point address `IFA_LOCAL` is the own end and `IFA_ADDRESS` the other; else both are the
/// same, and IPv6 has only the latter.
fn read_one(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut other) = (None::<IpAddr>, None::<IpAddr>);
    for attribute in &message.attributes {
        match *attribute {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => other = Some(ip),
            _ => {}
        }
    }
    let own = local.or(other)?;
    let address = IpNet::new(own, message.header.prefix_len).ok()?;
    let flags = message.header.flags;
    Some(Address {
        index: message.header.index,
        address,
        peer: other.filter(|&ip| ip != own),
        tentative: flags.contains(AddressHeaderFlags::Tentative)
            && !flags.contains(AddressHeaderFlags::Optimistic),
        inward: matches!(message.header.scope, AddressScope::Host | AddressScope::Nowhere),
    })
}
