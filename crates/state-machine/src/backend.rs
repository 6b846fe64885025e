//! The database under the state machine: tables in memory over one bolt file, so that applying never waits for a disk.
//!
//! Invariants:
//! - A write goes to the *active* table. [`Backend::freeze`] makes that table immutable (*frozen*); a [`CommitJob`] writes it to the
//!   file in one bolt transaction, on any thread; [`Backend::finish`] drops it. At most one table is frozen at a time.
//! - Order is kept: what is in the file is always a prefix of what was written, cut at a freeze. Whoever puts the consistent index
//!   before each freeze gets it atomically with the data.
//! - A reader sees active over frozen over file. A [`Snapshot`] is consistent and does not move; taking one is O(1), and neither the
//!   writer nor a commit waits for it.
//! - After an error of a commit nothing may be frozen or committed any more: the caller stops the member.

mod commit;
mod snapshot;
mod table;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use disk::Disk;

pub use commit::{CommitJob, Committed};
pub use snapshot::{Pairs, Snapshot};

use crate::error::Error;
use crate::schema::Bucket;
use table::Tables;

/// A key and its value.
pub type Pair = (Bytes, Bytes);

/// Knobs of the backend.
#[derive(Debug, Clone)]
pub struct Options {
    /// Those of the file.
    pub file: bolt::Options,
    /// A commit is due after this many writes (etcd's `--backend-batch-limit`).
    pub batch_ops_max: usize,
    /// A commit is due after this many bytes of keys and values.
    pub batch_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            file: bolt::Options::default(),
            batch_ops_max: 10_000,
            batch_bytes_max: 64 << 20,
        }
    }
}

/// See the module. Owned by the thread that applies.
#[derive(Debug)]
pub struct Backend<D: Disk> {
    db: Arc<bolt::Db<D>>,
    reader: Reader<D>,
    options: Options,
    ops: usize,
    bytes: usize,
    committing: bool,
    /// A hash of the writes since it was last taken; nobody asks for it outside of a simulator.
    writes: Option<u64>,
}

/// Reads the backend from any thread. Cheap to clone.
#[derive(Debug)]
pub struct Reader<D: Disk> {
    db: Arc<bolt::Db<D>>,
    layers: Arc<RwLock<Layers<D>>>,
}

impl<D: Disk> Clone for Reader<D> {
    fn clone(&self) -> Self {
        Reader {
            db: self.db.clone(),
            layers: self.layers.clone(),
        }
    }
}

/// What a reader sees, from the newest to the oldest.
#[derive(Debug)]
struct Layers<D: Disk> {
    active: Tables,
    frozen: Option<Arc<Tables>>,
    file: bolt::ReadTx<D>,
}

/// Storage errors stop the member; the text says what to do.
pub(crate) fn storage(error: bolt::Error) -> Error {
    Error::Storage(error.to_string())
}

impl<D: Disk> Backend<D> {
    /// Opens the file, creates it and every bucket of [`Bucket::ALWAYS`] that is missing.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be opened, is locked or is no bolt file.
    pub fn open(disk: D, path: &Path, options: Options) -> Result<Backend<D>, Error> {
        let db = Arc::new(bolt::Db::open(disk, path, options.file.clone()).map_err(storage)?);
        let file = db.read().map_err(storage)?;
        let mut missing = Vec::new();
        for bucket in Bucket::ALWAYS {
            if file.bucket(bucket.name()).map_err(storage)?.is_none() {
                missing.push(bucket);
            }
        }
        drop(file);
        // Offline tools look at files as they are; a bucket that is missing reads as empty.
        if !missing.is_empty() && !options.file.read_only {
            let mut tx = db.write().map_err(storage)?;
            for bucket in missing {
                tx.create_bucket(bucket.name()).map_err(storage)?;
            }
            tx.commit().map_err(storage)?;
        }
        let file = db.read().map_err(storage)?;
        let layers = Layers {
            active: Tables::default(),
            frozen: None,
            file,
        };
        let reader = Reader {
            db: db.clone(),
            layers: Arc::new(RwLock::new(layers)),
        };
        Ok(Backend {
            db,
            reader,
            options,
            ops: 0,
            bytes: 0,
            committing: false,
            writes: None,
        })
    }

    /// Writes a pair.
    pub fn put(&mut self, bucket: Bucket, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.set(bucket, key, Some(value));
    }

    /// Deletes a key, whether it is there or not.
    pub fn delete(&mut self, bucket: Bucket, key: Bytes) {
        self.bytes += key.len();
        self.set(bucket, key, None);
    }

    fn set(&mut self, bucket: Bucket, key: Bytes, value: Option<Bytes>) {
        self.ops += 1;
        if let Some(hash) = &mut self.writes {
            *hash = mix(*hash, bucket.name());
            *hash = mix(*hash, &key);
            *hash = match &value {
                Some(value) => mix(*hash, value),
                None => hash.rotate_left(7),
            };
        }
        self.reader.with_mut(|layers| layers.active.set(bucket, key, value));
    }

    /// Whether to hash what is written from now on.
    pub(crate) fn hash_writes(&mut self, wanted: bool) {
        self.writes = wanted.then_some(0);
    }

    /// The hash of the writes since this was last asked; 0 without [`Backend::hash_writes`].
    pub(crate) fn take_writes_hash(&mut self) -> u64 {
        self.writes.as_mut().map_or(0, std::mem::take)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read.
    pub fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.reader.get(bucket, key)
    }

