//! The tail of the log that is not yet known to be in the storage, and a snapshot on its way there.
//!
//! Invariants:
//! - `entries[i]` has index `offset + i`; `offset` may lie before the end of the storage, whose tail is then about to be
//!   replaced.
//! - `offset <= offset_in_progress`: entries below the latter are being written.
//! - Entries leave only when the storage is known to hold them and no write under way can replace them.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::raftpb::{Entry, Snapshot};

use crate::entry::EntryId;
use crate::logger::{Logger, info};

/// Buffers of this many entries are kept; larger ones are given back once they are mostly empty.
const KEPT_CAPACITY: usize = 1024;

pub(crate) struct Unstable {
    snapshot: Option<Snapshot>,
    entries: VecDeque<Entry>,
    pub(crate) offset: u64,
    snapshot_in_progress: bool,
    pub(crate) offset_in_progress: u64,
    logger: Arc<dyn Logger>,
}

impl Unstable {
    pub(crate) fn new(offset: u64, logger: Arc<dyn Logger>) -> Unstable {
        Unstable {
            snapshot: None,
            entries: VecDeque::new(),
            offset,
            snapshot_in_progress: false,
            offset_in_progress: offset,
            logger,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// The first index of the log, if the snapshot decides it.
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|snapshot| snapshot_id(snapshot).index + 1)
    }

    /// The last index of the log, if it is not in the storage.
    pub(crate) fn last_index(&self) -> Option<u64> {
        if !self.entries.is_empty() {
            return Some(self.offset + self.entries.len() as u64 - 1);
        }
        self.snapshot.as_ref().map(|snapshot| snapshot_id(snapshot).index)
    }

    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index < self.offset {
            let id = snapshot_id(self.snapshot.as_ref()?);
            return (id.index == index).then_some(id.term);
        }
        self.entries.get((index - self.offset) as usize).map(|entry| entry.term)
    }

    /// Entries that are not being written yet.
    pub(crate) fn next_entries(&self) -> Vec<Entry> {
        let in_progress = (self.offset_in_progress - self.offset) as usize;
        self.entries
            .range(in_progress.min(self.entries.len())..)
            .cloned()
            .collect()
    }

    pub(crate) fn has_next_entries(&self) -> bool {
        self.entries.len() as u64 > self.offset_in_progress - self.offset
    }

    /// The snapshot, if it is not being written yet.
    pub(crate) fn next_snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().filter(|_| !self.snapshot_in_progress)
    }

    /// Everything held is being written from now on.
    pub(crate) fn accept_in_progress(&mut self) {
        if let Some(last) = self.entries.back() {
            self.offset_in_progress = last.index + 1;
        }
        if self.snapshot.is_some() {
            self.snapshot_in_progress = true;
        }
    }

    /// The storage holds the log up to `id`, and no write under way replaces it.
    pub(crate) fn stable_to(&mut self, id: EntryId) {
        let index = id.index;
        let Some(term) = self.term(index) else {
            info!(
                self.logger,
                "entry at index {index} missing from unstable log; ignoring"
            );
            return;
        };
        if index < self.offset {
            info!(
                self.logger,
                "entry at index {index} matched unstable snapshot; ignoring"
            );
            return;
        }
        if term != id.term {
            info!(
                self.logger,
                "entry at (index,term)=({index},{}) mismatched with entry at ({index},{term}) in unstable log; ignoring",
                id.term
            );
            return;
        }
        self.entries.drain(..(index + 1 - self.offset) as usize);
        self.offset = index + 1;
        self.offset_in_progress = self.offset_in_progress.max(self.offset);
        if self.entries.capacity() > KEPT_CAPACITY && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(KEPT_CAPACITY);
        }
    }

    pub(crate) fn stable_snapshot_to(&mut self, index: u64) {
        if self
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot_id(snapshot).index == index)
        {
            self.snapshot = None;
            self.snapshot_in_progress = false;
        }
    }

    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        self.offset = snapshot_id(&snapshot).index + 1;
        self.offset_in_progress = self.offset;
        self.entries.clear();
        self.snapshot = Some(snapshot);
        self.snapshot_in_progress = false;
    }

    /// Appends contiguous entries, replacing what is held at and behind the first of them.
    pub(crate) fn truncate_and_append(&mut self, entries: impl IntoIterator<Item = Entry>, from_index: u64) {
        if from_index == self.offset + self.entries.len() as u64 {
            // The common case: they join the end.
        } else if from_index <= self.offset {
            info!(self.logger, "replace the unstable entries from index {from_index}");
            self.entries.clear();
            self.offset = from_index;
            self.offset_in_progress = from_index;
        } else {
            info!(self.logger, "truncate the unstable entries before index {from_index}");
            self.entries.truncate((from_index - self.offset) as usize);
            self.offset_in_progress = self.offset_in_progress.min(from_index);
        }
        self.entries.extend(entries);
    }

    /// Entries `[lo, hi)`; the caller has checked that they are held.
    pub(crate) fn range(&self, lo: u64, hi: u64) -> impl Iterator<Item = &Entry> {
        let position = |index: u64| (index.saturating_sub(self.offset) as usize).min(self.entries.len());
        self.entries.range(position(lo)..position(hi))
    }
}

/// Term and index of a snapshot; zeros when it is empty.
pub(crate) fn snapshot_id(snapshot: &Snapshot) -> EntryId {
    snapshot
        .metadata
        .as_ref()
        .map_or_else(EntryId::default, |metadata| EntryId {
            term: metadata.term,
            index: metadata.index,
        })
}
