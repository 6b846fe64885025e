//! What locks and elections are made of (etcd client/v3/concurrency): keys under a prefix, owned by leases, in the order of their
//! creation.
//!
//! Invariants:
//! - All that happens here happens on behalf of the caller, whose token is looked at again for each step: a lock that is waited for
//!   outlives tokens and rights.
//! - Errors of the steps reach the client with their text and the code `Unknown`, as etcd's in-process client hands them on.

use std::sync::Arc;

use bytes::Bytes;
use disk::RealDisk;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Done;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TxnRequest, TxnResponse, WatchCreateRequest,
};
use replica::state_machine::Error as Refusal;
use replica::state_machine::mvcc::{Delivery, Event, Notify, StreamOptions, WatchStream};
use tonic::metadata::MetadataMap;

use super::Api;
use crate::auth::Asker;
use crate::handle::Error;

/// Seconds that a lease lives which was made because the caller brought none.
const LEASE_TTL: i64 = 60;

/// One caller of a lock or an election.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub api: Api,
    metadata: MetadataMap,
}

impl Caller {
    pub fn new(api: &Api, metadata: &MetadataMap) -> Caller {
        Caller {
            api: api.clone(),
            metadata: metadata.clone(),
        }
    }

    pub async fn asker(&self) -> Asker {
        self.api.asker(&self.metadata).await
    }

    /// The lease that a key is tied to: the one that was brought, or a new one.
    pub async fn lease(&self, brought: i64) -> Result<i64, Error> {
        if brought != 0 {
            return Ok(brought);
        }
        let request = LeaseGrantRequest {
            ttl: LEASE_TTL,
            ..LeaseGrantRequest::default()
        };
        let granted = self.api.do_lease_grant(&self.asker().await, request).await?;
        Ok(granted.id)
    }

    pub async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.api.do_range(&self.asker().await, request).await
    }

    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        self.api.do_txn(&self.asker().await, request).await
    }

    pub async fn delete(&self, key: Bytes) -> Result<DeleteRangeResponse, Error> {
        let request = DeleteRangeRequest {
            key,
            ..DeleteRangeRequest::default()
        };
        self.api.do_delete_range(&self.asker().await, request).await
    }

    /// Watches a key, or a prefix, from a revision on.
    pub async fn watch(&self, key: Bytes, range_end: Bytes, start_revision: i64) -> Result<Watching, Error> {
        let member = &self.api.member;
        let info = self.asker().await.info()?;
        member.auth.table.check_read(&info, &key, &range_end)?;
        let wake = Arc::new(Wake::default());
        let stream = member
            .watches
            .open(StreamOptions::default(), wake.clone(), member.uptime());
        stream.create(&WatchCreateRequest {
            key,
            range_end,
            start_revision,
            ..WatchCreateRequest::default()
        });
        Ok(Watching { stream, wake })
    }

    /// Waits until no key under the prefix is left that was created at or before a revision.
    pub async fn wait_deletes(&self, prefix: &Bytes, max_create_revision: i64) -> Result<(), Error> {
        loop {
            let request = RangeRequest {
                max_create_revision,
                ..by_creation(prefix, SortOrder::Descend)
            };
            let found = self.range(&request).await?;
            let Some(last) = found.kvs.into_iter().next() else {
                return Ok(());
            };
            let revision = found.header.map_or(0, |header| header.revision);
            let mut watching = self.watch(last.key, Bytes::new(), revision).await?;
            while !watching.next().await?.1.iter().any(|event| event.deleted) {}
        }
    }
}

/// The key that is first, or last, under a prefix by creation.
pub(super) fn by_creation(prefix: &Bytes, order: SortOrder) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    }
}

/// Where the keys with a prefix end.
pub(super) fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte < 0xff);
    match kept {
        None => Bytes::from_static(&[0]),
        Some(at) => {
            let mut end = prefix[..=at].to_vec();
            end[at] += 1;
            end.into()
        }
    }
}

