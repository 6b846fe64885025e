//! A compacted copy of a snapshot, for tools that work on files (restore, offline defragmentation).

use std::path::Path;

use disk::Disk;

use crate::db::{Db, Options};
use crate::error::{Error, lossy};
use crate::read::ReadTx;

/// How full the copy's pages are: as etcd's defragmentation leaves them.
const FILL: f64 = 0.9;
/// Bytes of keys and values per transaction.
const BATCH_BYTES: usize = 16 << 20;

impl<D: Disk> ReadTx<D> {
    /// Writes all top-level buckets into a new database, which must not exist yet, and returns it. Sequence numbers of buckets
    /// are not kept (etcd has none).
    ///
    /// Errors: [`Error::IsBucket`] when there are buckets in buckets; whatever opening and committing can say. What was
    /// written until then stays: remove it.
    pub fn copy_to<E: Disk>(&self, disk: E, path: &Path, options: Options) -> Result<Db<E>, Error> {
        let io = |source| Error::Io {
            verb: "create",
            path: path.into(),
            source,
        };
        if disk.exists(path).map_err(io)? {
            return Err(io(std::io::ErrorKind::AlreadyExists.into()));
        }
        let copy = Db::open(disk, path, options)?;
        for name in self.buckets()? {
            let Some(bucket) = self.bucket(&name)? else { continue };
            if let Some(nested) = bucket.buckets()?.first() {
                return Err(Error::IsBucket { key: lossy(nested) });
            }
            let mut cursor = bucket.cursor();
            let mut item = cursor.first()?;
            loop {
                let mut tx = copy.write()?;
                tx.create_bucket(&name)?;
                tx.set_fill_percent(&name, FILL)?;
                let mut bytes = 0;
                while let Some((key, value)) = item {
                    bytes += key.len() + value.len();
                    tx.put_bytes(&name, key, value)?;
                    item = cursor.next()?;
                    if bytes >= BATCH_BYTES {
                        break;
                    }
                }
                tx.commit()?;
                if item.is_none() {
                    break;
                }
            }
        }
        Ok(copy)
    }
}
