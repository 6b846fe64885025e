//! Certificates that a member makes up for itself (`--auto-tls`, `--peer-auto-tls`); the only place that does
//! (etcd client/pkg/transport/listener.go, SelfCert).
//!
//! Invariants: the pair is kept below the data directory and made only once; the key is readable by its owner alone.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P384_SHA384};

use super::{Error, TlsFiles, pem};

/// Sets `files` to a pair in `dir`, making it for `hosts` when there is none that can be used.
pub(super) fn ensure(dir: &Path, hosts: &[&str], years: u64, files: &mut TlsFiles) -> Result<(), Error> {
    let cert = dir.join("cert.pem");
    let key = dir.join("key.pem");
    let path_text = |path: &Path| path.display().to_string();
    files.cert_file = path_text(&cert);
    files.key_file = path_text(&key);
    files.client_cert_file = files.cert_file.clone();
    files.client_key_file = files.key_file.clone();
    files.self_signed = true;
    if cert.exists() && key.exists() && usable(&files.cert_file, &files.key_file) {
        return Ok(());
    }
    std::fs::create_dir_all(dir).map_err(|error| Error::file(&path_text(dir), error))?;
    let failed = |error: rcgen::Error| Error::file(&path_text(&cert), format!("cannot be generated: {error}"));
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = std::time::SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + std::time::Duration::from_secs(years.clamp(1, 100) * 365 * 24 * 3600)).into();
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(failed)?;
    let certificate = params.self_signed(&pair).map_err(failed)?;
    tracing::warn!(path = files.cert_file, years, "automatically generate certificates");
    std::fs::write(&cert, certificate.pem()).map_err(|error| Error::file(&files.cert_file, error))?;
    write_secret(&key, &pair.serialize_pem()).map_err(|error| Error::file(&files.key_file, error))
}

/// Whether an existing pair works with this TLS library: etcd's own pairs use a curve (P-521) that ring cannot sign with.
fn usable(cert: &str, key: &str) -> bool {
    let key = pem::key(key).is_ok_and(|key| rustls::crypto::ring::sign::any_supported_type(&key).is_ok());
    key && pem::certificates(cert).is_ok()
}

fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
