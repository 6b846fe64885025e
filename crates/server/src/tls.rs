//! TLS of clients and peers: rustls with ring, and files that are read again when they change.
//!
//! Invariants:
//! - A handshake uses the certificate, key and authorities that are in the files at that moment: files are compared by
//!   inode, size and change time before each handshake. A pair that cannot be used (half replaced, say) is logged once and
//!   the last good one stays in use.
//! - Whoever changes an authority bundle gets a new server configuration, and with it an empty session cache: a client of a
//!   dropped authority cannot resume its way in.
//! - Keys are never logged.

mod check;
mod cipher;
mod pem;
mod self_signed;
mod trust;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig};

use crate::config::{Config, TlsFiles, Url};

/// How long a client may take for its handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why TLS cannot be set up. The texts name the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or holds something else.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A setting cannot be met.
    #[error("{0}")]
    Setting(String),
}

impl Error {
    fn file(path: &str, why: impl fmt::Display) -> Error {
        Error::File {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}

/// Which side of the member a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Clients: HTTP/2 and HTTP/1.1.
    Client,
    /// Peers: HTTP/1.1 only, and their certificates are compared with their addresses.
    Peer,
}

/// Versions and suites, the same for both sides.
#[derive(Debug, Clone)]
struct Policy {
    provider: Arc<rustls::crypto::CryptoProvider>,
    versions: Vec<&'static rustls::SupportedProtocolVersion>,
}

impl Policy {
    fn new(config: &Config) -> Result<Policy, Error> {
        Ok(Policy {
            provider: Arc::new(cipher::provider(&config.cipher_suites)?),
            versions: cipher::versions(&config.tls_min_version, &config.tls_max_version),
        })
    }
}

/// The TLS of one side of the member. Share it by `Arc`.
pub struct Tls {
    files: TlsFiles,
    side: Side,
    policy: Policy,
    server: Mutex<Cached<ServerConfig>>,
    client: Mutex<Cached<ClientConfig>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Tls({:?}, cert = {}, trusted-ca = {})",
            self.side, self.files.cert_file, self.files.trusted_ca_file
        )
    }
}

/// A configuration and the state of the files that it was made from.
struct Cached<T> {
    made_from: Vec<Stamp>,
    config: Option<Arc<T>>,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Cached {
            made_from: Vec::new(),
            config: None,
        }
    }
}

/// What tells one content of a file from another, without reading it. A rename changes the inode, a write the times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp(Option<(u64, u64, Option<SystemTime>, i64, i64)>);

impl Stamp {
    fn of(path: &str) -> Stamp {
        use std::os::unix::fs::MetadataExt;
        Stamp(std::fs::metadata(path).ok().map(|meta| {
            (
                meta.ino(),
                meta.len(),
                meta.modified().ok(),
                meta.ctime(),
                meta.ctime_nsec(),
            )
        }))
    }
}

impl Tls {
    /// The TLS of one side, or `None` when it has no certificates. With `--auto-tls` (`--peer-auto-tls`) a pair is made up
    /// below the data directory for the hosts of `urls`. Fails when the files cannot be used.
    pub fn new(config: &Config, side: Side) -> Result<Option<Arc<Tls>>, Error> {
        let (mut files, name, urls): (TlsFiles, _, Vec<&Url>) = match side {
            Side::Client => (
                config.client_tls.clone(),
                "client",
                config
                    .listen_client_urls
                    .iter()
                    .chain(&config.listen_client_http_urls)
                    .collect(),
            ),
            Side::Peer => (
                config.peer_tls.clone(),
                "peer",
                config.listen_peer_urls.iter().collect(),
            ),
        };
        if files.auto && files.is_empty() {
            let dir: PathBuf = config.data_dir.join("fixtures").join(name);
            let hosts: Vec<&str> = urls
                .iter()
                .map(|url| url.host())
                .filter(|host| !host.is_empty())
                .collect();
            self_signed::ensure(&dir, &hosts, config.self_signed_cert_validity, &mut files)?;
        }
        if files.is_empty() && files.trusted_ca_file.is_empty() {
            // A typing error is one also where it has no effect, as in etcd.
            cipher::provider(&config.cipher_suites)?;
            return Ok(None);
        }
        let tls = Tls {
            files,
            side,
            policy: Policy::new(config)?,
            server: Mutex::default(),
            client: Mutex::default(),
        };
        if !tls.files.is_empty() {
            tls.server_config()?;
        }
        tls.client_config()?;
        Ok(Some(Arc::new(tls)))
    }

    /// Whether there is a certificate to serve with; without one this only helps to dial.
    pub fn can_serve(&self) -> bool {
        !self.files.is_empty()
    }

