//! One network namespace, its facts arranged for looking up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use waymark_proto::{
    Address, DeviceProgram, FdbEntry, Link, LinkKind, MissingFact, Neighbour, NetnsFacts, NodeName, Place,
    PolicyRule, Route, RouteType, Socket, Text, text,
};

use crate::netfilter::Ruleset;
use crate::sysctls::Sysctls;
use crate::table::Table;

/// Number of the table of local addresses.
pub(crate) const TABLE_LOCAL: u32 = 255;

/// A route that is there, but not as the facts have it.
#[derive(Debug)]
pub(crate) struct DoubtfulRoute {
    table: u32,
    pub(crate) dst: IpNet,
    pub(crate) why: Text,
}

impl DoubtfulRoute {
    /// Reads a remark: `routes.10.0.0.0/8 table 254`.
    fn read(fact: &MissingFact) -> Option<Self> {
        let (dst, table) = fact.what.strip_prefix("routes.")?.split_once(" table ")?;
        let (dst, table) = (dst.parse().ok()?, table.parse().ok()?);
        Some(Self {
            table,
            dst,
            why: text!(model::DoubtfulRoute { dst: dst.to_string(), table, why: &fact.why }),
        })
    }
}

/// What remarks call an entry of a forwarding database.
fn name(entry: &FdbEntry) -> String {
    format!("{} on device {}", entry.mac, entry.index)
}

/// Where the entries of a forwarding database are, by link-layer address.
fn by_mac(fdb: &[FdbEntry]) -> FxHashMap<String, Vec<usize>> {
    let mut positions: FxHashMap<String, Vec<usize>> = FxHashMap::default();
    for (position, entry) in fdb.iter().enumerate() {
        positions.entry(entry.mac.clone()).or_default().push(position);
    }
    positions
}

/// Whether a remark is about this device or entry: `NAME: what is special about it`.
fn concerns(fact: &MissingFact, name: &str) -> bool {
    fact.why.strip_prefix(name).is_some_and(|rest| rest.starts_with(": "))
}

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) place: Place,
    links: BTreeMap<u32, Link>,
    /// Names of devices, which are asked for at each step.
    names: BTreeMap<u32, Arc<str>>,
    pub(crate) programs: Vec<DeviceProgram>,
    /// Addresses by device.
    addresses: BTreeMap<u32, Vec<Address>>,
    /// The device that has an address.
    own: BTreeMap<IpAddr, u32>,
    /// Routes by family and table.
    tables: BTreeMap<(bool, u32), Table>,
    /// Policy rules by family, in the order of priority.
    rules: [Vec<PolicyRule>; 2],
    /// Those of others, by device and address.
    neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    /// For whom this host answers, by device.
    proxied: BTreeSet<(u32, IpAddr)>,
    /// Whether a policy rule or a route asks for a TOS.
    pub(crate) heeds_dscp: bool,
    /// Whether a policy rule asks for ports.
    pub(crate) heeds_ports: bool,
    pub(crate) fdb: Vec<FdbEntry>,
    /// Positions there, by link-layer address.
    fdb_by_mac: FxHashMap<String, Vec<usize>>,
    sysctls: Sysctls,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) ruleset: Ruleset,
    missing: Vec<MissingFact>,
    doubtful: Vec<DoubtfulRoute>,
}

