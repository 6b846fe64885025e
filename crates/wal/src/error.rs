//! What can be wrong with a log, always with the file it is wrong in.

use std::io;
use std::path::{Path, PathBuf};

/// Why a log or snapshot file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// [`crate::Wal::create`] found a log.
    #[error("{}: a log exists already; open it instead", dir.display())]
    Exists {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Another process has the log open.
    #[error("{}: locked by another process; stop the member that uses this data directory", path.display())]
    Locked {
        /// The locked segment.
        path: PathBuf,
    },
    /// No segment can hold the entry after this index.
    #[error("{}: no log file reaches back to index {index}", dir.display())]
    NoSegment {
        /// The log's directory.
        dir: PathBuf,
        /// Index of the snapshot to start from.
        index: u64,
    },
    /// A segment is missing between two others.
    #[error("{}: file {name} does not follow the one before it; a log file is missing", dir.display())]
    SequenceGap {
        /// The log's directory.
        dir: PathBuf,
        /// The first file after the gap.
        name: String,
    },
    /// The last record was not written completely: the tail of a crash, which [`crate::repair()`] cuts off.
    #[error("{} at byte {offset}: the last record is incomplete", path.display())]
    Torn {
        /// The last segment.
        path: PathBuf,
        /// Where the incomplete record starts.
        offset: u64,
    },
    /// Stored bytes changed. Never repaired: acknowledged entries may be behind it.
    #[error("{} at byte {offset}: {what}; replace this member, or restore it from a backup", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the bad record starts.
        offset: u64,
        /// What does not hold.
        what: String,
    },
    /// The log has no record of the snapshot it was opened at.
    #[error("{}: no record of a snapshot at index {index}, term {term}", dir.display())]
    SnapshotMissing {
        /// The log's directory.
        dir: PathBuf,
        /// Index asked for.
        index: u64,
        /// Term asked for.
        term: u64,
    },
    /// The commit index is beyond the entries: the log lost its end after it was acknowledged.
    #[error("{}: committed up to {commit}, but the log ends at {last}; replace this member", dir.display())]
    CommitBeyondLog {
        /// The log's directory.
        dir: PathBuf,
        /// Persisted commit index.
        commit: u64,
        /// Last index that snapshot and entries reach.
        last: u64,
    },
    /// A snapshot record without the configuration that etcd demands of every index above 0.
    #[error("snapshot record at index {index} lacks a conf_state")]
    SnapshotWithoutConfState {
        /// The snapshot's index.
        index: u64,
    },
    /// An earlier write or sync failed; nothing can be said about later ones.
    #[error("{}: an earlier write failed; restart the member", dir.display())]
    Poisoned {
        /// The log's directory.
        dir: PathBuf,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { doing, path, source }
    }
}
