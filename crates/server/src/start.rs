//! Starting and stopping a member (etcd server/embed/etcd.go).
//!
//! Invariants:
//! - Sockets are bound before the data directory is touched: a busy port leaves no trace.
//! - Clients are served only once the member's attributes are in the log: whoever can connect finds a member that takes part.
//!   Metrics and health are served from the start.
//! - Stopping hands leadership on first, then ends client connections, then the run loop: what was answered is durable.

mod bootstrap;
mod corruption;
mod limits;
mod notify;
mod versions;

pub use limits::raise as raise_limits;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::RealDisk;
use hyper::service::service_fn;
use replica::{Incarnation, OpenError, Replica};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::auth::{Authentication, Tokens};
use crate::config::{self, Config};
use crate::grpc::{Grpc, debug_authority, is_grpc};
use crate::handle::Handle;
use crate::http::{Gateway, answer, answer_metrics};
use crate::listener::{BindError, Http, Listener, SocketOptions, Stop, Traffic, serve, serve_http1, stopped};
use crate::member::Member;
use crate::metrics::Metrics;
use crate::peer::Transport;
use crate::peer::dial::{ClientTls, Identity};
use crate::peer::idle::Idle;
use crate::peer::incarnations::Incarnations;
use crate::run::{self, Ended, Stopwatch};
use crate::tls::{self, HANDSHAKE_TIMEOUT, Side, Tls};

/// How long a stop waits for leadership to move.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(3);
/// How long requests in flight may take after a stop was asked for.
const GRACE: Duration = Duration::from_secs(2);

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Certificates cannot be used.
    #[error("TLS: {0}")]
    Tls(#[from] tls::Error),
    /// The data cannot be used, or there is none and no cluster to begin with.
    #[error(transparent)]
    Data(#[from] OpenError),
    /// `--auth-token` cannot be used.
    #[error("{0}")]
    Tokens(String),
    /// The cluster cannot be joined or begun.
    #[error("{0}")]
    Bootstrap(String),
    /// The system has no more threads or memory.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// A member that runs.
#[derive(Debug)]
pub struct Running {
    member: Arc<Member>,
    stop: watch::Sender<bool>,
    stop_peers: watch::Sender<bool>,
    ended: oneshot::Receiver<Ended>,
    servers: JoinSet<()>,
    peers: JoinSet<()>,
    client_ports: Vec<u16>,
    ready: watch::Receiver<bool>,
    removed: watch::Receiver<bool>,
}

/// All sockets, bound and not yet served.
struct Sockets {
    peers: Vec<Listener>,
    clients: Vec<(Listener, Serves)>,
    metrics: Vec<Listener>,
}

/// What a client address serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serves {
    All,
    GrpcOnly,
    HttpOnly,
}

impl Serves {
    fn label(self) -> &'static str {
        match self {
            Serves::All => "grpc+http",
            Serves::GrpcOnly => "grpc",
            Serves::HttpOnly => "http",
        }
    }
}

impl ClientTls for Tls {
    fn client_config(&self) -> io::Result<Arc<rustls::ClientConfig>> {
        Tls::client_config(self).map_err(io::Error::other)
    }
}

