//! The log as the algorithm sees it: the storage with the unstable tail on top.
//!
//! Invariants:
//! - `applied <= applying <= committed <= last_index`; `committed` never falls.
//! - Nothing at or below `committed` is ever replaced.

use std::fmt;
use std::sync::Arc;

use proto::raftpb::{Entry, Snapshot};

use crate::entry::{EntryId, encoded_size_of, extend_limited, limit_size};
use crate::logger::{Logger, info};
use crate::unstable::{Unstable, snapshot_id};
use crate::{Error, Storage, StorageError};

pub(crate) struct RaftLog<S> {
    pub(crate) storage: S,
    pub(crate) unstable: Unstable,
    /// The highest index known to be on a quorum.
    pub(crate) committed: u64,
    /// The highest index handed to the application.
    pub(crate) applying: u64,
    /// The highest index that the application reported as applied.
    pub(crate) applied: u64,
    /// Limit of encoded bytes handed out and not yet applied.
    pub(crate) max_applying_size: u64,
    applying_size: u64,
    /// No entries are handed out until some are reported as applied.
    applying_paused: bool,
    logger: Arc<dyn Logger>,
}

impl<S: Storage> RaftLog<S> {
    pub(crate) fn new(storage: S, logger: Arc<dyn Logger>, max_applying_size: u64) -> RaftLog<S> {
        let snapshot_index = storage.first_index().saturating_sub(1);
        RaftLog {
            unstable: Unstable::new(storage.last_index() + 1, Arc::clone(&logger)),
            storage,
            committed: snapshot_index,
            applying: snapshot_index,
            applied: snapshot_index,
            max_applying_size,
            applying_size: 0,
            applying_paused: false,
            logger,
        }
    }

    /// Appends what a leader sent if `previous` is part of this log; answers the last index that is then known to match.
    pub(crate) fn maybe_append(
        &mut self,
        previous: EntryId,
        entries: Vec<Entry>,
        committed: u64,
    ) -> Result<Option<u64>, Error> {
        let planted = mutant::planted("Q05") && previous.index <= self.last_index();
        if !self.matches(previous)? && !planted {
            return Ok(None);
        }
        let last_new = previous.index + entries.len() as u64;
        if let Some(conflict) = self.find_conflict(&entries)? {
            if conflict <= self.committed {
                return Err(Error::ConflictWithCommitted {
                    index: conflict,
                    committed: self.committed,
                });
            }
            let known = (conflict - previous.index - 1) as usize;
            self.unstable
                .truncate_and_append(entries.into_iter().skip(known), conflict);
        }
        let last_new_or_known = if mutant::planted("Q47") {
            self.last_index()
        } else {
            last_new
        };
        self.commit_to(committed.min(last_new_or_known))?;
        Ok(Some(last_new))
    }

