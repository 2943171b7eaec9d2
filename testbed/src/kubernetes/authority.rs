//! A certificate authority for one cluster, in memory.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use super::error::{KubernetesError, Result};

/// Until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    /// For longer than any testbed lives.
    Good,
    /// It ended years ago.
    Expired,
}

/// Who a certificate is for, as Kubernetes reads it: CN is the user, O the group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    /// One at most: rcgen's names hold each attribute once.
    pub(crate) group: Option<&'a str>,
    /// Names and addresses of a server.
    pub(crate) hosts: &'a [String],
}

/// A certificate with its key, in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A key pair that signs service account tokens, in PEM.
pub(crate) struct SigningKey {
    pub(crate) private: String,
    pub(crate) public: String,
}

impl SigningKey {
    /// A new one.
    pub(crate) fn new() -> Result<Self> {
        let key = KeyPair::generate().map_err(failed("service accounts"))?;
        Ok(Self { private: key.serialize_pem(), public: key.public_key_pem() })
    }
}

/// Signs certificates.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// A new one, known to nobody.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let make = || {
            let mut params = named(name, None);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
            let key = KeyPair::generate()?;
            let certificate = params.self_signed(&key)?.pem();
            Ok(Self { issuer: Issuer::new(params, key), certificate })
        };
        make().map_err(failed(name))
    }

    /// Its own certificate, in PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for clients and servers alike.
    pub(crate) fn issue(&self, subject: &Subject<'_>, validity: Validity) -> Result<Identity> {
        let issue = || {
            let mut params = named(subject.name, subject.group);
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.subject_alt_names =
                subject.hosts.iter().map(|host| alternative(host)).collect::<std::result::Result<_, _>>()?;
            if validity == Validity::Expired {
                params.not_after = date_time_ymd(2001, 1, 1);
            }
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.issuer)?.pem();
            Ok(Identity { certificate, key: key.serialize_pem() })
        };
        issue().map_err(failed(subject.name))
    }
}

fn named(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params
}

fn alternative(host: &str) -> std::result::Result<SanType, rcgen::Error> {
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => Ok(SanType::DnsName(host.try_into()?)),
    }
}

fn failed(subject: &str) -> impl FnOnce(rcgen::Error) -> KubernetesError {
    let subject = subject.to_owned();
    move |source| KubernetesError::Certificate { subject, source }
}
