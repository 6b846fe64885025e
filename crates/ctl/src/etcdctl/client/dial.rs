//! One connection to one endpoint: the address behind it, TLS, HTTP/2.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Uri};

/// A connection and how a log line describes its ends.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub channel: Channel,
    pub peer: String,
}

/// How to dial.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    /// With which TLS, when the endpoint does not say otherwise.
    pub tls: Option<Arc<ClientConfig>>,
    /// Bound of one try; zero means none.
    pub timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
}

/// What an endpoint's text means.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    address: Address,
    /// For certificates and for the header that names the server.
    authority: String,
    tls: Wish,
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

/// Whether an endpoint asks for TLS.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Always,
    Never,
    IfConfigured,
}

impl Target {
    fn parse(endpoint: &str) -> Target {
        let (scheme, rest) = endpoint.split_once("://").unwrap_or_else(|| {
            let unix = endpoint
                .split_once(':')
                .filter(|(scheme, _)| matches!(*scheme, "unix" | "unixs"));
            unix.unwrap_or(("", endpoint))
        });
        let tls = match scheme {
            "https" | "unixs" => Wish::Always,
            "http" => Wish::Never,
            _ => Wish::IfConfigured,
        };
        if matches!(scheme, "unix" | "unixs") {
            return Target {
                address: Address::Unix(rest.into()),
                authority: rest.into(),
                tls,
            };
        }
        // A path behind the address means nothing.
        let host = rest.split('/').next().unwrap_or_default();
        Target {
            address: Address::Tcp(host.into()),
            authority: host.into(),
            tls,
        }
    }

    /// The name that the server's certificate must have.
    fn host(&self) -> &str {
        let name = match &self.address {
            Address::Tcp(address) => address,
            Address::Unix(path) => path.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
        };
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Opens a connection.
///
/// # Errors
/// Why not, in the words of etcd's client as far as they are known.
pub(super) async fn dial(endpoint: &str, how: &Dial) -> Result<Connection, String> {
    let connecting = connect(endpoint, how);
    let connected = match how.timeout.is_zero() {
        true => connecting.await,
        false => timeout(how.timeout, connecting).await.unwrap_or_else(|_| {
            let address = Target::parse(endpoint).authority;
            Err(format!("dial tcp {address}: i/o timeout"))
        }),
    };
    connected.map_err(|why| format!("connection error: desc = \"transport: {why}\""))
}

/// A stream to an endpoint, with TLS if that is what it takes.
struct Opened {
    stream: Box<dyn Stream>,
    secure: bool,
    peer: String,
    local: String,
}

async fn open(target: &Target, how: &Dial, protocol: &[u8]) -> Result<Opened, String> {
    let (stream, peer, local): (Box<dyn Stream>, String, String) = match &target.address {
        Address::Tcp(address) => {
            let failed = |error: io::Error| format!("Error while dialing: dial tcp {address}: {}", in_go(&error));
            let with_port = match address.rsplit_once(':') {
                Some((_, port)) if port.parse::<u16>().is_ok() => address.clone(),
                _ => {
                    return Err(format!(
                        "Error while dialing: dial tcp: address {address}: missing port in address"
                    ));
                }
            };
            let stream = TcpStream::connect(with_port).await.map_err(failed)?;
            // Requests are small; an error here costs time, nothing else.
            let _latency = stream.set_nodelay(true);
            let peer = stream
                .peer_addr()
                .map(|address| address.to_string())
                .unwrap_or_default();
            let local = stream
                .local_addr()
                .map(|address| address.to_string())
                .unwrap_or_default();
            (Box::new(stream), peer, local)
        }
        Address::Unix(path) => {
            let failed =
                |error: io::Error| format!("Error while dialing: dial unix {}: {}", path.display(), in_go(&error));
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            (Box::new(stream), path.display().to_string(), "@".into())
        }
    };
    let config = match (&target.tls, &how.tls) {
        (Wish::Never, _) | (Wish::IfConfigured, None) => None,
        (_, Some(config)) => Some(config.clone()),
        // The endpoint demands it though no flag speaks of TLS.
        (Wish::Always, None) => Some(Arc::new(super::tls::config(&super::TlsOptions::default())?)),
    };
    let secure = config.is_some();
    let stream: Box<dyn Stream> = match config {
        None => stream,
        Some(config) => {
            let name = target.host().to_owned();
            let name =
                ServerName::try_from(name).map_err(|error| format!("authentication handshake failed: {error}"))?;
            let mut config = config.as_ref().clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector.connect(name, stream).await;
            Box::new(stream.map_err(|error| format!("authentication handshake failed: tls: {error}"))?)
        }
    };
    Ok(Opened {
        stream,
        secure,
        peer,
        local,
    })
}

/// The body of a page that an endpoint shows over HTTP/1.
///
/// # Errors
/// Why there is none.
pub(super) async fn fetch(endpoint: &str, how: &Dial, path: &str) -> Result<String, String> {
    let target = Target::parse(endpoint);
    let mut stream = open(&target, how, b"http/1.1").await?.stream;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", target.authority);
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    if answer.is_empty() {
        read.map_err(|error| error.to_string())?;
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.to_owned()),
        None => Err(format!("{path} has no body")),
    }
}

async fn connect(endpoint: &str, how: &Dial) -> Result<Connection, String> {
    let target = Target::parse(endpoint);
    let Opened {
        stream,
        secure,
        peer,
        local,
    } = open(&target, how, b"h2").await?;
    let scheme = if secure { "https" } else { "http" };
    let origin: Uri = format!("{scheme}://{}", target.authority)
        .parse()
        .unwrap_or_else(|_| Uri::from_static("http://localhost"));
    let mut endpoint = Endpoint::from_static("http://localhost").origin(origin);
    if !how.keepalive_time.is_zero() {
        // As gRPC does it, never more often than every ten seconds: servers close connections that ping too much.
        endpoint = endpoint
            .http2_keep_alive_interval(how.keepalive_time.max(Duration::from_secs(10)))
            .keep_alive_timeout(how.keepalive_timeout.max(Duration::from_secs(1)));
    }
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::other("the connection is gone")) }
    });
    let channel = endpoint.connect_with_connector(connector).await;
    let kind = if secure { "tls" } else { "insecure" };
    Ok(Connection {
        channel: channel.map_err(|error| describe(&error))?,
        peer: format!("Peer{{Addr: '{peer}', LocalAddr: '{local}', AuthInfo: '{kind}'}}"),
    })
}

