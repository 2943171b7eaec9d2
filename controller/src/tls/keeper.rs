//! Makes what a store lacks, renews what is about to expire, and has the server's own certificate ready.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use time::OffsetDateTime;
use tokio::sync::watch;
use waymark_proto::{Endpoint, Pem};

use super::authority::{Authority, AuthorityError, RENEWAL, Role};
use super::card::Card;
use super::store::{Document, Saved, Store, StoreError};

/// How often the store is looked at: certificates end after months, but somebody may delete one.
const ROUND: Duration = Duration::from_secs(600);
/// How often another controller may be quicker before it is no coincidence.
const ATTEMPTS: usize = 8;
/// The protocol that gRPC speaks within TLS.
const HTTP2: &[u8] = b"h2";

/// What a controller is called by those who dial it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// The names of a controller that listens at `endpoint`: this machine's own, and those that are `given`. A
    /// Service in Kubernetes is given as `NAME.NAMESPACE.svc`: its shorter and longer forms come with it.
    pub fn new(endpoint: &Endpoint, given: &[String]) -> Self {
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        let mut add = |name: &str| {
            if !name.is_empty() && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        };
        if let Endpoint::Tls { host, .. } = endpoint
            && !host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
        {
            add(host);
        }
        for name in given {
            if let Some(service) = name.strip_suffix(".svc") {
                add(service);
                add(service.split('.').next().unwrap_or_default());
                add(&format!("{name}.cluster.local"));
            }
            add(name);
        }
        Self(names)
    }
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The store.
    #[error("TLS certificates: {0}")]
    Store(#[from] StoreError),
    /// The CA that is kept cannot be used.
    #[error(
        "TLS certificates: {name}: {source}; remove it to have a new CA made, of which all need new certificates"
    )]
    Authority {
        /// Where it is.
        name: String,
        /// What is wrong.
        source: AuthorityError,
    },
    /// A certificate cannot be made.
    #[error("TLS certificates: {0}")]
    Issue(AuthorityError),
    /// The library refuses what was made.
    #[error("TLS certificates: {0}")]
    Library(String),
    /// The store never holds still.
    #[error("TLS certificates: {name} was changed by somebody else each time that it was to be written")]
    Overtaken {
        /// Where it is.
        name: String,
    },
}

/// Keeps the certificates of a controller in order.
pub struct Keeper {
    store: Box<dyn Store>,
    names: Names,
    server: watch::Sender<Arc<ServerConfig>>,
    /// The server's certificate, to know when it ends.
    own: Pem,
}

impl Keeper {
    /// Makes what is missing at this time; then everything is ready for the first handshake.
    pub async fn start(
        store: Box<dyn Store>,
        names: Names,
        now: OffsetDateTime,
    ) -> Result<Self, KeeperError> {
        let authority = ensure(store.as_ref(), now).await?;
        let own = authority.issue_server(&names.0, now).map_err(KeeperError::Issue)?;
        let (server, _) = watch::channel(configuration(&own)?);
        Ok(Self { store, names, server, own })
    }

    /// What handshakes are made with: always the newest.
    pub fn server(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.server.subscribe()
    }

    /// Looks after the certificates for ever.
    pub async fn run(mut self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(ROUND).await;
            if let Err(error) = self.round(OffsetDateTime::now_utc()).await {
                tracing::warn!(%error, "will look at the certificates again");
            }
        }
    }

    /// One look: renews what has to be at this time.
    pub async fn round(&mut self, now: OffsetDateTime) -> Result<(), KeeperError> {
        let authority = ensure(self.store.as_ref(), now).await?;
        let fresh = Card::of_pem(&self.own.certificate).is_some_and(|card| card.ends - now > RENEWAL);
        if fresh && self.own.ca == authority.pem().ca {
            return Ok(());
        }
        self.own = authority.issue_server(&self.names.0, now).map_err(KeeperError::Issue)?;
        self.server.send_replace(configuration(&self.own)?);
        tracing::info!("the controller's certificate was renewed");
        Ok(())
    }
}

/// The store's CA and, behind it, certificates for all roles.
async fn ensure(store: &dyn Store, now: OffsetDateTime) -> Result<Authority, KeeperError> {
    let authority = authority(store, now).await?;
    for role in Role::ALL {
        certificate(store, &authority, role, now).await?;
    }
    Ok(authority)
}

