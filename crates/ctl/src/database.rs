//! The database file of a member that does not run: opened, hashed, rewritten.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bolt::{Db, Options};
use disk::{Disk, RealDisk};
use serde::Serialize;
use state_machine::backend::{self, Backend};
use state_machine::mvcc::Store;

use crate::snapshot::FileError;
use crate::snapshot::verify;

/// How long to sleep between two tries for a lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Keys and values per transaction while rewriting, in bytes.
const REWRITE_BATCH_BYTES: usize = 16 << 20;

/// etcd's setting for keys that come in order; the whole file is written in order here.
const REWRITE_FILL: f64 = 0.9;

/// Why a database is not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not what it should be.
    #[error(transparent)]
    Bolt(#[from] bolt::Error),
    /// The contents are not what they should be.
    #[error("{}: {error}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: state_machine::Error,
    },
    /// The snapshot file is not whole.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file was checked and is unsound.
    #[error("snapshot file integrity check failed. {} errors found.\n{}\n{} is damaged: use another copy of it", problems.len(), problems.join("\n"), path.display())]
    Unsound {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, page by page.
        problems: Vec<String>,
    },
    /// A bucket inside a bucket: etcd makes none.
    #[error("{}: bucket {bucket:?} holds other buckets: this is no etcd database", path.display())]
    NestedBucket {
        /// The file.
        path: PathBuf,
        /// The outer bucket.
        bucket: String,
    },
    /// The system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The hash of all keys up to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HashKv {
    /// CRC-32C, as etcd computes it.
    pub hash: u32,
    /// Up to which revision.
    pub hash_revision: i64,
    /// From which compaction on; -1 when there was none.
    pub compact_revision: i64,
}

pub(crate) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Opens a database that must exist; waits for its lock, for ever without a `timeout`.
///
/// # Errors
/// [`Error::Io`] when it is missing, and what [`bolt::Db::open`] says.
pub fn open(path: &Path, options: &Options, timeout: Option<Duration>) -> Result<Db<RealDisk>, Error> {
    std::fs::metadata(path).map_err(io_error("open", path))?;
    let started = Instant::now();
    loop {
        match Db::open(RealDisk, path, options.clone()) {
            Err(bolt::Error::Locked { .. }) if timeout.is_none_or(|timeout| started.elapsed() < timeout) => {
                thread::sleep(LOCK_RETRY);
            }
            result => return Ok(result?),
        }
    }
}

/// Options for looking only.
pub fn read_only() -> Options {
    Options {
        read_only: true,
        ..Options::default()
    }
}

/// The hash of the keys in a db file, a snapshot file or a data dir, at a revision (0 = the newest).
///
/// # Errors
/// [`Error::File`] when a snapshot was cut or changed, [`Error::Contents`] when the revision is not there.
pub fn hash_kv(path: &Path, revision: i64, timeout: Option<Duration>) -> Result<HashKv, Error> {
    let path = if path.is_dir() {
        database_of(path)
    } else {
        path.to_owned()
    };
    verify(&path)?;
    // Wait for the lock here; the backend below does not.
    drop(open(&path, &read_only(), timeout)?);
    let options = backend::Options {
        file: read_only(),
        ..backend::Options::default()
    };
    let contents = |error| Error::Contents {
        path: path.clone(),
        error,
    };
    let backend = Backend::open(RealDisk, &path, options).map_err(contents)?;
    let (store, _leases) = Store::open(&backend).map_err(contents)?;
    let (hash, _) = store.reader().hash_kv(revision).map_err(contents)?;
    Ok(HashKv {
        hash: hash.hash,
        hash_revision: hash.revision,
        compact_revision: hash.compact_revision,
    })
}

/// Where the database of a data dir is.
pub fn database_of(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("snap").join("db")
}

/// Rewrites the database of a data dir without its free pages. The old file is replaced when the new one is durable.
///
/// # Errors
/// When the member runs (after `timeout`), when the file is damaged, when there is no space for a second one.
pub fn defragment(data_dir: &Path, timeout: Option<Duration>) -> Result<(), Error> {
    let path = database_of(data_dir);
    let old = open(&path, &Options::default(), timeout)?;
    let new_path = path.with_file_name("db.tmp.defrag");
    let result = rewrite(&old, &path, &new_path);
    if result.is_err() {
        // The error says what went wrong; the half-written file is of no use to anybody.
        let _unused = RealDisk.remove(&new_path);
    }
    result
}

fn rewrite(old: &Db<RealDisk>, path: &Path, new_path: &Path) -> Result<(), Error> {
    if RealDisk.exists(new_path).map_err(io_error("look for", new_path))? {
        RealDisk.remove(new_path).map_err(io_error("remove", new_path))?;
    }
    let options = Options {
        growth_bytes: 0,
        page_size: old.page_size(),
        ..Options::default()
    };
    let new = Db::open(RealDisk, new_path, options)?;
    let read = old.read()?;
    for name in read.buckets()? {
        let Some(bucket) = read.bucket(&name)? else { continue };
        if !bucket.buckets()?.is_empty() {
            let bucket = String::from_utf8_lossy(&name).into_owned();
            return Err(Error::NestedBucket {
                path: path.to_owned(),
                bucket,
            });
        }
        let begin = || {
            let mut write = new.write()?;
            write.create_bucket(&name)?;
            write.set_fill_percent(&name, REWRITE_FILL)?;
            Ok::<_, Error>(write)
        };
        let mut write = begin()?;
        let mut bytes = 0;
        let mut cursor = bucket.cursor();
        let mut pair = cursor.first()?;
        while let Some((key, value)) = pair {
            bytes += key.len() + value.len();
            write.put_bytes(&name, key, value)?;
            if bytes >= REWRITE_BATCH_BYTES {
                write.commit()?;
                write = begin()?;
                bytes = 0;
            }
            pair = cursor.next()?;
        }
        write.commit()?;
    }
    new.close()?;
    drop(new);
    RealDisk.rename(new_path, path).map_err(io_error("rename", new_path))?;
    let dir = path.parent().unwrap_or(path);
    RealDisk.sync_dir(dir).map_err(io_error("sync", dir))
}
