//! The bbolt file format: a single-file B+tree with atomic commits, that bbolt and etcd read and write too.
//!
//! ```text
//! db       the open file: Options, Db, one writer and many readers
//! read     ReadTx: a snapshot        write   WriteTx: changes in memory, then commit
//! bucket   get                       update  a sorted batch into a tree
//! cursor   ordered scans             build   a commit: pages taken, freed, written; sync, meta, sync
//! page, meta, node, freelist         what lies in the file
//! check    is the file sound         stream  the image of a snapshot
//! compact  shrink the file online    cache   pages in memory
//! ```
//!
//! Invariants:
//! - A page that a committed snapshot can reach is never written; a commit is one meta page.
//! - Nothing read from the file is trusted: offsets, counts and lengths are checked, descents are bounded, scans ascend.
//! - No memory map: a lost disk is an error, not a signal.
//!
//! The freelist is stored with a commit while it is short (see [`Options::freelist_pages_max`]) and else left out, as etcd does
//! with `NoFreelistSync`; both forms are read. Buckets small enough are kept inline, as bbolt does.

mod bucket;
mod build;
mod cache;
mod check;
mod compact;
mod copy;
mod cursor;
mod db;
mod error;
mod freelist;
mod meta;
mod node;
mod page;
mod read;
mod stream;
mod update;
mod write;

pub use bucket::Bucket;
pub use check::{Problem, check};
pub use compact::Progress;
pub use cursor::Cursor;
pub use db::{Db, Options};
pub use error::Error;
pub use read::ReadTx;
pub use stream::Stream;
pub use write::{KEY_LEN_MAX, VALUE_LEN_MAX, WriteTx};