/// Starts a member. It joins the cluster in the background; [`Running::ready`] tells when clients are served.
///
/// # Errors
/// See [`StartError`]; nothing runs then.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let client_tls = Tls::new(&config, Side::Client)?;
    let peer_tls = Tls::new(&config, Side::Peer)?;
    let tokens = Tokens::parse(&config.auth_token).map_err(StartError::Tokens)?;
    let sockets = bind(&config)?;
    let metrics = Arc::new(Metrics::new(config.metrics == "extensive"));
    let identity = |member_id, cluster_id| Identity {
        member_id,
        cluster_id,
        peer_urls: config::texts(&config.initial_advertise_peer_urls).into(),
        tls: peer_tls.clone().map(|tls| tls as Arc<dyn ClientTls>),
        timeout: Duration::from_secs(5),
        idle: Idle::default(),
        incarnation: Incarnation::default(),
    };
    if config.unsafe_no_fsync {
        disk::never_sync();
    }
    let clock = Instant::now();
    let mut replica_config = bootstrap::replica_config(&config, &identity(0, 0)).await?;
    replica_config.observer = Some(Arc::new(Stopwatch::new(
        metrics.clone(),
        clock,
        config.warning_apply_duration.positive(),
    )));
    let met = replica_config.member_dir().join("peer-incarnations");
    let initialized = matches!(replica_config.start, replica::Start::Resume);
    let opened = tokio::task::spawn_blocking(move || Replica::open(RealDisk, replica_config, Duration::ZERO)).await;
    let (replica, writer) = opened.map_err(|error| StartError::Thread(io::Error::other(error)))??;

    let replica::Identity { member_id, cluster_id } = replica.identity();
    tracing::info!(
        local_member_id = format!("{member_id:x}"),
        cluster_id = format!("{cluster_id:x}"),
        name = config.name,
        data_dir = %config.data_dir.display(),
        etcd_version = config::VERSION,
        "starting an etcd server"
    );
    let (stop, stop_signal) = watch::channel(false);
    let (stop_peers, stop_peers_signal) = watch::channel(false);
    let (tell_removed, removed) = watch::channel(false);
    let identity = Identity {
        incarnation: replica.incarnation(),
        ..identity(member_id, cluster_id)
    };
    let incarnations = Incarnations::open(met).map_err(StartError::Bootstrap)?;
    let transport = Transport::new(identity, incarnations, move || {
        // Each peer says so; once is enough.
        if !tell_removed.send_replace(true) {
            tracing::warn!("a peer says that this member was removed from the cluster");
        }
    });
    let state = replica.state();
    let (kv, leases, watches) = (state.reader(), state.leases().clone(), state.store().watch_hub());
    let auth = Authentication::new(&config, state.auth().clone(), tokens);
    if initialized && config.features.initial_corrupt_check {
        corruption::check(kv.clone(), transport.identity(), &replica.members()).await?;
    }
    let settings = run::Settings {
        clock,
        max_request_bytes: usize::try_from(config.max_request_bytes).unwrap_or(usize::MAX),
        early_election: config.initial_election_tick_advance,
        metrics: metrics.clone(),
    };
    let (handle, ended) = run::start(replica, writer, transport.clone(), settings)?;
    let member = Arc::new(Member {
        handle: handle.clone(),
        kv,
        watches,
        leases,
        auth,
        clock,
        config,
        metrics,
        transport: transport.clone(),
        stop: stop_signal.clone(),
    });
    transport.start(handle, Arc::new(Arc::downgrade(&member)));

    let mut peers = JoinSet::new();
    for listener in sockets.peers {
        tracing::info!(address = listener.address(), "serving peer traffic");
        let transport = transport.clone();
        peers.spawn(serve_http1(
            listener,
            peer_tls.clone(),
            Arc::default(),
            stop_peers_signal.clone(),
            move |_| {
                let transport = transport.clone();
                service_fn(move |request| transport.clone().serve(request))
            },
        ));
    }
    peers.spawn(versions::watch(member.clone()));
    peers.spawn(corruption::watch(member.clone()));
    let mut servers = JoinSet::new();
    for listener in sockets.metrics {
        tracing::info!(address = %listener.url, "serving metrics");
        servers.spawn(serve_metrics(
            listener,
            client_tls.clone(),
            member.clone(),
            stop_signal.clone(),
        ));
    }
    let client_ports = sockets
        .clients
        .iter()
        .filter_map(|(listener, _)| listener.port())
        .collect();
    let (tell_ready, ready) = watch::channel(false);
    servers.spawn(serve_clients(
        sockets.clients,
        client_tls,
        member.clone(),
        stop_signal,
        tell_ready,
    ));
    Ok(Running {
        member,
        stop,
        stop_peers,
        ended,
        servers,
        peers,
        client_ports,
        ready,
        removed,
    })
}

