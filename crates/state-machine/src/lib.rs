//! What log entries do: MVCC, leases, alarms, membership.
//!
//! In reading order: [`machine`] opens a database and takes entries, [`apply`] says what each of them does, the other modules are
//! the tables that entries change. Nothing in here knows a clock, a socket or a thread; the disk is a trait.

pub mod alarm;
pub mod apply;
pub mod auth;
pub mod backend;
pub mod conf_state;
pub mod error;
pub mod lease;
pub mod machine;
pub mod membership;
pub mod mvcc;
pub mod quota;
pub mod schema;
mod tree;
pub mod txn;
pub mod v2;
pub mod version;

/// The database as of a commit; what a snapshot for a peer or a backup is streamed from.
pub use bolt::ReadTx as FileView;
/// Checks the structure of a database file, page by page.
pub use bolt::check as check_file;

pub use apply::{Action, Applied, BadEntry, ConfChangeApplied, Fatal, Response};
pub use auth::{Auth, AuthInfo};
pub use error::{Code, Error};
pub use lease::Uptime;
pub use machine::{Audit, Config, OpenError, Position, StateMachine};
