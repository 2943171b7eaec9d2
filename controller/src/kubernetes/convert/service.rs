//! Services with their endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use waymark_proto::{Absent, Backend, PortRef, Protocol, Text, TrafficPolicy, text};

use super::{absent, name, namespace};

/// The label that ties a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Slices by the namespace and name of their Service.
pub(super) type Endpoints<'a> = HashMap<(String, &'a str), Vec<&'a EndpointSlice>>;

pub(super) fn endpoints(slices: &[Arc<EndpointSlice>]) -> Endpoints<'_> {
    let mut endpoints = Endpoints::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
            endpoints.entry((namespace(&slice.metadata), service)).or_default().push(slice);
        }
    }
    endpoints
}

/// One entry per port and cluster address, or why there is none.
pub(super) fn convert(
    service: &Service,
    endpoints: &Endpoints<'_>,
) -> Result<Vec<waymark_proto::Service>, Absent> {
    let metadata = &service.metadata;
    let (namespace, name) = (namespace(metadata), name(metadata));
    let no_spec = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&no_spec);
    let addresses = cluster_addresses(spec);
    if addresses.is_empty() {
        return Err(absent("Service", metadata, without_address(spec)));
    }
    let slices = endpoints.get(&(namespace.clone(), name.as_str())).map(Vec::as_slice).unwrap_or_default();
    let mut entries = Vec::new();
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(number)) = (protocol(port.protocol.as_deref()), u16::try_from(port.port))
        else {
            continue;
        };
        entries.extend(addresses.iter().map(|&cluster_ip| waymark_proto::Service {
            namespace: namespace.clone(),
            name: name.clone(),
            cluster_ip,
            port: number,
            protocol,
            backends: backends(slices, port, cluster_ip.is_ipv6()),
            port_name: port.name.clone().filter(|name| !name.is_empty()),
            // An empty selector selects nothing: somebody else writes the endpoints.
            selector: spec.selector.clone().filter(|selector| !selector.is_empty()),
            target_port: Some(target_port(port, number)),
            node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0),
            external_ips: external_addresses(service, spec, cluster_ip.is_ipv6()),
            internal_traffic_policy: traffic_policy(spec.internal_traffic_policy.as_deref()),
            external_traffic_policy: traffic_policy(spec.external_traffic_policy.as_deref()),
        }));
    }
    if entries.is_empty() {
        return Err(absent("Service", metadata, text!(absent::NoPort)));
    }
    Ok(entries)
}

fn cluster_addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in all.filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    addresses
}

/// The addresses from outside, of a family, that nodes lead to the Service. Where the load balancer asks for
/// its traffic (`ipMode: Proxy`) nodes leave it alone.
fn external_addresses(service: &Service, spec: &ServiceSpec, ipv6: bool) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let led = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let texts = spec.external_ips.iter().flatten().chain(led.filter_map(|ingress| ingress.ip.as_ref()));
    let addresses = texts.filter_map(|text| text.parse::<IpAddr>().ok());
    addresses.filter(|ip| ip.is_ipv6() == ipv6).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What the API may add to the two is for implementations that know it: Cluster promises least.
fn traffic_policy(name: Option<&str>) -> TrafficPolicy {
    match name {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

fn without_address(spec: &ServiceSpec) -> Text {
    match (spec.type_.as_deref(), &spec.external_name, spec.cluster_ip.as_deref()) {
        (Some("ExternalName"), name, _) => text!(absent::Alias { name: name.as_deref() }),
        (_, _, Some("None")) => text!(absent::Headless),
        _ => text!(absent::NoClusterIp),
    }
}

/// TCP if nothing is said; `None` for what checks do not send.
fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP" | "") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

/// The port of the pods; the Service's own if nothing is said.
fn target_port(port: &ServicePort, own: u16) -> PortRef {
    match &port.target_port {
        Some(IntOrString::Int(number)) => {
            PortRef::Number(u16::try_from(*number).ok().filter(|n| *n != 0).unwrap_or(own))
        }
        Some(IntOrString::String(name)) => {
            name.parse().map_or_else(|_| PortRef::Name(name.clone()), PortRef::Number)
        }
        None => PortRef::Number(own),
    }
}

/// The endpoints of a port, of a family. One that two slices list is ready if either says so, as for
/// kube-proxy.
fn backends(slices: &[&EndpointSlice], port: &ServicePort, ipv6: bool) -> Vec<Backend> {
    let mut found: BTreeMap<(IpAddr, u16), Backend> = BTreeMap::new();
    for slice in slices {
        for number in slice.ports.iter().flatten().filter_map(|candidate| number_of(candidate, port)) {
            for endpoint in &slice.endpoints {
                let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
                for ip in addresses.filter(|ip| ip.is_ipv6() == ipv6) {
                    let ready = ready(endpoint);
                    let new = || Backend { pod: pod_of(endpoint, slice), ip, port: number, ready };
                    found.entry((ip, number)).or_insert_with(new).ready |= ready;
                }
            }
        }
    }
    found.into_values().collect()
}

/// The number of a slice's port if it is that of the Service's port: ports are matched by name and protocol.
fn number_of(candidate: &EndpointPort, port: &ServicePort) -> Option<u16> {
    let same_name = candidate.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default();
    let same_protocol = protocol(candidate.protocol.as_deref()) == protocol(port.protocol.as_deref());
    candidate.port.filter(|_| same_name && same_protocol).and_then(|number| u16::try_from(number).ok())
}

/// Nothing said is ready, as the API has it.
fn ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn pod_of(endpoint: &Endpoint, slice: &EndpointSlice) -> Option<String> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    let namespace = target.namespace.clone().unwrap_or_else(|| namespace(&slice.metadata));
    Some(format!("{namespace}/{}", target.name.as_deref()?))
}
