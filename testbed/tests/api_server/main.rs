//! Against a real API server: one control plane for all tests of this binary, a Kubernetes namespace of
//! its own for each. Needs no root.
//!
//! * `plane`: the control plane itself
//! * `chart`: what the Helm chart renders
//! * `credentials`: who is let in
//! * `names`: names that stand for others
//! * `rights`: who may do what, once the server knows
//! * `source`: the controller's view of the cluster
//! * `checks`: the Check resource and those who run it
//! * `validate`: changes, applied and taken back

mod chart;
mod checks;
mod credentials;
#[path = "../common/helm.rs"]
mod helm;
#[path = "../common/lacking.rs"]
mod lacking;
mod names;
mod plane;
mod rights;
mod source;
mod validate;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ObjectMeta, PostParams};
use lacking::or_left_out;
use tokio::sync::{Mutex, MutexGuard};
use waymark_testbed::kubernetes::{ControlPlane, Options};

/// The control plane that the tests share. Without its programs it says what it skips, and under CI it fails.
pub(crate) fn control_plane(test: &str) -> Option<&'static ControlPlane> {
    or_left_out(test, ControlPlane::shared())
}

/// A control plane of this test's own: for what concerns the whole cluster, as a controller that runs the Checks
/// of all namespaces does.
pub(crate) fn own_control_plane(test: &str) -> Option<ControlPlane> {
    or_left_out(test, ControlPlane::start(&Options::default()))
}

/// For tests that make pods and Services: one at a time. What one of them changes would be seen by another's checks
/// between namespaces. To be held until the end.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// A new Kubernetes namespace, labelled with its name as current versions do by themselves.
pub(crate) async fn namespace(client: &kube::Client) -> String {
    let metadata = ObjectMeta { generate_name: Some("test-".into()), ..ObjectMeta::default() };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = Namespace { metadata, ..Namespace::default() };
    let made = namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace");
    let name = made.metadata.name.expect("the server names it");
    let label = serde_json::json!({ "metadata": { "labels": { "kubernetes.io/metadata.name": name } } });
    let patch = kube::api::Patch::Merge(label);
    namespaces.patch(&name, &kube::api::PatchParams::default(), &patch).await.expect("a label");
    name
}
