//! A cluster of two nodes with two pods each, built in code, in the shapes of three dataplanes.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use waymark_proto::{
    Address, Branch, BridgePort, FACTS_API_VERSION, Facts, FdbEntry, Flow, Inventory, IptablesBackend,
    IptablesDump, Link, LinkKind, Neighbour, NetnsFacts, NextHop, PathSet, Place, PolicyRule, Protocol,
    Route, RouteType, RuleAction, Socket,
};
use waymark_sim::{Cluster, predict};

/// How pods reach one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dataplane {
    HostGw,
    Vxlan,
    Routed,
}

pub const DATAPLANES: [Dataplane; 3] = [Dataplane::HostGw, Dataplane::Vxlan, Dataplane::Routed];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A cluster under construction: its nodes' facts may be changed before they are added.
pub struct Lab {
    pub inventory: Inventory,
    pub facts: Vec<Facts>,
}

pub fn mac(node: u8, what: u8) -> String {
    format!("02:00:00:00:{node:02x}:{what:02x}")
}

pub fn link(index: u32, name: &str, mac: String, kind: LinkKind) -> Link {
    Link {
        index,
        name: name.into(),
        mac: Some(mac),
        mtu: 1500,
        up: true,
        carrier: true,
        master: None,
        kind,
        bridge_port: None,
    }
}

pub fn address(index: u32, net: &str) -> Address {
    Address { index, address: net.parse().unwrap(), peer: None, tentative: false, inward: false }
}

pub fn route(table: u32, dst: &str, kind: RouteType, via: Option<&str>, index: Option<u32>) -> Route {
    let hop = NextHop { via: via.map(ip), index, weight: 1, onlink: false, dead: false, linkdown: false };
    let next_hops = if index.is_some() { vec![hop] } else { Vec::new() };
    Route { table, dst: dst.parse().unwrap(), kind, metric: 0, tos: 0, prefsrc: None, next_hops }
}

fn neighbour(index: u32, address: &str, mac: String, state: &str) -> Neighbour {
    Neighbour { index, address: ip(address), mac: Some(mac), state: state.into(), proxy: false }
}

fn rules() -> Vec<PolicyRule> {
    let rule = |priority, table| PolicyRule {
        ipv6: false,
        priority,
        action: RuleAction::Table,
        table,
        goto: None,
        src: None,
        dst: None,
        iif: None,
        oif: None,
        mark: None,
        mask: None,
        ip_protocol: None,
        src_ports: None,
        dst_ports: None,
        tos: None,
        invert: false,
        unmodelled: Vec::new(),
    };
    vec![rule(0, 255), rule(32766, 254), rule(32767, 253)]
}

fn sysctls(forward: bool) -> BTreeMap<String, String> {
    let one = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    BTreeMap::from([
        one("ipv4.ip_forward", if forward { "1" } else { "0" }),
        one("ipv4.conf.all.rp_filter", "0"),
        one("bridge.bridge-nf-call-iptables", "1"),
    ])
}

fn loopback() -> Link {
    link(1, "lo", "00:00:00:00:00:00".into(), LinkKind::Loopback)
}

fn veth(peer_index: u32, netns: &str) -> LinkKind {
    LinkKind::Veth { peer_index, peer_netns: Some(netns.into()) }
}

fn pod(node: u8, number: u8, dataplane: Dataplane) -> NetnsFacts {
    let me = format!("10.244.{node}.{}", 9 + number);
    let mut eth0 =
        link(2, "eth0", mac(node, 0x10 + number), veth(10 + u32::from(number), &format!("node{node}")));
    eth0.mtu = 1450;
    let (gateway, net) = match dataplane {
        Dataplane::Routed => ("169.254.1.1".to_owned(), format!("{me}/32")),
        _ => (format!("10.244.{node}.1"), format!("{me}/24")),
    };
    let mut routes = vec![
        route(255, "127.0.0.0/8", RouteType::Local, None, Some(1)),
        route(255, &format!("{me}/32"), RouteType::Local, None, Some(2)),
        route(254, "0.0.0.0/0", RouteType::Unicast, Some(&gateway), Some(2)),
    ];
    routes.push(match dataplane {
        Dataplane::Routed => route(254, "169.254.1.1/32", RouteType::Unicast, None, Some(2)),
        _ => route(254, &format!("10.244.{node}.0/24"), RouteType::Unicast, None, Some(2)),
    });
    let socket = |protocol, port| Socket {
        protocol,
        address: ip("0.0.0.0"),
        port,
        v6only: false,
        device: None,
        holder: None,
    };
    let neighbours = match dataplane {
        Dataplane::Routed => vec![neighbour(2, &gateway, mac(node, 0x20 + number), "reachable")],
        _ => Vec::new(),
    };
    NetnsFacts {
        name: format!("pod{node}{number}"),
        pod: Some(format!("shop/p{node}{number}")),
        links: vec![loopback(), eth0],
        addresses: vec![address(1, "127.0.0.1/8"), address(2, &net)],
        routes,
        rules: rules(),
        neighbours,
        sysctls: sysctls(false),
        sockets: vec![socket(Protocol::Tcp, 80), socket(Protocol::Udp, 53)],
        ..NetnsFacts::default()
    }
}

