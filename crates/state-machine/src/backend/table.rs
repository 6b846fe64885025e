//! What is not yet in the file: one ordered table per bucket.
//!
//! Invariants: `None` stands for a deletion and hides what lies below; a table only grows until it is committed as a whole.

use bytes::Bytes;

use crate::schema::Bucket;
use crate::tree::{Summary, Tree};

/// Tables need no summaries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plain;

impl Summary for Plain {
    type Value = Option<Bytes>;
    fn of(_: &Self::Value) -> Self {
        Plain
    }
    fn add(&mut self, _: &Self) {}
    fn replace(&mut self, _: &Self, _: &Self) -> bool {
        true
    }
}

/// The changes to one bucket, by key.
pub(crate) type Table = Tree<Plain>;

/// The changes to all buckets. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    tables: [Table; Bucket::COUNT],
}

impl Tables {
    pub(crate) fn of(&self, bucket: Bucket) -> &Table {
        &self.tables[bucket as usize]
    }

    /// Sets (`Some`) or deletes (`None`) a key.
    pub(crate) fn set(&mut self, bucket: Bucket, key: Bytes, value: Option<Bytes>) {
        let table = &mut self.tables[bucket as usize];
        table.upsert(&key, || key.clone(), || None, |slot| *slot = value);
    }

    /// All changes, bucket by bucket in the order of the enum, keys in order.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (Bucket, &Bytes, &Option<Bytes>)> {
        Bucket::ALL.into_iter().flat_map(|bucket| {
            self.of(bucket)
                .iter_from(b"")
                .map(move |(key, value)| (bucket, key, value))
        })
    }
}
