//! The controller's CA, and what it issues. Pure: the time is given.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use waymark_proto::Pem;

use super::card::Card;

/// How long a CA lasts. It is replaced a tenth of that earlier; old and new are both trusted in between.
pub const AUTHORITY_LIFETIME: Duration = Duration::days(3650);
/// How long a certificate lasts: as long as a stolen key is of use.
pub const LIFETIME: Duration = Duration::days(90);
/// How long before its end a certificate is renewed: an agent that stays away for less than this finds its way back.
pub const RENEWAL: Duration = Duration::days(30);

/// How far the clocks of two machines may be apart.
const SKEW: Duration = Duration::minutes(10);
/// What the names of CAs begin with; a number follows.
const AUTHORITY_NAME: &str = "Waymark CA";

/// What a certificate permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To attach an agent.
    Agent,
    /// To ask.
    Client,
}

impl Role {
    /// All.
    pub const ALL: [Self; 2] = [Self::Agent, Self::Client];

    /// The role as it is written in a certificate: the subject's organization.
    pub fn organization(self) -> &'static str {
        match self {
            Self::Agent => "waymark:agents",
            Self::Client => "waymark:clients",
        }
    }

    /// The role that a certificate gives, if any.
    pub(super) fn of(card: &Card) -> Option<Self> {
        let organization = card.organization.as_deref()?;
        Self::ALL.into_iter().find(|role| role.organization() == organization)
    }
}

