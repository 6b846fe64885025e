//! The store against a naive one: a list of all changes, searched from the start each time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use disk::RealDisk;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use proto::mvccpb::KeyValue;

use super::watch::{Caught, Delivery, Notify, StepBudget, StreamOptions, WatchStream};
use super::*;
use crate::backend::{Backend, Options};
use crate::error::Error;
use crate::lease::Uptime;

/// A xorshift: the same numbers on every run.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    pub(super) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn key(&mut self) -> Bytes {
        format!("k{:02}", self.below(40)).into()
    }

    /// A span as the protocol spells it.
    fn span(&mut self) -> (Bytes, Bytes) {
        let from = self.key();
        match self.below(4) {
            0 => (from, Bytes::new()),
            1 => (from, Bytes::from_static(b"\0")),
            _ => (from, self.key()),
        }
    }
}

/// A change as the model remembers it; `kv.version` 0 is a deletion.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    revision: Revision,
    kv: KeyValue,
    before: Option<KeyValue>,
}

#[derive(Default)]
struct Model {
    log: Vec<Entry>,
    living: BTreeMap<Bytes, KeyValue>,
    current: i64,
    compacted: i64,
}

impl Model {
    /// All that lives at a revision, by key.
    fn at(&self, revision: i64) -> BTreeMap<Bytes, KeyValue> {
        let mut all = BTreeMap::new();
        for entry in self.log.iter().filter(|entry| entry.revision.main <= revision) {
            if entry.kv.version == 0 {
                all.remove(&entry.kv.key);
            } else {
                all.insert(entry.kv.key.clone(), entry.kv.clone());
            }
        }
        all
    }

    fn put(&mut self, revision: Revision, key: Bytes, value: Bytes, lease: i64) {
        let before = self.living.get(&key).cloned();
        let (create_revision, version) = before
            .as_ref()
            .map_or((revision.main, 1), |kv| (kv.create_revision, kv.version + 1));
        let kv = KeyValue {
            key: key.clone(),
            value,
            lease,
            create_revision,
            mod_revision: revision.main,
            version,
        };
        self.living.insert(key, kv.clone());
        self.log.push(Entry { revision, kv, before });
    }

    fn delete(&mut self, revision: Revision, span: Span<'_>) -> usize {
        let victims: Vec<_> = self.living.keys().filter(|key| span.contains(key)).cloned().collect();
        for (i, key) in victims.iter().enumerate() {
            let revision = Revision {
                main: revision.main,
                sub: revision.sub + i as i64,
            };
            let kv = KeyValue {
                key: key.clone(),
                mod_revision: revision.main,
                ..KeyValue::default()
            };
            let before = self.living.remove(key);
            self.log.push(Entry { revision, kv, before });
        }
        victims.len()
    }

