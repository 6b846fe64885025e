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
            kvs.sort_by(|a, b| key(b).cmp(&key(a)));
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

#[test]
fn ranges_at_every_revision_equal_the_model_through_compactions_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut rng = Rng(0x5EED);
    let mut pair = Pair::new(&path);
    for round in 0..1200 {
        pair.write(&mut rng);
        if rng.chance(60) {
            let at = rng.below(pair.model.current as u64 + 2) as i64;
            let expected = match at {
                at if at <= pair.model.compacted => Err(Error::Compacted),
                at if at > pair.model.current => Err(Error::FutureRevision),
                _ => Ok(()),
            };
            assert_eq!(pair.store.compact(&mut pair.backend, at), expected);
            if expected.is_ok() {
                pair.model.compacted = at;
            }
        }
        if rng.chance(3) {
            // Small steps, so that reads and writes fall between them.
            pair.store.compact_step(&mut pair.backend, 7).unwrap();
        }
        if rng.chance(50) {
            pair.backend.commit().unwrap();
        }
        if round % 10 == 0 {
            pair.check_ranges(&mut rng, 10);
            pair.check_streams(&mut rng);
        }
        if rng.chance(200) {
            // What was committed comes back, and so does a compaction that was not through.
            pair.backend.commit().unwrap();
            drop(pair.store);
            drop(pair.backend);
            let (backend, store, leased) = open(&path);
            let living = pair.model.at(pair.model.current).into_values();
            let expected: store::LeasedKeys = living.filter(|kv| kv.lease != 0).map(|kv| (kv.key, kv.lease)).collect();
            assert_eq!(leased, expected);
            assert_eq!(store.current_revision(), pair.model.current);
            assert_eq!(store.compact_revision(), pair.model.compacted);
            (pair.backend, pair.store) = (backend, store);
        }
    }
    pair.check_ranges(&mut rng, 200);
    while pair.store.compact_step(&mut pair.backend, 50).unwrap() != Compacted::Nothing {}
    pair.check_ranges(&mut rng, 200);
    let living = pair.model.at(pair.model.current).len();
    assert_eq!(pair.store.reader().living_keys(), living);
}

#[test]
fn the_hash_does_not_depend_on_how_far_compaction_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng(77);
    let mut pair = Pair::new(&dir.path().join("db"));
    for _ in 0..300 {
        pair.write(&mut rng);
    }
    let reader = pair.store.reader();
    let current = pair.model.current;
    let before = reader.hash_kv(current - 10).unwrap().0;
    assert_eq!((before.compact_revision, before.revision), (-1, current - 10));
    pair.store.compact(&mut pair.backend, current - 100).unwrap();
    let fresh = reader.hash_kv(current - 10).unwrap().0;
    assert_ne!(fresh.hash, before.hash, "the lower bound moved");
    while pair.store.compact_step(&mut pair.backend, 3).unwrap() == Compacted::More {
        assert_eq!(reader.hash_kv(current - 10).unwrap().0, fresh);
    }
    assert_eq!(reader.hash_kv(current - 10).unwrap().0, fresh);
    assert_eq!(reader.hash_kv(0).unwrap().0.revision, current);
    assert_eq!(reader.hash_kv(current - 101), Err(Error::Compacted));
    assert_eq!(reader.hash_kv(current + 1), Err(Error::FutureRevision));
    // The compaction's own hash covers what it removed, and answers for its revision.
    let stored = reader.compaction_hashes();
    assert_eq!(stored.len(), 1);
    assert_eq!(reader.hash_kv(current - 100).unwrap(), (stored[0], current));
    assert_eq!((stored[0].compact_revision, stored[0].revision), (-1, current - 100));
}

