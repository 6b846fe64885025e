//! Who measures what a replica does. The replica knows no clock; whoever is told of a beginning and an end can look at one.

use std::fmt;

/// Work whose beginning and end an [`Observer`] is told of. No two are under way at once on one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Applying an entry.
    Apply,
    /// A step of a compaction of the history.
    Compact,
    /// Making a `.snap` file and its record in the log durable.
    SaveSnapshot,
}

/// See the module. Called on the threads of the replica and of its log writer; must not wait.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Some work begins.
    fn begins(&self, work: Work);
    /// It has ended.
    fn ends(&self, work: Work);
    /// An entry was applied, just before [`Observer::ends`]: which request it was, and whether it was answered without an error.
    fn applied(&self, kind: &'static str, success: bool);
    /// A step of a compaction dropped this many records, just before [`Observer::ends`]; `done` when it was the last one.
    fn compacted(&self, records: u64, done: bool);
    /// This many leases have ended and are being revoked.
    fn leases_expired(&self, leases: usize);
}
