//! What entries do to roles.

use bytes::Bytes;
use proto::authpb::permission::Type;
use proto::authpb::{Permission, Role};
use proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest,
};

use super::ROOT;
use super::permissions::is_valid;
use super::table::{AuthTable, Writes};
use crate::error::Error;
use crate::schema::Bucket;

impl AuthTable {
    /// # Errors
    /// [`Error::RoleEmpty`], [`Error::RoleAlreadyExists`].
    pub(crate) fn role_add(&mut self, request: &AuthRoleAddRequest, writes: Writes<'_>) -> Result<(), Error> {
        if request.name.is_empty() {
            return Err(Error::RoleEmpty);
        }
        if self.roles.contains_key(&request.name) {
            return Err(Error::RoleAlreadyExists);
        }
        let name = Bytes::copy_from_slice(request.name.as_bytes());
        self.put_role(
            Role {
                name,
                key_permission: Vec::new(),
            },
            writes,
        );
        self.changed(writes);
        Ok(())
    }

    /// Everybody who has the role loses it.
    ///
    /// # Errors
    /// [`Error::InvalidAuthManagement`] for root while authentication is on, [`Error::RoleNotFound`].
    pub(crate) fn role_delete(&mut self, request: &AuthRoleDeleteRequest, writes: Writes<'_>) -> Result<(), Error> {
        if self.enabled && request.role == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        let role = self.roles.remove(&request.role).ok_or(Error::RoleNotFound)?;
        writes(Bucket::AuthRoles, role.name, None);
        let holders: Vec<_> = self
            .users
            .values()
            .filter(|user| user.roles.contains(&request.role))
            .cloned()
            .collect();
        for mut user in holders {
            user.roles.retain(|role| *role != request.role);
            self.put_user(user, writes);
        }
        self.changed(writes);
        Ok(())
    }

    /// # Errors
    /// [`Error::PermissionNotGiven`], [`Error::InvalidAuthManagement`] for a range without sense, [`Error::RoleNotFound`].
    pub(crate) fn role_grant_permission(
        &mut self,
        request: &AuthRoleGrantPermissionRequest,
        writes: Writes<'_>,
    ) -> Result<(), Error> {
        let wanted = request.perm.as_ref().ok_or(Error::PermissionNotGiven)?;
        if !is_valid(wanted) {
            return Err(Error::InvalidAuthManagement);
        }
        let mut role = self.roles.get(&request.name).cloned().ok_or(Error::RoleNotFound)?;
        // Only the first one with this key is compared, as in etcd.
        let at = role.key_permission.partition_point(|have| have.key < wanted.key);
        match role.key_permission.get_mut(at) {
            Some(have) if have.key == wanted.key && have.range_end == wanted.range_end => {
                have.perm_type = wanted.perm_type;
            }
            _ => {
                role.key_permission.push(wanted.clone());
                role.key_permission.sort_by(|a, b| a.key.cmp(&b.key));
            }
        }
        self.put_role(role, writes);
        self.changed(writes);
        Ok(())
    }

    /// # Errors
    /// [`Error::RoleNotFound`], [`Error::PermissionNotGranted`].
    pub(crate) fn role_revoke_permission(
        &mut self,
        request: &AuthRoleRevokePermissionRequest,
        writes: Writes<'_>,
    ) -> Result<(), Error> {
        let mut role = self.roles.get(&request.role).cloned().ok_or(Error::RoleNotFound)?;
        let before = role.key_permission.len();
        role.key_permission
            .retain(|have| have.key != request.key || have.range_end != request.range_end);
        if role.key_permission.len() == before {
            return Err(Error::PermissionNotGranted);
        }
        self.put_role(role, writes);
        self.changed(writes);
        Ok(())
    }

    /// The permissions of a role, as the API shows them: root's are everything.
    ///
    /// # Errors
    /// [`Error::RoleNotFound`].
    pub fn role_permissions(&self, name: &str) -> Result<Vec<Permission>, Error> {
        let role = self.role(name).ok_or(Error::RoleNotFound)?;
        if name != ROOT {
            return Ok(role.key_permission.clone());
        }
        let everything = Permission {
            perm_type: Type::Readwrite as i32,
            key: Bytes::new(),
            range_end: Bytes::from_static(&[0]),
        };
        Ok(vec![everything])
    }
}
