//! Online compaction makes the file small again, in bounded steps, beside readers and writers.

mod support;

use std::path::Path;

use bolt::{Db, Options, Progress};
use disk::{Disk, MemoryDisk};
use support::{Model, Random, contents, sound};

fn open(disk: &MemoryDisk) -> Db<MemoryDisk> {
    Db::open(disk.clone(), Path::new("/db"), Options::default()).unwrap()
}

/// A database of revisions, of which all but every `keep`-th were deleted again; some values are big.
fn fill<D: Disk>(db: &Db<D>, revisions: u64, keep: u64) {
    let mut random = Random::new(1);
    for from in (0..revisions).step_by(1000) {
        let mut tx = db.write().unwrap();
        tx.create_bucket(b"key").unwrap();
        tx.set_fill_percent(b"key", 0.9).unwrap();
        for i in from..from + 1000 {
            let len = if i % 50 == 0 { 9000 } else { 100 + random.below(300) };
            tx.put(b"key", &i.to_be_bytes(), &vec![i as u8; len]).unwrap();
        }
        tx.create_bucket(b"meta").unwrap();
        tx.put(b"meta", b"at", &from.to_be_bytes()).unwrap();
        tx.commit().unwrap();
    }
    for from in (0..revisions).step_by(1000) {
        let mut tx = db.write().unwrap();
        for i in (from..from + 1000).filter(|i| i % keep != 0) {
            tx.delete(b"key", &i.to_be_bytes()).unwrap();
        }
        tx.commit().unwrap();
    }
}

fn finish<D: Disk>(db: &Db<D>, budget: u64, mut between: impl FnMut()) -> Vec<Progress> {
    let mut steps = Vec::new();
    loop {
        let step = db.compact_step(budget).unwrap();
        steps.push(step);
        if step.done {
            return steps;
        }
        assert!(steps.len() < 10_000, "no end: {step:?}");
        between();
    }
}

#[test]
fn a_sparse_file_becomes_small() {
    for (keep, budget) in [(3, 100), (20, 7), (1000, 1_000_000)] {
        let disk = MemoryDisk::new(1);
        let db = open(&disk);
        fill(&db, 20_000, keep);
        let before = contents(&db.read().unwrap());
        let (size, in_use) = (db.size(), db.size_in_use());
        let steps = finish(&db, budget, || ());
        sound(&db, "compacted");
        assert_eq!(contents(&db.read().unwrap()), before);
        let most = steps.iter().map(|step| step.moved_pages).max().unwrap();
        assert!(
            most <= budget + 300,
            "a step moved {most} pages on a budget of {budget}"
        );
        assert!(db.size() < size / 2, "keep {keep}: {size} became {}", db.size());
        assert!(db.size_in_use() <= in_use);
        assert!(
            db.size() < db.size_in_use() * 5 / 4 + (200 << 10),
            "{} for {}",
            db.size(),
            db.size_in_use()
        );
        assert_eq!(db.file_len(), db.size());
        drop(db);
        let db = open(&disk);
        sound(&db, "reopened");
        assert_eq!(contents(&db.read().unwrap()), before);
    }
}

#[test]
fn readers_keep_their_pages_and_the_end_is_cut_when_they_are_gone() {
    let db = open(&MemoryDisk::new(1));
    fill(&db, 10_000, 10);
    let reader = db.read().unwrap();
    let before = contents(&reader);
    let size = db.size();
    finish(&db, 50, || ());
    sound(&db, "beside a reader");
    assert_eq!(contents(&reader), before);
    let image: usize = reader.stream(65536).map(|chunk| chunk.unwrap().len()).sum();
    assert_eq!(image as u64, reader.size());
    drop(reader);
    finish(&db, 50, || ());
    assert!(
        db.size() < size && db.size() < db.size_in_use() * 5 / 4,
        "{size} became {} for {}",
        db.size(),
        db.size_in_use()
    );
    assert_eq!(contents(&db.read().unwrap()), before);
}

#[test]
fn writers_go_on_between_the_steps() {
    let db = open(&MemoryDisk::new(1));
    fill(&db, 10_000, 4);
    let mut model: Model = contents(&db.read().unwrap());
    let mut random = Random::new(9);
    finish(&db, 20, || {
        let mut tx = db.write().unwrap();
        for _ in 0..20 {
            let key = (random.below(12_000) as u64).to_be_bytes();
            let entries = model.get_mut(&b"key"[..]).unwrap();
            if random.chance(50) {
                let value = vec![1; random.below(2000)];
                tx.put(b"key", &key, &value).unwrap();
                entries.insert(key.to_vec().into(), value.into());
            } else {
                tx.delete(b"key", &key).unwrap();
                entries.remove(&key[..]);
            }
        }
        tx.commit().unwrap();
    });
    sound(&db, "compacted beside a writer");
    assert_eq!(contents(&db.read().unwrap()), model);
}
