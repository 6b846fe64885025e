//! etcd's write-ahead log and `.snap` files (etcd server/storage/wal, etcdserver/api/snap).
//!
//! Invariants:
//! - A byte that [`Wal::sync`] covered is never truncated: a tail is cut off only where a write was provably torn.
//! - A length found on disk is compared with the bytes that are there before anything is allocated for it.
//! - After a failed write or sync the log refuses everything: what is durable is known only after a restart.
//! - A snapshot counts only if it has a record here *and* the persisted commit index has reached it.

mod error;
mod names;
mod read;
mod record;
mod repair;
mod segment;
mod snapshotter;

pub use error::Error;
pub use read::{Contents, read, valid_snapshots};
pub use repair::repair;
pub use segment::{SEGMENT_BYTES, Wal, exists};
pub use snapshotter::Snapshotter;
