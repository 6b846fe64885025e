//! A write transaction (`etcd server/storage/mvcc/kvstore_txn.go`).
//!
//! Invariants:
//! - All changes share one main revision; the sub revision numbers them in the order of execution.
//! - Whatever is written has been checked before: no operation here can be refused half-way. Only the storage can fail, and that
//!   stops the member.
//! - Readers see the new revision only after [`WriteTxn::end`]; the transaction itself sees its own writes.

use bytes::Bytes;
use disk::Disk;
use prost::Message;
use proto::mvccpb::KeyValue;

use super::index::{Span, Stamp};
use super::read::ReadView;
use super::revision::Revision;
use super::store::Shared;
use super::watch;
use crate::backend::Backend;
use crate::error::Error;
use crate::schema::Bucket;

/// One change of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key as it is now; of a deletion only key and mod revision are set.
    pub kv: KeyValue,
    /// Whether the key was deleted.
    pub deleted: bool,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The store's revision after it.
    pub revision: i64,
    /// In the order of execution; empty when nothing changed. The lessor attaches and detaches keys by them, the last change of a key
    /// wins: `kv.lease` is the lease it has now, 0 none.
    pub changes: Vec<Change>,
}

/// See the module.
#[derive(Debug)]
pub struct WriteTxn<'a, D: Disk> {
    shared: &'a Shared<D>,
    backend: &'a mut Backend<D>,
    begin: i64,
    changes: Vec<Change>,
}

impl<'a, D: Disk> WriteTxn<'a, D> {
    pub(super) fn new(shared: &'a Shared<D>, backend: &'a mut Backend<D>) -> Self {
        let begin = shared.with(|moment| moment.current);
        WriteTxn {
            shared,
            backend,
            begin,
            changes: Vec::new(),
        }
    }

    /// The revision that a response names now: the next one as soon as something has changed.
    pub fn revision(&self) -> i64 {
        self.begin + i64::from(!self.changes.is_empty())
    }

    /// What this transaction sees, its own changes included. Drop it before the next change: it would force a copy.
    pub fn view(&self) -> ReadView<D> {
        ReadView::at(self.shared, self.revision())
    }

    /// Writes a key. Returns the revision of the transaction.
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> i64 {
        let revision = self.next();
        let before = self.shared.with(|moment| moment.index.get(&key, revision.main));
        let (created, version) = before.map_or((revision.main, 1), |stamp| (stamp.created, stamp.version + 1));
        let version = if mutant::planted("Q20") && self.changes.len() > 1 {
            version + 1
        } else {
            version
        };
        let created = if mutant::planted("Q40") { revision.main } else { created };
        let kv = KeyValue {
            key,
            create_revision: created,
            mod_revision: revision.main,
            version,
            value,
            lease,
        };
        let record = Bytes::from(kv.encode_to_vec());
        self.backend.put(Bucket::Key, revision.encode(), record);
        self.record(
            Stamp {
                revision,
                created,
                version,
                tombstone: false,
            },
            kv,
        );
        revision.main
    }

    /// Deletes the keys of a span. Returns how many there were.
    pub fn delete_range(&mut self, span: Span<'_>) -> usize {
        let mut found = self
            .shared
            .with(|moment| moment.index.select(span, self.revision(), 0, false).0);
        if mutant::planted("Q41") && found.len() > 1 {
            found.pop();
        }
        let count = found.len();
        for victim in found {
            let revision = self.next();
            let record = KeyValue {
                key: victim.key.clone(),
                ..KeyValue::default()
            }
            .encode_to_vec();
            self.backend
                .put(Bucket::Key, revision.encode_tombstone(), record.into());
            let kv = KeyValue {
                key: victim.key,
                mod_revision: revision.main,
                ..KeyValue::default()
            };
            let stamp = Stamp {
                revision,
                created: 0,
                version: 0,
                tombstone: true,
            };
            self.record(stamp, kv);
        }
        count
    }

    /// The changes so far.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Ends the transaction: from now on readers see it, and watchers are told.
    pub fn end(self) -> Changes {
        let changes = Changes {
            revision: self.revision(),
            changes: self.changes,
        };
        if !changes.changes.is_empty() {
            self.shared.with_mut(|moment| moment.current = changes.revision);
            watch::notify(self.shared, &changes);
        }
        changes
    }

    /// The value that a key has now, for `ignore_value` and `prev_kv`.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        self.view().get(key)
    }

    fn next(&self) -> Revision {
        Revision {
            main: self.begin + 1,
            sub: self.changes.len() as i64,
        }
    }

    fn record(&mut self, stamp: Stamp, kv: KeyValue) {
        let added = self.shared.with_mut(|moment| moment.index.add(&kv.key, stamp));
        debug_assert!(added, "revisions grow, and only what is there is deleted");
        self.changes.push(Change {
            kv,
            deleted: stamp.tombstone,
        });
    }
}
