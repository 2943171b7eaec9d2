//! A node between a sender and two receivers, each a network namespace:
//!
//! ```text
//!                      ┌── pb ── receiver b
//! sender a ── pa ── node
//!                      └── pc ── receiver c
//! ```

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use waymark_prober::netns::Netns;
use waymark_proto::{Inventory, NetnsName, Place};

use super::grammar::State;
use super::grammar::pool::{self, NODE, SENDER, SERVED};
use crate::script::{Script, Tool};
use crate::{Error, Result, namespace};

/// How long devices may take to come up.
const LIMIT: Duration = Duration::from_secs(10);

/// The hosts: their names, networks and addresses.
const HOSTS: [(&str, u8, &[pool::Spot]); 3] = [
    ("a", 1, &SENDER),
    ("b", 2, &[(2, 0, 2), (2, 0, 3), (9, 0, 7), (9, 1, 7), (9, 1, 200)]),
    ("c", 3, &[(3, 0, 2), (9, 0, 7), (9, 1, 7), (9, 1, 200)]),
];

/// Name of the node.
const NAME: &str = "node";

/// Names of the namespaces, which are made anew for each case.
#[derive(Debug)]
pub(super) struct Site {
    prefix: String,
    pub(super) inventory: Inventory,
}

/// The namespaces of one case, with who listens in them. They are removed when this is dropped.
pub(super) struct World<'a> {
    site: &'a Site,
    listeners: Vec<(TcpListener, UdpSocket)>,
}

/// Takes away what runs left behind that were killed.
pub(super) fn sweep() -> Result<()> {
    let owner = |name: &str| name.strip_prefix("wmf-")?.split('-').next()?.parse::<u32>().ok();
    for name in namespace::all() {
        if owner(&name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            namespace::remove(&name)?;
        }
    }
    Ok(())
}

/// The letter of a namespace.
pub(super) fn part(place: &Place) -> &str {
    place.netns.as_str().rsplit('-').next().unwrap_or_default()
}

impl Site {
    /// Names of which nobody else has any.
    pub(super) fn new(number: usize) -> Self {
        let prefix = format!("wmf-{}-{number}", std::process::id());
        let pod = |name: &str, ip: &str| {
            format!(
                r#"{{"namespace":"fuzz","name":"{name}","node":"{NAME}","netns":"{prefix}-{name}","ip":"{ip}"}}"#
            )
        };
        let json = format!(
            r#"{{"nodes":[{{"name":"{NAME}","netns":"{prefix}-n","ip":"10.1.0.1"}}],"pods":[{},{},{}]}}"#,
            pod("a", "10.1.0.2"),
            pod("b", "10.2.0.2"),
            pod("c", "10.3.0.2")
        );
        let inventory = Inventory::from_json(json.as_bytes()).expect("the inventory is right");
        Self { prefix, inventory }
    }

    /// The node.
    pub(super) fn node(&self) -> &waymark_proto::Node {
        &self.inventory.nodes[0]
    }

    /// A namespace by its letter.
    pub(super) fn netns(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    /// The same as a place.
    pub(super) fn place(&self, part: &str) -> Place {
        Place::new(NAME, &*self.netns(part))
    }

    /// What the names of the namespaces begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Makes the namespaces.
    pub(super) fn make(&self) -> Result<World<'_>> {
        let mut world = World { site: self, listeners: Vec::new() };
        namespace::create(&["n", "a", "b", "c"].map(|part| self.netns(part)))?;
        for part in ["n", "a", "b", "c"] {
            let settings = [
                "ipv6/conf/default/accept_dad=0",
                "ipv6/conf/default/accept_ra=0",
                "ipv6/conf/default/router_solicitations=0",
                "ipv6/conf/all/accept_ra=0",
                // A redirect belongs to the connection of the packet that set it off, and may change its mark.
                "ipv4/conf/all/send_redirects=0",
                "ipv4/conf/default/send_redirects=0",
            ];
            Script::new(Tool::Sysctl, &self.netns(part), settings).run()?;
        }
        Script::new(Tool::Ip, &self.netns("n"), self.devices()).run()?;
        for (part, network, spots) in HOSTS {
            Script::new(Tool::Ip, &self.netns(part), host(network, spots)).run()?;
        }
        let mut settings = vec!["ipv4/ip_forward=1".to_owned(), "ipv6/conf/all/forwarding=1".to_owned()];
        // That nobody has an address is known soon.
        for family in ["ipv4", "ipv6"] {
            for setting in ["mcast_solicit=1", "retrans_time_ms=20"] {
                settings.extend(HOSTS.map(|(part, ..)| format!("{family}/neigh/p{part}/{setting}")));
            }
        }
        Script::new(Tool::Sysctl, &self.netns("n"), settings).run()?;
        for part in ["n", "b", "c"] {
            let netns = Netns::open(&NetnsName::from(&*self.netns(part)))?;
            world.listeners.extend(netns.run(listen)??);
        }
        for (part, devices) in [("n", 3), ("a", 1), ("b", 1), ("c", 1)] {
            let netns = Netns::open(&NetnsName::from(&*self.netns(part)))?;
            netns.run(|| await_carrier(devices))??;
        }
        Ok(world)
    }

