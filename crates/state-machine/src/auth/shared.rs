//! The users and roles as several threads share them: entries change them, requests are judged by them.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::{AuthInfo, AuthTable};
use crate::error::Error;
use crate::lease::{Leases, Uptime};
use proto::authpb::User;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};

/// A handle on users and roles. Clones share them. Its checks also look at the leases of the same member.
#[derive(Debug, Clone)]
pub struct Auth {
    table: Arc<RwLock<AuthTable>>,
    leases: Leases,
}

impl Auth {
    pub(crate) fn new(leases: Leases, token_ttl: Duration) -> Auth {
        Auth {
            table: Arc::new(RwLock::new(AuthTable::new(token_ttl))),
            leases,
        }
    }

    /// Whether requests are judged at all.
    pub fn is_enabled(&self) -> bool {
        self.read().is_enabled()
    }

    /// The revision of the rights.
    pub fn revision(&self) -> u64 {
        self.read().revision()
    }

    /// A user with the hash of its password, and the revision of the rights at the same moment: to check a password, and to find out
    /// afterwards whether it was still the right one.
    pub fn user(&self, name: &str) -> (Option<User>, u64) {
        let table = self.read();
        (table.user(name).cloned(), table.revision())
    }

    /// Who holds a simple token; using it makes it live on.
    pub fn token_holder(&self, token: &str, now: Uptime) -> Option<AuthInfo> {
        self.write().token_holder(token, now)
    }

    /// See [`AuthTable::check_admin`].
    ///
    /// # Errors
    /// As there; so below.
    pub fn check_admin(&self, info: &AuthInfo) -> Result<(), Error> {
        self.read().check_admin(info)
    }

    /// See [`AuthTable::check_read`].
    ///
    /// # Errors
    /// As there.
    pub fn check_read(&self, info: &AuthInfo, key: &[u8], range_end: &[u8]) -> Result<(), Error> {
        self.read().check_read(info, key, range_end)
    }

    /// See [`AuthTable::check_range`].
    ///
    /// # Errors
    /// As there.
    pub fn check_range(&self, info: &AuthInfo, request: &RangeRequest) -> Result<(), Error> {
        self.read().check_range(info, request)
    }

    /// See [`AuthTable::check_put`].
    ///
    /// # Errors
    /// As there.
    pub fn check_put(&self, info: &AuthInfo, request: &PutRequest) -> Result<(), Error> {
        self.read().check_put(info, &self.leases.read(), request)
    }

    /// See [`AuthTable::check_delete`].
    ///
    /// # Errors
    /// As there.
    pub fn check_delete(&self, info: &AuthInfo, request: &DeleteRangeRequest) -> Result<(), Error> {
        self.read().check_delete(info, request)
    }

    /// See [`AuthTable::check_lease`].
    ///
    /// # Errors
    /// As there.
    pub fn check_lease(&self, info: &AuthInfo, id: i64) -> Result<(), Error> {
        self.read().check_lease(info, &self.leases.read(), id)
    }

    /// See [`AuthTable::check_txn`].
    ///
    /// # Errors
    /// As there.
    pub fn check_txn(&self, info: &AuthInfo, request: &TxnRequest) -> Result<(), Error> {
        self.read().check_txn(info, &self.leases.read(), request)
    }

    // Changes are single assignments, so a poisoned lock guards a sound table. This lock is always taken before that of the leases.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, AuthTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, AuthTable> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}
