//! Devices, bridge ports, queues and neighbours.

use waymark_proto::{Cause, Hook};

use super::{BRIDGED, Breakage, EVERY, Fault, ICMP, TCP, in_pod, on_node};
use crate::dataplane::pod_routes;
use crate::plan::{BRIDGE, ETH0};
use crate::script::{Script, Tool};

/// A link-layer address that nobody has.
const STRANGER: &str = "02:00:00:00:00:66";

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "host-veth-down",
        about: "the host end of the source pod's device is down",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| in_pod(site, site.source, Hook::Qdisc, Cause::NoCarrier),
        breakage: |site| {
            let device = &site.source.host_device;
            let mut undo = vec![format!("link set {device} up")];
            if !site.cluster.dataplane.has_bridge() {
                // Routes to the pod went with the device.
                undo.extend(pod_routes(site.source));
            }
            Breakage::ip(&site.source_node().netns, [format!("link set {device} down")], undo)
        },
    },
    Fault {
        name: "bridge-port-detached",
        about: "the host end of the target pod's device is no port of the bridge",
        dataplanes: BRIDGED,
        traffic: TCP,
        expected: |site| on_node(site.target_node(), Hook::Bridge, Cause::BridgePort),
        breakage: |site| {
            let (device, ip, mac) = (&site.target.host_device, site.target.ip, site.target.mac());
            // With its address still known, as in the minutes after a CNI plug-in went wrong: the packet
            // comes as far as the bridge.
            let inject = [
                format!("neigh replace {ip} lladdr {mac} dev {BRIDGE} nud permanent"),
                format!("link set {device} nomaster"),
            ];
            let undo = [
                format!("link set {device} master {BRIDGE}"),
                format!("link set {device} type bridge_slave hairpin on"),
                format!("neigh del {ip} dev {BRIDGE}"),
            ];
            Breakage::ip(&site.target_node().netns, inject, undo)
        },
    },
    Fault {
        name: "wrong-neighbour",
        about: "the source's node has a wrong permanent link-layer address for the target's node",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| on_node(site.source_node(), Hook::Neighbour, Cause::WrongNeighbour),
        breakage: |site| {
            let ip = site.target_node().ip();
            let inject = [format!("neigh replace {ip} lladdr {STRANGER} dev {ETH0} nud permanent")];
            Breakage::ip(&site.source_node().netns, inject, [format!("neigh del {ip} dev {ETH0}")])
        },
    },
    Fault {
        name: "pod-queue-drop",
        about: "the source pod's device has a queue without room",
        dataplanes: EVERY,
        traffic: ICMP,
        expected: |site| in_pod(site, site.source, Hook::Qdisc, Cause::QueueDrop),
        breakage: |site| {
            let tc = |line: String| Script::new(Tool::Tc, &site.source.netns, [line]);
            Breakage::scripts(
                tc(format!("qdisc add dev {ETH0} root handle 1: pfifo limit 0")),
                tc(format!("qdisc del dev {ETH0} root")),
            )
        },
    },
];