    fn range(&self, request: &RangeRequest) -> Result<(Vec<KeyValue>, bool, i64), Error> {
        if request.revision > self.current {
            return Err(Error::FutureRevision);
        }
        let revision = if request.revision <= 0 {
            self.current
        } else {
            request.revision
        };
        if revision < self.compacted {
            return Err(Error::Compacted);
        }
        let span = Span::new(&request.key, &request.range_end);
        let mut kvs: Vec<_> = self
            .at(revision)
            .into_values()
            .filter(|kv| span.contains(&kv.key))
            .collect();
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok((Vec::new(), false, count));
        }
        let limit = if request.limit <= 0 {
            usize::MAX
        } else {
            request.limit as usize
        };
        if request.sort_order() == SortOrder::None && !read::has_revision_filter(request) {
            kvs.truncate(limit.saturating_add(1));
        }
        let ok = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
        kvs.retain(|kv| {
            ok(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && ok(
                    kv.create_revision,
                    request.min_create_revision,
                    request.max_create_revision,
                )
        });
        match request.sort_target() {
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => kvs.sort_by_key(|kv| kv.value.clone()),
        }
        if request.sort_order() == SortOrder::Descend {
            // Ties keep their order: the server sorts stably.
            let key = |kv: &KeyValue| match request.sort_target() {
                SortTarget::Key => kv.key.to_vec(),
                SortTarget::Version => kv.version.to_be_bytes().to_vec(),
                SortTarget::Create => kv.create_revision.to_be_bytes().to_vec(),
                SortTarget::Mod => kv.mod_revision.to_be_bytes().to_vec(),
                SortTarget::Value => kv.value.to_vec(),
            };
            kvs.sort_by_key(|kv| std::cmp::Reverse(key(kv)));
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            for kv in &mut kvs {
                kv.value.clear();
                if request.sort_target() != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        Ok((kvs, more, count))
    }

    /// What a watcher of a span sees in `[from, to]`.
    fn events(&self, span: Span<'_>, from: i64, to: i64) -> Vec<Entry> {
        let first = self.log.partition_point(|entry| entry.revision.main < from);
        let due = self.log[first..].iter().take_while(|entry| entry.revision.main <= to);
        due.filter(|entry| span.contains(&entry.kv.key)).cloned().collect()
    }
}

/// A store and its model.
struct Pair {
    backend: Backend<RealDisk>,
    store: Store<RealDisk>,
    model: Model,
}

fn open(path: &Path) -> (Backend<RealDisk>, Store<RealDisk>, store::LeasedKeys) {
    let backend = Backend::open(RealDisk, path, Options::default()).unwrap();
    let (store, leased) = Store::open(&backend).unwrap();
    (backend, store, leased)
}

impl Pair {
    fn new(path: &Path) -> Pair {
        let (backend, store, _) = open(path);
        Pair {
            backend,
            store,
            model: Model {
                current: 1,
                compacted: -1,
                ..Model::default()
            },
        }
    }

    /// A transaction of one to four changes of different keys.
    fn write(&mut self, rng: &mut Rng) {
        let mut write = self.store.write(&mut self.backend);
        let mut used = Vec::new();
        let main = self.model.current + 1;
        let mut sub = 0;
        for _ in 0..=rng.below(4) {
            let revision = Revision { main, sub };
            if rng.chance(4) {
                let (key, end) = rng.span();
                let span = Span::new(&key, &end);
                if used.iter().any(|key: &Bytes| span.contains(key)) {
                    continue;
                }
                let count = self.model.delete(revision, span);
                assert_eq!(write.delete_range(span), count);
                used.extend(
                    (0..40)
                        .map(|i| Bytes::from(format!("k{i:02}")))
                        .filter(|key| span.contains(key)),
                );
                sub += count as i64;
            } else {
                let key = rng.key();
                if used.contains(&key) {
                    continue;
                }
                let value = Bytes::from(vec![b'a' + rng.below(26) as u8; rng.below(60) as usize]);
                let lease = rng.below(3) as i64;
                self.model.put(revision, key.clone(), value.clone(), lease);
                write.put(key.clone(), value, lease);
                used.push(key);
                sub += 1;
            }
        }
        let changes = write.end();
        assert_eq!(changes.changes.len() as i64, sub);
        self.model.current += i64::from(sub > 0);
        assert_eq!(changes.revision, self.model.current);
    }

    fn check_ranges(&self, rng: &mut Rng, times: usize) {
        let reader = self.store.reader();
        for _ in 0..times {
            let (key, range_end) = rng.span();
            let span = |rng: &mut Rng| rng.below(self.model.current as u64 + 3) as i64;
            let mut request = RangeRequest {
                key,
                range_end,
                revision: span(rng),
                ..RangeRequest::default()
            };
            if rng.chance(2) {
                request.limit = rng.below(6) as i64;
            }
            if rng.chance(4) {
                request.sort_target = rng.below(5) as i32;
                request.sort_order = rng.below(3) as i32;
            }
            if rng.chance(6) {
                request.min_mod_revision = span(rng);
                request.max_create_revision = span(rng);
            }
            if rng.chance(6) {
                request.max_mod_revision = span(rng);
                request.min_create_revision = span(rng);
            }
            request.keys_only = rng.chance(5);
            request.count_only = rng.chance(8);
            let answer = reader.range(&request).map(|response| {
                assert_eq!(response.header.unwrap().revision, self.model.current);
                (response.kvs, response.more, response.count)
            });
            assert_eq!(answer, self.model.range(&request), "{request:?}");
        }
    }

    /// Streamed in small chunks, merged, it is the same answer as at once.
    fn check_streams(&self, rng: &mut Rng) {
        let (key, range_end) = rng.span();
        let limit = rng.below(30) as i64;
        let request = RangeRequest {
            key,
            range_end,
            limit,
            ..RangeRequest::default()
        };
        let reader = self.store.reader();
        let parts: Vec<_> = reader
            .range_stream(request.clone(), 200)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let (last, others) = parts.split_last().unwrap();
        assert!(
            others
                .iter()
                .all(|part| part.header.is_none() && part.count == 0 && !part.more)
        );
        let kvs: Vec<_> = parts.iter().flat_map(|part| part.kvs.clone()).collect();
        let whole = reader.range(&request).unwrap();
        assert_eq!(
            (kvs, last.more, last.count, last.header),
            (whole.kvs, whole.more, whole.count, whole.header)
        );
    }
}

fn everything() -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    }
}

mod crash;
mod ranges;
mod watching;
