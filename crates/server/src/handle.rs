//! What the gRPC, HTTP and peer layers know of the run loop: a cheap handle that is cloned into every task.
//!
//! Invariants:
//! - A handle never touches the replica: it sends commands to the run loop's thread and awaits one answer, or reads atomics.
//! - Every answer that may not come is bounded by the request timeout of etcd (5 s + 2 election timeouts).
//! - `Display` of [`Error`] is the text that goes on the wire, byte for byte etcd's (etcd api/v3rpc/rpctypes/error.go);
//!   clients tell errors apart by that text.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{RwLock, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use disk::RealDisk;
use prost::Message as _;
use proto::etcdserverpb::{self as pb, InternalRaftRequest, Member};
use proto::raftpb::{ConfChange, Message};
use replica::state_machine::{Code, FileView};
use replica::{Committed, Fatal, Persisted, RequestIds};
use tokio::sync::{oneshot, watch};
use tokio_stream::{Stream, StreamExt};

use crate::metrics::Metrics;

/// Why a request did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The state machine or a check before the proposal refused the request; see [`Error::code`].
    #[error(transparent)]
    Refused(#[from] replica::state_machine::Error),
    /// The run loop ended.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// The answer did not come within the request timeout.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// As [`Error::Timeout`], and the leader changed shortly after the request was made.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailure,
    /// As [`Error::Timeout`], and this member had no link to the leader (or the leader none to a quorum).
    #[error("etcdserver: request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// Committed entries wait to be applied for too long.
    #[error("etcdserver: request timed out, waiting for the applied index took too long")]
    TimeoutWaitAppliedIndex,
    /// More than 5000 committed entries wait to be applied.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// The encoded request is larger than `--max-request-bytes`.
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// There is no leader at the moment.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// The leader changed while a linearizable read waited.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// This member does not lead.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// The target of a leader transfer is unknown, a learner, or this member.
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    /// The learner's log is not within 90 % of the leader's.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// No such member, or it was removed.
    #[error("etcdserver: member not found")]
    MemberNotFound,
    /// The member to promote is a voter already.
    #[error("etcdserver: can only promote a learner member")]
    MemberNotLearner,
    /// A raft message for another member: answered with 403 (etcd etcdserver/server.go Process).
    #[error("cannot process message to mismatch member")]
    MessageToOther,
    /// A raft message from a removed member: answered with 403, upon which the sender shuts itself down.
    #[error("cannot process message from removed member")]
    MessageFromRemoved,
    /// A local failure that is not the client's fault; the text says what was being done.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The gRPC code that goes with the text.
    pub fn code(&self) -> Code {
        match self {
            Error::Refused(error) => error.code(),
            Error::Stopped
            | Error::Timeout
            | Error::TimeoutLeaderFailure
            | Error::TimeoutConnectionLost
            | Error::TimeoutWaitAppliedIndex
            | Error::NoLeader
            | Error::LeaderChanged => Code::Unavailable,
            Error::RequestTooLarge => Code::InvalidArgument,
            Error::NotLeader | Error::BadLeaderTransferee | Error::LearnerNotReady | Error::MemberNotLearner => {
                Code::FailedPrecondition
            }
            Error::MemberNotFound => Code::NotFound,
            Error::TooManyRequests | Error::MessageToOther | Error::MessageFromRemoved | Error::Internal(_) => {
                Code::Unknown
            }
        }
    }
}

/// What applying a request gave.
pub use replica::state_machine::Response;

