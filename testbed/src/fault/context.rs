//! What the templates of the catalogue can say: a cluster's parts, with addresses of the case's family.
//!
//! | name | what |
//! |---|---|
//! | `source`, `target` | pods: `name`, `netns`, `ip`, `ip4`, `mac`, `host_device`, `tcp`, `udp`, `gateway`, `default`, `network`, `routes`, `node` |
//! | `….node`, `third` | nodes: `name`, `netns`, `ip`, `ip4`, `mac`, `gateway`, `gateway6`, `gateway_mac`, `vtep`, `vtep_mac`, `pod_net`, `dead`, `route`, `remotes`, `fdb`, `fdb_entry` |
//! | `service` | `name`, `ip`, `port`, `backend` |
//! | `ipv6`, `family`, `bits`, `ip` | of the case: true, 6, 128, the family's name in nftables |
//! | `dataplane`, `bridged`, `tunnelled`, `proxy` | of the cluster |
//! | `eth0`, `bridge`, `vxlan`, `uplink`, `pod_link` | devices; `uplink` leads to other nodes' pods, `pod_link` to the target |
//! | `beside_source`, `beside_target` | devices on the same nodes that lead to other pods |
//! | `fabric_ip`, `dead_node` | the nodes' gateway; an address among theirs that nobody has |
//! | `vni`, `vxlan_port`, `mtu`, `stranger`, `fault`, `object` | numbers; a MAC that nobody has; the fault's name; the BPF object |
//! | `lead(ip, port)` | lines for the tool `proxy`: the Service's backend leads there |

use std::net::IpAddr;

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value};
use serde::Serialize;

use super::site::Site;
use crate::dataplane::{self, VNI, VXLAN_PORT};
use crate::plan::{BRIDGE, Dataplane, ETH0, FABRIC_IP, FABRIC_IP6, NodePlan, PodPlan, Proxy, VXLAN, mac_of};
use crate::proxy;

/// A link-layer address that nobody has.
const STRANGER: &str = "02:00:00:00:00:66";

#[derive(Serialize)]
struct NodeView {
    name: String,
    netns: String,
    ip: IpAddr,
    ip4: IpAddr,
    mac: String,
    /// Of its pods.
    gateway: IpAddr,
    gateway6: IpAddr,
    gateway_mac: String,
    vtep: IpAddr,
    vtep_mac: String,
    pod_net: String,
    /// An address of its pods' network that nobody has.
    dead: IpAddr,
    /// The other nodes' route to its pods.
    route: String,
    /// What makes its ways to the other nodes, for `ip` and for `bridge`.
    remotes: Vec<String>,
    fdb: Vec<String>,
    /// The other nodes' forwarding entry for it.
    fdb_entry: String,
}

#[derive(Serialize)]
struct PodView {
    name: String,
    netns: String,
    ip: IpAddr,
    ip4: IpAddr,
    mac: String,
    host_device: String,
    tcp: Option<u16>,
    udp: Option<u16>,
    gateway: String,
    /// The default route of the family.
    default: String,
    /// What a pod loses with its device: addresses and routes of both families, as `ip` lines.
    network: Vec<String>,
    /// Its node's routes to it, in the routed dataplane.
    routes: Vec<String>,
    node: NodeView,
}

#[derive(Serialize)]
struct ServiceView {
    name: String,
    ip: IpAddr,
    port: u16,
    backend: Option<u16>,
}

#[derive(Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts for templates")]
struct View {
    source: PodView,
    target: PodView,
    third: Option<NodeView>,
    service: Option<ServiceView>,
    ipv6: bool,
    family: u8,
    bits: u8,
    ip: &'static str,
    dataplane: Dataplane,
    bridged: bool,
    tunnelled: bool,
    proxy: Proxy,
    eth0: &'static str,
    bridge: &'static str,
    vxlan: &'static str,
    fabric_ip: IpAddr,
    /// Nobody's address among the nodes.
    dead_node: IpAddr,
    uplink: &'static str,
    pod_link: String,
    /// Where another pod is than the source, and than the target, on their nodes.
    beside_source: String,
    beside_target: Option<String>,
    vni: u32,
    vxlan_port: u16,
    mtu: u32,
    stranger: &'static str,
    fault: String,
    object: String,
}

