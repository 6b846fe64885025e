//! Compaction, in steps (`etcd server/storage/mvcc/kvstore_compaction.go`).
//!
//! Invariants:
//! - The mark `scheduledCompactRev` is written when a compaction is accepted, `finishedCompactRev` together with the last batch of
//!   deletions; the tables below keep that order, so a restart in between resumes.
//! - A step costs what its budget says: neither the index nor the records are swept in one go.
//! - The costly part, reading records, can run on any thread ([`CompactJob`]); what is deleted is decided there and written by the thread
//!   that applies.
//! - Only records ≤ the compacted revision are touched, so writers and readers of newer revisions never notice.

use std::fmt;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use disk::Disk;

use super::hash::KvHasher;
use super::revision::Revision;
use super::store::{Shared, Store, mark};
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

/// A part of a compaction that runs on any thread; its result goes back to [`Store::compact_finish`].
#[must_use = "the compaction waits for it"]
pub struct CompactJob<D: Disk> {
    shared: Arc<Shared<D>>,
    compaction: Compaction,
    budget: usize,
    epoch: u64,
}

/// What a [`CompactJob`] found out.
#[must_use = "the compaction waits for it"]
#[derive(Debug)]
pub struct CompactPiece {
    compaction: Compaction,
    dropped: Vec<Bytes>,
    done: bool,
    epoch: u64,
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

    /// Whether a compaction is not through.
    pub fn is_compacting(&self) -> bool {
        self.compact_job_is_out || !self.compactions.is_empty()
    }

    /// Records that compactions have dropped since the store was opened.
    pub fn records_compacted(&self) -> u64 {
        self.records_compacted
    }

    /// Hands out the next part of the oldest compaction: at most `budget` keys of the index or records. `None` when there is none, or the
    /// last part has not come back.
    pub fn compact_job(&mut self, budget: usize) -> Option<CompactJob<D>> {
        if self.compact_job_is_out {
            return None;
        }
        let compaction = self.compactions.pop_front()?;
        self.compact_job_is_out = true;
        Some(CompactJob {
            shared: self.shared.clone(),
            compaction,
            budget: budget.max(1),
            epoch: self.epoch,
        })
    }

    /// Writes what a job found out. What was found out about another database ([`Store::restore`]) is ignored.
    pub fn compact_finish(&mut self, backend: &mut Backend<D>, piece: CompactPiece) -> Compacted {
        if piece.epoch != self.epoch {
            return if self.is_compacting() {
                Compacted::More
            } else {
                Compacted::Nothing
            };
        }
        self.compact_job_is_out = false;
        self.records_compacted += piece.dropped.len() as u64;
        for key in piece.dropped {
            backend.delete(Bucket::Key, key);
        }
        if !piece.done {
            self.compactions.push_front(piece.compaction);
            return Compacted::More;
        }
        let revision = piece.compaction.revision;
        backend.put(
            Bucket::Meta,
            Bytes::from_static(FINISHED_COMPACT),
            Revision::start_of(revision).encode(),
        );
        if let Phase::Records(_, hasher) = &piece.compaction.phase
            && piece.compaction.hash_complete
        {
            self.shared
                .hashes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remember(hasher.hash());
        }
        Compacted::Done(revision)
    }

    /// A job from beginning to end on this thread.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn compact_step(&mut self, backend: &mut Backend<D>, budget: usize) -> Result<Compacted, Error> {
        match self.compact_job(budget) {
            Some(job) => Ok(self.compact_finish(backend, job.run()?)),
            None if self.is_compacting() => Ok(Compacted::More),
            None => Ok(Compacted::Nothing),
        }
    }
}

impl<D: Disk> CompactJob<D> {
    /// Looks at the index or reads records.
    ///
    /// # Errors
    /// [`Error::Storage`]: the member must stop.
    pub fn run(mut self) -> Result<CompactPiece, Error> {
        let revision = self.compaction.revision;
        let (mut dropped, mut done) = (Vec::new(), false);
        match &mut self.compaction.phase {
            Phase::Index(from, kept) => {
                match self
                    .shared
                    .with_mut(|moment| moment.index.compact(from, revision, self.budget, kept))
                {
                    Some(next) => *from = next,
                    None => {
                        let mut keep = std::mem::take(kept);
                        keep.sort_unstable();
                        let hasher = KvHasher::new(self.compaction.previous, revision, keep);
                        self.compaction.phase = Phase::Records(Bytes::new(), hasher);
                    }
                }
            }
            Phase::Records(from, hasher) => {
                let mut seen = 0;
                let mut last = None;
                let end = Revision::start_of(revision + 1).encode();
                let records = self.shared.with(|moment| moment.backend.snapshot(Bucket::Key));
                records.for_each(from, Some(&end), |key, value| {
                    let (at, tombstone) = Revision::decode(&key)?;
                    hasher.record(at, tombstone, &key, &value);
                    if !hasher.keeps(at) {
                        // A copy: what waits for its commit must not keep a page of the file in memory.
                        dropped.push(Bytes::copy_from_slice(&key));
                    }
                    last = Some(at);
                    seen += 1;
                    Ok(if seen == self.budget {
                        Pairs::Enough
                    } else {
                        Pairs::More
                    })
                })?;
                match last {
                    Some(last) if seen == self.budget => {
                        *from = Revision {
                            main: last.main,
                            sub: last.sub + 1,
                        }
                        .encode();
                    }
                    _ => done = true,
                }
            }
        }
        Ok(CompactPiece {
            compaction: self.compaction,
            dropped,
            done,
            epoch: self.epoch,
        })
    }
}

impl<D: Disk> fmt::Debug for CompactJob<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactJob")
            .field("compaction", &self.compaction)
            .finish_non_exhaustive()
    }
}
