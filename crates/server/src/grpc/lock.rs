//! Locks (etcd server/etcdserver/api/v3lock).
//!
//! Invariants: the lock belongs to the key that was created first under its name; it ends with that key, and so with its lease.

use proto::etcdserverpb::TxnRequest;
use proto::etcdserverpb::range_request::SortOrder;
use proto::etcdserverpb::request_op::Request as Op;
use proto::v3lockpb::lock_server::Lock;
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::{Request, Response, Status};

use super::Api;
use super::coordination::{
    Caller, Place, by_creation, created_at, found, get, handed_on, key_of, op, prefix_of, put, revision_of,
};
use crate::handle::Error;
use crate::metrics::rpc::Method;

#[tonic::async_trait]
impl Lock for Api {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let caller = Caller::new(self, &metadata);
        self.unary(Method::Lock, &metadata, |_| async move {
            acquire(&caller, request).await.map_err(handed_on)
        })
        .await
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let caller = Caller::new(self, &metadata);
        self.unary(Method::Unlock, &metadata, |_| async move {
            let deleted = caller.delete(request.key).await.map_err(handed_on)?;
            Ok(UnlockResponse { header: deleted.header })
        })
        .await
    }
}

async fn acquire(caller: &Caller, request: LockRequest) -> Result<LockResponse, Error> {
    let lease = caller.lease(request.lease).await?;
    let prefix = prefix_of(&request.name);
    let key = key_of(&prefix, lease);
    let owner = op(Op::RequestRange(by_creation(&prefix, SortOrder::Ascend)));
    let entered = caller
        .txn(TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![put(&key, Vec::new().into(), lease), owner.clone()],
            // The lease may be in the queue already, and may hold the lock.
            failure: vec![get(&key), owner],
        })
        .await?;
    let own = match entered.succeeded {
        true => revision_of(&entered),
        false => found(&entered, 0).map_or(0, |kv| kv.create_revision),
    };
    if found(&entered, 1).is_none_or(|owner| owner.create_revision == own) {
        let header = entered.header;
        return Ok(LockResponse { header, key });
    }
    let place = Place::new(caller, &key, own);
    caller.wait_deletes(&prefix, own - 1).await?;
    let still = caller
        .range(&proto::etcdserverpb::RangeRequest {
            key: key.clone(),
            ..Default::default()
        })
        .await?;
    place.keep();
    if still.kvs.is_empty() {
        return Err(Error::Internal("mutex: session is expired".into()));
    }
    Ok(LockResponse {
        header: still.header,
        key,
    })
}
