//! Power cuts and errors at every single operation of a workload: what was committed is there, what was not is not, and the
//! database can be used on.

mod support;

use std::io;
use std::path::Path;

use bolt::{Db, Error, Options};
use disk::{Disk, MemoryDisk};
use support::{Model, Random, change, contents};

const COMMITS: usize = 6;

fn options() -> Options {
    Options {
        growth_bytes: 256 << 10,
        page_size: 1024,
        ..Options::default()
    }
}

fn path() -> &'static Path {
    Path::new("/member/snap/db")
}

fn disk(seed: u64) -> MemoryDisk {
    let disk = MemoryDisk::new(seed);
    disk.create_dir_all(Path::new("/member/snap")).unwrap();
    for dir in ["/", "/member"] {
        disk.sync_dir(Path::new(dir)).unwrap();
    }
    disk
}

/// What a workload reached before it failed.
struct Outcome {
    /// What the last successful commit left.
    committed: Model,
    /// What the failed commit would have left.
    attempted: Model,
    error: Option<Error>,
}

/// The same commits for the same seed, until one fails.
fn workload(disk: &MemoryDisk, seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let mut outcome = Outcome {
        committed: Model::new(),
        attempted: Model::new(),
        error: None,
    };
    let mut run = |outcome: &mut Outcome| -> Result<(), Error> {
        let mut db = Db::open(disk.clone(), path(), options())?;
        for commit in 0..COMMITS {
            let mut tx = db.write()?;
            change(&mut random, &mut tx, &mut outcome.attempted, 60);
            tx.commit()?;
            outcome.committed = outcome.attempted.clone();
            if commit == COMMITS / 2 {
                db.close()?;
                drop(db);
                db = Db::open(disk.clone(), path(), options())?;
            }
        }
        for _ in 0..4 {
            if db.compact_step(20)?.done {
                break;
            }
        }
        while !db.compact_step(1000)?.done {}
        db.close()
    };
    outcome.error = run(&mut outcome).err();
    outcome
}

/// Opens what a crash left, compares, and commits once more.
fn recover(disk: &MemoryDisk, outcome: &Outcome, context: &str) {
    let db = Db::open(disk.clone(), path(), options()).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(db.check(), [], "{context}");
    let found = contents(&db.read().unwrap());
    assert!(
        found == outcome.committed || found == outcome.attempted,
        "{context}: neither before nor after"
    );
    let mut tx = db.write().unwrap();
    tx.create_bucket(b"after").unwrap();
    for i in 0..200u32 {
        tx.put(b"after", &i.to_be_bytes(), &[1; 50]).unwrap();
    }
    tx.commit().unwrap();
    assert_eq!(db.check(), [], "{context}, after another commit");
    let mut wanted = found;
    wanted.insert(
        "after".into(),
        (0..200u32)
            .map(|i| (i.to_be_bytes().to_vec().into(), vec![1; 50].into()))
            .collect(),
    );
    drop(db);
    let db = Db::open(disk.clone(), path(), options()).unwrap();
    assert_eq!(contents(&db.read().unwrap()), wanted, "{context}, after another commit");
}

#[test]
fn power_may_fail_at_any_operation() {
    for seed in 0..2 {
        let whole = disk(seed);
        let before = whole.operations();
        assert!(workload(&whole, seed).error.is_none());
        let operations = before..whole.operations();
        assert!(operations.clone().count() > COMMITS * 4);
        for operation in operations {
            let disk = disk(seed * 1000 + operation);
            disk.cut_power_at(operation);
            let outcome = workload(&disk, seed);
            assert!(outcome.error.is_some() && disk.is_off());
            for crash in 0..4 {
                let fork = disk.fork(crash);
                fork.crash();
                recover(
                    &fork,
                    &outcome,
                    &format!("seed {seed}, operation {operation}, crash {crash}"),
                );
            }
        }
    }
}

