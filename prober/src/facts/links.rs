//! Devices: `RTM_GETLINK`, and `RTM_GETNSID` for the namespaces at the other ends of veth pairs.
//!
//! A veth end tells its peer as an interface index and, if the peer is elsewhere, as the namespace id
//! that its own namespace uses for the peer's (`peernet2id`). Such an id means nothing outside, so it is
//! looked up from inside, against the namespaces that are known of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVxlan, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use waymark_proto::{BridgePort, DeviceProgram, Link, LinkKind};

use super::netlink::{Netlink, NetlinkError};
use super::{Missing, programs};
use crate::netns::Netns;

/// Reads the devices of the thread's namespace, by index. `own` is that namespace; `known` are those that
/// a peer may be in. `xdp` gets the XDP programs of the devices.
pub(super) fn read(
    netlink: &mut Netlink,
    own: &Netns,
    known: &[Netns],
    xdp: &mut Vec<DeviceProgram>,
    missing: &mut Missing,
) -> Result<Vec<Link>, NetlinkError> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let dump = netlink.dump(&RouteNetlinkMessage::GetLink(request))?;
    missing.remarks("links", dump.remarks);
    let mut raw: Vec<RawLink> = dump
        .messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(RawLink::from(link)),
            _ => None,
        })
        .collect();
    raw.sort_by_key(|link| link.index);
    xdp.extend(raw.iter().flat_map(|link| programs::of_xdp(&link.name, &link.xdp)));
    let ids = raw.iter().filter(|link| link.kind.as_deref() == Some("veth")).filter_map(|link| link.netns_id);
    let peers = names_of(netlink, ids.collect(), known)?;
    Ok(raw.into_iter().map(|link| link.into_link(own.name().as_str(), &peers, missing)).collect())
}

/// Whether the thread's namespace has bridges; `false` also where that could not be read.
pub(crate) fn has_bridges() -> bool {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let is_bridge = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    };
    let dump = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)
        .and_then(|mut netlink| netlink.dump(&RouteNetlinkMessage::GetLink(request)));
    dump.is_ok_and(|dump| {
        dump.messages.iter().any(|message| match message {
            RouteNetlinkMessage::NewLink(link) => link.attributes.iter().any(is_bridge),
            _ => false,
        })
    })
}

/// The names of the namespaces with these ids. Ids of namespaces that are not known are left out.
fn names_of(
    netlink: &mut Netlink,
    mut ids: BTreeSet<i32>,
    known: &[Netns],
) -> Result<BTreeMap<i32, String>, NetlinkError> {
    // An id below zero says that the kernel shows none.
    ids.retain(|&id| id >= 0);
    let mut names = BTreeMap::new();
    for netns in known {
        if ids.is_empty() {
            break;
        }
        let mut request = NsidMessage::default();
        request.attributes.push(NsidAttribute::Fd(netns.file().as_raw_fd().cast_unsigned()));
        let answer = netlink.ask(&RouteNetlinkMessage::GetNsId(request))?;
        let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else { continue };
        for attribute in answer.attributes {
            if let NsidAttribute::Id(id) = attribute
                && ids.remove(&id)
            {
                names.insert(id, netns.name().to_string());
            }
        }
    }
    Ok(names)
}

/// What a link message says, before names are put to namespaces.
#[derive(Default)]
struct RawLink {
    index: u32,
    name: String,
    mac: Option<String>,
    mtu: u32,
    flags: LinkFlags,
    master: Option<u32>,
    /// `IFLA_LINK`: index of the veth peer, or of the device below.
    link: Option<u32>,
    /// `IFLA_LINK_NETNSID`: where `link` is, if not here.
    netns_id: Option<i32>,
    kind: Option<String>,
    vlan_filtering: bool,
    /// The bridge's own `nf_call_*tables`, which the kernel ORs with the sysctl.
    calls_iptables: bool,
    vxlan: Vec<InfoVxlan>,
    bridge_port: Option<BridgePort>,
    xdp: Vec<LinkXdp>,
}

impl From<LinkMessage> for RawLink {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self { index: message.header.index, flags: message.header.flags, ..Self::default() };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = super::mac_text(&bytes),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Link(index) => link.link = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.netns_id = Some(id),
                LinkAttribute::Xdp(infos) => link.xdp = infos,
                LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| link.add_info(info)),
                _ => {}
            }
        }
        link
    }
}

