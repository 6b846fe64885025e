//! Issues and rotates TLS material. Knows no file and no Secret: a platform stores what is made here.
//!
//! Invariants:
//! 1. Clients and peers have authorities of their own: a client certificate never opens a peer port, nor the reverse.
//! 2. A new authority is trusted everywhere before it signs anything, and an old one is dropped only when nothing
//!    that it signed is presented any more ([`Trust::advance`]).
//! 3. A leaf never outlives its authority.
//! 4. The clock enters as a value.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// Certificates start this long before now, so that a peer whose clock is behind accepts them.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Why TLS material could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The generator refused, for instance because a name is no valid DNS name.
    #[error("cannot issue a certificate for {subject:?}: {source}")]
    Issue {
        /// The common name that was asked for.
        subject: String,
        /// What the generator says.
        source: rcgen::Error,
    },
    /// A stored certificate or key cannot be read.
    #[error("the stored certificate of {what} is not readable: {why}; remove it, and it is issued anew")]
    Unreadable {
        /// Which certificate.
        what: String,
        /// What the parser says.
        why: String,
    },
}

/// How long certificates live, and how early they are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Lifetime of a leaf.
    pub validity: Duration,
    /// A leaf is replaced when less than this is left.
    pub renew_before: Duration,
    /// Lifetime of an authority.
    pub ca_validity: Duration,
    /// The rotation of an authority begins when less than this is left.
    pub ca_renew_before: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Policy {
            validity: HOUR * 8760,
            renew_before: HOUR * 2160,
            ca_validity: HOUR * 43800,
            ca_renew_before: HOUR * 8760,
        }
    }
}

/// A certificate and its private key, both PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// One certificate.
    pub certificate: String,
    /// Its PKCS#8 key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A key must never reach a log.
        f.debug_struct("Pair")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// What a leaf is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Serves, and connects as well: a member proves itself both ways with one certificate.
    Member,
    /// Connects only.
    Client,
}

/// One authority and its rotation. It is a value: store it whole, so that no crash leaves half of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Signs.
    pub current: Pair,
    /// Trusted, does not sign yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Pair>,
    /// Trusted, does not sign any more: the certificate alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Counts changes of [`Trust::bundle`].
    pub generation: u64,
}

/// Where the rotation of an authority stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// One authority.
    Stable,
    /// The next authority is in the bundle and waits until everybody has read it.
    Distributing,
    /// The new authority signs; the old one stays trusted until nobody presents what it signed.
    Replacing,
}

impl Stage {
    /// The word in status.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Stable => "Stable",
            Stage::Distributing => "Distributing",
            Stage::Replacing => "Replacing",
        }
    }
}

impl Trust {
    /// A first authority, called `name` and a random suffix: issuers are told apart by their names.
    pub fn found(name: &str, policy: &Policy, now: SystemTime) -> Result<Trust, Error> {
        Ok(Trust {
            current: authority(name, policy.ca_validity, now)?,
            next: None,
            previous: None,
            generation: 1,
        })
    }

    /// Where the rotation stands.
    pub fn stage(&self) -> Stage {
        match (&self.next, &self.previous) {
            (Some(_), _) => Stage::Distributing,
            (None, Some(_)) => Stage::Replacing,
            (None, None) => Stage::Stable,
        }
    }

    /// All that is to be trusted now, PEM.
    pub fn bundle(&self) -> String {
        let mut bundle = self.current.certificate.clone();
        for more in self.next.iter().map(|next| &next.certificate).chain(&self.previous) {
            bundle.push_str(more);
        }
        bundle
    }

    /// One stage of a rotation onward, if it is time. `all_trust`: everybody has read this generation's bundle.
    /// `all_present`: everybody presents a leaf of `current`. Returns whether something changed (store it then).
    pub fn advance(
        &mut self,
        name: &str,
        policy: &Policy,
        now: SystemTime,
        all_trust: bool,
        all_present: bool,
    ) -> Result<bool, Error> {
        match self.stage() {
            Stage::Stable => {
                if now + policy.ca_renew_before < expiry(&self.current.certificate, name)? {
                    return Ok(false);
                }
                self.next = Some(authority(name, policy.ca_validity, now)?);
                self.generation += 1;
            }
            Stage::Distributing => {
                let Some(next) = self.next.take_if(|_| all_trust) else {
                    return Ok(false);
                };
                self.previous = Some(std::mem::replace(&mut self.current, next).certificate);
            }
            Stage::Replacing => {
                if !all_present {
                    return Ok(false);
                }
                self.previous = None;
                self.generation += 1;
            }
        }
        Ok(true)
    }

