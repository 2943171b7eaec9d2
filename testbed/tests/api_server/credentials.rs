//! Who is let in, and who is not: by real certificates and tokens.

use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use waymark_testbed::kubernetes::{Credential, User};

use crate::{control_plane, namespace};

async fn list(kubeconfig: &Path, namespace: &str) -> Result<usize, String> {
    let document = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(document, &KubeConfigOptions::default()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(kube::Client::try_from(config).unwrap(), namespace);
    pods.list(&ListParams::default()).await.map(|list| list.items.len()).map_err(|error| format!("{error:?}"))
}

#[tokio::test]
async fn only_those_who_prove_who_they_are_and_may() {
    let Some(plane) = control_plane("credentials") else { return };
    let client = plane.client().await.unwrap();
    let namespace = namespace(&client).await;
    let refused = async |user: User| list(&plane.user(&user).unwrap(), &namespace).await.unwrap_err();
    assert_eq!(list(&plane.user(&User::admin()).unwrap(), &namespace).await, Ok(0));
    let nobody = refused(User::new("nobody")).await;
    assert!(nobody.contains("403") && nobody.contains("\\\"nobody\\\" cannot list"), "{nobody}");
    for wrong in [Credential::ExpiredCertificate, Credential::Token("no such token".into())] {
        let error = refused(User::admin().with(wrong)).await;
        assert!(error.contains("401"), "{error}");
    }
    let foreign = refused(User::admin().with(Credential::ForeignCertificate)).await;
    assert!(foreign.contains("401"), "{foreign}");
}

#[tokio::test]
async fn a_service_account_by_token_and_by_certificate() {
    let Some(plane) = control_plane("service accounts") else { return };
    let client = plane.client().await.unwrap();
    let namespace = namespace(&client).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client, &namespace);
    let account = serde_json::from_value(serde_json::json!({ "metadata": { "name": "robot" } })).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let request = serde_json::from_value(serde_json::json!({ "spec": { "audiences": [] } })).unwrap();
    let token = accounts.create_token_request("robot", &PostParams::default(), &request).await.unwrap();
    let by_token = User::new("robot").with(Credential::Token(token.status.unwrap().token));
    for user in [by_token, User::service_account(&namespace, "robot")] {
        let error = list(&plane.user(&user).unwrap(), &namespace).await.unwrap_err();
        let who = format!("system:serviceaccount:{namespace}:robot");
        assert!(error.contains("403") && error.contains(&who), "{error}");
    }
}
