//! What is in the way of running Checks: told in one sentence, and gone when it is mended.

use std::sync::atomic::Ordering;
use std::time::Instant;

use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::json;
use waymark_controller::Notices;
use waymark_testbed::kubernetes::User;

use super::fakes::Fakes;
use super::ground::{Ground, LIMIT, connect, install, old, truth};
use crate::source::{Wire, changed};
use crate::{control_plane, namespace, own_control_plane};

/// Waits until the only notice has these words; or until there is none, without words.
async fn notice(notices: &Notices, words: &[&str]) {
    let deadline = Instant::now() + LIMIT;
    let is_so = |all: &[String]| match all {
        [] => words.is_empty(),
        [one] => !words.is_empty() && words.iter().all(|word| one.contains(word)),
        _ => false,
    };
    while !is_so(&notices.all()) {
        assert!(Instant::now() < deadline, "{:?} is not {words:?}", notices.all());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_definition_may_be_installed_later() {
    let Some(plane) = own_control_plane("a missing definition") else { return };
    let connection = connect(plane.kubeconfig()).await;
    let namespace = namespace(&connection.client).await;
    let fakes = Fakes::new();
    let (checks, notices) = fakes.start(&connection, &namespace, 8);
    notice(&notices, &["Checks are not run", "checks.waymark.io", "install"]).await;
    install(&connection.client).await;
    let ground = Ground { connection, kubeconfig: plane.kubeconfig().to_owned(), namespace };
    let spec = json!({"source": {"pod": "cart"}, "destination": {"service": "pay", "port": 80}});
    ground.create("first", spec).await.unwrap();
    assert_eq!(truth(&ground.complete("first").await, "Succeeded").0, "True");
    notice(&notices, &[]).await;
    checks.stop().await;
}

#[tokio::test]
async fn a_server_that_was_away_is_asked_again() {
    let Some(ground) = old("a server that was away").await else { return };
    let plane = control_plane("a server that was away").unwrap();
    let mut wire = Wire::new(plane).await;
    let kubeconfig = changed(plane, "server", format!("https://{}", wire.address));
    let fakes = Fakes::new();
    fakes.open(false);
    let (checks, notices) = fakes.start(&connect(kubeconfig.path()).await, &ground.namespace, 8);
    let spec = json!({"source": {"pod": "cart"}, "destination": {"service": "pay", "port": 80}});
    ground.create("during", spec).await.unwrap();
    fakes.queue(1).await;
    wire.cut().await;
    // What is running goes on, and its result is kept.
    fakes.open(true);
    let deadline = Instant::now() + LIMIT;
    let both = ["Checks are not run: no Kubernetes API server", "the results of Checks are not written: no"];
    while !both.iter().all(|words| notices.all().iter().any(|notice| notice.starts_with(words))) {
        assert!(Instant::now() < deadline, "{:?}", notices.all());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    wire.mend().await;
    assert_eq!(truth(&ground.complete("during").await, "Succeeded").0, "True");
    // Nothing changes any more, and still all is well.
    notice(&notices, &[]).await;
    assert_eq!(fakes.injections.load(Ordering::Relaxed), 1);
    checks.stop().await;
}

#[tokio::test]
async fn permissions_that_lack_are_named_one_after_the_other() {
    let Some(ground) = old("missing permissions").await else { return };
    let plane = control_plane("missing permissions").unwrap();
    let user = User::new(format!("controller-of-{}", ground.namespace));
    let theirs = connect(&plane.user(&user).unwrap()).await;
    let fakes = Fakes::new();
    let (checks, notices) = fakes.start(&theirs, &ground.namespace, 8);
    let spec = json!({
        "source": {"pod": "cart"}, "destination": {"service": "pay", "port": 80}, "ttlSecondsAfterFinished": 0,
    });
    let made = ground.create("patient", spec).await.unwrap();
    notice(&notices, &["Checks are not run", "not permitted to list checks.waymark.io", "grant"]).await;
    grant(&ground, &user, "reader", "checks", &["list", "watch"]).await;
    notice(
        &notices,
        &["the results of Checks are not written", "not permitted to patch checks.waymark.io/status"],
    )
    .await;
    assert_eq!(fakes.injections.load(Ordering::Relaxed), 0, "nothing is sent whose result cannot be told");
    grant(&ground, &user, "writer", "checks/status", &["patch"]).await;
    notice(&notices, &["Checks are not deleted", "not permitted to delete checks.waymark.io"]).await;
    assert_eq!(truth(&ground.complete("patient").await, "Succeeded").0, "True");
    grant(&ground, &user, "remover", "checks", &["delete"]).await;
    ground.gone("patient", made.metadata.uid.as_deref().unwrap()).await;
    notice(&notices, &[]).await;
    assert_eq!(fakes.injections.load(Ordering::Relaxed), 1);
    checks.stop().await;
}

async fn grant(ground: &Ground, user: &User, name: &str, resource: &str, verbs: &[&str]) {
    async fn create<K>(client: &Client, namespace: &str, object: serde_json::Value)
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + serde::de::DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(client.clone(), namespace);
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
    let role = json!({
        "metadata": {"name": name},
        "rules": [{"apiGroups": ["waymark.io"], "resources": [resource], "verbs": verbs}],
    });
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user.name()}],
    });
    create::<Role>(&ground.connection.client, &ground.namespace, role).await;
    create::<RoleBinding>(&ground.connection.client, &ground.namespace, binding).await;
}
