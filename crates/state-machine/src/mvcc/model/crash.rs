//! The power fails between and within any two calls to the disk; what is there afterwards is the state at one consistent index.
//!
//! H02 (etcd #13766): index and data are one transaction. H27: the revision never falls.

use disk::{Disk, MemoryDisk};

use super::*;
use crate::schema::{Bucket, CONSISTENT_INDEX, decode_u64, encode_u64};

/// What the store was after a log entry.
#[derive(Debug, Clone, PartialEq)]
struct State {
    revision: i64,
    compacted: i64,
    kvs: Vec<KeyValue>,
}

fn state_of(store: &Store<MemoryDisk>) -> State {
    let kvs = store.reader().range(&everything()).unwrap().kvs;
    State {
        revision: store.current_revision(),
        compacted: store.compact_revision(),
        kvs,
    }
}

fn open_on(disk: &MemoryDisk, path: &Path) -> (Backend<MemoryDisk>, Store<MemoryDisk>) {
    let backend = Backend::open(disk.clone(), path, Options::default()).unwrap();
    let (store, _) = Store::open(&backend).unwrap();
    (backend, store)
}

#[test]
fn after_a_power_cut_the_store_is_as_it_was_at_one_index_not_before_the_last_commit() {
    let (mut cuts, mut behind) = (0, 0);
    for seed in 1..=25u64 {
        let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let disk = MemoryDisk::new(seed);
        let dir = Path::new("/data");
        disk.create_dir_all(dir).unwrap();
        let path = dir.join("db");
        let (mut backend, mut store) = open_on(&disk, &path);
        // The state after each entry; the index is the place.
        let mut states = vec![state_of(&store)];
        for _ in 0..6 {
            disk.cut_power_at(disk.operations() + rng.below(120));
            let mut safe = states.len() - 1;
            let mut frozen = safe;
            while !disk.is_off() {
                if rng.chance(12) {
                    let at = store.current_revision() - rng.below(4) as i64;
                    let _ = store.compact(&mut backend, at);
                } else {
                    let mut write = store.write(&mut backend);
                    for _ in 0..rng.below(4) {
                        let key = rng.key();
                        match rng.chance(3) {
                            true => drop(write.delete_range(Span::Key(&key))),
                            false => drop(write.put(key, vec![b'v'; rng.below(300) as usize].into(), 0)),
                        }
                    }
                    write.end();
                }
                states.push(state_of(&store));
                if rng.chance(2) {
                    // Reads the file, so it may find it gone.
                    let _ = store.compact_step(&mut backend, 5);
                }
                if rng.chance(4) {
                    let index = states.len() - 1;
                    backend.put(
                        Bucket::Meta,
                        Bytes::from_static(CONSISTENT_INDEX),
                        encode_u64(index as u64),
                    );
                    let Some(job) = backend.freeze() else { continue };
                    frozen = index;
                    let Ok(committed) = job.run() else { break };
                    backend.finish(committed);
                    safe = index;
                }
            }
            cuts += 1;
            drop((backend, store));
            disk.crash();
            (backend, store) = open_on(&disk, &path);
            let index = backend.get(Bucket::Meta, CONSISTENT_INDEX).unwrap();
            let index = index.map_or(0, |bytes| decode_u64(&bytes).unwrap() as usize);
            assert!(
                index == safe || index == frozen,
                "seed {seed}: {index} is neither {safe} nor {frozen}"
            );
            behind += usize::from(index < states.len() - 1);
            assert_eq!(
                state_of(&store),
                states[index],
                "seed {seed}: not the state at index {index}"
            );
            // The log would be replayed from here.
            states.truncate(index + 1);
        }
        while store.is_compacting() {
            store.compact_step(&mut backend, 100).unwrap();
        }
        assert_eq!(
            state_of(&store),
            *states.last().unwrap(),
            "seed {seed}: the resumed compaction took too much"
        );
    }
    assert!(behind > cuts / 4, "only {behind} of {cuts} cuts lost anything");
}