    /// Appends entries of a leader's own; they follow the last index.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> u64 {
        if let Some(first) = entries.first().map(|entry| entry.index) {
            self.unstable.truncate_and_append(entries, first);
        }
        self.last_index()
    }

    /// Index of the first entry that is not in this log, or is here with another term.
    fn find_conflict(&self, entries: &[Entry]) -> Result<Option<u64>, Error> {
        for entry in entries {
            let id = EntryId::from(entry);
            if !self.matches(id)? {
                if id.index <= self.last_index() {
                    info!(
                        self.logger,
                        "found conflict at index {} [existing term: {}, conflicting term: {}]",
                        id.index,
                        self.term_or_zero(id.index)?,
                        id.term
                    );
                }
                return Ok(Some(id.index));
            }
        }
        Ok(None)
    }

    /// The largest index up to `index` whose term is at most `term`, and that term. Where the term is not known, that is
    /// the answer, with term 0: it might match.
    pub(crate) fn find_conflict_by_term(&self, mut index: u64, term: u64) -> (u64, u64) {
        while index > 0 {
            match self.term(index) {
                Err(_) => return (index, 0),
                Ok(own) if own <= term => return (index, own),
                Ok(_) => index -= 1,
            }
        }
        (0, 0)
    }

    /// Committed entries to hand out now, within the size limit.
    pub(crate) fn next_committed_entries(&self, allow_unstable: bool) -> Result<Vec<Entry>, Error> {
        if !self.has_next_committed_entries(allow_unstable) {
            return Ok(Vec::new());
        }
        let budget = self.max_applying_size.saturating_sub(self.applying_size);
        self.slice(self.applying + 1, self.max_appliable_index(allow_unstable) + 1, budget)
    }

    pub(crate) fn has_next_committed_entries(&self, allow_unstable: bool) -> bool {
        !self.applying_paused
            // A snapshot replaces the state: what it holds must be in place before anything is applied on top.
            && self.unstable.snapshot().is_none()
            && self.applying < self.max_appliable_index(allow_unstable)
    }

    fn max_appliable_index(&self, allow_unstable: bool) -> u64 {
        if allow_unstable {
            self.committed
        } else {
            self.committed.min(self.unstable.offset - 1)
        }
    }

    pub(crate) fn has_unstable_entries(&self) -> bool {
        self.unstable.len() > 0
    }

    pub(crate) fn has_unstable_snapshot(&self) -> bool {
        self.unstable.snapshot().is_some()
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, StorageError> {
        match self.unstable.snapshot() {
            Some(snapshot) => Ok(snapshot.clone()),
            None => self.storage.snapshot(),
        }
    }

    pub(crate) fn first_index(&self) -> u64 {
        self.unstable
            .first_index()
            .unwrap_or_else(|| self.storage.first_index())
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.unstable.last_index().unwrap_or_else(|| self.storage.last_index())
    }

    /// Raises the commit index; never lowers it.
    pub(crate) fn commit_to(&mut self, commit: u64) -> Result<(), Error> {
        if commit > self.committed {
            let last_index = self.last_index();
            if commit > last_index {
                return Err(Error::CommitBeyondLog { commit, last_index });
            }
            self.committed = commit;
        }
        Ok(())
    }

    pub(crate) fn applied_to(&mut self, index: u64, size: u64) -> Result<(), Error> {
        if index > self.committed || index < self.applied {
            return Err(Error::AppliedOutOfRange {
                index,
                applied: self.applied,
                committed: self.committed,
            });
        }
        self.applied = index;
        self.applying = self.applying.max(index);
        self.applying_size = self.applying_size.saturating_sub(size);
        self.applying_paused = self.applying_size >= self.max_applying_size;
        Ok(())
    }

    /// Entries up to `index`, of `size` encoded bytes, were handed out.
    pub(crate) fn accept_applying(&mut self, index: u64, size: u64, allow_unstable: bool) {
        self.applying = index;
        self.applying_size = self.applying_size.saturating_add(size);
        // Less than what could be applied was handed out: the next entry would break the limit.
        self.applying_paused =
            self.applying_size >= self.max_applying_size || index < self.max_appliable_index(allow_unstable);
    }

    pub(crate) fn last_entry_id(&self) -> Result<EntryId, Error> {
        let index = self.last_index();
        Ok(EntryId {
            term: self.term(index)?,
            index,
        })
    }

    /// The term at `index`, known from `first_index - 1` to `last_index`.
    pub(crate) fn term(&self, index: u64) -> Result<u64, StorageError> {
        if let Some(term) = self.unstable.term(index) {
            return Ok(term);
        }
        if index.saturating_add(1) < self.first_index() {
            return Err(StorageError::Compacted);
        }
        if index > self.last_index() {
            return Err(StorageError::Unavailable);
        }
        self.storage.term(index)
    }

    /// Entries from `from` on, within `max_size`.
    pub(crate) fn entries(&self, from: u64, max_size: u64) -> Result<Vec<Entry>, Error> {
        let last = self.last_index();
        if from > last {
            Ok(Vec::new())
        } else {
            self.slice(from, last + 1, max_size)
        }
    }

    /// Whether a log that ends with `their` holds at least as much as this one.
    pub(crate) fn is_up_to_date(&self, their: EntryId) -> Result<bool, Error> {
        let own = self.last_entry_id()?;
        if mutant::planted("Q07") {
            return Ok(their.index >= own.index);
        }
        Ok(their.term > own.term || their.term == own.term && their.index >= own.index)
    }

    pub(crate) fn matches(&self, id: EntryId) -> Result<bool, Error> {
        match self.term(id.index) {
            Ok(term) => Ok(term == id.term),
            Err(StorageError::Compacted | StorageError::Unavailable) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Commits up to `at` if that entry is of the leader's own term: older entries are committed only by the way.
    pub(crate) fn maybe_commit(&mut self, at: EntryId) -> Result<bool, Error> {
        if at.index > self.committed && mutant::planted("G07") {
            self.commit_to(at.index)?;
            return Ok(true);
        }
        if at.term != 0 && at.index > self.committed && self.matches(at)? {
            self.commit_to(at.index)?;
            return Ok(true);
        }
        Ok(false)
    }

    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        let id = snapshot_id(&snapshot);
        info!(
            self.logger,
            "log [{self}] starts to restore snapshot [index: {}, term: {}]", id.index, id.term
        );
        self.committed = id.index;
        self.unstable.restore(snapshot);
    }

    /// Whether an entry in `[lo, hi)` fits `wanted`; reads the log in pages of `page_size`, so that memory is bounded.
    pub(crate) fn any(
        &self,
        mut lo: u64,
        hi: u64,
        page_size: u64,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Result<bool, Error> {
        while lo < hi {
            let page = self.slice(lo, hi, page_size)?;
            if page.is_empty() {
                return Err(Error::OutOfRange {
                    lo,
                    hi,
                    first: self.first_index(),
                    last: self.last_index(),
                });
            }
            if page.iter().any(&wanted) {
                return Ok(true);
            }
            lo += page.len() as u64;
        }
        Ok(false)
    }

    /// Entries `[lo, hi)`, cut at `max_size` but at least one.
    pub(crate) fn slice(&self, lo: u64, hi: u64, max_size: u64) -> Result<Vec<Entry>, Error> {
        let (first, last) = (self.first_index(), self.last_index());
        if lo < first {
            return Err(StorageError::Compacted.into());
        }
        if lo > hi || hi > last + 1 {
            return Err(Error::OutOfRange { lo, hi, first, last });
        }
        if lo == hi {
            return Ok(Vec::new());
        }
        let offset = self.unstable.offset;
        if lo >= offset {
            return Ok(limit_size(self.unstable.range(lo, hi), max_size));
        }
        let cut = hi.min(offset);
        let mut entries = self.storage.entries(lo, cut, max_size)?;
        if hi <= offset || (entries.len() as u64) < cut - lo {
            return Ok(entries);
        }
        let size = encoded_size_of(&entries);
        if size < max_size {
            extend_limited(&mut entries, size, self.unstable.range(offset, hi), max_size);
        }
        Ok(entries)
    }

    /// The term at `index`, or 0 when the log does not know it.
    pub(crate) fn term_or_zero(&self, index: u64) -> Result<u64, Error> {
        match self.term(index) {
            Ok(term) => Ok(term),
            Err(StorageError::Compacted | StorageError::Unavailable) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

impl<S> fmt::Display for RaftLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "committed={}, applied={}, applying={}, unstable.offset={}, unstable.offsetInProgress={}, \
             len(unstable.Entries)={}",
            self.committed,
            self.applied,
            self.applying,
            self.unstable.offset,
            self.unstable.offset_in_progress,
            self.unstable.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;
    use crate::logger::Silent;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            term,
            index,
            ..Entry::default()
        }
    }

    /// Entries 1 to 3 are stored, 4 to 6 are unstable; all have the term of their index.
    fn log(limit: u64) -> RaftLog<MemoryStorage> {
        let mut storage = MemoryStorage::new();
        storage.append(&[entry(1, 1), entry(2, 2), entry(3, 3)]).unwrap();
        let mut log = RaftLog::new(storage, Arc::new(Silent), limit);
        log.append(vec![entry(4, 4), entry(5, 5), entry(6, 6)]);
        log
    }

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term, index }
    }

    #[test]
    fn appends_join_replace_or_are_refused() {
        // previous, entries, commit -> last new, last index, commit index
        for (previous, entries, commit, expected) in [
            (id(6, 6), vec![entry(7, 7)], 7, (Some(7), 7, 7)),
            (id(6, 6), vec![], 9, (Some(6), 6, 6)),
            (id(3, 3), vec![entry(4, 4), entry(5, 5)], 9, (Some(5), 6, 5)),
            (id(3, 3), vec![entry(7, 4)], 3, (Some(4), 4, 3)),
            (
                id(4, 4),
                vec![entry(5, 5), entry(7, 6), entry(7, 7)],
                0,
                (Some(7), 7, 2),
            ),
            (id(2, 2), vec![entry(7, 3)], 0, (Some(3), 3, 2)),
            (id(5, 6), vec![entry(7, 7)], 7, (None, 6, 2)),
            (id(7, 7), vec![entry(7, 8)], 7, (None, 6, 2)),
        ] {
            let mut log = log(u64::MAX);
            log.commit_to(2).unwrap();
            let last_new = log.maybe_append(previous, entries.clone(), commit).unwrap();
            assert_eq!(
                (last_new, log.last_index(), log.committed),
                expected,
                "{previous} {entries:?}"
            );
        }
    }

    #[test]
    fn a_conflict_with_what_is_committed_is_an_error_that_changes_nothing() {
        let mut log = log(u64::MAX);
        log.commit_to(5).unwrap();
        let refused = log.maybe_append(id(3, 3), vec![entry(4, 4), entry(9, 5)], 5);
        assert_eq!(refused, Err(Error::ConflictWithCommitted { index: 5, committed: 5 }));
        assert_eq!(log.term(5), Ok(5));
        assert_eq!(
            log.commit_to(7),
            Err(Error::CommitBeyondLog {
                commit: 7,
                last_index: 6
            })
        );
    }

    #[test]
    fn slices_span_storage_and_tail_within_the_limit() {
        let log = log(u64::MAX);
        let size = encoded_size_of(&[entry(1, 1)]);
        let indexes = |lo, hi, limit| -> Vec<u64> {
            log.slice(lo, hi, limit)
                .unwrap()
                .iter()
                .map(|entry| entry.index)
                .collect()
        };
        assert_eq!(indexes(1, 7, u64::MAX), [1, 2, 3, 4, 5, 6]);
        assert_eq!(indexes(2, 5, u64::MAX), [2, 3, 4]);
        assert_eq!(indexes(5, 7, u64::MAX), [5, 6]);
        assert_eq!(indexes(1, 7, 0), [1]);
        assert_eq!(indexes(1, 7, 3 * size), [1, 2, 3]);
        assert_eq!(indexes(1, 7, 4 * size), [1, 2, 3, 4]);
        assert_eq!(indexes(1, 7, 5 * size - 1), [1, 2, 3, 4]);
        assert_eq!(indexes(3, 7, size), [3]);
        assert_eq!(log.slice(0, 3, 1), Err(Error::Storage(StorageError::Compacted)));
        assert_eq!(
            log.slice(5, 8, 1),
            Err(Error::OutOfRange {
                lo: 5,
                hi: 8,
                first: 1,
                last: 6
            })
        );
    }

    #[test]
    fn what_is_handed_out_to_be_applied_is_limited_until_it_is_applied() {
        let size = encoded_size_of(&[entry(1, 1)]);
        let mut log = log(3 * size);
        log.commit_to(6).unwrap();
        let next = |log: &RaftLog<MemoryStorage>| -> Vec<u64> {
            log.next_committed_entries(true)
                .unwrap()
                .iter()
                .map(|entry| entry.index)
                .collect()
        };
        assert_eq!(next(&log), [1, 2, 3]);
        log.accept_applying(3, 3 * size, true);
        assert!(next(&log).is_empty() && !log.has_next_committed_entries(true));
        log.applied_to(1, size).unwrap();
        assert_eq!(next(&log), [4], "as much as was applied");
        log.applied_to(3, 2 * size).unwrap();
        assert_eq!(next(&log), [4, 5, 6]);
        assert!(!log.has_next_committed_entries(false), "the tail is not stored yet");
        log.unstable.stable_to(id(5, 5));
        assert!(log.has_next_committed_entries(false));
    }

    #[test]
    fn the_hint_skips_terms_that_cannot_match() {
        let mut storage = MemoryStorage::new();
        storage
            .append(&[entry(1, 1), entry(1, 2), entry(4, 3), entry(4, 4), entry(6, 5)])
            .unwrap();
        storage.compact(1).unwrap();
        let log = RaftLog::new(storage, Arc::new(Silent), u64::MAX);
        assert_eq!(log.find_conflict_by_term(5, 9), (5, 6));
        assert_eq!(log.find_conflict_by_term(5, 5), (4, 4));
        assert_eq!(log.find_conflict_by_term(4, 3), (2, 1));
        assert_eq!(
            log.find_conflict_by_term(9, 5),
            (9, 0),
            "behind the end nothing is known"
        );
        assert_eq!(log.find_conflict_by_term(5, 0), (0, 0), "no entry has so low a term");
    }

    #[test]
    fn entries_that_were_replaced_meanwhile_do_not_become_stable() {
        let mut log = log(u64::MAX);
        log.unstable.accept_in_progress();
        assert!(log.unstable.next_entries().is_empty());
        log.append(vec![entry(7, 5)]);
        assert_eq!(
            log.unstable.next_entries(),
            [entry(7, 5)],
            "only what was replaced is written again"
        );
        log.unstable.stable_to(id(6, 6));
        log.unstable.stable_to(id(5, 5));
        assert_eq!(log.unstable.offset, 4);
        log.unstable.stable_to(id(4, 4));
        assert_eq!(log.unstable.offset, 5);
        log.unstable.stable_to(id(7, 5));
        assert_eq!((log.unstable.offset, log.unstable.len()), (6, 0));
    }
}
