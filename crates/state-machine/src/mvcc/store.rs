//! The store: the index, the revisions, and the way in for writes and compactions.
//!
//! Invariants:
//! - Owned by the thread that applies. Others read through [`KvReader`]s, which follow the store over [`Store::restore`].
//! - Records are written before the index names them, and the index before the revision moves: who sees a revision finds its records.
//! - The compacted revision moves before the first record goes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use disk::Disk;
use prost::Message;
use proto::mvccpb::KeyValue;

use super::compact::Compaction;
use super::hash::Hashes;
use super::index::{Index, Stamp};
use super::read::KvReader;
use super::revision::Revision;
use super::watch::{WatchHub, Watchers};
use super::write::WriteTxn;
use crate::backend::{Backend, Pairs, Reader};
use crate::error::Error;
use crate::schema::{Bucket, FINISHED_COMPACT, SCHEDULED_COMPACT};

/// See the module.
#[derive(Debug)]
pub struct Store<D: Disk> {
    pub(super) shared: Arc<Shared<D>>,
    /// Compactions that were accepted and are not through, oldest first.
    pub(super) compactions: VecDeque<Compaction>,
    /// The oldest compaction is on another thread.
    pub(super) compact_job_is_out: bool,
    pub(super) records_compacted: u64,
    /// Counts the databases that this store has been on.
    pub(super) epoch: u64,
}

/// What the store and its readers have in common.
#[derive(Debug)]
pub(super) struct Shared<D: Disk> {
    moment: RwLock<Moment<D>>,
    pub(super) hashes: Mutex<Hashes>,
    /// Taken after `moment` is released or before it is taken, never the other way round.
    pub(super) watchers: Mutex<Watchers>,
    /// Held by whoever lets watchers catch up: one at a time.
    pub(super) catching_up: Mutex<()>,
}

/// All that a reader needs to know at once.
#[derive(Debug)]
pub(super) struct Moment<D: Disk> {
    pub(super) index: Index,
    /// The revision of the last finished transaction.
    pub(super) current: i64,
    /// The revision of the last compaction that was accepted; -1 when there was none.
    pub(super) compacted: i64,
    pub(super) backend: Reader<D>,
}

/// Which key belongs to which lease, as the records say: for the lessor to attach them anew.
pub type LeasedKeys = BTreeMap<Bytes, i64>;

