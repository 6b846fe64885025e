//! Certificates and keys in PEM files.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Error;

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = std::fs::read(path).map_err(|error| Error::file(path, error))?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::file(path, format!("is not a PEM file of certificates: {error}")))?;
    match chain.is_empty() {
        true => Err(Error::file(path, "holds no PEM certificate")),
        false => Ok(chain),
    }
}

/// The private key of a file, in any of the usual wrappings.
pub(super) fn key(path: &str) -> Result<PrivateKeyDer<'static>, Error> {
    let text = std::fs::read(path).map_err(|error| Error::file(path, error))?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| Error::file(path, format!("holds no PEM private key: {error}")))
}
