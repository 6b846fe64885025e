//! Who may renew a lease, and who may see which keys it holds (etcd server/etcdserver/v3_server.go).
//!
//! Invariants: root may; others need the rights to all keys that are attached, since a renewal keeps them and a look shows them.

use super::Member;
use crate::auth::Asker;
use crate::handle::Error;

impl Member {
    /// Whether somebody may renew a lease: all its keys must be writable.
    ///
    /// # Errors
    /// An invalid token, nobody, missing rights.
    pub(super) fn may_renew(&self, asker: &Asker, id: i64) -> Result<(), Error> {
        let table = &self.auth.table;
        let revision = table.revision();
        if !table.is_enabled() {
            return Ok(());
        }
        table.check_lease(&asker.user()?, id)?;
        self.check_auth_revision(revision)
    }

    /// Whether somebody may see the keys of a lease.
    ///
    /// # Errors
    /// As [`Member::may_renew`].
    pub(super) fn may_see_keys(&self, asker: &Asker, id: i64) -> Result<(), Error> {
        let table = &self.auth.table;
        if !table.is_enabled() {
            return Ok(());
        }
        let info = asker.user()?;
        if table.check_admin(&info).is_ok() {
            return Ok(());
        }
        // A lease that is not there has no keys to hide.
        let keys = self.leases.attached_keys(id).unwrap_or_default();
        for key in keys {
            table.check_read(&info, &key, &[])?;
        }
        Ok(())
    }

    /// Whether somebody may see that these leases are there.
    ///
    /// # Errors
    /// As [`Member::may_renew`].
    pub fn may_see_leases(&self, asker: &Asker, ids: &[i64]) -> Result<(), Error> {
        if !self.auth.table.is_enabled() {
            return Ok(());
        }
        asker.user()?;
        let revision = self.auth.table.revision();
        for id in ids {
            self.may_see_keys(asker, *id)?;
        }
        self.check_auth_revision(revision)
    }
}
