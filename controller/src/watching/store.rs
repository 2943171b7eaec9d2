//! The watches in a file, so that a controller that starts again goes on with them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use waymark_proto::API_VERSION;

use super::spec::{WatchError, WatchSpec};

/// Name of the file in its folder.
const FILE: &str = "watches.json";

/// The file.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    watches: Vec<WatchSpec>,
}

impl Store {
    /// Opens the folder, which is made if it is not there, and reads what it holds.
    pub(super) fn open(folder: &Path) -> Result<(Self, Vec<WatchSpec>), WatchError> {
        let path = folder.join(FILE);
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            WatchError::Store(format!("cannot {what} {}: {error}", path.display()))
        };
        std::fs::create_dir_all(folder).map_err(|error| failed("make the folder of", &error))?;
        let specs = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed("read", &error)),
            Ok(bytes) => {
                let document: Document =
                    serde_json::from_slice(&bytes).map_err(|error| failed("understand", &error))?;
                for spec in &document.watches {
                    spec.check().map_err(|error| failed("use", &error))?;
                }
                document.watches
            }
        };
        Ok((Self { folder: folder.to_owned() }, specs))
    }

    /// Writes all watches; whoever reads sees the old ones or the new ones.
    pub(super) fn save(&self, watches: Vec<WatchSpec>) -> Result<(), WatchError> {
        let document = Document { api_version: API_VERSION.to_owned(), watches };
        let json = serde_json::to_vec_pretty(&document).expect("specs are plain data");
        let path = self.folder.join(FILE);
        let written = tempfile::NamedTempFile::new_in(&self.folder).and_then(|mut file| {
            file.write_all(&json)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)
        });
        let failed = |error| WatchError::Store(format!("cannot write {}: {error}", path.display()));
        written.map(drop).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::spec;
    use super::*;

    #[test]
    fn watches_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (store, specs) = Store::open(&folder.path().join("state")).unwrap();
        assert_eq!(specs, []);
        let kept = vec![spec("a", &["nodes"], &["nodes"]), spec("b", &["nodes"], &["10.0.0.1:80"])];
        store.save(kept.clone()).unwrap();
        assert_eq!(Store::open(&store.folder).unwrap().1, kept);
        std::fs::write(store.folder.join(FILE), "{").unwrap();
        let error = Store::open(&store.folder).unwrap_err().to_string();
        assert!(error.contains("cannot understand") && error.contains(FILE), "{error}");
    }
}
