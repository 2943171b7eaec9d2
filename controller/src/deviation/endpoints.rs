//! A Service, its endpoints and its pods, held against one another.

use waymark_proto::{
    Absent, Backend, Deviation, DeviationKind, Intent, Inventory, LocalOnly, ObjectRef, Pod, PortRef,
    Protocol, Service, Text, TransportProtocol, listed, quoted, text,
};

use crate::resolve::edits;

use super::words::{labelled, labels, look_at_service, owner, pod_at, port_ref, service as object};

/// What is wrong with a Service's endpoints.
pub(super) fn of_service(inventory: &Inventory, service: &Service, intent: &Intent) -> Vec<Deviation> {
    let ready: Vec<&Backend> = service.backends.iter().filter(|backend| backend.ready).collect();
    if ready.is_empty() {
        return vec![without_endpoints(inventory, service)];
    }
    let wrong = ready.iter().filter_map(|backend| wrong(inventory, service, backend));
    let only = intent.local_only.as_ref().filter(|_| intent.receivers.is_empty());
    wrong.chain(only.map(|only| none_is_local(inventory, service, &ready, only))).collect()
}

/// A Service whose traffic policy leaves no endpoint.
fn none_is_local(
    inventory: &Inventory,
    service: &Service,
    ready: &[&Backend],
    only: &LocalOnly,
) -> Deviation {
    let LocalOnly { policy, node } = only;
    let name = object(service);
    let placed = |backend: &&Backend| match pod_at(inventory, backend.ip) {
        Some(pod) => text!(deviation::PodOn { pod: pod.full_name(), node: &pod.node }),
        None => owner(inventory, backend.ip),
    };
    let elsewhere: Vec<Text> = ready.iter().map(placed).collect();
    Deviation {
        kind: DeviationKind::NoLocalEndpoints,
        culprit: name.clone(),
        node: Some(node.clone()),
        endpoint: None,
        rule: None,
        summary: text!(deviation::NoLocalEndpoints {
            policy: *policy,
            service: &name,
            node,
            one: elsewhere.len() == 1,
            elsewhere: listed(&elsewhere),
        }),
        advice: text!(advice::NoLocalEndpoints {
            service: name,
            node,
            policy: *policy,
            look: look_at_service(service),
        }),
    }
}

/// The running pods that a Service's selector selects.
fn selected<'a>(inventory: &'a Inventory, service: &Service) -> Vec<&'a Pod> {
    inventory.pods.iter().filter(|pod| selects(service, pod)).collect()
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = &service.selector else { return false };
    pod.namespace == service.namespace
        && selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
}

/// The port of a pod that a target port means.
fn target(service: &Service, pod: &Pod) -> Option<u16> {
    match service.target_port.as_ref()? {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(name) => {
            let protocol = match service.protocol {
                Protocol::Udp => TransportProtocol::Udp,
                Protocol::Tcp | Protocol::Icmp => TransportProtocol::Tcp,
            };
            let fits = |port: &&waymark_proto::ContainerPort| {
                port.name.as_ref() == Some(name) && port.protocol == protocol
            };
            pod.ports.iter().find(fits).map(|port| port.port)
        }
    }
}

fn without_endpoints(inventory: &Inventory, service: &Service) -> Deviation {
    let deviation = |kind, culprit, summary: Text, advice: Text| Deviation {
        kind,
        culprit,
        node: None,
        endpoint: None,
        rule: None,
        summary,
        advice,
    };
    let name = object(service);
    let look = look_at_service(service);
    let Some(selector) = &service.selector else {
        return deviation(
            DeviationKind::NoEndpoints,
            name.clone(),
            text!(deviation::NoEndpoints { service: &name }),
            text!(advice::NoEndpoints { service: name, look }),
        );
    };
    let selector = labels(selector);
    let pods = selected(inventory, service);
    let names: Vec<String> = pods.iter().map(|pod| pod.full_name()).collect();
    let Some(first) = pods.first() else {
        let near = nearest(inventory, service).map(labelled);
        return deviation(
            DeviationKind::NoMatchingPod,
            name.clone(),
            text!(deviation::NoMatchingPod {
                service: &name,
                selector,
                namespace: &service.namespace,
                near,
                absent: without_place(inventory, service),
            }),
            text!(advice::NoMatchingPod { service: name, look }),
        );
    };
    if let Some(PortRef::Name(port)) = &service.target_port
        && pods.iter().all(|pod| target(service, pod).is_none())
    {
        return deviation(
            DeviationKind::WrongTargetPort,
            name.clone(),
            text!(deviation::UnnamedTargetPort {
                service: &name,
                port: quoted(port),
                pods: listed(&names),
                protocol: service.protocol,
            }),
            text!(advice::UnnamedTargetPort { service: name, look }),
        );
    }
    deviation(
        DeviationKind::NotReady,
        ObjectRef::namespaced("Pod", &first.namespace, &first.name),
        text!(deviation::NotReady { service: name, pods: listed(&names) }),
        text!(advice::NotReady {
            pod: first.full_name(),
            namespace: &first.namespace,
            name: &first.name,
            look,
        }),
    )
}

