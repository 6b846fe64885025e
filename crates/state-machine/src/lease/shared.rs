//! The lease table as several threads share it: entries change it, keep-alives renew in it, requests read it.
//!
//! Invariant: no lock is held when a method returns, and none while calling out.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::{LeaseConfig, LeaseInfo, Lessor, Renewal, Uptime};

/// A handle on the lease table. Clones share it.
#[derive(Debug, Clone)]
pub struct Leases {
    table: Arc<RwLock<Lessor>>,
}

impl Leases {
    /// An empty table.
    pub fn new(config: LeaseConfig) -> Leases {
        Leases {
            table: Arc::new(RwLock::new(Lessor::new(config))),
        }
    }

    /// Renews a lease: what a keep-alive does on the leader.
    pub fn renew(&self, id: i64, now: Uptime) -> Renewal {
        self.write().renew(id, now)
    }

    /// One lease with its keys.
    pub fn info(&self, id: i64) -> Option<LeaseInfo> {
        self.read().info(id)
    }

    /// The ids of all leases, those that end first coming first.
    pub fn ids_by_expiry(&self) -> Vec<i64> {
        self.read().ids_by_expiry()
    }

    /// The keys attached to a lease, sorted; `None` when there is no such lease.
    pub fn attached_keys(&self, id: i64) -> Option<Vec<Bytes>> {
        self.read().keys(id).ok()
    }

    /// Whether there is such a lease.
    pub fn contains(&self, id: i64) -> bool {
        self.read().contains(id)
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Whether this member decides when leases end.
    pub fn is_primary(&self) -> bool {
        self.read().is_primary()
    }

    /// The table for reading. Short: keep-alives wait.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Lessor> {
        // The table is changed by plain assignments that cannot panic half-way, so a poisoned lock still guards a sound table.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table for changing it.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Lessor> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}
