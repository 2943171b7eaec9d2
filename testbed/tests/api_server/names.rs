//! Names that stand for others.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use waymark_controller::kubernetes::{Access, pod_of_deployment};

use crate::{control_plane, namespace, turn};

#[tokio::test]
async fn a_deployment_stands_for_one_of_its_pods() {
    let Some(plane) = control_plane("Deployments") else { return };
    let _turn = turn().await;
    let access = Access { kubeconfig: Some(plane.kubeconfig().to_owned()), context: None };
    let connection = access.connect().await.unwrap();
    let client = connection.client.clone();
    let namespace = namespace(&client).await;
    let says = async |name: &str| {
        pod_of_deployment(&connection, &namespace, name).await.map_err(|error| error.to_string())
    };
    let missing = says("cart").await.unwrap_err();
    assert!(missing.contains("deployments.apps \"cart\" not found"), "{missing}");

    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let deployment = json!({
        "metadata": {"name": "cart"},
        "spec": {
            // Its controller makes no pods, so those of the test are all there are.
            "replicas": 0,
            "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["cart"]}]},
            "template": {
                "metadata": {"labels": {"app": "cart"}},
                "spec": {"containers": [{"name": "cart", "image": "none"}]},
            },
        },
    });
    let deployment = serde_json::from_value(deployment).unwrap();
    deployments.create(&PostParams::default(), &deployment).await.unwrap();
    let none = says("cart").await.unwrap_err();
    assert!(
        none.contains(&format!("deployment {namespace}/cart")) && none.contains("none of its pods runs"),
        "{none}"
    );

    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    for (name, app, ip) in [("a", "pay", "10.1.1.1"), ("b", "cart", "10.1.1.2")] {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"containers": [{"name": "it", "image": "none"}]},
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let status = json!({"status": {"phase": "Running", "podIP": ip}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
    assert_eq!(says("cart").await.unwrap(), "b");
}
