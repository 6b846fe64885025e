//! What a server refuses before it proposes anything (`etcd server/etcdserver/api/v3rpc/key.go`).
//!
//! Invariants: the first wrong thing, in etcd's order, decides the error; quirks of etcd that a client can see are kept and named.

use std::collections::BTreeSet;

use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use crate::error::Error;
use crate::mvcc::read::{default_order, has_revision_filter};

/// Checks a range.
///
/// # Errors
/// [`Error::EmptyKey`], [`Error::InvalidSortOption`].
pub fn check_range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Checks a streamed range.
///
/// # Errors
/// As [`check_range`]; [`Error::RangeStreamSort`], [`Error::RangeStreamFilter`].
pub fn check_range_stream(request: &RangeRequest) -> Result<(), Error> {
    check_range(request)?;
    if !default_order(request) {
        return Err(Error::RangeStreamSort);
    }
    if has_revision_filter(request) {
        return Err(Error::RangeStreamFilter);
    }
    Ok(())
}

/// Checks a put.
///
/// # Errors
/// [`Error::EmptyKey`], [`Error::ValueProvided`], [`Error::LeaseProvided`].
pub fn check_put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a deletion.
///
/// # Errors
/// [`Error::EmptyKey`].
pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        Err(Error::EmptyKey)
    } else {
        Ok(())
    }
}

/// Checks a transaction: each operation, how many there are (`--max-txn-ops`), and that no key may be written twice.
///
/// # Errors
/// Those of the operations; [`Error::TooManyOps`], [`Error::KeyNotFound`] for an operation without a request, [`Error::DuplicateKey`].
pub fn check_txn(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    check_ops(request, ops_max)?;
    Writes::of(&request.success)?;
    Writes::of(&request.failure)?;
    Ok(())
}

fn check_ops(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    let ops = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    // What a nested transaction may still have.
    let rest = ops_max.checked_sub(ops).ok_or(Error::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(range)?,
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete_range(delete)?,
            Some(Request::RequestTxn(txn)) => check_ops(txn, rest)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// What one branch of a transaction may write.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<&'a DeleteRangeRequest>,
}

impl<'a> Writes<'a> {
    /// Collects the writes of a branch.
    fn of(ops: &'a [RequestOp]) -> Result<Writes<'a>, Error> {
        let mut writes = Writes::default();
        for op in ops {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                writes.deletes.push(delete);
            }
        }
        for op in ops {
            if let Some(Request::RequestTxn(txn)) = &op.request {
                let success = Writes::of(&txn.success)?;
                let failure = Writes::of(&txn.failure)?;
                for key in &success.puts {
                    writes.add_put(key)?;
                }
                for key in &failure.puts {
                    // Only one of the two branches runs, so a key may be in both.
                    if success.puts.contains(key) {
                        writes.check_deletes(key)?;
                    } else {
                        writes.add_put(key)?;
                    }
                }
                writes.deletes.extend(success.deletes);
                writes.deletes.extend(failure.deletes);
            }
        }
        for op in ops {
            if let Some(Request::RequestPut(put)) = &op.request {
                writes.add_put(&put.key)?;
            }
        }
        Ok(writes)
    }

    fn add_put(&mut self, key: &'a [u8]) -> Result<(), Error> {
        if !self.puts.insert(key) {
            return Err(Error::DuplicateKey);
        }
        self.check_deletes(key)
    }

    fn check_deletes(&self, key: &[u8]) -> Result<(), Error> {
        match self.deletes.iter().any(|delete| covers(delete, key)) {
            true => Err(Error::DuplicateKey),
            false => Ok(()),
        }
    }
}

/// Whether a deletion covers a key, as etcd sees it: a range whose end is not behind its begin holds nothing, not even its first key;
/// the end of an open range (one zero byte) is taken for a key here, so that such a deletion holds nothing either.
fn covers(delete: &DeleteRangeRequest, key: &[u8]) -> bool {
    match delete.range_end.is_empty() {
        true => key == delete.key,
        false => key >= delete.key.as_ref() && key < delete.range_end.as_ref(),
    }
}

/// Whether a transaction is answered without the log: all operations of both branches are ranges. A nested transaction counts as a write.
pub fn is_read_only(request: &TxnRequest) -> bool {
    all_ranges(request, |_| true)
}

/// Whether a transaction that only reads may be answered from local state: all its ranges are serializable. One without any operation is.
pub fn is_serializable(request: &TxnRequest) -> bool {
    all_ranges(request, |range| range.serializable)
}

fn all_ranges(request: &TxnRequest, wanted: impl Fn(&RangeRequest) -> bool) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| match &op.request {
            Some(Request::RequestRange(range)) => wanted(range),
            _ => false,
        })
}
