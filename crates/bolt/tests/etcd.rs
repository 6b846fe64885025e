//! Real etcd and its tools work on our files, and we on theirs. Skipped unless `QUORATE_ETCD_BIN_DIR` names a directory with
//! `etcd`, `etcdctl` and `etcdutl`.

mod support;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bolt::{Db, Options};
use disk::RealDisk;
use support::{Model, contents, sound};

fn tools() -> Option<PathBuf> {
    let dir = std::env::var_os("QUORATE_ETCD_BIN_DIR").map(PathBuf::from);
    let found = dir.filter(|dir| {
        ["etcd", "etcdctl", "etcdutl"]
            .iter()
            .all(|name| dir.join(name).exists())
    });
    if found.is_none() {
        println!("skipped: QUORATE_ETCD_BIN_DIR names no directory with etcd, etcdctl and etcdutl");
    }
    found
}

fn run(tools: &Path, tool: &str, args: &[&str]) -> String {
    let output = Command::new(tools.join(tool)).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A field of flat JSON.
fn field<'a>(json: &'a str, name: &str) -> &'a str {
    let at = json
        .find(&format!("\"{name}\":"))
        .unwrap_or_else(|| panic!("{name} in {json}"));
    let value = &json[at + name.len() + 3..];
    value[..value.find([',', '}']).unwrap()].trim_matches('"')
}

fn open(path: &Path, options: Options) -> Db<RealDisk> {
    Db::open(RealDisk, path, options).unwrap()
}

