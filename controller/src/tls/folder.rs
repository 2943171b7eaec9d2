//! Certificates as files: a folder each for the CA, agents and clients. The latter two are copied as they are
//! to where they are needed, and named there with `--tls`.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use waymark_proto::{CA_FILE, CERTIFICATE_FILE, Credentials, CredentialsError, KEY_FILE, Pem};

use super::Role;
use super::store::{Document, Found, Saved, Store, StoreError};

/// A folder of certificates.
#[derive(Clone, Debug)]
pub struct FolderStore {
    root: PathBuf,
}

impl FolderStore {
    /// A store in a folder, which is made when there is something to keep.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder of one document.
    pub fn folder(&self, document: Document) -> PathBuf {
        self.root.join(match document {
            Document::Authority => "ca",
            Document::Role(Role::Agent) => "agent",
            Document::Role(Role::Client) => "client",
        })
    }

    fn read(&self, document: Document) -> Result<Found, StoreError> {
        let folder = self.folder(document);
        match folder.try_exists() {
            Ok(false) => return Ok(Found::default()),
            Ok(true) => {}
            Err(source) => return Err(StoreError::Io { operation: "look at", path: folder, source }),
        }
        let pem = match Credentials::Folder(folder).read() {
            Ok(pem) => Some(pem),
            Err(error @ CredentialsError::Read { .. }) => return Err(error.into()),
            Err(error) if document == Document::Authority => return Err(error.into()),
            Err(_) => None,
        };
        // Files have no versions; the last writer wins.
        Ok(Found { pem, version: Some(String::new()) })
    }

    fn write(&self, document: Document, pem: &Pem, found: &Found) -> Result<Saved, StoreError> {
        let folder = self.folder(document);
        make_folder(&self.root)?;
        if found.version.is_some() {
            write_files(&folder, pem)?;
            return Ok(Saved::Done);
        }
        // The whole folder appears in one step, or another controller's is there.
        let made = tempfile::Builder::new()
            .prefix(".new-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(&self.root)
            .map_err(|source| StoreError::Io { operation: "write in", path: self.root.clone(), source })?;
        write_files(made.path(), pem)?;
        match std::fs::rename(made.path(), &folder) {
            Ok(()) => {
                // It is elsewhere now: there is nothing to remove.
                drop(made.keep());
                Ok(Saved::Done)
            }
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(Saved::Overtaken),
            Err(source) => Err(StoreError::Io { operation: "make", path: folder, source }),
        }
    }
}

fn make_folder(path: &Path) -> Result<(), StoreError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| StoreError::Io {
        operation: "make",
        path: path.to_owned(),
        source,
    })
}

/// Each file is replaced in one step. Between the first and the last, key and certificate do not belong
/// together; whoever reads then reads again.
fn write_files(folder: &Path, pem: &Pem) -> Result<(), StoreError> {
    let files =
        [(KEY_FILE, &pem.key, 0o600), (CERTIFICATE_FILE, &pem.certificate, 0o644), (CA_FILE, &pem.ca, 0o644)];
    for (name, text, mode) in files {
        let path = folder.join(name);
        let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)
        });
        written.map_err(|source| StoreError::Io { operation: "write", path, source })?;
    }
    Ok(())
}

#[async_trait]
impl Store for FolderStore {
    async fn load(&self, document: Document) -> Result<Found, StoreError> {
        self.read(document)
    }

    async fn save(&self, document: Document, pem: &Pem, found: &Found) -> Result<Saved, StoreError> {
        self.write(document, pem, found)
    }

    fn name(&self, document: Document) -> String {
        self.folder(document).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Authority;
    use super::*;
    use time::OffsetDateTime;

    #[tokio::test]
    async fn keys_are_the_owners_alone_and_the_first_writer_wins() {
        let root = tempfile::tempdir().unwrap();
        let store = FolderStore::new(root.path().join("tls"));
        let document = Document::Authority;
        let nothing = store.load(document).await.unwrap();
        assert!(nothing.pem.is_none());
        let now = OffsetDateTime::now_utc();
        let (first, second) = (Authority::new(None, now).unwrap(), Authority::new(None, now).unwrap());
        assert_eq!(store.save(document, first.pem(), &nothing).await.unwrap(), Saved::Done);
        assert_eq!(store.save(document, second.pem(), &nothing).await.unwrap(), Saved::Overtaken);
        let found = store.load(document).await.unwrap();
        assert_eq!(found.pem.as_ref(), Some(first.pem()));
        assert_eq!(store.save(document, second.pem(), &found).await.unwrap(), Saved::Done);
        assert_eq!(store.load(document).await.unwrap().pem.as_ref(), Some(second.pem()));
        let mode = |name: &str| {
            std::fs::metadata(store.folder(document).join(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("."), mode(KEY_FILE), mode(CERTIFICATE_FILE)), (0o700, 0o600, 0o644));
        let left: Vec<_> = std::fs::read_dir(root.path().join("tls")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[tokio::test]
    async fn a_damaged_ca_is_refused_and_a_damaged_certificate_counts_as_none() {
        let root = tempfile::tempdir().unwrap();
        let store = FolderStore::new(root.path());
        for (document, refused) in [(Document::Authority, true), (Document::Role(Role::Agent), false)] {
            std::fs::create_dir(store.folder(document)).unwrap();
            assert_eq!(store.load(document).await.is_err(), refused, "{document:?}");
        }
    }
}
