//! The EndpointSlices that a Service gets, as the control plane's endpointslice controller would write them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::objects::SERVICE_NAME;

/// The slices of a Service with a selector: one for each family and each set of ports that its pods give it.
pub(super) fn slices(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSlice> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let selector = spec.selector.clone().unwrap_or_default();
    let regardless = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut slices: BTreeMap<(bool, String), EndpointSlice> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_selected(pod, service, &selector)) {
        let ports: Vec<EndpointPort> =
            spec.ports.iter().flatten().filter_map(|port| endpoint_port(port, pod)).collect();
        for address in addresses(pod) {
            let ipv6 = address.contains(':');
            let key = (ipv6, serde_json::to_string(&ports).unwrap_or_default());
            let number = slices.len();
            let slice = slices.entry(key).or_insert_with(|| empty(service, ipv6, ports.clone(), number));
            slice.endpoints.push(endpoint(pod, address, regardless));
        }
    }
    slices.into_values().collect()
}

fn is_selected(pod: &Pod, service: &Service, selector: &BTreeMap<String, String>) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.namespace() == service.namespace()
        && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
        && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn addresses(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if all.is_empty() { status.pod_ip.iter().filter(|ip| !ip.is_empty()).cloned().collect() } else { all }
}

/// The port of a pod that a Service's port leads to; `None` if it names one that the pod does not have.
fn endpoint_port(port: &ServicePort, pod: &Pod) -> Option<EndpointPort> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        Some(IntOrString::Int(number)) => *number,
        None => port.port,
        Some(IntOrString::String(name)) => named(pod, name, &protocol)?,
    };
    Some(EndpointPort {
        name: port.name.clone(),
        port: Some(number),
        protocol: Some(protocol),
        ..Default::default()
    })
}

fn named(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let fits = |port: &&k8s_openapi::api::core::v1::ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    ports.find(fits).map(|port| port.container_port)
}

fn endpoint(pod: &Pod, address: String, regardless: bool) -> Endpoint {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(regardless || (is_ready && !terminating)),
            serving: Some(regardless || is_ready),
            terminating: Some(terminating),
        }),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn empty(service: &Service, ipv6: bool, ports: Vec<EndpointPort>, number: usize) -> EndpointSlice {
    let name = service.name_any();
    EndpointSlice {
        address_type: if ipv6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: Vec::new(),
        metadata: ObjectMeta {
            name: Some(format!("{name}-{number}")),
            namespace: service.namespace(),
            labels: Some([(SERVICE_NAME.to_owned(), name)].into()),
            ..Default::default()
        },
        ports: Some(ports),
    }
}
