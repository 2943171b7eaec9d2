//! kubeconfig files: where a server is, and who asks.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::authority::{Authority, Identity, Subject, Validity};
use super::error::{KubernetesError, Result};

/// Members may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// How a user proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// By a certificate of the cluster's authority.
    Certificate,
    /// By one that ended years ago.
    ExpiredCertificate,
    /// By one of an authority that the cluster doesn't know.
    ForeignCertificate,
    /// By a bearer token: whatever is given.
    Token(String),
}

/// Somebody who asks an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    group: Option<String>,
    credential: Credential,
}

impl User {
    /// A user of that name without rights of its own.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), group: None, credential: Credential::Certificate }
    }

    /// May do everything.
    pub fn admin() -> Self {
        Self::new("admin").in_group(MASTERS)
    }

    /// A service account, as RBAC's bindings name it.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::new(format!("system:serviceaccount:{namespace}:{name}"))
            .in_group(format!("system:serviceaccounts:{namespace}"))
    }

    /// The same as a member of a group.
    #[must_use]
    pub fn in_group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The same with another proof.
    #[must_use]
    pub fn with(mut self, credential: Credential) -> Self {
        self.credential = credential;
        self
    }

    /// The name, as RBAC's bindings have it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a kubeconfig says of it.
    fn entry(&self, authority: &Authority) -> Result<Value> {
        let subject = Subject { name: &self.name, group: self.group.as_deref(), hosts: &[] };
        let identity = match &self.credential {
            Credential::Certificate => authority.issue(&subject, Validity::Good)?,
            Credential::ExpiredCertificate => authority.issue(&subject, Validity::Expired)?,
            Credential::ForeignCertificate => {
                Authority::new("somebody-else")?.issue(&subject, Validity::Good)?
            }
            Credential::Token(token) => return Ok(json!({ "token": token })),
        };
        let Identity { certificate, key } = identity;
        Ok(json!({ "client-certificate-data": base64(&certificate), "client-key-data": base64(&key) }))
    }
}

/// The document for one user of one server. JSON, which is YAML.
pub(crate) fn document(server: &str, authority: &Authority, user: &User) -> Result<Value> {
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "waymark-testbed",
            "cluster": { "server": server, "certificate-authority-data": base64(authority.certificate()) },
        }],
        "users": [{ "name": user.name, "user": user.entry(authority)? }],
        "contexts": [{
            "name": "waymark-testbed",
            "context": { "cluster": "waymark-testbed", "user": user.name },
        }],
        "current-context": "waymark-testbed",
    }))
}

/// Writes a document that holds a key: for its owner only.
pub(crate) fn write(path: &Path, document: &Value) -> Result<()> {
    write_secret(path, &serde_json::to_vec_pretty(document).expect("strings are always JSON"))
}

/// Writes a file for its owner only; a reader sees nothing or everything.
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<()> {
    let draft = path.with_extension("draft");
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        fs::rename(&draft, path)
    };
    write().map_err(KubernetesError::file("write", path))
}

fn base64(text: &str) -> Value {
    serde_json::to_value(ByteString(text.as_bytes().to_vec())).expect("bytes are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reads_what_is_written() {
        let authority = Authority::new("test").unwrap();
        let folder = tempfile::tempdir().unwrap();
        for credential in [
            Credential::Certificate,
            Credential::ExpiredCertificate,
            Credential::ForeignCertificate,
            Credential::Token("t".into()),
        ] {
            let path = folder.path().join("config");
            let user = User::service_account("a", "b").with(credential.clone());
            write(&path, &document("https://127.0.0.1:1", &authority, &user).unwrap()).unwrap();
            let config = kube::config::Kubeconfig::read_from(&path).unwrap();
            let info = config.auth_infos[0].auth_info.clone().unwrap();
            assert_eq!(config.auth_infos[0].name, "system:serviceaccount:a:b");
            assert_eq!(info.token.is_some(), matches!(credential, Credential::Token(_)));
            assert_eq!(info.client_key_data.is_some(), info.token.is_none());
        }
    }
}
