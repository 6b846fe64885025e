//! The keys, in all their revisions.
//!
//! Invariants:
//! - One write transaction is one main revision; a transaction that changes nothing takes none. The first write is revision 2.
//! - The revision never falls, not even over a restart after a compaction of the newest deletion (etcd #17780).
//! - The bytes in the buckets `key` and `meta` are etcd's: the corruption check hashes them on every member.
//! - A [`ReadView`] holds index and records of one moment; compaction cannot pull a value out from under it.

pub mod compact;
pub mod hash;
pub mod index;
pub mod read;
pub mod revision;
pub mod store;
pub mod watch;
pub mod write;

pub use compact::{CompactJob, CompactPiece, Compacted};
pub use hash::HashKv;
pub use index::Span;
pub use read::{KvReader, RangeStream, ReadView};
pub use revision::Revision;
pub use store::Store;
pub use watch::{Delivery, Event, Notify, StreamOptions, WatchHub, WatchStream};
pub use write::{Change, Changes, WriteTxn};

#[cfg(test)]
mod model;
