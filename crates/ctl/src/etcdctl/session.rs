//! A session: a lease that is renewed as long as the program runs, and what locks and elections have in common.

use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::mvccpb::event::EventType;
use tokio::sync::watch;

use super::client::{Client, Failure, Policy};
use super::keys::prefix_end;
use super::lease::renew;

/// A lease that is kept alive.
pub(super) struct LeaseSession {
    pub id: i64,
    /// Closed when the lease is gone.
    lost: watch::Receiver<()>,
}

impl LeaseSession {
    /// Takes a lease of `ttl` seconds and begins to renew it.
    ///
    /// # Errors
    /// What the server says.
    pub async fn begin(client: &Client, ttl: i64) -> Result<LeaseSession, Failure> {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        let method = "/etcdserverpb.Lease/LeaseGrant";
        let lease: pb::LeaseGrantResponse = client.call(method, Policy::Repeatable, &request, None).await?;
        let (alive, lost) = watch::channel(());
        let (client, id) = (client.clone(), lease.id);
        tokio::spawn(async move {
            let _alive = alive;
            while let Ok(answer) = renew(&client, id).await {
                if answer.ttl <= 0 {
                    break;
                }
                let pause = Duration::from_secs(answer.ttl.unsigned_abs()) / 3;
                tokio::time::sleep(pause.max(Duration::from_millis(300))).await;
            }
        });
        Ok(LeaseSession { id, lost })
    }

    /// Waits until the lease is gone.
    pub async fn lost(&mut self) {
        while self.lost.changed().await.is_ok() {}
    }
}

/// "This key was created at this revision"; 0 = it is not there.
pub(super) fn created_at(key: &[u8], revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.to_vec().into(),
        range_end: Default::default(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

pub(super) fn op(request: Request) -> pb::RequestOp {
    let request = Some(request);
    pb::RequestOp { request }
}

pub(super) fn get_key(key: &[u8]) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_vec().into(),
        ..Default::default()
    }
}

pub(super) fn put_key(key: &[u8], value: &[u8], lease: i64) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_vec().into(),
        value: value.to_vec().into(),
        lease,
        ..Default::default()
    }
}

/// The key below a prefix that was created first (or last, up to a revision).
pub(super) fn by_creation(prefix: &[u8], order: SortOrder, max_create_revision: i64) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.to_vec().into(),
        range_end: prefix_end(prefix).into(),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        max_create_revision,
        ..Default::default()
    }
}

pub(super) async fn range(client: &Client, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Failure> {
    client
        .call("/etcdserverpb.KV/Range", Policy::Repeatable, request, None)
        .await
}

pub(super) async fn transact(client: &Client, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Failure> {
    client.call("/etcdserverpb.KV/Txn", Policy::Once, request, None).await
}

pub(super) fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// Waits until every key below a prefix that was created up to a revision is gone; always for the youngest of them, so that one
/// deletion wakes one waiter.
///
/// # Errors
/// What the server says.
pub(super) async fn wait_deletes(client: &Client, prefix: &[u8], up_to: i64) -> Result<(), Failure> {
    loop {
        let last = range(client, &by_creation(prefix, SortOrder::Descend, up_to)).await?;
        let Some(kv) = last.kvs.first() else { return Ok(()) };
        let mut watching = client.watch(pb::WatchCreateRequest {
            key: kv.key.clone(),
            start_revision: revision(last.header.as_ref()),
            ..Default::default()
        });
        'deleted: loop {
            let Some(response) = watching.next().await? else {
                return Err(Failure::Other("lost watcher waiting for delete".into()));
            };
            if response.canceled {
                let text = "etcdserver: mvcc: required revision has been compacted";
                return Err(Failure::Other(text.into()));
            }
            if response.events.iter().any(|event| event.r#type() == EventType::Delete) {
                break 'deleted;
            }
        }
    }
}
