//! Elections (etcd server/etcdserver/api/v3election).
//!
//! Invariants: the leader is the key that was created first under the election's name; what it proclaims is the value of that key, and
//! whoever resigns or loses the lease loses the key.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::range_request::SortOrder;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{DeleteRangeRequest, ResponseHeader, TxnRequest};
use proto::mvccpb::KeyValue;
use proto::v3electionpb::election_server::Election;
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::Api;
use super::call::{Call, status, stream_over};
use super::coordination::{
    Caller, Place, by_creation, created_at, found, get, handed_on, key_of, op, prefix_end, prefix_of, put, revision_of,
};
use crate::handle::Error;
use crate::metrics::rpc::Method;

const MISSING_LEADER: &str = "\"leader\" field must be provided";
const NOT_LEADER: &str = "election: not leader";
const NO_LEADER: &str = "election: no leader";

#[tonic::async_trait]
impl Election for Api {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let caller = Caller::new(self, &metadata);
        self.unary(Method::Campaign, &metadata, |_| async move {
            campaign(&caller, request).await.map_err(handed_on)
        })
        .await
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let caller = Caller::new(self, &metadata);
        self.unary(Method::Proclaim, &metadata, |_| async move {
            let leader = request.leader.ok_or_else(|| Error::Internal(MISSING_LEADER.into()))?;
            let header = proclaim(&caller, &leader, request.value).await.map_err(handed_on)?;
            Ok(ProclaimResponse { header })
        })
        .await
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let caller = Caller::new(self, &metadata);
        self.unary(Method::Leader, &metadata, |_| async move {
            let first = by_creation(&prefix_of(&request.name), SortOrder::Ascend);
            let found = caller.range(&first).await.map_err(handed_on)?;
            let kv = found.kvs.into_iter().next();
            let kv = kv.ok_or_else(|| Error::Internal(NO_LEADER.into()))?;
            Ok(LeaderResponse {
                header: found.header,
                kv: Some(kv),
            })
        })
        .await
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let (call, requires_leader, _) = self.stream(Method::Observe, request.metadata()).await?;
        call.received();
        let (metadata, _, request) = request.into_parts();
        let caller = Caller::new(self, &metadata);
        let member = self.member.clone();
        let (answers, stream) = mpsc::channel(16);
        let prefix = prefix_of(&request.name);
        tokio::spawn(async move {
            let code = tokio::select! {
                // etcd ends the stream without an error when it cannot go on.
                _ = observe(&caller, &prefix, &answers, &call) => Code::Ok,
                error = stream_over(member, requires_leader) => {
                    let status = status(error);
                    let code = status.code();
                    answers.send(Err(status)).await.ok();
                    code
                }
                () = answers.closed() => Code::Cancelled,
            };
            call.end(code);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let caller = Caller::new(self, &metadata);
        self.unary(Method::Resign, &metadata, |_| async move {
            let leader = request.leader.ok_or_else(|| Error::Internal(MISSING_LEADER.into()))?;
            let request = TxnRequest {
                compare: vec![created_at(&leader.key, leader.rev)],
                success: vec![op(Op::RequestDeleteRange(DeleteRangeRequest {
                    key: leader.key,
                    ..DeleteRangeRequest::default()
                }))],
                ..TxnRequest::default()
            };
            let resigned = caller.txn(request).await.map_err(handed_on)?;
            Ok(ResignResponse {
                header: resigned.header,
            })
        })
        .await
    }
}

async fn campaign(caller: &Caller, request: CampaignRequest) -> Result<CampaignResponse, Error> {
    let lease = caller.lease(request.lease).await?;
    let prefix = prefix_of(&request.name);
    let key = key_of(&prefix, lease);
    let entered = caller
        .txn(TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![put(&key, request.value.clone(), lease)],
            failure: vec![get(&key)],
        })
        .await?;
    let mut leader = LeaderKey {
        name: request.name,
        key: key.clone(),
        rev: revision_of(&entered),
        lease,
    };
    let existing = match entered.succeeded {
        true => None,
        false => found(&entered, 0),
    };
    if let Some(kv) = existing {
        leader.rev = kv.create_revision;
    }
    let place = Place::new(caller, &key, leader.rev);
    if existing.is_some_and(|kv| kv.value != request.value) {
        proclaim(caller, &leader, request.value).await?;
    }
    caller.wait_deletes(&prefix, leader.rev - 1).await?;
    place.keep();
    // Also when something was proclaimed: it is the header of the entry, as etcd has it.
    Ok(CampaignResponse {
        header: entered.header,
        leader: Some(leader),
    })
}

async fn proclaim(caller: &Caller, leader: &LeaderKey, value: Bytes) -> Result<Option<ResponseHeader>, Error> {
    let request = TxnRequest {
        compare: vec![created_at(&leader.key, leader.rev)],
        success: vec![put(&leader.key, value, leader.lease)],
        ..TxnRequest::default()
    };
    let proclaimed = caller.txn(request).await?;
    match proclaimed.succeeded {
        true => Ok(proclaimed.header),
        false => Err(Error::Internal(NOT_LEADER.into())),
    }
}

/// Tells of every leader, and of what it proclaims, until the client or the rights are gone.
async fn observe(
    caller: &Caller,
    prefix: &Bytes,
    answers: &mpsc::Sender<Result<LeaderResponse, Status>>,
    call: &Call,
) -> Result<(), Error> {
    let tell = async |header: ResponseHeader, kv: KeyValue| {
        let sent = answers.send(Ok(LeaderResponse {
            header: Some(header),
            kv: Some(kv),
        }));
        sent.await.map_err(|_| Error::Stopped)?;
        call.sent();
        Ok::<(), Error>(())
    };
    let header = |revision| ResponseHeader {
        revision,
        ..caller.api.member.header_without_revision()
    };
    loop {
        let first = caller.range(&by_creation(prefix, SortOrder::Ascend)).await?;
        let now = first.header.map_or(0, |header| header.revision);
        let (revision, leader) = match first.kvs.into_iter().next() {
            Some(leader) => (now, leader),
            None => {
                let mut watching = caller.watch(prefix.clone(), prefix_end(prefix), now).await?;
                loop {
                    let (_, events) = watching.next().await?;
                    if let Some(event) = events.iter().find(|event| !event.deleted) {
                        break (event.kv.mod_revision, Arc::unwrap_or_clone(event.clone()).kv);
                    }
                }
            }
        };
        let key = leader.key.clone();
        tell(header(revision), leader).await?;
        let mut watching = caller.watch(key, Bytes::new(), revision + 1).await?;
        'leads: loop {
            let (revision, events) = watching.next().await?;
            for event in events {
                if event.deleted {
                    break 'leads;
                }
                tell(header(revision), event.kv.clone()).await?;
            }
        }
    }
}