async fn authority(store: &dyn Store, now: OffsetDateTime) -> Result<Authority, KeeperError> {
    let document = Document::Authority;
    for _ in 0..ATTEMPTS {
        let found = store.load(document).await?;
        let old = found.pem.clone().map(Authority::from_pem).transpose();
        let old = old.map_err(|source| KeeperError::Authority { name: store.name(document), source })?;
        let new = match old {
            Some(old) if old.lasts(now) => return Ok(old),
            old => Authority::new(old.as_ref(), now).map_err(KeeperError::Issue)?,
        };
        if store.save(document, new.pem(), &found).await? == Saved::Done {
            tracing::info!(name = store.name(document), "a CA was made");
            return Ok(new);
        }
    }
    Err(KeeperError::Overtaken { name: store.name(document) })
}

async fn certificate(
    store: &dyn Store,
    authority: &Authority,
    role: Role,
    now: OffsetDateTime,
) -> Result<(), KeeperError> {
    let document = Document::Role(role);
    for _ in 0..ATTEMPTS {
        let found = store.load(document).await?;
        if found.pem.as_ref().is_some_and(|pem| authority.vouches(pem, role, now)) {
            return Ok(());
        }
        let pem = authority.issue(role, now).map_err(KeeperError::Issue)?;
        if store.save(document, &pem, &found).await? == Saved::Done {
            tracing::info!(name = store.name(document), "a certificate was made");
            return Ok(());
        }
    }
    Err(KeeperError::Overtaken { name: store.name(document) })
}

/// The server side: TLS 1.3, and nobody without a certificate of the CA.
fn configuration(own: &Pem) -> Result<Arc<ServerConfig>, KeeperError> {
    let library = |error: &dyn std::fmt::Display| KeeperError::Library(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(own.ca.as_bytes()).filter_map(Result::ok));
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| library(&error))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(own.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(|error| library(&error))?;
    let mut configuration = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| library(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.map_err(|error| library(&error))?, key)
        .map_err(|error| library(&error))?;
    configuration.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(configuration))
}

#[cfg(test)]
mod tests {
    use super::super::{FolderStore, LIFETIME};
    use super::*;

    #[test]
    fn a_service_has_all_its_names() {
        let endpoint = "https://[::]:7443".parse().unwrap();
        let names = Names::new(&endpoint, &["waymark.ops.svc".into(), "10.0.0.1".into()]).0;
        let expected = [
            "localhost",
            "127.0.0.1",
            "::1",
            "waymark.ops",
            "waymark",
            "waymark.ops.svc.cluster.local",
            "waymark.ops.svc",
            "10.0.0.1",
        ];
        assert_eq!(names, expected);
    }

    #[tokio::test]
    async fn everything_is_renewed_in_time_and_nothing_before() {
        let root = tempfile::tempdir().unwrap();
        let store = FolderStore::new(root.path());
        let read = |role| {
            Card::of_pem(
                &std::fs::read_to_string(store.folder(Document::Role(role)).join("tls.crt")).unwrap(),
            )
            .unwrap()
        };
        let names = Names::new(&"localhost:1".parse().unwrap(), &[]);
        let now = OffsetDateTime::now_utc();
        let mut keeper = Keeper::start(Box::new(store.clone()), names, now).await.unwrap();
        let mut server = keeper.server();
        server.mark_unchanged();
        let (agent, client) = (read(Role::Agent), read(Role::Client));
        keeper.round(now + LIFETIME / 2).await.unwrap();
        assert_eq!((read(Role::Agent), read(Role::Client)), (agent.clone(), client));
        assert!(!server.has_changed().unwrap());
        keeper.round(now + LIFETIME - RENEWAL).await.unwrap();
        assert!(read(Role::Agent).ends > agent.ends);
        assert!(server.has_changed().unwrap());
        // Deleted by hand: made anew.
        std::fs::remove_dir_all(store.folder(Document::Role(Role::Agent))).unwrap();
        keeper.round(now + LIFETIME - RENEWAL).await.unwrap();
        assert_eq!(read(Role::Agent).organization.as_deref(), Some("waymark:agents"));
    }
}
