//! While a NOSPACE alarm stands: what needs space is refused, what frees it goes through (etcd
//! server/etcdserver/apply/capped.go). The alarm came through the log, so all members refuse alike, whatever their file sizes.

use super::Request;
use crate::error::Error;
use crate::quota::txn_cost;

/// The refusal of a request while the alarm stands.
pub(super) fn refusal(request: &Request) -> Option<Error> {
    let refused = match request {
        Request::Put(_) | Request::LeaseGrant(_) => true,
        Request::Txn(txn) => txn_cost(txn) > 0,
        _ => false,
    };
    refused.then_some(Error::NoSpace)
}
