//! Damaged files: opening, checking, reading and writing them ends, in an answer or an error, and never in a panic.

mod support;

use std::path::Path;

use bolt::{Db, Error, Options};
use disk::MemoryDisk;
use support::{Model, Random, contents, read_file, write_file};

const PAGE: usize = 512;

fn options() -> Options {
    Options {
        page_size: PAGE,
        growth_bytes: 0,
        ..Options::default()
    }
}

fn path() -> &'static Path {
    Path::new("/db")
}

/// A small file with everything in it: inline buckets, leaves, two levels of branches, overflow pages, a stored freelist.
fn sample(freelist_pages_max: u64) -> Vec<u8> {
    let disk = MemoryDisk::new(1);
    let options = Options {
        freelist_pages_max,
        ..options()
    };
    let db = Db::open(disk.clone(), path(), options).unwrap();
    for round in 0..4u32 {
        let mut tx = db.write().unwrap();
        for name in [&b"key"[..], b"lease", b"meta"] {
            tx.create_bucket(name).unwrap();
        }
        for i in 0..120u32 {
            let len = if i % 70 == 0 { 2000 } else { 30 };
            tx.put(b"key", format!("{:08}", i * 4 + round).as_bytes(), &vec![7; len])
                .unwrap();
        }
        for i in 0..20u32 {
            tx.put(b"lease", &i.to_be_bytes(), &[1; 20]).unwrap();
        }
        tx.put(b"meta", b"consistent_index", &round.to_be_bytes()).unwrap();
        tx.commit().unwrap();
    }
    assert_eq!(db.check(), []);
    read_file(&disk, path())
}

fn disk_with(data: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new(1);
    write_file(&disk, path(), data);
    disk
}

/// Reads everything, both ways, and stops at the first error.
fn read_all(db: &Db<MemoryDisk>, size: usize) -> Result<(), Error> {
    let tx = db.read()?;
    for name in tx.buckets()? {
        let Some(bucket) = tx.bucket(&name)? else { continue };
        bucket.buckets()?;
        let mut cursor = bucket.cursor();
        let mut item = cursor.first()?;
        let mut items = 0;
        while let Some((key, value)) = item {
            items += 1;
            assert!(items < size, "more items than bytes");
            assert!(key.len() + value.len() <= size);
            bucket.get(&key)?;
            item = cursor.next()?;
        }
        item = cursor.last()?;
        while item.is_some() {
            item = cursor.prev()?;
        }
        cursor.seek(b"00000500")?;
    }
    Ok(())
}

fn write_some(db: &Db<MemoryDisk>) -> Result<(), Error> {
    let mut tx = db.write()?;
    tx.create_bucket(b"key")?;
    for i in (0..480u32).step_by(7) {
        tx.delete(b"key", format!("{i:08}").as_bytes())?;
        tx.put(b"key", format!("{:08}", i + 3).as_bytes(), b"new")?;
    }
    tx.create_bucket(b"lease")?;
    tx.delete_bucket(b"lease")?;
    tx.commit()?;
    while !db.compact_step(50)?.done {}
    db.close()
}

/// How many of: unreadable at all, damage found, no damage found.
fn torture(seed: u64, rounds: usize, damage: impl Fn(&mut Random, &mut Vec<u8>)) -> [usize; 3] {
    let samples = [sample(0), sample(16)];
    let mut random = Random::new(seed);
    let mut outcome = [0; 3];
    for round in 0..rounds {
        let mut data = samples[round % 2].clone();
        damage(&mut random, &mut data);
        let disk = disk_with(&data);
        let Ok(db) = Db::open(disk, path(), options()) else {
            outcome[0] += 1;
            continue;
        };
        let problems = db.check();
        let read = read_all(&db, data.len());
        if let Err(error) = &read {
            assert!(!problems.is_empty(), "round {round}: the check missed {error}");
        }
        outcome[if problems.is_empty() { 2 } else { 1 }] += 1;
        let _ = write_some(&db);
        let _ = read_all(&db, data.len() * 4);
        db.check();
        for chunk in db.read().unwrap().stream(4096) {
            chunk.unwrap();
        }
    }
    outcome
}

#[test]
fn flipped_bytes_are_errors() {
    let outcome = torture(1, 200, |random, data| {
        for _ in 0..1 + random.below(4) {
            let at = random.below(data.len());
            data[at] ^= 1 << random.below(8);
        }
    });
    assert!(outcome[1] > 20, "{outcome:?}");
}

#[test]
fn wild_headers_and_elements_are_errors() {
    let outcome = torture(2, 150, |random, data| {
        let page = random.below(data.len() / PAGE) * PAGE;
        let at = page + random.below(8) * 4;
        let wild: u32 = [0, 1, 2, 3, 5, 0xFFFF, 0x1_0000, u32::MAX, random.next() as u32][random.below(9)];
        data[at..at + 4].copy_from_slice(&wild.to_le_bytes());
    });
    assert!(outcome[1] > 20, "{outcome:?}");
}

/// Branches that lead to wrong pages: cycles, shared children, children of other trees.
#[test]
fn wild_references_are_errors() {
    let outcome = torture(3, 120, |random, data| {
        let pages = data.len() / PAGE;
        for _ in 0..200 {
            let page = random.below(pages) * PAGE;
            let count = usize::from(u16::from_le_bytes([data[page + 10], data[page + 11]]));
            if data[page + 8] == 1 && count > 0 && count < 20 {
                let child = page + 16 + random.below(count) * 16 + 8;
                let wild = random.below(pages + 2) as u64;
                data[child..child + 8].copy_from_slice(&wild.to_le_bytes());
            }
        }
    });
    assert!(outcome[0] + outcome[1] > 70, "{outcome:?}");
}

/// Meta pages that lie with a good checksum.
#[test]
fn lying_meta_pages_are_errors() {
    let outcome = torture(4, 120, |random, data| {
        let pages = data.len() / PAGE;
        let field = 16 + 16 + 8 * random.below(5);
        let wild = [
            0,
            1,
            2,
            random.below(pages + 3) as u64,
            u64::MAX,
            u64::MAX / PAGE as u64,
            1 << 40,
        ][random.below(7)];
        for slot in 0..2 {
            let meta = &mut data[slot * PAGE..(slot + 1) * PAGE];
            meta[field..field + 8].copy_from_slice(&wild.to_le_bytes());
            let sum = meta[16..72].iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
            meta[72..80].copy_from_slice(&sum.to_le_bytes());
        }
    });
    assert!(outcome[0] + outcome[1] > 20, "{outcome:?}");
}

#[test]
fn cut_files_are_errors() {
    let outcome = torture(5, 100, |random, data| {
        let keep = random.below(data.len());
        data.truncate(keep);
    });
    assert!(outcome[0] + outcome[1] > 70, "{outcome:?}");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    for data in [&b"hello"[..], &[7; 100_000], &[0; 100_000]] {
        let disk = disk_with(data);
        let error = Db::open(disk.clone(), path(), options()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert_eq!(read_file(&disk, path()), data);
    }
}

#[test]
fn an_undamaged_sample_is_sound() {
    for max in [0, 16] {
        let disk = disk_with(&sample(max));
        let db = Db::open(disk.clone(), path(), options()).unwrap();
        assert!(matches!(Db::open(disk, path(), options()), Err(Error::Locked { .. })));
        assert_eq!(db.check(), []);
        let model: Model = contents(&db.read().unwrap());
        assert_eq!(model[&b"key"[..]].len(), 480);
        write_some(&db).unwrap();
        assert_eq!(db.check(), []);
    }
}
