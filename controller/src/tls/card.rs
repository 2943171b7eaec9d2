//! What a certificate says: whose it is, who issued it, for how long.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

/// The parts of a certificate that decisions rest on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Card {
    /// Subject's common name.
    pub(super) name: String,
    /// Subject's organization, where the role is.
    pub(super) organization: Option<String>,
    /// Issuer's common name. Each CA has one of its own.
    pub(super) issuer: String,
    /// Until when it is valid.
    pub(super) ends: OffsetDateTime,
    /// DNS names and addresses.
    pub(super) names: Vec<String>,
}

impl Card {
    /// Reads a certificate, nothing if it is malformed.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
        Some(Self {
            name: common_name(certificate.subject()).unwrap_or_default(),
            organization: text(certificate.subject().iter_organization().next()),
            issuer: common_name(certificate.issuer()).unwrap_or_default(),
            ends: OffsetDateTime::from_unix_timestamp(certificate.validity().not_after.timestamp()).ok()?,
            names: names.filter_map(name).collect(),
        })
    }

    /// Reads the first certificate of a PEM text.
    pub(super) fn of_pem(pem: &str) -> Option<Self> {
        Self::of(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)
    }
}

fn common_name(name: &X509Name<'_>) -> Option<String> {
    text(name.iter_common_name().next())
}

fn text(attribute: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>) -> Option<String> {
    attribute?.as_str().ok().map(str::to_owned)
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from))
                .ok()
                .map(|address| address.to_string())
        }
        _ => None,
    }
}
