//! Ranges, hashes, compactions and restarts against the naive store.

use super::*;

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
            // Small steps, so that reads and writes fall between them, and even into them.
            if let Some(job) = pair.store.compact_job(7) {
                let piece = std::thread::scope(|scope| {
                    let piece = scope.spawn(move || job.run().unwrap());
                    assert!(pair.store.compact_job(7).is_none() && pair.store.is_compacting());
                    pair.write(&mut rng);
                    piece.join().unwrap()
                });
                pair.store.compact_finish(&mut pair.backend, piece);
            }
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
fn a_piece_of_a_compaction_of_another_database_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng(11);
    let (mut pair, mut other) = (Pair::new(&dir.path().join("a")), Pair::new(&dir.path().join("b")));
    for _ in 0..50 {
        pair.write(&mut rng);
        other.write(&mut rng);
        other.write(&mut rng);
    }
    pair.backend.commit().unwrap();
    pair.store.compact(&mut pair.backend, pair.model.current).unwrap();
    // Until records go: the mark alone is one write.
    while pair.backend.pending_ops() < 2 {
        assert_eq!(pair.store.compact_step(&mut pair.backend, 10), Ok(Compacted::More));
    }
    let job = pair.store.compact_job(20).unwrap();
    pair.store.restore(&other.backend).unwrap();
    let pending = other.backend.pending_ops();
    let piece = job.run().unwrap();
    assert_eq!(pair.store.compact_finish(&mut other.backend, piece), Compacted::Nothing);
    assert_eq!(
        other.backend.pending_ops(),
        pending,
        "it deleted records of the other database"
    );
    assert!(!pair.store.is_compacting());
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