/// H27 (etcd #17780) and H28 (#6633).
#[test]
fn the_revision_does_not_fall_when_the_newest_deletion_is_compacted() {
    for finish in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let (mut backend, mut store, _) = open(&path);
        let mut write = store.write(&mut backend);
        write.put("k".into(), "v".into(), 0);
        write.end();
        let mut write = store.write(&mut backend);
        write.delete_range(Span::Key(b"k"));
        assert_eq!(write.end().revision, 3);
        let mut write = store.write(&mut backend);
        write.put("k".into(), "v".into(), 0);
        write.end();
        let mut write = store.write(&mut backend);
        write.delete_range(Span::Key(b"k"));
        assert_eq!(write.end().revision, 5);
        store.compact(&mut backend, 5).unwrap();
        if finish {
            while store.compact_step(&mut backend, 1).unwrap() != Compacted::Nothing {}
        }
        backend.commit().unwrap();
        drop((backend, store));
        let (mut backend, mut store, _) = open(&path);
        assert_eq!((store.current_revision(), store.compact_revision()), (5, 5));
        assert_eq!(
            store.is_compacting(),
            !finish,
            "a compaction that was cut short goes on"
        );
        while store.compact_step(&mut backend, 1).unwrap() != Compacted::Nothing {}
        assert_eq!(
            store.reader().compaction_hashes(),
            [],
            "after a restart it has not seen all that it removed"
        );
        backend.commit().unwrap();
        drop((backend, store));
        let (_, store, _) = open(&path);
        assert_eq!((store.current_revision(), store.compact_revision()), (5, 5));
    }
}

#[test]
fn a_view_outlives_the_compaction_of_what_it_shows() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng(3);
    let mut pair = Pair::new(&dir.path().join("db"));
    for _ in 0..200 {
        pair.write(&mut rng);
    }
    pair.backend.commit().unwrap();
    let (view, all) = (
        pair.store.reader().view(),
        RangeRequest {
            revision: 50,
            ..everything()
        },
    );
    let before = view.range(&all).unwrap();
    pair.store.compact(&mut pair.backend, pair.model.current).unwrap();
    while pair.store.compact_step(&mut pair.backend, 100).unwrap() != Compacted::Nothing {}
    pair.backend.commit().unwrap();
    assert_eq!(view.range(&all).unwrap(), before);
    assert_eq!(pair.store.reader().range(&all), Err(Error::Compacted));
}

#[test]
fn readers_on_other_threads_always_see_whole_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let (mut backend, mut store, _) = open(&dir.path().join("db"));
    let done = std::sync::atomic::AtomicBool::new(false);
    let reader = store.reader();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let response = reader.range(&everything()).unwrap();
                    let revision = response.header.unwrap().revision;
                    assert!(revision >= last);
                    last = revision;
                    // Each transaction writes all eight keys.
                    assert!(response.kvs.is_empty() || response.kvs.len() == 8);
                    for kv in &response.kvs {
                        assert_eq!(kv.mod_revision, revision);
                    }
                    assert_eq!(response.count as usize, response.kvs.len());
                }
            });
        }
        for round in 0..400 {
            let mut write = store.write(&mut backend);
            for key in 0..8 {
                write.put(format!("k{key}").into(), format!("{round}").into(), 0);
            }
            let revision = write.end().revision;
            if round % 20 == 19 {
                store.compact(&mut backend, revision).unwrap();
            }
            store.compact_step(&mut backend, 30).unwrap();
            if round % 50 == 49 {
                backend.commit().unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

fn everything() -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    }
}

// ---- watching ----

struct Ignore;

impl Notify for Ignore {
    fn notify(&self) {}
}

/// A watcher and what the model says it must see.
struct Watched {
    id: i64,
    keys: (Bytes, Bytes),
    /// The first revision of which nothing was seen yet.
    next: i64,
    start: i64,
    prev_kv: bool,
    gone: bool,
}

struct Client {
    stream: WatchStream<RealDisk>,
    watchers: BTreeMap<i64, Watched>,
    /// Requests not yet answered, in order.
    asked: Vec<Watched>,
}

