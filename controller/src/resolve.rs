//! From names to a namespace to send from and a flow to send.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use waymark_proto::{Absent, Flow, Inventory, NodeName, ObjectRef, Place, Protocol, Service};

use crate::request::Request;
use crate::target::Target;

/// The ends of a check, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ends {
    /// The namespace that sends.
    pub source: Place,
    /// The first packet; its source port or echo identifier is still 0.
    pub flow: Flow,
    /// The namespaces that the packets may be meant for: the owner of the address, or the Service's
    /// backends. Empty outside the cluster.
    pub destinations: Vec<Place>,
    /// Whether nobody else may receive them. Not so for nodes, which may forward a port to pods.
    pub exclusive: bool,
}

/// Why the ends could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// A name that is not in the inventory.
    #[error("there is no {kind} {name}{}", hint(near))]
    Unknown {
        /// `pod`, `node` or `service`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Names like it.
        near: Vec<String>,
    },
    /// Something that is there, but cannot be an end.
    #[error("{kind} {name} {why}")]
    Absent {
        /// `pod`, `node` or `service`.
        kind: &'static str,
        /// The name.
        name: String,
        /// What is the matter with it.
        why: String,
    },
    /// A source that cannot send.
    #[error("the source must be a pod or a node, not {target}: packets are sent from its network namespace")]
    Source {
        /// The target.
        target: String,
    },
    /// A source with a port.
    #[error("the source {target} takes no port: source ports are chosen by the check")]
    SourcePort {
        /// The target.
        target: String,
    },
    /// A Service without port.
    #[error("say which port of {service}: it has {}", ports.join(", "))]
    PortNeeded {
        /// The Service.
        service: String,
        /// Its ports.
        ports: Vec<String>,
    },
    /// A port that the Service does not have.
    #[error("{service} has no {}port {port}: it has {}", protocol.map(|p| format!("{p} ")).unwrap_or_default(), ports.join(", "))]
    NoSuchPort {
        /// The Service.
        service: String,
        /// The port.
        port: u16,
        /// The protocol, if it was asked for.
        protocol: Option<Protocol>,
        /// Its ports.
        ports: Vec<String>,
    },
    /// Protocol and target contradict one another.
    #[error("{protocol} to {target} needs {needs}")]
    Port {
        /// The protocol.
        protocol: Protocol,
        /// The target.
        target: String,
        /// `a port` or `no port`.
        needs: &'static str,
    },
    /// An end without an address of the family.
    #[error("{target} has no {} address", if *.ipv6 { "IPv6" } else { "IPv4" })]
    Family {
        /// The end.
        target: String,
        /// The family.
        ipv6: bool,
    },
}

