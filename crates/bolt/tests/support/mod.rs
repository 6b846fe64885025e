//! What the tests of this crate share: a seeded generator, a model, random changes.
#![allow(dead_code)] // Each test binary uses its own part.

use std::collections::BTreeMap;
use std::path::Path;

use bolt::{Bucket, Db, ReadTx, WriteTx};
use bytes::Bytes;
use disk::{Disk, File, Open};

/// Bucket -> key -> value.
pub type Model = BTreeMap<Bytes, BTreeMap<Bytes, Bytes>>;

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

pub fn sound<D: disk::Disk>(db: &Db<D>, context: &str) {
    let problems = db.check();
    assert!(
        problems.is_empty(),
        "{context}: {}",
        problems.iter().map(|p| format!("{p}\n")).collect::<String>()
    );
}

pub fn entries<D: Disk>(bucket: &Bucket<'_, D>) -> BTreeMap<Bytes, Bytes> {
    let mut found = BTreeMap::new();
    let mut cursor = bucket.cursor();
    let mut item = cursor.first().unwrap();
    while let Some((key, value)) = item {
        assert!(found.insert(key, value).is_none(), "a key twice");
        item = cursor.next().unwrap();
    }
    found
}

pub fn contents<D: Disk>(tx: &ReadTx<D>) -> Model {
    let names = tx.buckets().unwrap();
    names
        .into_iter()
        .map(|name| (name.clone(), entries(&tx.bucket(&name).unwrap().unwrap())))
        .collect()
}

const BUCKETS: [&[u8]; 4] = [b"key", b"meta", b"lease", b"auth"];

fn key(random: &mut Random) -> Bytes {
    match random.below(20) {
        0 => Bytes::from(vec![b'k'; 1 + random.below(700)]),
        _ => Bytes::from(format!("{:05}", random.below(3000))),
    }
}

fn value(random: &mut Random) -> Bytes {
    let len = match random.below(40) {
        0 => random.below(40_000),
        1..=5 => random.below(1500),
        _ => random.below(60),
    };
    Bytes::from(vec![random.next() as u8; len])
}

/// A random transaction of up to `most` puts per bucket: the same changes to the database and the model.
pub fn change<D: Disk>(random: &mut Random, tx: &mut WriteTx<'_, D>, model: &mut Model, most: usize) {
    for name in BUCKETS {
        if random.chance(3) && model.contains_key(name) {
            tx.delete_bucket(name).unwrap();
            model.remove(name);
        }
        if random.chance(60) {
            tx.create_bucket(name).unwrap();
            model.entry(Bytes::from_static(name)).or_default();
        }
        let Some(entries) = model.get_mut(name) else { continue };
        if random.chance(50) {
            tx.set_fill_percent(name, 0.1 + random.below(10) as f64 / 10.0).unwrap();
        }
        let puts = [0, 1, most / 30, most][random.below(4)];
        for _ in 0..puts {
            let (key, value) = (key(random), value(random));
            tx.put(name, &key, &value).unwrap();
            entries.insert(key, value);
        }
        // Deletes: single keys, and now and then a range or everything.
        for _ in 0..[0, 2, 50][random.below(3)] {
            let key = key(random);
            tx.delete(name, &key).unwrap();
            entries.remove(&key);
        }
        if random.chance(10) {
            let (from, to) = (key(random), key(random));
            let everything = random.chance(20);
            let gone: Vec<Bytes> = entries
                .keys()
                .filter(|key| everything || (**key >= from && **key < to))
                .cloned()
                .collect();
            for key in gone {
                tx.delete(name, &key).unwrap();
                entries.remove(&key);
            }
        }
    }
}

/// Everything in order, and random seeks up and down.
pub fn compare<D: Disk>(tx: &ReadTx<D>, model: &Model, random: &mut Random, context: &str) {
    assert_eq!(&contents(tx), model, "{context}");
    for (name, entries) in model {
        let bucket = tx.bucket(name).unwrap().unwrap();
        for _ in 0..10 {
            let key = key(random);
            assert_eq!(bucket.get(&key).unwrap().as_ref(), entries.get(&key), "{context}: get");
            let pair = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
            let mut cursor = bucket.cursor();
            let mut wanted = entries.range(key.clone()..);
            let mut found = cursor.seek(&key).unwrap();
            for _ in 0..3 {
                assert_eq!(found, wanted.next().map(pair), "{context}: up from {key:?}");
                found = cursor.next().unwrap();
            }
            if cursor.seek(&key).unwrap().is_some() {
                let mut wanted = entries.range(..key.clone()).rev();
                for _ in 0..3 {
                    assert_eq!(
                        cursor.prev().unwrap(),
                        wanted.next().map(pair),
                        "{context}: down from {key:?}"
                    );
                }
            }
            assert_eq!(
                cursor.last().unwrap(),
                entries.last_key_value().map(pair),
                "{context}: last"
            );
        }
    }
}

pub fn write_file<D: Disk>(disk: &D, path: &Path, data: &[u8]) {
    let file = disk.open(path, Open::CreateNew).unwrap();
    file.write_all_at(data, 0).unwrap();
}

pub fn read_file<D: Disk>(disk: &D, path: &Path) -> Vec<u8> {
    let file = disk.open(path, Open::Read).unwrap();
    let mut data = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut data, 0).unwrap();
    data
}
