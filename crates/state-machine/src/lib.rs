//! What log entries do: MVCC, leases, alarms, membership.

pub mod error;
pub mod schema;

pub use error::{Code, Error};
