//! A server with the definition of Checks, and a namespace of a test's own.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::runtime::{conditions, wait::await_condition};
use serde_json::{Value, json};
use waymark_controller::kubernetes::crd::{Check, manifests};
use waymark_controller::kubernetes::{Access, Connection};
use waymark_testbed::kubernetes::{CrdServer, KubernetesError};

use crate::lacking::or_left_out;
use crate::{control_plane, namespace};

/// How long anything may take on a machine that also does other things.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Where a test takes place.
pub(crate) struct Ground {
    pub(crate) connection: Connection,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) namespace: String,
}

/// Kubernetes 1.20, which has all else as well.
pub(crate) async fn old(test: &str) -> Option<Ground> {
    let plane = control_plane(test)?;
    let connection = connect(plane.kubeconfig()).await;
    install(&connection.client).await;
    let namespace = namespace(&connection.client).await;
    Some(Ground { connection, kubeconfig: plane.kubeconfig().to_owned(), namespace })
}

/// A server of a current version, for custom resources alone.
pub(crate) async fn current(test: &str) -> Option<Ground> {
    static SERVER: OnceLock<Result<CrdServer, KubernetesError>> = OnceLock::new();
    let plane = control_plane(test)?;
    let server = or_left_out(test, SERVER.get_or_init(|| plane.crd_server()).as_ref())?;
    let connection = connect(server.kubeconfig()).await;
    install(&connection.client).await;
    // It knows no namespaces, so any name will do.
    let (kubeconfig, namespace) = (server.kubeconfig().to_owned(), test.replace(' ', "-"));
    Some(Ground { connection, kubeconfig, namespace })
}

/// The way to a server, of this test's own: clients do not outlive the runtime that made them.
pub(crate) async fn connect(kubeconfig: &Path) -> Connection {
    let access = Access { kubeconfig: Some(kubeconfig.to_owned()), context: None };
    access.connect().await.unwrap()
}

/// Installs the definition of Checks and waits until it is served.
pub(crate) async fn install(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (_, definition) in manifests() {
        let name = definition.metadata.name.clone().unwrap();
        let params = PatchParams::apply("waymark-tests").force();
        definitions.patch(&name, &params, &Patch::Apply(&definition)).await.unwrap();
        let established = await_condition(definitions.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(LIMIT, established).await.expect("in time").unwrap();
    }
}

impl Ground {
    pub(crate) fn checks(&self) -> Api<Check> {
        Api::namespaced(self.connection.client.clone(), &self.namespace)
    }

    /// Creates a Check from a spec as people write it.
    pub(crate) async fn create(&self, name: &str, spec: Value) -> Result<Check, String> {
        let kind = kube::core::ApiResource::erase::<Check>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.connection.client.clone(), &self.namespace, &kind);
        let object = json!({
            "apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, "spec": spec,
        });
        let object = serde_json::from_value(object).unwrap();
        let made = api.create(&PostParams::default(), &object).await.map_err(|error| match error {
            kube::Error::Api(status) => status.message,
            other => panic!("{other}"),
        })?;
        Ok(made.try_parse().unwrap())
    }

    /// Waits until a Check is as it should be.
    pub(crate) async fn wait(&self, name: &str, is: impl Fn(&Check) -> bool) -> Check {
        let condition = |check: Option<&Check>| check.is_some_and(&is);
        let found = tokio::time::timeout(LIMIT, await_condition(self.checks(), name, condition)).await;
        let Ok(check) = found else {
            panic!("{name} is not so in time: {:#?}", self.checks().get(name).await);
        };
        check.unwrap().unwrap()
    }

    /// Waits until a Check has come to an end, for its present generation.
    pub(crate) async fn complete(&self, name: &str) -> Check {
        self.wait(name, |check| truth(check, "Complete") == ("True", check.metadata.generation)).await
    }

    /// Waits until a Check is no more.
    pub(crate) async fn gone(&self, name: &str, uid: &str) {
        let deleted = await_condition(self.checks(), name, conditions::is_deleted(uid));
        tokio::time::timeout(LIMIT, deleted).await.expect("in time").unwrap();
    }
}

/// A condition: its status, and the generation that it is about.
pub(crate) fn truth<'a>(check: &'a Check, name: &str) -> (&'a str, Option<i64>) {
    let conditions = check.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let condition = conditions.iter().find(|condition| condition.type_ == name);
    condition.map_or(("absent", None), |condition| (&condition.status, condition.observed_generation))
}

/// The reason of its conditions.
pub(crate) fn reason(check: &Check) -> &str {
    check.status.as_ref().map_or("absent", |status| &status.conditions[0].reason)
}
