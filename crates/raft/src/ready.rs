//! What a node wants done.

use proto::raftpb::{Entry, HardState, Message, MessageType, Snapshot};

use crate::entry::EntryId;
use crate::message::message;
use crate::read_only::ReadState;
use crate::{LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, SoftState};

/// The work of one round. How to handle it depends on [`crate::Config::async_storage_writes`]; see the crate's front page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ready {
    /// Leader and role, when they changed.
    pub soft_state: Option<SoftState>,
    /// Term, vote and commit index, when they changed: to be stored before `messages` are sent.
    pub hard_state: Option<HardState>,
    /// Reads that may be served once the application has applied their index.
    pub read_states: Vec<ReadState>,
    /// Entries to be stored before `messages` are sent. They may replace a stored tail.
    pub entries: Vec<Entry>,
    /// A snapshot to be stored, and to replace the state of the application.
    pub snapshot: Option<Snapshot>,
    /// Entries to be applied, in order.
    pub committed_entries: Vec<Entry>,
    /// Messages to be sent. With async storage writes, those to the two storage threads carry the work for them.
    pub messages: Vec<Message>,
    /// Whether what is stored must be synced to disk before going on; false when only the commit index changed.
    pub must_sync: bool,
}

/// The message that hands work to the append thread: what is to be stored, and the messages that may leave only after
/// that.
pub(crate) fn storage_append(id: u64, ready: &Ready, responses: Vec<Message>) -> Message {
    let mut m = message(MessageType::MsgStorageAppend, LOCAL_APPEND_THREAD);
    m.from = id;
    m.entries = ready.entries.clone();
    if let Some(hard_state) = &ready.hard_state {
        m.term = hard_state.term;
        m.vote = hard_state.vote;
        m.commit = hard_state.commit;
    }
    m.snapshot = ready.snapshot.clone();
    m.responses = responses;
    m
}

/// The message that tells the node that everything handed to the append thread so far is durable.
///
/// It carries the term of now, and is ignored in another one: entries that are replaced and then appear again (as they
/// may when leaders alternate) must not count as stable while a write that replaces them is still under way. `last` is
/// the end of the whole log, not only of what this round stores, so that an ignored answer is made up for by the next.
pub(crate) fn storage_append_response(
    id: u64,
    term: u64,
    last: Option<EntryId>,
    snapshot: Option<Snapshot>,
) -> Message {
    let mut m = message(MessageType::MsgStorageAppendResp, id);
    m.from = LOCAL_APPEND_THREAD;
    m.term = term;
    if let Some(last) = last {
        m.index = last.index;
        m.log_term = last.term;
    }
    m.snapshot = snapshot;
    m
}

/// The message that hands entries to the apply thread.
pub(crate) fn storage_apply(id: u64, entries: &[Entry]) -> Message {
    let mut m = message(MessageType::MsgStorageApply, LOCAL_APPLY_THREAD);
    m.from = id;
    m.entries = entries.to_vec();
    m.responses = vec![storage_apply_response(id, entries)];
    m
}

/// The message that tells the node that entries are applied. It has no term: what is committed stays so.
pub(crate) fn storage_apply_response(id: u64, entries: &[Entry]) -> Message {
    let mut m = message(MessageType::MsgStorageApplyResp, id);
    m.from = LOCAL_APPLY_THREAD;
    m.entries = entries.to_vec();
    m
}
