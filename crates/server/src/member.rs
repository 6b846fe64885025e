//! This member as gRPC, HTTP and peers see it: the run loop's handle, the readers beside it, settings and counters.
//!
//! Invariants:
//! - Nothing here waits for the disk: reads go to views, writes through the log.
//! - A request that only the leader can answer is answered by the leader, whichever member was asked.

mod downgrade;
mod forward;
mod leases;
mod membership;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use disk::RealDisk;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, InternalRaftRequest, RangeRequest, RangeResponse, RequestHeader,
    ResponseHeader, TxnRequest, TxnResponse, alarm_request,
};
use replica::state_machine::Error as Refusal;
use replica::state_machine::lease::Leases;
use replica::state_machine::mvcc::{KvReader, WatchHub};
use replica::state_machine::quota::Quota;
use replica::state_machine::txn;

use crate::auth::{Asker, Authentication};
use crate::config::{Config, VERSION};
use crate::handle::{Error, Handle, Response};
use crate::listener::Stop;
use crate::metrics::{Metrics, Scrape};
use crate::peer::Transport;

/// Ranges over more keys than this leave the async threads: reading them may take long.
const INLINE_KEYS_MAX: i64 = 64;

/// See the module. Share it by `Arc`.
pub struct Member {
    /// The run loop.
    pub handle: Handle,
    /// The key space.
    pub kv: KvReader<RealDisk>,
    /// Watchers of the key space.
    pub watches: WatchHub<RealDisk>,
    /// The lease table.
    pub leases: Leases,
    /// Zero of the run loop's clock.
    pub clock: Instant,
    /// Users and roles, and how it is found out who asks.
    pub auth: Arc<Authentication>,
    /// Settings.
    pub config: Config,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The links to the peers.
    pub transport: Arc<Transport>,
    /// Becomes true when the member stops.
    pub stop: Stop,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Member({:x})", self.handle.member_id())
    }
}

impl Member {
    /// The time on the run loop's clock.
    pub fn uptime(&self) -> Duration {
        self.clock.elapsed()
    }

    /// The leader this member knows; 0 without one.
    pub fn leader(&self) -> u64 {
        self.handle.leader()
    }

    /// Whether this member is a learner.
    pub fn is_learner(&self) -> bool {
        self.handle.is_learner()
    }