impl<D: Disk> Shared<D> {
    // A panic while one of the locks is held leaves nothing half done that a reader could not bear, so poison is ignored.
    pub(super) fn with<R>(&self, read: impl FnOnce(&Moment<D>) -> R) -> R {
        read(&self.moment.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn with_mut<R>(&self, write: impl FnOnce(&mut Moment<D>) -> R) -> R {
        write(&mut self.moment.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Disk> Store<D> {
    /// Rebuilds the index from the records, and resumes a compaction that was cut short. The keys with leases come back too.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read or holds what is no record.
    pub fn open(backend: &Backend<D>) -> Result<(Store<D>, LeasedKeys), Error> {
        let loaded = Loaded::from(backend.reader())?;
        let current = loaded.moment.current;
        let moment = RwLock::new(loaded.moment);
        let watchers = Mutex::new(Watchers::new(current));
        let shared = Arc::new(Shared {
            moment,
            hashes: Mutex::default(),
            watchers,
            catching_up: Mutex::default(),
        });
        Ok((
            Store {
                shared,
                compactions: loaded.compaction.into_iter().collect(),
                compact_job_is_out: false,
                records_compacted: 0,
                epoch: 0,
            },
            loaded.leased,
        ))
    }

    /// Goes over to another database: the one of a snapshot that the leader sent. Readers and watchers follow.
    ///
    /// # Errors
    /// As [`Store::open`]; then the store is as before.
    pub fn restore(&mut self, backend: &Backend<D>) -> Result<LeasedKeys, Error> {
        let loaded = Loaded::from(backend.reader())?;
        let current = loaded.moment.current;
        self.shared.with_mut(|moment| *moment = loaded.moment);
        self.shared.watchers().restored(current);
        *self.shared.hashes.lock().unwrap_or_else(PoisonError::into_inner) = Hashes::default();
        self.compactions = loaded.compaction.into_iter().collect();
        self.compact_job_is_out = false;
        self.epoch += 1;
        Ok(loaded.leased)
    }

    /// Begins a write transaction. The records go to `backend`, which must be the one that the store was opened on.
    pub fn write<'a>(&'a mut self, backend: &'a mut Backend<D>) -> WriteTxn<'a, D> {
        WriteTxn::new(&self.shared, backend)
    }

    /// A reader for any thread.
    pub fn reader(&self) -> KvReader<D> {
        KvReader::new(self.shared.clone())
    }

    /// The way in for watch streams. [`WriteTxn::end`] tells them what changed.
    pub fn watch_hub(&self) -> WatchHub<D> {
        WatchHub::new(self.shared.clone())
    }

    /// The revision of the last transaction; 1 in an empty store.
    pub fn current_revision(&self) -> i64 {
        self.shared.with(|moment| moment.current)
    }

    /// The revision of the last compaction; -1 when there was none.
    pub fn compact_revision(&self) -> i64 {
        self.shared.with(|moment| moment.compacted)
    }
}

/// What the records of a database say.
struct Loaded<D: Disk> {
    moment: Moment<D>,
    leased: LeasedKeys,
    compaction: Option<Compaction>,
}

impl<D: Disk> Loaded<D> {
    fn from(backend: Reader<D>) -> Result<Self, Error> {
        let finished = mark(&backend, FINISHED_COMPACT)?;
        let scheduled = mark(&backend, SCHEDULED_COMPACT)?;
        let mut index = Index::default();
        let mut leased = LeasedKeys::new();
        let mut newest = 1;
        // One record at a time: memory stays bounded by the index, however large the values are.
        let from = Revision { main: 1, sub: 0 }.encode();
        backend.snapshot(Bucket::Key).for_each(&from, None, |at, record| {
            let (revision, tombstone) = Revision::decode(&at)?;
            let kv = decode_record(revision, record)?;
            newest = revision.main;
            let stamp = Stamp {
                revision,
                created: kv.create_revision,
                version: kv.version,
                tombstone,
            };
            // A second deletion in a row changes nothing; etcd warns and goes on.
            index.add(&kv.key, stamp);
            if tombstone || kv.lease == 0 {
                leased.remove(&kv.key);
            } else {
                leased.insert(Bytes::copy_from_slice(&kv.key), kv.lease);
            }
            Ok(Pairs::More)
        })?;
        // All records up to the compaction may be gone, the newest one too: the marks remember how far the revision had come.
        let mut current = newest.max(finished.unwrap_or(0)).max(scheduled.unwrap_or(0));
        if mutant::planted("H27") {
            current = newest;
        }
        if mutant::planted("H28") {
            current = newest.max(finished.unwrap_or(0));
        }
        let mut compacted = finished.unwrap_or(-1);
        let mut compaction = None;
        if let Some(due) = scheduled
            && due > compacted
        {
            // It did not hash all that the other members hashed, so its hash is not kept.
            compaction = Some(Compaction::new(due, compacted, false));
            compacted = due;
        }
        Ok(Loaded {
            moment: Moment {
                index,
                current,
                compacted,
                backend,
            },
            leased,
            compaction,
        })
    }
}

/// The main revision of a compaction mark.
pub(super) fn mark<D: Disk>(backend: &Reader<D>, name: &[u8]) -> Result<Option<i64>, Error> {
    match backend.get(Bucket::Meta, name)? {
        Some(bytes) => Ok(Some(Revision::decode(&bytes)?.0.main)),
        None => Ok(None),
    }
}

/// Decodes a record of the `key` bucket.
pub(super) fn decode_record(revision: Revision, record: Bytes) -> Result<KeyValue, Error> {
    KeyValue::decode(record).map_err(|error| {
        let Revision { main, sub } = revision;
        Error::Storage(format!(
            "the record of revision {main}/{sub} is damaged ({error}): restore the member from a snapshot"
        ))
    })
}
