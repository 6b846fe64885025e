//! Writing a frozen table to the file, on whichever thread the caller likes.
//!
//! Invariants: one bolt transaction per job, synced before [`CommitJob::run`] returns; an error is fatal to the member.

use std::fmt;
use std::sync::Arc;

use disk::Disk;

use super::storage;
use super::table::Tables;
use crate::error::Error;
use crate::schema::Bucket;

/// How full bolt leaves the pages of revisions, which are only ever appended (etcd's value).
const KEY_FILL_PERCENT: f64 = 0.9;

/// A frozen table on its way to the file.
#[must_use = "a frozen table that is not committed blocks all later commits"]
pub struct CommitJob<D: Disk> {
    db: Arc<bolt::Db<D>>,
    tables: Arc<Tables>,
}

/// Proof that a job is done; goes back to [`super::Backend::finish`].
#[must_use = "the frozen table stays in memory until the backend is told"]
pub struct Committed<D: Disk> {
    file: bolt::ReadTx<D>,
}

impl<D: Disk> CommitJob<D> {
    pub(super) fn new(db: Arc<bolt::Db<D>>, tables: Arc<Tables>) -> Self {
        CommitJob { db, tables }
    }

    /// Writes, syncs, and opens the new state for reading.
    ///
    /// # Errors
    /// [`Error::Storage`]: what is on the disk is unknown, the member must stop.
    pub fn run(self) -> Result<Committed<D>, Error> {
        let mut tx = self.db.write().map_err(storage)?;
        tx.set_fill_percent(Bucket::Key.name(), KEY_FILL_PERCENT)
            .map_err(storage)?;
        let mut created = None;
        for (bucket, key, value) in self.tables.changes() {
            if created != Some(bucket) && !Bucket::ALWAYS.contains(&bucket) {
                tx.create_bucket(bucket.name()).map_err(storage)?;
            }
            created = Some(bucket);
            match value {
                Some(value) => tx
                    .put_bytes(bucket.name(), key.clone(), value.clone())
                    .map_err(storage)?,
                None => tx.delete(bucket.name(), key).map_err(storage)?,
            };
        }
        tx.commit().map_err(storage)?;
        Ok(Committed {
            file: self.db.read().map_err(storage)?,
        })
    }
}

impl<D: Disk> Committed<D> {
    pub(super) fn into_file(self) -> bolt::ReadTx<D> {
        self.file
    }
}

impl<D: Disk> fmt::Debug for CommitJob<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitJob").finish_non_exhaustive()
    }
}

impl<D: Disk> fmt::Debug for Committed<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed").finish_non_exhaustive()
    }
}