/// An error with those below it.
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        text.push_str(&format!(": {error}"));
        below = error.source();
    }
    text
}

fn in_go(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".into(),
        io::ErrorKind::NotFound => "connect: no such file or directory".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        _ => error.to_string(),
    }
}

/// Where systems keep the authorities that they trust.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The bundle of authorities that this machine trusts.
pub(super) fn system_bundle() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.or_else(|| {
        SYSTEM_BUNDLES
            .iter()
            .map(|path| Path::new(path).to_owned())
            .find(|path| path.exists())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_etcds_client_reads_them() {
        let tcp = |address: &str| Address::Tcp(address.into());
        for (text, address, authority, host, tls) in [
            (
                "127.0.0.1:2379",
                tcp("127.0.0.1:2379"),
                "127.0.0.1:2379",
                "127.0.0.1",
                Wish::IfConfigured,
            ),
            ("http://a:1", tcp("a:1"), "a:1", "a", Wish::Never),
            ("https://a:1/", tcp("a:1"), "a:1", "a", Wish::Always),
            ("https://[::1]:1", tcp("[::1]:1"), "[::1]:1", "::1", Wish::Always),
            (
                "unix:///tmp/x.sock",
                Address::Unix("/tmp/x.sock".into()),
                "/tmp/x.sock",
                "x.sock",
                Wish::IfConfigured,
            ),
            (
                "unixs://localhost:5",
                Address::Unix("localhost:5".into()),
                "localhost:5",
                "localhost",
                Wish::Always,
            ),
            (
                "unix:rel:5",
                Address::Unix("rel:5".into()),
                "rel:5",
                "rel",
                Wish::IfConfigured,
            ),
        ] {
            let target = Target::parse(text);
            assert_eq!(target.host(), host, "{text}");
            let authority = authority.to_owned();
            assert_eq!(
                target,
                Target {
                    address,
                    authority,
                    tls
                },
                "{text}"
            );
        }
    }
}
