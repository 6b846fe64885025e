//! Signed tokens: `--auth-token jwt,sign-method=...,pub-key=...,priv-key=...,ttl=...` (etcd server/auth/{jwt,options}.go).
//!
//! Invariants:
//! - A token counts only when it names the configured algorithm: nobody chooses how it is checked but whoever set the flag.
//! - Signatures are made and checked by ring, the one crypto provider of this server (docs/decisions/0005).
//! - With a public key alone tokens are checked and never made.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use replica::state_machine::auth::AuthInfo;
use ring::rand::SystemRandom;
use ring::signature::{self as sig, KeyPair as _};
use ring::{hmac, rsa};
use x509_parser::prelude::{FromDer as _, Pem, SubjectPublicKeyInfo, X509Certificate};

use crate::config::Nanos;
use crate::handle::Error;

/// How long a token lives when the flag does not say.
const TTL: Duration = Duration::from_secs(300);
/// Options that the flag may have.
const OPTIONS: [&str; 4] = ["sign-method", "pub-key", "priv-key", "ttl"];

/// What kind of key an algorithm takes, and ring's names for it.
#[derive(Clone, Copy)]
enum Algorithm {
    Hmac(hmac::Algorithm),
    Rsa(&'static dyn sig::RsaEncoding, &'static sig::RsaParameters),
    Ec(
        &'static sig::EcdsaSigningAlgorithm,
        &'static sig::EcdsaVerificationAlgorithm,
        Curve,
    ),
    Ed,
}

/// The name of a curve in a key, as DER.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    /// AlgorithmIdentifier { ecPublicKey, the curve }.
    fn identifier(self) -> &'static [u8] {
        match self {
            Curve::P256 => b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
            Curve::P384 => b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
        }
    }
}

