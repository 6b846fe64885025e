//! Leases: keys that live as long as somebody keeps asking for them.
//!
//! Invariants:
//! - What is granted, revoked and attached depends on log entries alone, so every member agrees on it. *When* a lease ends is
//!   known to the primary (the leader) only: the others hold every expiry at "never".
//! - Time is an argument. Nothing in here asks for it.
//! - A lease below the minimum TTL of this member is raised to it, when granted and when loaded, as etcd does
//!   (etcd server/lease/lessor.go). Ids are any i64 but 0; negative ones too.
//! - A lease that passed its expiry still exists until its revocation is applied; it can no longer be renewed.

mod lessor;
mod shared;

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::leasepb;

pub use lessor::{Lessor, Renewal};
pub use shared::Leases;

/// Time since the process started. Only differences mean anything.
pub type Uptime = Duration;

/// The longest TTL that can be granted, in seconds.
pub const TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// How many leases the primary ends per second at most, as in etcd.
const REVOKE_RATE: usize = 1000;

/// How many leases one checkpoint entry holds at most.
const CHECKPOINT_BATCH: usize = 1000;

/// What leases are told at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseConfig {
    /// The shortest TTL, in seconds: `ceil(1.5 × election timeout)` in etcd. Shorter wishes are raised to it.
    pub ttl_seconds_min: i64,
    /// Whether the primary proposes checkpoints (etcd's feature gate LeaseCheckpoint, off by default). Applying one that
    /// another member proposed does not depend on it.
    pub checkpoint: bool,
    /// How long a lease must have to live to be checkpointed, and the time between two checkpoints of it.
    pub checkpoint_interval: Duration,
    /// After how long an expired lease that is still there is offered for revocation again.
    pub retry_interval: Duration,
}

impl Default for LeaseConfig {
    fn default() -> LeaseConfig {
        LeaseConfig {
            ttl_seconds_min: 2,
            checkpoint: false,
            checkpoint_interval: Duration::from_secs(300),
            retry_interval: Duration::from_secs(7),
        }
    }
}

/// A lease as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The id; never 0.
    pub id: i64,
    /// The TTL that was granted, in seconds.
    pub granted_ttl: i64,
    /// When it ends; `None` on a member that is not the primary.
    pub expiry: Option<Uptime>,
    /// The keys attached to it, sorted.
    pub keys: Vec<Bytes>,
}

impl LeaseInfo {
    /// The time to live in whole seconds, cut towards zero as etcd does; `None` on a member that is not the primary.
    pub fn ttl_seconds(&self, now: Uptime) -> Option<i64> {
        let expiry = self.expiry?;
        Some(match expiry.checked_sub(now) {
            Some(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            None => -i64::try_from((now - expiry).as_secs()).unwrap_or(i64::MAX),
        })
    }
}

/// The key of a lease in the bucket `lease`: its id, big endian (etcd server/storage/schema/lease.go).
pub fn lease_key(id: i64) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// The stored form of a lease.
pub fn encode_lease(record: &leasepb::Lease) -> Bytes {
    record.encode_to_vec().into()
}

#[cfg(test)]
mod tests;
