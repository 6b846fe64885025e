//! Keys and values (etcd server/etcdserver/api/v3rpc/key.go).

use std::pin::Pin;
use std::task::{Context, Poll};

use disk::RealDisk;
use proto::etcdserverpb::kv_server::Kv;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, InternalRaftRequest, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use replica::state_machine::Error as Refusal;
use replica::state_machine::mvcc::RangeStream;
use replica::state_machine::quota::{put_cost, txn_cost};
use replica::state_machine::txn;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::Api;
use super::call::{Call, refused, status};
use crate::auth::Asker;
use crate::handle::{Error, Response as Applied};
use crate::metrics::rpc::Method;

/// An answer of the log that does not belong to the request: a fault of this server.
pub(super) fn unexpected(applied: &Applied) -> Error {
    Error::Internal(format!(
        "the log answered a request with {}",
        format!("{applied:?}").split('(').next().unwrap_or_default()
    ))
}

#[tonic::async_trait]
impl Kv for Api {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::Range, &metadata, |asker| async move {
            if self.member.is_learner() && !request.serializable {
                return Err(Error::Refused(Refusal::NotSupportedForLearner));
            }
            self.do_range(&asker, &request).await
        })
        .await
    }

    type RangeStreamStream = Chunks;

    async fn range_stream(&self, request: Request<RangeRequest>) -> Result<Response<Chunks>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (call, _, asker) = self.stream(Method::RangeStream, &metadata).await?;
        call.received();
        let started = async {
            refused(txn::check_range_stream(&request))?;
            if !request.serializable {
                self.member.handle.linearizable().await?;
            }
            let asker = asker.info()?;
            refused(self.member.auth.table.check_range(&asker, &request))?;
            let chunk_bytes = usize::try_from(self.member.config.max_request_bytes).unwrap_or(usize::MAX);
            Ok((
                refused(self.member.kv.range_stream(request, chunk_bytes))?,
                asker.revision,
            ))
        };
        match started.await {
            Ok((chunks, auth_revision)) => Ok(Response::new(Chunks {
                chunks,
                auth_revision,
                call: Some(call),
                member: self.member.clone(),
            })),
            Err(error) => {
                let status = status(error);
                call.end(status.code());
                Err(status)
            }
        }
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::Put, &metadata, |asker| async move {
            self.member.fits_quota(put_cost(&request)).await?;
            refused(txn::check_put(&request))?;
            let size = (request.key.len() + request.value.len()) as i64;
            let request = InternalRaftRequest {
                put: Some(request),
                ..InternalRaftRequest::default()
            };
            match self.member.propose("Put", &asker, request).await? {
                Applied::Put(mut response) => {
                    self.member.metrics.puts.inc();
                    self.member.metrics.put_bytes.add(size);
                    self.member.fill(&mut response.header);
                    Ok(response)
                }
                other => Err(unexpected(&other)),
            }
        })
        .await
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::DeleteRange, &metadata, |asker| async move {
            self.do_delete_range(&asker, request).await
        })
        .await
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::Txn, &metadata, |asker| async move {
            self.do_txn(&asker, request).await
        })
        .await
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::Compact, &metadata, |asker| async move {
            let request = InternalRaftRequest {
                compaction: Some(request),
                ..InternalRaftRequest::default()
            };
            match self.member.propose("Compaction", &asker, request).await? {
                Applied::Compaction(_) => Ok(CompactionResponse {
                    header: Some(self.member.header()),
                }),
                other => Err(unexpected(&other)),
            }
        })
        .await
    }
}

/// The calls themselves, after the common checks: also for who is not on the wire.
impl Api {
    pub(super) async fn do_range(&self, asker: &Asker, request: &RangeRequest) -> Result<RangeResponse, Error> {
        refused(txn::check_range(request))?;
        let mut response = self.member.range(asker, request).await?;
        self.member.fill(&mut response.header);
        Ok(response)
    }

    pub(super) async fn do_delete_range(
        &self,
        asker: &Asker,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Error> {
        refused(txn::check_delete_range(&request))?;
        let request = InternalRaftRequest {
            delete_range: Some(request),
            ..InternalRaftRequest::default()
        };
        match self.member.propose("DeleteRange", asker, request).await? {
            Applied::DeleteRange(mut response) => {
                self.member.metrics.deletes.add(response.deleted.unsigned_abs());
                self.member.fill(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn do_txn(&self, asker: &Asker, request: TxnRequest) -> Result<TxnResponse, Error> {
        self.member.fits_quota(txn_cost(&request)).await?;
        let ops_max = usize::try_from(self.member.config.max_txn_ops).unwrap_or(usize::MAX);
        refused(txn::check_txn(&request, ops_max))?;
        let mut response = if txn::is_read_only(&request) {
            self.member.txn_read_only(asker, request).await?
        } else {
            let request = InternalRaftRequest {
                txn: Some(request),
                ..InternalRaftRequest::default()
            };
            match self.member.propose("Txn", asker, request).await? {
                Applied::Txn(response) => {
                    self.member.metrics.txns.inc();
                    response
                }
                other => return Err(unexpected(&other)),
            }
        };
        self.member.fill(&mut response.header);
        Ok(response)
    }
}

/// The parts of a streamed range. Each is read when the one before has been taken.
#[derive(Debug)]
pub(super) struct Chunks {
    chunks: RangeStream<RealDisk>,
    /// The revision of the rights at which the asker was let in; 0 without authentication.
    auth_revision: u64,
    call: Option<Call>,
    member: std::sync::Arc<crate::member::Member>,
}

impl Stream for Chunks {
    type Item = Result<RangeStreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.call.is_none() {
            return Poll::Ready(None);
        }
        Poll::Ready(match this.chunks.next() {
            Some(Ok(mut part)) => {
                if part.header.is_some() {
                    this.member.fill(&mut part.header);
                }
                if let Some(call) = &this.call {
                    call.sent();
                }
                Some(Ok(RangeStreamResponse {
                    range_response: Some(part),
                }))
            }
            Some(Err(error)) => {
                let status = status(Error::Refused(error));
                if let Some(call) = this.call.take() {
                    call.end(status.code());
                }
                Some(Err(status))
            }
            None => {
                // The rights may have changed while it was read.
                let over = this.member.check_auth_revision(this.auth_revision).map_err(status);
                if let Some(call) = this.call.take() {
                    call.end(over.as_ref().map_or_else(Status::code, |()| Code::Ok));
                }
                over.err().map(Err)
            }
        })
    }
}
