//! The control plane does what one does: it serves what current clients ask for, and its controllers act.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

use crate::lacking::or_left_out;
use crate::{control_plane, namespace, turn};

#[tokio::test]
async fn endpoint_slices_of_version_1_are_served() {
    let Some(plane) = control_plane("EndpointSlices") else { return };
    let _turn = turn().await;
    let client = plane.client().await.unwrap();
    let namespace = namespace(&client).await;
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let service = json!({
        "metadata": { "name": "pay" },
        "spec": { "ports": [{ "port": 80, "protocol": "TCP" }] },
    });
    let made =
        services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    assert!(made.spec.unwrap().cluster_ip.unwrap().starts_with("10.96."));
    let slices: Api<EndpointSlice> = Api::namespaced(client, &namespace);
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": { "name": "pay-1", "labels": { "kubernetes.io/service-name": "pay" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": ["10.244.1.10"], "conditions": { "ready": true }, "nodeName": "node1" }],
        "ports": [{ "port": 8080, "protocol": "TCP" }],
    }))
    .unwrap();
    slices.create(&PostParams::default(), &slice).await.unwrap();
    let read = slices.get("pay-1").await.unwrap();
    assert_eq!(read.endpoints, slice.endpoints);
}

#[tokio::test]
async fn controllers_write_the_endpoints_of_a_ready_pod() {
    let Some(plane) = control_plane("controllers") else { return };
    let _turn = turn().await;
    let client = plane.client().await.unwrap();
    let namespace = namespace(&client).await;
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let service = json!({
        "metadata": { "name": "pay" },
        "spec": { "selector": { "app": "pay" }, "ports": [{ "port": 80, "targetPort": "http", "protocol": "TCP" }] },
    });
    services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    // The controller asks for the node of each pod. It is the cluster's, so its name is this test's.
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({ "metadata": { "name": format!("node-of-{namespace}") } });
    let node = nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let node = node.metadata.name.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pod = json!({
        "metadata": { "name": "pay-1", "labels": { "app": "pay" } },
        "spec": { "nodeName": node, "containers": [{
            "name": "pay", "image": "none", "ports": [{ "name": "http", "containerPort": 8080 }],
        }] },
    });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let status = json!({ "status": {
        "phase": "Running", "podIP": "10.244.1.10", "podIPs": [{ "ip": "10.244.1.10" }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    }});
    pods.patch_status("pay-1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let slices: Api<EndpointSlice> = Api::namespaced(client, &namespace);
    let slice = first(&slices).await;
    let endpoint = &slice.endpoints[0];
    assert_eq!(
        (endpoint.addresses[0].as_str(), endpoint.node_name.as_deref()),
        ("10.244.1.10", Some(node.as_str()))
    );
    assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
}

/// Waits for a slice that has an endpoint.
async fn first(slices: &Api<EndpointSlice>) -> EndpointSlice {
    let whole = |slice: &EndpointSlice| !slice.endpoints.is_empty();
    let list = slices.list(&ListParams::default()).await.unwrap();
    if let Some(slice) = list.items.into_iter().find(whole) {
        return slice;
    }
    let version = list.metadata.resource_version.unwrap();
    let limit = WatchParams::default().timeout(120);
    let mut events = slices.watch(&limit, &version).await.unwrap().boxed();
    while let Some(event) = events.next().await {
        if let WatchEvent::Added(slice) | WatchEvent::Modified(slice) = event.unwrap()
            && whole(&slice)
        {
            return slice;
        }
    }
    panic!("no EndpointSlice within 120 s");
}

#[tokio::test]
async fn a_current_server_for_custom_resources_asks_this_one() {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
    let Some(plane) = control_plane("the CRD server") else { return };
    let Some(server) = or_left_out("the CRD server", plane.crd_server()) else { return };
    let client = server.client().await.unwrap();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = json!({
        "metadata": { "name": "widgets.test.waymark.io" },
        "spec": {
            "group": "test.waymark.io", "scope": "Cluster",
            "names": { "kind": "Widget", "plural": "widgets" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": {
                "type": "object",
                "properties": { "size": { "type": "integer", "x-kubernetes-validations": [{ "rule": "self < 10" }] } },
            }}}],
        },
    });
    let definition = serde_json::from_value(definition).unwrap();
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    let established = kube::runtime::conditions::is_crd_established();
    kube::runtime::wait::await_condition(definitions, "widgets.test.waymark.io", established).await.unwrap();
    let kind = GroupVersionKind::gvk("test.waymark.io", "v1", "Widget");
    let widgets: Api<DynamicObject> = Api::all_with(client, &ApiResource::from_gvk(&kind));
    let widget = |name, size: u32| -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "test.waymark.io/v1", "kind": "Widget", "metadata": { "name": name }, "size": size,
        }))
        .unwrap()
    };
    widgets.create(&PostParams::default(), &widget("small", 3)).await.unwrap();
    let error = widgets.create(&PostParams::default(), &widget("large", 30)).await.unwrap_err().to_string();
    assert!(error.contains("failed rule: self < 10"), "{error}");
}