impl Client {
    /// Takes up to `limit` deliveries and compares each with the model.
    fn read(&mut self, model: &Model, limit: usize) {
        for _ in 0..limit {
            let Some(delivery) = self.stream.pop() else { return };
            match delivery {
                Delivery::Created { watch_id, revision } => {
                    let mut watched = self.asked.remove(0);
                    watched.id = watch_id;
                    watched.next = if watched.start == 0 {
                        revision + 1
                    } else {
                        watched.start
                    };
                    assert!(self.watchers.insert(watch_id, watched).is_none());
                }
                Delivery::Refused { reason, .. } => panic!("refused: {reason}"),
                Delivery::Canceled { watch_id, .. } => {
                    assert!(self.watchers.remove(&watch_id).unwrap().gone);
                }
                Delivery::Compacted {
                    watch_id,
                    compact_revision,
                } => {
                    let lost = self.watchers.remove(&watch_id).unwrap();
                    assert!(lost.next < compact_revision, "nothing was lost");
                }
                Delivery::Progress { watch_id, revision } => {
                    for watched in self
                        .watchers
                        .values_mut()
                        .filter(|w| watch_id == -1 || w.id == watch_id)
                    {
                        let span = Span::new(&watched.keys.0, &watched.keys.1);
                        let missing = model.events(span, watched.next, revision);
                        assert_eq!(missing, [], "progress at {revision} ran ahead of an event");
                        assert!(watched.start <= revision, "progress for a watcher of the future (H33)");
                    }
                }
                Delivery::Events {
                    watch_id,
                    revision,
                    events,
                    prev_kv,
                    ..
                } => {
                    let watched = self.watchers.get_mut(&watch_id).expect("events before created");
                    assert_eq!(prev_kv, watched.prev_kv);
                    let last = events.last().unwrap().kv.mod_revision;
                    assert!(revision >= last);
                    let span = Span::new(&watched.keys.0, &watched.keys.1);
                    let expected: Vec<_> = model
                        .events(span, watched.next, last)
                        .into_iter()
                        .map(|entry| {
                            (
                                entry.kv.clone(),
                                entry.kv.version == 0,
                                entry.before.filter(|_| prev_kv),
                            )
                        })
                        .collect();
                    let got: Vec<_> = events
                        .iter()
                        .map(|event| {
                            (
                                event.kv.clone(),
                                event.deleted,
                                event.previous.clone().filter(|_| prev_kv),
                            )
                        })
                        .collect();
                    for (got, expected) in got.iter().zip(&expected) {
                        assert_eq!((&got.0, got.1), (&expected.0, expected.1));
                        // What was before is compacted away only if the event is right at the compaction.
                        if got.2 != expected.2 {
                            assert!(
                                got.2.is_none() && got.0.mod_revision <= model.compacted,
                                "prev_kv is not exact"
                            );
                        }
                    }
                    assert_eq!(got.len(), expected.len(), "events missing or twice, or a revision torn");
                    watched.next = last + 1;
                }
            }
        }
    }
}

