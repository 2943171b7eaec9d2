//! Who may do what. The server's authorizer learns of roles and bindings by watches of its own, so what was granted
//! just now may be refused for a moment.

use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{Api, PostParams};
use serde_json::Value;

/// How long that may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether the server permits what the spec of a review asks about.
pub(crate) async fn allowed(client: &kube::Client, spec: &Value) -> bool {
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let review = serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap();
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
    answer.status.expect("the server decides").allowed
}

/// Waits until the server permits it.
pub(crate) async fn granted(client: &kube::Client, spec: &Value) {
    let end = Instant::now() + PATIENCE;
    while !allowed(client, spec).await {
        assert!(Instant::now() < end, "it is not granted: {spec}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
