//! What entries do to users.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use proto::authpb::{User, UserAddOptions};
use proto::etcdserverpb::{
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest,
};

use super::ROOT;
use super::table::{AuthTable, Writes, has_role};
use crate::error::Error;
use crate::schema::Bucket;

impl AuthTable {
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::UserAlreadyExists`], [`Error::NoPasswordUser`] when the hash is not base64.
    pub(crate) fn user_add(&mut self, request: &AuthUserAddRequest, writes: Writes<'_>) -> Result<(), Error> {
        if request.name.is_empty() {
            return Err(Error::UserEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(Error::UserAlreadyExists);
        }
        let options = request.options.unwrap_or(UserAddOptions { no_password: false });
        let password = if options.no_password {
            Bytes::new()
        } else {
            decode_hash(&request.hashed_password)?
        };
        let name = Bytes::copy_from_slice(request.name.as_bytes());
        self.put_user(
            User {
                name,
                password,
                roles: Vec::new(),
                options: Some(options),
            },
            writes,
        );
        self.changed(writes);
        Ok(())
    }

    /// # Errors
    /// [`Error::InvalidAuthManagement`] for root while authentication is on, [`Error::UserNotFound`].
    pub(crate) fn user_delete(&mut self, request: &AuthUserDeleteRequest, writes: Writes<'_>) -> Result<(), Error> {
        if self.enabled && request.name == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        let user = self.users.remove(&request.name).ok_or(Error::UserNotFound)?;
        writes(Bucket::AuthUsers, user.name, None);
        self.changed(writes);
        self.drop_tokens_of(&request.name);
        Ok(())
    }

    /// # Errors
    /// [`Error::UserNotFound`], [`Error::NoPasswordUser`] when the hash is not base64.
    pub(crate) fn user_change_password(
        &mut self,
        request: &AuthUserChangePasswordRequest,
        writes: Writes<'_>,
    ) -> Result<(), Error> {
        let mut user = self.users.get(&request.name).cloned().ok_or(Error::UserNotFound)?;
        let without = user.options.as_ref().is_some_and(|options| options.no_password);
        user.password = if without {
            Bytes::new()
        } else {
            decode_hash(&request.hashed_password)?
        };
        self.put_user(user, writes);
        self.changed(writes);
        self.drop_tokens_of(&request.name);
        Ok(())
    }

    /// A role that the user has already changes nothing, the revision included.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::RoleNotFound`].
    pub(crate) fn user_grant_role(
        &mut self,
        request: &AuthUserGrantRoleRequest,
        writes: Writes<'_>,
    ) -> Result<(), Error> {
        let mut user = self.users.get(&request.user).cloned().ok_or(Error::UserNotFound)?;
        if request.role != ROOT && !self.roles.contains_key(&request.role) {
            return Err(Error::RoleNotFound);
        }
        if has_role(&user, &request.role) {
            return Ok(());
        }
        user.roles.push(request.role.clone());
        user.roles.sort();
        self.put_user(user, writes);
        self.changed(writes);
        Ok(())
    }

    /// # Errors
    /// [`Error::InvalidAuthManagement`] for root's role while authentication is on, [`Error::UserNotFound`], [`Error::RoleNotGranted`].
    pub(crate) fn user_revoke_role(
        &mut self,
        request: &AuthUserRevokeRoleRequest,
        writes: Writes<'_>,
    ) -> Result<(), Error> {
        if self.enabled && request.name == ROOT && request.role == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        let mut user = self.users.get(&request.name).cloned().ok_or(Error::UserNotFound)?;
        let before = user.roles.len();
        user.roles.retain(|role| *role != request.role);
        if user.roles.len() == before {
            return Err(Error::RoleNotGranted);
        }
        self.put_user(user, writes);
        self.changed(writes);
        Ok(())
    }
}

/// The bcrypt hash that the proposer made.
fn decode_hash(base64: &str) -> Result<Bytes, Error> {
    // As Go's decoder, which skips line ends.
    let text: String = base64.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    STANDARD
        .decode(text)
        .map(Bytes::from)
        .map_err(|_| Error::NoPasswordUser)
}
