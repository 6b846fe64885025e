//! Accepting connections and speaking HTTP on them.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::pings::Pings;
use super::stream::{Counted, Raw, Stream, Traffic};
use super::{Listener, Socket};
use crate::tls::{self, HANDSHAKE_TIMEOUT, Tls};

/// Accepting fails when the process is out of files; then it waits this long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a client may take to send the head of an HTTP/1.1 request (etcd server/embed/serve.go, ReadHeaderTimeout).
const HEADER_TIMEOUT: Duration = Duration::from_secs(300);
/// How often the system checks whether a silent client still lives (etcd client/pkg/transport/keepalive_listener.go).
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Bytes in flight per stream and per connection. Large, because a range answer or a snapshot is much larger than the
/// 64 KiB that HTTP/2 begins with.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Bytes of one stream that wait to be written.
const SEND_BUFFER: usize = 1024 * 1024;
/// Streams that a client may reset before the server has looked at them. Go clients cancel calls by the hundred when their
/// context ends; the default of 20 would cut their connection.
const PENDING_RESETS: usize = 4096;

/// Who is at the other end.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// The address; `None` on unix sockets.
    pub remote: Option<SocketAddr>,
    /// Whether TLS is spoken.
    pub secure: bool,
    /// The common name of a verified client certificate, empty if it has none; `None` without a certificate.
    pub common_name: Option<String>,
}

/// The stop signal: becomes true once. A dropped sender counts as stopped.
pub type Stop = watch::Receiver<bool>;

/// Resolves when the stop signal has come.
pub async fn stopped(stop: &mut Stop) {
    stop.wait_for(|stop| *stop).await.ok();
}

/// How to speak HTTP.
#[derive(Debug, Clone)]
pub struct Http {
    /// Streams that a client may have open on one connection.
    pub concurrent_streams_max: u32,
    /// Time between pings to a client; `None` for none.
    pub keepalive_interval: Option<Duration>,
    /// How long a ping may stay unanswered.
    pub keepalive_timeout: Duration,
    /// Time that a client leaves between two pings; `None` for any.
    pub ping_interval_min: Option<Duration>,
    /// How long a client may take to begin: to send HTTP/2's preface, or its first HTTP/1.1 request's head. `None` for ever.
    pub begin_within: Option<Duration>,
    /// How long requests in flight may take after the stop signal.
    pub grace: Duration,
    /// Connections at a time.
    pub connections_max: usize,
}

impl Default for Http {
    fn default() -> Http {
        Http {
            concurrent_streams_max: u32::MAX,
            keepalive_interval: None,
            keepalive_timeout: Duration::from_secs(20),
            ping_interval_min: None,
            begin_within: None,
            grace: Duration::from_secs(5),
            connections_max: 1 << 20,
        }
    }
}

/// Accepts until stopped and serves HTTP/1.1 and HTTP/2 with what `service` makes for each connection.
pub async fn serve<F, S, B>(
    listener: Listener,
    tls: Option<Arc<Tls>>,
    http: Http,
    traffic: Arc<Traffic>,
    stop: Stop,
    service: F,
) where
    F: Fn(Arc<Connection>) -> S + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(http.concurrent_streams_max)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .keep_alive_interval(http.keepalive_interval)
        .keep_alive_timeout(http.keepalive_timeout);
    accept(listener, tls, http, traffic, stop, builder, service).await;
}

/// As [`serve`], HTTP/1.1 only: for peers, whose streams are endless chunked answers.
pub async fn serve_http1<F, S, B>(
    listener: Listener,
    tls: Option<Arc<Tls>>,
    traffic: Arc<Traffic>,
    stop: Stop,
    service: F,
) where
    F: Fn(Arc<Connection>) -> S + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    // Peers are told to stop by the end of their streams; a second is etcd's patience with them.
    let http = Http {
        grace: Duration::from_secs(1),
        ..Http::default()
    };
    accept(listener, tls, http, traffic, stop, builder, service).await;
}

