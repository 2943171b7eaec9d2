//! Nexthop objects (`ip nexthop`): `RTM_GETNEXTHOP`, for routes that only name one.
//!
//! The packet crate does not know these messages, so they are read here: `struct nhmsg` and the `NHA_*`
//! attributes of `linux/nexthop.h`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use waymark_proto::NextHop;

use super::Missing;
use super::netlink::{Netlink, NetlinkError, RawMessage};

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;
/// `struct nhmsg`: family, scope, protocol, one reserved byte, then flags (`RTNH_F_*`) of 32 bits.
const HEADER: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// `struct nexthop_grp`: id of 32 bits, weight less one, and three bytes that older kernels leave zero
/// (newer ones use the first as the weight's high byte).
const MEMBER: usize = 8;

const RTNH_F_DEAD: u32 = 1;
const RTNH_F_ONLINK: u32 = 4;
const RTNH_F_LINKDOWN: u32 = 16;

/// Reads all nexthop objects of the thread's namespace, groups dissolved into their members. An object
/// without any next hop is a blackhole.
pub(super) fn read(
    netlink: &mut Netlink,
    missing: &mut Missing,
) -> Result<BTreeMap<u32, Vec<NextHop>>, NetlinkError> {
    let dump = netlink.dump(&RawMessage { kind: RTM_GETNEXTHOP, payload: vec![0; HEADER] })?;
    missing.remarks("routes", dump.remarks);
    let (mut single, mut groups) = (BTreeMap::new(), BTreeMap::new());
    for message in dump.messages.iter().filter(|message| message.kind == RTM_NEWNEXTHOP) {
        match read_one(message) {
            Some((id, Object::Single(hop))) => drop(single.insert(id, hop)),
            Some((id, Object::Group(members))) => drop(groups.insert(id, members)),
            // Routes that name it are remarked on one by one.
            None => missing.note("nexthops", "an object could not be read".to_owned()),
        }
    }
    // Members of a group are never groups (`nh_check_attr_group`).
    let dissolve = |members: Vec<(u32, u32)>| {
        let hop = |(id, weight)| single.get(&id).cloned().flatten().map(|hop| NextHop { weight, ..hop });
        members.into_iter().filter_map(hop).collect()
    };
    let mut objects: BTreeMap<u32, Vec<NextHop>> =
        groups.into_iter().map(|(id, members)| (id, dissolve(members))).collect();
    objects.extend(single.into_iter().map(|(id, hop)| (id, hop.into_iter().collect())));
    Ok(objects)
}

enum Object {
    /// One next hop; `None` is a blackhole.
    Single(Option<NextHop>),
    /// Members by id, with their weights.
    Group(Vec<(u32, u32)>),
}

fn read_one(message: &RawMessage) -> Option<(u32, Object)> {
    let flags = number(message.payload.get(4..HEADER)?)?;
    let (mut id, mut group, mut via, mut index) = (None, None, None, None);
    for (kind, value) in message.attributes(HEADER) {
        match kind {
            NHA_ID => id = number(&value),
            NHA_GROUP => group = Some(members(&value)),
            NHA_OIF => index = number(&value),
            NHA_GATEWAY => via = super::ip_from_bytes(&value),
            _ => {}
        }
    }
    let object = group.map_or_else(|| Object::Single(single(flags, via, index)), Object::Group);
    Some((id?, object))
}

fn single(flags: u32, via: Option<IpAddr>, index: Option<u32>) -> Option<NextHop> {
    let is_set = |flag| flags & flag != 0;
    (via.is_some() || index.is_some()).then(|| NextHop {
        via,
        index,
        weight: 1,
        onlink: is_set(RTNH_F_ONLINK),
        dead: is_set(RTNH_F_DEAD),
        linkdown: is_set(RTNH_F_LINKDOWN),
    })
}

fn members(value: &[u8]) -> Vec<(u32, u32)> {
    let member = |bytes: &[u8]| {
        let weight = u32::from(u16::from_le_bytes([bytes[4], bytes[5]])) + 1;
        number(&bytes[..4]).map(|id| (id, weight))
    };
    value.chunks_exact(MEMBER).filter_map(member).collect()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: &[(u16, &[u8])]) -> RawMessage {
        let mut payload = vec![0; HEADER];
        for (kind, value) in attributes {
            payload.extend((4 + value.len() as u16).to_ne_bytes());
            payload.extend(kind.to_ne_bytes());
            payload.extend(*value);
        }
        RawMessage { kind: RTM_NEWNEXTHOP, payload }
    }

    #[test]
    fn groups_keep_their_weights_and_blackholes_have_no_hop() {
        let members = [5_u32.to_ne_bytes(), [6, 0, 0, 0], 9_u32.to_ne_bytes(), [0, 1, 0, 0]].concat();
        let group = message(&[(NHA_ID, &3_u32.to_ne_bytes()), (NHA_GROUP, &members)]);
        let Some((3, Object::Group(members))) = read_one(&group) else { panic!("a group") };
        assert_eq!(members, [(5, 7), (9, 257)]);

        let hole = message(&[(NHA_ID, &4_u32.to_ne_bytes())]);
        assert!(matches!(read_one(&hole), Some((4, Object::Single(None)))));
        let hop = message(&[(NHA_ID, &5_u32.to_ne_bytes()), (NHA_GATEWAY, &[10, 0, 0, 1])]);
        let Some((5, Object::Single(Some(hop)))) = read_one(&hop) else { panic!("a next hop") };
        assert_eq!((hop.via, hop.index), (Some(IpAddr::from([10, 0, 0, 1])), None));

        assert!(read_one(&message(&[])).is_none());
        assert!(read_one(&RawMessage { kind: RTM_NEWNEXTHOP, payload: vec![1] }).is_none());
    }
}
