//! What the node needs to know of the stable log, and an implementation that keeps it in memory.
//!
//! Invariants of a storage:
//! - It holds a snapshot (index, term, configuration) and the entries that directly follow it: `first_index` is the
//!   snapshot's index + 1, and the term of `first_index - 1` is known.
//! - It changes only by what the application persists: the node itself never writes.
//! - Entries up to the applied index may be compacted at any time between two calls into the node.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::raftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};

use crate::StorageError;
use crate::entry::limit_size;

/// The stable log as the node reads it.
pub trait Storage {
    /// Hard state and configuration to start from; both empty when nothing was stored yet.
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError>;
    /// Entries `[lo, hi)`, cut at `max_size` encoded bytes but at least one. [`StorageError::Compacted`] when `lo` lies
    /// before the first index, [`StorageError::Unavailable`] when `hi` lies behind the last one.
    fn entries(&self, lo: u64, hi: u64, max_size: u64) -> Result<Vec<Entry>, StorageError>;
    /// Term of the entry at `index`, which may be anything in `[first_index - 1, last_index]`.
    fn term(&self, index: u64) -> Result<u64, StorageError>;
    /// Index of the first entry held; one behind the snapshot even when no entry is held. Must be known without I/O.
    fn first_index(&self) -> u64;
    /// Index of the last entry held, or of the snapshot. Must be known without I/O.
    fn last_index(&self) -> u64;
    /// The most recent snapshot, not an empty one, or [`StorageError::SnapshotTemporarilyUnavailable`] when it has to be
    /// made first: the node asks again.
    fn snapshot(&self) -> Result<Snapshot, StorageError>;
}

/// A storage in memory: for tests, and as the read side of a log that is also written to disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    hard_state: HardState,
    snapshot: Snapshot,
    /// Index and term of the entry before the first one in `entries`.
    base_index: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
}

impl MemoryStorage {
    /// An empty storage: no hard state, no entries, first index 1.
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }

    /// Replaces the hard state.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// The hard state as last set.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Replaces everything by the snapshot. [`StorageError::SnapshotOutOfDate`] when one as new is held already.
    pub fn apply_snapshot(&mut self, snapshot: Snapshot) -> Result<(), StorageError> {
        let (index, term) = snapshot
            .metadata
            .as_ref()
            .map_or((0, 0), |metadata| (metadata.index, metadata.term));
        let held = self.snapshot_index();
        if held != 0 && held >= index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        self.snapshot = snapshot;
        self.base_index = index;
        self.base_term = term;
        self.entries.clear();
        Ok(())
    }

    /// Makes `index` the index of the snapshot, with `conf_state` (the one held when `None`) and `data`, without
    /// discarding entries. Answers the new snapshot.
    pub fn create_snapshot(
        &mut self,
        index: u64,
        conf_state: Option<ConfState>,
        data: Bytes,
    ) -> Result<Snapshot, StorageError> {
        if index <= self.snapshot_index() {
            return Err(StorageError::SnapshotOutOfDate);
        }
        let term = self.term(index)?;
        let metadata = self.snapshot.metadata.get_or_insert_default();
        metadata.index = index;
        metadata.term = term;
        if let Some(conf_state) = conf_state {
            metadata.conf_state = Some(conf_state);
        }
        self.snapshot.data = data;
        Ok(self.snapshot.clone())
    }

    /// Discards the entries up to and including `index`, whose term stays known. Compact nothing that is not applied.
    pub fn compact(&mut self, index: u64) -> Result<(), StorageError> {
        if index <= self.base_index {
            return Err(StorageError::Compacted);
        }
        self.base_term = self.term(index)?;
        self.entries.drain(..(index - self.base_index) as usize);
        self.base_index = index;
        Ok(())
    }

    /// Appends entries, which must be contiguous; entries held at or behind the first of them are replaced, and those
    /// that are compacted already are left out. [`StorageError::Gap`] when they would not join the log.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        if last.index <= self.base_index {
            return Ok(());
        }
        let skip = (self.base_index + 1).saturating_sub(first.index) as usize;
        let Some(first) = entries.get(skip) else { return Ok(()) };
        let keep = (first.index - self.base_index - 1) as usize;
        if keep > self.entries.len() {
            return Err(StorageError::Gap {
                last: self.last_index(),
                at: first.index,
            });
        }
        self.entries.truncate(keep);
        self.entries.extend(entries[skip..].iter().cloned());
        Ok(())
    }

    fn snapshot_index(&self) -> u64 {
        self.snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index)
    }
}

