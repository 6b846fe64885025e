//! TLS material of a member as its pod mounts it: who is trusted, who is presented, and a real handshake on request.

use quorate::member::Access;
use quorate::member::calls::Stream;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// One side of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    certificate: String,
    key: String,
    bundle: String,
    issuer: String,
    trusts: BTreeSet<String>,
    ends: SystemTime,
}

/// Both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    client: Option<Side>,
    peer: Option<Side>,
}

/// Issuer, subject and end of each certificate of a PEM text.
fn certificates(text: &str) -> Vec<(String, String, SystemTime)> {
    x509_parser::pem::Pem::iter_from_buffer(text.as_bytes())
        .flatten()
        .filter_map(|pem| {
            let parsed = pem.parse_x509().ok()?;
            let ends = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
            Some((
                parsed.issuer().to_string(),
                parsed.subject().to_string(),
                UNIX_EPOCH + Duration::from_secs(ends),
            ))
        })
        .collect()
}

fn subjects(bundle: &str) -> BTreeSet<String> {
    certificates(bundle)
        .into_iter()
        .map(|(_, subject, _)| subject)
        .collect()
}

impl Side {
    fn read(data: &BTreeMap<String, String>, leaf: &str, bundle: &str) -> Option<Side> {
        let certificate = data.get(&format!("{leaf}.crt"))?.clone();
        let (issuer, _, ends) = certificates(&certificate).into_iter().next()?;
        let bundle = data.get(bundle)?.clone();
        Some(Side {
            key: data.get(&format!("{leaf}.key"))?.clone(),
            trusts: subjects(&bundle),
            bundle,
            certificate,
            issuer,
            ends,
        })
    }
}

impl Material {
    /// What a Secret holds, decoded.
    pub fn read(data: &BTreeMap<String, String>) -> Material {
        Material {
            client: Side::read(data, "server", "client-ca.crt"),
            peer: Side::read(data, "peer", "peer-ca.crt"),
        }
    }

    /// Whether this one accepts that one as a peer.
    pub fn peers_accept(&self, other: &Material) -> bool {
        match (&self.peer, &other.peer) {
            (Some(me), Some(other)) => me.trusts.contains(&other.issuer),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether it and a client accept each other.
    pub fn client_accepts(&self, access: Option<&Access>, now: SystemTime) -> bool {
        match (&self.client, access) {
            (None, None) => true,
            (Some(me), Some(access)) => {
                let theirs = certificates(&access.identity.certificate);
                let known = theirs
                    .first()
                    .is_some_and(|(issuer, _, ends)| me.trusts.contains(issuer) && *ends > now);
                known && me.ends > now && subjects(&access.authorities).contains(&me.issuer)
            }
            _ => false,
        }
    }

    /// A handshake on a port, as the member's end of it does it.
    pub fn serve(&self, peers: bool, now: SystemTime) -> Option<Box<dyn Stream>> {
        let side = if peers { self.peer.clone() } else { self.client.clone() }?;
        let (near, far) = tokio::io::duplex(1 << 16);
        let acceptor = acceptor(&side, now).ok()?;
        tokio::spawn(async move {
            if let Ok(mut stream) = acceptor.accept(far).await {
                let mut request = [0_u8; 512];
                let _ = stream.read(&mut request).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    .await;
                let _ = stream.shutdown().await;
            }
        });
        Some(Box::new(near))
    }
}

#[derive(Debug)]
struct Today(SystemTime);

impl rustls::time_provider::TimeProvider for Today {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.duration_since(UNIX_EPOCH).ok()?))
    }
}

fn acceptor(
    side: &Side,
    now: SystemTime,
) -> Result<tokio_rustls::TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let today = Arc::new(Today(now));
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(side.bundle.as_bytes()) {
        roots.add(authority?)?;
    }
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(side.certificate.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(side.key.as_bytes())?;
    let config = rustls::ServerConfig::builder_with_details(provider, today)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}