    /// Raised alarms.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.handle.alarms()
    }

    /// A header with the current revision.
    pub fn header(&self) -> ResponseHeader {
        ResponseHeader {
            revision: self.kv.current_revision(),
            ..self.header_without_revision()
        }
    }

    /// A header of the membership calls: they carry no revision.
    pub fn header_without_revision(&self) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.handle.cluster_id(),
            member_id: self.handle.member_id(),
            revision: 0,
            raft_term: self.handle.term(),
        }
    }

    /// Completes a header that the state machine began: it sets the revision at most.
    pub fn fill(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(match revision {
            0 => self.header(),
            revision => ResponseHeader {
                revision,
                ..self.header_without_revision()
            },
        });
    }

    /// Answers a range on somebody's behalf; the header holds the revision alone.
    ///
    /// # Errors
    /// Missing rights, and those of linearizable reads and of [`KvReader::range`].
    pub async fn range(&self, asker: &Asker, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let started = Instant::now();
        let result = self.range_inner(Some(asker), request).await;
        let success = if result.is_ok() { "true" } else { "false" };
        self.metrics
            .request_duration
            .with(&["Range", success])
            .took(started.elapsed());
        self.metrics.ranges.inc();
        result
    }

    /// Whether this member can read, as health checks ask: on nobody's behalf, and nobody is shown what was read.
    ///
    /// # Errors
    /// As [`Member::range`], rights aside.
    pub async fn can_read(&self, serializable: bool) -> Result<(), Error> {
        let request = RangeRequest {
            key: b"\0".as_slice().into(),
            keys_only: true,
            limit: 1,
            serializable,
            ..RangeRequest::default()
        };
        self.range_inner(None, &request).await.map(drop)
    }

    async fn range_inner(&self, asker: Option<&Asker>, request: &RangeRequest) -> Result<RangeResponse, Error> {
        if !request.serializable {
            self.handle.linearizable().await?;
        }
        let asker = asker.map(Asker::info).transpose()?;
        if let Some(info) = &asker {
            self.auth.table.check_range(info, request)?;
        }
        let started = Instant::now();
        let few = request.range_end.is_empty() || request.count_only || (1..=INLINE_KEYS_MAX).contains(&request.limit);
        let result = if few {
            self.kv.range(request)
        } else {
            let (kv, request) = (self.kv.clone(), request.clone());
            off_thread(move || kv.range(&request)).await?
        };
        let success = if result.is_ok() { "true" } else { "false" };
        self.metrics.range_duration.with(&[success]).took(started.elapsed());
        self.check_auth_revision(asker.map_or(0, |info| info.revision))?;
        Ok(result?)
    }

    /// Answers a transaction that only reads.
    ///
    /// # Errors
    /// As [`Member::range`].
    pub async fn txn_read_only(&self, asker: &Asker, request: TxnRequest) -> Result<TxnResponse, Error> {
        let started = Instant::now();
        if !txn::is_serializable(&request) {
            self.handle.linearizable().await?;
        }
        let asker = asker.info()?;
        self.auth.table.check_txn(&asker, &request)?;
        let kv = self.kv.clone();
        let result = off_thread(move || kv.txn_read_only(&request)).await?;
        let success = if result.is_ok() { "true" } else { "false" };
        self.metrics
            .request_duration
            .with(&["ReadonlyTxn", success])
            .took(started.elapsed());
        self.metrics.txns.inc();
        self.check_auth_revision(asker.revision)?;
        Ok(result?)
    }

    /// After a read: the rights must still be those that it was judged by; 0 is the revision of who was not asked.
    ///
    /// # Errors
    /// `revision of auth store is old`.
    pub fn check_auth_revision(&self, judged_at: u64) -> Result<(), Error> {
        if judged_at != 0 && judged_at != self.auth.table.revision() {
            return Err(Error::Refused(Refusal::AuthOldRevision));
        }
        Ok(())
    }

    /// Proposes a request on somebody's behalf, who is judged again when it is applied; `kind` is its name in the metrics.
    ///
    /// # Errors
    /// An invalid token, and those of [`Handle::propose`].
    pub async fn propose(
        &self,
        kind: &'static str,
        asker: &Asker,
        mut request: InternalRaftRequest,
    ) -> Result<Response, Error> {
        let info = asker.info()?;
        request.header = Some(RequestHeader {
            id: 0,
            username: info.username,
            auth_revision: info.revision,
        });
        let started = Instant::now();
        let result = self.handle.propose(request).await;
        let success = if result.is_ok() { "true" } else { "false" };
        self.metrics
            .request_duration
            .with(&[kind, success])
            .took(started.elapsed());
        result
    }

    /// Refuses a request that does not fit into the quota, and raises the NOSPACE alarm.
    ///
    /// # Errors
    /// `etcdserver: mvcc: database space exceeded`.
    pub async fn fits_quota(&self, cost_bytes: u64) -> Result<(), Error> {
        if Quota::from_config(self.config.quota_backend_bytes).fits(self.kv.size(), cost_bytes) {
            return Ok(());
        }
        // The client hears about the space either way, as in etcd.
        if let Err(error) = self.raise_alarm(self.handle.member_id(), AlarmType::Nospace).await {
            tracing::warn!(%error, "failed to raise the NOSPACE alarm");
        }
        Err(Error::Refused(Refusal::NoSpace))
    }

    /// Raises an alarm for a member, on nobody's behalf; 0 stands for all of them.
    ///
    /// # Errors
    /// Those of [`Handle::propose`].
    pub async fn raise_alarm(&self, member_id: u64, alarm: AlarmType) -> Result<(), Error> {
        let request = InternalRaftRequest {
            alarm: Some(AlarmRequest {
                member_id,
                action: alarm_request::AlarmAction::Activate.into(),
                alarm: alarm.into(),
            }),
            ..InternalRaftRequest::default()
        };
        self.propose("Alarm", &Asker::Unasked, request).await.map(|_| ())
    }

    /// The versions of cluster and storage; `None` while the cluster has not agreed on one.
    ///
    /// A storage version follows the cluster's from 3.6 on (etcd server/storage/schema), and older data is not opened here.
    pub fn cluster_version(&self) -> Option<String> {
        self.handle.membership().cluster_version.clone()
    }

    /// The body of `/version`.
    pub fn versions_json(&self) -> Bytes {
        let version = self.cluster_version();
        let cluster = version.as_deref().unwrap_or("not_decided");
        let storage = version.as_deref().unwrap_or("unknown");
        format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#).into()
    }

    /// The body of `/metrics`.
    pub fn render_metrics(&self) -> String {
        let membership = self.handle.membership();
        let peers = self.transport.statistics();
        let peers: Vec<_> = peers
            .into_iter()
            .map(|peer| {
                let linked = self.handle.active_since(peer.peer_id).is_some();
                (peer, linked)
            })
            .collect();
        self.metrics.keys.set(self.kv.living_keys() as i64);
        self.metrics.compact_revision.set(self.kv.compact_revision());
        self.metrics.auth_revision.set(self.auth.table.revision() as i64);
        let watches = self.watches.stats();
        self.metrics.watch_streams.set(watches.streams as i64);
        self.metrics.watchers.set(watches.watchers as i64);
        self.metrics.slow_watchers.set(watches.slow_watchers as i64);
        let mut status = self.handle.status();
        status.revision = self.kv.current_revision();
        self.metrics.render(&Scrape {
            status: &status,
            membership: &membership,
            peers: &peers,
            config: &self.config,
        })
    }
}

/// Runs what may take long on a thread of its own.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Internal(format!("a read ended early: {error}")))
}
