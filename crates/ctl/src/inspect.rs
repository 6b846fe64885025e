//! The end of a stopped member's log, which survivors of a lost quorum are compared by; and whose log it is.
//!
//! Not a command of upstream's etcdutl. Invariant: it only reads; a torn tail is where the log ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
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

/// Whose data a directory holds, as the head of its log tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The member's id in hexadecimal.
    pub member_id: String,
    /// The cluster's id in hexadecimal.
    pub cluster_id: String,
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
    /// The head of the log does not say whose it is.
    #[error("{}: its metadata is not etcd's: {source}", path.display())]
    Identity {
        /// The log's directory.
        path: PathBuf,
        /// What is wrong with it.
        source: prost::DecodeError,
    },
    /// The database cannot be read.
    #[error(transparent)]
    Database(#[from] crate::database::Error),
}

/// Reads whose data a directory holds. The database is not looked at.
///
/// # Errors
/// The log is missing or damaged; the text names the file.
pub fn identity(data_dir: &Path) -> Result<Identity, Error> {
    let path = data_dir.join("member").join("wal");
    let log = |source| Error::Log {
        path: path.clone(),
        source,
    };
    let disk = disk::RealDisk;
    let start = wal::valid_snapshots(&disk, &path)
        .map_err(log)?
        .pop()
        .unwrap_or_default();
    let contents = wal::read(&disk, &path, &start).map_err(log)?;
    let metadata = snapshot::Metadata::decode(contents.metadata).map_err(|source| Error::Identity {
        path: path.clone(),
        source,
    })?;
    Ok(Identity {
        member_id: format!("{:x}", metadata.node_id),
        cluster_id: format!("{:x}", metadata.cluster_id),
    })
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
        .pop()
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
