//! The custom resources of the API group `waymark.io`, and the manifests that define them.
//!
//! These types are the API: what a cluster stores and people write. They are not the engine's own, so that
//! either can change without the other. Every schema is structural, without CEL, and is accepted by
//! Kubernetes 1.20 and later.
//!
//! * `check`: the question: what a `Check` asks
//! * `status`: the answer: what the controller writes into it
//! * `schema`: what schemas need beside what the derive makes of the types

mod check;
mod schema;
mod status;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use check::{Check, CheckSpec, Destination, Expectation, Family, Protocol, Source};
pub use status::{
    Anomaly, CheckStatus, ConditionType, Culprit, Deviation, Fault, FaultSpan, Intent, RoundTrip, SpanEnd,
    Verdict, Walk, WalkStep,
};

/// The manifests, each with the name of its file: `GROUP_PLURAL.yaml`, as `controller-gen` names them.
pub fn manifests() -> Vec<(String, CustomResourceDefinition)> {
    vec![named(Check::crd())]
}

fn named(crd: CustomResourceDefinition) -> (String, CustomResourceDefinition) {
    let file = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
    (file, schema::tidy(crd))
}

/// A manifest as YAML, with a line that says where it comes from.
///
/// # Panics
/// Never: a definition is plain data with text keys.
pub fn manifest_text(crd: &CustomResourceDefinition) -> String {
    let text = serde_saphyr::to_string(crd).expect("a definition is plain data with text keys");
    format!(
        "# Printed by crdgen from the types of waymark-controller: change those, then `make crds`.\n{text}"
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Where the chart has them.
    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/waymark/crds")
    }

    #[test]
    fn the_committed_manifests_are_those_of_the_types() {
        let mut files = Vec::new();
        for (file, crd) in manifests() {
            let path = folder().join(&file);
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(committed, manifest_text(&crd), "{file} is out of date: run `make crds`");
            files.push(file);
        }
        for entry in std::fs::read_dir(folder()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(files.contains(&name), "{name} is of no type: remove it");
        }
    }

    #[test]
    fn manifests_are_read_back_as_they_were() {
        for (_, crd) in manifests() {
            let read: CustomResourceDefinition = serde_saphyr::from_str(&manifest_text(&crd)).unwrap();
            assert_eq!(read, crd);
        }
    }

    #[test]
    fn schemas_have_formats_that_kubernetes_knows() {
        for (file, crd) in manifests() {
            let text = manifest_text(&crd);
            for line in
                text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("format: "))
            {
                assert!(["int32", "int64", "date-time", "ipv4", "ipv6"].contains(&line), "{file}: {line}");
            }
        }
    }
}
