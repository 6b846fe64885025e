//! Everything that can go wrong, as values.
//!
//! Invariants:
//! - Nothing in this crate panics on what a peer or the disk hands in; etcd raft panics in many of these places.
//! - An error that is not [`Error::is_fatal`] leaves the node usable: the message or proposal had no effect beyond a term
//!   that may have been taken over from it.

use proto::raftpb::MessageType;

use crate::confchange::ConfChangeError;

/// Why a step, a proposal or a start did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The proposal was not appended anywhere: no leader, a transfer is running, this leader is being removed, or the
    /// uncommitted tail is too large. Retry later, or give the client an error.
    #[error("raft proposal dropped")]
    ProposalDropped,
    /// A message type that only the node itself may produce arrived from a peer.
    #[error("raft: cannot step raft local message")]
    StepLocalMsg,
    /// A response from an id that is not part of the configuration.
    #[error("raft: cannot step as peer not found")]
    StepPeerNotFound,
    /// A message that no correct peer sends. It was ignored.
    #[error(
        "raft: invalid {kind} from {from:x}: {why}; the message was ignored, check the version and state of that peer"
    )]
    InvalidMessage {
        /// What the message claims to be: a type name, or `type N` when the number is unknown.
        kind: String,
        /// The sender named in the message.
        from: u64,
        /// What is impossible about it.
        why: String,
    },
    /// A field of [`crate::Config`] has a value that cannot work.
    #[error("raft config: {field} {why}")]
    InvalidConfig {
        /// The field, as named in [`crate::Config`].
        field: &'static str,
        /// What is wrong and what is allowed.
        why: &'static str,
    },
    /// A configuration change that does not fit the current configuration. The configuration is as before.
    #[error("raft: configuration change refused: {0}")]
    ConfChange(#[from] ConfChangeError),
    /// The leader says that an index is committed which this log does not reach, although this member must have
    /// acknowledged it: data that was acknowledged is gone. Fatal: remove the member and add it again with an empty disk.
    #[error(
        "raft: commit index {commit} is beyond the last log index {last_index}: the log of this member was corrupted, \
         truncated or lost; replace the member"
    )]
    CommitBeyondLog {
        /// The commit index that was asked for.
        commit: u64,
        /// The last index of the log of this member.
        last_index: u64,
    },
    /// The leader sends another entry for an index that is committed here. Fatal: two histories exist.
    #[error(
        "raft: entry {index} from the leader conflicts with the committed log (committed up to {committed}); this member \
         and the leader have different histories, replace the member"
    )]
    ConflictWithCommitted {
        /// Index of the first entry that differs.
        index: u64,
        /// The commit index of this member.
        committed: u64,
    },
    /// The stored hard state does not fit the stored log. Fatal, found at start.
    #[error(
        "raft: stored commit index {commit} is outside of the stored log [{first}, {last}]; the write-ahead log of this \
         member is damaged, replace the member"
    )]
    HardStateOutOfRange {
        /// `HardState.commit` as stored.
        commit: u64,
        /// The index of the stored snapshot, the lowest value possible.
        first: u64,
        /// The last stored index, the highest value possible.
        last: u64,
    },
    /// The application reported an applied index that cannot be. Fatal: a bug of the caller.
    #[error("raft: applied index {index} is outside of [{applied}, {committed}]")]
    AppliedOutOfRange {
        /// What was reported.
        index: u64,
        /// What had been applied before.
        applied: u64,
        /// The commit index.
        committed: u64,
    },
    /// Entries were asked for that the log does not hold. Fatal: log and storage disagree.
    #[error("raft: entries [{lo}, {hi}) are outside of the log [{first}, {last}]")]
    OutOfRange {
        /// First index wanted.
        lo: u64,
        /// First index not wanted.
        hi: u64,
        /// First index held.
        first: u64,
        /// Last index held.
        last: u64,
    },
    /// The stored configuration cannot be restored exactly. Fatal, found at start.
    #[error("raft: stored configuration {stored} was restored as {restored}")]
    ConfStateMismatch {
        /// The `ConfState` as stored.
        stored: String,
        /// What became of it.
        restored: String,
    },
    /// The storage failed.
    #[error("raft storage: {0}")]
    Storage(#[from] StorageError),
    /// The API was used against its contract.
    #[error("raft: {0}")]
    Misuse(&'static str),
}

impl Error {
    /// True when the node must not go on: its log, its storage or its caller is broken, and what it would send next
    /// could do harm.
    pub fn is_fatal(&self) -> bool {
        match self {
            Error::ProposalDropped
            | Error::StepLocalMsg
            | Error::StepPeerNotFound
            | Error::InvalidMessage { .. }
            | Error::ConfChange(_) => false,
            Error::InvalidConfig { .. }
            | Error::CommitBeyondLog { .. }
            | Error::ConflictWithCommitted { .. }
            | Error::HardStateOutOfRange { .. }
            | Error::AppliedOutOfRange { .. }
            | Error::OutOfRange { .. }
            | Error::ConfStateMismatch { .. }
            | Error::Storage(_)
            | Error::Misuse(_) => true,
        }
    }

    pub(crate) fn invalid(kind: MessageType, from: u64, why: impl Into<String>) -> Error {
        Error::InvalidMessage {
            kind: kind.as_str_name().to_owned(),
            from,
            why: why.into(),
        }
    }
}

/// What a [`crate::Storage`] may answer instead of data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The index lies before the first one held; it is part of the snapshot.
    #[error("requested index is unavailable due to compaction")]
    Compacted,
    /// The index lies behind the last one held.
    #[error("requested entry at index is unavailable")]
    Unavailable,
    /// A snapshot older than the one held was offered.
    #[error("requested index is older than the existing snapshot")]
    SnapshotOutOfDate,
    /// The snapshot is being made; ask again later.
    #[error("snapshot is temporarily unavailable")]
    SnapshotTemporarilyUnavailable,
    /// Entries would leave a hole behind the last index.
    #[error("missing log entry [last: {last}, append at: {at}]")]
    Gap {
        /// The last index held.
        last: u64,
        /// The index of the first entry to append.
        at: u64,
    },
    /// Anything else, for example a failed read.
    #[error("{0}")]
    Other(String),
}
