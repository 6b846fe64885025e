//! One other member: its streams both ways, the pipeline beside them, snapshots to it, and how well it is reached.
//!
//! Invariants:
//! - Each side dials to receive: this member GETs the peer's streams with its own id in the path, and what it has to say goes out
//!   on the streams that the peer has dialled (see [`Outbox`]).
//! - A message is sent on exactly one way: its stream when that is attached, else the pipeline (a POST per message), else dropped.
//! - Whatever could not be sent is reported to raft as unreachable, and a lost snapshot as failed; raft sends again.
//! - Dropping a link ends its tasks.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::codec::{Decoder, StreamKind};
use super::dial::{Identity, PeerBody, full, set};
use super::incarnations::Incarnations;
use super::outbox::Outbox;
use super::statistics::Statistics;
use super::{incarnations, snapshot};
use crate::handle::{Error, Handle, OutgoingSnapshot};

/// Nothing read for this long ends a stream (etcd's ConnReadTimeout); the other side speaks every third of it.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two tries to dial a stream.
const REDIAL: Duration = Duration::from_millis(100);
/// Messages that may wait for a POST, and connections that carry them.
const PIPELINE_MESSAGES: usize = 64;
const PIPELINE_CONNECTIONS: usize = 4;
/// Pause between two probes (etcd: the read timeout less a second).
const PROBE: Duration = Duration::from_secs(4);

/// What all links share.
pub struct Shared {
    /// Who dials.
    pub identity: Identity,
    /// Whom this member has met.
    pub incarnations: Incarnations,
    /// The run loop; set once, before the first peer.
    pub handle: OnceLock<Handle>,
    /// Called when a peer says that this member was removed (410 or 403).
    pub removed: Box<dyn Fn() + Send + Sync>,
}

/// The parts of a link that its tasks share.
struct Wire {
    shared: Arc<Shared>,
    peer_id: u64,
    urls: RwLock<Arc<[String]>>,
    /// Which URL is tried; moves on when one fails.
    picked: AtomicU64,
    /// When the unbroken contact began.
    active_since: Mutex<Option<Instant>>,
    statistics: Arc<Statistics>,
}

/// See the module.
pub struct Link {
    wire: Arc<Wire>,
    message: Outbox,
    msgapp: Outbox,
    pipeline: mpsc::Sender<Message>,
    /// Ends with the link.
    _tasks: JoinSet<()>,
}

impl Link {
    /// Starts the tasks of a link. A remote (`streams` false: a sender that is not a known member yet) has the pipeline alone.
    pub fn new(shared: Arc<Shared>, peer_id: u64, urls: Vec<String>, streams: bool) -> Link {
        let statistics = Arc::new(Statistics::new(peer_id));
        let wire = Arc::new(Wire {
            shared,
            peer_id,
            urls: RwLock::new(urls.into()),
            picked: AtomicU64::new(0),
            active_since: Mutex::new(None),
            statistics,
        });
        let (pipeline, queue) = mpsc::channel(PIPELINE_MESSAGES);
        let queue = Arc::new(AsyncMutex::new(queue));
        let mut tasks = JoinSet::new();
        for _ in 0..PIPELINE_CONNECTIONS {
            tasks.spawn(run_pipeline(wire.clone(), queue.clone()));
        }
        if streams {
            tasks.spawn(run_reader(wire.clone(), StreamKind::Message));
            tasks.spawn(run_reader(wire.clone(), StreamKind::MsgApp));
            tasks.spawn(run_probe(wire.clone()));
        }
        let outbox = |kind| {
            let (broken, sent) = (wire.clone(), wire.clone());
            Outbox::new(
                kind,
                move || broken.unreachable(),
                move |bytes| sent.statistics.sent(bytes),
            )
        };
        Link {
            message: outbox(StreamKind::Message),
            msgapp: outbox(StreamKind::MsgApp),
            wire,
            pipeline,
            _tasks: tasks,
        }
    }

    /// The other member.
    pub fn peer_id(&self) -> u64 {
        self.wire.peer_id
    }

    /// The outbox that a stream dialled by the peer drains.
    pub fn outbox(&self, kind: StreamKind) -> &Outbox {
        match kind {
            StreamKind::Message => &self.message,
            StreamKind::MsgApp => &self.msgapp,
        }
    }

    /// Where the peer is reached from now on.
    pub fn set_urls(&self, urls: Vec<String>) {
        let mut held = self.wire.urls.write().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref() != urls.as_slice() {
            *held = urls.into();
        }
    }

