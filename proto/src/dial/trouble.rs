//! What the TLS of a connection died of.
//!
//! TLS reports it as an error of the library at the bottom of a chain of others, either when the handshake
//! fails here, or as an alert that the other side sent and that arrives with the first call.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use super::Credentials;
use crate::Endpoint;

/// What it died of, in words that go on after "cannot talk to the controller at …: ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The controller's certificate is out of date.
    #[error(
        "its certificate has expired, or is not valid yet: compare the clocks of both machines, and look at the controller's log"
    )]
    ServerExpired,
    /// The controller's certificate is of another CA.
    #[error("its certificate is not of the CA in {CA_FILE} of {credentials}: take the credentials from this controller", CA_FILE = super::CA_FILE)]
    ServerUnknown {
        /// What holds the CA.
        credentials: String,
    },
    /// The controller's certificate names other hosts.
    #[error(
        "its certificate is not for {host}: dial a name that it has, or start the controller with --tls-san {host}"
    )]
    ServerName {
        /// The host that was dialled.
        host: String,
    },
    /// The certificate is good for something else, or broken.
    #[error("its certificate cannot be used: {why}")]
    ServerUnfit {
        /// What the library says.
        why: String,
    },
    /// The controller says that our certificate is out of date.
    #[error(
        "it refuses the certificate of {credentials}, which has expired: take a new one from the controller"
    )]
    ClientExpired {
        /// What holds the certificate.
        credentials: String,
    },
    /// The controller does not know our CA.
    #[error(
        "it refuses the certificate of {credentials}, which is not of its CA: take one from this controller"
    )]
    ClientUnknown {
        /// What holds the certificate.
        credentials: String,
    },
    /// The controller refuses our certificate for another reason.
    #[error("it refuses the certificate of {credentials}: {why}")]
    ClientUnfit {
        /// What holds the certificate.
        credentials: String,
        /// The alert.
        why: String,
    },
    /// The other side speaks no TLS.
    #[error("it does not speak TLS: is it a Waymark controller, and was it started with TLS?")]
    NotTls,
    /// The other side speaks TLS only.
    #[error("it speaks TLS only: use https:// with --tls DIR")]
    NeedsTls,
}

impl Trouble {
    /// Finds it in an error or its sources; nothing if the error has to do with something else.
    pub(super) fn in_chain(
        error: &(dyn Error + 'static),
        endpoint: &Endpoint,
        credentials: Option<&Credentials>,
    ) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let found = match (endpoint, credentials) {
                (Endpoint::Tls { host, .. }, Some(credentials)) => in_tls(error, host, credentials),
                _ => in_plaintext(error),
            };
            if found.is_some() {
                return found;
            }
            next = error.source();
        }
        None
    }
}

/// A controller that is spoken to without TLS ends the connection with HTTP/2's `INADEQUATE_SECURITY`.
fn in_plaintext(error: &(dyn Error + 'static)) -> Option<Trouble> {
    error
        .downcast_ref::<h2::Error>()
        .and_then(h2::Error::reason)
        .and_then(|reason| (reason == h2::Reason::INADEQUATE_SECURITY).then_some(Trouble::NeedsTls))
}

fn in_tls(error: &(dyn Error + 'static), host: &str, credentials: &Credentials) -> Option<Trouble> {
    let Some(error) = error.downcast_ref::<io::Error>() else {
        return of_library(error.downcast_ref()?, host, credentials);
    };
    // What an I/O error wraps is not among its sources. HTTP/2 keeps no more of it than its words.
    let inner = error.get_ref()?;
    match inner.downcast_ref() {
        Some(error) => of_library(error, host, credentials),
        None => of_library(&alert_in(&inner.to_string())?, host, credentials),
    }
}

/// The alert that these words tell of, of those that a controller sends about certificates.
fn alert_in(words: &str) -> Option<rustls::Error> {
    [
        AlertDescription::CertificateExpired,
        AlertDescription::UnknownCA,
        AlertDescription::DecryptError,
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateUnknown,
        AlertDescription::CertificateRequired,
        AlertDescription::AccessDenied,
    ]
    .map(rustls::Error::AlertReceived)
    .into_iter()
    .find(|alert| alert.to_string() == words)
}

fn of_library(error: &rustls::Error, host: &str, credentials: &Credentials) -> Option<Trouble> {
    use CertificateError as Bad;
    let credentials = credentials.to_string();
    Some(match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                Trouble::ServerExpired
            }
            Bad::UnknownIssuer | Bad::BadSignature => Trouble::ServerUnknown { credentials },
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                Trouble::ServerName { host: host.to_owned() }
            }
            other => Trouble::ServerUnfit { why: other.to_string() },
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => Trouble::ClientExpired { credentials },
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                Trouble::ClientUnknown { credentials }
            }
            other => Trouble::ClientUnfit { credentials, why: format!("{other:?}") },
        },
        rustls::Error::InvalidMessage(_) => Trouble::NotTls,
        _ => return None,
    })
}