fn host(node: u8, dataplane: Dataplane) -> NetnsFacts {
    let other = 3 - node;
    let uplink = LinkKind::Veth { peer_index: 7, peer_netns: None };
    let mut links = vec![loopback(), link(2, "eth0", mac(node, 1), uplink)];
    let mut addresses = vec![address(1, "127.0.0.1/8"), address(2, &format!("192.168.77.{node}/24"))];
    let mut routes = vec![
        route(255, "127.0.0.0/8", RouteType::Local, None, Some(1)),
        route(255, &format!("192.168.77.{node}/32"), RouteType::Local, None, Some(2)),
        route(254, "192.168.77.0/24", RouteType::Unicast, None, Some(2)),
        route(254, "0.0.0.0/0", RouteType::Unicast, Some("192.168.77.254"), Some(2)),
    ];
    let mut neighbours = Vec::new();
    let mut fdb = Vec::new();
    for number in [1_u8, 2] {
        let index = 10 + u32::from(number);
        let name = format!("veth{node}{number}");
        let mut port = link(index, &name, mac(node, 0x20 + number), veth(2, &format!("pod{node}{number}")));
        if dataplane == Dataplane::Routed {
            let to = format!("10.244.{node}.{}/32", 9 + number);
            routes.push(route(254, &to, RouteType::Unicast, None, Some(index)));
        } else {
            port.master = Some(3);
            port.bridge_port = Some(BridgePort { state: 3, hairpin: true, isolated: false, flood: true });
        }
        links.push(port);
    }
    if dataplane != Dataplane::Routed {
        links.push(link(3, "cni0", mac(node, 2), LinkKind::Bridge { vlan_filtering: false }));
        addresses.push(address(3, &format!("10.244.{node}.1/24")));
        routes.push(route(255, &format!("10.244.{node}.1/32"), RouteType::Local, None, Some(3)));
        routes.push(route(254, &format!("10.244.{node}.0/24"), RouteType::Unicast, None, Some(3)));
    }
    if dataplane == Dataplane::Vxlan {
        let kind = LinkKind::Vxlan {
            vni: 1,
            port: 8472,
            local: Some(ip(&format!("192.168.77.{node}"))),
            remote: None,
            underlay: Some(2),
            learning: false,
        };
        links.push(link(4, "flannel.1", mac(node, 3), kind));
        addresses.push(address(4, &format!("10.244.{node}.0/32")));
        routes.push(route(255, &format!("10.244.{node}.0/32"), RouteType::Local, None, Some(4)));
        let gateway = format!("10.244.{other}.0");
        routes.push(route(254, &format!("10.244.{other}.0/24"), RouteType::Unicast, Some(&gateway), Some(4)));
        neighbours.push(neighbour(4, &gateway, mac(other, 3), "permanent"));
        fdb.push(FdbEntry {
            index: 4,
            mac: mac(other, 3),
            remote: Some(ip(&format!("192.168.77.{other}"))),
            vni: None,
            vlan: None,
            master: None,
            local: false,
        });
    } else {
        let via = format!("192.168.77.{other}");
        routes.push(route(254, &format!("10.244.{other}.0/24"), RouteType::Unicast, Some(&via), Some(2)));
    }
    let mut sysctls = sysctls(true);
    for number in [1, 2] {
        let device = format!("veth{node}{number}");
        sysctls.insert(format!("ipv4.conf.{device}.proxy_arp"), "1".into());
    }
    NetnsFacts {
        name: format!("node{node}"),
        links,
        addresses,
        routes,
        rules: rules(),
        neighbours,
        fdb,
        sysctls,
        ..NetnsFacts::default()
    }
}

