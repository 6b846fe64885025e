//! Snapshot files: what `etcdctl snapshot save` writes, a database and its checksum.
//!
//! Invariant: a file that was cut off or changed since it was made is refused before anything is made from it.

mod file;
mod identity;
mod restore;
mod status;

pub(crate) use file::verify;
pub(crate) use restore::Metadata;

pub use file::FileError;
pub use identity::BadFlags;
pub use restore::{RestoreConfig, RestoreError, Restored, restore};
pub use status::{Status, status};
