//! How objects and ends are named.

use std::collections::BTreeMap;
use std::net::IpAddr;

use waymark_proto::{Flow, Inventory, ObjectRef, Pod, PolicyType, Service};

/// `shop/pay-1`, `node n1`, or the address itself.
pub(super) fn owner(inventory: &Inventory, ip: IpAddr) -> String {
    if let Some(pod) = pod_at(inventory, ip) {
        return pod.full_name();
    }
    match inventory.nodes.iter().find(|node| node.ip == ip || node.ip6 == Some(ip)) {
        Some(node) => format!("node {}", node.name),
        None => ip.to_string(),
    }
}

/// The pod that has an address: one with a network of its own, if there is one.
pub(super) fn pod_at(inventory: &Inventory, ip: IpAddr) -> Option<&Pod> {
    let mut pods = inventory.pods.iter().filter(|pod| pod.ip == ip || pod.ip6 == Some(ip));
    let first = pods.next()?;
    if first.host_network { pods.find(|pod| !pod.host_network).or(Some(first)) } else { Some(first) }
}

/// `app=pay,tier=back`, without the hashes that controllers add.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> String {
    let given = labels.iter().filter(|(key, _)| !key.ends_with("-hash"));
    let words: Vec<String> = given.map(|(key, value)| format!("{key}={value}")).collect();
    if words.is_empty() { "no labels".to_owned() } else { words.join(",") }
}

/// `8080/tcp`, or `icmp`.
pub(super) fn port(flow: &Flow) -> String {
    if flow.protocol.has_ports() { format!("{}/{}", flow.dst_port, flow.protocol) } else { "icmp".to_owned() }
}

/// `ingress` or `egress`.
pub(super) fn direction(direction: PolicyType) -> &'static str {
    match direction {
        PolicyType::Ingress => "ingress",
        PolicyType::Egress => "egress",
    }
}

/// `NetworkPolicy shop/a`, or `NetworkPolicies shop/a and shop/b`.
pub(super) fn policies(policies: &[ObjectRef]) -> String {
    let name = |object: &ObjectRef| {
        object.namespace.iter().chain([&object.name]).cloned().collect::<Vec<_>>().join("/")
    };
    match policies {
        [only] => only.to_string(),
        several => format!("NetworkPolicies {}", list(&several.iter().map(name).collect::<Vec<_>>())),
    }
}

/// `a`, `a and b`, `a, b and c`; of many the first few.
pub(super) fn list(items: &[String]) -> String {
    const MOST: usize = 5;
    match items {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        many if many.len() > MOST => {
            format!("{} and {} more", many[..MOST].join(", "), many.len() - MOST)
        }
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// A Service as an object.
pub(super) fn service(service: &Service) -> ObjectRef {
    ObjectRef::namespaced("Service", &service.namespace, &service.name)
}

/// The commands that show a Service's selector, its endpoints, and the pods that it should lead to.
pub(super) fn look_at_service(service: &Service) -> String {
    let Service { namespace, name, .. } = service;
    let pods = match &service.selector {
        Some(selector) => format!(", `kubectl -n {namespace} get pods -o wide -l {}`", labels(selector)),
        None => String::new(),
    };
    format!(
        "`kubectl -n {namespace} describe service {name}`, `kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name} -o yaml`{pods}"
    )
}
