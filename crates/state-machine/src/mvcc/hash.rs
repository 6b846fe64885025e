//! The hash of all keys at a revision, by which members find out that they differ (`etcd server/storage/mvcc/hash.go`).
//!
//! Invariants:
//! - CRC-32C over the name of the bucket, then key and value of every record in order: equal on etcd and on us, record by record.
//! - What a compaction may or may not have removed already does not count, so members compact at their own pace.
//! - A deletion exactly at the compacted revision never counts: older etcds remove it, newer ones keep it.

use std::sync::PoisonError;

use disk::Disk;

use super::read::{KvReader, ReadView};
use super::revision::Revision;
use crate::backend::Pairs;
use crate::error::Error;
use crate::schema::{self, Bucket};

/// How many hashes of compactions are remembered.
const REMEMBERED: usize = 10;

/// A hash and what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C.
    pub hash: u32,
    /// Records up to here count only if they are visible at `revision`; -1 when there was no compaction.
    pub compact_revision: i64,
    /// Records up to here count.
    pub revision: i64,
}

/// The hashes that compactions made on their way, the newest few, by revision.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    newest: Vec<HashKv>,
}

impl Hashes {
    pub(super) fn remember(&mut self, hash: HashKv) {
        let at = self.newest.partition_point(|other| other.revision <= hash.revision);
        self.newest.insert(at, hash);
        if self.newest.len() > REMEMBERED {
            self.newest.remove(0);
        }
    }
}

/// Takes records in order.
#[derive(Debug)]
pub(super) struct KvHasher {
    crc: u32,
    compacted: i64,
    revision: i64,
    /// What survives a compaction, in order.
    keep: Vec<Revision>,
    /// Everything before is smaller than the last record asked for.
    passed: usize,
}

impl KvHasher {
    pub(super) fn new(compacted: i64, revision: i64, keep: Vec<Revision>) -> Self {
        KvHasher {
            crc: crc32c::crc32c(Bucket::Key.name()),
            compacted,
            revision,
            keep,
            passed: 0,
        }
    }

    /// Whether a revision survives. Ask in order.
    pub(super) fn keeps(&mut self, revision: Revision) -> bool {
        while self.keep.get(self.passed).is_some_and(|kept| *kept < revision) {
            self.passed += 1;
        }
        self.keep.get(self.passed) == Some(&revision)
    }

    /// Takes the next record.
    pub(super) fn record(&mut self, revision: Revision, tombstone: bool, key: &[u8], value: &[u8]) {
        let compacted = revision.main <= self.compacted;
        if revision.main > self.revision
            || (compacted && !self.keep.is_empty() && !self.keeps(revision))
            || (tombstone && revision.main == self.compacted)
        {
            return;
        }
        self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, key), value);
    }

    pub(super) fn hash(&self) -> HashKv {
        HashKv {
            hash: self.crc,
            compact_revision: self.compacted,
            revision: self.revision,
        }
    }
}

impl<D: Disk> KvReader<D> {
    /// The hash at a revision, 0 meaning now, and the store's revision. When a compaction at exactly this revision left its hash, that one is
    /// given, with the compaction before it as its lower bound. A compaction at 0 (the first may be one) leaves none that could be asked for.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::Storage`].
    pub fn hash_kv(&self, revision: i64) -> Result<(HashKv, i64), Error> {
        if let Some(hash) = self
            .compaction_hashes()
            .into_iter()
            .find(|hash| hash.revision == revision && revision != 0)
        {
            return Ok((hash, self.current_revision()));
        }
        let view = self.view();
        Ok((view.hash_kv(revision)?, view.current))
    }

    /// The hashes of the last compactions that covered everything since the one before, oldest first.
    pub fn compaction_hashes(&self) -> Vec<HashKv> {
        self.shared
            .hashes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .newest
            .clone()
    }

    /// The hash of the whole database (`Maintenance.Hash`), and the store's revision. For tests: it depends on what is compacted.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn hash_all(&self) -> Result<(u32, i64), Error> {
        let (backend, revision) = self.shared.with(|moment| (moment.backend.clone(), moment.current));
        let mut buckets = Bucket::ALWAYS;
        // The order in which bolt lists them.
        buckets.sort_by_key(|bucket| bucket.name());
        let mut crc = 0;
        for bucket in buckets {
            crc = crc32c::crc32c_append(crc, bucket.name());
            backend.snapshot(bucket).for_each(b"", None, |key, value| {
                if !schema::outside_hash(bucket, &key) {
                    crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &key), &value);
                }
                Ok(Pairs::More)
            })?;
        }
        Ok((crc, revision))
    }
}

impl<D: Disk> ReadView<D> {
    /// Computes the hash at a revision, 0 meaning now.
    ///
    /// # Errors
    /// As [`KvReader::hash_kv`].
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        if revision > 0 && revision < self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.current {
            return Err(Error::FutureRevision);
        }
        let revision = if revision == 0 { self.current } else { revision };
        let mut hasher = KvHasher::new(self.compacted, revision, self.index.keep(revision));
        self.records.for_each(b"", None, |key, value| {
            let (at, tombstone) = Revision::decode(&key)?;
            hasher.record(at, tombstone, &key, &value);
            Ok(if at.main > revision { Pairs::Enough } else { Pairs::More })
        })?;
        Ok(hasher.hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ten_are_remembered_in_order() {
        let mut hashes = Hashes::default();
        for revision in [5, 3, 9, 12, 11, 20, 21, 22, 23, 24, 25, 4] {
            hashes.remember(HashKv {
                hash: 0,
                compact_revision: -1,
                revision,
            });
        }
        let revisions: Vec<_> = hashes.newest.iter().map(|hash| hash.revision).collect();
        assert_eq!(revisions, [5, 9, 11, 12, 20, 21, 22, 23, 24, 25]);
    }

    #[test]
    fn an_empty_keep_skips_nothing_but_the_tombstone_at_the_compaction() {
        let crc = |parts: &[&[u8]]| {
            parts
                .iter()
                .fold(crc32c::crc32c(b"key"), |crc, part| crc32c::crc32c_append(crc, part))
        };
        let feed = |keep: Vec<Revision>| {
            let mut hasher = KvHasher::new(4, 6, keep);
            for (main, tombstone, value) in [(3, false, b"a"), (4, true, b"b"), (5, false, b"c"), (7, false, b"d")] {
                hasher.record(Revision { main, sub: 0 }, tombstone, b"k", value);
            }
            hasher.hash().hash
        };
        assert_eq!(feed(Vec::new()), crc(&[b"k", b"a", b"k", b"c"]));
        assert_eq!(feed(vec![Revision { main: 5, sub: 0 }]), crc(&[b"k", b"c"]));
        assert_eq!(feed(vec![Revision { main: 3, sub: 0 }]), crc(&[b"k", b"a", b"k", b"c"]));
    }
}