async fn accept<F, S, B>(
    listener: Listener,
    tls: Option<Arc<Tls>>,
    http: Http,
    traffic: Arc<Traffic>,
    mut stop: Stop,
    builder: auto::Builder<TokioExecutor>,
    service: F,
) where
    F: Fn(Arc<Connection>) -> S + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let tls = tls.filter(|tls| listener.url.scheme.is_secure() && tls.can_serve());
    let permits = Arc::new(Semaphore::new(http.connections_max.min(Semaphore::MAX_PERMITS)));
    let service = Arc::new(service);
    let builder = Arc::new(builder);
    let mut connections = JoinSet::new();
    let (ping_interval_min, begin_within) = (http.ping_interval_min, http.begin_within);
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = accept_one(&listener) => accepted,
        };
        let (raw, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, address = %listener.address(), "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, service, builder) = (tls.clone(), service.clone(), builder.clone());
        let (traffic, mut stop) = (traffic.clone(), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            let Some((stream, connection)) = secure(raw, remote, tls.as_deref()).await else {
                return;
            };
            let pings = ping_interval_min.map(|interval| Box::new(Pings::new(interval)));
            let begun = Arc::new(AtomicBool::new(false));
            let io = TokioIo::new(Counted::new(stream, traffic, pings, begun.clone()));
            let inner = service(Arc::new(connection));
            let first = begun.clone();
            let service = hyper::service::service_fn(move |request| {
                first.store(true, Ordering::Relaxed);
                inner.call(request)
            });
            let serving = builder.serve_connection(io, service);
            tokio::pin!(serving);
            let ended = tokio::select! {
                ended = &mut serving => ended,
                () = silent(&begun, begin_within) => {
                    tracing::debug!(?remote, "closing a connection that did not begin to speak in time");
                    return;
                }
                () = stopped(&mut stop) => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, ?remote, "connection ended with an error");
            }
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    tokio::time::timeout(http.grace, drained).await.ok();
    connections.shutdown().await;
}

/// Resolves when the time to begin is over and nothing has begun.
async fn silent(begun: &AtomicBool, within: Option<Duration>) {
    if let Some(within) = within {
        tokio::time::sleep(within).await;
        if !begun.load(Ordering::Relaxed) {
            return;
        }
    }
    std::future::pending().await
}

async fn accept_one(listener: &Listener) -> io::Result<(Raw, Option<SocketAddr>)> {
    match &listener.socket {
        Socket::Tcp(socket) => {
            let (stream, remote) = socket.accept().await?;
            stream.set_nodelay(true).ok();
            let keepalive = socket2::TcpKeepalive::new()
                .with_time(TCP_KEEPALIVE)
                .with_interval(TCP_KEEPALIVE);
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive).ok();
            Ok((Raw::Tcp(stream), Some(remote)))
        }
        Socket::Unix(socket, _) => Ok((Raw::Unix(socket.accept().await?.0), None)),
    }
}

/// Shakes hands if TLS is asked for. `None` when the client is turned away, which is logged here.
async fn secure(raw: Raw, remote: Option<SocketAddr>, tls: Option<&Tls>) -> Option<(Stream, Connection)> {
    let Some(tls) = tls else {
        return Some((
            Stream::Plain(raw),
            Connection {
                remote,
                ..Connection::default()
            },
        ));
    };
    let rejected = |error: &dyn std::fmt::Display| {
        tracing::warn!(remote_addr = ?remote, error = %error, "rejected connection on TLS endpoint");
    };
    let config = match tls.server_config() {
        Ok(config) => config,
        Err(error) => {
            rejected(&error);
            return None;
        }
    };
    let handshake = tokio_rustls::TlsAcceptor::from(config).accept(raw);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        // Whoever only knocks (a health check on the port, say) is not worth a line.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
        Ok(Err(error)) => {
            rejected(&error);
            return None;
        }
        Err(_) => {
            rejected(&"TLS handshake timed out");
            return None;
        }
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    if let Err(error) = tls.admit(chain, remote).await {
        rejected(&error);
        return None;
    }
    let common_name = chain.first().map(|leaf| tls::common_name(leaf).unwrap_or_default());
    Some((
        Stream::Tls(Box::new(stream)),
        Connection {
            remote,
            secure: true,
            common_name,
        },
    ))
}