impl Storage for MemoryStorage {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        let metadata = self.snapshot.metadata.as_ref();
        let conf_state = metadata
            .and_then(|metadata| metadata.conf_state.clone())
            .unwrap_or_default();
        Ok((self.hard_state, conf_state))
    }

    fn entries(&self, lo: u64, hi: u64, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        if lo <= self.base_index {
            return Err(StorageError::Compacted);
        }
        if hi > self.last_index() + 1 || lo > hi {
            return Err(StorageError::Unavailable);
        }
        let position = |index| (index - self.base_index - 1) as usize;
        Ok(limit_size(self.entries.range(position(lo)..position(hi)), max_size))
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        if index < self.base_index {
            return Err(StorageError::Compacted);
        }
        if index == self.base_index {
            return Ok(self.base_term);
        }
        let entry = self
            .entries
            .get((index - self.base_index - 1) as usize)
            .ok_or(StorageError::Unavailable)?;
        Ok(entry.term)
    }

    fn first_index(&self) -> u64 {
        self.base_index + 1
    }

    fn last_index(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        let mut snapshot = self.snapshot.clone();
        snapshot
            .metadata
            .get_or_insert_with(SnapshotMetadata::default)
            .conf_state
            .get_or_insert_default();
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            term,
            index,
            ..Entry::default()
        }
    }

    fn storage(entries: &[(u64, u64)]) -> MemoryStorage {
        let mut storage = MemoryStorage::new();
        let (term, index) = entries[0];
        storage.base_index = index;
        storage.base_term = term;
        storage.entries = entries[1..].iter().map(|&(term, index)| entry(term, index)).collect();
        storage
    }

    fn ids(storage: &MemoryStorage) -> Vec<(u64, u64)> {
        let base = (storage.base_term, storage.base_index);
        std::iter::once(base)
            .chain(storage.entries.iter().map(|entry| (entry.term, entry.index)))
            .collect()
    }

    #[test]
    fn terms_are_known_from_the_snapshot_to_the_last_entry() {
        let storage = storage(&[(3, 3), (4, 4), (5, 5)]);
        assert_eq!(storage.term(2), Err(StorageError::Compacted));
        assert_eq!(storage.term(3), Ok(3));
        assert_eq!(storage.term(5), Ok(5));
        assert_eq!(storage.term(6), Err(StorageError::Unavailable));
    }

    #[test]
    fn entries_outside_are_refused_by_name() {
        let storage = storage(&[(3, 3), (4, 4), (5, 5)]);
        assert_eq!(storage.entries(3, 5, u64::MAX), Err(StorageError::Compacted));
        assert_eq!(storage.entries(4, 7, u64::MAX), Err(StorageError::Unavailable));
        assert_eq!(storage.entries(4, 6, u64::MAX).unwrap(), [entry(4, 4), entry(5, 5)]);
        assert_eq!(storage.entries(4, 6, 0).unwrap(), [entry(4, 4)]);
    }

    #[test]
    fn append_replaces_a_tail_skips_what_is_compacted_and_refuses_a_hole() {
        let original = [(3, 3), (4, 4), (5, 5)];
        let appended = |entries: &[Entry]| {
            let mut storage = storage(&original);
            storage.append(entries).map(|()| ids(&storage))
        };
        assert_eq!(appended(&[entry(1, 1), entry(2, 2)]).unwrap(), original);
        assert_eq!(appended(&[entry(3, 3), entry(6, 4)]).unwrap(), [(3, 3), (6, 4)]);
        assert_eq!(
            appended(&[entry(2, 2), entry(3, 3), entry(5, 4)]).unwrap(),
            [(3, 3), (5, 4)]
        );
        assert_eq!(appended(&[entry(5, 6)]).unwrap(), [(3, 3), (4, 4), (5, 5), (5, 6)]);
        assert_eq!(appended(&[entry(5, 7)]), Err(StorageError::Gap { last: 5, at: 7 }));
    }

    #[test]
    fn compaction_keeps_the_term_of_the_last_entry_discarded() {
        let mut storage = storage(&[(3, 3), (4, 4), (5, 5)]);
        assert_eq!(storage.compact(3), Err(StorageError::Compacted));
        storage.compact(4).unwrap();
        assert_eq!(ids(&storage), [(4, 4), (5, 5)]);
        assert_eq!(storage.compact(6), Err(StorageError::Unavailable));
    }

    #[test]
    fn an_older_snapshot_does_not_replace_a_newer_one() {
        let snapshot = |index| Snapshot {
            metadata: Some(SnapshotMetadata {
                index,
                term: index,
                conf_state: None,
            }),
            data: Bytes::new(),
        };
        let mut storage = MemoryStorage::new();
        storage.apply_snapshot(snapshot(4)).unwrap();
        assert_eq!(
            storage.apply_snapshot(snapshot(3)),
            Err(StorageError::SnapshotOutOfDate)
        );
        assert_eq!((storage.first_index(), storage.last_index()), (5, 4));
    }
}
