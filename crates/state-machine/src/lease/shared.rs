//! The lease table as several threads share it: entries change it, keep-alives renew in it, requests read it.
//!
//! Invariant: no lock is held when a method returns, and none while calling out.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use proto::leasepb;

use crate::mvcc::Changes;

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

    /// Replaces all leases by stored ones, with the keys that the records tie to them.
    pub(crate) fn recover(&self, records: Vec<leasepb::Lease>, keys: BTreeMap<Bytes, i64>) {
        let mut table = self.write();
        table.recover(records);
        for (key, id) in keys {
            // A record may name a lease that is gone: etcd logs it and lives with it, and so do the keys.
            let _gone = table.attach(id, key);
        }
    }

    /// Ties and unties keys as a transaction changed them; the last change of a key wins.
    pub(crate) fn follow(&self, changes: &Changes) {
        if changes.changes.is_empty() {
            return;
        }
        let mut table = self.write();
        for change in &changes.changes {
            if !mutant::planted("Q22") {
                table.detach(&change.kv.key);
            }
            if !change.deleted && change.kv.lease != 0 {
                // The transaction was checked: its leases exist.
                let _gone = table.attach(change.kv.lease, change.kv.key.clone());
            }
        }
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
