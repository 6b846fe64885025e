//! Whom to believe: authorities from a file, the system's, or (with made-up certificates) anybody.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{Error, pem};

/// Where Linux distributions keep their bundle; the first that exists counts.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities of a bundle; an empty path means the system's.
pub(super) fn roots(path: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if path.is_empty() {
        if let Some(bundle) = SYSTEM_BUNDLES.iter().find(|path| std::path::Path::new(path).exists()) {
            // A system bundle may hold what rustls does not understand; the rest of it still counts.
            roots.add_parsable_certificates(pem::certificates(bundle)?);
        }
        return Ok(roots);
    }
    for certificate in pem::certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| Error::file(path, format!("is not a usable authority: {error}")))?;
    }
    Ok(roots)
}

/// Believes any server: certificates that members make up for themselves (`--peer-auto-tls`) have no common authority, so
/// TLS only hides the traffic from those who merely listen.
#[derive(Debug)]
pub(super) struct Anybody(pub Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match signed.scheme {
            SignatureScheme::ECDSA_NISTP521_SHA512 => Ok(HandshakeSignatureValid::assertion()),
            _ => verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match signed.scheme {
            SignatureScheme::ECDSA_NISTP521_SHA512 => Ok(HandshakeSignatureValid::assertion()),
            _ => verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.0.signature_verification_algorithms.supported_schemes();
        // etcd's own made-up certificates use this curve, which ring cannot check. Nothing is lost: who may show any
        // certificate at all can also sign with it.
        schemes.push(SignatureScheme::ECDSA_NISTP521_SHA512);
        schemes
    }
}
