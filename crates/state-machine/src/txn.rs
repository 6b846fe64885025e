//! What a client's KV request does: checks before it is proposed, and its execution (`etcd server/etcdserver/txn`).
//!
//! Invariants:
//! - First everything is decided and checked on the state before the transaction, then everything is executed: an execution cannot be
//!   refused half-way, and a refused transaction takes no revision.
//! - The verdict depends on the state alone, not on who asked: every member comes to the same one (etcd #18667).
//! - The checks in [`check`] are the client's interface; execution bears requests that skipped them.

mod check;
mod plan;

use disk::Disk;
use proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, ResponseHeader, TxnRequest, TxnResponse,
};

pub use check::{
    check_delete_range, check_put, check_range, check_range_stream, check_txn, is_read_only, is_serializable,
};

use crate::error::Error;
use crate::mvcc::{ReadView, Span, WriteTxn};
use plan::Plan;

/// Whether a lease exists.
pub type LeaseExists<'a> = &'a dyn Fn(i64) -> bool;

/// Whether ranges inside a writing transaction are executed. Who does not answer the client can leave them out: the state is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    /// Answer them.
    Execute,
    /// Answer them empty.
    Skip,
}

/// Executes a put.
///
/// # Errors
/// [`Error::LeaseNotFound`], [`Error::KeyNotFound`], [`Error::Storage`]; then nothing has changed.
pub fn put<D: Disk>(
    write: &mut WriteTxn<'_, D>,
    request: &PutRequest,
    leases: LeaseExists<'_>,
) -> Result<PutResponse, Error> {
    plan::check_put(&write.view(), request, leases)?;
    execute_put(write, request)
}

fn execute_put<D: Disk>(write: &mut WriteTxn<'_, D>, request: &PutRequest) -> Result<PutResponse, Error> {
    let previous = match request.ignore_value || request.ignore_lease || request.prev_kv {
        true => write.get(&request.key)?,
        false => None,
    };
    // That the key exists has been checked; a request that never passed a server and skipped the check keeps "nothing".
    let (mut value, mut lease) = (request.value.clone(), request.lease);
    if request.ignore_value {
        value = previous.as_ref().map(|kv| kv.value.clone()).unwrap_or_default();
    }
    if request.ignore_lease {
        lease = previous.as_ref().map(|kv| kv.lease).unwrap_or_default();
    }
    let revision = write.put(request.key.clone(), value, lease);
    Ok(PutResponse {
        header: header(revision),
        prev_kv: previous.filter(|_| request.prev_kv),
    })
}

/// Executes a deletion. Deleting nothing takes no revision.
///
/// # Errors
/// [`Error::Storage`].
pub fn delete_range<D: Disk>(
    write: &mut WriteTxn<'_, D>,
    request: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Error> {
    let span = Span::new(&request.key, &request.range_end);
    let prev_kvs = if request.prev_kv {
        write.view().all(span)?
    } else {
        Vec::new()
    };
    let deleted = write.delete_range(span) as i64;
    Ok(DeleteRangeResponse {
        header: header(write.revision()),
        deleted,
        prev_kvs,
    })
}

/// Executes a transaction.
///
/// # Errors
/// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::LeaseNotFound`], [`Error::KeyNotFound`]: nothing has changed then.
/// [`Error::Storage`]: the member must stop.
pub fn txn<D: Disk>(
    write: &mut WriteTxn<'_, D>,
    request: &TxnRequest,
    leases: LeaseExists<'_>,
    ranges: Ranges,
) -> Result<TxnResponse, Error> {
    let view = write.view();
    let plan = Plan::new(&view, request)?;
    plan.check(&view, leases)?;
    drop(view);
    let mut response = plan.execute(write, ranges)?;
    response.header = header(write.revision());
    Ok(response)
}

/// Executes a transaction that only reads, at one moment.
///
/// # Errors
/// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::Storage`]; [`Error::Other`] when it would write.
pub fn read_only<D: Disk>(view: &ReadView<D>, request: &TxnRequest) -> Result<TxnResponse, Error> {
    let plan = Plan::new(view, request)?;
    plan.check(view, &|_| false)?;
    let mut response = plan.read(view)?;
    response.header = header(view.current_revision());
    Ok(response)
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

#[cfg(test)]
mod tests;