fn hint(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

/// Resolves the ends of a question.
pub fn resolve(inventory: &Inventory, request: &Request) -> Result<Ends, ResolveError> {
    let (source, addresses) = source(inventory, &request.source)?;
    let target = request.destination.to_string();
    let protocol = protocol(request)?;
    let (candidates, protocol, destinations) = match &request.destination {
        Target::Pod { namespace, name, .. } => {
            let pod =
                inventory.pod(namespace, name).ok_or_else(|| unknown_pod(inventory, namespace, name))?;
            ([Some(pod.ip), pod.ip6], protocol, vec![pod.place()])
        }
        Target::Node { name, .. } => {
            let node = inventory
                .node(&NodeName::from(name.as_str()))
                .ok_or_else(|| unknown_node(inventory, name))?;
            ([Some(node.ip), node.ip6], protocol, vec![node.place()])
        }
        Target::Address { ip, .. } => {
            ([Some(*ip), None], protocol, inventory.owner(*ip).into_iter().collect())
        }
        Target::Service { namespace, name, port } => {
            let service = service(inventory, request, namespace, name, *port)?;
            let ready = service.backends.iter().filter(|backend| backend.ready);
            let owners = ready.filter_map(|backend| inventory.owner(backend.ip));
            ([Some(service.cluster_ip), None], service.protocol, owners.collect())
        }
    };
    let dst = pick(candidates, request.ipv6).ok_or(ResolveError::Family { target, ipv6: request.ipv6 })?;
    let ipv6 = dst.is_ipv6();
    let src = addresses
        .into_iter()
        .flatten()
        .find(|ip| ip.is_ipv6() == ipv6)
        .ok_or_else(|| ResolveError::Family { target: request.source.to_string(), ipv6 })?;
    let dst_port = request.destination.port().unwrap_or(0);
    let is_pod = |place: &Place| inventory.pod_at(place).is_some();
    let exclusive = !destinations.is_empty() && destinations.iter().all(is_pod);
    Ok(Ends { source, flow: Flow { src, dst, protocol, src_port: 0, dst_port }, destinations, exclusive })
}

/// IPv6 if asked for, else IPv4 where there is one.
fn pick(candidates: [Option<IpAddr>; 2], ipv6: bool) -> Option<IpAddr> {
    let of = |v6: bool| candidates.into_iter().flatten().find(|ip| ip.is_ipv6() == v6);
    if ipv6 { of(true) } else { of(false).or_else(|| of(true)) }
}

type Addresses = [Option<IpAddr>; 2];

fn source(inventory: &Inventory, target: &Target) -> Result<(Place, Addresses), ResolveError> {
    if target.port().is_some() && !matches!(target, Target::Service { .. } | Target::Address { .. }) {
        return Err(ResolveError::SourcePort { target: target.to_string() });
    }
    match target {
        Target::Pod { namespace, name, .. } => {
            let pod =
                inventory.pod(namespace, name).ok_or_else(|| unknown_pod(inventory, namespace, name))?;
            Ok((pod.place(), [Some(pod.ip), pod.ip6]))
        }
        Target::Node { name, .. } => {
            let node = inventory
                .node(&NodeName::from(name.as_str()))
                .ok_or_else(|| unknown_node(inventory, name))?;
            Ok((node.place(), [Some(node.ip), node.ip6]))
        }
        Target::Service { .. } | Target::Address { .. } => {
            Err(ResolveError::Source { target: target.to_string() })
        }
    }
}

/// The protocol asked for, else TCP to a port and ICMP to none.
fn protocol(request: &Request) -> Result<Protocol, ResolveError> {
    let target = &request.destination;
    let port = target.port();
    let protocol = request.protocol.unwrap_or(if port.is_some() { Protocol::Tcp } else { Protocol::Icmp });
    let needs = match (protocol.has_ports(), port) {
        // A Service says itself which ports it has.
        (true, None) if !matches!(target, Target::Service { .. }) => "a port",
        (false, Some(_)) => "no port",
        _ => return Ok(protocol),
    };
    Err(ResolveError::Port { protocol, target: target.to_string(), needs })
}

fn service<'a>(
    inventory: &'a Inventory,
    request: &Request,
    namespace: &str,
    name: &str,
    port: Option<u16>,
) -> Result<&'a Service, ResolveError> {
    let of_name: Vec<&Service> =
        inventory.services.iter().filter(|s| s.namespace == namespace && s.name == name).collect();
    if of_name.is_empty() {
        let all = inventory.services.iter().map(|s| format!("{}/{}", s.namespace, s.name));
        if let Some(absent) = inventory.absent("Service", Some(namespace), name) {
            return Err(not_there("service", absent));
        }
        let name = format!("{namespace}/{name}");
        return Err(ResolveError::Unknown { kind: "service", near: near(&name, all), name });
    }
    let service = format!("svc/{namespace}/{name}");
    let ports = || of_name.iter().map(|s| format!("{}/{}", s.port, s.protocol)).collect();
    let Some(port) = port else { return Err(ResolveError::PortNeeded { service, ports: ports() }) };
    let mut of_port: Vec<&Service> = of_name.iter().copied().filter(|s| s.port == port).collect();
    if let Some(protocol) = request.protocol {
        of_port.retain(|s| s.protocol == protocol);
    }
    // TCP first where one port serves both; the family decides between the entries of a dual-stack Service.
    of_port.sort_by_key(|s| (s.protocol, s.cluster_ip.is_ipv6() != request.ipv6));
    match of_port.first() {
        None => Err(ResolveError::NoSuchPort { service, port, protocol: request.protocol, ports: ports() }),
        Some(found) => Ok(found),
    }
}

fn not_there(kind: &'static str, absent: &Absent) -> ResolveError {
    let ObjectRef { namespace, name, .. } = &absent.object;
    let name = namespace.iter().chain([name]).map(String::as_str).collect::<Vec<_>>().join("/");
    ResolveError::Absent { kind, name, why: absent.why.to_string() }
}

pub(crate) fn unknown_pod(inventory: &Inventory, namespace: &str, name: &str) -> ResolveError {
    if let Some(absent) = inventory.absent("Pod", Some(namespace), name) {
        return not_there("pod", absent);
    }
    let name = format!("{namespace}/{name}");
    let near = near(&name, inventory.pods.iter().map(waymark_proto::Pod::full_name));
    ResolveError::Unknown { kind: "pod", name, near }
}

pub(crate) fn unknown_node(inventory: &Inventory, name: &str) -> ResolveError {
    if let Some(absent) = inventory.absent("Node", None, name) {
        return not_there("node", absent);
    }
    let near = near(name, inventory.nodes.iter().map(|node| node.name.to_string()));
    ResolveError::Unknown { kind: "node", name: name.to_owned(), near }
}

