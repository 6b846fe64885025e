//! The image of a snapshot is a sound database with the snapshot's contents, whatever is committed while it is read.

mod support;

use bolt::{Db, Options};
use disk::RealDisk;
use support::{Model, Random, change, contents};

#[test]
fn an_image_is_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(RealDisk, &dir.path().join("db"), Options::default()).unwrap();
    let mut random = Random::new(4);
    let mut model = Model::new();
    let mut commit = |model: &mut Model| {
        let mut tx = db.write().unwrap();
        change(&mut random, &mut tx, model, 300);
        tx.commit().unwrap();
    };
    for _ in 0..5 {
        commit(&mut model);
    }
    for chunk_bytes in [1000, 4096, 32 << 10] {
        let tx = db.read().unwrap();
        let then = model.clone();
        let mut stream = tx.stream(chunk_bytes);
        assert_eq!(stream.remaining(), tx.size());
        let mut image = Vec::new();
        while let Some(chunk) = stream.next() {
            image.extend_from_slice(&chunk.unwrap());
            assert_eq!(stream.remaining(), tx.size() - image.len() as u64);
            if image.len() % (64 << 10) < chunk_bytes {
                commit(&mut model);
            }
        }
        let path = dir.path().join(format!("image-{chunk_bytes}"));
        std::fs::write(&path, &image).unwrap();
        let copy = Db::open(
            RealDisk,
            &path,
            Options {
                read_only: true,
                ..Options::default()
            },
        )
        .unwrap();
        assert_eq!(contents(&copy.read().unwrap()), then);
        assert_eq!(bolt::check(&copy.read().unwrap()), []);
        assert!(matches!(copy.write(), Err(bolt::Error::ReadOnly)));
    }
}
