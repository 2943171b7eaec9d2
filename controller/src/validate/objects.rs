//! What a change makes of the objects of a cluster.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::change::{Key, Kind};
use super::endpoints::slices;
use crate::kubernetes::Objects;

/// What becomes of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// It is there, like this.
    Policy(Box<NetworkPolicy>),
    /// It is there, like this.
    Service(Box<Service>),
    /// It is not there any more.
    Gone(Key),
}

/// The label that names the Service of an EndpointSlice.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The objects after edits. What controllers make of an edited Service, its endpoints and its address, is
/// worked out as they would.
pub(super) fn after(before: &Objects, edits: &[Edit]) -> Objects {
    let mut objects = before.clone();
    for edit in edits {
        match edit {
            Edit::Policy(policy) => put(&mut objects.policies, policy.as_ref().clone()),
            Edit::Service(service) => put_service(&mut objects, service),
            Edit::Gone(Key { kind: Kind::NetworkPolicy, namespace, name }) => {
                objects.policies.retain(|policy| !is(policy.as_ref(), namespace, name));
            }
            Edit::Gone(Key { kind: Kind::Service, namespace, name }) => {
                objects.services.retain(|service| !is(service.as_ref(), namespace, name));
                objects.slices.retain(|slice| !belongs(slice, namespace, name));
            }
        }
    }
    objects
}

fn put_service(objects: &mut Objects, service: &Service) {
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let old = objects.services.iter().find(|old| is(old.as_ref(), &namespace, &name));
    let same_pods = old.is_some_and(|old| leads_alike(old, service));
    let mut service = service.clone();
    give_address(&mut service, objects.services.len());
    if !same_pods && has_selector(&service) {
        objects.slices.retain(|slice| !belongs(slice, &namespace, &name));
        objects.slices.extend(slices(&service, &objects.pods).into_iter().map(Arc::new));
    }
    put(&mut objects.services, service);
}

/// Gives each Service with a selector that has no endpoints those that it would get: for objects that no
/// cluster has seen.
pub(super) fn complete_endpoints(objects: &mut Objects) {
    for (index, service) in objects.services.iter_mut().enumerate() {
        give_address(Arc::make_mut(service), index);
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        if has_selector(service) && !objects.slices.iter().any(|slice| belongs(slice, &namespace, &name)) {
            objects.slices.extend(slices(service, &objects.pods).into_iter().map(Arc::new));
        }
    }
}

/// The address that stands for that of a Service that has none yet: of TEST-NET-1 (RFC 5737), which nobody
/// routes. Intent does not depend on it.
fn give_address(service: &mut Service, index: usize) {
    let Some(spec) = &mut service.spec else { return };
    let has_one = spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty());
    if !has_one && spec.type_.as_deref() != Some("ExternalName") {
        spec.cluster_ip = Some(format!("192.0.2.{}", index % 254 + 1));
        spec.cluster_ips = None;
    }
}

fn has_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
}

/// Whether two Services lead to the same endpoints.
fn leads_alike(one: &Service, other: &Service) -> bool {
    let leads = |service: &Service| {
        let spec = service.spec.clone().unwrap_or_default();
        let ports: Vec<_> = spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .map(|port| {
                // Absent, it is the Service's own port; absent, the protocol is TCP.
                let target = port.target_port.unwrap_or(IntOrString::Int(port.port));
                (port.name, port.protocol.unwrap_or_else(|| "TCP".to_owned()), target)
            })
            .collect();
        (spec.selector.unwrap_or_default(), ports, spec.publish_not_ready_addresses.unwrap_or(false))
    };
    leads(one) == leads(other)
}

fn is(object: &impl ResourceExt, namespace: &str, name: &str) -> bool {
    object.meta().namespace.as_deref() == Some(namespace) && object.meta().name.as_deref() == Some(name)
}

fn belongs(slice: &EndpointSlice, namespace: &str, name: &str) -> bool {
    slice.metadata.namespace.as_deref() == Some(namespace)
        && slice.labels().get(SERVICE_NAME).is_some_and(|service| service == name)
}

fn put<T: ResourceExt>(objects: &mut Vec<Arc<T>>, object: T) {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    match objects.iter_mut().find(|old| is(old.as_ref(), &namespace, &name)) {
        Some(old) => *old = Arc::new(object),
        None => objects.push(Arc::new(object)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::fixture::{objects, pod, service};

    fn endpoints(objects: &Objects, name: &str) -> Vec<(String, i32, bool)> {
        let slices = objects.slices.iter().filter(|slice| belongs(slice, "shop", name));
        let each = slices.flat_map(|slice| {
            let port = slice.ports.iter().flatten().next().and_then(|port| port.port);
            slice.endpoints.iter().filter_map(move |endpoint| {
                let port = port?;
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                Some((endpoint.addresses[0].clone(), port, ready))
            })
        });
        each.collect()
    }

    #[test]
    fn a_new_service_gets_the_endpoints_that_it_would_get() {
        let before = objects(vec![pod("pay-1", "10.0.1.1", "pay"), pod("cart", "10.0.1.2", "cart")]);
        let then = after(&before, &[Edit::Service(Box::new(service("pay", "pay", "http")))]);
        assert_eq!(endpoints(&then, "pay"), [("10.0.1.1".to_owned(), 8080, true)]);
        assert!(then.services[0].spec.as_ref().unwrap().cluster_ip.is_some());
        assert!(before.slices.is_empty());
    }

    #[test]
    fn endpoints_change_with_selector_and_target_port_only() {
        let pods = vec![pod("pay-1", "10.0.1.1", "pay"), pod("cart", "10.0.1.2", "cart")];
        let before = after(&objects(pods), &[Edit::Service(Box::new(service("pay", "pay", "http")))]);
        let mut labelled = service("pay", "pay", "http");
        labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        let then = after(&before, &[Edit::Service(Box::new(labelled))]);
        assert_eq!(then.slices, before.slices);
        let then = after(&before, &[Edit::Service(Box::new(service("pay", "cart", "http")))]);
        assert_eq!(endpoints(&then, "pay"), [("10.0.1.2".to_owned(), 8080, true)]);
        let then = after(&before, &[Edit::Service(Box::new(service("pay", "pay", "nothing")))]);
        assert_eq!(endpoints(&then, "pay"), []);
    }

    #[test]
    fn what_is_deleted_is_gone_with_its_endpoints() {
        let before = after(
            &objects(vec![pod("pay-1", "10.0.1.1", "pay")]),
            &[Edit::Service(Box::new(service("pay", "pay", "http")))],
        );
        let gone = Edit::Gone(Key { kind: Kind::Service, namespace: "shop".into(), name: "pay".into() });
        let then = after(&before, &[gone]);
        assert!(then.services.is_empty() && then.slices.is_empty());
    }
}