/// At most three names like the one asked for, the likest first; of few names all.
fn near(wanted: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let base = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut ranked: Vec<(usize, String)> = names
        .map(|name| {
            let distance = edits(wanted, &name).min(edits(&base(wanted), &base(&name)) + 1);
            (distance, name)
        })
        .collect();
    ranked.sort();
    ranked.dedup();
    if ranked.len() > 3 {
        ranked.retain(|(distance, _)| *distance <= wanted.len().div_ceil(3).max(2));
    }
    ranked.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Levenshtein distance: insertions, deletions and replacements of characters.
pub(crate) fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::inventory;

    fn ask(source: &str, destination: &str) -> Request {
        Request::new(source.parse().unwrap(), destination.parse().unwrap())
    }

    fn says(request: &Request) -> String {
        resolve(&inventory(), request).unwrap_err().to_string()
    }

    #[test]
    fn protocols_follow_the_destination() {
        let of = |destination: &str| resolve(&inventory(), &ask("pod/shop/cart", destination)).unwrap().flow;
        assert_eq!(of("pod/shop/pay").protocol, Protocol::Icmp);
        assert_eq!(of("pod/shop/pay:80").protocol, Protocol::Tcp);
        assert_eq!(of("svc/shop/pay:80").dst, "10.96.0.10".parse::<IpAddr>().unwrap());
        assert_eq!(of("node/node2").dst, "172.18.0.2".parse::<IpAddr>().unwrap());
        assert_eq!(of("192.0.2.1").dst_port, 0);
    }

    #[test]
    fn a_service_resolves_to_its_backends() {
        let ends = resolve(&inventory(), &ask("node/node1", "svc/shop/pay:80")).unwrap();
        assert_eq!(ends.source, Place::new("node1", "t-node1"));
        assert_eq!(ends.destinations, [Place::new("node2", "t-pay")]);
    }

    #[test]
    fn mistakes_are_answered_by_one_sentence() {
        assert_eq!(
            says(&ask("pod/shop/crat", "10.0.0.1")),
            "there is no pod shop/crat; did you mean shop/cart or shop/pay?"
        );
        assert!(says(&ask("node/nod1", "10.0.0.1")).contains("did you mean node1"));
        assert!(says(&ask("svc/shop/pay:80", "10.0.0.1")).contains("must be a pod or a node"));
        assert!(says(&ask("10.0.0.1", "10.0.0.1")).contains("must be a pod or a node"));
        assert!(says(&ask("pod/shop/cart:80", "10.0.0.1")).contains("takes no port"));
        assert_eq!(
            says(&ask("pod/shop/cart", "svc/shop/pay:81")),
            "svc/shop/pay has no port 81: it has 80/tcp, 53/udp"
        );
        assert_eq!(
            says(&ask("pod/shop/cart", "svc/shop/pay")),
            "say which port of svc/shop/pay: it has 80/tcp, 53/udp"
        );
        assert!(says(&ask("pod/shop/cart", "svc/shop/nay:80")).contains("there is no service shop/nay"));
        assert!(says(&ask("pod/shop/cart", "fd00::1")).contains("pod/shop/cart has no IPv6 address"));
        let v6 = Request { ipv6: true, ..ask("pod/shop/cart", "pod/shop/pay") };
        assert_eq!(says(&v6), "pod/shop/pay has no IPv6 address");
        let udp = Request { protocol: Some(Protocol::Udp), ..ask("pod/shop/cart", "pod/shop/pay") };
        assert_eq!(says(&udp), "udp to pod/shop/pay needs a port");
        let icmp = Request { protocol: Some(Protocol::Icmp), ..ask("pod/shop/cart", "pod/shop/pay:80") };
        assert_eq!(says(&icmp), "icmp to pod/shop/pay:80 needs no port");
    }

    #[test]
    fn what_is_there_without_an_address_is_told_from_what_is_not_there() {
        let mut inventory = inventory();
        let absent = |kind, namespace, why: &str| Absent {
            object: ObjectRef { kind, namespace, name: "new".to_owned() },
            why: waymark_proto::Text::verbatim(why),
        };
        inventory.absent = vec![
            absent("Pod".into(), Some("shop".into()), "has no address yet: it is Pending"),
            absent("Service".into(), Some("shop".into()), "is headless"),
            absent("Node".into(), None, "has no address"),
        ];
        let says =
            |source, destination| resolve(&inventory, &ask(source, destination)).unwrap_err().to_string();
        let pending = "pod shop/new has no address yet: it is Pending";
        assert_eq!(says("pod/shop/new", "10.0.0.1"), pending);
        assert_eq!(says("pod/shop/cart", "pod/shop/new:80"), pending);
        assert_eq!(says("pod/shop/cart", "svc/shop/new:80"), "service shop/new is headless");
        assert_eq!(says("pod/shop/cart", "node/new"), "node new has no address");
        assert!(says("pod/shop/cart", "pod/other/new").starts_with("there is no pod other/new"));
    }

    #[test]
    fn udp_that_was_asked_for_is_sent() {
        let udp = Request { protocol: Some(Protocol::Udp), ..ask("pod/shop/cart", "svc/shop/pay:53") };
        assert_eq!(resolve(&inventory(), &udp).unwrap().flow.protocol, Protocol::Udp);
    }
}