/// A look at the member; taken from atomics, so that it costs nothing and is not one consistent instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// The leader it knows; 0 without one.
    pub leader: u64,
    /// The current raft term.
    pub term: u64,
    /// The last committed entry that this member knows of.
    pub commit: u64,
    /// The last entry that it has applied.
    pub applied: u64,
    /// The current revision of the key space.
    pub revision: i64,
    /// Whether this member is a learner.
    pub is_learner: bool,
    /// Bytes allocated by the backend (high-water page id × page size), as etcd's dbSize.
    pub db_size: i64,
    /// Bytes of it in use.
    pub db_size_in_use: i64,
    /// The space quota in bytes.
    pub quota: i64,
    /// Whether the member's attributes are published: the gate for serving clients.
    pub published: bool,
    /// Leader changes seen since start.
    pub leader_changes: u64,
    /// Proposals waiting for their answer.
    pub proposals_pending: u64,
    /// Proposals that failed (timed out or dropped) since start.
    pub proposals_failed: u64,
    /// Snapshots being applied.
    pub applying_snapshots: u64,
}

/// Who leads, as far as this member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// The leader; 0 without one.
    pub leader: u64,
    /// The raft term.
    pub term: u64,
    /// When this member learned of it.
    pub since: Instant,
}

/// A database on its way to a peer that is too far behind for the log.
pub struct OutgoingSnapshot {
    /// The `MsgSnap` that goes ahead of the database; its data is the membership in etcd's v2 form.
    pub message: Message,
    /// Bytes that `database` will yield in all.
    pub size: u64,
    /// A consistent image of the backend file, in order. Dropping it releases the read transaction.
    pub database: Box<dyn Iterator<Item = std::io::Result<Bytes>> + Send>,
}

impl std::fmt::Debug for OutgoingSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutgoingSnapshot")
            .field("to", &self.message.to)
            .field("size", &self.size)
            .finish()
    }
}

/// The way out to the other members; the peer transport implements it, the run loop calls it.
///
/// No method may block: the caller is the thread that ticks. A message that cannot be queued is dropped and reported with
/// [`Handle::report_unreachable`].
pub trait PeerSender: Send + Sync + 'static {
    /// Sends messages to the peers named in them, in order per peer. Messages to unknown or removed peers are dropped.
    fn send(&self, messages: Vec<Message>);
    /// Streams a snapshot; the outcome is told with [`Handle::report_snapshot`], always.
    fn send_snapshot(&self, snapshot: OutgoingSnapshot);
    /// The members as of now (this member included: skip it) and the ids that were removed and must be turned away.
    fn set_peers(&self, members: &[Member], removed: &[u64]);
    /// Since when a peer has been reachable without a break; `None` when it is not.
    fn active_since(&self, member_id: u64) -> Option<Instant>;
}