    /// What to answer the next handshake with.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        let files = &self.files;
        current(
            &self.server,
            &[&files.cert_file, &files.key_file, &files.trusted_ca_file],
            || self.build_server(),
        )
    }

    /// What to dial a peer (or, for the client side, this member itself) with.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, Error> {
        let files = &self.files;
        let read = [
            &files.cert_file,
            &files.key_file,
            &files.client_cert_file,
            &files.client_key_file,
            &files.trusted_ca_file,
        ];
        current(&self.client, &read, || self.build_client())
    }

    fn build_server(&self) -> Result<ServerConfig, Error> {
        let files = &self.files;
        let chain = pem::certificates(&files.cert_file)?;
        let key = pem::key(&files.key_file)?;
        let builder = ServerConfig::builder_with_provider(self.policy.provider.clone())
            .with_protocol_versions(&self.policy.versions)
            .map_err(|error| Error::Setting(format!("TLS versions and cipher suites do not fit together: {error}")))?;
        // As etcd does it: an authority is reason enough to demand certificates.
        let builder = if files.client_cert_auth || !files.trusted_ca_file.is_empty() {
            let roots = Arc::new(trust::roots(&files.trusted_ca_file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, self.policy.provider.clone())
                .build()
                .map_err(|error| Error::file(&files.trusted_ca_file, error))?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            Error::file(
                &files.cert_file,
                format!("cannot be used with the key {}: {error}", files.key_file),
            )
        })?;
        config.alpn_protocols = match self.side {
            Side::Client => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Side::Peer => vec![b"http/1.1".to_vec()],
        };
        Ok(config)
    }

    fn build_client(&self) -> Result<ClientConfig, Error> {
        let files = &self.files;
        let builder = ClientConfig::builder_with_provider(self.policy.provider.clone())
            .with_protocol_versions(&self.policy.versions)
            .map_err(|error| Error::Setting(format!("TLS versions and cipher suites do not fit together: {error}")))?;
        let builder = if files.self_signed {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(trust::Anybody(self.policy.provider.clone())))
        } else {
            builder.with_root_certificates(trust::roots(&files.trusted_ca_file)?)
        };
        let (cert, key) = match files.client_cert_file.as_str() {
            "" => (&files.cert_file, &files.key_file),
            _ => (&files.client_cert_file, &files.client_key_file),
        };
        let mut config = if cert.is_empty() {
            builder.with_no_client_auth()
        } else {
            builder
                .with_client_auth_cert(pem::certificates(cert)?, pem::key(key)?)
                .map_err(|error| Error::file(cert, format!("cannot be used with the key {key}: {error}")))?
        };
        if self.side == Side::Peer {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        Ok(config)
    }

    /// Checks a connected client beyond its chain: revocation, allowed names and, for peers, its address. The error is what
    /// to log; the connection is then closed.
    pub async fn admit(&self, chain: &[CertificateDer<'_>], from: Option<SocketAddr>) -> Result<(), String> {
        let Some(leaf) = chain.first() else {
            return Ok(());
        };
        if !self.files.crl_file.is_empty() {
            check::not_revoked(&self.files.crl_file, chain)?;
        }
        check::allowed(leaf, &self.files.allowed_cns, &self.files.allowed_hostnames)?;
        match (self.side, from) {
            (Side::Peer, Some(from)) if !self.files.skip_client_san_verification => {
                check::calls_from_own_address(leaf, from.ip()).await
            }
            _ => Ok(()),
        }
    }
}

/// The common name of a client's certificate, for authentication by name.
pub fn common_name(leaf: &CertificateDer<'_>) -> Option<String> {
    check::common_name(leaf)
}

/// The cached configuration, made anew when a file has changed since.
fn current<T>(
    cached: &Mutex<Cached<T>>,
    read: &[&String],
    build: impl FnOnce() -> Result<T, Error>,
) -> Result<Arc<T>, Error> {
    let stamps: Vec<Stamp> = read
        .iter()
        .filter(|path| !path.is_empty())
        .map(|path| Stamp::of(path))
        .collect();
    let mut cached = cached.lock().expect("no holder of this lock panics");
    if cached.made_from == stamps
        && let Some(config) = &cached.config
    {
        return Ok(config.clone());
    }
    let again = cached.config.is_some();
    match build() {
        Ok(config) => {
            if again {
                tracing::info!(files = ?read.iter().filter(|path| !path.is_empty()).collect::<Vec<_>>(), "reloaded TLS files");
            }
            let config = Arc::new(config);
            cached.config = Some(config.clone());
            // The stamps from before the read: a change during it is seen next time.
            cached.made_from = stamps;
            Ok(config)
        }
        Err(error) => match &cached.config {
            Some(config) => {
                let config = config.clone();
                tracing::warn!(%error, "cannot use the changed TLS files, keeping the ones before");
                cached.made_from = stamps;
                Ok(config)
            }
            None => Err(error),
        },
    }
}

#[cfg(test)]
mod tests;
