//! One HTTP/1.1 connection to another member.
//!
//! Invariants:
//! - Every request carries the headers by which etcd members recognise each other (versions, cluster, sender), in the one place
//!   below.
//! - A connection that does not come up, or an answer that does not begin, within its timeout is an error, never a wait.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use replica::Incarnation;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::idle::Idle;
use super::incarnations;

/// The version that this server says it is, to members and tools: what it is compatible with.
pub const SERVER_VERSION: &str = "3.7.3";
/// The lowest cluster version that this server works in.
pub const MIN_CLUSTER_VERSION: &str = "3.0.0";

/// Bodies of requests and responses of the peer protocol.
pub type PeerBody = UnsyncBoxBody<Bytes, io::Error>;

/// A whole body in memory.
pub fn full(bytes: impl Into<Bytes>) -> PeerBody {
    http_body_util::Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// The TLS side of dialling: a configuration made of the files as they are now, so that a rotated certificate or CA counts from
/// the next connection on.
pub trait ClientTls: Send + Sync + 'static {
    /// The configuration to dial with.
    ///
    /// # Errors
    /// A file that cannot be read or parsed; the error names it.
    fn client_config(&self) -> io::Result<Arc<rustls::ClientConfig>>;
}

/// Who dials: what goes into the headers, and with which TLS.
#[derive(Clone)]
pub struct Identity {
    /// This member; 0 when it has no id yet (asking for the members before joining).
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// Its advertised peer URLs, so that a member that does not know it yet can reach it.
    pub peer_urls: Arc<[String]>,
    /// TLS for `https` URLs.
    pub tls: Option<Arc<dyn ClientTls>>,
    /// Bound of connecting, and of waiting for the head of an answer.
    pub timeout: Duration,
    /// The name of this member's data directory.
    pub incarnation: Incarnation,
    /// Connections that wait for the next request.
    pub idle: Idle,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:x} of {:x})", self.member_id, self.cluster_id)
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Identity {
    /// Connects to a peer URL such as `https://10.0.0.7:2380`.
    ///
    /// # Errors
    /// A URL that is none, a name that does not resolve, a connection or handshake refused or too slow.
    pub async fn connect(&self, url: &str) -> io::Result<SendRequest<PeerBody>> {
        let uri: Uri = url
            .parse()
            .map_err(|error| invalid(format!("peer URL {url:?}: {error}")))?;
        let host = uri
            .host()
            .ok_or_else(|| invalid(format!("peer URL {url:?} has no host")))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let connect = async || -> io::Result<Box<dyn Io>> {
            let tcp = TcpStream::connect((host, port)).await?;
            tcp.set_nodelay(true)?;
            if !secure {
                return Ok(Box::new(tcp) as Box<dyn Io>);
            }
            let tls = self.tls.as_ref().ok_or_else(|| {
                invalid(format!(
                    "peer URL {url:?} wants TLS, but this member has no peer certificate (--peer-cert-file)"
                ))
            })?;
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let connector = tokio_rustls::TlsConnector::from(tls.client_config()?);
            Ok(Box::new(connector.connect(name, tcp).await?) as Box<dyn Io>)
        };
        let io = timeout(self.timeout, connect())
            .await
            .map_err(|_| timed_out("connecting to", url))??;
        let (sender, connection) = handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
        // Ends by itself when the sender is dropped or the other side hangs up.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// A request to `url` + `path` with the headers that members recognise each other by.
    ///
    /// # Errors
    /// A path or URL that is none.
    pub fn request(&self, method: Method, url: &str, path: &str, body: PeerBody) -> io::Result<Request<PeerBody>> {
        let uri: Uri = url
            .parse()
            .map_err(|error| invalid(format!("peer URL {url:?}: {error}")))?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .body(body)
            .map_err(io::Error::other)?;
        let headers = request.headers_mut();
        if let Some(authority) = uri.authority() {
            headers.insert(
                http::header::HOST,
                HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?,
            );
        }
        set(headers, "x-server-from", &format!("{:x}", self.member_id))?;
        set(headers, "x-server-version", SERVER_VERSION)?;
        set(headers, "x-min-cluster-version", MIN_CLUSTER_VERSION)?;
        set(headers, "x-etcd-cluster-id", &format!("{:x}", self.cluster_id))?;
        if self.incarnation.name != 0 {
            set(headers, incarnations::FROM, &incarnations::text(self.incarnation))?;
        }
        if !self.peer_urls.is_empty() {
            set(headers, "x-peerurls", &self.peer_urls.join(","))?;
        }
        Ok(request)
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// The connection broke, or the answer did not begin in time.
    pub async fn send(
        &self,
        connection: &mut SendRequest<PeerBody>,
        request: Request<PeerBody>,
    ) -> io::Result<Response<Incoming>> {
        let answer = async {
            connection.ready().await.map_err(io::Error::other)?;
            connection.send_request(request).await.map_err(io::Error::other)
        };
        timeout(self.timeout, answer)
            .await
            .map_err(|_| timed_out("waiting for an answer of", "a peer"))?
    }

    /// One request on a connection of its own: `(status, body)`. Bodies over 16 MiB are refused.
    ///
    /// # Errors
    /// See [`Identity::connect`] and [`Identity::send`].
    pub async fn call(
        &self,
        method: Method,
        url: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: PeerBody,
    ) -> io::Result<(StatusCode, Bytes)> {
        let mut connection = self.connect(url).await?;
        self.call_on(&mut connection, method, url, path, headers, body).await
    }

    /// As [`Identity::call`], on a connection that has carried a request before, if there is one. Only for requests that may be
    /// made twice: the other side may have hung up on a resting connection, and then the request is made again.
    ///
    /// # Errors
    /// As [`Identity::call`].
    pub async fn call_again(
        &self,
        method: Method,
        url: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: &Bytes,
    ) -> io::Result<(StatusCode, Bytes)> {
        if let Some(mut connection) = self.idle.take(url) {
            let body = full(body.clone());
            match self
                .call_on(&mut connection, method.clone(), url, path, headers, body)
                .await
            {
                Ok(answer) => {
                    self.idle.give_back(url, connection);
                    return Ok(answer);
                }
                // It is not there, or does not answer: a new connection would only wait as long again.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                Err(_) => {}
            }
        }
        let mut connection = self.connect(url).await?;
        let answer = self
            .call_on(&mut connection, method, url, path, headers, full(body.clone()))
            .await?;
        self.idle.give_back(url, connection);
        Ok(answer)
    }

    async fn call_on(
        &self,
        connection: &mut SendRequest<PeerBody>,
        method: Method,
        url: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: PeerBody,
    ) -> io::Result<(StatusCode, Bytes)> {
        let mut request = self.request(method, url, path, body)?;
        for (name, value) in headers {
            set(request.headers_mut(), name, value)?;
        }
        let response = self.send(connection, request).await?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), 16 << 20);
        let body = timeout(self.timeout, body.collect())
            .await
            .map_err(|_| timed_out("reading the answer of", url))?;
        Ok((status, body.map_err(io::Error::other)?.to_bytes()))
    }
}

/// Sets a header.
///
/// # Errors
/// A value that cannot stand in a header.
pub fn set(headers: &mut HeaderMap, name: &'static str, value: &str) -> io::Result<()> {
    headers.insert(name, HeaderValue::from_str(value).map_err(io::Error::other)?);
    Ok(())
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn timed_out(doing: &str, url: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{doing} {url} took too long"))
}
