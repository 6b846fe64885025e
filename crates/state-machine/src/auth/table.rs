//! The users and roles in memory, and how they get there.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::authpb::{Role, User};

use super::permissions::Permissions;
use super::{AuthInfo, ROOT};
use crate::error::Error;
use crate::lease::Uptime;
use crate::schema::{self, Bucket};

/// Where changes are stored: a value, or nothing to delete the key.
pub(crate) type Writes<'a> = &'a mut dyn FnMut(Bucket, Bytes, Option<Bytes>);

/// How long a simple token lives without being used, as in etcd.
pub const TOKEN_TTL: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
struct Token {
    username: String,
    expiry: Uptime,
}

/// See [`crate::auth`].
#[derive(Debug, Clone)]
pub struct AuthTable {
    pub(super) enabled: bool,
    revision: u64,
    pub(super) users: BTreeMap<String, User>,
    pub(super) roles: BTreeMap<String, Role>,
    permissions: BTreeMap<String, Permissions>,
    tokens: BTreeMap<String, Token>,
    token_ttl: Duration,
}

impl Default for AuthTable {
    fn default() -> AuthTable {
        AuthTable::new(TOKEN_TTL)
    }
}

impl AuthTable {
    /// An empty table, whose tokens live for so long without being used.
    pub fn new(token_ttl: Duration) -> AuthTable {
        AuthTable {
            enabled: false,
            revision: 0,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            permissions: BTreeMap::new(),
            tokens: BTreeMap::new(),
            token_ttl,
        }
    }

    /// Replaces all by what a database holds. Tokens stay while authentication is on.
    ///
    /// # Errors
    /// The bucket and key of a record that cannot be read, and why.
    pub fn recover(
        &mut self,
        enabled: bool,
        revision: u64,
        users: Vec<(Bytes, Bytes)>,
        roles: Vec<(Bytes, Bytes)>,
    ) -> Result<(), (&'static str, Bytes, prost::DecodeError)> {
        let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
        let users = users.into_iter().map(|(key, value)| match User::decode(value) {
            Ok(user) => Ok((text(&key), user)),
            Err(error) => Err(("authUsers", key, error)),
        });
        let users = users.collect::<Result<_, _>>()?;
        let roles = roles.into_iter().map(|(key, value)| match Role::decode(value) {
            Ok(role) => Ok((text(&key), role)),
            Err(error) => Err(("authRoles", key, error)),
        });
        let roles = roles.collect::<Result<_, _>>()?;
        let tokens = if enabled {
            std::mem::take(&mut self.tokens)
        } else {
            BTreeMap::new()
        };
        *self = AuthTable {
            enabled,
            revision,
            users,
            roles,
            permissions: BTreeMap::new(),
            tokens,
            token_ttl: self.token_ttl,
        };
        self.merge_permissions();
        Ok(())
    }

