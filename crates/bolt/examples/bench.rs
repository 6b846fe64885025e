//! dev
use bolt::{Db, Options};
use disk::RealDisk;
use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let path = std::path::Path::new(&args[1]);
    let batches: u64 = args[2].parse().unwrap();
    let per: u64 = args[3].parse().unwrap();
    let vlen: usize = args[4].parse().unwrap();
    let max: u64 = args[5].parse().unwrap();
    let t = Instant::now();
    let db = Db::open(
        RealDisk,
        path,
        Options {
            freelist_pages_max: max,
            ..Options::default()
        },
    )
    .unwrap();
    println!("open {:?}", t.elapsed());
    let t = Instant::now();
    let mut prep = std::time::Duration::ZERO;
    let mut commit = std::time::Duration::ZERO;
    for b in 0..batches {
        let t0 = Instant::now();
        let mut tx = db.write().unwrap();
        tx.create_bucket(b"key").unwrap();
        tx.create_bucket(b"meta").unwrap();
        tx.set_fill_percent(b"key", 0.9).unwrap();
        for i in 0..per {
            let k = [&(b * per + i).to_be_bytes()[..], b"_", &0u64.to_be_bytes()].concat();
            tx.put(b"key", &k, &vec![(i % 251) as u8; vlen]).unwrap();
        }
        tx.put(b"meta", b"consistent_index", &b.to_be_bytes()).unwrap();
        prep += t0.elapsed();
        let t0 = Instant::now();
        tx.commit().unwrap();
        commit += t0.elapsed();
    }
    let el = t.elapsed();
    println!(
        "write {el:?} {:.0} puts/s; prep {prep:?} commit {commit:?} ({:?} per commit)",
        (batches * per) as f64 / el.as_secs_f64(),
        commit / batches as u32
    );
    println!("size {} in use {} file {}", db.size(), db.size_in_use(), db.file_len());
    let t = Instant::now();
    let tx = db.read().unwrap();
    let b = tx.bucket(b"key").unwrap().unwrap();
    let mut c = b.cursor();
    let mut n = 0u64;
    let mut it = c.first().unwrap();
    while it.is_some() {
        n += 1;
        it = c.next().unwrap();
    }
    println!("scan {n} in {:?}", t.elapsed());
    let t = Instant::now();
    let mut x = 12345u64;
    for _ in 0..200_000 {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let k = [&((x >> 33) % n).to_be_bytes()[..], b"_", &0u64.to_be_bytes()].concat();
        assert!(b.get(&k).unwrap().is_some());
    }
    println!("200k random gets {:?}", t.elapsed());
    drop(tx);
    // delete three quarters in mvcc-compaction style batches
    let t = Instant::now();
    let mut txs = 0;
    for from in (0..n).step_by(1000) {
        let mut tx = db.write().unwrap();
        for i in (from..(from + 1000).min(n)).filter(|i| i % 4 != 0) {
            let k = [&i.to_be_bytes()[..], b"_", &0u64.to_be_bytes()].concat();
            tx.delete(b"key", &k).unwrap();
        }
        tx.commit().unwrap();
        txs += 1;
    }
    println!(
        "deleted in {txs} txs {:?}; size {} in use {}",
        t.elapsed(),
        db.size(),
        db.size_in_use()
    );
    let t = Instant::now();
    let mut steps = 0;
    let mut worst = std::time::Duration::ZERO;
    loop {
        let t0 = Instant::now();
        let p = db.compact_step(1000).unwrap();
        worst = worst.max(t0.elapsed());
        steps += 1;
        if p.done {
            break;
        }
    }
    println!(
        "compacted in {steps} steps {:?} worst {worst:?}; size {} in use {} file {}",
        t.elapsed(),
        db.size(),
        db.size_in_use(),
        db.file_len()
    );
    drop(db);
    let t = Instant::now();
    let db = Db::open(RealDisk, path, Options::default()).unwrap();
    println!("reopen {:?}", t.elapsed());
    let t = Instant::now();
    println!("check {} {:?}", db.check().len(), t.elapsed());
}