impl Namespace {
    /// Arranges facts; compiles the ruleset.
    pub(crate) fn new(node: &NodeName, facts: NetnsFacts) -> Self {
        let place = Place { node: node.clone(), netns: facts.netns() };
        let ruleset = Ruleset::compile(&facts.netfilter, &facts.missing);
        let heeds_dscp = facts.rules.iter().any(|rule| rule.tos.is_some())
            || facts.routes.iter().any(|route| route.tos != 0);
        let heeds_ports = facts.rules.iter().any(|rule| rule.src_ports.or(rule.dst_ports).is_some());
        let mut tables: BTreeMap<(bool, u32), Vec<Route>> = BTreeMap::new();
        for route in facts.routes {
            tables.entry((route.dst.addr().is_ipv6(), route.table)).or_default().push(route);
        }
        let (mut v6, mut v4): (Vec<_>, Vec<_>) = facts.rules.into_iter().partition(|rule| rule.ipv6);
        for rules in [&mut v4, &mut v6] {
            rules.sort_by_key(|rule| rule.priority);
        }
        // Nobody answers for an address that is tentative, nor may anything leave with it.
        let mut addresses: BTreeMap<u32, Vec<Address>> = BTreeMap::new();
        let mut own = BTreeMap::new();
        for address in facts.addresses.into_iter().filter(|address| !address.tentative) {
            own.entry(address.address.addr()).or_insert(address.index);
            addresses.entry(address.index).or_default().push(address);
        }
        let (proxied, neighbours): (Vec<_>, Vec<_>) =
            facts.neighbours.into_iter().partition(|entry| entry.proxy);
        let mut known = BTreeMap::new();
        for entry in neighbours {
            known.entry((entry.index, entry.address)).or_insert(entry);
        }
        Self {
            names: facts.links.iter().map(|link| (link.index, link.name.as_str().into())).collect(),
            links: facts.links.into_iter().map(|link| (link.index, link)).collect(),
            programs: facts.programs,
            addresses,
            own,
            tables: tables.into_iter().map(|(key, routes)| (key, Table::new(routes))).collect(),
            rules: [v4, v6],
            neighbours: known,
            proxied: proxied.into_iter().map(|entry| (entry.index, entry.address)).collect(),
            heeds_dscp,
            heeds_ports,
            fdb_by_mac: by_mac(&facts.fdb),
            fdb: facts.fdb,
            sysctls: Sysctls::new(&facts.sysctls),
            sockets: facts.sockets,
            ruleset,
            doubtful: facts.missing.iter().filter_map(DoubtfulRoute::read).collect(),
            missing: facts.missing,
            place,
        }
    }

    /// A device by index.
    pub(crate) fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// All devices, by index.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The name of a device that the facts have.
    pub(crate) fn name(&self, index: u32) -> Option<&Arc<str>> {
        self.names.get(&index)
    }

    /// A device's name, or its index if the facts lack it.
    pub(crate) fn name_of(&self, index: u32) -> Arc<str> {
        self.names.get(&index).cloned().unwrap_or_else(|| format!("if{index}").into())
    }

    /// The loopback device.
    pub(crate) fn loopback(&self) -> Option<&Link> {
        self.links().find(|link| link.kind == LinkKind::Loopback)
    }

    /// The bridge that a device is a port of.
    pub(crate) fn bridge_of(&self, link: &Link) -> Option<&Link> {
        let master = self.link(link.master?)?;
        matches!(master.kind, LinkKind::Bridge { .. }).then_some(master)
    }

    /// The ports of a bridge.
    pub(crate) fn ports(&self, bridge: u32) -> impl Iterator<Item = &Link> {
        self.links().filter(move |link| link.master == Some(bridge))
    }

    /// The addresses of a device, of a family.
    pub(crate) fn addresses_of(&self, index: u32, ipv6: bool) -> impl Iterator<Item = &Address> {
        let on_device = self.addresses.get(&index).into_iter().flatten();
        on_device.filter(move |address| address.address.addr().is_ipv6() == ipv6)
    }

    /// The device that has an address.
    pub(crate) fn device_with(&self, ip: IpAddr) -> Option<&Link> {
        self.link(*self.own.get(&ip)?)
    }

    /// Whether an address is one of this host's: the local table says so, or a device has it.
    pub(crate) fn is_local(&self, ip: IpAddr) -> bool {
        let local = |route: &Route| matches!(route.kind, RouteType::Local | RouteType::Anycast);
        self.own.contains_key(&ip) || self.routes_to(TABLE_LOCAL, ip).any(local)
    }

    /// What this host takes for its own: addresses of devices, and what the local table has.
    pub(crate) fn local_nets(&self) -> impl Iterator<Item = IpNet> {
        let local = |route: &&Route| matches!(route.kind, RouteType::Local | RouteType::Anycast);
        let tables = [false, true].into_iter().filter_map(|ipv6| self.tables.get(&(ipv6, TABLE_LOCAL)));
        let routes = tables.flat_map(Table::iter).filter(local).map(|route| route.dst);
        self.own.keys().copied().map(IpNet::from).chain(routes)
    }

    /// Routes of a table whose prefix has an address, the most specific first, then by metric.
    pub(crate) fn routes_to(&self, table: u32, ip: IpAddr) -> impl Iterator<Item = &Route> {
        self.tables.get(&(ip.is_ipv6(), table)).into_iter().flat_map(move |table| table.to(ip))
    }