fn varint(number: u8, mut value: u64, out: &mut Vec<u8>) {
    out.push(number << 3);
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A stored revision of a key that is written once, as etcd's mvcc stores it.
fn revision(main: u64, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let name = format!("key-{main}");
    let mut record = vec![0x0a, name.len() as u8];
    record.extend(name.as_bytes());
    varint(2, main, &mut record);
    varint(3, main, &mut record);
    varint(4, 1, &mut record);
    record.push(0x2a);
    let mut len = Vec::new();
    varint(0, value.len() as u64, &mut len);
    record.extend(&len[1..]);
    record.extend(value);
    ([&main.to_be_bytes()[..], b"_", &0u64.to_be_bytes()].concat(), record)
}

const BUCKETS: [&[u8]; 10] = [
    b"alarm",
    b"auth",
    b"authRoles",
    b"authUsers",
    b"cluster",
    b"key",
    b"lease",
    b"members",
    b"members_removed",
    b"meta",
];

fn fill(db: &Db<RealDisk>, revisions: std::ops::Range<u64>) {
    let mut tx = db.write().unwrap();
    for name in BUCKETS {
        tx.create_bucket(name).unwrap();
    }
    tx.set_fill_percent(b"key", 0.9).unwrap();
    for main in revisions.clone() {
        let (key, record) = revision(main, &vec![b'v'; main as usize * 37 % 5000]);
        tx.put(b"key", &key, &record).unwrap();
    }
    tx.put(b"meta", b"consistent_index", &revisions.end.to_be_bytes())
        .unwrap();
    tx.put(b"meta", b"term", &1u64.to_be_bytes()).unwrap();
    tx.put(b"meta", b"storageVersion", b"3.7.0").unwrap();
    tx.put(b"meta", b"confState", br#"{"voters":[1],"auto_leave":false}"#)
        .unwrap();
    tx.commit().unwrap();
}

#[test]
fn etcdutl_reads_what_we_write() {
    let Some(tools) = tools() else { return };
    for freelist_pages_max in [0, 64] {
        let dir = tempfile::tempdir().unwrap();
        let snap = dir.path().join("member/snap");
        std::fs::create_dir_all(&snap).unwrap();
        let path = snap.join("db");
        let options = Options {
            freelist_pages_max,
            ..Options::default()
        };
        let db = open(&path, options.clone());
        for batch in 0..20 {
            fill(&db, 2 + batch * 100..102 + batch * 100);
        }
        drop(db);
        let file = path.to_str().unwrap();
        let status = || run(&tools, "etcdutl", &["snapshot", "status", file, "-w", "json"]);
        let hash_kv = || run(&tools, "etcdutl", &["hashkv", file, "-w", "json"]);
        let before = (status(), hash_kv());
        assert_eq!(field(&before.0, "revision"), "2001");
        assert_eq!(field(&before.0, "totalKey"), "2000");

        // Deleted and written again, then compacted: the same contents, the same hashes.
        let db = open(&path, options.clone());
        let mut tx = db.write().unwrap();
        for main in 2..1500 {
            tx.delete(b"key", &revision(main, b"").0).unwrap();
        }
        tx.commit().unwrap();
        for batch in 0..20 {
            fill(&db, 2 + batch * 100..102 + batch * 100);
        }
        while !db.compact_step(200).unwrap().done {}
        sound(&db, "compacted");
        assert_eq!(db.file_len(), std::fs::metadata(&path).unwrap().len());
        let wanted = contents(&db.read().unwrap());
        drop(db);
        let after = (status(), hash_kv());
        assert_eq!(field(&after.0, "hash"), field(&before.0, "hash"));
        assert_eq!(after.1, before.1);

        // Its own defragmentation accepts the file, and we the result.
        run(
            &tools,
            "etcdutl",
            &["defrag", "--data-dir", dir.path().to_str().unwrap()],
        );
        let db = open(&path, options);
        sound(&db, "defragmented by etcdutl");
        assert_eq!(contents(&db.read().unwrap()), wanted);
    }
}

struct Etcd {
    child: Child,
    endpoint: String,
}

impl Etcd {
    fn start(tools: &Path, data: &Path) -> Etcd {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let endpoint = format!("http://127.0.0.1:{}", port());
        let peer = format!("http://127.0.0.1:{}", port());
        let child = Command::new(tools.join("etcd"))
            .arg("--data-dir")
            .arg(data)
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let etcd = Etcd { child, endpoint };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !Command::new(tools.join("etcdctl"))
            .args(["--endpoints", &etcd.endpoint, "endpoint", "health"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
        {
            assert!(Instant::now() < deadline, "etcd does not become healthy");
            std::thread::sleep(Duration::from_millis(100));
        }
        etcd
    }

    fn ctl(&self, tools: &Path, args: &[&str]) -> String {
        run(tools, "etcdctl", &[&["--endpoints", &self.endpoint][..], args].concat())
    }

    /// Stops it properly, so that its last batch is in the file.
    fn stop(mut self) {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn we_and_etcd_take_turns_on_one_file() {
    let Some(tools) = tools() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("member/snap/db");
    let mut wanted = BTreeMap::new();
    for turn in 0..3 {
        let etcd = Etcd::start(&tools, dir.path());
        for i in 0..30 {
            let (key, value) = (format!("{turn}/{i}"), "v".repeat(1 + i * 300 % 7000));
            etcd.ctl(&tools, &["put", &key, &value]);
            wanted.insert(key, value);
        }
        etcd.ctl(&tools, &["del", &format!("{turn}/7")]);
        wanted.remove(&format!("{turn}/7"));
        let count = etcd.ctl(&tools, &["get", "", "--prefix", "--count-only", "-w", "fields"]);
        assert!(count.contains(&format!("\"Count\" : {}", wanted.len())), "{count}");
        if turn == 1 {
            etcd.ctl(&tools, &["compact", "50"]);
            std::thread::sleep(Duration::from_millis(300));
        }
        etcd.stop();

        let db = open(&path, Options::default());
        sound(&db, "written by etcd");
        let found: Model = contents(&db.read().unwrap());
        assert_eq!(found.keys().map(|name| &name[..]).collect::<Vec<_>>(), BUCKETS);
        let values: Vec<_> = found[&b"key"[..]].values().collect();
        for (key, value) in &wanted {
            let holds = |record: &&bytes::Bytes| {
                record.windows(key.len()).any(|part| part == key.as_bytes()) && record.ends_with(value.as_bytes())
            };
            assert!(values.iter().copied().any(|record| holds(&record)), "{key}");
        }
        // Everything is moved about and rewritten; etcd must not notice.
        let mut tx = db.write().unwrap();
        tx.create_bucket(b"test").unwrap();
        for i in 0..500u32 {
            tx.put(b"test", &i.to_be_bytes(), &[1; 300]).unwrap();
        }
        tx.commit().unwrap();
        let mut tx = db.write().unwrap();
        tx.delete_bucket(b"test").unwrap();
        tx.commit().unwrap();
        while !db.compact_step(100).unwrap().done {}
        sound(&db, "after our turn");
        assert_eq!(contents(&db.read().unwrap()), found);
    }
    let etcd = Etcd::start(&tools, dir.path());
    for (key, value) in &wanted {
        assert_eq!(
            etcd.ctl(&tools, &["get", key, "--print-value-only"]).trim_end(),
            value,
            "{key}"
        );
    }
    etcd.ctl(&tools, &["defrag"]);
    etcd.stop();
    sound(&open(&path, Options::default()), "defragmented by etcd");
}