#[test]
fn watchers_see_every_event_once_in_order_or_are_told_of_the_compaction() {
    for seed in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().join("db");
        let mut rng = Rng(0xABCD + seed * 7919);
        let mut pair = Pair::new(&path);
        let hub = pair.store.watch_hub();
        let options = StreamOptions {
            deliveries_max: 4,
            bytes_max: 20_000,
            progress_interval: Uptime::from_millis(50),
        };
        let mut clients: Vec<Client> = Vec::new();
        let mut now = Uptime::ZERO;
        for round in 0..1500u64 {
            now += Uptime::from_millis(1);
            if clients.len() < 6 && rng.chance(20) {
                let stream = hub.open(options.clone(), Arc::new(Ignore), now);
                clients.push(Client {
                    stream,
                    watchers: BTreeMap::new(),
                    asked: Vec::new(),
                });
            }
            if !clients.is_empty() {
                let pick = rng.below(clients.len() as u64) as usize;
                let client = &mut clients[pick];
                if rng.chance(10) {
                    let keys = loop {
                        let keys = rng.span();
                        if keys.1.len() < 2 || keys.0 < keys.1 {
                            break keys;
                        }
                    };
                    let start = match rng.below(4) {
                        0 => 0,
                        1 => pair.model.current + 1 + rng.below(30) as i64,
                        _ => (pair.model.current - rng.below(60) as i64).max(1),
                    };
                    let prev_kv = rng.chance(2);
                    client.stream.create(&WatchCreateRequest {
                        key: keys.0.clone(),
                        range_end: keys.1.clone(),
                        start_revision: start,
                        prev_kv,
                        progress_notify: rng.chance(2),
                        ..WatchCreateRequest::default()
                    });
                    client.asked.push(Watched {
                        id: 0,
                        keys,
                        next: 0,
                        start,
                        prev_kv,
                        gone: false,
                    });
                }
                if rng.chance(60)
                    && let Some(watched) = client.watchers.values_mut().find(|watched| !watched.gone)
                {
                    watched.gone = true;
                    client.stream.cancel(watched.id);
                }
                if rng.chance(8) {
                    client.stream.request_progress();
                }
                // Some clients read little and fall behind.
                if !(pick == 0 && round % 400 < 200) {
                    client.read(&pair.model, rng.below(6) as usize);
                }
            }
            pair.write(&mut rng);
            if rng.chance(4) {
                let budget = StepBudget {
                    watchers_max: 3,
                    revisions_max: 1 + rng.below(20) as usize,
                    bytes_max: 2000,
                };
                hub.step(now, budget).unwrap();
            }
            if rng.chance(300) {
                let at = pair.model.current - rng.below(60) as i64;
                if at > pair.model.compacted {
                    pair.store.compact(&mut pair.backend, at).unwrap();
                    pair.model.compacted = at;
                }
            }
            pair.store.compact_step(&mut pair.backend, 40).unwrap();
            if rng.chance(40) {
                pair.backend.commit().unwrap();
            }
            if rng.chance(600) {
                // As after a snapshot of the leader: the same history, another database (H31).
                pair.backend.commit().unwrap();
                let copy = dir.path().join(format!("copy{round}"));
                std::fs::copy(&path, &copy).unwrap();
                path.clone_from(&copy);
                let mut backend = Backend::open(RealDisk, &copy, Options::default()).unwrap();
                for _ in 0..5 {
                    // The snapshot is ahead of what this store has applied.
                    let (mut ahead, _) = Store::open(&backend).unwrap();
                    std::mem::swap(&mut ahead, &mut pair.store);
                    std::mem::swap(&mut backend, &mut pair.backend);
                    pair.write(&mut rng);
                    std::mem::swap(&mut ahead, &mut pair.store);
                    std::mem::swap(&mut backend, &mut pair.backend);
                }
                pair.store.restore(&backend).unwrap();
                pair.backend = backend;
            }
        }
        // Left alone, everybody catches up, and the end of the log has been seen by all.
        for _ in 0..10_000 {
            let caught = hub.step(now, StepBudget::default()).unwrap();
            for client in &mut clients {
                client.read(&pair.model, 100);
            }
            if caught == Caught::All && clients.iter().all(|client| client.stream.queued() == 0) {
                break;
            }
        }
        assert_eq!(hub.stats().slow_watchers, 0);
        let mut watching = 0;
        for client in &mut clients {
            for watched in client.watchers.values() {
                watching += 1;
                let span = Span::new(&watched.keys.0, &watched.keys.1);
                assert_eq!(
                    pair.model.events(span, watched.next, i64::MAX),
                    [],
                    "seed {seed}: an event was never sent"
                );
            }
        }
        assert!(watching > 10, "only {watching} watchers were left to check");
        drop(clients);
        assert_eq!(hub.stats(), watch::WatchStats::default());
    }
}
