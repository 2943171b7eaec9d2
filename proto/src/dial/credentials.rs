//! What one side of a TLS connection shows and trusts, as PEM text.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The file of the CA certificates that are trusted; also the key in a Secret, as Kubernetes names it.
pub const CA_FILE: &str = "ca.crt";
/// The file of the certificate.
pub const CERTIFICATE_FILE: &str = "tls.crt";
/// The file of the certificate's private key.
pub const KEY_FILE: &str = "tls.key";

/// Mode bits by which everybody could read a private key.
const OTHERS: u32 = 0o007;

/// A certificate with its key, and the CAs of the other side.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// The CA certificates that are trusted: several while a CA is replaced.
    pub ca: String,
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: String,
}

/// Never shows the key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem")
            .field("ca", &self.ca)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file is missing.
    #[error(
        "there is no {}: --tls wants a folder with {CA_FILE}, {CERTIFICATE_FILE} and {KEY_FILE}, as the controller makes it",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Everybody may read the key.
    #[error("{} may be used by everybody on this machine: `chmod o= {}` first", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// No certificate or key in it.
    #[error("{part} of {subject} holds no {what} in PEM form")]
    Malformed {
        /// Which file.
        part: &'static str,
        /// Of which folder or Secret.
        subject: String,
        /// What it should hold.
        what: &'static str,
    },
    /// Key and certificate do not belong together.
    #[error("{KEY_FILE} of {subject} is not the key of {CERTIFICATE_FILE}: take both from one place")]
    Mismatch {
        /// Which folder or Secret.
        subject: String,
    },
}

/// Where a side has its certificate from.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A folder, read at every dial.
    Folder(PathBuf),
    /// As they are, from somewhere else.
    Held {
        /// From where, in the words of errors: `Secret waymark/waymark-client-tls`.
        origin: String,
        /// The credentials.
        pem: Arc<Pem>,
    },
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Held { origin, .. } => origin.fmt(f),
        }
    }
}

impl Credentials {
    /// Reads them, and checks that they are what they should be.
    pub fn read(&self) -> Result<Pem, CredentialsError> {
        match self.read_once() {
            // The files may have been renewed between two reads; then they belong together by now.
            Err(CredentialsError::Mismatch { .. }) => self.read_once(),
            outcome => outcome,
        }
    }

    fn read_once(&self) -> Result<Pem, CredentialsError> {
        let pem = match self {
            Self::Folder(folder) => {
                let key = folder.join(KEY_FILE);
                let pem = Pem {
                    ca: read(folder.join(CA_FILE))?,
                    certificate: read(folder.join(CERTIFICATE_FILE))?,
                    key: read(key.clone())?,
                };
                private(&key)?;
                pem
            }
            Self::Held { pem, .. } => Pem::clone(pem),
        };
        pem.check(&self.to_string())?;
        Ok(pem)
    }
}

impl Pem {
    /// Checks that there are certificates and that the key belongs to its one. Errors call it `subject`.
    pub fn check(&self, subject: &str) -> Result<(), CredentialsError> {
        let malformed = |part, what| CredentialsError::Malformed { part, subject: subject.to_owned(), what };
        certificates(&self.ca).ok_or_else(|| malformed(CA_FILE, "certificate"))?;
        let certificate =
            certificates(&self.certificate).ok_or_else(|| malformed(CERTIFICATE_FILE, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|_| malformed(KEY_FILE, "private key"))?;
        let provider = rustls::crypto::ring::default_provider();
        match rustls::sign::CertifiedKey::from_der(certificate, key, &provider) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(CredentialsError::Mismatch { subject: subject.to_owned() })
            }
            Err(_) => Err(malformed(KEY_FILE, "private key that can be used")),
        }
    }
}

/// The certificates of a PEM text, if it has any and all are well-formed.
fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    certificates.ok().filter(|certificates| !certificates.is_empty())
}

fn read(path: PathBuf) -> Result<String, CredentialsError> {
    std::fs::read_to_string(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => CredentialsError::Missing { path },
        _ => CredentialsError::Read { path, source },
    })
}

/// Refuses a key that is open to everybody. A group may read it: that is how Kubernetes gives a Secret to a
/// process that is not root.
fn private(key: &Path) -> Result<(), CredentialsError> {
    let metadata =
        std::fs::metadata(key).map_err(|source| CredentialsError::Read { path: key.to_owned(), source })?;
    if metadata.mode() & OTHERS == 0 {
        Ok(())
    } else {
        Err(CredentialsError::Exposed { path: key.to_owned() })
    }
}