    /// Policy rules of a family, by priority.
    pub(crate) fn rules(&self, ipv6: bool) -> &[PolicyRule] {
        &self.rules[usize::from(ipv6)]
    }

    /// The neighbour entry for an address on a device.
    pub(crate) fn neighbour(&self, index: u32, ip: IpAddr) -> Option<&Neighbour> {
        self.neighbours.get(&(index, ip))
    }

    /// What it knows of the link-layer addresses of others.
    pub(crate) fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.neighbours.values()
    }

    /// Whether this host answers for an address on a device by a proxy entry; for IPv6 it must be told to
    /// (`ndisc_recv_ns`).
    pub(crate) fn proxies(&self, index: u32, ip: IpAddr) -> bool {
        let on = |device: &str| self.conf("ipv6", device, "proxy_ndp").unwrap_or(0) != 0;
        let asked = ip.is_ipv4() || on("all") || on(&self.name_of(index));
        asked && self.proxied.contains(&(index, ip))
    }

    /// A sysctl below `net` as a number.
    pub(crate) fn sysctl(&self, name: &str) -> Option<i64> {
        self.sysctls.get(name)
    }

    /// `net.FAMILY.conf.DEVICE.KEY`.
    pub(crate) fn conf(&self, family: &str, device: &str, key: &str) -> Option<i64> {
        self.sysctls.of_device(family, device, key)
    }

    /// The larger of a device's IPv4 setting and that of `all` (`IN_DEV_MAXCONF`, `IN_DEV_ORCONF`).
    pub(crate) fn conf_max(&self, device: &str, key: &str) -> i64 {
        self.sysctls.larger(device, key)
    }

    /// Why a kind of facts is not there, or not all of it. Remarks on one entry do not count.
    pub(crate) fn lacks(&self, what: &str) -> Option<Text> {
        self.lacks_of(what, &[".ipv4", ".ipv6"])
    }

    /// The same, of one family.
    pub(crate) fn lacks_family(&self, what: &str, ipv6: bool) -> Option<Text> {
        self.lacks_of(what, if ipv6 { &[".ipv6"] } else { &[".ipv4"] })
    }

    fn lacks_of(&self, what: &str, parts: &[&str]) -> Option<Text> {
        // Without links nothing came by routing netlink; sysctls and sockets are read otherwise.
        let by_netlink = !matches!(what, "sysctls" | "sockets") && self.links.is_empty();
        let fact = self.missing.iter().find(|fact| match fact.what.as_str() {
            "namespace" => true,
            "links" if by_netlink => true,
            "links" if self.links().any(|link| concerns(fact, &link.name)) => false,
            "fdb" if self.fdb.iter().any(|entry| concerns(fact, &name(entry))) => false,
            kind => kind.strip_prefix(what).is_some_and(|part| part.is_empty() || parts.contains(&part)),
        })?;
        Some(text!(model::Unread { what: &fact.what, why: &fact.why }))
    }

    /// A remark on a device that is in the facts, but is not like its kind.
    pub(crate) fn remark_on(&self, link: &Link) -> Option<Text> {
        let remark = self.missing.iter().find(|fact| fact.what == "links" && concerns(fact, &link.name))?;
        Some(Text::verbatim(&remark.why))
    }

    /// Whether there is a remark on any entry of a forwarding database.
    pub(crate) fn remarks_on_fdb(&self) -> bool {
        self.missing.iter().any(|fact| fact.what == "fdb")
    }

    /// A remark on an entry of a forwarding database that is more than the facts tell.
    pub(crate) fn remark_on_entry(&self, entry: &FdbEntry) -> Option<&str> {
        let name = name(entry);
        let remark = self.missing.iter().find(|fact| fact.what == "fdb" && concerns(fact, &name))?;
        Some(&remark.why)
    }

    /// The entries for a link-layer address, in their order.
    pub(crate) fn fdb_of(&self, mac: &str) -> impl Iterator<Item = &FdbEntry> {
        self.fdb_by_mac.get(mac).into_iter().flatten().map(|&position| &self.fdb[position])
    }

    /// Remarks on single routes of a table that a destination might take.
    pub(crate) fn doubtful(&self, table: u32, dst: IpAddr) -> impl Iterator<Item = &DoubtfulRoute> {
        self.doubtful.iter().filter(move |route| route.table == table && route.dst.contains(&dst))
    }
}
