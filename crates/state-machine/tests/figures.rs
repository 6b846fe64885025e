//! How long things take; printed, never asserted, because machines are shared.
//! `cargo test -p state-machine --release --test figures -- --ignored --nocapture`

use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::RealDisk;
use proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use state_machine::backend::{Backend, Options};
use state_machine::mvcc::{Compacted, Notify, Store, StreamOptions};

struct Ignore;

impl Notify for Ignore {
    fn notify(&self) {}
}

fn timed<R>(what: &str, times: u32, mut work: impl FnMut() -> R) -> R {
    let begin = Instant::now();
    let mut result = work();
    for _ in 1..times {
        result = work();
    }
    let each = begin.elapsed() / times;
    println!("{what:60} {each:>12.2?}");
    result
}

#[test]
#[ignore = "prints figures, proves nothing"]
fn figures() {
    let keys = 200_000u32;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut backend = Backend::open(RealDisk, &path, Options::default()).unwrap();
    let (mut store, _) = Store::open(&backend).unwrap();
    let key = |i: u32| format!("/registry/pods/namespace-{:03}/pod-{i:08}", i % 100);
    let mut i = 0;
    timed("put of 256 bytes, commits of 10,000 included", keys, || {
        let mut write = store.write(&mut backend);
        write.put(key(i).into(), vec![b'v'; 256].into(), 0);
        i += 1;
        write.end();
        if backend.commit_due() {
            backend.commit().unwrap();
        }
    });
    backend.commit().unwrap();
    let reader = store.reader();
    let all = RangeRequest {
        key: "/registry/".into(),
        range_end: "/registry0".into(),
        count_only: true,
        ..RangeRequest::default()
    };
    let old = reader.current_revision();
    let count = timed("count of all 200,000 keys", 1000, || reader.range(&all).unwrap().count);
    assert_eq!(count, i64::from(keys));
    for i in 0..1000 {
        let mut write = store.write(&mut backend);
        write.put(key(i * 150).into(), vec![b'w'; 256].into(), 0);
        write.end();
    }
    let then = RangeRequest {
        revision: old,
        ..all.clone()
    };
    timed("the same 1,000 revisions ago", 100, || {
        reader.range(&then).unwrap().count
    });
    let page = RangeRequest {
        limit: 500,
        count_only: false,
        ..all.clone()
    };
    timed("page of 500 with count", 100, || reader.range(&page).unwrap().kvs.len());
    let names = RangeRequest {
        keys_only: true,
        count_only: false,
        ..all.clone()
    };
    timed("all 200,000 keys without values", 3, || {
        reader.range(&names).unwrap().kvs.len()
    });
    let whole = RangeRequest {
        count_only: false,
        ..all
    };
    timed("all 200,000 keys with values", 3, || {
        reader.range(&whole).unwrap().kvs.len()
    });
    timed("hash of everything", 3, || reader.hash_kv(0).unwrap());
    let hub = store.watch_hub();
    let streams: Vec<_> = (0..1000u32)
        .map(|i| {
            let stream = hub.open(StreamOptions::default(), Arc::new(Ignore), Duration::ZERO);
            let from = format!("/registry/pods/namespace-{:03}/", i % 100);
            let end = format!("/registry/pods/namespace-{:03}0", i % 100);
            stream.create(&WatchCreateRequest {
                key: from.into(),
                range_end: end.into(),
                prev_kv: true,
                ..WatchCreateRequest::default()
            });
            stream
        })
        .collect();
    let mut i = 0;
    timed("update with 1,000 range watchers, 10 of them concerned", 2000, || {
        let mut write = store.write(&mut backend);
        write.put(key(i).into(), vec![b'x'; 256].into(), 0);
        i += 1;
        write.end();
        if i % 64 == 0 {
            streams.iter().for_each(|stream| while stream.pop().is_some() {});
        }
    });
    store.compact(&mut backend, reader.current_revision()).unwrap();
    timed("compaction of it all, steps of 1000", 1, || {
        while store.compact_step(&mut backend, 1000).unwrap() != Compacted::Nothing {}
    });
    backend.commit().unwrap();
    drop((streams, hub, reader, store, backend));
    timed("open: index of 200,000 keys from the file", 1, || {
        let backend = Backend::open(RealDisk, &path, Options::default()).unwrap();
        Store::open(&backend).unwrap().0.current_revision()
    });
}