fn bind(config: &Config) -> Result<Sockets, BindError> {
    let options = SocketOptions {
        reuse_port: config.socket_reuse_port,
    };
    let all = |flag, urls: &[config::Url]| -> Result<Vec<Listener>, BindError> {
        urls.iter().map(|url| Listener::bind(flag, url, options)).collect()
    };
    let (grpc, http) = match config.listen_client_http_urls.is_empty() {
        true => (Serves::All, Serves::HttpOnly),
        false => (Serves::GrpcOnly, Serves::HttpOnly),
    };
    let mut clients: Vec<_> = all("listen-client-urls", &config.listen_client_urls)?
        .into_iter()
        .map(|listener| (listener, grpc))
        .collect();
    let only_http = all("listen-client-http-urls", &config.listen_client_http_urls)?;
    clients.extend(only_http.into_iter().map(|listener| (listener, http)));
    Ok(Sockets {
        peers: all("listen-peer-urls", &config.listen_peer_urls)?,
        clients,
        metrics: all("listen-metrics-urls", &config.listen_metrics_urls)?,
    })
}

async fn serve_metrics(listener: Listener, tls: Option<Arc<Tls>>, member: Arc<Member>, stop: Stop) {
    let http = Http {
        begin_within: Some(HANDSHAKE_TIMEOUT),
        grace: GRACE,
        ..Http::default()
    };
    serve(listener, tls, http, Arc::default(), stop, move |_| {
        let member = member.clone();
        service_fn(move |request| {
            let member = member.clone();
            async move { Ok(answer_metrics(&member, &request).await) }
        })
    })
    .await;
}

