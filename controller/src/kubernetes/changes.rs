//! A cluster that a change is validated against, with the rights of its user.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::core::{ApiResource, GroupVersionKind, Status};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client::Connection;
use super::convert::Objects;
use super::error::{KubernetesError, Verb};
use crate::validate::{Cluster, ClusterError, Item, Key, Mode};

/// How many objects come with one answer of the API server, as kubectl asks for.
const PAGE: u32 = 500;

/// A cluster, and how to change it.
#[derive(Clone, Debug)]
pub struct LiveCluster {
    connection: Connection,
    /// The field manager of what is applied.
    manager: String,
    /// Whether fields are taken from their managers.
    force: bool,
}

impl LiveCluster {
    /// A cluster whose objects are applied as this field manager; `force` takes fields from other managers.
    pub fn new(connection: Connection, manager: &str, force: bool) -> Self {
        Self { connection, manager: manager.to_owned(), force }
    }

    fn api(&self, key: &Key) -> Api<DynamicObject> {
        let (group, version) = key.kind.api_version().split_once('/').unwrap_or(("", key.kind.api_version()));
        let kind = GroupVersionKind::gvk(group, version, key.kind.name());
        let resource = ApiResource::from_gvk_with_plural(&kind, key.kind.plural());
        Api::namespaced_with(self.connection.client.clone(), &key.namespace, &resource)
    }

    async fn all<K>(&self, resource: &str) -> Result<Vec<Arc<K>>, ClusterError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.connection.client.clone());
        let mut objects = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = api.list(&page).await.map_err(|error| self.failure(Verb::List, resource, &error))?;
            objects.extend(list.items.into_iter().map(Arc::new));
            match list.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => page = ListParams::default().limit(PAGE).continue_token(&next),
                None => return Ok(objects),
            }
        }
    }

    /// What an error means that came of trying `verb` on `subject`.
    fn failure(&self, verb: Verb, subject: &str, error: &kube::Error) -> ClusterError {
        let kube::Error::Api(status) = error else {
            let error = KubernetesError::new(verb, subject, &self.connection.address, error).to_string();
            return ClusterError::Unavailable(error);
        };
        match status.code {
            403 if status.message.contains(" cannot ") => ClusterError::Forbidden(format!(
                "not permitted to {verb} {subject}: {}; ask for that verb in a Role, or validate with other credentials",
                one_line(&status.message)
            )),
            404 => ClusterError::NotFound(format!("cannot {verb} {subject}: {}", one_line(&status.message))),
            409 => ClusterError::Conflict(conflict(verb, subject, status)),
            // 1.20 answers so to a field that it does not know.
            500 if status.message.starts_with("failed to create typed patch object") => {
                ClusterError::Refused(not_taken(subject, status))
            }
            401 => {
                let error = KubernetesError::new(verb, subject, &self.connection.address, error);
                ClusterError::Unauthorized(error.to_string())
            }
            429 | 500.. => {
                let error = KubernetesError::new(verb, subject, &self.connection.address, error);
                ClusterError::Unavailable(error.to_string())
            }
            _ => ClusterError::Refused(not_taken(subject, status)),
        }
    }
}

fn not_taken(subject: &str, status: &Status) -> String {
    format!("the API server does not take {subject}: {}", one_line(&status.message))
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A conflict over fields names them and their managers; one over versions says only that there is one.
fn conflict(verb: Verb, subject: &str, status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<String> = causes
        .filter(|cause| cause.reason == "FieldManagerConflict")
        .map(|cause| format!("{} ({})", cause.field, one_line(&cause.message)))
        .collect();
    if fields.is_empty() {
        return format!(
            "cannot {verb} {subject}: somebody else changed it meanwhile ({}); run it again",
            one_line(&status.message)
        );
    }
    format!(
        "cannot {verb} {subject}: others manage some of its fields: {}; --force-conflicts takes them over, --field-manager NAME acts as one of them",
        fields.join(", ")
    )
}

fn dry_run(mode: Mode) -> bool {
    match mode {
        Mode::DryRun => true,
        Mode::Real => false,
    }
}

/// Plain JSON. An object that came from JSON goes back into it.
fn plain(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("an API object is plain data with text keys")
}

/// The object as the client's type.
fn dynamic(key: &Key, manifest: &Value) -> Result<DynamicObject, ClusterError> {
    serde_json::from_value(manifest.clone())
        .map_err(|error| ClusterError::Refused(format!("{key} is no Kubernetes object: {error}")))
}

#[async_trait]
impl Cluster for LiveCluster {
    async fn objects(&self) -> Result<Objects, ClusterError> {
        let (nodes, pods, services, slices, policies, namespaces) = futures::try_join!(
            self.all("nodes"),
            self.all("pods"),
            self.all("services"),
            self.all("endpointslices"),
            self.all("networkpolicies"),
            self.all("namespaces"),
        )?;
        Ok(Objects { nodes, pods, services, slices, policies, namespaces })
    }

    async fn get(&self, key: &Key) -> Result<Option<Value>, ClusterError> {
        let found = self.api(key).get_opt(&key.name).await;
        let found = found.map_err(|error| self.failure(Verb::Get, &key.to_string(), &error))?;
        Ok(found.as_ref().map(plain))
    }

    async fn apply(&self, item: &Item, mode: Mode) -> Result<Value, ClusterError> {
        let parameters = PatchParams {
            dry_run: dry_run(mode),
            force: self.force,
            field_manager: Some(self.manager.clone()),
            field_validation: None,
        };
        let key = &item.key;
        let applied = self.api(key).patch(&key.name, &parameters, &Patch::Apply(&item.manifest)).await;
        let applied = applied.map_err(|error| self.failure(Verb::Patch, &key.to_string(), &error))?;
        Ok(plain(&applied))
    }

    async fn create(&self, key: &Key, manifest: &Value) -> Result<Value, ClusterError> {
        let parameters = PostParams { dry_run: false, field_manager: Some(self.manager.clone()) };
        let created = self.api(key).create(&parameters, &dynamic(key, manifest)?).await;
        let created = created.map_err(|error| self.failure(Verb::Create, &key.to_string(), &error))?;
        Ok(plain(&created))
    }

    async fn replace(&self, key: &Key, manifest: &Value) -> Result<Value, ClusterError> {
        let parameters = PostParams { dry_run: false, field_manager: Some(self.manager.clone()) };
        let replaced = self.api(key).replace(&key.name, &parameters, &dynamic(key, manifest)?).await;
        let replaced = replaced.map_err(|error| self.failure(Verb::Update, &key.to_string(), &error))?;
        Ok(plain(&replaced))
    }

    async fn delete(&self, key: &Key, uid: &str, mode: Mode) -> Result<(), ClusterError> {
        let parameters = DeleteParams {
            dry_run: dry_run(mode),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        let deleted = self.api(key).delete(&key.name, &parameters).await;
        deleted.map(drop).map_err(|error| self.failure(Verb::Delete, &key.to_string(), &error))
    }
}
