//! Maintenance (etcd server/etcdserver/api/v3rpc/maintenance.go).
//!
//! Invariants: headers of Defragment and MoveLeader are absent, as in etcd; a snapshot ends with the SHA-256 of all that came
//! before, which `etcdutl snapshot restore` checks.

use std::time::Instant;

use bytes::Bytes;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::maintenance_server::Maintenance;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeRequest,
    DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, InternalRaftRequest,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use replica::state_machine::Error as Refusal;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::Api;
use super::call::{refused, status};
use super::kv::unexpected;
use crate::config::{DEFAULT_QUOTA_BYTES, VERSION};
use crate::handle::{Error, Response as Applied};
use crate::member::Member;
use crate::metrics::rpc::Method;

/// Bytes of a snapshot in one message.
const CHUNK_BYTES: usize = 32 * 1024;
/// Bytes of a snapshot that are read at once.
const READ_BYTES: usize = 1024 * 1024;
/// Messages of a snapshot on their way; what a slow client makes the server hold.
const CHUNKS_WAITING: usize = 32;

#[tonic::async_trait]
impl Maintenance for Api {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::Alarm, &metadata, |asker| async move {
            if request.action() != AlarmAction::Get {
                refused(self.member.auth.table.check_admin(&asker.info()?))?;
            }
            let request = InternalRaftRequest {
                alarm: Some(request),
                ..InternalRaftRequest::default()
            };
            match self.member.propose("Alarm", &asker, request).await? {
                Applied::Alarm(mut response) => {
                    self.member.fill(&mut response.header);
                    Ok(response)
                }
                other => Err(unexpected(&other)),
            }
        })
        .await
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.unary(Method::Status, request.metadata(), |_| async move {
            Ok(self.member.status())
        })
        .await
    }

    async fn defragment(&self, request: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        self.unary(Method::Defragment, request.metadata(), |_| async move {
            tracing::info!("starting defragment");
            let metrics = &self.member.metrics;
            let started = Instant::now();
            metrics.defrag_inflight.add(1);
            let result = self.member.handle.defragment().await;
            metrics.defrag_inflight.add(-1);
            result.inspect_err(|error| tracing::warn!(%error, "failed to defragment"))?;
            metrics.backend_defrag.took(started.elapsed());
            tracing::info!(took = ?started.elapsed(), "finished defragment");
            Ok(DefragmentResponse { header: None })
        })
        .await
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.unary(Method::Hash, request.metadata(), |_| async move {
            let kv = self.member.kv.clone();
            let hashed = tokio::task::spawn_blocking(move || kv.hash_all()).await;
            let (hash, revision) = refused(hashed.map_err(|error| Error::Internal(error.to_string()))?)?;
            let mut header = self.member.header_without_revision();
            header.revision = revision;
            Ok(HashResponse {
                header: Some(header),
                hash,
            })
        })
        .await
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::HashKv, &metadata, |_| self.member.hash_kv(request.revision))
            .await
    }

    type SnapshotStream = ReceiverStream<Result<SnapshotResponse, Status>>;

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let (call, ..) = self.stream(Method::Snapshot, request.metadata()).await?;
        call.received();
        let snapshot = match self.member.handle.snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                let status = status(error);
                call.end(status.code());
                return Err(status);
            }
        };
        let (answers, stream) = mpsc::channel(CHUNKS_WAITING);
        let member = self.member.clone();
        let version = member.cluster_version().unwrap_or_default();
        tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let total = snapshot.size();
            tracing::info!(
                total_bytes = total,
                storage_version = version,
                "sending database snapshot to client"
            );
            let send = |remaining_bytes: u64, blob: Bytes| {
                let response = SnapshotResponse {
                    header: None,
                    remaining_bytes,
                    blob,
                    version: version.clone(),
                };
                let sent = answers.blocking_send(Ok(response)).is_ok();
                call.sent();
                sent
            };
            let code = match send_snapshot(snapshot.stream(READ_BYTES), total, send) {
                Ok(true) => {
                    member.metrics.backend_snapshot.took(started.elapsed());
                    tracing::info!(total_bytes = total, took = ?started.elapsed(), "successfully sent database snapshot to client");
                    Code::Ok
                }
                Ok(false) => Code::Cancelled,
                Err(error) => {
                    tracing::warn!(error, "failed to send a snapshot");
                    answers.blocking_send(Err(Status::unknown(error))).ok();
                    Code::Unknown
                }
            };
            call.end(code);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::MoveLeader, &metadata, |_| async move {
            self.member.handle.transfer_leader(request.target_id).await?;
            Ok(MoveLeaderResponse { header: None })
        })
        .await
    }

    async fn downgrade(&self, request: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::Downgrade, &metadata, |asker| async move {
            // protobuf lets numbers through that are no action.
            let action =
                DowngradeAction::try_from(request.action).map_err(|_| Error::Refused(Refusal::UnknownMethod))?;
            let version = match action {
                DowngradeAction::Validate => self.member.downgrade_validate(&request.version).await?,
                DowngradeAction::Enable => self.member.downgrade_enable(&asker, &request.version).await?,
                DowngradeAction::Cancel => self.member.downgrade_cancel(&asker).await?,
            };
            Ok(DowngradeResponse {
                header: Some(self.member.header()),
                version,
            })
        })
        .await
    }
}

