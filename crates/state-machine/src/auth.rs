//! Users, roles and what they may do.
//!
//! Invariants (etcd server/auth/store.go):
//! - Changed by log entries only. The revision of the rights rises with each change but that of switching them on; a request carries the
//!   revision at which its asker was let in and is judged again when it is applied, by the same rules on every member.
//! - No password is known in here: entries carry bcrypt hashes, made before they were proposed. Simple tokens are random letters from
//!   the proposer and the index of the last applied entry, so all members have the same ones; they are in memory only.
//! - The user with the role `root` may do everything; all others what the union of their roles' ranges covers.

mod check;
mod permissions;
mod roles;
mod shared;
mod table;
mod users;

pub use shared::Auth;
pub use table::{AuthTable, TOKEN_TTL};

/// The user that must exist, and the role that it must have, for authentication to be switched on.
pub const ROOT: &str = "root";

/// On whose behalf a request is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthInfo {
    /// The user; empty without authentication.
    pub username: String,
    /// The revision of the rights when the user was let in; 0 without authentication.
    pub revision: u64,
}

#[cfg(test)]
mod tests;
