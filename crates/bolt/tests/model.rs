//! Random operations over many commits and reopenings, compared with a map of maps after each.

mod support;

use std::collections::BTreeMap;

use bolt::{Db, Options};
use bytes::Bytes;
use disk::{MemoryDisk, RealDisk};
use support::{Model, Random, compare, contents, sound};

fn run(seed: u64, commits: usize, page_size: usize, freelist_pages_max: u64) {
    let (disk, path) = (MemoryDisk::new(seed), std::path::Path::new("/db"));
    let options = Options {
        page_size,
        freelist_pages_max,
        cache_bytes: 1 << 20,
        ..Options::default()
    };
    let open = || Db::open(disk.clone(), path, options.clone()).unwrap();
    let mut random = Random::new(seed);
    let mut db = open();
    let mut model = Model::new();
    let mut readers: Vec<(bolt::ReadTx<MemoryDisk>, Model)> = Vec::new();
    for commit in 0..commits {
        let context = format!("seed {seed}, commit {commit}");
        let mut tx = db.write().unwrap();
        let mut next = model.clone();
        support::change(&mut random, &mut tx, &mut next, 300);
        if random.chance(10) {
            drop(tx);
        } else {
            let seen = tx.buckets().unwrap();
            assert_eq!(
                seen,
                next.keys().cloned().collect::<Vec<_>>(),
                "{context}: buckets inside of the transaction"
            );
            for name in seen {
                let bucket = tx.bucket(&name).unwrap().unwrap();
                assert_eq!(
                    support::entries(&bucket),
                    next[&name],
                    "{context}: inside of the transaction"
                );
            }
            tx.commit().unwrap();
            model = next;
        }
        sound(&db, &context);
        if random.chance(30) {
            let budget = 1 + random.below(300) as u64;
            for _ in 0..random.below(10) {
                db.compact_step(budget).unwrap();
                sound(&db, &format!("{context}, compacting"));
            }
        }
        let tx = db.read().unwrap();
        compare(&tx, &model, &mut random, &context);
        match random.chance(20) {
            true => readers.push((tx, model.clone())),
            false => drop(tx),
        }
        for (tx, then) in &readers {
            assert_eq!(&contents(tx), then, "{context}: an older snapshot changed");
        }
        if random.chance(30) && !readers.is_empty() {
            readers.swap_remove(random.below(readers.len()));
        }
        if random.chance(10) {
            readers.clear();
            if random.chance(50) {
                db.close().unwrap();
            }
            drop(db);
            db = open();
            sound(&db, &format!("{context}, reopened"));
            assert_eq!(contents(&db.read().unwrap()), model, "{context}: reopened");
        }
    }
    assert!(db.size_in_use() <= db.size() && db.size() <= db.file_len());
}

#[test]
fn a_database_behaves_as_a_map_of_maps() {
    for seed in 0..6 {
        let page_size = [512, 4096, 1024, 16384][seed as usize % 4];
        run(seed, 15, page_size, if seed % 3 == 0 { 0 } else { 16 });
    }
}

#[test]
fn appended_batches_fill_their_pages() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(RealDisk, &dir.path().join("db"), Options::default()).unwrap();
    let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut bytes = 0;
    for batch in 0u64..40 {
        let mut tx = db.write().unwrap();
        tx.create_bucket(b"key").unwrap();
        tx.set_fill_percent(b"key", 0.9).unwrap();
        for i in 0..500 {
            let key = [&(batch * 500 + i).to_be_bytes()[..], b"_", &0u64.to_be_bytes()].concat();
            let value = vec![b'x'; 200];
            bytes += key.len() + value.len() + 16;
            tx.put(b"key", &key, &value).unwrap();
            model.insert(key.into(), value.into());
        }
        tx.commit().unwrap();
        sound(&db, "appending");
    }
    let tx = db.read().unwrap();
    assert_eq!(contents(&tx)[&b"key"[..]], model);
    assert!(
        db.size_in_use() < bytes as u64 * 5 / 4,
        "{} for {bytes} bytes",
        db.size_in_use()
    );
}
