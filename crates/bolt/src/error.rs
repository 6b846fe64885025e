//! What can go wrong, in words that name the page, the file and the remedy.

use std::io;
use std::path::PathBuf;

/// Why an operation on a database failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused. The state before the operation is intact unless later calls say [`Error::Poisoned`].
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The database file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file system is full. Nothing was changed: the transaction is rolled back and may be repeated when there is space.
    #[error("no space left to {verb} {} ({bytes} bytes wanted): delete data, compact, or enlarge the volume", path.display())]
    NoSpace {
        /// What was tried.
        verb: &'static str,
        /// The database file.
        path: PathBuf,
        /// Bytes that the step needed.
        bytes: u64,
    },
    /// Another process (or another `Db`) has the file open.
    #[error("{} is locked: another process has it open; stop that process first", path.display())]
    Locked {
        /// The database file.
        path: PathBuf,
    },
    /// The file is no bbolt database, or both of its meta pages are damaged.
    #[error("{} is not a readable bbolt file: {what}; restore it from a snapshot", path.display())]
    Invalid {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A page breaks the format. Nothing was changed.
    #[error("page {page} is corrupt: {what}; the member must be replaced or restored from a snapshot")]
    Corrupt {
        /// The page's number; 0 for the page of an inline bucket.
        page: u64,
        /// What is wrong with it.
        what: String,
    },
    /// An earlier sync (or write of a meta page) failed, so what is on the disk is unknown. Only reopening helps.
    #[error("the database takes no more writes since an earlier failure: {cause}; restart the process")]
    Poisoned {
        /// The failure.
        cause: String,
    },
    /// The database was opened for reading only.
    #[error("the database was opened for reading only")]
    ReadOnly,
    /// There is no such bucket.
    #[error("bucket {name:?} does not exist; create it first")]
    NoBucket {
        /// The bucket's name, lossily decoded.
        name: String,
    },
    /// A plain value was wanted where a nested bucket is stored.
    #[error("{key:?} names a nested bucket, not a value")]
    IsBucket {
        /// The key, lossily decoded.
        key: String,
    },
    /// A bucket was wanted where a plain value is stored.
    #[error("{key:?} names a value, not a bucket")]
    NotBucket {
        /// The key, lossily decoded.
        key: String,
    },
    /// Keys and names of buckets have 1 to 32768 bytes.
    #[error("a key of {len} bytes: it must have 1 to 32768")]
    KeyLength {
        /// The length that was given.
        len: usize,
    },
    /// Values have at most 2^31 - 2 bytes.
    #[error("a value of {len} bytes: it must have at most 2147483646")]
    ValueLength {
        /// The length that was given.
        len: usize,
    },
}

impl Error {
    pub(crate) fn corrupt(page: u64, what: impl Into<String>) -> Error {
        Error::Corrupt {
            page,
            what: what.into(),
        }
    }

    /// Whether the cause is a full file system, so that the same call may succeed later.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Error::NoSpace { .. })
    }
}

/// Keys for messages: text where it is text.
pub(crate) fn lossy(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
