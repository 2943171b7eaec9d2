//! Facts: what an agent collects about its node, and the simulator's only input about machines.
//!
//! A facts document describes one node. Every list may be incomplete: what could not be read stands in
//! `missing`, and a prediction that needs it ends as `InsufficientInfo`.
//!
//! * `program`: BPF programs of devices
//! * `socket`: sockets that receive

mod program;
mod socket;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use program::{DeviceProgram, ProgramPoint};
pub use socket::{Socket, SocketHolder};

use crate::{NetnsInode, NetnsName, NodeName};

/// Version of the document's format.
pub const FACTS_API_VERSION: &str = "waymark.io/facts/v1alpha1";

/// Facts about one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Facts {
    /// [`FACTS_API_VERSION`].
    pub api_version: String,
    /// The node.
    pub node: NodeName,
    /// Kernel release, as `uname -r`.
    pub kernel: String,
    /// The node's own namespace first, then its pods'.
    pub namespaces: Vec<NetnsFacts>,
}

impl Facts {
    /// Reads a document and checks its version.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the bytes and where.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let facts: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("not a complete facts document: {error}"))?;
        if facts.api_version == FACTS_API_VERSION {
            Ok(facts)
        } else {
            Err(format!("facts of version {:?}; this program reads {FACTS_API_VERSION:?}", facts.api_version))
        }
    }
}

/// Facts about one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetnsFacts {
    /// Its name in the inventory.
    pub name: String,
    /// Its identity.
    pub inode: u32,
    /// The pod whose namespace it is, as `namespace/name`; absent for the node's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Devices.
    pub links: Vec<Link>,
    /// BPF programs that devices run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<DeviceProgram>,
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes of all tables, both families.
    pub routes: Vec<Route>,
    /// Policy rules, by family and priority.
    pub rules: Vec<PolicyRule>,
    /// Neighbour (ARP, NDP) entries.
    pub neighbours: Vec<Neighbour>,
    /// Forwarding databases of bridges and VXLAN devices.
    pub fdb: Vec<FdbEntry>,
    /// Sysctls below `net`, by dotted name without the `net.` prefix (`ipv4.ip_forward`).
    pub sysctls: BTreeMap<String, String>,
    /// Sockets that receive: listening TCP, unconnected UDP.
    pub sockets: Vec<Socket>,
    /// Netfilter configuration.
    pub netfilter: NetfilterFacts,
    /// What could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingFact>,
}

impl NetnsFacts {
    /// The namespace's name.
    pub fn netns(&self) -> NetnsName {
        NetnsName::from(self.name.as_str())
    }

    /// The namespace's identity.
    pub fn identity(&self) -> NetnsInode {
        NetnsInode(self.inode)
    }
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MissingFact {
    /// What, by the name of its field (`netfilter.nft`).
    pub what: String,
    /// Why.
    pub why: String,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// Interface index within its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Link-layer address as `aa:bb:cc:dd:ee:ff`; absent on devices without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// `IFF_UP`: administratively up.
    pub up: bool,
    /// `IFF_LOWER_UP`: has a carrier.
    pub carrier: bool,
    /// Index of the bridge, bond or VRF that it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<u32>,
    /// What kind of device it is.
    pub kind: LinkKind,
    /// Its state as a bridge port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge_port: Option<BridgePort>,
}

/// Kinds of devices, with what decides a packet's way through them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum LinkKind {
    /// The loopback device.
    Loopback,
    /// Hardware, or another device without a link kind.
    Physical,
    /// One end of a veth pair.
    Veth {
        /// Index of the other end in its namespace.
        #[serde(rename = "peerIndex")]
        peer_index: u32,
        /// Name of the namespace of the other end, if it is one of this node's.
        #[serde(rename = "peerNetns", default, skip_serializing_if = "Option::is_none")]
        peer_netns: Option<String>,
    },
    /// A bridge.
    Bridge {
        /// Whether it filters by VLAN.
        #[serde(rename = "vlanFiltering", default)]
        vlan_filtering: bool,
    },
    /// A VXLAN device.
    Vxlan {
        /// Virtual network identifier.
        vni: u32,
        /// UDP destination port.
        port: u16,
        /// Outer source address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        local: Option<IpAddr>,
        /// Default remote or multicast group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remote: Option<IpAddr>,
        /// Index of the underlying device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        underlay: Option<u32>,
        /// Whether it learns remotes from traffic.
        #[serde(default)]
        learning: bool,
    },
    /// A dummy device: swallows what it is given.
    Dummy,
    /// A kind that this version does not model; the kernel's name for it.
    Other {
        /// The kernel's `IFLA_INFO_KIND`.
        kind: String,
    },
}

/// State of a bridge port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BridgePort {
    /// STP state: 0 disabled, 1 listening, 2 learning, 3 forwarding, 4 blocking.
    pub state: u8,
    /// Whether a frame may leave by the port it came from.
    pub hairpin: bool,
    /// Isolated ports do not talk to one another.
    pub isolated: bool,
    /// Whether frames with unknown destination are flooded to it.
    pub flood: bool,
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Address {
    /// Interface index.
    pub index: u32,
    /// The address with its prefix length.
    pub address: IpNet,
    /// Peer address of point-to-point addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Not yet this host's, or never: IPv6 has not yet found out that nobody else has it, or has found that somebody
    /// does (`IFA_F_TENTATIVE` without `IFA_F_OPTIMISTIC`, RFC 4862 section 5.4).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tentative: bool,
    /// Not to be chosen for what leaves the host: its scope is the host or nothing (`RT_SCOPE_HOST` and beyond).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inward: bool,
}

