//! Where the cluster's nodes, pods and Services come from.

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use waymark_proto::{Inventory, InventoryError};

/// A source of inventories, asked anew for each check.
#[async_trait]
pub trait Source: Send + Sync {
    /// The cluster as it is now.
    async fn inventory(&self) -> Result<Inventory, SourceError>;
}

/// Why there is no inventory.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("cannot read the inventory {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The file is wrong.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: InventoryError,
    },
}

/// An inventory file.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: PathBuf,
}

impl FileSource {
    /// A source that reads this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait]
impl Source for FileSource {
    async fn inventory(&self) -> Result<Inventory, SourceError> {
        let bytes = tokio::fs::read(&self.path)
            .await
            .map_err(|source| SourceError::Read { path: self.path.clone(), source })?;
        Inventory::from_json(&bytes)
            .map_err(|source| SourceError::Content { path: self.path.clone(), source })
    }
}
