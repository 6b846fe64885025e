//! The same requests to a real etcd and to this store: the records must be the same bytes, and so must the hashes.
//!
//! Needs etcd, etcdctl and etcdutl in the directory that `QUORATE_ETCD_BIN_DIR` names; skips with a line when it is not set.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use disk::RealDisk;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

use state_machine::backend::{Backend, Options};
use state_machine::mvcc::{Compacted, Span, Store};
use state_machine::schema::{Bucket, FINISHED_COMPACT, SCHEDULED_COMPACT};
use state_machine::txn::{self, Ranges};

/// A xorshift: the same numbers on every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// A real etcd on the loopback, stopped when dropped.
struct Etcd {
    bin: PathBuf,
    child: Child,
    client: String,
    data: PathBuf,
}

impl Etcd {
    /// `None`, with a line on the standard output, where there is no real etcd.
    fn start(dir: &Path) -> Option<Etcd> {
        let Some(bin) = std::env::var_os("QUORATE_ETCD_BIN_DIR").map(PathBuf::from) else {
            println!("skipped: QUORATE_ETCD_BIN_DIR does not name a directory with etcd, etcdctl and etcdutl");
            return None;
        };
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (client, peer) = (
            format!("http://127.0.0.1:{}", port()),
            format!("http://127.0.0.1:{}", port()),
        );
        let data = dir.join("etcd");
        let child = Command::new(bin.join("etcd"))
            .args([
                "--name",
                "a",
                "--data-dir",
                data.to_str().unwrap(),
                "--log-level",
                "error",
            ])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("a={peer}"), "--max-txn-ops", "1000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let etcd = Etcd {
            bin,
            child,
            client,
            data,
        };
        let begin = Instant::now();
        while etcd.try_ctl(&["endpoint", "health"], "").is_none() {
            assert!(begin.elapsed() < Duration::from_secs(30), "etcd does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(etcd)
    }

    fn try_ctl(&self, args: &[&str], stdin: &str) -> Option<String> {
        let mut child = Command::new(self.bin.join("etcdctl"))
            .args(["--endpoints", &self.client])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn ctl(&self, args: &[&str], stdin: &str) -> String {
        self.try_ctl(args, stdin)
            .unwrap_or_else(|| panic!("etcdctl {args:?} failed"))
    }

    /// Stops the server; its database lies still then.
    fn stop(&mut self) -> PathBuf {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let begin = Instant::now();
        while self.child.try_wait().unwrap().is_none() && begin.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.data.join("member/snap/db")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hash, hash revision and compact revision out of the JSON of `hashkv`.
fn hash_in(json: &str) -> (u32, i64, i64) {
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    let one = value
        .get(0)
        .map_or(&value, |first| first.get("HashKV").unwrap_or(first));
    let number = |name: &str| one.get(name).and_then(serde_json::Value::as_i64).unwrap_or(0);
    let revision = if one.get("hash_revision").is_some() {
        "hash_revision"
    } else {
        "hashRevision"
    };
    let compact = if one.get("compact_revision").is_some() {
        "compact_revision"
    } else {
        "compactRevision"
    };
    (number("hash") as u32, number(revision), number(compact))
}

/// A transaction without compares, as a request and as the text that etcdctl reads.
fn random_txn(rng: &mut Rng) -> (TxnRequest, String) {
    let mut request = TxnRequest::default();
    let mut text = String::from("\n");
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..1 + rng.below(40) {
        let n = rng.below(60);
        if !used.insert(n) {
            continue;
        }
        let key = format!("key{n:02}");
        let op = if rng.chance(3) {
            text += &format!("del {key}\n");
            Request::RequestDeleteRange(DeleteRangeRequest {
                key: key.into(),
                ..DeleteRangeRequest::default()
            })
        } else {
            let value = format!("value{}", rng.below(1_000_000));
            text += &format!("put {key} {value}\n");
            Request::RequestPut(PutRequest {
                key: key.into(),
                value: value.into(),
                ..PutRequest::default()
            })
        };
        request.success.push(RequestOp { request: Some(op) });
    }
    (request, text + "\n\n")
}

#[test]
fn records_and_hashes_are_those_of_a_real_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut etcd) = Etcd::start(dir.path()) else {
        return;
    };
    let ours = dir.path().join("ours");
    let mut backend = Backend::open(RealDisk, &ours, Options::default()).unwrap();
    let (mut store, _) = Store::open(&backend).unwrap();
    let reader = store.reader();
    let mut rng = Rng(0xE7CD);
    let mut compared = 0;
    for round in 0..90 {
        let (request, text) = random_txn(&mut rng);
        etcd.ctl(&["txn"], &text);
        let mut write = store.write(&mut backend);
        txn::txn(&mut write, &request, &|_| false, Ranges::Execute).unwrap();
        let current = write.end().revision;
        if rng.chance(12) {
            let at = current - rng.below(8) as i64;
            if at > store.compact_revision().max(1) {
                etcd.ctl(&["compact", "--physical", &at.to_string()], "");
                store.compact(&mut backend, at).unwrap();
                while store.compact_step(&mut backend, 13).unwrap() != Compacted::Nothing {}
            }
        }
        if round % 15 == 14 {
            backend.commit().unwrap();
            let compacted = store.compact_revision();
            for rev in [0, current, current - 3, compacted, compacted + 1] {
                if rev < compacted || rev < 0 || rev > current {
                    continue;
                }
                let theirs = etcd.ctl(&["endpoint", "hashkv", "--rev", &rev.to_string(), "-w", "json"], "");
                let hash = reader.hash_kv(rev).unwrap().0;
                assert_eq!(
                    (hash.hash, hash.revision, hash.compact_revision),
                    hash_in(&theirs),
                    "at {rev}: {theirs}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared >= 20, "only {compared} hashes compared");
    assert!(store.compact_revision() > 1, "the workload did not compact");
    // etcd's own file: opened by us it is the same store, record by record.
    let theirs = etcd.stop();
    let theirs = Backend::open(RealDisk, &theirs, Options::default()).unwrap();
    let records = |backend: &Backend<RealDisk>| backend.scan(Bucket::Key, b"", None, 0).unwrap();
    assert_eq!(records(&backend), records(&theirs));
    for mark in [SCHEDULED_COMPACT, FINISHED_COMPACT] {
        assert_eq!(
            backend.get(Bucket::Meta, mark).unwrap(),
            theirs.get(Bucket::Meta, mark).unwrap()
        );
    }
    let (their_store, _) = Store::open(&theirs).unwrap();
    let (compacted, current) = (store.compact_revision(), store.current_revision());
    assert_eq!(
        (their_store.compact_revision(), their_store.current_revision()),
        (compacted, current)
    );
    for rev in compacted..=current {
        let view = |store: &Store<RealDisk>| store.reader().view().hash_kv(rev).unwrap();
        assert_eq!(view(&store), view(&their_store), "at {rev}");
    }
    // And etcd's tool reads our file, once nobody holds its lock.
    drop((backend, store, reader));
    let output = Command::new(etcd.bin.join("etcdutl"))
        .args([
            "hashkv",
            ours.to_str().unwrap(),
            "--rev",
            &current.to_string(),
            "-w",
            "json",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "etcdutl does not read our file: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let hash = their_store.reader().view().hash_kv(current).unwrap();
    assert_eq!(hash_in(&text).0, hash.hash, "{text}");
}

/// `etcdutl snapshot restore --bump-revision --mark-compacted` leaves a record without a key, and a mark ahead of all records.
#[test]
fn a_database_with_a_bumped_revision_opens_as_in_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut etcd) = Etcd::start(dir.path()) else {
        return;
    };
    let mut rng = Rng(0xB0B);
    for _ in 0..10 {
        etcd.ctl(&["txn"], &random_txn(&mut rng).1);
    }
    let (snapshot, restored) = (dir.path().join("snapshot"), dir.path().join("restored"));
    etcd.ctl(&["snapshot", "save", snapshot.to_str().unwrap()], "");
    etcd.stop();
    let status = Command::new(etcd.bin.join("etcdutl"))
        .args(["snapshot", "restore", snapshot.to_str().unwrap()])
        .args(["--data-dir", restored.to_str().unwrap()])
        .args(["--bump-revision", "1000", "--mark-compacted"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let db = restored.join("member/snap/db");
    let theirs = Command::new(etcd.bin.join("etcdutl"))
        .args(["hashkv", db.to_str().unwrap(), "-w", "json"])
        .output()
        .unwrap();
    let theirs = hash_in(std::str::from_utf8(&theirs.stdout).unwrap());
    let mut backend = Backend::open(RealDisk, &db, Options::default()).unwrap();
    let (mut store, _) = Store::open(&backend).unwrap();
    let bumped = 11 + 1000;
    assert_eq!((store.current_revision(), store.compact_revision()), (bumped, bumped));
    let hash = store.reader().view().hash_kv(0).unwrap();
    assert_eq!((hash.hash, hash.revision, hash.compact_revision), theirs);
    // The compaction that the mark asks for takes nothing that is visible, and the record without a key stays.
    let visible = store.reader().view().all_without_values(Span::From(b"\0"));
    while store.compact_step(&mut backend, 10).unwrap() != Compacted::Nothing {}
    assert_eq!(store.reader().view().all_without_values(Span::From(b"\0")), visible);
    assert_eq!(store.reader().view().hash_kv(0).unwrap().hash, hash.hash);
    let records = backend.scan(Bucket::Key, b"", None, 0).unwrap();
    assert!(records.last().unwrap().1.is_empty());
    assert_eq!(records.len(), visible.len() + 1);
}
