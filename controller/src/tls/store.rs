//! Where certificates are kept, so that they outlive the controller and reach those who need them.

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use waymark_proto::{CredentialsError, Pem};

use super::Role;
use crate::kubernetes::KubernetesError;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// The CA with its key: for the controller's eyes only.
    Authority,
    /// The certificate of all who have a role.
    Role(Role),
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The certificate, its key, the CAs; nothing if there is none, or none that can be used.
    pub pem: Option<Pem>,
    /// What was read, in the store's own terms; nothing if there is not even a place for it.
    pub version: Option<String>,
}

/// What became of saving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is saved.
    Done,
    /// Another controller was quicker: read again.
    Overtaken,
}

/// Why a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What a folder holds cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The API server, about a Secret.
    #[error("cannot {operation} Secret {secret}: {source}")]
    Kubernetes {
        /// What was tried.
        operation: &'static str,
        /// NAMESPACE/NAME.
        secret: String,
        /// Why not, and what to do.
        source: KubernetesError,
    },
    /// What a Secret holds.
    #[error("cannot {operation} Secret {secret}: {why}")]
    Secret {
        /// What was tried.
        operation: &'static str,
        /// NAMESPACE/NAME.
        secret: String,
        /// Why not, and what to do.
        why: String,
    },
}

/// Keeps certificates.
#[async_trait]
pub trait Store: Send + Sync {
    /// What is kept. A certificate that is damaged counts as none, since it can be made anew. A CA that is damaged
    /// is an error: all that it issued would be lost with it.
    async fn load(&self, document: Document) -> Result<Found, StoreError>;

    /// Keeps something instead of what was `found`; of two controllers that do so at once, one is told that it was
    /// overtaken.
    async fn save(&self, document: Document, pem: &Pem, found: &Found) -> Result<Saved, StoreError>;

    /// The words that errors call a document by.
    fn name(&self, document: Document) -> String;
}