/// The pods of the Service's namespace that do not run, whose labels are not known.
fn without_place(inventory: &Inventory, service: &Service) -> Option<Text> {
    let of_namespace = |absent: &&Absent| {
        absent.object.kind == "Pod" && absent.object.namespace.as_ref() == Some(&service.namespace)
    };
    let absent = inventory.absent.iter().filter(of_namespace);
    let words: Vec<Text> =
        absent.map(|absent| text!(deviation::Absent { object: &absent.object, why: &absent.why })).collect();
    (!words.is_empty()).then(|| listed(&words))
}

/// The pod of the Service's namespace that comes closest to its selector, if it has a label of it or nearly so.
fn nearest<'a>(inventory: &'a Inventory, service: &Service) -> Option<&'a Pod> {
    let selector = service.selector.as_ref()?;
    let distance = |pod: &Pod| {
        let of = |(key, value): (&String, &String)| match pod.labels.get(key) {
            Some(other) => edits(value, other).min(value.len()),
            None => value.len(),
        };
        selector.iter().map(of).sum::<usize>()
    };
    let pods = inventory.pods.iter().filter(|pod| pod.namespace == service.namespace);
    let half = selector.values().map(String::len).sum::<usize>() / 2;
    let shares = |pod: &Pod| selector.iter().any(|(key, value)| pod.labels.get(key) == Some(value));
    // Of equals the first.
    pods.min_by_key(|pod| distance(pod)).filter(|pod| distance(pod) <= half || shares(pod))
}

/// What is wrong with a ready endpoint.
fn wrong(inventory: &Inventory, service: &Service, backend: &Backend) -> Option<Deviation> {
    let name = object(service);
    let endpoint = std::net::SocketAddr::new(backend.ip, backend.port);
    let of_network = |node: &waymark_proto::Node| {
        [node.pod_cidr, node.pod_cidr6].into_iter().flatten().any(|cidr| cidr.contains(&backend.ip))
    };
    // Several pods may use one node's address.
    let pods = || inventory.pods.iter().filter(|pod| [Some(pod.ip), pod.ip6].contains(&Some(backend.ip)));
    let chosen = pods().find(|pod| selects(service, pod));
    let summary = match (pod_at(inventory, backend.ip), &service.selector, chosen) {
        // An endpoint of a Service without selector may be anywhere, but not where a pod should be.
        (None, None, _) if !inventory.nodes.iter().any(of_network) => return None,
        (None, ..) => {
            text!(deviation::EndpointWithoutPod { service: &name, endpoint })
        }
        (Some(_), None, _) => return None,
        (Some(_), Some(selector), None) => text!(deviation::EndpointNotSelected {
            service: &name,
            endpoint,
            owner: described(inventory, backend),
            selector: labels(selector),
        }),
        (Some(_), Some(_), Some(pod)) => match (&service.target_port, target(service, pod)) {
            (None, _) => return None,
            (Some(_), Some(port)) if port == backend.port => return None,
            (Some(wanted), meant) => {
                let by_name = matches!(wanted, PortRef::Name(_));
                text!(deviation::EndpointOfOtherPort {
                    service: &name,
                    endpoint,
                    pod: pod.full_name(),
                    target: port_ref(wanted),
                    meant: meant.filter(|_| by_name),
                    undeclared: by_name && meant.is_none(),
                })
            }
        },
    };
    let advice = text!(advice::WrongEndpoint { look: look_at_service(service) });
    Some(Deviation {
        kind: DeviationKind::WrongEndpoint,
        culprit: name,
        node: None,
        endpoint: Some(backend.ip),
        rule: None,
        summary,
        advice,
    })
}

/// `shop/other with app=other`
fn described(inventory: &Inventory, backend: &Backend) -> Text {
    match pod_at(inventory, backend.ip) {
        Some(pod) => text!(deviation::PodWith { pod: pod.full_name(), labels: labels(&pod.labels) }),
        None => owner(inventory, backend.ip),
    }
}