/// Route types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteType {
    /// Forwards or delivers on a link.
    Unicast,
    /// Delivers to this host.
    Local,
    /// A broadcast address.
    Broadcast,
    /// An anycast address.
    Anycast,
    /// A multicast group.
    Multicast,
    /// Drops without a word.
    Blackhole,
    /// Answers "host unreachable".
    Unreachable,
    /// Answers "administratively prohibited".
    Prohibit,
    /// Goes on with the next policy rule.
    Throw,
    /// A type that this version does not model.
    Other,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Table number: 254 main, 255 local, 253 default.
    pub table: u32,
    /// Destination.
    pub dst: IpNet,
    /// Type.
    #[serde(rename = "type")]
    pub kind: RouteType,
    /// Metric: of routes to one destination, the lowest wins.
    #[serde(default)]
    pub metric: u32,
    /// Type of service to match; 0 matches all.
    #[serde(default)]
    pub tos: u8,
    /// Preferred source address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefsrc: Option<IpAddr>,
    /// Next hops; more than one is ECMP; none for types that need none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_hops: Vec<NextHop>,
}

/// One next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NextHop {
    /// Gateway; absent when the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Index of the output device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Weight among the next hops, from 1.
    pub weight: u32,
    /// `RTNH_F_ONLINK`: the gateway is taken to be on the link.
    #[serde(default)]
    pub onlink: bool,
    /// `RTNH_F_DEAD`: the device is down.
    #[serde(default)]
    pub dead: bool,
    /// `RTNH_F_LINKDOWN`: the device has no carrier.
    #[serde(default)]
    pub linkdown: bool,
}

/// What a policy rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuleAction {
    /// Looks the destination up in a table.
    Table,
    /// Jumps to the rule of a priority.
    Goto,
    /// Does nothing.
    Nop,
    /// Drops without a word.
    Blackhole,
    /// Answers "host unreachable".
    Unreachable,
    /// Answers "administratively prohibited".
    Prohibit,
    /// An action that this version does not model.
    Other,
}

/// A range of ports, both ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl PortRange {
    /// Whether a port is in it.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// A policy routing rule (`ip rule`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    /// Whether it is an IPv6 rule.
    pub ipv6: bool,
    /// Priority: lowest first.
    pub priority: u32,
    /// What it does.
    pub action: RuleAction,
    /// Table for `Table`.
    #[serde(default)]
    pub table: u32,
    /// Priority for `Goto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goto: Option<u32>,
    /// Source prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpNet>,
    /// Destination prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpNet>,
    /// Input device by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iif: Option<String>,
    /// Output device by name (sockets bound to it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oif: Option<String>,
    /// Firewall mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// Mask for the mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<u32>,
    /// Number of the transport protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_protocol: Option<u8>,
    /// Source ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_ports: Option<PortRange>,
    /// Destination ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst_ports: Option<PortRange>,
    /// TOS or traffic class; absent if it does not select.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos: Option<u8>,
    /// Matches what the selectors do not.
    #[serde(default)]
    pub invert: bool,
    /// Selectors that this version does not model, by name: the rule may or may not match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmodelled: Vec<String>,
}

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Neighbour {
    /// Interface index.
    pub index: u32,
    /// Network-layer address.
    pub address: IpAddr,
    /// Link-layer address, if resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// `reachable`, `stale`, `delay`, `probe`, `failed`, `incomplete`, `permanent`, `noarp`, `none`.
    pub state: String,
    /// `NTF_PROXY`: this host answers for the address.
    #[serde(default)]
    pub proxy: bool,
}

/// An entry of a forwarding database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FdbEntry {
    /// Interface index of the bridge port or VXLAN device.
    pub index: u32,
    /// Link-layer address; all zeros is the default destination of a VXLAN device.
    pub mac: String,
    /// VTEP address, for VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// Other VNI than the device's, for VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// VLAN, for bridges that filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Index of the bridge that holds it, for bridge ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<u32>,
    /// The address belongs to this host (`NUD_PERMANENT` on a bridge).
    #[serde(default)]
    pub local: bool,
}

/// Netfilter configuration of a namespace, each part as its own tool prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetfilterFacts {
    /// `nft -j list ruleset`, without Waymark's own tables. Tables that belong to iptables-nft are in it
    /// too, for their rule handles; their meaning comes from `iptables`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nft: Option<serde_json::Value>,
    /// One entry per family and back end that has tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub iptables: Vec<IptablesDump>,
    /// `ipset save`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipset: Option<String>,
}

/// Back ends of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IptablesBackend {
    /// `x_tables` in the kernel.
    Legacy,
    /// nftables in the kernel.
    Nft,
}

/// One `iptables-save`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IptablesDump {
    /// Whether it is of `ip6tables`.
    pub ipv6: bool,
    /// Whose.
    pub backend: IptablesBackend,
    /// The text.
    pub text: String,
}