fn algorithm(name: &str) -> Option<Algorithm> {
    use Algorithm::{Ec, Ed, Hmac, Rsa};
    Some(match name {
        "HS256" => Hmac(hmac::HMAC_SHA256),
        "HS384" => Hmac(hmac::HMAC_SHA384),
        "HS512" => Hmac(hmac::HMAC_SHA512),
        "RS256" => Rsa(&sig::RSA_PKCS1_SHA256, &sig::RSA_PKCS1_2048_8192_SHA256),
        "RS384" => Rsa(&sig::RSA_PKCS1_SHA384, &sig::RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Rsa(&sig::RSA_PKCS1_SHA512, &sig::RSA_PKCS1_2048_8192_SHA512),
        "PS256" => Rsa(&sig::RSA_PSS_SHA256, &sig::RSA_PSS_2048_8192_SHA256),
        "PS384" => Rsa(&sig::RSA_PSS_SHA384, &sig::RSA_PSS_2048_8192_SHA384),
        "PS512" => Rsa(&sig::RSA_PSS_SHA512, &sig::RSA_PSS_2048_8192_SHA512),
        "ES256" => Ec(
            &sig::ECDSA_P256_SHA256_FIXED_SIGNING,
            &sig::ECDSA_P256_SHA256_FIXED,
            Curve::P256,
        ),
        "ES384" => Ec(
            &sig::ECDSA_P384_SHA384_FIXED_SIGNING,
            &sig::ECDSA_P384_SHA384_FIXED,
            Curve::P384,
        ),
        "EdDSA" => Ed,
        _ => return None,
    })
}

enum Signer {
    Hmac(hmac::Key),
    Rsa(&'static dyn sig::RsaEncoding, Box<rsa::KeyPair>),
    Ec(Box<sig::EcdsaKeyPair>),
    Ed(Box<sig::Ed25519KeyPair>),
}

enum Verifier {
    Hmac(hmac::Key),
    Public(sig::UnparsedPublicKey<Vec<u8>>),
}

/// See the module.
pub struct Jwt {
    name: String,
    signer: Option<Signer>,
    verifier: Verifier,
    ttl: Duration,
    random: SystemRandom,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Jwt({})", self.name)
    }
}

impl Jwt {
    /// Reads the options of the flag, and the files that they name.
    ///
    /// # Errors
    /// Which option is wrong, and the remedy.
    pub(super) fn new(options: &BTreeMap<&str, &str>) -> Result<Jwt, String> {
        let unknown: Vec<_> = options.keys().filter(|name| !OPTIONS.contains(name)).collect();
        if !unknown.is_empty() {
            tracing::warn!(keys = ?unknown, "unknown JWT options");
        }
        let option = |name: &str| options.get(name).copied().filter(|value| !value.is_empty());
        let ttl = match option("ttl") {
            None => TTL,
            Some(text) => Nanos::parse(text)
                .map_err(|error| format!("--auth-token: ttl: {error}"))?
                .positive()
                .unwrap_or_default(),
        };
        let file = |name: &str| {
            option(name)
                .map(|path| {
                    std::fs::read(path).map_err(|error| format!("--auth-token: {name}: cannot read {path}: {error}"))
                })
                .transpose()
        };
        let (public, private) = (file("pub-key")?, file("priv-key")?);
        let name = option("sign-method").unwrap_or_default();
        let algorithm = match (name, algorithm(name)) {
            ("ES512", _) => {
                return Err("--auth-token: sign-method ES512 is not supported by this server: use ES384".into());
            }
            (_, Some(algorithm)) => algorithm,
            (_, None) => {
                return Err(format!(
                    "--auth-token: sign-method {name:?} is unknown: use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, \
                     EdDSA, HS256, HS384 or HS512"
                ));
            }
        };
        let (signer, verifier) = keys(algorithm, public.as_deref(), private.as_deref())?;
        Ok(Jwt {
            name: name.to_owned(),
            signer,
            verifier,
            ttl,
            random: SystemRandom::new(),
        })
    }

    /// A token for a user who was let in at a revision of the rights.
    ///
    /// # Errors
    /// There is only a public key.
    pub fn sign(&self, username: &str, auth_revision: u64) -> Result<String, Error> {
        let Some(signer) = &self.signer else {
            return Err(Error::Internal(
                "auth: token signing attempted with verify-only key".into(),
            ));
        };
        let header = serde_json::json!({ "alg": self.name, "typ": "JWT" });
        let claims = serde_json::json!({
            "exp": (now() + self.ttl).as_secs(),
            "revision": auth_revision,
            "username": username,
        });
        let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self
            .signature(signer, message.as_bytes())
            .map_err(|_| Error::Internal("auth: cannot sign a token".into()))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn signature(&self, signer: &Signer, message: &[u8]) -> Result<Vec<u8>, ring::error::Unspecified> {
        Ok(match signer {
            Signer::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Signer::Rsa(encoding, pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &self.random, message, &mut signature)?;
                signature
            }
            Signer::Ec(pair) => pair.sign(&self.random, message)?.as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }

    /// Who holds a token; `None` when it is not of this cluster, or its time is over.
    pub fn verify(&self, token: &str) -> Option<AuthInfo> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let json = |part: &str| -> Option<serde_json::Value> {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
        };
        if json(header)?.get("alg")?.as_str()? != self.name {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        match &self.verifier {
            Verifier::Hmac(key) => hmac::verify(key, message.as_bytes(), &signature).ok()?,
            Verifier::Public(key) => key.verify(message.as_bytes(), &signature).ok()?,
        }
        let claims = json(claims)?;
        let now = now().as_secs_f64();
        for (name, holds) in [
            ("exp", (|now, at| now < at) as fn(f64, f64) -> bool),
            ("nbf", |now, at| now >= at),
        ] {
            if let Some(claim) = claims.get(name)
                && !holds(now, claim.as_f64()?)
            {
                return None;
            }
        }
        Some(AuthInfo {
            username: claims.get("username")?.as_str()?.to_owned(),
            revision: claims.get("revision")?.as_f64()? as u64,
        })
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Keys of an algorithm, from what the files hold.
fn keys(
    algorithm: Algorithm,
    public: Option<&[u8]>,
    private: Option<&[u8]>,
) -> Result<(Option<Signer>, Verifier), String> {
    if let Algorithm::Hmac(kind) = algorithm {
        let secret = private.filter(|secret| !secret.is_empty());
        let secret =
            secret.ok_or("--auth-token: HS methods take their secret from priv-key=FILE, which is missing or empty")?;
        let key = || hmac::Key::new(kind, secret);
        return Ok((Some(Signer::Hmac(key())), Verifier::Hmac(key())));
    }
    let signer = private.map(|pem| signer(algorithm, pem)).transpose()?;
    let own = signer.as_ref().and_then(|signer| match signer {
        Signer::Hmac(_) => None,
        Signer::Rsa(_, pair) => Some(pair.public_key().as_ref().to_vec()),
        Signer::Ec(pair) => Some(pair.public_key().as_ref().to_vec()),
        Signer::Ed(pair) => Some(pair.public_key().as_ref().to_vec()),
    });
    let given = public.map(public_key).transpose()?;
    let key = match (own, given) {
        (None, None) => return Err("--auth-token: neither pub-key=FILE nor priv-key=FILE is given".into()),
        (Some(own), Some(given)) if own != given => {
            return Err("--auth-token: the public and the private key do not belong together".into());
        }
        (Some(key), _) | (None, Some(key)) => key,
    };
    let kind: &'static dyn sig::VerificationAlgorithm = match algorithm {
        Algorithm::Hmac(_) | Algorithm::Ed => &sig::ED25519,
        Algorithm::Rsa(_, kind) => kind,
        Algorithm::Ec(_, kind, _) => kind,
    };
    Ok((signer, Verifier::Public(sig::UnparsedPublicKey::new(kind, key))))
}

/// The first PEM section of a file.
fn section(file: &[u8], option: &str) -> Result<Pem, String> {
    Pem::iter_from_buffer(file)
        .flatten()
        .find(|pem| pem.label != "EC PARAMETERS")
        .ok_or_else(|| format!("--auth-token: {option}: the file is not in PEM format"))
}

fn signer(algorithm: Algorithm, file: &[u8]) -> Result<Signer, String> {
    let pem = section(file, "priv-key")?;
    let der = &pem.contents;
    let rejected = |error: ring::error::KeyRejected| {
        format!(
            "--auth-token: priv-key: the file's {} does not suit the sign-method ({error})",
            pem.label
        )
    };
    Ok(match algorithm {
        Algorithm::Rsa(encoding, _) => {
            let pair = match pem.label.as_str() {
                "RSA PRIVATE KEY" => rsa::KeyPair::from_der(der),
                _ => rsa::KeyPair::from_pkcs8(der),
            };
            Signer::Rsa(encoding, Box::new(pair.map_err(rejected)?))
        }
        Algorithm::Ec(kind, _, curve) => {
            let wrapped;
            let der = match pem.label.as_str() {
                "EC PRIVATE KEY" => {
                    wrapped = in_pkcs8(curve, der);
                    &wrapped
                }
                _ => der,
            };
            let pair = sig::EcdsaKeyPair::from_pkcs8(kind, der, &SystemRandom::new());
            Signer::Ec(Box::new(pair.map_err(rejected)?))
        }
        Algorithm::Hmac(_) | Algorithm::Ed => {
            let pair = sig::Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
            Signer::Ed(Box::new(pair.map_err(rejected)?))
        }
    })
}

/// The envelope that ring wants around an `EC PRIVATE KEY`: SEQUENCE { 0, curve, OCTET STRING { key } }.
fn in_pkcs8(curve: Curve, key: &[u8]) -> Vec<u8> {
    let value = |tag: u8, content: &[u8]| {
        let mut der = vec![tag];
        // Keys of these curves take fewer than 256 bytes.
        match u8::try_from(content.len()) {
            Ok(len @ 0..=127) => der.push(len),
            Ok(len) => der.extend([0x81, len]),
            Err(_) => der.extend([0x82, (content.len() >> 8) as u8, content.len() as u8]),
        }
        der.extend_from_slice(content);
        der
    };
    let parts = [b"\x02\x01\x00".as_slice(), curve.identifier(), &value(0x04, key)].concat();
    value(0x30, &parts)
}

/// The key in a `PUBLIC KEY`, a `CERTIFICATE` or an `RSA PUBLIC KEY`, as ring takes it.
fn public_key(file: &[u8]) -> Result<Vec<u8>, String> {
    let pem = section(file, "pub-key")?;
    let unreadable = || format!("--auth-token: pub-key: the file's {} cannot be read", pem.label);
    match pem.label.as_str() {
        "CERTIFICATE" => {
            let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(|_| unreadable())?;
            Ok(certificate.public_key().subject_public_key.data.to_vec())
        }
        "RSA PUBLIC KEY" => Ok(pem.contents.clone()),
        _ => {
            let (_, key) = SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|_| unreadable())?;
            Ok(key.subject_public_key.data.to_vec())
        }
    }
}

#[cfg(test)]
mod tests;