/// What is wrong with a CA or what was to be issued.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It is no CA's certificate and key.
    #[error("it holds no CA: {0}")]
    Malformed(String),
    /// A name cannot be put into a certificate.
    #[error("{name:?} is neither a host name nor an address")]
    Name {
        /// The name.
        name: String,
    },
    /// The library failed.
    #[error("cannot make a certificate: {0}")]
    Library(#[from] rcgen::Error),
    /// The operating system has no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

/// A CA.
#[derive(Debug)]
pub struct Authority {
    pem: Pem,
    issuer: Issuer<'static, KeyPair>,
    card: Card,
}

impl Authority {
    /// A new CA. What `old` holds is trusted as long as it is valid, for who has not heard of the new one.
    pub fn new(old: Option<&Self>, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let number = getrandom::u64().map_err(AuthorityError::Random)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, format!("{AUTHORITY_NAME} {number:016x}"));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.not_before = now - SKEW;
        parameters.not_after = now + AUTHORITY_LIFETIME;
        let key = KeyPair::generate()?;
        let certificate = parameters.self_signed(&key)?.pem();
        let mut ca = certificate.clone();
        if let Some(old) = old
            && old.card.ends > now
        {
            ca.push_str(&old.pem.certificate);
        }
        Self::from_pem(Pem { ca, certificate, key: key.serialize_pem() })
    }

    /// A CA that was kept.
    pub fn from_pem(pem: Pem) -> Result<Self, AuthorityError> {
        let malformed = |error: &dyn std::fmt::Display| AuthorityError::Malformed(error.to_string());
        pem.check("it").map_err(|error| malformed(&error))?;
        let der =
            CertificateDer::from_pem_slice(pem.certificate.as_bytes()).map_err(|error| malformed(&error))?;
        let card = Card::of(&der).ok_or_else(|| malformed(&"its certificate is malformed"))?;
        if !card.name.starts_with(AUTHORITY_NAME) || card.issuer != card.name {
            return Err(malformed(&"its certificate is not a CA's of Waymark"));
        }
        let key = KeyPair::from_pem(&pem.key).map_err(|error| malformed(&error))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| malformed(&error))?;
        Ok(Self { pem, issuer, card })
    }

    /// As it is kept.
    pub fn pem(&self) -> &Pem {
        &self.pem
    }

    /// Whether it lasts long enough to go on with it.
    pub fn lasts(&self, now: OffsetDateTime) -> bool {
        self.card.ends - now > AUTHORITY_LIFETIME / 10
    }

    /// A certificate for all who have a role.
    pub fn issue(&self, role: Role, now: OffsetDateTime) -> Result<Pem, AuthorityError> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::OrganizationName, role.organization());
        parameters.distinguished_name.push(DnType::CommonName, role.organization());
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(parameters, now)
    }

    /// A certificate for a controller that is dialled by these host names and addresses.
    pub fn issue_server(&self, names: &[String], now: OffsetDateTime) -> Result<Pem, AuthorityError> {
        for name in names {
            if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
                return Err(AuthorityError::Name { name: name.clone() });
            }
        }
        let mut parameters = CertificateParams::new(names)?;
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "waymark-controller");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(parameters, now)
    }

    fn sign(&self, mut parameters: CertificateParams, now: OffsetDateTime) -> Result<Pem, AuthorityError> {
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.use_authority_key_identifier_extension = true;
        parameters.not_before = now - SKEW;
        parameters.not_after = now + LIFETIME;
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?.pem();
        Ok(Pem { ca: self.pem.ca.clone(), certificate, key: key.serialize_pem() })
    }

    /// Whether what is kept for a role still serves: of this CA, of that role, whole, and not about to end.
    pub fn vouches(&self, pem: &Pem, role: Role, now: OffsetDateTime) -> bool {
        let Some(card) = Card::of_pem(&pem.certificate) else { return false };
        Role::of(&card) == Some(role)
            && pem.ca == self.pem.ca
            && card.issuer == self.card.name
            && card.ends - now > RENEWAL
            && pem.check("it").is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    #[test]
    fn what_is_issued_says_what_it_is_for() {
        let authority = Authority::new(None, noon()).unwrap();
        for role in Role::ALL {
            let pem = authority.issue(role, noon()).unwrap();
            let card = Card::of_pem(&pem.certificate).unwrap();
            assert_eq!((Role::of(&card), card.ends), (Some(role), noon() + LIFETIME));
            assert!(authority.vouches(&pem, role, noon()));
        }
        let names = ["waymark.example".to_owned(), "::1".to_owned(), "10.0.0.1".to_owned()];
        let server = authority.issue_server(&names, noon()).unwrap();
        let card = Card::of_pem(&server.certificate).unwrap();
        assert_eq!((Role::of(&card), card.names.as_slice()), (None, &names[..]));
        let refused = authority.issue_server(&["a b".to_owned()], noon());
        assert!(matches!(refused, Err(AuthorityError::Name { .. })), "{refused:?}");
    }

    #[test]
    fn a_certificate_is_renewed_in_time_and_for_cause() {
        let authority = Authority::new(None, noon()).unwrap();
        let pem = authority.issue(Role::Agent, noon()).unwrap();
        let last = noon() + LIFETIME - RENEWAL - Duration::seconds(1);
        assert!(authority.vouches(&pem, Role::Agent, last));
        assert!(!authority.vouches(&pem, Role::Agent, last + Duration::seconds(1)));
        assert!(!authority.vouches(&pem, Role::Client, noon()));
        let foreign = Authority::new(None, noon()).unwrap();
        assert!(!foreign.vouches(&pem, Role::Agent, noon()));
        let torn = Pem { key: foreign.pem().key.clone(), ..pem };
        assert!(!authority.vouches(&torn, Role::Agent, noon()));
    }

    #[test]
    fn a_new_ca_is_trusted_beside_the_old_one() {
        let old = Authority::new(None, noon()).unwrap();
        let later = noon() + AUTHORITY_LIFETIME * 9 / 10;
        assert!(old.lasts(noon()) && !old.lasts(later));
        let new = Authority::new(Some(&old), later).unwrap();
        assert_eq!(new.pem().ca, format!("{}{}", new.pem().certificate, old.pem().certificate));
        let too_late = Authority::new(Some(&old), noon() + AUTHORITY_LIFETIME).unwrap();
        assert_eq!(too_late.pem().ca, too_late.pem().certificate);
    }

    #[test]
    fn a_kept_ca_is_the_same_ca() {
        let authority = Authority::new(None, noon()).unwrap();
        let agent = authority.issue(Role::Agent, noon()).unwrap();
        let kept = Authority::from_pem(authority.pem().clone()).unwrap();
        assert!(kept.vouches(&agent, Role::Agent, noon()));
        let refused = Authority::from_pem(agent);
        assert!(matches!(refused, Err(AuthorityError::Malformed(_))), "{refused:?}");
    }
}
