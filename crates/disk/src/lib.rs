//! What a member may ask of a disk, the real one, and one in memory that crashes.
//!
//! Invariants:
//! - Every byte that a member stores passes through [`Disk`] and [`File`]; a simulator can stand in for them and crash, tear or
//!   lose writes between any two calls.
//! - Nothing is durable before [`File::sync_data`] (contents, length) or [`Disk::sync_dir`] (names) has returned `Ok`.
//! - A failed sync is fatal to the caller's process: the pages may look clean and be lost. Never retry it.

pub mod memory;
mod real;

use std::fmt::Debug;
use std::io;
use std::path::Path;

pub use memory::{MemoryDisk, MemoryFile};
pub use real::{RealDisk, RealFile, never_sync};

/// How [`Disk::open`] treats a missing or existing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Read only; the file must exist.
    Read,
    /// Read and write; the file must exist.
    Write,
    /// Read and write; created with mode 0600 if missing.
    WriteOrCreate,
    /// Read and write; created with mode 0600, an error if it exists.
    CreateNew,
}

/// Which kind of lock a file carries. The two kinds do not exclude each other, so a file must always use the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// flock(2), as bbolt locks its file.
    Flock,
    /// An open-file-description lock (`F_OFD_SETLK`), as etcd locks WAL segments.
    OpenFileDescription,
}

/// A file system, as far as a member needs one. Cheap to clone.
pub trait Disk: Clone + Debug + Send + Sync + 'static {
    /// An open file of this disk.
    type File: File;

    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Self::File>;
    /// Replaces `to` by `from` atomically. Durable only after [`Disk::sync_dir`] of the parent.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all that is in it. A missing directory is not an error.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its missing parents, with mode 0700.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Whether a file or directory of this name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Free bytes on the file system that holds `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file. Methods take `&self`: readers and one writer may share it.
pub trait File: Debug + Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf` at `offset`, growing the file when needed.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Sets the length; what is added reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space so that writes below `len` cannot fail for want of it, and grows the file to `len` (as zeros).
    fn preallocate(&self, len: u64) -> io::Result<()>;
    /// Makes contents and length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Takes an exclusive lock without waiting; `ErrorKind::WouldBlock` when another open file holds it.
    fn try_lock(&self, kind: LockKind) -> io::Result<()>;

    /// Fills `buf` from `offset`; `ErrorKind::UnexpectedEof` when the file ends first.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self.read_at(buf, offset)? {
            n if n == buf.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
