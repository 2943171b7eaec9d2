//! How objects and ends are named.

use std::collections::BTreeMap;
use std::net::IpAddr;

use waymark_proto::{Flow, Inventory, ObjectRef, Pod, PortRef, Service, Text, listed, quoted, text};

/// `shop/pay-1`, `node n1`, or the address itself.
pub(super) fn owner(inventory: &Inventory, ip: IpAddr) -> Text {
    if let Some(pod) = pod_at(inventory, ip) {
        return Text::verbatim(pod.full_name());
    }
    match inventory.nodes.iter().find(|node| node.ip == ip || node.ip6 == Some(ip)) {
        Some(node) => text!(deviation::Node { node: &node.name }),
        None => Text::verbatim(ip.to_string()),
    }
}

/// The pod that has an address: one with a network of its own, if there is one.
pub(super) fn pod_at(inventory: &Inventory, ip: IpAddr) -> Option<&Pod> {
    let mut pods = inventory.pods.iter().filter(|pod| pod.ip == ip || pod.ip6 == Some(ip));
    let first = pods.next()?;
    if first.host_network { pods.find(|pod| !pod.host_network).or(Some(first)) } else { Some(first) }
}

/// `app=pay,tier=back`, without the hashes that controllers add.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> Text {
    let given = labels.iter().filter(|(key, _)| !key.ends_with("-hash"));
    let words: Vec<String> = given.map(|(key, value)| format!("{key}={value}")).collect();
    if words.is_empty() { text!(deviation::NoLabels) } else { Text::verbatim(words.join(",")) }
}

/// `shop/pay-1 (app=pay)`
pub(super) fn labelled(pod: &Pod) -> Text {
    text!(deviation::Labelled { pod: pod.full_name(), labels: labels(&pod.labels) })
}

/// A number, or a name in quotation marks.
pub(super) fn port_ref(port: &PortRef) -> Text {
    match port {
        PortRef::Number(number) => Text::verbatim(number.to_string()),
        PortRef::Name(name) => quoted(name),
    }
}

/// `8080/tcp`, or `icmp`.
pub(super) fn port(flow: &Flow) -> String {
    if flow.protocol.has_ports() { format!("{}/{}", flow.dst_port, flow.protocol) } else { "icmp".to_owned() }
}

/// `NetworkPolicy shop/a`, or `NetworkPolicies shop/a and shop/b`.
pub(super) fn policies(policies: &[ObjectRef]) -> Text {
    let name = |object: &ObjectRef| {
        object.namespace.iter().chain([&object.name]).cloned().collect::<Vec<_>>().join("/")
    };
    match policies {
        [only] => Text::verbatim(only.to_string()),
        several => {
            text!(deviation::Policies { names: listed(&several.iter().map(name).collect::<Vec<_>>()) })
        }
    }
}

/// A Service as an object.
pub(super) fn service(service: &Service) -> ObjectRef {
    ObjectRef::namespaced("Service", &service.namespace, &service.name)
}

/// The commands that show a Service's selector, its endpoints, and the pods that it should lead to.
pub(super) fn look_at_service(service: &Service) -> Text {
    let Service { namespace, name, .. } = service;
    text!(advice::LookAtService { namespace, name, selector: service.selector.as_ref().map(labels) })
}