#[test]
fn an_error_of_any_operation_leaves_the_old_state_or_poisons() {
    let seed = 7;
    let whole = disk(seed);
    let before = whole.operations();
    workload(&whole, seed);
    let (mut clean, mut poisoned) = (0, 0);
    for operation in before..whole.operations() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            let context = format!("operation {operation}: {kind:?}");
            let disk = disk(seed);
            let mut random = Random::new(seed);
            disk.fail_at(operation, kind);
            let Ok(db) = Db::open(disk.clone(), path(), options()) else {
                continue;
            };
            let mut model = Model::new();
            let mut failed = None;
            for _ in 0..COMMITS {
                let mut attempt = model.clone();
                let mut tx = db.write().unwrap();
                change(&mut random, &mut tx, &mut attempt, 60);
                match tx.commit() {
                    Ok(()) => model = attempt,
                    Err(error) => {
                        failed = Some((error, attempt));
                        break;
                    }
                }
            }
            // The workload of the count closes and opens in between; here some operations come later than the last commit.
            let Some((error, attempt)) = failed else { continue };
            assert_eq!(contents(&db.read().unwrap()), model, "{context}: {error}");
            let next = db.write();
            match next {
                Ok(mut tx) => {
                    clean += 1;
                    assert_eq!(
                        error.is_no_space(),
                        kind == io::ErrorKind::StorageFull,
                        "{context}: {error}"
                    );
                    change(&mut random, &mut tx, &mut model, 60);
                    tx.commit().unwrap();
                    assert_eq!(db.check(), [], "{context}");
                    assert_eq!(contents(&db.read().unwrap()), model, "{context}");
                }
                Err(Error::Poisoned { .. }) => {
                    poisoned += 1;
                    assert!(
                        matches!(db.write(), Err(Error::Poisoned { .. })),
                        "{context}: poisoned for good"
                    );
                    assert!(!error.is_no_space());
                    disk.crash();
                    let outcome = Outcome {
                        committed: model,
                        attempted: attempt,
                        error: None,
                    };
                    recover(&disk, &outcome, &context);
                }
                Err(other) => panic!("{context}: {other}"),
            }
        }
    }
    assert!(clean > 10 && poisoned > 10, "clean {clean}, poisoned {poisoned}");
}

#[test]
fn a_full_disk_is_an_error_and_space_is_used_when_it_comes() {
    let disk = disk(1);
    disk.set_capacity(Some(1 << 20));
    let db = Db::open(disk.clone(), path(), options()).unwrap();
    let mut written = 0u32;
    let put = |n: u32| -> Result<(), Error> {
        let mut tx = db.write()?;
        tx.create_bucket(b"key")?;
        for i in n..n + 50 {
            tx.put(b"key", &i.to_be_bytes(), &[3; 400])?;
        }
        tx.commit()
    };
    let error = loop {
        match put(written) {
            Ok(()) => written += 50,
            Err(error) => break error,
        }
    };
    assert!(error.is_no_space(), "{error}");
    assert!(
        db.size() > (1 << 20) * 8 / 10,
        "the disk was used well before: {}",
        db.size()
    );
    for _ in 0..3 {
        assert!(put(written).unwrap_err().is_no_space());
    }
    assert_eq!(db.check(), []);
    assert_eq!(contents(&db.read().unwrap())[&b"key"[..]].len(), written as usize);
    disk.set_capacity(None);
    put(written).unwrap();
    assert_eq!(db.check(), []);
}

#[test]
fn a_decayed_meta_page_gives_way_to_the_other_one() {
    let disk = disk(1);
    let db = Db::open(disk.clone(), path(), options()).unwrap();
    let commit = |value: &[u8]| {
        let mut tx = db.write().unwrap();
        tx.create_bucket(b"b").unwrap();
        tx.put(b"b", b"k", value).unwrap();
        tx.commit().unwrap();
    };
    commit(b"old");
    commit(b"new");
    let newest = db.read().unwrap().txid();
    drop(db);
    disk.decay(path(), (newest % 2) * 1024 + 40, 1).unwrap();
    let get = || {
        let db = Db::open(disk.clone(), path(), options())?;
        let tx = db.read()?;
        tx.bucket(b"b")?.unwrap().get(b"k")
    };
    assert_eq!(get().unwrap().unwrap(), &b"old"[..]);
    disk.decay(path(), ((newest + 1) % 2) * 1024 + 40, 1).unwrap();
    let error = get().unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}
