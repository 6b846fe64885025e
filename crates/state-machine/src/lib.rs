//! What log entries do: MVCC, leases, alarms, membership.

pub mod alarm;
pub mod error;
pub mod lease;
pub mod membership;
pub mod quota;
pub mod schema;
pub mod v2;
pub mod version;

pub use error::{Code, Error};