impl RawLink {
    fn add_info(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(InfoKind::to_string(&kind)),
            LinkInfo::Data(InfoData::Vxlan(vxlan)) => self.vxlan = vxlan,
            LinkInfo::Data(InfoData::Bridge(bridge)) => {
                self.vlan_filtering = bridge.contains(&InfoBridge::VlanFiltering(true));
                self.calls_iptables = bridge.iter().any(|info| {
                    matches!(info, InfoBridge::NfCallIpTables(true) | InfoBridge::NfCallIp6Tables(true))
                });
            }
            LinkInfo::PortData(InfoPortData::BridgePort(port)) => self.bridge_port = Some(bridge_port(&port)),
            _ => {}
        }
    }

    fn into_link(self, own: &str, peers: &BTreeMap<i32, String>, missing: &mut Missing) -> Link {
        let loopback = self.flags.contains(LinkFlags::Loopback);
        let kind = match self.kind.as_deref() {
            _ if loopback => LinkKind::Loopback,
            None => LinkKind::Physical,
            // Kernels before 5.12 leave the peer's index out where it equals the own one.
            Some("veth") => LinkKind::Veth {
                peer_index: self.link.unwrap_or(self.index),
                peer_netns: match self.netns_id {
                    None => Some(own.to_owned()),
                    Some(id) => peers.get(&id).cloned(),
                },
            },
            Some("bridge") => {
                if self.calls_iptables {
                    let what = "hands frames to iptables by a setting of its own, which is not modelled";
                    missing.note("links", format!("{}: {what}", self.name));
                }
                LinkKind::Bridge { vlan_filtering: self.vlan_filtering }
            }
            Some("vxlan") => self.vxlan_kind(missing),
            Some("dummy") => LinkKind::Dummy,
            Some(kind) => LinkKind::Other { kind: kind.to_owned() },
        };
        Link {
            index: self.index,
            name: self.name,
            mac: self.mac.filter(|_| !loopback),
            mtu: self.mtu,
            up: self.flags.contains(LinkFlags::Up),
            carrier: self.flags.contains(LinkFlags::LowerUp),
            master: self.master,
            kind,
            bridge_port: self.bridge_port,
        }
    }

    fn vxlan_kind(&self, missing: &mut Missing) -> LinkKind {
        let (mut vni, mut port, mut learning) = (0, 0, false);
        let (mut local, mut remote, mut underlay) = (None, None, None);
        for info in &self.vxlan {
            match *info {
                InfoVxlan::Id(id) => vni = id,
                InfoVxlan::Port(number) => port = number,
                InfoVxlan::Learning(on) => learning = on,
                InfoVxlan::Local(ip) => local = Some(IpAddr::V4(ip)),
                InfoVxlan::Local6(ip) => local = Some(IpAddr::V6(ip)),
                InfoVxlan::Group(ip) => remote = Some(IpAddr::V4(ip)),
                InfoVxlan::Group6(ip) => remote = Some(IpAddr::V6(ip)),
                InfoVxlan::Link(index) => underlay = Some(index),
                InfoVxlan::CollectMetadata(true) => {
                    missing
                        .note("links", format!("{}: takes its VNI and remote from each packet", self.name));
                }
                _ => {}
            }
        }
        if self.netns_id.is_some() {
            missing.note("links", format!("{}: its outer packets leave in another namespace", self.name));
            underlay = None;
        }
        // The kernel reports an unset address of the one family as zeros.
        let set = |ip: &IpAddr| !ip.is_unspecified();
        LinkKind::Vxlan {
            vni,
            port,
            local: local.filter(set),
            remote: remote.filter(set),
            underlay: underlay.filter(|&index| index != 0),
            learning,
        }
    }
}

fn bridge_port(infos: &[InfoBridgePort]) -> BridgePort {
    let mut port = BridgePort { state: 0, hairpin: false, isolated: false, flood: false };
    for info in infos {
        match *info {
            InfoBridgePort::State(state) => port.state = state.into(),
            InfoBridgePort::HairpinMode(on) => port.hairpin = on,
            InfoBridgePort::Isolated(on) => port.isolated = on,
            InfoBridgePort::UnicastFlood(on) => port.flood = on,
            _ => {}
        }
    }
    port
}