    fn devices(&self) -> Vec<String> {
        let mut lines = vec!["link set lo up".to_owned()];
        for (part, network, _) in HOSTS {
            // A pair with the same index at both ends is taken for no pair, and waits a second for its carrier
            // (`linkwatch_urgent_event`).
            let (own, netns) = (mac(0, network), self.netns(part));
            lines.push(format!(
                "link add p{part} index {} address {own} type veth peer name eth0 address {} netns {netns}",
                20 + network,
                mac(1, network)
            ));
        }
        for (device, spot) in ["pa", "pb", "pc", "lo"].iter().zip(NODE) {
            lines.push(format!("addr add {}/24 dev {device}", pool::address(spot, false)));
            lines.push(format!("addr add {}/48 dev {device} nodad", pool::address(spot, true)));
            lines.push(format!("link set {device} up"));
        }
        // Neighbour discovery would meet the rules.
        for (part, network, spots) in HOSTS {
            for ip in spots.iter().flat_map(|&spot| [false, true].map(|ipv6| pool::address(spot, ipv6))) {
                lines.push(format!("neigh add {ip} lladdr {} dev p{part} nud permanent", mac(1, network)));
            }
        }
        lines
    }
}

/// Link-layer address of the node or a host in a network.
fn mac(host: u8, network: u8) -> String {
    format!("02:00:00:00:{host:02x}:{network:02x}")
}

/// A host behind the node, which is its gateway.
fn host(network: u8, spots: &[pool::Spot]) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned()];
    for &spot in spots {
        let (four, six) = if spot.0 == network { (24, 48) } else { (32, 128) };
        lines.push(format!("addr add {}/{four} dev eth0", pool::address(spot, false)));
        lines.push(format!("addr add {}/{six} dev eth0 nodad", pool::address(spot, true)));
    }
    lines.push("link set eth0 up".to_owned());
    let gateway = |ipv6| pool::address((network, 0, 1), ipv6);
    for ip in [false, true].map(gateway) {
        lines.push(format!("neigh add {ip} lladdr {} dev eth0 nud permanent", mac(0, network)));
    }
    lines.push(format!("route add default via {}", gateway(false)));
    lines.push(format!("route add ::/0 via {} dev eth0", gateway(true)));
    lines
}

/// Listens on the ports that are served, of both families.
fn listen() -> Result<Vec<(TcpListener, UdpSocket)>> {
    let failed = |error: std::io::Error| Error::Fuzz(format!("cannot listen on [::]: {error}"));
    let open = |port: u16| {
        let address = (Ipv6Addr::UNSPECIFIED, port);
        Ok((TcpListener::bind(address).map_err(failed)?, UdpSocket::bind(address).map_err(failed)?))
    };
    SERVED.into_iter().map(open).collect()
}

/// Waits until the kernel has noticed that so many devices are up beside the loopback: before that they send nothing.
fn await_carrier(devices: usize) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let names = getifaddrs().map_err(|errno| Error::Fuzz(format!("cannot list devices: {errno}")))?;
        let running = InterfaceFlags::IFF_RUNNING;
        let up: BTreeSet<String> = names
            .filter(|device| device.flags.contains(running) && device.interface_name != "lo")
            .map(|device| device.interface_name)
            .collect();
        if up.len() >= devices {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Error::Fuzz(format!("of {devices} devices only {up:?} came up")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl World<'_> {
    /// Configures the node.
    pub(super) fn load(&self, state: &State) -> Result<()> {
        let netns = self.site.netns("n");
        let State { routing, ipset, xtables, legacy, nft } = state;
        let script = |tool, lines: Vec<String>| Script::new(tool, &netns, lines);
        script(Tool::Sysctl, routing.sysctls.clone()).run()?;
        let (four, six): (Vec<_>, Vec<_>) =
            routing.routes.iter().chain(&routing.rules).partition(|line| !line.starts_with("-6 "));
        script(Tool::Ip, four.into_iter().cloned().collect()).run()?;
        let six = six.into_iter().map(|line| line.trim_start_matches("-6 ").to_owned());
        script(Tool::Ip6, six.collect()).run()?;
        script(Tool::Ipset, ipset.clone()).run()?;
        for rules in xtables {
            let tool = match (rules.ipv6, legacy) {
                (false, false) => Tool::Iptables,
                (true, false) => Tool::Ip6tables,
                (false, true) => Tool::IptablesLegacy,
                (true, true) => Tool::Ip6tablesLegacy,
            };
            script(tool, rules.lines()).run()?;
        }
        script(Tool::Nft, nft.as_ref().map(|table| table.lines("t")).unwrap_or_default()).run()
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        for part in ["n", "a", "b", "c"] {
            // What is not there any more need not be removed.
            let _ = namespace::remove(&self.site.netns(part));
        }
    }
}
