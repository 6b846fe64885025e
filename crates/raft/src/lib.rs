//! The Raft algorithm alone: messages in, messages and entries out.
//!
//! The algorithm, the messages and the log lines are those of etcd raft 3.7 (`go.etcd.io/raft/v3`), whose interaction
//! scripts this crate replays unchanged. It knows no socket, disk, clock or thread: time comes as [`RawNode::tick`],
//! randomness as [`Config::seed`], the stable log as a [`Storage`] that only the application writes.
//!
//! # How to drive a node
//!
//! ```text
//! let mut node = RawNode::new(Config { id: 1, seed, ..Config::default() }, storage)?;
//! node.tick()?; node.step_peer(message)?; node.propose(data)?; node.read_index(unique_context)?; …
//! while node.has_ready() {
//!     let ready = node.ready()?;
//!     …
//! }
//! ```
//!
//! Without [`Config::async_storage_writes`], handle each [`Ready`] in this order and then call [`RawNode::advance`]:
//! write `entries`, `hard_state` and `snapshot` to the storage ([`RawNode::storage_mut`]) and sync them if `must_sync`;
//! send `messages` (a leader may send its own in parallel with the write); apply `snapshot` and `committed_entries`,
//! calling [`RawNode::apply_conf_change`] for each change among them.
//!
//! With it, the work is in `messages`, and a next [`Ready`] may be taken before the work of the one before is done:
//! - `MsgStorageAppend` to [`LOCAL_APPEND_THREAD`]: write its entries, its hard state (`term`, `vote`, `commit`, unless all
//!   are zero) and its snapshot, sync, and only then deliver its `responses`: those to this node through
//!   [`RawNode::step`], after the storage shows what was written, the others to their peers. Strictly in order.
//! - `MsgStorageApply` to [`LOCAL_APPLY_THREAD`]: apply its entries, then step its `responses`. Strictly in order.
//! - everything else may be sent at once: a leader's appends leave before its own write is durable.
//!
//! # Errors
//!
//! Nothing here panics on what comes from a peer, the disk or the caller. [`Error::is_fatal`] tells whether the node may
//! go on: most errors only say that a message or proposal had no effect.
//!
//! # What differs from etcd raft, on purpose
//!
//! - Where etcd raft panics there is an [`Error`], and impossible messages are refused before they change anything.
//! - An echo of a read position that is malformed or was never sent is no acknowledgement.
//! - A single voter, too, answers reads only after it has committed an entry of its term.
//! - A change of the configuration re-evaluates waiting reads, not only the commit index; a change of role drops them.
//! - `Bootstrap` is absent: a group starts from a storage that holds its first entries or a snapshot.
//!
//! # Invariants
//!
//! - Pure: the same inputs give the same outputs. Members are visited in the order of their ids.
//! - Messages carry nothing beyond fields 1 to 14 of `raftpb.Message`, and `vote` and `responses` never leave the node.
//! - The ids 0, `u64::MAX` and `u64::MAX - 1` are reserved.

pub mod confchange;
pub mod quorum;
pub mod tracker;

mod config;
mod describe;
mod entry;
mod error;
mod log;
mod logger;
mod message;
mod raft;
mod random;
mod raw_node;
mod read_only;
mod ready;
mod status;
mod storage;
mod unstable;

pub use confchange::AnyConfChange;
pub use config::{Config, ReadOnlyOption};
pub use describe::{
    describe_changes, describe_conf_change, describe_conf_state, describe_entries, describe_entry, describe_hard_state,
    describe_message, describe_ready, describe_snapshot, describe_soft_state,
};
pub use entry::limit_size;
pub use error::{Error, StorageError};
pub use logger::{Level, Logger, Silent};
pub use message::{is_local, is_response};
pub use raft::{SoftState, StateType};
pub use raw_node::{RawNode, SnapshotStatus};
pub use read_only::ReadState;
pub use ready::Ready;
pub use status::{BasicStatus, Status};
pub use storage::{MemoryStorage, Storage};

/// No member: the id that a leader, a vote or a sender has when there is none.
pub const NONE: u64 = 0;

/// The receiver of work for the append thread, with async storage writes.
pub const LOCAL_APPEND_THREAD: u64 = u64::MAX;

/// The receiver of work for the apply thread, with async storage writes.
pub const LOCAL_APPLY_THREAD: u64 = u64::MAX - 1;

/// A size limit that limits nothing.
pub const NO_LIMIT: u64 = u64::MAX;

/// Whether an id names one of the storage threads instead of a member.
pub fn is_local_target(id: u64) -> bool {
    id == LOCAL_APPEND_THREAD || id == LOCAL_APPLY_THREAD
}
