//! What is checked of a client's certificate once its chain holds (etcd client/pkg/transport/tls_listener.go).

use std::net::IpAddr;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{CertificateRevocationList, FromDer, GeneralName, X509Certificate};

/// The common name of a certificate.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    parsed
        .subject()
        .iter_common_name()
        .next()?
        .as_str()
        .ok()
        .map(str::to_owned)
}

/// Whether the certificate has one of the common names, or is valid for one of the host names; anything goes when both are
/// empty.
pub(super) fn allowed(leaf: &CertificateDer<'_>, cns: &[String], hostnames: &[String]) -> Result<(), String> {
    let named = || common_name(leaf).is_some_and(|name| cns.contains(&name));
    let hosted = || hostnames.iter().any(|name| valid_for(leaf, name));
    if (cns.is_empty() && hostnames.is_empty()) || (!cns.is_empty() && named()) || (!hostnames.is_empty() && hosted()) {
        return Ok(());
    }
    Err("client certificate authentication failed".into())
}

fn valid_for(leaf: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else {
        return false;
    };
    ParsedCertificate::try_from(leaf).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

/// Whether no certificate of the chain is listed in the file, by serial number alone as in etcd. The file is DER or PEM and
/// read each time.
pub(super) fn not_revoked(path: &str, chain: &[CertificateDer<'_>]) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let der = match x509_parser::pem::parse_x509_pem(&bytes) {
        Ok((_, pem)) => pem.contents,
        Err(_) => bytes,
    };
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| format!("{path}: {error}"))?;
    for certificate in chain {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        if list
            .iter_revoked_certificates()
            .any(|revoked| revoked.serial() == &parsed.tbs_certificate.serial)
        {
            return Err(format!(
                "transport: certificate serial {:x} revoked",
                parsed.tbs_certificate.serial
            ));
        }
    }
    Ok(())
}

/// Whether the certificate of a peer that calls from `from` covers that address: by IP, or by a name that resolves to it.
/// A certificate without names or addresses covers any. Names are looked up forwards only.
pub(super) async fn calls_from_own_address(leaf: &CertificateDer<'_>, from: IpAddr) -> Result<(), String> {
    let from = from.to_canonical();
    let (names, addresses) = {
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let mut names = Vec::new();
        let mut addresses = Vec::new();
        if let Ok(Some(san)) = parsed.subject_alternative_name() {
            for name in &san.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => addresses.extend(ip(bytes)),
                    _ => {}
                }
            }
        }
        (names, addresses)
    };
    if (names.is_empty() && addresses.is_empty()) || addresses.contains(&from) {
        return Ok(());
    }
    for name in names.iter().filter(|name| !name.starts_with("*.")) {
        if let Ok(mut found) = tokio::net::lookup_host((name.as_str(), 0)).await
            && found.any(|address| address.ip().to_canonical() == from)
        {
            return Ok(());
        }
    }
    // etcd accepts a wildcard when the reverse name of the address ends in it; the standard library has no reverse look-up.
    if names.iter().any(|name| name.starts_with("*.")) {
        return Ok(());
    }
    match names.is_empty() {
        true => Err(format!("x509: certificate is valid for {addresses:?}, not {from}")),
        false => Err(format!(
            "tls: {:?} does not match any of DNSNames {names:?}",
            from.to_string()
        )),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|octets| IpAddr::from(octets).to_canonical()),
        _ => None,
    }
}
