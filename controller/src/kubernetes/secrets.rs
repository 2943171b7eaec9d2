//! Certificates as Secrets: the CA, which only the controller may read, and one each for agents and clients.
//!
//! A Secret that exists without data is filled, so that whoever installs Waymark can make them empty and give the
//! controller no right to create any.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use waymark_proto::{CA_FILE, CERTIFICATE_FILE, Credentials, KEY_FILE, Pem};

use super::client::Connection;
use super::error::{KubernetesError, Verb};
use crate::tls::{Document, Found, Role, Saved, Store, StoreError};

/// The Secret with the CA and its key.
const AUTHORITY_SECRET: &str = "waymark-ca";
/// The Secret with the agents' certificate.
const AGENT_SECRET: &str = "waymark-agent-tls";
/// The Secret with the clients' certificate.
const CLIENT_SECRET: &str = "waymark-client-tls";
/// What the API server answers to who is too late.
const CONFLICT: u16 = 409;
/// Who owns the fields, as far as the API server keeps account.
const MANAGER: &str = "waymark-tls";

/// Secrets of one namespace.
#[derive(Clone, Debug)]
pub struct SecretStore {
    connection: Connection,
    namespace: String,
}

impl SecretStore {
    /// A store in a namespace.
    pub fn new(connection: Connection, namespace: impl Into<String>) -> Self {
        Self { connection, namespace: namespace.into() }
    }

    /// What a client needs to dial the controller whose certificates these are.
    ///
    /// # Errors
    /// The Secret cannot be read, or holds no certificate.
    pub async fn credentials(&self, role: Role) -> Result<Credentials, StoreError> {
        let document = Document::Role(role);
        let origin = format!("Secret {}", self.name(document));
        match self.load(document).await?.pem {
            Some(pem) => Ok(Credentials::Held { origin, pem: pem.into() }),
            None => {
                Err(self.error("use", document, "it holds no certificate yet: see that the controller runs"))
            }
        }
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.connection.client.clone(), &self.namespace)
    }

    fn error(&self, operation: &'static str, document: Document, why: &str) -> StoreError {
        StoreError::Secret { operation, secret: self.name(document), why: why.to_owned() }
    }

    fn kubernetes(&self, verb: Verb, document: Document, error: &kube::Error) -> StoreError {
        let operation = match verb {
            Verb::Get => "read",
            Verb::Create => "make",
            _ => "write",
        };
        let resource = format!("secrets/{} in namespace {}", secret(document), self.namespace);
        let source = KubernetesError::new(verb, &resource, &self.connection.address, error);
        StoreError::Kubernetes { operation, secret: self.name(document), source }
    }
}

fn secret(document: Document) -> &'static str {
    match document {
        Document::Authority => AUTHORITY_SECRET,
        Document::Role(Role::Agent) => AGENT_SECRET,
        Document::Role(Role::Client) => CLIENT_SECRET,
    }
}

/// A Secret's data as credentials; nothing if it has none, or lacks a part.
fn pem(data: Option<&BTreeMap<String, ByteString>>) -> Option<Pem> {
    let text = |key| {
        let bytes = &data?.get(key)?.0;
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    };
    Some(Pem { ca: text(CA_FILE)?, certificate: text(CERTIFICATE_FILE)?, key: text(KEY_FILE)? })
}

#[async_trait]
impl Store for SecretStore {
    async fn load(&self, document: Document) -> Result<Found, StoreError> {
        let answer = self.api().get_opt(secret(document)).await;
        let held = answer.map_err(|error| self.kubernetes(Verb::Get, document, &error))?;
        let Some(held) = held else { return Ok(Found::default()) };
        let empty = held.data.as_ref().is_none_or(BTreeMap::is_empty);
        let pem = pem(held.data.as_ref()).filter(|pem| pem.check("it").is_ok());
        if pem.is_none() && !empty && document == Document::Authority {
            let why = format!(
                "it has no {CA_FILE}, {CERTIFICATE_FILE} and {KEY_FILE} that belong together; empty it to have a new CA made, of which all need new certificates"
            );
            return Err(self.error("use", document, &why));
        }
        Ok(Found { pem, version: Some(held.metadata.resource_version.unwrap_or_default()) })
    }

    async fn save(&self, document: Document, pem: &Pem, found: &Found) -> Result<Saved, StoreError> {
        let parts = [(CA_FILE, &pem.ca), (CERTIFICATE_FILE, &pem.certificate), (KEY_FILE, &pem.key)];
        let data = parts.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).into();
        // With the version that was read, the API server refuses what somebody else has changed since.
        let metadata = ObjectMeta { resource_version: found.version.clone(), ..ObjectMeta::default() };
        let mut object = Secret { data: Some(data), metadata, ..Secret::default() };
        let (verb, answer) = if found.version.is_some() {
            let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
            let patch = self.api().patch(secret(document), &parameters, &Patch::Merge(&object)).await;
            (Verb::Patch, patch)
        } else {
            object.metadata.name = Some(secret(document).to_owned());
            let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
            (Verb::Create, self.api().create(&parameters, &object).await)
        };
        match answer {
            Ok(_) => Ok(Saved::Done),
            Err(kube::Error::Api(status)) if status.code == CONFLICT => Ok(Saved::Overtaken),
            Err(error) => Err(self.kubernetes(verb, document, &error)),
        }
    }

    fn name(&self, document: Document) -> String {
        format!("{}/{}", self.namespace, secret(document))
    }
}
