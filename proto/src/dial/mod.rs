//! Dialling a controller: where, with which certificate, and what went wrong.
//!
//! A unix socket is protected by its file's mode. TCP is TLS in which both sides show a certificate of the
//! controller's own CA; plaintext TCP only if it was asked for by name.
//!
//! * `credentials`: the certificate, its key and the CA, from a folder or as they are
//! * `trouble`: what the TLS of a connection died of, found in the errors around it

mod credentials;
mod trouble;

use std::error::Error;
use std::time::Duration;

use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

pub use credentials::{CA_FILE, CERTIFICATE_FILE, Credentials, CredentialsError, KEY_FILE, Pem};
pub use trouble::Trouble;

use crate::{Endpoint, KEEP_ALIVE};

/// How long a dial may take. Everything that is dialled answers at once or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether TCP without TLS is good enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plaintext {
    /// No: whoever can reach the port could inject packets everywhere.
    #[default]
    Refused,
    /// The user said `--insecure`.
    Accepted,
}

/// Where the controller is, and what to show it.
#[derive(Clone, Debug)]
pub struct Dial {
    endpoint: Endpoint,
    credentials: Option<Credentials>,
}

/// Why a controller could not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A TLS port, but nothing to show it.
    #[error("{endpoint} wants a certificate: name the folder that holds one with --tls DIR")]
    NoCertificate {
        /// Where.
        endpoint: Endpoint,
    },
    /// A certificate, but no TLS port.
    #[error("--tls is of no use for {endpoint}: TLS is spoken at https://HOST:PORT")]
    UselessCertificate {
        /// Where.
        endpoint: Endpoint,
    },
    /// Plaintext that nobody asked for.
    #[error("{endpoint} is not encrypted: use https:// with --tls DIR, or say --insecure if that is meant")]
    Plaintext {
        /// Where.
        endpoint: Endpoint,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The two sides did not come to terms about TLS.
    #[error("cannot talk to the controller at {endpoint}: {trouble}")]
    Security {
        /// Where.
        endpoint: Endpoint,
        /// What it died of.
        trouble: Trouble,
    },
    /// Nobody answered.
    #[error("cannot reach the controller at {endpoint}: {source}")]
    Transport {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: tonic::transport::Error,
    },
}

impl Dial {
    /// A way to an endpoint.
    ///
    /// # Errors
    /// A TLS port without credentials, credentials for what speaks no TLS, plaintext TCP that is not accepted.
    pub fn new(
        endpoint: Endpoint,
        credentials: Option<Credentials>,
        plaintext: Plaintext,
    ) -> Result<Self, DialError> {
        match (&endpoint, &credentials, plaintext) {
            (Endpoint::Tls { .. }, None, _) => Err(DialError::NoCertificate { endpoint }),
            (Endpoint::Unix(_) | Endpoint::Tcp { .. }, Some(_), _) => {
                Err(DialError::UselessCertificate { endpoint })
            }
            (Endpoint::Tcp { .. }, None, Plaintext::Refused) => Err(DialError::Plaintext { endpoint }),
            _ => Ok(Self { endpoint, credentials }),
        }
    }

    /// Where.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Dials. A folder's certificate is read anew each time, so a renewed one is used from the next dial on.
    pub async fn connect(&self) -> Result<Channel, DialError> {
        let transport = |source| DialError::Transport { endpoint: self.endpoint.clone(), source };
        let mut dial = tonic::transport::Endpoint::from_shared(self.endpoint.to_string())
            .map_err(transport)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        if let (Endpoint::Tls { host, .. }, Some(credentials)) = (&self.endpoint, &self.credentials) {
            let pem = credentials.read()?;
            let config = ClientTlsConfig::new()
                .domain_name(host)
                .ca_certificate(Certificate::from_pem(&pem.ca))
                .identity(Identity::from_pem(&pem.certificate, &pem.key));
            dial = dial.tls_config(config).map_err(transport)?;
        }
        dial.connect().await.map_err(|error| self.trouble(&error).unwrap_or_else(|| transport(error)))
    }

    /// What to say of a call that ended like this, if the reason is the connection's TLS. A controller that
    /// refuses a certificate says so after the handshake, so the first call fails, not the dial.
    pub fn refusal(&self, status: &Status) -> Option<DialError> {
        // Only what was made on this side has a source; a controller's own refusals have not.
        self.trouble(status.source()?)
    }

    fn trouble(&self, error: &(dyn Error + 'static)) -> Option<DialError> {
        let trouble = Trouble::in_chain(error, &self.endpoint, self.credentials.as_ref())?;
        Some(DialError::Security { endpoint: self.endpoint.clone(), trouble })
    }
}
