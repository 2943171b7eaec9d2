//! Routes, and the settings that decide about forwarding.

use waymark_proto::{Cause, Hook};

use super::{Act, Breakage, EVERY, Fault, ICMP, Site, TCP, TCP6, UDP, in_pod, on_node};
use crate::dataplane::{pod_defaults, remote_routes};
use crate::plan::{BRIDGE, Dataplane, ETH0, VXLAN};
use crate::script::{Script, Tool};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "missing-route",
        about: "the source's node has no route to the pods of the target's node",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| on_node(site.source_node(), Hook::Route, Cause::WrongRoute),
        breakage: |site| missing_route(site, 0),
    },
    Fault {
        name: "missing-route6",
        about: "the same for IPv6",
        dataplanes: EVERY,
        traffic: TCP6,
        expected: |site| on_node(site.source_node(), Hook::Route, Cause::WrongRoute),
        breakage: |site| missing_route(site, 1),
    },
    Fault {
        name: "blackhole-route",
        about: "the source's node has a blackhole route for the target",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| on_node(site.source_node(), Hook::Route, Cause::BlackholeRoute),
        breakage: |site| special_route(site, "blackhole"),
    },
    Fault {
        name: "prohibit-route",
        about: "the source's node has a prohibit route for the target",
        dataplanes: EVERY,
        traffic: UDP,
        expected: |site| on_node(site.source_node(), Hook::Route, Cause::ProhibitRoute),
        breakage: |site| special_route(site, "prohibit"),
    },
    Fault {
        name: "unreachable-route",
        about: "the source's node has an unreachable route for the target",
        dataplanes: EVERY,
        traffic: ICMP,
        expected: |site| on_node(site.source_node(), Hook::Route, Cause::UnreachableRoute),
        breakage: |site| special_route(site, "unreachable"),
    },
    Fault {
        name: "pod-no-default-route",
        about: "the source pod has no default route",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| in_pod(site, site.source, Hook::Route, Cause::NoRoute),
        breakage: |site| {
            let [route, _] = pod_defaults(site.cluster, site.source);
            Breakage::ip(&site.source.netns, [format!("route del {route}")], [format!("route add {route}")])
        },
    },
    Fault {
        name: "ip-forward-off",
        about: "the target's node does not forward",
        dataplanes: EVERY,
        traffic: TCP,
        expected: |site| on_node(site.target_node(), Hook::Route, Cause::ForwardingDisabled),
        breakage: |site| {
            let set = |value| {
                Script::new(Tool::Sysctl, &site.target_node().netns, [format!("ipv4/ip_forward={value}")])
            };
            Breakage::scripts(set(0), set(1))
        },
    },
    Fault {
        name: "rp-filter",
        about: "the target's node filters strictly by return path and has the source's route elsewhere",
        dataplanes: EVERY,
        traffic: UDP,
        expected: |site| on_node(site.target_node(), Hook::Route, Cause::SourceValidation),
        breakage: rp_filter,
    },
];

/// Takes away one family's route (0 is IPv4).
fn missing_route(site: &Site, family: usize) -> Breakage {
    let route = &remote_routes(site.cluster.dataplane, site.target_node())[family];
    Breakage::ip(&site.source_node().netns, [format!("route del {route}")], [format!("route add {route}")])
}

/// A route of another type that is more specific than the right one.
fn special_route(site: &Site, kind: &str) -> Breakage {
    let route = |verb| [format!("route {verb} {kind} {}/32", site.target.ip)];
    Breakage::ip(&site.source_node().netns, route("add"), route("del"))
}

fn rp_filter(site: &Site) -> Breakage {
    let netns = &site.target_node().netns;
    let (comes_by, elsewhere) = match site.cluster.dataplane {
        Dataplane::BridgeHostgw => (ETH0, BRIDGE),
        Dataplane::BridgeVxlan => (VXLAN, BRIDGE),
        Dataplane::Routed => (ETH0, site.target.host_device.as_str()),
    };
    let route = |verb| {
        Act::Script(Script::new(
            Tool::Ip,
            netns,
            [format!("route {verb} {}/32 dev {elsewhere}", site.source.ip)],
        ))
    };
    let filter = |value| {
        Act::Script(Script::new(Tool::Sysctl, netns, [format!("ipv4/conf/{comes_by}/rp_filter={value}")]))
    };
    Breakage { inject: vec![route("add"), filter(1)], undo: vec![filter(0), route("del")] }
}
