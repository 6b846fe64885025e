//! While a CORRUPT alarm stands: nobody knows which member is right, so nothing is written (etcd
//! server/etcdserver/apply/corrupt.go). Membership, alarms, authentication and lease checkpoints still go through.

use super::Request;
use crate::error::Error;

/// The refusal of a request while the alarm stands.
pub(super) fn refusal(request: &Request) -> Option<Error> {
    let refused = matches!(
        request,
        Request::Put(_)
            | Request::Range(_)
            | Request::DeleteRange(_)
            | Request::Txn(_)
            | Request::Compaction(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
    );
    refused.then_some(Error::Corrupt)
}
