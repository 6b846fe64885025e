//! A backend equals a plain map, whatever is active, frozen or in the file (H21).

use std::collections::BTreeMap;

use disk::RealDisk;

use super::*;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

type Model = BTreeMap<(Bucket, Vec<u8>), Vec<u8>>;

fn check(read: &Reader<RealDisk>, model: &Model, rng: &mut Rng) {
    for bucket in [Bucket::Key, Bucket::Lease, Bucket::Test] {
        let all: Vec<_> = model
            .iter()
            .filter(|((b, _), _)| *b == bucket)
            .map(|((_, k), v)| (Bytes::from(k.clone()), Bytes::from(v.clone())))
            .collect();
        assert_eq!(read.scan(bucket, b"", None, 0).unwrap(), all, "{bucket:?}");
        let from = vec![b'a' + rng.below(26) as u8];
        let to = vec![b'a' + rng.below(26) as u8, b'm'];
        let limit = rng.below(6) as usize;
        let mut some: Vec<_> = all
            .iter()
            .filter(|(k, _)| k.as_ref() >= from.as_slice() && k.as_ref() < to.as_slice())
            .cloned()
            .collect();
        if limit > 0 {
            some.truncate(limit);
        }
        assert_eq!(read.scan(bucket, &from, Some(&to), limit).unwrap(), some);
        let mut wanted: Vec<_> = (0..rng.below(60))
            .map(|_| vec![b'a' + rng.below(26) as u8, b'a' + rng.below(5) as u8])
            .collect();
        wanted.sort();
        let one_by_one: Vec<_> = wanted
            .iter()
            .map(|key| model.get(&(bucket, key.clone())).cloned())
            .collect();
        let at_once = read.snapshot(bucket).get_ascending(&wanted).unwrap();
        assert_eq!(
            at_once.into_iter().map(|v| v.map(|v| v.to_vec())).collect::<Vec<_>>(),
            one_by_one
        );
    }
}

#[test]
fn equals_a_plain_map_through_freezes_commits_and_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut backend = Backend::open(RealDisk, &path, Options::default()).unwrap();
    let mut rng = Rng(0xDEAD_BEEF);
    let mut model = Model::new();
    let mut under_way = None;
    let mut kept = Vec::new();
    for round in 0..3000 {
        let bucket = [Bucket::Key, Bucket::Lease, Bucket::Test][rng.below(3) as usize];
        let key = vec![b'a' + rng.below(26) as u8, b'a' + rng.below(4) as u8];
        if rng.below(3) == 0 {
            backend.delete(bucket, key.clone().into());
            model.remove(&(bucket, key));
        } else {
            let value = vec![b'v'; rng.below(40) as usize];
            backend.put(bucket, key.clone().into(), value.clone().into());
            model.insert((bucket, key), value);
        }
        match rng.below(40) {
            0 => {
                if let Some(job) = backend.freeze() {
                    under_way = Some(job);
                }
            }
            1 => {
                if let Some(job) = under_way.take() {
                    // The job runs while the active table moves on.
                    let committed = job.run().unwrap();
                    backend.finish(committed);
                }
            }
            2 => check(&backend.reader(), &model, &mut rng),
            3 => kept.push((backend.reader().snapshot(Bucket::Key), model.clone())),
            _ => {}
        }
        if round % 500 == 499 {
            if let Some(job) = under_way.take() {
                backend.finish(job.run().unwrap());
            }
            backend.commit().unwrap();
            for (snapshot, model) in kept.drain(..) {
                let seen: Vec<_> = snapshot
                    .scan(b"", None, 0)
                    .unwrap()
                    .into_iter()
                    .map(|(k, _)| k.to_vec())
                    .collect();
                let then: Vec<_> = model
                    .keys()
                    .filter(|(b, _)| *b == Bucket::Key)
                    .map(|(_, k)| k.clone())
                    .collect();
                assert_eq!(seen, then, "a snapshot moved");
            }
            drop(backend);
            backend = Backend::open(RealDisk, &path, Options::default()).unwrap();
            check(&backend.reader(), &model, &mut rng);
        }
    }
}

#[test]
fn what_is_lost_in_a_crash_is_a_suffix_cut_at_a_freeze() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut backend = Backend::open(RealDisk, &path, Options::default()).unwrap();
    backend.put(Bucket::Key, "a".into(), "1".into());
    backend.put(Bucket::Meta, "index".into(), "1".into());
    let job = backend.freeze().unwrap();
    assert!(backend.is_committing());
    backend.put(Bucket::Key, "a".into(), "2".into());
    backend.put(Bucket::Meta, "index".into(), "2".into());
    assert!(backend.freeze().is_none(), "one table at a time");
    assert_eq!(backend.get(Bucket::Key, b"a").unwrap().unwrap(), "2");
    let committed = job.run().unwrap();
    backend.finish(committed);
    assert_eq!(backend.pending_ops(), 2);
    drop(backend);
    let backend = Backend::open(RealDisk, &path, Options::default()).unwrap();
    assert_eq!(backend.get(Bucket::Key, b"a").unwrap().unwrap(), "1");
    assert_eq!(backend.get(Bucket::Meta, b"index").unwrap().unwrap(), "1");
}

#[test]
fn a_fresh_file_has_etcds_buckets() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::open(RealDisk, &dir.path().join("db"), Options::default()).unwrap();
    let file = backend.snapshot();
    for bucket in Bucket::ALWAYS {
        assert!(file.bucket(bucket.name()).unwrap().is_some(), "{bucket:?}");
    }
    assert!(file.bucket(Bucket::Test.name()).unwrap().is_none());
}

#[test]
fn a_commit_falls_due_by_writes_and_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        batch_ops_max: 3,
        batch_bytes_max: 100,
        ..Options::default()
    };
    let mut backend = Backend::open(RealDisk, &dir.path().join("db"), options).unwrap();
    for key in ["a", "b"] {
        backend.put(Bucket::Key, key.into(), "v".into());
        assert!(!backend.commit_due());
    }
    backend.delete(Bucket::Key, "a".into());
    assert!(backend.commit_due());
    backend.commit().unwrap();
    assert!(!backend.commit_due());
    backend.put(Bucket::Key, "c".into(), vec![0; 100].into());
    assert!(backend.commit_due());
}
