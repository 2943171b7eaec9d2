//! Gives a topology to an API server, and waits until the cluster is as it says.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::SocketAddrV4;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::conditions::{is_crd_established, is_pod_running};
use kube::runtime::wait::await_condition;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use waymark_controller::kubernetes::crd::manifests;

use super::error::{KubernetesError, Result};
use super::objects::Objects;

/// How often is looked for what cannot be watched.
const PERIOD: Duration = Duration::from_millis(100);

/// Makes the definitions of Waymark's own resources, as its chart does, and waits until they are served.
pub(crate) async fn define(client: &Client) -> Result<()> {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for (_, definition) in manifests() {
        let name = definition.name_any();
        let made = definitions.create(&PostParams::default(), &definition).await;
        made.map_err(failed(format!("create the definition {name}")))?;
        let served = await_condition(definitions.clone(), &name, is_crd_established()).await;
        served.map_err(|error| KubernetesError::Api {
            what: format!("watch the definition {name}"),
            source: error.into(),
        })?;
    }
    Ok(())
}

/// Makes the objects and waits until the pods run and are endpoints of the Services that select them. Gives
/// back the endpoints.
pub(crate) async fn apply(client: &Client, objects: &Objects) -> Result<BTreeSet<SocketAddrV4>> {
    for namespace in &objects.namespaces {
        let name = namespace.name_any();
        if name == "default" {
            continue;
        }
        let made = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), namespace).await;
        made.map_err(failed(format!("create namespace {name}")))?;
    }
    for service in &objects.services {
        create(client, service).await?;
    }
    for pod in &objects.pods {
        create(client, pod).await?;
    }
    for pod in &objects.pods {
        let pods = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let running = await_condition(pods, &name, is_pod_running()).await;
        running.map_err(|error| KubernetesError::Api {
            what: format!("watch pod {name}"),
            source: error.into(),
        })?;
    }
    loop {
        if let Some(endpoints) = endpoints(client, objects).await? {
            return Ok(endpoints);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn create<K>(client: &Client, object: &K) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    K::DynamicType: Default,
{
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let made = api.create(&PostParams::default(), object).await;
    let what = format!("create {} {}", K::kind(&K::DynamicType::default()), object.name_any());
    made.map(drop).map_err(failed(what))
}

fn failed(what: String) -> impl FnOnce(kube::Error) -> KubernetesError {
    move |error| KubernetesError::Api { what, source: error.into() }
}

/// The endpoints of all Services, once each has as many as pods are selected.
async fn endpoints(client: &Client, objects: &Objects) -> Result<Option<BTreeSet<SocketAddrV4>>> {
    let slices = Api::<EndpointSlice>::all(client.clone()).list(&ListParams::default()).await;
    let slices = slices.map_err(failed("list EndpointSlices".into()))?;
    let mut all = BTreeSet::new();
    for service in &objects.services {
        let spec = service.spec.as_ref();
        let selector = spec.and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let labels = |pod: &Pod, key: &str| pod.labels().get(key).cloned();
        let selected = |pod: &&Pod| {
            pod.namespace() == service.namespace()
                && selector.iter().all(|(key, value)| labels(pod, key).as_ref() == Some(value))
        };
        let wanted = objects.pods.iter().filter(selected).count();
        let own = slices.iter().filter(|slice| {
            slice.namespace() == service.namespace()
                && slice.labels().get("kubernetes.io/service-name") == Some(&service.name_any())
        });
        let mut found = BTreeSet::new();
        for slice in own {
            let ready = slice.endpoints.iter().filter(|endpoint| {
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
            });
            let addresses: Vec<_> = ready.flat_map(|endpoint| &endpoint.addresses).collect();
            for port in slice.ports.iter().flatten().filter_map(|port| port.port) {
                let port = u16::try_from(port).unwrap_or_default();
                let parsed = addresses.iter().filter_map(|address| address.parse().ok());
                found.extend(parsed.map(|ip| SocketAddrV4::new(ip, port)));
            }
        }
        let ports = spec.and_then(|spec| spec.ports.as_ref()).map_or(0, Vec::len);
        let addresses: BTreeSet<_> = found.iter().map(SocketAddrV4::ip).collect();
        if ports > 0 && addresses.len() < wanted {
            return Ok(None);
        }
        all.extend(found);
    }
    Ok(Some(all))
}
