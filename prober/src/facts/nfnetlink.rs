//! What netfilter holds, asked for by netlink: cheap questions that spare the start of a tool.

use super::netlink::{Netlink, NetlinkError, RawMessage};

/// `NFNL_SUBSYS_NFTABLES` with `NFT_MSG_NEWTABLE` and `NFT_MSG_GETTABLE`.
const NEWTABLE: u16 = 10 << 8;
const GETTABLE: u16 = 10 << 8 | 1;
const NFTA_TABLE_NAME: u16 = 1;
/// `NFNL_SUBSYS_IPSET` with `IPSET_CMD_LIST`.
const IPSET_LIST: u16 = 6 << 8 | 7;
const IPSET_ATTR_PROTOCOL: u16 = 1;
const IPSET_ATTR_SETNAME: u16 = 2;
const IPSET_ATTR_FLAGS: u16 = 6;
/// The oldest protocol that kernels since 3.x speak; newer ones still do (`IPSET_PROTOCOL_MIN`).
const IPSET_PROTOCOL: u8 = 6;
/// `IPSET_FLAG_LIST_SETNAME`: names only.
const IPSET_NAMES_ONLY: u32 = 2;
/// `struct nfgenmsg`: family, version, resource id of 16 bits.
const HEADER: usize = 4;
/// `NLA_F_NET_BYTEORDER`: the ipset subsystem wants it said.
const NET_BYTEORDER: u16 = 1 << 14;

/// An nftables table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NftTable {
    /// `NFPROTO_*`: 1 inet, 2 ip, 5 netdev, 7 bridge, 10 ip6.
    pub(crate) family: u8,
    /// Its name.
    pub(crate) name: String,
}

/// Lists the nftables tables of the thread's namespace. Needs `CAP_NET_ADMIN` there.
pub(crate) fn nft_tables() -> Result<Vec<NftTable>, NetlinkError> {
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
    let dump = netlink.dump(&RawMessage { kind: GETTABLE, payload: vec![0; HEADER] })?;
    let tables = dump.messages.iter().filter(|message| message.kind == NEWTABLE).filter_map(|message| {
        let family = *message.payload.first()?;
        let (_, name) = message.attributes(HEADER).find(|&(kind, _)| kind == NFTA_TABLE_NAME)?;
        let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
        Some(NftTable { family, name })
    });
    Ok(tables.collect())
}

/// Whether the thread's namespace has IP sets. Needs `CAP_NET_ADMIN` there.
pub(super) fn has_ipsets() -> Result<bool, NetlinkError> {
    let mut payload = vec![0; HEADER];
    attribute(&mut payload, IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL]);
    attribute(&mut payload, IPSET_ATTR_FLAGS | NET_BYTEORDER, &IPSET_NAMES_ONLY.to_be_bytes());
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
    let dump = netlink.dump(&RawMessage { kind: IPSET_LIST, payload })?;
    let mut attributes = dump.messages.iter().flat_map(|message| message.attributes(HEADER));
    Ok(attributes.any(|(kind, _)| kind == IPSET_ATTR_SETNAME))
}

/// Appends an attribute, padded to its alignment.
fn attribute(payload: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = 4 + value.len();
    payload.extend((length as u16).to_ne_bytes());
    payload.extend(kind.to_ne_bytes());
    payload.extend(value);
    payload.resize(payload.len() + length.next_multiple_of(4) - length, 0);
}
