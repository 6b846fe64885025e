//! The end of a stopped member's log: what survivors of a lost quorum are compared by.
//!
//! Not a command of upstream's etcdutl. Invariant: it only reads; a torn tail is where the log ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::snapshot;

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LogEnd {
    /// Term of the last entry.
    pub term: u64,
    /// Index of the last entry.
    pub index: u64,
    /// Persisted commit index.
    pub commit: u64,
    /// Newest revision in the database.
    pub revision: i64,
}

/// Why a data directory cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log cannot be read.
    #[error("{}: {source}", path.display())]
    Log {
        /// The log's directory.
        path: PathBuf,
        /// What is wrong with it.
        source: wal::Error,
    },
    /// The database cannot be read.
    #[error(transparent)]
    Database(#[from] crate::database::Error),
}

/// Reads the end of the log in a data directory that no process uses.
///
/// # Errors
/// The log or the database is missing or damaged; the text names the file.
pub fn inspect(data_dir: &Path, timeout: Option<Duration>) -> Result<LogEnd, Error> {
    let member = data_dir.join("member");
    let path = member.join("wal");
    let log = |source| Error::Log {
        path: path.clone(),
        source,
    };
    let disk = disk::RealDisk;
    let start = wal::valid_snapshots(&disk, &path)
        .map_err(log)?
        .into_iter()
        .max_by_key(|snapshot| snapshot.index())
        .unwrap_or_default();
    let contents = wal::read(&disk, &path, &start).map_err(log)?;
    let last = contents.entries.last();
    let status = snapshot::status(&member.join("snap").join("db"), timeout)?;
    Ok(LogEnd {
        term: last.map_or(start.term(), |entry| entry.term),
        index: last.map_or(start.index(), |entry| entry.index),
        commit: contents.hard_state.commit,
        revision: status.revision,
    })
}
