//! A node's own namespace.

use waymark_proto::{BridgePort, FdbEntry, LinkKind, NetnsFacts};

use crate::Dataplane;
use crate::device::{address, ip, link, local, loopback, mac, main, neighbour, rules, sysctls};
use crate::pod;

/// Indexes of devices: those of pods come behind these.
const UPLINK: u32 = 2;
const BRIDGE: u32 = 3;
const TUNNEL: u32 = 4;
const FIRST_PORT: u32 = 10;

/// What link-layer addresses of a node's own devices have in common, and those of its pods' devices.
const OWN: u8 = 0;
const EACH: u8 = 2;

/// The index of the device that leads to a pod.
pub(crate) fn port(number: u8) -> u32 {
    FIRST_PORT + u32::from(number)
}

/// Its link-layer address.
pub(crate) fn port_mac(node: u8, number: u8) -> String {
    mac(node, EACH, number)
}

fn own_mac(node: u8, index: u32) -> String {
    mac(node, OWN, index as u8)
}

/// The facts of one of so many nodes with so many pods each.
pub(crate) fn facts(node: u8, nodes: u8, pods: u8, dataplane: Dataplane) -> NetnsFacts {
    let uplink = LinkKind::Veth { peer_index: 7, peer_netns: None };
    let underlay = format!("192.168.77.{node}");
    let mut facts = NetnsFacts {
        name: format!("node{node}"),
        links: vec![loopback(), link(UPLINK, "eth0", own_mac(node, UPLINK), uplink)],
        addresses: vec![address(1, "127.0.0.1/8"), address(UPLINK, &format!("{underlay}/24"))],
        routes: vec![
            local("127.0.0.0/8", 1),
            local(&format!("{underlay}/32"), UPLINK),
            main("192.168.77.0/24", None, UPLINK),
            main("0.0.0.0/0", Some("192.168.77.254"), UPLINK),
        ],
        rules: rules(),
        sysctls: sysctls(true).collect(),
        ..NetnsFacts::default()
    };
    for number in 1..=pods {
        connect(&mut facts, node, number, dataplane);
    }
    if dataplane != Dataplane::Routed {
        bridge(&mut facts, node);
    }
    let others = (1..=nodes).filter(|other| *other != node);
    if dataplane == Dataplane::Vxlan {
        tunnel(&mut facts, node, others);
    } else {
        facts.routes.extend(others.map(|other| {
            main(&format!("10.244.{other}.0/24"), Some(&format!("192.168.77.{other}")), UPLINK)
        }));
    }
    facts
}

/// The device that leads to a pod.
fn connect(facts: &mut NetnsFacts, node: u8, number: u8, dataplane: Dataplane) {
    let (index, name) = (port(number), format!("veth{node}-{number}"));
    let netns = format!("pod{node}-{number}");
    let kind = LinkKind::Veth { peer_index: 2, peer_netns: Some(netns.as_str().into()) };
    let mut device = link(index, &name, port_mac(node, number), kind);
    if dataplane == Dataplane::Routed {
        facts.routes.push(main(&format!("{}/32", pod::address(node, number)), None, index));
    } else {
        device.master = Some(BRIDGE);
        device.bridge_port = Some(BridgePort { state: 3, hairpin: true, isolated: false, flood: true });
    }
    facts.links.push(device);
    facts.sysctls.insert(format!("ipv4.conf.{name}.proxy_arp"), "1".into());
}

fn bridge(facts: &mut NetnsFacts, node: u8) {
    let kind = LinkKind::Bridge { vlan_filtering: false };
    facts.links.push(link(BRIDGE, "cni0", own_mac(node, BRIDGE), kind));
    facts.addresses.push(address(BRIDGE, &format!("10.244.{node}.1/24")));
    facts.routes.push(local(&format!("10.244.{node}.1/32"), BRIDGE));
    facts.routes.push(main(&format!("10.244.{node}.0/24"), None, BRIDGE));
}

/// Flannel's device, with a route, a neighbour and an entry for each other node.
fn tunnel(facts: &mut NetnsFacts, node: u8, others: impl Iterator<Item = u8>) {
    let kind = LinkKind::Vxlan {
        vni: 1,
        port: 8472,
        local: Some(ip(&format!("192.168.77.{node}"))),
        remote: None,
        underlay: Some(UPLINK),
        learning: false,
    };
    facts.links.push(link(TUNNEL, "flannel.1", own_mac(node, TUNNEL), kind));
    facts.addresses.push(address(TUNNEL, &format!("10.244.{node}.0/32")));
    facts.routes.push(local(&format!("10.244.{node}.0/32"), TUNNEL));
    for other in others {
        let gateway = format!("10.244.{other}.0");
        facts.routes.push(main(&format!("10.244.{other}.0/24"), Some(&gateway), TUNNEL));
        facts.neighbours.push(neighbour(TUNNEL, &gateway, own_mac(other, TUNNEL), "permanent"));
        facts.fdb.push(FdbEntry {
            index: TUNNEL,
            mac: own_mac(other, TUNNEL),
            remote: Some(ip(&format!("192.168.77.{other}"))),
            vni: None,
            vlan: None,
            master: None,
            local: false,
        });
    }
}