    /// Whether requests are judged at all.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The revision of the rights; 1 in a fresh database.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A user, with the hash of its password.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// A role.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name)
    }

    /// The names of all users, sorted.
    pub fn user_names(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    /// The names of all roles, sorted.
    pub fn role_names(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    pub(super) fn permissions_of(&self, user: &str) -> Option<&Permissions> {
        self.permissions.get(user)
    }

    /// Switches authentication on.
    ///
    /// # Errors
    /// [`Error::RootUserNotExist`], [`Error::RootRoleNotExist`].
    pub(crate) fn enable(&mut self, writes: Writes<'_>) -> Result<(), Error> {
        if self.enabled {
            return Ok(());
        }
        self.check_enable()?;
        writes(
            Bucket::Auth,
            Bytes::from_static(schema::AUTH_ENABLED),
            Some(Bytes::from_static(&[1])),
        );
        self.enabled = true;
        Ok(())
    }

    /// Whether somebody could administer if authentication were on.
    ///
    /// # Errors
    /// [`Error::RootUserNotExist`], [`Error::RootRoleNotExist`].
    pub(crate) fn check_enable(&self) -> Result<(), Error> {
        let root = self.users.get(ROOT).ok_or(Error::RootUserNotExist)?;
        if has_role(root, ROOT) {
            Ok(())
        } else {
            Err(Error::RootRoleNotExist)
        }
    }

    /// Switches authentication off. All tokens are gone.
    pub(crate) fn disable(&mut self, writes: Writes<'_>) {
        if !self.enabled {
            return;
        }
        writes(
            Bucket::Auth,
            Bytes::from_static(schema::AUTH_ENABLED),
            Some(Bytes::from_static(&[0])),
        );
        self.enabled = false;
        self.tokens.clear();
        self.raise_revision(writes);
    }

    /// Lets a user in whose password was checked before the entry was proposed; returns the token. `index` is that of the last
    /// applied entry.
    ///
    /// # Errors
    /// [`Error::AuthNotEnabled`], [`Error::AuthFailed`].
    pub(crate) fn authenticate(
        &mut self,
        name: &str,
        token_prefix: &str,
        index: u64,
        now: Uptime,
    ) -> Result<String, Error> {
        if !self.enabled {
            return Err(Error::AuthNotEnabled);
        }
        let user = self.users.get(name).ok_or(Error::AuthFailed)?;
        if user.options.as_ref().is_some_and(|options| options.no_password) {
            return Err(Error::AuthFailed);
        }
        // Without a prefix tokens are signed, by the member that answers; nothing is kept.
        if token_prefix.is_empty() {
            return Ok(String::new());
        }
        self.tokens.retain(|_, token| token.expiry > now);
        let token = format!("{token_prefix}.{index}");
        let expiry = now.saturating_add(self.token_ttl);
        self.tokens.insert(
            token.clone(),
            Token {
                username: name.to_owned(),
                expiry,
            },
        );
        Ok(token)
    }

    /// Who holds a simple token; using it makes it live on. `None` when it is unknown or has expired.
    pub fn token_holder(&mut self, token: &str, now: Uptime) -> Option<AuthInfo> {
        let held = self.tokens.get_mut(token).filter(|held| held.expiry > now)?;
        held.expiry = now.saturating_add(self.token_ttl);
        Some(AuthInfo {
            username: held.username.clone(),
            revision: self.revision,
        })
    }

    pub(super) fn drop_tokens_of(&mut self, user: &str) {
        self.tokens.retain(|_, token| token.username != user);
    }

    /// Stores a changed user; roles and permissions follow in [`AuthTable::changed`].
    pub(super) fn put_user(&mut self, user: User, writes: Writes<'_>) {
        writes(Bucket::AuthUsers, user.name.clone(), Some(user.encode_to_vec().into()));
        self.users
            .insert(String::from_utf8_lossy(&user.name).into_owned(), user);
    }

    pub(super) fn put_role(&mut self, role: Role, writes: Writes<'_>) {
        writes(Bucket::AuthRoles, role.name.clone(), Some(role.encode_to_vec().into()));
        self.roles
            .insert(String::from_utf8_lossy(&role.name).into_owned(), role);
    }

    /// After each change: the revision rises, and everybody's permissions are computed anew.
    pub(super) fn changed(&mut self, writes: Writes<'_>) {
        self.raise_revision(writes);
        self.merge_permissions();
    }

    fn raise_revision(&mut self, writes: Writes<'_>) {
        self.revision += 1;
        writes(
            Bucket::Auth,
            Bytes::from_static(schema::AUTH_REVISION),
            Some(schema::encode_u64(self.revision)),
        );
    }

    /// In a database that has no revision yet.
    pub(crate) fn begin(&mut self, writes: Writes<'_>) {
        if self.revision == 0 {
            self.raise_revision(writes);
        }
    }

    fn merge_permissions(&mut self) {
        let of = |user: &User| Permissions::of(user.roles.iter().filter_map(|role| self.roles.get(role)));
        self.permissions = self.users.iter().map(|(name, user)| (name.clone(), of(user))).collect();
    }
}

/// Whether a user has a role. Roles are kept sorted.
pub(super) fn has_role(user: &User, role: &str) -> bool {
    user.roles.binary_search_by(|have| have.as_str().cmp(role)).is_ok()
}
