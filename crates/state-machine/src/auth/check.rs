//! May this user do that? (etcd server/auth/store.go, server/etcdserver/apply/auth.go)
//!
//! Invariant: the verdict depends on the users, the roles, the leases' keys and the request alone; it is the same when a request comes
//! in and when it is applied, unless the rights changed in between, and then the asker has to come again.

use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::permissions::Access;
use super::table::has_role;
use super::{AuthInfo, AuthTable, ROOT};
use crate::error::Error;
use crate::lease::Lessor;

impl AuthTable {
    /// Whether the user may administer.
    ///
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::UserNotFound`], [`Error::PermissionDenied`].
    pub fn check_admin(&self, info: &AuthInfo) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        if info.username.is_empty() {
            return Err(Error::UserEmpty);
        }
        let user = self.user(&info.username).ok_or(Error::UserNotFound)?;
        if has_role(user, ROOT) {
            Ok(())
        } else {
            Err(Error::PermissionDenied)
        }
    }

    /// Whether the user has a role.
    pub fn has_role(&self, user: &str, role: &str) -> bool {
        self.user(user)
            .is_some_and(|user| user.roles.iter().any(|have| have == role))
    }

    fn check(&self, info: &AuthInfo, key: &[u8], range_end: &[u8], access: Access) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        if info.revision == 0 {
            return Err(Error::UserEmpty);
        }
        if info.revision < self.revision() {
            return Err(Error::AuthOldRevision);
        }
        let user = self.user(&info.username).ok_or(Error::PermissionDenied)?;
        let permitted = has_role(user, ROOT)
            || self
                .permissions_of(&info.username)
                .is_some_and(|own| own.cover(key, range_end, access));
        if permitted {
            Ok(())
        } else {
            Err(Error::PermissionDenied)
        }
    }

    /// Whether the user may read a range; also what watching it needs.
    ///
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::AuthOldRevision`], [`Error::PermissionDenied`]; so below.
    pub fn check_read(&self, info: &AuthInfo, key: &[u8], range_end: &[u8]) -> Result<(), Error> {
        self.check(info, key, range_end, Access::Read)
    }

    /// Whether a range may be answered.
    ///
    /// # Errors
    /// As [`AuthTable::check_read`].
    pub fn check_range(&self, info: &AuthInfo, request: &RangeRequest) -> Result<(), Error> {
        self.check_read(info, &request.key, &request.range_end)
    }

    /// Whether a put may be done. Attaching a key to a lease needs the right to write all keys that are attached to it already, since
    /// who attaches may also revoke.
    ///
    /// # Errors
    /// As [`AuthTable::check_read`].
    pub fn check_put(&self, info: &AuthInfo, leases: &Lessor, request: &PutRequest) -> Result<(), Error> {
        self.check(info, &request.key, &[], Access::Write)?;
        self.check_lease(info, leases, request.lease)?;
        if request.prev_kv {
            self.check(info, &request.key, &[], Access::Read)?;
        }
        Ok(())
    }

    /// Whether a deletion may be done.
    ///
    /// # Errors
    /// As [`AuthTable::check_read`].
    pub fn check_delete(&self, info: &AuthInfo, request: &DeleteRangeRequest) -> Result<(), Error> {
        self.check(info, &request.key, &request.range_end, Access::Write)?;
        if request.prev_kv {
            self.check(info, &request.key, &request.range_end, Access::Read)?;
        }
        Ok(())
    }

    /// Whether a lease may be revoked or renewed: all its keys must be writable.
    ///
    /// # Errors
    /// As [`AuthTable::check_read`].
    pub fn check_lease(&self, info: &AuthInfo, leases: &Lessor, id: i64) -> Result<(), Error> {
        if self.check_admin(info).is_ok() {
            return Ok(());
        }
        // A lease that is not there is somebody else's error to report.
        let keys = leases.keys(id).unwrap_or_default();
        keys.iter()
            .try_for_each(|key| self.check(info, key, &[], Access::Write))
    }

    /// Whether a transaction may be done: all that it compares and could do, in every branch and every transaction inside.
    ///
    /// # Errors
    /// As [`AuthTable::check_read`].
    pub fn check_txn(&self, info: &AuthInfo, leases: &Lessor, request: &TxnRequest) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        for compare in &request.compare {
            self.check(info, &compare.key, &compare.range_end, Access::Read)?;
        }
        let ops = request.success.iter().chain(&request.failure);
        ops.into_iter().try_for_each(|op| self.check_op(info, leases, op))
    }

    fn check_op(&self, info: &AuthInfo, leases: &Lessor, op: &RequestOp) -> Result<(), Error> {
        match &op.request {
            Some(Op::RequestRange(range)) => self.check_range(info, range),
            Some(Op::RequestPut(put)) => self.check_put(info, leases, put),
            Some(Op::RequestDeleteRange(delete)) => self.check_delete(info, delete),
            Some(Op::RequestTxn(txn)) => self.check_txn(info, leases, txn),
            None => Ok(()),
        }
    }
}