/// Zeros are left out, and a kind that nobody knows is a number.
fn alarm_text(alarm: &AlarmMember) -> String {
    let member = (alarm.member_id != 0).then(|| format!("memberID:{}", alarm.member_id));
    let kind = (alarm.alarm != 0).then(|| match AlarmType::try_from(alarm.alarm) {
        Ok(kind) => format!("alarm:{}", kind.as_str_name()),
        Err(_) => format!("alarm:{}", alarm.alarm),
    });
    member.into_iter().chain(kind).collect::<Vec<_>>().join(" ")
}

impl Member {
    fn status(&self) -> StatusResponse {
        let status = self.handle.status();
        let version = self.cluster_version();
        let mut errors = Vec::new();
        if status.leader == 0 {
            errors.push(Error::NoLeader.to_string());
        }
        for alarm in self.alarms() {
            // As protobuf's text format has it; Go's spacing between fields is random by design.
            errors.push(alarm_text(&alarm));
        }
        StatusResponse {
            header: Some(self.header()),
            version: VERSION.into(),
            db_size: self.kv.size() as i64,
            leader: status.leader,
            raft_index: status.commit,
            raft_term: status.term,
            raft_applied_index: status.applied,
            errors,
            db_size_in_use: self.kv.size_in_use() as i64,
            is_learner: status.is_learner,
            storage_version: version.unwrap_or_default(),
            db_size_quota: match self.config.quota_backend_bytes {
                0 => DEFAULT_QUOTA_BYTES,
                quota => quota,
            },
            downgrade_info: Some(self.downgrade_info()),
        }
    }
}

/// Sends a snapshot in pieces and then its digest. `false` when the client is gone.
fn send_snapshot<E: std::fmt::Display>(
    chunks: impl Iterator<Item = Result<Bytes, E>>,
    total: u64,
    send: impl Fn(u64, Bytes) -> bool,
) -> Result<bool, String> {
    let mut digest = Sha256::new();
    let mut sent = 0u64;
    for chunk in chunks {
        let mut chunk = chunk.map_err(|error| error.to_string())?;
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(CHUNK_BYTES));
            digest.update(&piece);
            sent += piece.len() as u64;
            if !send(total.saturating_sub(sent), piece) {
                return Ok(false);
            }
        }
    }
    if sent != total {
        return Err(format!("the snapshot ended after {sent} of {total} bytes"));
    }
    Ok(send(0, Bytes::copy_from_slice(&digest.finalize())))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_snapshot_comes_in_pieces_and_ends_with_its_digest() {
        let whole: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        let chunks = whole
            .chunks(70_000)
            .map(|chunk| Ok::<_, String>(Bytes::copy_from_slice(chunk)));
        let sent = RefCell::new(Vec::new());
        let send = |remaining, blob| {
            sent.borrow_mut().push((remaining, blob));
            true
        };
        assert_eq!(send_snapshot(chunks, 100_000, send), Ok(true));
        let sent = sent.into_inner();
        let (_, digest) = sent.last().unwrap();
        assert_eq!(digest.as_ref(), Sha256::digest(&whole).as_slice());
        let data: Vec<u8> = sent[..sent.len() - 1]
            .iter()
            .flat_map(|(_, blob)| blob.to_vec())
            .collect();
        assert_eq!(data, whole);
        assert_eq!(sent[0].0, 100_000 - CHUNK_BYTES as u64);
        assert_eq!(sent[sent.len() - 2].0, 0);
        let short = [Ok::<_, String>(Bytes::from_static(b"ab"))];
        assert!(
            send_snapshot(short.into_iter(), 3, |_, _| true)
                .unwrap_err()
                .contains("2 of 3")
        );
    }
}
