//! How a leader gets its log to the others.
//!
//! Invariants:
//! - The commit index in a heartbeat is never beyond what the follower is known to have.
//! - A snapshot is sent only to a follower that was heard of lately.

use bytes::Bytes;
use proto::raftpb::MessageType;

use super::Raft;
use crate::entry::payload_size_of;
use crate::logger::{debug, error};
use crate::message::message;
use crate::tracker::ProgressState;
use crate::unstable::snapshot_id;
use crate::{Error, Storage, StorageError};

impl<S: Storage> Raft<S> {
    pub(super) fn broadcast_append(&mut self) -> Result<(), Error> {
        self.broadcast_append_with(true)
    }

    pub(super) fn broadcast_append_with(&mut self, send_if_empty: bool) -> Result<(), Error> {
        let mut id = 0;
        while let Some(next) = self.tracker.next_id(id) {
            id = next;
            if id != self.id {
                self.maybe_send_append(id, send_if_empty)?;
            }
        }
        Ok(())
    }

    pub(super) fn send_append(&mut self, to: u64) -> Result<(), Error> {
        self.maybe_send_append(to, true).map(|_| ())
    }

    /// Sends what the follower lacks, if its state allows; answers whether something was sent.
    pub(super) fn maybe_send_append(&mut self, to: u64, send_if_empty: bool) -> Result<bool, Error> {
        let Some(progress) = self.tracker.progress.get_mut(&to) else {
            return Ok(false);
        };
        if progress.is_paused() {
            return Ok(false);
        }
        let previous = progress.next - 1;
        let previous_term = match self.log.term(previous) {
            Ok(term) => term,
            Err(StorageError::Compacted | StorageError::Unavailable) => return self.maybe_send_snapshot(to),
            Err(error) => return Err(error.into()),
        };
        // With a full window only an empty message may go out.
        let window_open = progress.state != ProgressState::Replicate || !progress.inflights.is_full();
        let entries = match window_open {
            false => Ok(Vec::new()),
            true => self.log.entries(progress.next, self.max_msg_size),
        };
        let entries = match entries {
            Ok(entries) if entries.is_empty() && !send_if_empty => return Ok(false),
            Ok(entries) => entries,
            Err(Error::Storage(StorageError::Compacted)) if send_if_empty => return self.maybe_send_snapshot(to),
            Err(Error::Storage(StorageError::Compacted)) => return Ok(false),
            Err(error) => return Err(error),
        };
        progress.sent_entries(entries.len(), payload_size_of(&entries));
        progress.sent_commit = self.log.committed;
        let mut append = message(MessageType::MsgApp, to);
        append.index = previous;
        append.log_term = previous_term;
        append.entries = entries;
        append.commit = self.log.committed;
        self.send(append);
        Ok(true)
    }

    fn maybe_send_snapshot(&mut self, to: u64) -> Result<bool, Error> {
        let Some(progress) = self.tracker.progress.get_mut(&to) else {
            return Ok(false);
        };
        if !progress.recent_active {
            debug!(
                self.logger,
                "ignore sending snapshot to {to:x} since it is not recently active"
            );
            return Ok(false);
        }
        let snapshot = match self.log.snapshot() {
            Ok(snapshot) => snapshot,
            Err(StorageError::SnapshotTemporarilyUnavailable) => {
                debug!(
                    self.logger,
                    "{:x} failed to send snapshot to {to:x} because snapshot is temporarily unavailable", self.id
                );
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let id = snapshot_id(&snapshot);
        if id.index == 0 {
            error!(
                self.logger,
                "{:x} needs a snapshot for {to:x} but the storage has an empty one", self.id
            );
            return Ok(false);
        }
        debug!(
            self.logger,
            "{:x} [firstindex: {}, commit: {}] sent snapshot[index: {}, term: {}] to {to:x} [{progress}]",
            self.id,
            self.log.first_index(),
            self.log.committed,
            id.index,
            id.term
        );
        progress.become_snapshot(id.index);
        debug!(
            self.logger,
            "{:x} paused sending replication messages to {to:x} [{progress}]", self.id
        );
        let mut m = message(MessageType::MsgSnap, to);
        m.snapshot = Some(snapshot);
        self.send(m);
        Ok(true)
    }

    /// A heartbeat to everybody, with the position of the newest read that waits.
    pub(super) fn broadcast_heartbeat(&mut self) {
        let context = self.read_only.heartbeat_context();
        let mut id = 0;
        while let Some(next) = self.tracker.next_id(id) {
            id = next;
            if id != self.id {
                self.send_heartbeat(id, context.clone());
            }
        }
    }

    fn send_heartbeat(&mut self, to: u64, context: Bytes) {
        let Some(progress) = self.tracker.progress.get_mut(&to) else {
            return;
        };
        // A follower must not commit what it may not have.
        let mut commit = progress.matched.min(self.log.committed);
        if mutant::planted("Q04") {
            commit = self.log.committed;
        }
        progress.sent_commit = commit;
        let mut heartbeat = message(MessageType::MsgHeartbeat, to);
        heartbeat.commit = commit;
        heartbeat.context = context;
        self.send(heartbeat);
    }
}