/// A prefix as it is stored: keys of other names that begin alike are none of ours.
pub(super) fn prefix_of(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key of one lease under a prefix.
pub(super) fn key_of(prefix: &[u8], lease: i64) -> Bytes {
    let lease = match lease {
        // Go prints the sign and the digits of what is behind it.
        negative if negative < 0 => format!("-{:x}", negative.unsigned_abs()),
        lease => format!("{lease:x}"),
    };
    [prefix, lease.as_bytes()].concat().into()
}

/// Whether a key was created at this revision (0: is not there).
pub(super) fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

pub(super) fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

pub(super) fn put(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    op(Op::RequestPut(PutRequest {
        key: key.clone(),
        value,
        lease,
        ..PutRequest::default()
    }))
}

pub(super) fn get(key: &Bytes) -> RequestOp {
    op(Op::RequestRange(RangeRequest {
        key: key.clone(),
        ..RangeRequest::default()
    }))
}

/// What a range in a transaction found.
pub(super) fn found(response: &TxnResponse, at: usize) -> Option<&proto::mvccpb::KeyValue> {
    match response.responses.get(at)?.response.as_ref()? {
        Done::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

pub(super) fn revision_of(response: &TxnResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

/// An error of a step as etcd's in-process client hands it on.
pub(super) fn handed_on(error: Error) -> Error {
    Error::Internal(error.to_string())
}

#[derive(Debug, Default)]
struct Wake(tokio::sync::Notify);

impl Notify for Wake {
    fn notify(&self) {
        self.0.notify_one();
    }
}

/// One watcher of a caller.
pub(super) struct Watching {
    stream: WatchStream<RealDisk>,
    wake: Arc<Wake>,
}

impl Watching {
    /// The next changes, and the store's revision.
    ///
    /// # Errors
    /// What was to be read is compacted away.
    pub async fn next(&mut self) -> Result<(i64, Vec<Arc<Event>>), Error> {
        loop {
            match self.stream.pop() {
                Some(Delivery::Events { revision, events, .. }) => return Ok((revision, events)),
                Some(Delivery::Compacted { .. }) => return Err(Error::Refused(Refusal::Compacted)),
                Some(Delivery::Refused { reason, .. }) => return Err(Error::Internal(reason)),
                Some(Delivery::Created { .. } | Delivery::Canceled { .. } | Delivery::Progress { .. }) => {}
                None => self.wake.0.notified().await,
            }
        }
    }
}

/// Gives a place in the queue up when its caller goes before it is their turn.
pub(super) struct Place {
    caller: Caller,
    /// The key, and the revision at which it was created; `None` once it is settled.
    kept: Option<(Bytes, i64)>,
}

impl Place {
    pub fn new(caller: &Caller, key: &Bytes, revision: i64) -> Place {
        Place {
            caller: caller.clone(),
            kept: Some((key.clone(), revision)),
        }
    }

    /// It stays.
    pub fn keep(mut self) {
        self.kept = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((key, revision)) = self.kept.take() else {
            return;
        };
        let caller = self.caller.clone();
        tokio::spawn(async move {
            let delete = op(Op::RequestDeleteRange(DeleteRangeRequest {
                key: key.clone(),
                ..DeleteRangeRequest::default()
            }));
            let request = TxnRequest {
                compare: vec![created_at(&key, revision)],
                success: vec![delete],
                ..TxnRequest::default()
            };
            if let Err(error) = caller.txn(request).await {
                tracing::debug!(%error, "cannot give up a place in a queue; it ends with its lease");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcds_client() {
        assert_eq!(key_of(&prefix_of(b"job"), 0x694d_7a1f), "job/694d7a1f");
        assert_eq!(key_of(b"job/", -1), "job/-1");
        assert_eq!(prefix_end(b"job/"), "job0");
        assert_eq!(prefix_end(b"a\xff\xff"), "b");
        assert_eq!(prefix_end(b"\xff"), "\0");
    }
}
