//! One writer, a compaction, a snapshot stream and readers at once: each reader sees one commit, whole.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bolt::{Db, Options};
use disk::MemoryDisk;
use support::sound;

const KEYS: u32 = 400;

/// Each commit writes its own number under every key, so that a mixed snapshot would show.
fn commit(db: &Db<MemoryDisk>, round: u32) {
    let mut tx = db.write().unwrap();
    tx.create_bucket(b"key").unwrap();
    for i in 0..KEYS {
        if (i + round).is_multiple_of(5) {
            tx.delete(b"key", &i.to_be_bytes()).unwrap();
        } else {
            let len = 4 + (i + round) as usize % 700;
            tx.put(b"key", &i.to_be_bytes(), &round.to_be_bytes().repeat(len.div_ceil(4)))
                .unwrap();
        }
    }
    tx.commit().unwrap();
}

fn verify(tx: &bolt::ReadTx<MemoryDisk>) -> u32 {
    let bucket = tx.bucket(b"key").unwrap().unwrap();
    let mut cursor = bucket.cursor();
    let mut item = cursor.first().unwrap();
    let mut seen = None;
    let mut count = 0;
    while let Some((_, value)) = item {
        for word in value.chunks_exact(4) {
            let round = u32::from_be_bytes(word.try_into().unwrap());
            assert_eq!(*seen.get_or_insert(round), round, "two commits in one snapshot");
        }
        count += 1;
        item = cursor.next().unwrap();
    }
    assert_eq!(count, KEYS * 4 / 5);
    seen.unwrap()
}

#[test]
fn snapshots_are_whole_while_everything_moves() {
    let options = Options {
        cache_bytes: 256 << 10,
        growth_bytes: 1 << 20,
        ..Options::default()
    };
    let db = Db::open(MemoryDisk::new(1), Path::new("/db"), options).unwrap();
    commit(&db, 0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (db, over) = (&db, &over);
            scope.spawn(move || {
                let mut last = 0;
                let mut old = db.read().unwrap();
                let mut turn = 0;
                while !over.load(Ordering::Relaxed) {
                    turn += 1;
                    let tx = db.read().unwrap();
                    let round = verify(&tx);
                    assert!(round >= last, "a newer snapshot is older");
                    last = round;
                    verify(&old);
                    if turn % (3 + reader) == 0 {
                        old = tx;
                    }
                }
            });
        }
        let (db, over) = (&db, &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let tx = db.read().unwrap();
                let image: Vec<u8> = tx.stream(40_000).flat_map(|chunk| chunk.unwrap()).collect();
                let disk = MemoryDisk::new(2);
                support::write_file(&disk, Path::new("/copy"), &image);
                let copy = Db::open(disk, Path::new("/copy"), Options::default()).unwrap();
                sound(&copy, "the image");
                assert_eq!(verify(&copy.read().unwrap()), verify(&tx));
            }
        });
        for round in 1..150 {
            commit(db, round);
            db.compact_step(30).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    sound(&db, "at the end");
    assert_eq!(verify(&db.read().unwrap()), 149);
}

#[test]
fn a_compacted_copy_has_the_same_contents() {
    let db = Db::open(MemoryDisk::new(1), Path::new("/db"), Options::default()).unwrap();
    for round in 0..5 {
        commit(&db, round);
    }
    let tx = db.read().unwrap();
    let disk = MemoryDisk::new(1);
    let copy = tx
        .copy_to(disk.clone(), Path::new("/copy"), Options::default())
        .unwrap();
    sound(&copy, "the copy");
    assert_eq!(support::contents(&copy.read().unwrap()), support::contents(&tx));
    assert!(copy.size() < db.size());
    assert!(
        tx.copy_to(disk, Path::new("/copy"), Options::default()).is_err(),
        "nothing is overwritten"
    );
}
