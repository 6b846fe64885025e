//! Why a member cannot start, and why one must stop.

use std::io;
use std::path::{Path, PathBuf};

/// Why a replica could not be opened. Each text says what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
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
    /// The write-ahead log or a `.snap` file cannot be used.
    #[error("write-ahead log: {0}")]
    Log(#[from] wal::Error),
    /// The database cannot be used.
    #[error("database {}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the state machine says.
        source: Box<state_machine::OpenError>,
    },
    /// Raft refuses to start from what is stored.
    #[error("{0}")]
    Raft(#[from] raft::Error),
    /// The initial cluster has no member of this name.
    #[error("--initial-cluster has no member named {name:?}; give this member's --name and URL there")]
    NotInInitialCluster {
        /// `--name`.
        name: String,
    },
    /// The log's metadata is not two ids.
    #[error("{}: the log's metadata is unreadable ({reason}); replace this member", dir.display())]
    Metadata {
        /// The log's directory.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The data belongs to another member or cluster than the one that is to be started.
    #[error(
        "{}: the data is of member {found_member:x} of cluster {found_cluster:x}, not of member {member:x} of cluster \
         {cluster:x}; mount the right volume, or remove the data and add a new member",
        dir.display()
    )]
    OtherIdentity {
        /// The data directory.
        dir: PathBuf,
        /// Wanted.
        member: u64,
        /// Wanted.
        cluster: u64,
        /// Found in the log.
        found_member: u64,
        /// Found in the log.
        found_cluster: u64,
    },
    /// The database knows its members, and this one was never among them.
    #[error(
        "{}: member {member:x} of the log is unknown to the database; they come from different members: restore both from \
         one source, or remove the data and add a new member",
        path.display()
    )]
    ForeignDatabase {
        /// The database.
        path: PathBuf,
        /// The member that the log names.
        member: u64,
    },
    /// A log without its database.
    #[error(
        "{}: the database reaches index {applied}, but the log begins after {snapshot}; the database was lost or replaced: \
         restore it, or remove the data and add a new member",
        path.display()
    )]
    DatabaseBehindLog {
        /// The database.
        path: PathBuf,
        /// Its consistent index.
        applied: u64,
        /// Index of the newest valid snapshot record.
        snapshot: u64,
    },
    /// The database holds entries that the log never had.
    #[error(
        "{}: the database reaches index {applied}, but the log ends at {last}; the log was lost or replaced: remove the data \
         and add a new member",
        path.display()
    )]
    DatabaseAheadOfLog {
        /// The database.
        path: PathBuf,
        /// Its consistent index.
        applied: u64,
        /// Last index of the log.
        last: u64,
    },
    /// Nothing to start from, and nothing said how to start.
    #[error("{}: no data, and neither a new cluster nor one to join was named", dir.display())]
    NoData {
        /// The data directory.
        dir: PathBuf,
    },
}

impl OpenError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |source| OpenError::Io { doing, path, source }
    }
}

/// Why the member must stop now: what it would do next could be wrong. Never retried; a restart reads what is durable.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A write or sync of the log failed.
    #[error("write-ahead log: {0}")]
    Log(#[from] wal::Error),
    /// An entry cannot be applied as every other member applies it.
    #[error("state machine: {0}")]
    State(#[from] state_machine::Fatal),
    /// The database failed.
    #[error("database: {0}")]
    Storage(#[from] state_machine::Error),
    /// A database that came with a snapshot cannot be opened.
    #[error("database {}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the state machine says.
        source: Box<state_machine::OpenError>,
    },
    /// Raft found its log, its storage or its caller broken.
    #[error("{0}")]
    Raft(#[from] raft::Error),
    /// A file could not be moved or made durable.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A database that came with a snapshot does not hold what the snapshot says.
    #[error("{}: the received database reaches index {applied}, its snapshot says {index}", path.display())]
    ReceivedDatabase {
        /// The file.
        path: PathBuf,
        /// Its consistent index.
        applied: u64,
        /// The snapshot's index.
        index: u64,
    },
    /// The run loop broke its contract.
    #[error("persisted job {found}, expected {expected}")]
    OutOfOrder {
        /// The job that was due.
        expected: u64,
        /// The job reported.
        found: u64,
    },
}

impl Fatal {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Fatal {
        let path = path.to_owned();
        move |source| Fatal::Io { doing, path, source }
    }
}
