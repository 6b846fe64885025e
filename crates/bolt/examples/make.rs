//! dev
use bolt::{Db, Options};
use disk::RealDisk;
#[path = "../tests/support/mod.rs"]
mod support;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let path = std::path::Path::new(&args[2]);
    match &args[1][..] {
        "write" => {
            let max = args[4].parse().unwrap();
            let db = Db::open(
                RealDisk,
                path,
                Options {
                    freelist_pages_max: max,
                    ..Options::default()
                },
            )
            .unwrap();
            let mut r = support::Random::new(args[3].parse().unwrap());
            let mut m = support::contents(&db.read().unwrap());
            for _ in 0..30 {
                let mut tx = db.write().unwrap();
                support::change(&mut r, &mut tx, &mut m, 300);
                tx.commit().unwrap();
            }
            assert_eq!(support::contents(&db.read().unwrap()), m);
        }
        "check" => {
            let t = std::time::Instant::now();
            let db = Db::open(RealDisk, path, Options::default()).unwrap();
            println!("open {:?}", t.elapsed());
            for p in db.check() {
                println!("{p}");
            }
            let tx = db.read().unwrap();
            let keys: usize = support::contents(&tx).values().map(|b| b.len()).sum();
            println!(
                "keys {keys} size {} in use {} file {} took {:?}",
                db.size(),
                db.size_in_use(),
                db.file_len(),
                t.elapsed()
            );
        }
        _ => panic!(),
    }
}