fn node(site: &Site, node: &NodePlan) -> NodeView {
    let pick = |v4: std::net::Ipv4Addr, v6: std::net::Ipv6Addr| -> IpAddr {
        if site.ipv6() { v6.into() } else { v4.into() }
    };
    let [route, route6] = dataplane::remote_routes(site.cluster.dataplane, node);
    let [remotes, fdb] = dataplane::remotes(site.cluster, node);
    let mut nobody = node.pod_net6().network().segments();
    nobody[7] = 0x250;
    NodeView {
        name: node.name.clone(),
        netns: node.netns.clone(),
        ip: pick(node.ip(), node.ip6()),
        ip4: node.ip().into(),
        mac: node.mac(),
        gateway: pick(node.gateway(), node.gateway6()),
        gateway6: node.gateway6().into(),
        gateway_mac: mac_of([0x0a, 0x58], node.gateway()),
        vtep: pick(node.vtep(), node.vtep6()),
        vtep_mac: node.vtep_mac(),
        pod_net: if site.ipv6() { node.pod_net6().to_string() } else { node.pod_net().to_string() },
        dead: pick(site.cluster.dead_address(node), nobody.into()),
        route: if site.ipv6() { route6 } else { route },
        remotes: remotes.lines,
        fdb: fdb.lines,
        fdb_entry: dataplane::fdb_entry(node),
    }
}

fn pod(site: &Site, pod: &PodPlan) -> PodView {
    let [default, default6] = dataplane::pod_defaults(site.cluster, pod);
    let gateway = if site.ipv6() { &default6 } else { &default };
    PodView {
        name: pod.full_name.clone(),
        netns: pod.netns.clone(),
        ip: pod.address(site.ipv6()),
        ip4: pod.ip.into(),
        mac: pod.mac(),
        host_device: pod.host_device.clone(),
        tcp: pod.tcp.first().copied(),
        udp: pod.udp.first().copied(),
        gateway: gateway.split_whitespace().nth(2).unwrap_or_default().to_owned(),
        default: if site.ipv6() { default6 } else { default },
        network: dataplane::pod_network(site.cluster, pod),
        routes: dataplane::pod_routes(pod).into(),
        node: node(site, site.cluster.node_of(pod)),
    }
}

/// The device of another pod on a pod's node.
fn beside(site: &Site, pod: &PodPlan) -> Option<String> {
    let mut others = site.cluster.pods.iter().filter(|other| other.node == pod.node && other.ip != pod.ip);
    others.next().map(|other| other.host_device.clone())
}

/// The environment that renders a case's templates, and what they can name.
pub(super) fn environment(site: &Site, fault: &str, object: String) -> (Environment<'static>, Value) {
    let dataplane = site.cluster.dataplane;
    let ipv6 = site.ipv6();
    let view = View {
        source: pod(site, site.source),
        target: pod(site, site.target),
        third: site.third.map(|third| node(site, third)),
        service: site.service.map(|service| ServiceView {
            name: format!("{}/{}", service.namespace, service.name),
            ip: service.cluster_ip,
            port: service.port,
            backend: service.backends.first().map(|backend| backend.port),
        }),
        ipv6,
        family: if ipv6 { 6 } else { 4 },
        bits: if ipv6 { 128 } else { 32 },
        ip: if ipv6 { "ip6" } else { "ip" },
        dataplane,
        bridged: dataplane.has_bridge(),
        tunnelled: dataplane == Dataplane::BridgeVxlan,
        proxy: site.cluster.proxy,
        eth0: ETH0,
        bridge: BRIDGE,
        vxlan: VXLAN,
        fabric_ip: if ipv6 { FABRIC_IP6.into() } else { FABRIC_IP.into() },
        dead_node: if ipv6 {
            IpAddr::from([0xfd00, 0x18, 0, 0, 0, 0, 0, 0x99])
        } else {
            IpAddr::from([172, 18, 0, 99])
        },
        uplink: if dataplane == Dataplane::BridgeVxlan { VXLAN } else { ETH0 },
        pod_link: if dataplane.has_bridge() { BRIDGE.into() } else { site.target.host_device.clone() },
        beside_source: if dataplane.has_bridge() {
            BRIDGE.into()
        } else {
            beside(site, site.source).unwrap_or_default()
        },
        beside_target: beside(site, site.target),
        vni: VNI,
        vxlan_port: VXLAN_PORT,
        mtu: site.cluster.pod_mtu(),
        stranger: STRANGER,
        fault: fault.to_owned(),
        object,
    };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    if let Some((service, backend)) =
        site.service.and_then(|s| Some((s.clone(), s.backends.first()?.clone())))
    {
        let (cluster, node) = (site.cluster.clone(), site.cluster.node_of(site.source).clone());
        environment.add_function("lead", move |ip: String, port: u16| {
            let ip = ip.parse::<IpAddr>().map_err(|error| {
                minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, error.to_string())
            })?;
            let to = waymark_proto::Backend { pod: None, ip, port, ready: true };
            Ok(proxy::redirect(&cluster, &node, &service, &backend, &to).lines.join("\n"))
        });
    }
    (environment, Value::from(Serde(view)))
}