    /// A new leaf for `subject`, valid for `names` (DNS names and IP addresses).
    pub fn issue(
        &self,
        subject: &str,
        names: &[String],
        usage: Usage,
        policy: &Policy,
        now: SystemTime,
    ) -> Result<Pair, Error> {
        let refused = |source| Error::Issue {
            subject: subject.to_owned(),
            source,
        };
        let signer = KeyPair::from_pem(&self.current.key).map_err(refused)?;
        let issuer = Issuer::from_ca_cert_pem(&self.current.certificate, signer).map_err(refused)?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(refused)?;
        params.distinguished_name = common_name(subject);
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + policy.validity)
            .min(expiry(&self.current.certificate, subject)?)
            .into();
        params.serial_number = Some(serial());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = match usage {
            Usage::Member => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let key = KeyPair::generate().map_err(refused)?;
        let certificate = params.signed_by(&key, &issuer).map_err(refused)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Why `leaf` must be issued anew, or nothing when it is good.
    pub fn reason_to_renew(&self, leaf: &Pair, names: &[String], policy: &Policy, now: SystemTime) -> Option<String> {
        let (pem, current) = match (
            parse(&leaf.certificate, "leaf"),
            parse(&self.current.certificate, "authority"),
        ) {
            (Ok(pem), Ok(current)) => (pem, current),
            (Err(error), _) | (_, Err(error)) => return Some(error.to_string()),
        };
        let (Ok(cert), Ok(ca)) = (pem.parse_x509(), current.parse_x509()) else {
            return Some("it is not readable".to_owned());
        };
        if cert.issuer() != ca.subject() {
            return Some("another authority signs now".to_owned());
        }
        let not_after = timestamp(cert.validity().not_after.timestamp());
        if not_after <= now + policy.renew_before {
            // A leaf as long-lived as its authority allows cannot be improved by issuing it again.
            let best = (now + policy.validity).min(timestamp(ca.validity().not_after.timestamp()));
            if best > not_after + Duration::from_secs(60) {
                return Some("it expires soon".to_owned());
            }
        }
        let mut has: Vec<String> = match cert.subject_alternative_name() {
            Ok(Some(san)) => san.value.general_names.iter().filter_map(name_of).collect(),
            _ => Vec::new(),
        };
        let mut wants = names.to_vec();
        has.sort();
        wants.sort();
        (has != wants).then(|| format!("it is for {} and must be for {}", has.join(", "), wants.join(", ")))
    }
}

/// When a PEM certificate ends. `what` names it in an error.
pub fn expiry(certificate: &str, what: &str) -> Result<SystemTime, Error> {
    let pem = parse(certificate, what)?;
    let parsed = pem.parse_x509().map_err(|error| Error::Unreadable {
        what: what.to_owned(),
        why: error.to_string(),
    })?;
    Ok(timestamp(parsed.validity().not_after.timestamp()))
}

fn parse(certificate: &str, what: &str) -> Result<Pem, Error> {
    let unreadable = |why: String| Error::Unreadable {
        what: what.to_owned(),
        why,
    };
    match Pem::iter_from_buffer(certificate.as_bytes()).next() {
        Some(Ok(pem)) => Ok(pem),
        Some(Err(error)) => Err(unreadable(error.to_string())),
        None => Err(unreadable("there is no PEM block in it".to_owned())),
    }
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|ip| IpAddr::from(ip).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|ip| IpAddr::from(ip).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn timestamp(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn authority(name: &str, validity: Duration, now: SystemTime) -> Result<Pair, Error> {
    let subject = format!("{name} {:08x}", rand::random::<u32>());
    let refused = |source| Error::Issue {
        subject: subject.clone(),
        source,
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&subject);
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + validity).into();
    params.serial_number = Some(serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let key = KeyPair::generate().map_err(refused)?;
    let certificate = params.self_signed(&key).map_err(refused)?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// 63 random bits: positive, and unguessable as RFC 5280 and the CA/Browser rules ask.
fn serial() -> SerialNumber {
    SerialNumber::from_slice(&(rand::random::<u64>() >> 1).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86400);

    fn local() -> Vec<String> {
        vec!["127.0.0.1".to_owned(), "::1".to_owned(), "localhost".to_owned()]
    }

    #[test]
    fn a_fresh_leaf_is_good_until_it_nears_its_end() {
        let (policy, now) = (Policy::default(), SystemTime::now());
        let trust = Trust::found("demo clients", &policy, now).expect("founds");
        let leaf = trust
            .issue("demo-a", &local(), Usage::Member, &policy, now)
            .expect("issues");
        assert_eq!(trust.reason_to_renew(&leaf, &local(), &policy, now), None);
        let late = now + policy.validity - policy.renew_before + DAY;
        assert_eq!(
            trust.reason_to_renew(&leaf, &local(), &policy, late).as_deref(),
            Some("it expires soon")
        );
        let more = trust.reason_to_renew(&leaf, &[local(), vec!["a.example".into()]].concat(), &policy, now);
        assert!(more.expect("names differ").contains("a.example"));
    }

    #[test]
    fn a_leaf_never_outlives_its_authority_and_is_not_renewed_in_vain() {
        let policy = Policy {
            ca_validity: DAY,
            ..Policy::default()
        };
        let now = SystemTime::now();
        let trust = Trust::found("short", &policy, now).expect("founds");
        let leaf = trust.issue("a", &local(), Usage::Client, &policy, now).expect("issues");
        let ends = expiry(&leaf.certificate, "leaf").expect("reads");
        assert!(ends <= expiry(&trust.current.certificate, "ca").expect("reads"));
        assert_eq!(trust.reason_to_renew(&leaf, &local(), &policy, now), None);
    }

    #[test]
    fn an_authority_is_rotated_in_three_stages_without_a_moment_of_distrust() {
        let policy = Policy::default();
        let now = SystemTime::now();
        let mut trust = Trust::found("ca", &policy, now).expect("founds");
        let leaf = trust.issue("a", &local(), Usage::Member, &policy, now).expect("issues");
        let old = trust.current.certificate.clone();
        assert!(
            !trust.advance("ca", &policy, now, true, true).expect("advances"),
            "nothing to do while fresh"
        );

        let late = now + policy.ca_validity - policy.ca_renew_before + DAY;
        assert!(trust.advance("ca", &policy, late, false, false).expect("advances"));
        assert_eq!(trust.stage(), Stage::Distributing);
        assert_eq!(trust.current.certificate, old, "the new one must not sign yet");
        assert_eq!(trust.bundle().matches("BEGIN CERTIFICATE").count(), 2);

        assert!(
            !trust.advance("ca", &policy, late, false, true).expect("advances"),
            "somebody does not trust it yet"
        );
        assert!(trust.advance("ca", &policy, late, true, false).expect("advances"));
        assert_eq!(trust.stage(), Stage::Replacing);
        assert!(
            trust.bundle().contains(&old),
            "leaves of the old one are still presented"
        );
        assert_eq!(
            trust.reason_to_renew(&leaf, &local(), &policy, late).as_deref(),
            Some("another authority signs now")
        );

        assert!(!trust.advance("ca", &policy, late, true, false).expect("advances"));
        assert!(trust.advance("ca", &policy, late, true, true).expect("advances"));
        assert_eq!((trust.stage(), trust.generation), (Stage::Stable, 3));
        assert!(!trust.bundle().contains(&old));
    }

    #[test]
    fn rubbish_is_an_error_that_names_it() {
        let error = expiry("-----BEGIN NOTHING", "member a").expect_err("must not parse");
        assert!(error.to_string().contains("member a"), "{error}");
    }
}
