//! The space quota: what a request may cost the db (etcd server/storage/quota.go).
//!
//! Invariants: the cost of a request depends on the request alone. Whether it fits depends on the size of this member's file, so
//! the answer never changes what an entry does; it only raises the NOSPACE alarm, which goes through the log.

use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};

/// What applies when no quota is configured, in bytes.
pub const QUOTA_BYTES_DEFAULT: i64 = 2 * 1024 * 1024 * 1024;

/// An estimate of what a lease takes, in bytes.
pub const LEASE_COST: u64 = 64;

/// An estimate of what a key-value record takes besides key and value, in bytes.
const RECORD_COST: u64 = 256;

/// The bytes the db may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// Any number.
    Unlimited,
    /// This many.
    Bytes(u64),
}

impl Quota {
    /// As configured: 0 means the default, negative means no limit.
    pub fn from_config(bytes: i64) -> Quota {
        match bytes {
            0 => Quota::Bytes(QUOTA_BYTES_DEFAULT as u64),
            bytes => u64::try_from(bytes).map_or(Quota::Unlimited, Quota::Bytes),
        }
    }

    /// Whether something of this cost fits into a db of this size. What costs nothing always does.
    pub fn fits(self, size_bytes: u64, cost_bytes: u64) -> bool {
        match self {
            Quota::Bytes(limit) => cost_bytes == 0 || size_bytes.saturating_add(cost_bytes) < limit,
            Quota::Unlimited => true,
        }
    }
}

/// The cost of a put, in bytes.
pub fn put_cost(put: &PutRequest) -> u64 {
    RECORD_COST + put.key.len() as u64 + put.value.len() as u64
}

/// The cost of a transaction, in bytes: that of its dearer branch.
pub fn txn_cost(txn: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 { ops.iter().map(op_cost).sum() };
    branch(&txn.success).max(branch(&txn.failure))
}

fn op_cost(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Request::RequestPut(put)) => put_cost(put),
        Some(Request::RequestTxn(txn)) => txn_cost(txn),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: usize) -> RequestOp {
        RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                value: vec![0; value].into(),
                ..PutRequest::default()
            })),
        }
    }

    #[test]
    fn a_transaction_costs_its_dearer_branch() {
        let inner = TxnRequest {
            success: vec![put(10), put(20)],
            failure: vec![put(1000)],
            ..TxnRequest::default()
        };
        assert_eq!(txn_cost(&inner), 1256);
        let op = RequestOp {
            request: Some(Request::RequestTxn(inner)),
        };
        let outer = TxnRequest {
            success: vec![op, put(1)],
            ..TxnRequest::default()
        };
        assert_eq!(txn_cost(&outer), 1256 + 257);
        assert_eq!(txn_cost(&TxnRequest::default()), 0);
    }

    #[test]
    fn the_limit_is_exclusive_and_costless_requests_pass() {
        let quota = Quota::from_config(1000);
        assert!(quota.fits(743, 256));
        assert!(!quota.fits(744, 256));
        assert!(quota.fits(5000, 0));
        assert!(Quota::from_config(-1).fits(u64::MAX, u64::MAX));
        assert_eq!(Quota::from_config(0), Quota::Bytes(2 << 30));
    }
}
