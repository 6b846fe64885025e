//! Compaction, in steps (`etcd server/storage/mvcc/kvstore_compaction.go`).
//!
//! Invariants:
//! - The mark `scheduledCompactRev` is written when a compaction is accepted, `finishedCompactRev` together with the last batch of
//!   deletions; the tables below keep that order, so a restart in between resumes.
//! - A step costs what its budget says: neither the index nor the records are swept in one go.
//! - Only records ≤ the compacted revision are touched, so writers and readers of newer revisions never notice.

use std::sync::PoisonError;

use bytes::Bytes;
use disk::Disk;

use super::hash::KvHasher;
use super::revision::Revision;
use super::store::{Store, mark};
use crate::backend::{Backend, Pairs};
use crate::error::Error;
use crate::schema::{Bucket, FINISHED_COMPACT, SCHEDULED_COMPACT};

/// Records per step that etcd takes (every 10 ms); a good budget.
pub const BATCH: usize = 1000;

/// A compaction under way.
#[derive(Debug)]
pub(super) struct Compaction {
    revision: i64,
    /// The compaction before this one; -1 when there was none.
    previous: i64,
    /// Whether this one sees all records since the one before, so that its hash equals that of other members.
    hash_complete: bool,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Goes over the index, from this key on; collects what is kept.
    Index(Bytes, Vec<Revision>),
    /// Goes over the records, from this one on.
    Records(Bytes, KvHasher),
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compacted {
    /// There is no compaction under way.
    Nothing,
    /// There is more to do.
    More,
    /// The compaction at this revision is through; it becomes durable with the next commit.
    Done(i64),
}

impl Compaction {
    pub(super) fn new(revision: i64, previous: i64, hash_complete: bool) -> Self {
        Compaction {
            revision,
            previous,
            hash_complete,
            phase: Phase::Index(Bytes::new(), Vec::new()),
        }
    }
}

impl<D: Disk> Store<D> {
    /// Accepts a compaction: revisions below `revision` can no longer be read. [`Store::compact_step`] does the work.
    ///
    /// # Errors
    /// [`Error::Compacted`] when it is not above the last one, [`Error::FutureRevision`], [`Error::Storage`].
    pub fn compact(&mut self, backend: &mut Backend<D>, revision: i64) -> Result<(), Error> {
        let (current, previous) = self.shared.with(|moment| (moment.current, moment.compacted));
        if revision <= previous {
            return Err(Error::Compacted);
        }
        if revision > current {
            return Err(Error::FutureRevision);
        }
        let reader = backend.reader();
        let complete = mark(&reader, SCHEDULED_COMPACT)? == mark(&reader, FINISHED_COMPACT)?;
        self.shared.with_mut(|moment| moment.compacted = revision);
        backend.put(
            Bucket::Meta,
            Bytes::from_static(SCHEDULED_COMPACT),
            Revision::start_of(revision).encode(),
        );
        self.compactions
            .push_back(Compaction::new(revision, previous, complete));
        Ok(())
    }

    /// Whether [`Store::compact_step`] has something to do.
    pub fn is_compacting(&self) -> bool {
        !self.compactions.is_empty()
    }

    /// Does a part of the oldest compaction: at most `budget` keys of the index or records.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn compact_step(&mut self, backend: &mut Backend<D>, budget: usize) -> Result<Compacted, Error> {
        let budget = budget.max(1);
        let Some(compaction) = self.compactions.front_mut() else {
            return Ok(Compacted::Nothing);
        };
        let revision = compaction.revision;
        let (from, hasher) = match &mut compaction.phase {
            Phase::Records(from, hasher) => (from, hasher),
            Phase::Index(from, kept) => {
                match self
                    .shared
                    .with_mut(|moment| moment.index.compact(from, revision, budget, kept))
                {
                    Some(next) => *from = next,
                    None => {
                        let mut keep = std::mem::take(kept);
                        keep.sort_unstable();
                        let hasher = KvHasher::new(compaction.previous, revision, keep);
                        compaction.phase = Phase::Records(Bytes::new(), hasher);
                    }
                }
                return Ok(Compacted::More);
            }
        };
        let mut seen = 0;
        let mut last = None;
        let mut dropped = Vec::new();
        let end = Revision::start_of(revision + 1).encode();
        backend
            .reader()
            .snapshot(Bucket::Key)
            .for_each(from, Some(&end), |key, value| {
                let (at, tombstone) = Revision::decode(&key)?;
                hasher.record(at, tombstone, &key, &value);
                if !hasher.keeps(at) {
                    dropped.push(key);
                }
                last = Some(at);
                seen += 1;
                Ok(if seen == budget { Pairs::Enough } else { Pairs::More })
            })?;
        for key in dropped {
            backend.delete(Bucket::Key, key);
        }
        if let Some(last) = last
            && seen == budget
        {
            *from = Revision {
                main: last.main,
                sub: last.sub + 1,
            }
            .encode();
            return Ok(Compacted::More);
        }
        backend.put(
            Bucket::Meta,
            Bytes::from_static(FINISHED_COMPACT),
            Revision::start_of(revision).encode(),
        );
        if compaction.hash_complete {
            self.shared
                .hashes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remember(hasher.hash());
        }
        self.compactions.pop_front();
        Ok(Compacted::Done(revision))
    }
}