    /// Sends a message the way that the module describes.
    pub fn send(&self, message: Message) {
        let kind = if message.r#type() == MessageType::MsgApp {
            StreamKind::MsgApp
        } else {
            StreamKind::Message
        };
        let stream = if self.outbox(kind).attached() {
            self.outbox(kind)
        } else {
            &self.message
        };
        let left = if message.r#type() == MessageType::MsgSnap || !stream.attached() {
            self.pipeline.try_send(message).map_err(|error| match error {
                mpsc::error::TrySendError::Full(message) | mpsc::error::TrySendError::Closed(message) => message,
            })
        } else {
            stream.push(message)
        };
        if let Err(message) = left {
            self.wire.unreachable();
            if message.r#type() == MessageType::MsgSnap {
                self.wire.report_snapshot(false);
            }
            self.wire.statistics.sent_failure();
        }
    }

    /// Streams a database to the peer and reports the outcome.
    pub fn send_snapshot(&self, outgoing: OutgoingSnapshot) {
        let wire = self.wire.clone();
        tokio::spawn(async move {
            let (started, size) = (Instant::now(), outgoing.size);
            let index = snapshot::index(&outgoing.message);
            tracing::info!(
                index,
                to = format!("{:x}", wire.peer_id),
                bytes = size,
                "sending database snapshot"
            );
            match wire
                .post("/raft/snapshot", "application/octet-stream", snapshot::body(outgoing))
                .await
            {
                Ok(()) => {
                    wire.statistics.snapshot_sent(started.elapsed());
                    wire.statistics.sent(size);
                    wire.report_snapshot(true);
                }
                Err(error) => {
                    tracing::warn!(index, to = format!("{:x}", wire.peer_id), %error, "failed to send database snapshot");
                    wire.statistics.snapshot_failure();
                    wire.unreachable();
                    wire.report_snapshot(false);
                }
            }
        });
    }

    /// Since when the peer has been reached without a break.
    pub fn active_since(&self) -> Option<Instant> {
        *self.wire.active_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters and round trip times.
    pub fn statistics(&self) -> Arc<Statistics> {
        self.wire.statistics.clone()
    }

    /// A message came in from this peer on a way other than its streams.
    pub fn received(&self, bytes: u64) {
        self.wire.statistics.received(bytes);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.message.close();
        self.msgapp.close();
    }
}

impl Wire {
    fn url(&self) -> Option<String> {
        let urls = self.urls.read().unwrap_or_else(PoisonError::into_inner);
        let at = self.picked.load(Ordering::Relaxed) as usize;
        (!urls.is_empty()).then(|| urls[at % urls.len()].clone())
    }

    fn active(&self) {
        let mut since = self.active_since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            tracing::info!(peer = format!("{:x}", self.peer_id), "peer became active");
        }
        since.get_or_insert_with(Instant::now);
    }

    fn inactive(&self, why: &str) {
        self.picked.fetch_add(1, Ordering::Relaxed);
        if self
            .active_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .is_some()
        {
            tracing::warn!(
                peer = format!("{:x}", self.peer_id),
                error = why,
                "peer became inactive"
            );
            self.statistics.disconnected();
        }
    }

    fn unreachable(&self) {
        if let Some(handle) = self.shared.handle.get() {
            handle.report_unreachable(self.peer_id);
        }
    }

    fn report_snapshot(&self, ok: bool) {
        if let Some(handle) = self.shared.handle.get() {
            handle.report_snapshot(self.peer_id, ok);
        }
    }

    /// One POST on a connection of its own; `Ok` when the peer has processed it.
    async fn post(&self, path: &str, content_type: &str, body: PeerBody) -> io::Result<()> {
        let url = self.url().ok_or_else(|| io::Error::other("the peer has no URL"))?;
        let identity = &self.shared.identity;
        let posted = async {
            let mut connection = identity.connect(&url).await?;
            let mut request = identity.request(Method::POST, &url, path, body)?;
            set(request.headers_mut(), "content-type", content_type)?;
            self.shared.incarnations.address(self.peer_id, request.headers_mut())?;
            connection.ready().await.map_err(io::Error::other)?;
            // No timeout on the answer: it comes when a database of any size has arrived and is durable. A broken connection
            // or a peer that is gone ends it, TCP keepalive by the kernel at the latest.
            let response = connection.send_request(request).await.map_err(io::Error::other)?;
            self.check_posted(response.status())
        };
        let result = posted.await;
        match &result {
            Ok(()) => self.active(),
            Err(error) => self.inactive(&error.to_string()),
        }
        result
    }

    fn check_posted(&self, status: StatusCode) -> io::Result<()> {
        match status {
            StatusCode::NO_CONTENT | StatusCode::OK => Ok(()),
            StatusCode::FORBIDDEN => {
                (self.shared.removed)();
                Err(io::Error::other(
                    "the peer says that this member was removed from the cluster",
                ))
            }
            other => Err(io::Error::other(format!("the peer answered {other}"))),
        }
    }
}

