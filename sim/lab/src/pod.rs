//! A pod's namespace.

use waymark_proto::{LinkKind, NetnsFacts, Protocol, Socket};

use crate::Dataplane;
use crate::device::{self, ip, link, local, loopback, mac, main, neighbour};
use crate::node;

/// What the link-layer addresses of pods' devices have in common.
const EACH: u8 = 1;

/// The address of a pod.
pub(crate) fn address(node: u8, number: u8) -> String {
    format!("10.244.{node}.{}", u16::from(number) + 9)
}

/// The link-layer address of its device.
pub(crate) fn own_mac(node: u8, number: u8) -> String {
    mac(node, EACH, number)
}

pub(crate) fn facts(node: u8, number: u8, dataplane: Dataplane) -> NetnsFacts {
    let me = address(node, number);
    let peer = LinkKind::Veth {
        peer_index: node::port(number),
        peer_netns: Some(format!("node{node}").as_str().into()),
    };
    let mut eth0 = link(2, "eth0", own_mac(node, number), peer);
    eth0.mtu = 1450;
    let routed = dataplane == Dataplane::Routed;
    let gateway = if routed { "169.254.1.1".to_owned() } else { format!("10.244.{node}.1") };
    let length = if routed { 32 } else { 24 };
    let on_link = if routed { "169.254.1.1/32".to_owned() } else { format!("10.244.{node}.0/24") };
    let socket = |protocol, port| Socket {
        protocol,
        address: ip("0.0.0.0"),
        port,
        v6only: false,
        device: None,
        holder: None,
    };
    let known = routed.then(|| neighbour(2, &gateway, node::port_mac(node, number), "reachable"));
    NetnsFacts {
        name: format!("pod{node}-{number}"),
        pod: Some(format!("shop/p{node}-{number}")),
        links: vec![loopback(), eth0],
        addresses: vec![device::address(1, "127.0.0.1/8"), device::address(2, &format!("{me}/{length}"))],
        routes: vec![
            local("127.0.0.0/8", 1),
            local(&format!("{me}/32"), 2),
            main("0.0.0.0/0", Some(&gateway), 2),
            main(&on_link, None, 2),
        ],
        rules: device::rules(),
        neighbours: known.into_iter().collect(),
        sysctls: device::sysctls(false).collect(),
        sockets: vec![socket(Protocol::Tcp, 80), socket(Protocol::Udp, 53)],
        ..NetnsFacts::default()
    }
}