/// What the run loop's thread is asked to do. `Handle`'s methods make these, and the threads beside the run loop.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Command {
    Propose {
        id: u64,
        data: Bytes,
        /// Answer once a compaction at this revision is durable.
        wait_compacted: Option<i64>,
        reply: oneshot::Sender<Result<Response, Error>>,
    },
    Configure {
        change: ConfChange,
        reply: oneshot::Sender<Result<Vec<Member>, Error>>,
    },
    Linearizable {
        reply: oneshot::Sender<Result<(), Error>>,
    },
    WaitApplied {
        index: u64,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Deliver(Message),
    Unreachable(u64),
    SnapshotSent {
        member_id: u64,
        ok: bool,
    },
    SnapshotReceived {
        message: Box<Message>,
        path: std::path::PathBuf,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    TransferLeader {
        target: u64,
    },
    LeaseRenew {
        id: i64,
        reply: oneshot::Sender<Result<i64, Error>>,
    },
    LearnerReady {
        id: u64,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Defragment {
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Defragmented {
        done: Result<bool, Error>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Snapshot {
        reply: oneshot::Sender<Result<FileView<RealDisk>, Error>>,
    },
    Versions(Vec<(u64, Option<String>)>),
    Persisted(Result<Persisted, Fatal>),
    Committed(Result<Committed<RealDisk>, Fatal>),
    Stop,
}

/// State that the run loop publishes and handles read.
#[derive(Debug, Default)]
pub(crate) struct Vital {
    pub leader: AtomicU64,
    pub term: AtomicU64,
    pub commit: AtomicU64,
    pub applied: AtomicU64,
    pub revision: AtomicI64,
    pub is_learner: AtomicBool,
    pub db_size: AtomicI64,
    pub db_size_in_use: AtomicI64,
    pub quota: AtomicI64,
    pub published: AtomicBool,
    pub leader_changes: AtomicU64,
    pub proposals_pending: AtomicU64,
    pub proposals_failed: AtomicU64,
    pub applying_snapshots: AtomicU64,
    /// The last tick, in microseconds of the run loop's clock.
    pub ticked_us: AtomicU64,
}

/// Membership as the run loop last published it.
#[derive(Debug, Default, Clone)]
pub struct Membership {
    /// All members, sorted by id.
    pub members: Vec<Member>,
    /// Ids that were removed and never come back.
    pub removed: Vec<u64>,
    /// The cluster version, e.g. `3.7.0`; `None` until decided.
    pub cluster_version: Option<String>,
    /// The version that a downgrade job goes down to; `None` without a job.
    pub downgrade_target: Option<String>,
    /// Raised alarms.
    pub alarms: Vec<pb::AlarmMember>,
}

/// What stays the same for the life of the run loop.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bound of every request: 5 s + 2 × election timeout.
    pub request_timeout: Duration,
    /// The election timeout.
    pub election_timeout: Duration,
    /// The heartbeat interval.
    pub tick: Duration,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
}

/// Committed but unapplied entries beyond which proposals are refused (etcd etcdserver/v3_server.go maxGapBetweenApplyAndCommitIndex).
const GAP_MAX: u64 = 5000;
/// The same for requests that make room: lease revocations (feature gate PriorityRequest).
const GAP_MAX_PRIORITY: u64 = 10_000;

pub(crate) struct Shared {
    pub member_id: u64,
    pub cluster_id: u64,
    /// Zero of the run loop's clock.
    pub clock: Instant,
    pub limits: Limits,
    pub ids: Arc<RequestIds>,
    pub vital: Vital,
    pub membership: RwLock<Arc<Membership>>,
    pub leadership: watch::Sender<Leadership>,
    pub peers: Arc<dyn PeerSender>,
    pub snapshot_dir: std::path::PathBuf,
    pub metrics: Arc<Metrics>,
}

/// See the module. Cheap to clone; `Send + Sync`.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({:x})", self.shared.member_id)
    }
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>, commands: mpsc::Sender<Command>) -> Handle {
        Handle { shared, commands }
    }

    /// Proposes a request and waits until this member has applied it.
    ///
    /// The request id is set here (`header.ID`, the rest of the header is the caller's: user name and auth revision). A
    /// compaction with `physical` set is answered once the space has been freed in the backend.
    pub async fn propose(&self, mut request: InternalRaftRequest) -> Result<Response, Error> {
        let vital = &self.shared.vital;
        let priority = request.lease_revoke.is_some();
        let gap = vital
            .commit
            .load(Ordering::Relaxed)
            .saturating_sub(vital.applied.load(Ordering::Relaxed));
        if gap > if priority { GAP_MAX_PRIORITY } else { GAP_MAX } {
            return Err(Error::TooManyRequests);
        }
        let id = self.next_id();
        request.header.get_or_insert_default().id = id;
        let size = request.encoded_len();
        if size > self.shared.limits.max_request_bytes {
            return Err(Error::RequestTooLarge);
        }
        let physical = request.compaction.as_ref().filter(|compaction| compaction.physical);
        let wait_compacted = physical.map(|compaction| compaction.revision);
        let data = Bytes::from(request.encode_to_vec());
        self.ask(|reply| Command::Propose {
            id,
            data,
            wait_compacted,
            reply,
        })
        .await
    }

    /// Proposes a membership change and waits until it is applied and raft has taken it up. Returns all members after it.
    ///
    /// The change's id is set here. The caller has made the checks of etcd's gRPC layer (permissions, strict
    /// reconfiguration, learner readiness); those at apply are made by every member.
    pub async fn configure(&self, mut change: ConfChange) -> Result<Vec<Member>, Error> {
        change.id = self.next_id();
        self.ask(|reply| Command::Configure { change, reply }).await
    }

    /// Waits until a read of local state is linearizable: the leader confirmed its lead after the call, and this member has
    /// applied all that was committed then.
    pub async fn linearizable(&self) -> Result<(), Error> {
        self.ask(|reply| Command::Linearizable { reply }).await
    }

    /// Waits until this member has applied `index`.
    pub async fn wait_applied(&self, index: u64) -> Result<(), Error> {
        if self.shared.vital.applied.load(Ordering::Acquire) >= index {
            return Ok(());
        }
        self.ask(|reply| Command::WaitApplied { index, reply }).await
    }

    /// A new id for a request or a lease: unique in the cluster, also over restarts (etcd pkg/idutil/id.go).
    pub fn next_id(&self) -> u64 {
        self.shared.ids.next()
    }

    /// This member.
    pub fn member_id(&self) -> u64 {
        self.shared.member_id
    }

    /// Its cluster.
    pub fn cluster_id(&self) -> u64 {
        self.shared.cluster_id
    }

    /// The leader this member knows; 0 without one.
    pub fn leader(&self) -> u64 {
        self.shared.vital.leader.load(Ordering::Acquire)
    }

    /// The current raft term.
    pub fn term(&self) -> u64 {
        self.shared.vital.term.load(Ordering::Relaxed)
    }

    /// Whether this member is a learner.
    pub fn is_learner(&self) -> bool {
        self.shared.vital.is_learner.load(Ordering::Relaxed)
    }

    /// Follows changes of the leader (streams with `hasleader` metadata, health).
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// Members, removed ids, cluster version and alarms, as of the last applied entry that touched them.
    pub fn membership(&self) -> Arc<Membership> {
        self.shared
            .membership
            .read()
            .expect("no holder of this lock panics")
            .clone()
    }

    /// All members, sorted by id.
    pub fn members(&self) -> Vec<Member> {
        self.membership().members.clone()
    }

    /// Raised alarms.
    pub fn alarms(&self) -> Vec<pb::AlarmMember> {
        self.membership().alarms.clone()
    }

    /// A cheap look at everything that has a number.
    pub fn status(&self) -> Status {
        let vital = &self.shared.vital;
        Status {
            member_id: self.shared.member_id,
            cluster_id: self.shared.cluster_id,
            leader: vital.leader.load(Ordering::Relaxed),
            term: vital.term.load(Ordering::Relaxed),
            commit: vital.commit.load(Ordering::Relaxed),
            applied: vital.applied.load(Ordering::Relaxed),
            revision: vital.revision.load(Ordering::Relaxed),
            is_learner: vital.is_learner.load(Ordering::Relaxed),
            db_size: vital.db_size.load(Ordering::Relaxed),
            db_size_in_use: vital.db_size_in_use.load(Ordering::Relaxed),
            quota: vital.quota.load(Ordering::Relaxed),
            published: vital.published.load(Ordering::Relaxed),
            leader_changes: vital.leader_changes.load(Ordering::Relaxed),
            proposals_pending: vital.proposals_pending.load(Ordering::Relaxed),
            proposals_failed: vital.proposals_failed.load(Ordering::Relaxed),
            applying_snapshots: vital.applying_snapshots.load(Ordering::Relaxed),
        }
    }

    /// Bounds that requests are held to.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Hands leadership to `target` and waits until this member sees it lead.
    pub async fn transfer_leader(&self, target: u64) -> Result<(), Error> {
        if self.leader() != self.member_id() {
            return Err(Error::NotLeader);
        }
        let membership = self.membership();
        if !membership
            .members
            .iter()
            .any(|member| member.id == target && !member.is_learner)
        {
            return Err(Error::BadLeaderTransferee);
        }
        let mut leadership = self.leadership();
        self.tell(Command::TransferLeader { target })?;
        // etcd waits in steps of the heartbeat interval within its request timeout; the watch wakes at once.
        let arrived = leadership.wait_for(|now| now.leader == target);
        match tokio::time::timeout(self.shared.limits.request_timeout, arrived).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(Error::TimeoutLeaderFailure),
        }
    }

    /// Renews a lease on this member, which must be the leader ([`Error::NotLeader`] otherwise: forward it). Returns the
    /// TTL in seconds; an unknown lease gives etcd's "requested lease not found" as [`Error::Refused`].
    pub async fn lease_renew(&self, id: i64) -> Result<i64, Error> {
        self.ask(|reply| Command::LeaseRenew { id, reply }).await
    }

    /// Whether this member leads and has had time to notice if it did not: its last tick is younger than three heartbeats (etcd
    /// etcdserver/server.go ensureLeadership). A process that was stopped for a while must ask the others first.
    pub fn leads_for_sure(&self) -> bool {
        let vital = &self.shared.vital;
        if self.leader() != self.member_id() {
            return false;
        }
        let ticked = Duration::from_micros(vital.ticked_us.load(Ordering::Acquire));
        let silence = self.shared.clock.elapsed().saturating_sub(ticked);
        silence <= 3 * self.shared.limits.tick
    }

    /// Whether a learner's log is close enough to this leader's to promote it: match ≥ 90 % (etcd etcdserver/server.go
    /// isLearnerReady). [`Error::NotLeader`] on followers: forward it.
    pub async fn learner_ready(&self, id: u64) -> Result<(), Error> {
        self.ask(|reply| Command::LearnerReady { id, reply }).await
    }

    /// Gives unused space of the backend back to the file system, in small steps between other work.
    pub async fn defragment(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Defragment { reply })?;
        // Not a raft request: it takes as long as it takes, as in etcd.
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// The database as of now, consistent and durable; a view that does not move. Stream it away from the async threads.
    pub async fn snapshot(&self) -> Result<FileView<RealDisk>, Error> {
        self.ask(|reply| Command::Snapshot { reply }).await
    }

    /// The server versions of all members (`GET /version`), `None` for those that did not answer: what the leader decides the
    /// cluster version by.
    pub fn report_versions(&self, versions: Vec<(u64, Option<String>)>) {
        self.tell(Command::Versions(versions)).ok();
    }

    /// A message from a peer. [`Error::MessageToOther`] and [`Error::MessageFromRemoved`] are answered with 403.
    pub fn deliver(&self, message: Message) -> Result<(), Error> {
        if message.to != self.shared.member_id {
            return Err(Error::MessageToOther);
        }
        if self.membership().removed.binary_search(&message.from).is_ok() {
            return Err(Error::MessageFromRemoved);
        }
        self.tell(Command::Deliver(message))
    }

    /// A snapshot from the leader: `message` is its `MsgSnap`, `database` the file image that follows. Returns when the
    /// file is durable under its final name and the message is with raft; then the sender gets its 204.
    pub async fn deliver_snapshot(
        &self,
        message: Message,
        database: Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>,
    ) -> Result<u64, Error> {
        let metrics = &self.shared.metrics;
        let (started, from) = (Instant::now(), format!("{:x}", message.from));
        let size = self.save_received(message, database).await;
        match &size {
            Ok(_) => {
                metrics.snap_db_save.took(started.elapsed());
                metrics.snapshot_receive_success.with(&[&from]).inc();
            }
            Err(_) => metrics.snapshot_receive_failures.with(&[&from]).inc(),
        }
        size
    }

    async fn save_received(
        &self,
        message: Message,
        mut database: Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>,
    ) -> Result<u64, Error> {
        if message.to != self.shared.member_id {
            return Err(Error::MessageToOther);
        }
        if self.membership().removed.binary_search(&message.from).is_ok() {
            return Err(Error::MessageFromRemoved);
        }
        let index = message
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.metadata.as_ref())
            .map_or(0, |meta| meta.index);
        if index == 0 {
            return Err(Error::Internal("the MsgSnap carries no snapshot index".into()));
        }
        let failed =
            |doing: &str, error: std::io::Error| Error::Internal(format!("{doing} a received snapshot: {error}"));
        // etcd purges `tmp*` in this directory at start, so what a crash leaves behind goes away.
        let path = self
            .shared
            .snapshot_dir
            .join(format!("tmp-{:x}-{index:016x}", self.next_id()));
        let mut file = tokio::fs::File::create_new(&path)
            .await
            .map_err(|error| failed("creating", error))?;
        let mut size = 0;
        while let Some(chunk) = database.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    tokio::fs::remove_file(&path).await.ok();
                    return Err(failed("reading", error));
                }
            };
            size += chunk.len() as u64;
            tokio::io::AsyncWriteExt::write_all(&mut file, &chunk)
                .await
                .map_err(|error| failed("writing", error))?;
        }
        tokio::io::AsyncWriteExt::flush(&mut file)
            .await
            .map_err(|error| failed("writing", error))?;
        let syncing = Instant::now();
        file.sync_all().await.map_err(|error| failed("syncing", error))?;
        self.shared.metrics.snap_db_fsync.took(syncing.elapsed());
        let message = Box::new(message);
        self.ask(|reply| Command::SnapshotReceived { message, path, reply })
            .await?;
        Ok(size)
    }

    /// A peer could not be reached, or messages to it were dropped.
    pub fn report_unreachable(&self, member_id: u64) {
        self.tell(Command::Unreachable(member_id)).ok();
    }

    /// How sending a snapshot to a peer ended.
    pub fn report_snapshot(&self, member_id: u64, ok: bool) {
        self.tell(Command::SnapshotSent { member_id, ok }).ok();
    }

    /// Since when a peer has been reachable without a break.
    pub fn active_since(&self, member_id: u64) -> Option<Instant> {
        self.shared.peers.active_since(member_id)
    }

    /// Asks the run loop to end; outstanding requests are answered with [`Error::Stopped`].
    pub fn stop(&self) {
        self.tell(Command::Stop).ok();
    }

    fn tell(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|_| Error::Stopped)
    }

    /// Sends a command and awaits its answer for as long as a request may take.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let asked_at = Instant::now();
        self.tell(command(reply))?;
        match tokio::time::timeout(self.shared.limits.request_timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(self.why_timed_out(asked_at)),
        }
    }

    /// Which of etcd's timeout texts applies to a request of `asked_at` (etcd etcdserver/server.go parseProposeCtxErr).
    fn why_timed_out(&self, asked_at: Instant) -> Error {
        self.shared.vital.proposals_failed.fetch_add(1, Ordering::Relaxed);
        let now = *self.shared.leadership.borrow();
        let before = now.since.checked_sub(2 * self.shared.limits.election_timeout);
        if now.leader != 0 && before.is_some_and(|before| asked_at > before) && asked_at < now.since {
            return Error::TimeoutLeaderFailure;
        }
        let reached = |id: u64| self.active_since(id).is_some_and(|since| since <= asked_at);
        match now.leader {
            0 => Error::Timeout,
            leader if leader == self.member_id() => {
                let membership = self.membership();
                let voters = membership.members.iter().filter(|member| !member.is_learner);
                let (all, linked) = voters.fold((0, 0), |(all, linked), member| {
                    (all + 1, linked + usize::from(member.id == leader || reached(member.id)))
                });
                if linked < all / 2 + 1 {
                    Error::TimeoutConnectionLost
                } else {
                    Error::Timeout
                }
            }
            leader if !reached(leader) => Error::TimeoutConnectionLost,
            _ => Error::Timeout,
        }
    }
}
