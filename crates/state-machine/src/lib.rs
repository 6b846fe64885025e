//! What log entries do: MVCC, leases, alarms, membership.

pub mod alarm;
pub mod backend;
pub mod error;
pub mod lease;
pub mod membership;
pub mod mvcc;
pub mod quota;
pub mod schema;
mod tree;
pub mod txn;
pub mod v2;
pub mod version;

pub use error::{Code, Error};