    /// Up to `limit` pairs in `[from, to)`, in order; no `to` means to the end, `limit` 0 means all.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read.
    pub fn scan(&self, bucket: Bucket, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error> {
        self.reader.scan(bucket, from, to, limit)
    }

    /// A reader for other threads.
    pub fn reader(&self) -> Reader<D> {
        self.reader.clone()
    }

    /// Whether so much waits that a commit should start now, before its time has come.
    pub fn commit_due(&self) -> bool {
        self.ops >= self.options.batch_ops_max || self.bytes >= self.options.batch_bytes_max
    }

    /// Writes that wait to be frozen.
    pub fn pending_ops(&self) -> usize {
        self.ops
    }

    /// Bytes of keys and values that wait to be frozen.
    pub fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a table is frozen, so that the next freeze must wait for [`Backend::finish`].
    pub fn is_committing(&self) -> bool {
        self.committing
    }

    /// Makes the active table immutable and hands it out to be committed. `None` when nothing waits or a commit is under way.
    pub fn freeze(&mut self) -> Option<CommitJob<D>> {
        if self.committing || self.ops == 0 {
            return None;
        }
        self.committing = true;
        self.ops = 0;
        self.bytes = 0;
        let tables = self.reader.with_mut(|layers| {
            let tables = Arc::new(std::mem::take(&mut layers.active));
            layers.frozen = Some(tables.clone());
            tables
        });
        Some(CommitJob::new(self.db.clone(), tables))
    }

    /// Takes note that a job is done: the frozen table is in the file now.
    pub fn finish(&mut self, committed: Committed<D>) {
        self.reader.with_mut(|layers| {
            layers.file = committed.into_file();
            layers.frozen = None;
        });
        self.committing = false;
    }

    /// Freezes, commits and finishes on this thread: for opening, closing and tests. When a job is under way on another thread, that
    /// one must be finished first.
    ///
    /// # Errors
    /// [`Error::Storage`] when the commit fails (fatal), or when another one is under way.
    pub fn commit(&mut self) -> Result<(), Error> {
        if self.committing {
            return Err(Error::Storage(
                "a commit is under way: finish it before the next".into(),
            ));
        }
        if let Some(job) = self.freeze() {
            let committed = job.run()?;
            self.finish(committed);
        }
        Ok(())
    }

    /// Bytes up to the highest page ever used, as of the last commit: what etcd reports as the size of its database.
    pub fn size(&self) -> u64 {
        self.reader.size()
    }

    /// [`Backend::size`] without free pages.
    pub fn size_in_use(&self) -> u64 {
        self.reader.size_in_use()
    }

    /// The file itself, for online compaction ([`bolt::Db::compact_step`]) and copies; it takes one writer at a time, so writers other
    /// than a [`CommitJob`] belong on the same thread as those.
    pub fn db(&self) -> &Arc<bolt::Db<D>> {
        &self.db
    }

    /// Reads the file as of now instead of as of the last commit: after an online compaction, so that the pages it moved can be freed.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read.
    pub fn refresh(&mut self) -> Result<(), Error> {
        if !self.committing {
            let file = self.db.read().map_err(storage)?;
            self.reader.with_mut(|layers| layers.file = file);
        }
        Ok(())
    }

    /// The file as of the last commit, as a consistent view: what a snapshot is made of. Commit first to have it all.
    pub fn snapshot(&self) -> bolt::ReadTx<D> {
        self.reader.with(|layers| layers.file.clone())
    }
}

/// FNV-1a over eight bytes at a time, with the length: to compare, not to defend.
fn mix(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    let mut hash = step(hash ^ 0xcbf2_9ce4_8422_2325, bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = step(hash, u64::from_le_bytes(word));
    }
    hash
}

impl<D: Disk> Reader<D> {
    // A panic while the lock is held cannot leave the layers half changed, so a poisoned lock is no reason to stop.
    fn with<R>(&self, read: impl FnOnce(&Layers<D>) -> R) -> R {
        read(&self.layers.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_mut<R>(&self, write: impl FnOnce(&mut Layers<D>) -> R) -> R {
        write(&mut self.layers.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// A consistent view of one bucket, as it is now.
    pub fn snapshot(&self, bucket: Bucket) -> Snapshot<D> {
        self.with(|layers| {
            let frozen = layers.frozen.as_ref().map(|tables| tables.of(bucket).clone());
            Snapshot::new(bucket, layers.active.of(bucket).clone(), frozen, layers.file.clone())
        })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read.
    pub fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, Error> {
        // The common case needs no copy of anything.
        if let Some(found) = self.with(|layers| layers.active.of(bucket).get(key).cloned()) {
            return Ok(found);
        }
        self.snapshot(bucket).get(key)
    }

    /// As [`Backend::scan`].
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read.
    pub fn scan(&self, bucket: Bucket, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error> {
        self.snapshot(bucket).scan(from, to, limit)
    }

    /// As [`Backend::size`].
    pub fn size(&self) -> u64 {
        self.db.size()
    }

    /// As [`Backend::size_in_use`].
    pub fn size_in_use(&self) -> u64 {
        self.db.size_in_use()
    }
}

#[cfg(test)]
mod tests;
