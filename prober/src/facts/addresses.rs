//! Addresses: `RTM_GETADDR`, both families.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use waymark_proto::Address;

use super::Missing;
use super::netlink::{Netlink, NetlinkError};

/// Reads the addresses of the thread's namespace, by device and address.
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
    addresses.sort_by_key(|address| (address.index, address.address));
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
    Some(Address { index: message.header.index, address, peer: other.filter(|&ip| ip != own) })
}
