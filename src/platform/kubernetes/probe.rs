//! Shakes hands with a member to learn whom it trusts and what it presents: evidence for the rotation of an authority.
//!
//! Invariant: a handshake counts only when the member answered a request after it. With TLS 1.3 a server judges a
//! client's certificate after the client has finished; until it has sent something, it may still refuse.

use crate::certificates::Pair;
use crate::clock;
use crate::member::calls::Reach;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(3);

/// What a member presented.
#[derive(Debug)]
pub struct Seen {
    certificate: CertificateDer<'static>,
}

impl Seen {
    /// Whether the authority with this PEM certificate issued it.
    pub fn issued_by(&self, authority: &str) -> bool {
        let Some(Ok(pem)) = x509_parser::pem::Pem::iter_from_buffer(authority.as_bytes()).next() else {
            return false;
        };
        let (Ok(authority), Ok((_, leaf))) = (pem.parse_x509(), x509_parser::parse_x509_certificate(&self.certificate))
        else {
            return false;
        };
        leaf.issuer() == authority.subject()
    }
}

/// The date by which certificates are judged.
#[derive(Debug)]
struct Today(SystemTime);

impl rustls::time_provider::TimeProvider for Today {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.duration_since(UNIX_EPOCH).ok()?))
    }
}

/// Shakes hands with the member at `address` as `identity`; the error says what was refused.
pub async fn handshake(
    reach: &dyn Reach,
    now: SystemTime,
    address: &str,
    port: i32,
    name: &str,
    authorities: &str,
    identity: &Pair,
) -> Result<Seen, String> {
    match clock::timeout(PATIENCE, shake(reach, now, address, port, name, authorities, identity)).await {
        Ok(Ok(seen)) => Ok(seen),
        Ok(Err(error)) => Err(format!("{address}:{port}: {error}")),
        Err(_) => Err(format!("{address}:{port} did not answer within {PATIENCE:?}")),
    }
}

async fn shake(
    reach: &dyn Reach,
    now: SystemTime,
    address: &str,
    port: i32,
    name: &str,
    authorities: &str,
    identity: &Pair,
) -> Result<Seen, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority?)?;
    }
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let today = Today(now);
    let config = rustls::ClientConfig::builder_with_details(provider, Arc::new(today))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = reach.open(address, port).await?;
    let mut stream = connector.connect(ServerName::try_from(name.to_owned())?, tcp).await?;
    stream
        .write_all(format!("GET /version HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut first = [0_u8; 16];
    if stream.read(&mut first).await? == 0 {
        return Err("it closed the connection without an answer".into());
    }
    let presented = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = presented.ok_or("it presented no certificate")?.clone().into_owned();
    Ok(Seen { certificate })
}
