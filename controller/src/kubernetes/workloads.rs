//! Names of workloads that stand for one of their pods.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::core::Selector;

use super::client::Connection;
use super::error::{KubernetesError, Verb};

/// The kinds, as roles name them.
const DEPLOYMENTS: &str = "deployments.apps";
const PODS: &str = "pods";

/// The name of a pod of a Deployment: of those that run the first, ready ones before others.
///
/// # Errors
/// If the Deployment or its pods cannot be read, or none of them runs.
pub async fn pod_of_deployment(
    connection: &Connection,
    namespace: &str,
    name: &str,
) -> Result<String, KubernetesError> {
    let Connection { client, address, .. } = connection;
    let other = |why: String| KubernetesError::Other {
        verb: Verb::Get,
        resource: format!("deployment {namespace}/{name}"),
        address: address.clone(),
        why,
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let deployment = deployments
        .get(name)
        .await
        .map_err(|error| KubernetesError::new(Verb::Get, DEPLOYMENTS, address, &error))?;
    let labels = deployment.spec.unwrap_or_default().selector;
    let selector = Selector::try_from(labels).map_err(|error| other(error.to_string()))?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods
        .list(&ListParams::default().labels_from(&selector))
        .await
        .map_err(|error| KubernetesError::new(Verb::List, PODS, address, &error))?;
    first(pods.items.into_iter()).ok_or_else(|| other("none of its pods runs".to_owned()))
}

/// The first of the pods that run and are not about to end, ready ones before others.
fn first(pods: impl Iterator<Item = Pod>) -> Option<String> {
    let running = pods.filter(|pod| {
        let status = pod.status.as_ref();
        let runs = status.and_then(|status| status.phase.as_deref()) == Some("Running");
        runs && status.is_some_and(|status| status.pod_ip.is_some())
            && pod.metadata.deletion_timestamp.is_none()
    });
    let rank = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
        (!ready, pod.metadata.name.clone())
    };
    running.min_by_key(rank)?.metadata.name
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, phase: &str, ready: &str) -> Pod {
        let ip = if phase == "Running" { Some("10.1.1.1") } else { None };
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "status": {"phase": phase, "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_ready_pod_is_better_than_one_that_only_runs() {
        let pods = || {
            vec![
                pod("a", "Pending", "False"),
                pod("b", "Running", "False"),
                pod("d", "Running", "True"),
                pod("c", "Running", "True"),
            ]
        };
        assert_eq!(first(pods().into_iter()).unwrap(), "c");
        assert_eq!(first(pods().into_iter().take(2)).unwrap(), "b");
        assert_eq!(first(pods().into_iter().take(1)), None);
    }
}
