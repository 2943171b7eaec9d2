//! Where the cluster's nodes, pods and Services come from.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use waymark_proto::{Inventory, InventoryError, Text};

/// A source of inventories, asked anew for each check.
#[async_trait]
pub trait Source: Send + Sync {
    /// The cluster as it is now. Whoever asks twice gets the same allocation if nothing changed between.
    async fn inventory(&self) -> Result<Arc<Inventory>, SourceError>;

    /// Why the inventory may be out of date, in one sentence; `None` if it is not.
    fn doubt(&self) -> Option<Text> {
        None
    }
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
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    /// What was read last.
    last: Mutex<Option<Arc<Inventory>>>,
}

impl FileSource {
    /// A source that reads this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), last: Mutex::default() }
    }
}

#[async_trait]
impl Source for FileSource {
    async fn inventory(&self) -> Result<Arc<Inventory>, SourceError> {
        let bytes = tokio::fs::read(&self.path)
            .await
            .map_err(|source| SourceError::Read { path: self.path.clone(), source })?;
        let inventory = Inventory::from_json(&bytes)
            .map_err(|source| SourceError::Content { path: self.path.clone(), source })?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(same) if **same == inventory => Ok(Arc::clone(same)),
            _ => Ok(Arc::clone(last.insert(Arc::new(inventory)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_anew_and_what_did_not_change_is_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |name: &str| {
            let json = format!(r#"{{"nodes":[{{"name":"{name}","ip":"10.0.0.1"}}]}}"#);
            std::fs::write(file.path(), json).unwrap();
        };
        let source = FileSource::new(file.path());
        write("a");
        let first = source.inventory().await.unwrap();
        assert!(Arc::ptr_eq(&first, &source.inventory().await.unwrap()));
        write("b");
        assert_eq!(source.inventory().await.unwrap().nodes[0].name.as_str(), "b");
        assert_eq!(source.doubt(), None);
    }
}
