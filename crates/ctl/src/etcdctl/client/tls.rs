//! TLS of the client side: certificates from PEM files, and whom to trust.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Files and switches.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsOptions {
    pub cert: String,
    pub key: String,
    pub cacert: String,
    pub skip_verify: bool,
}

fn open(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        _ => format!("open {path}: {error}"),
    })
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = open(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(format!("{path}: no PEM certificate in it")),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

fn roots(path: &str) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(store)
}

/// A configuration; without a CA file the machine's own bundle is trusted.
///
/// # Errors
/// A file that is missing or cannot be used; the text names it.
pub(super) fn config(options: &TlsOptions) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if options.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAll(provider)))
    } else {
        let roots = match (options.cacert.as_str(), super::dial::system_bundle()) {
            ("", Some(bundle)) => system_roots(&bundle),
            ("", None) => RootCertStore::empty(),
            (file, _) => roots(file)?,
        };
        if roots.is_empty() {
            return Err("no certificate authority is known on this machine; name one with --cacert".into());
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| error.to_string())?;
        builder.with_webpki_verifier(verifier)
    };
    Ok(match (options.cert.as_str(), options.key.as_str()) {
        ("", "") => builder.with_no_client_auth(),
        ("", key) | (key, "") => {
            let (cert, file) = (&options.cert, &options.key);
            let _either = key;
            return Err(format!(
                "KeyFile and CertFile must both be present[key: {file}, cert: {cert}]"
            ));
        }
        (cert, key) => {
            let chain = certificates(cert)?;
            let private = PrivateKeyDer::from_pem_slice(&open(key)?).map_err(|error| format!("{key}: {error}"))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| format!("{cert} cannot be used with {key}: {error}"))?
        }
    })
}

/// A machine's bundle may hold what we cannot read; the rest still counts.
fn system_roots(path: &Path) -> RootCertStore {
    let mut store = RootCertStore::empty();
    if let Ok(pem) = std::fs::read(path) {
        store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    }
    store
}

/// `--insecure-skip-tls-verify`: any certificate will do, as long as the server has its key.
struct TrustAll(Arc<CryptoProvider>);

impl fmt::Debug for TrustAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrustAll")
    }
}

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
