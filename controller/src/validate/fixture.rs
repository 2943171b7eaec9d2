//! Objects for tests: a namespace `shop` on one node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::kubernetes::Objects;

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the fixture is an object of this kind")
}

/// The node, the namespace and these pods.
pub(crate) fn objects(pods: Vec<Pod>) -> Objects {
    let node = json!({
        "metadata": {"name": "node1"}, "spec": {"podCIDR": "10.0.1.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.11"}]},
    });
    Objects {
        nodes: vec![Arc::new(read(node))],
        pods: pods.into_iter().map(Arc::new).collect(),
        namespaces: vec![Arc::new(read(json!({"metadata": {"name": "shop", "labels": {"name": "shop"}}})))],
        ..Default::default()
    }
}

/// A pod with a port `http` at 8080.
pub(crate) fn pod(name: &str, ip: &str, app: &str) -> Pod {
    read(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
        "spec": {
            "nodeName": "node1",
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }))
}

/// A Service with port 80.
pub(crate) fn service(name: &str, app: &str, target: &str) -> Service {
    read(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": target}]},
    }))
}