/// Dials one of the peer's streams over and over, and hands what comes to the run loop.
async fn run_reader(wire: Arc<Wire>, kind: StreamKind) {
    loop {
        if let Err(error) = read_stream(&wire, kind).await {
            tracing::debug!(peer = format!("{:x}", wire.peer_id), stream = kind.path(), %error, "stream ended");
            wire.inactive(&error.to_string());
        }
        sleep(REDIAL).await;
    }
}

async fn read_stream(wire: &Wire, kind: StreamKind) -> io::Result<()> {
    let identity = &wire.shared.identity;
    let url = wire.url().ok_or_else(|| io::Error::other("the peer has no URL"))?;
    let mut connection = identity.connect(&url).await?;
    let path = format!("/raft/stream/{}/{:x}", kind.path(), identity.member_id);
    let mut request = identity.request(Method::GET, &url, &path, full(""))?;
    set(request.headers_mut(), "x-raft-to", &format!("{:x}", wire.peer_id))?;
    wire.shared.incarnations.address(wire.peer_id, request.headers_mut())?;
    let response = identity.send(&mut connection, request).await?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::GONE => {
            (wire.shared.removed)();
            // Nothing will change by asking again soon.
            sleep(READ_TIMEOUT).await;
            return Err(io::Error::other(
                "the peer says that this member was removed from the cluster",
            ));
        }
        status => {
            let text = response
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes())
                .unwrap_or_default();
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            if status == StatusCode::PRECONDITION_FAILED && incarnations::is_refusal(&text) {
                wire.shared.incarnations.refused(wire.peer_id, &text);
            }
            return Err(io::Error::other(format!("the peer answered {status}: {text}")));
        }
    }
    wire.active();
    let mut body = response.into_body();
    let mut decoder = Decoder::new(kind, identity.member_id, wire.peer_id);
    let mut input = BytesMut::new();
    loop {
        let frame = timeout(READ_TIMEOUT, body.frame())
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let Some(frame) = frame else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else {
            continue;
        };
        wire.statistics.received(data.len() as u64);
        if input.is_empty() {
            input = BytesMut::from(data);
        } else {
            input.extend_from_slice(&data);
        }
        while let Some(message) = decoder.decode(&mut input).map_err(io::Error::other)? {
            deliver(wire, message);
        }
    }
}

fn deliver(wire: &Wire, message: Message) {
    let Some(handle) = wire.shared.handle.get() else { return };
    match handle.deliver(message) {
        Ok(()) | Err(Error::Stopped) => {}
        Err(error) => {
            wire.statistics.received_failure();
            tracing::warn!(peer = format!("{:x}", wire.peer_id), %error, "dropped a raft message");
        }
    }
}

/// One of the connections that carry messages as POSTs while a stream is missing.
async fn run_pipeline(wire: Arc<Wire>, queue: Arc<AsyncMutex<mpsc::Receiver<Message>>>) {
    loop {
        let message = queue.lock().await.recv().await;
        let Some(message) = message else { return };
        let bytes = message.encode_to_vec();
        let (size, snapshot) = (bytes.len() as u64, message.r#type() == MessageType::MsgSnap);
        match wire.post("/raft", "application/protobuf", full(bytes)).await {
            Ok(()) => wire.statistics.sent(size),
            Err(_) => {
                wire.statistics.sent_failure();
                wire.unreachable();
                if snapshot {
                    wire.report_snapshot(false);
                }
            }
        }
    }
}

/// Measures the round trip, smoothed over the last probes as etcd does.
async fn run_probe(wire: Arc<Wire>) {
    let mut recent: VecDeque<Duration> = VecDeque::new();
    loop {
        if let Some(url) = wire.url() {
            let started = Instant::now();
            let answer = wire
                .shared
                .identity
                .call(Method::GET, &url, "/raft/probing", &[], full(""))
                .await;
            if matches!(answer, Ok((StatusCode::OK, _))) {
                recent.push_back(started.elapsed());
                if recent.len() > 8 {
                    recent.pop_front();
                }
                let smoothed = recent.iter().sum::<Duration>() / recent.len() as u32;
                wire.statistics.round_trip(smoothed);
            }
        }
        sleep(PROBE).await;
    }
}