impl Lab {
    pub fn new(dataplane: Dataplane) -> Self {
        let node = |node: u8| {
            format!(
                r#"{{"name":"n{node}","netns":"node{node}","ip":"192.168.77.{node}","uplink":"eth0","podCidr":"10.244.{node}.0/24"}}"#
            )
        };
        let pod_entry = |node: u8, number: u8| {
            let last = 9 + number;
            format!(
                r#"{{"namespace":"shop","name":"p{node}{number}","node":"n{node}","netns":"pod{node}{number}","ip":"10.244.{node}.{last}"}}"#
            )
        };
        let nodes = [1, 2].map(node).join(",");
        let pods = [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(node, number)| pod_entry(node, number)).join(",");
        let inventory = format!(r#"{{"nodes":[{nodes}],"pods":[{pods}]}}"#);
        let facts = [1, 2].map(|node| Facts {
            api_version: FACTS_API_VERSION.into(),
            node: format!("n{node}").into(),
            kernel: "6.18".into(),
            namespaces: vec![host(node, dataplane), pod(node, 1, dataplane), pod(node, 2, dataplane)],
        });
        Self { inventory: Inventory::from_json(inventory.as_bytes()).unwrap(), facts: facts.into() }
    }

    /// A namespace's facts, by its name.
    pub fn netns(&mut self, name: &str) -> &mut NetnsFacts {
        let all = self.facts.iter_mut().flat_map(|facts| &mut facts.namespaces);
        all.into_iter().find(|netns| netns.name == name).unwrap()
    }

    pub fn iptables(&mut self, netns: &str, text: &str) {
        self.netns(netns).netfilter.iptables =
            vec![IptablesDump { ipv6: false, backend: IptablesBackend::Legacy, text: text.to_owned() }];
    }

    pub fn nft(&mut self, netns: &str, json: &str) {
        self.netns(netns).netfilter.nft = Some(serde_json::from_str(json).unwrap());
    }

    pub fn link(&mut self, netns: &str, name: &str) -> &mut Link {
        self.netns(netns).links.iter_mut().find(|link| link.name == name).unwrap()
    }

    pub fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::new(&self.inventory);
        for facts in &self.facts {
            cluster.add(facts.clone()).unwrap();
        }
        cluster
    }

    pub fn predict(&self, start: &str, flow: &Flow) -> PathSet {
        predict(&self.cluster(), &place(start), flow)
    }

    /// The only branch of a prediction that must have one.
    pub fn one(&self, start: &str, flow: &Flow) -> Branch {
        let mut paths = self.predict(start, flow);
        assert_eq!(paths.branches.len(), 1, "{}", render(&paths));
        paths.branches.remove(0)
    }
}

pub fn tcp(src: &str, dst: &str, dst_port: u16) -> Flow {
    Flow { src: ip(src), dst: ip(dst), protocol: Protocol::Tcp, src_port: 40000, dst_port }
}

pub fn udp(src: &str, dst: &str, dst_port: u16) -> Flow {
    Flow { protocol: Protocol::Udp, ..tcp(src, dst, dst_port) }
}

/// `pod11:inject pod11:route eth0 …`: the steps as one readable line each.
pub fn steps(branch: &Branch) -> Vec<String> {
    let text = |step: &waymark_proto::Step| {
        let device = step.device.as_deref().map(|device| format!(" {device}")).unwrap_or_default();
        let action = match step.action {
            waymark_proto::Action::Forwarded => String::new(),
            other => format!(" {other}"),
        };
        let cause = step.cause.map(|cause| format!(" {cause}")).unwrap_or_default();
        format!("{} {}{device}{action}{cause}", step.place.netns, step.hook)
    };
    branch.path.steps().iter().map(text).collect()
}

/// The place of `pod12` or `node1`.
pub fn place(netns: &str) -> Place {
    let digit = netns.chars().find(char::is_ascii_digit).unwrap();
    Place::new(format!("n{digit}"), netns)
}

/// A whole prediction, for failure messages.
pub fn render(paths: &PathSet) -> String {
    let step =
        |step: &waymark_proto::Step| format!("    {step} {:?} {:?} {:?}", step.cause, step.object, step.note);
    let mut lines = Vec::new();
    for branch in &paths.branches {
        let fate = branch.path.disposition();
        lines.push(format!("{:.3} {:?} {fate}", branch.probability, choices(branch)));
        lines.extend(branch.path.steps().iter().map(step));
        for answer in &branch.answer {
            lines.push(format!("  answer {}", answer.path.disposition()));
            lines.extend(answer.path.steps().iter().map(step));
        }
    }
    lines.push(format!("needs {:?}", paths.needs));
    lines.join("\n")
}

/// What decided for a branch, as text.
pub fn choices(branch: &Branch) -> Vec<String> {
    branch.choices.iter().map(ToString::to_string).collect()
}