/// Serves clients once the member takes part in the cluster.
async fn serve_clients(
    listeners: Vec<(Listener, Serves)>,
    tls: Option<Arc<Tls>>,
    member: Arc<Member>,
    mut stop: Stop,
    ready: watch::Sender<bool>,
) {
    tokio::select! {
        () = published(&member.handle) => {}
        () = stopped(&mut stop) => return,
    }
    let http = Http {
        concurrent_streams_max: member.config.max_concurrent_streams,
        keepalive_interval: member.config.grpc_keepalive_interval.positive(),
        keepalive_timeout: member
            .config
            .grpc_keepalive_timeout
            .positive()
            .unwrap_or(Http::default().keepalive_timeout),
        ping_interval_min: None,
        begin_within: Some(HANDSHAKE_TIMEOUT),
        grace: GRACE,
        connections_max: limits::connections_max(),
    };
    let traffic = member.metrics.traffic.clone();
    let mut servers = JoinSet::new();
    for (listener, serves) in listeners {
        tracing::info!("ready to serve client requests");
        let (address, secure) = (listener.address(), listener.url.scheme.is_secure());
        if secure {
            tracing::info!(traffic = serves.label(), address, "serving client traffic securely");
        } else {
            tracing::info!(
                traffic = serves.label(),
                address,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
        // With TLS, etcd serves gRPC and HTTP on one port through Go's HTTP server, which bears any number of pings.
        let enforced = !secure || serves == Serves::GrpcOnly;
        let ping_interval_min = member.config.grpc_keepalive_min_time.positive().filter(|_| enforced);
        let http = Http {
            ping_interval_min,
            ..http.clone()
        };
        servers.spawn(serve_client(
            listener,
            serves,
            tls.clone(),
            http,
            traffic.clone(),
            member.clone(),
            stop.clone(),
        ));
    }
    notify::ready();
    // Nobody may be waiting for it.
    ready.send(true).ok();
    while servers.join_next().await.is_some() {}
}

/// Resolves when the log holds this member's attributes.
async fn published(handle: &Handle) {
    while !handle.status().published {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn serve_client(
    listener: Listener,
    serves: Serves,
    tls: Option<Arc<Tls>>,
    http: Http,
    traffic: Arc<Traffic>,
    member: Arc<Member>,
    stop: Stop,
) {
    let debug = std::env::var("GODEBUG").is_ok_and(|value| value.contains("http2debug=2"));
    serve(listener, tls, http, traffic, stop, move |connection| {
        let grpc = (serves != Serves::HttpOnly).then(|| Arc::new(Grpc::new(member.clone(), connection.clone())));
        let gateway = (serves != Serves::GrpcOnly && member.config.enable_grpc_gateway)
            .then(|| Arc::new(Gateway::new(&member, &connection)));
        let member = member.clone();
        service_fn(move |request| {
            let (member, connection) = (member.clone(), connection.clone());
            let (grpc, gateway) = (grpc.clone(), gateway.clone());
            async move {
                if debug {
                    debug_authority(&request);
                }
                Ok(match grpc {
                    Some(grpc) if is_grpc(&request) || serves == Serves::GrpcOnly => grpc.call(request).await,
                    _ => answer(&member, gateway.as_deref(), &connection, request).await,
                })
            }
        })
    })
    .await;
}

impl Running {
    /// This member.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// The TCP ports that clients are served on.
    pub fn client_ports(&self) -> &[u16] {
        &self.client_ports
    }

    /// Resolves when clients are served; `false` when the member stopped before.
    pub async fn ready(&mut self) -> bool {
        self.ready.wait_for(|ready| *ready).await.is_ok()
    }

    /// Resolves when the member cannot go on: the run loop has ended by itself, or peers say that it was removed. Stop it then.
    pub async fn ended(&mut self) -> Ended {
        tokio::select! {
            ended = &mut self.ended => ended.unwrap_or(Ended::Stopped),
            Ok(_) = self.removed.wait_for(|removed| *removed) => Ended::Removed,
        }
    }

    /// Stops the member: leadership moves on, requests in flight are answered, and all is durable when this returns.
    pub async fn stop(mut self) -> Ended {
        let member = self.member.clone();
        tracing::info!(name = member.config.name, "closing etcd server");
        hand_over(&member).await;
        self.stop.send_replace(true);
        while self.servers.join_next().await.is_some() {}
        member.handle.stop();
        let ended = match self.ended.is_terminated() {
            true => Ended::Stopped,
            false => (&mut self.ended).await.unwrap_or(Ended::Stopped),
        };
        self.stop_peers.send_replace(true);
        let peers = async { while self.peers.join_next().await.is_some() {} };
        tokio::time::timeout(GRACE, peers).await.ok();
        self.peers.shutdown().await;
        tracing::info!(name = member.config.name, "closed etcd server");
        ended
    }
}

/// Gives leadership to the voter that has been connected for longest, if this member leads others (etcd
/// server/etcdserver/server.go, TryTransferLeadershipOnShutdown).
async fn hand_over(member: &Member) {
    let handle = &member.handle;
    if handle.leader() != handle.member_id() {
        return;
    }
    let others = handle
        .members()
        .into_iter()
        .filter(|other| other.id != handle.member_id() && !other.is_learner);
    let connected = others.filter_map(|other| Some((handle.active_since(other.id)?, other.id)));
    let Some((_, to)) = connected.min() else {
        return;
    };
    match tokio::time::timeout(TRANSFER_PATIENCE, handle.transfer_leader(to)).await {
        Ok(Ok(())) => tracing::info!(to = format!("{to:x}"), "leadership transfer succeeded"),
        Ok(Err(error)) => tracing::warn!(%error, to = format!("{to:x}"), "leadership transfer failed"),
        Err(_) => tracing::warn!(to = format!("{to:x}"), "leadership transfer took too long"),
    }
}
