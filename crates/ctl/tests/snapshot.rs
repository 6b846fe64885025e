//! Our tools and etcd's on the same files, both ways.

mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ctl::snapshot::{RestoreConfig, restore, status};
use ctl::{database, snapshot};
use disk::RealDisk;
use programs::{Etcd, bin_dir, free_ports, run};
use state_machine::{Config, StateMachine};

/// A history with deletions, transactions, a compaction and a lease.
fn write_history(etcd: &Etcd) {
    for round in 0..3 {
        for key in 0..10 {
            etcd.ctl(&["put", &format!("key{key}"), &format!("value {key} of round {round}")]);
        }
    }
    etcd.ctl(&["del", "key3"]);
    etcd.txn("value(\"key1\") = \"nothing\"\n\nput wrong yes\n\nput right yes\ndel key2\n\n");
    etcd.ctl(&["compact", "12", "--physical"]);
    etcd.ctl(&["lease", "grant", "600"]);
    let lease = etcd.json(&["lease", "list"])["leases"][0]["id"].as_u64().unwrap();
    etcd.ctl(&["put", "leased", "for a while", "--lease", &format!("{lease:x}")]);
}

fn config(snapshot: &Path, data_dir: &Path, peer: &str) -> RestoreConfig {
    RestoreConfig {
        snapshot: snapshot.to_owned(),
        data_dir: data_dir.to_owned(),
        wal_dir: None,
        initial_cluster: format!("m0={peer}"),
        initial_cluster_token: "etcd-cluster".into(),
        initial_advertise_peer_urls: peer.into(),
        name: "m0".into(),
        skip_hash_check: false,
        bump_revision: 0,
    }
}

/// etcdutl on a copy: `hashkv` of 3.7.3 writes to the file that it reads.
fn etcdutl(bin: &Path, file: &Path, args: &[&str]) -> String {
    let copy = file.with_extension("copy");
    fs::copy(file, &copy).unwrap();
    run(Command::new(bin.join("etcdutl")).args(args).arg(&copy))
}

fn save(etcd: &Etcd, dir: &Path) -> PathBuf {
    let file = dir.join("snapshot.db");
    etcd.ctl(&["snapshot", "save", file.to_str().unwrap()]);
    file
}

#[test]
fn status_and_hash_are_etcdutls() {
    let Some(bin) = bin_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&bin, &dir.path().join("data"), free_ports(), &[]);
    write_history(&etcd);
    let file = save(&etcd, dir.path());
    let ours = serde_json::to_string(&status(&file, None).unwrap()).unwrap();
    let theirs = etcdutl(&bin, &file, &["snapshot", "status", "-w", "json"]);
    assert_eq!(ours, theirs.trim());
    for revision in [0, 12, 20, 30, 34] {
        let ours = serde_json::to_string(&database::hash_kv(&file, revision, None).unwrap()).unwrap();
        let theirs = etcdutl(&bin, &file, &["hashkv", "-w", "json", "--rev", &revision.to_string()]);
        assert_eq!(ours, theirs.trim(), "revision {revision}");
    }
    for revision in [11, 99] {
        assert!(database::hash_kv(&file, revision, None).is_err(), "revision {revision}");
    }
    let (hash, revision) = etcd.hash_kv();
    let ours = database::hash_kv(&file, 0, None).unwrap();
    assert_eq!((u64::from(ours.hash), ours.hash_revision), (hash, revision));
    // Looking did not change the file.
    assert!(status(&file, None).is_ok());
}

#[test]
fn etcd_starts_from_what_we_restore() {
    let Some(bin) = bin_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports();
    let etcd = Etcd::start(&bin, &dir.path().join("data"), ports, &[]);
    write_history(&etcd);
    let file = save(&etcd, dir.path());
    let (keys, hash) = (etcd.ctl(&["get", "", "--prefix"]), etcd.hash_kv());
    let leases = etcd.ctl(&["lease", "list"]);
    let peer = etcd.peer.clone();
    etcd.stop();

    let data_dir = dir.path().join("restored");
    let restored = restore(&config(&file, &data_dir, &peer)).unwrap();
    let etcd = Etcd::start(&bin, &data_dir, ports, &[]);
    assert_eq!(etcd.ctl(&["get", "", "--prefix"]), keys);
    assert_eq!(etcd.hash_kv(), hash);
    assert_eq!(etcd.ctl(&["lease", "list"]), leases);
    let status = etcd.json(&["endpoint", "status"]);
    let header = &status[0]["Status"]["header"];
    assert_eq!(header["cluster_id"].as_u64(), Some(restored.cluster_id));
    assert_eq!(header["member_id"].as_u64(), Some(restored.member_id));
    assert_eq!(header["revision"].as_i64(), Some(restored.revision));
    etcd.ctl(&["put", "after", "1"]);
    etcd.stop();

    // The same by etcdutl gives the same ids.
    let theirs = dir.path().join("theirs");
    run(Command::new(bin.join("etcdutl"))
        .args([
            "snapshot",
            "restore",
            "--name",
            "m0",
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--initial-cluster", &format!("m0={peer}"), "--data-dir"])
        .args([&theirs, &file]));
    let machine = StateMachine::open(RealDisk, &database::database_of(&theirs), Config::default()).unwrap();
    let ids: Vec<u64> = machine.membership().members().map(|member| member.id).collect();
    assert_eq!(ids, [restored.member_id]);
    assert_eq!(machine.conf_state().unwrap().voters, ids);
    assert_eq!(machine.applied().index, 1);
    assert_eq!(machine.reader().current_revision(), restored.revision);
    assert_eq!(machine.leases().len(), 1);
}

/// reliability H54: who watches or lists at a revision of the old history must be told that it is gone.
#[test]
fn a_bumped_restore_breaks_with_the_old_history() {
    let Some(bin) = bin_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports();
    let etcd = Etcd::start(&bin, &dir.path().join("data"), ports, &[]);
    write_history(&etcd);
    let file = save(&etcd, dir.path());
    let keys = etcd.ctl(&["get", "", "--prefix"]);
    let peer = etcd.peer.clone();
    let (_, revision) = etcd.hash_kv();
    etcd.stop();
    let data_dir = dir.path().join("restored");
    let restored = restore(&RestoreConfig {
        bump_revision: 1_000_000,
        ..config(&file, &data_dir, &peer)
    })
    .unwrap();
    assert_eq!(restored.revision, revision + 1_000_000);
    // Our own state machine reads it as etcd does.
    let copy = dir.path().join("copy.db");
    fs::copy(database::database_of(&data_dir), &copy).unwrap();
    let machine = StateMachine::open(RealDisk, &copy, Config::default()).unwrap();
    assert_eq!(machine.reader().current_revision(), restored.revision);
    assert_eq!(machine.reader().compact_revision(), restored.revision);
    let ours = machine.reader().hash_kv(0).unwrap().0;
    let etcd = Etcd::start(&bin, &data_dir, ports, &[]);
    assert_eq!(etcd.ctl(&["get", "", "--prefix"]), keys);
    let (hash, at) = etcd.hash_kv();
    assert_eq!((u64::from(ours.hash), ours.revision), (hash, at));
    let old = etcd.ctl_output(&["get", "key1", "--rev", &revision.to_string()]);
    assert!(
        programs::text(&old).contains("required revision has been compacted"),
        "{}",
        programs::text(&old)
    );
    etcd.ctl(&["put", "after", "1"]);
}

#[test]
fn etcd_starts_from_what_we_defragment() {
    let Some(bin) = bin_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports();
    let etcd = Etcd::start(&bin, &dir.path().join("data"), ports, &[]);
    let value = "x".repeat(100_000);
    for _ in 0..30 {
        etcd.ctl(&["put", "large", &value]);
    }
    write_history(&etcd);
    etcd.ctl(&["compact", "60", "--physical"]);
    let hash = etcd.hash_kv();
    assert!(
        database::defragment(&etcd.data_dir, Some(std::time::Duration::from_millis(200))).is_err(),
        "it is locked while etcd runs"
    );
    let data_dir = etcd.stop();
    let db = database::database_of(&data_dir);
    let before = status(&db, None).unwrap();
    database::defragment(&data_dir, None).unwrap();
    let after = status(&db, None).unwrap();
    assert!(
        after.total_size * 4 < before.total_size,
        "{} -> {}",
        before.total_size,
        after.total_size
    );
    assert_eq!((after.hash, after.total_key), (before.hash, before.total_key));
    let etcd = Etcd::start(&bin, &data_dir, ports, &[]);
    assert_eq!(etcd.hash_kv(), hash);
}

#[test]
fn what_is_not_whole_is_not_restored() {
    let Some(bin) = bin_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&bin, &dir.path().join("data"), free_ports(), &[]);
    write_history(&etcd);
    let file = save(&etcd, dir.path());
    let peer = etcd.peer.clone();
    etcd.stop();
    let whole = fs::read(&file).unwrap();
    let data_dir = dir.path().join("restored");
    let attempt = |bytes: &[u8], skip_hash_check: bool| {
        let file = dir.path().join("broken.db");
        fs::write(&file, bytes).unwrap();
        let config = RestoreConfig {
            skip_hash_check,
            ..config(&file, &data_dir, &peer)
        };
        let result = restore(&config);
        let left = data_dir.exists() && fs::read_dir(&data_dir).unwrap().next().is_some();
        assert_eq!(left, result.is_ok(), "a failure leaves nothing to start from");
        if left {
            fs::remove_dir_all(&data_dir).unwrap();
        }
        result
    };
    for cut in [1, 32, 33, 512, 4096, whole.len() / 2] {
        let error = attempt(&whole[..whole.len() - cut], false).unwrap_err().to_string();
        assert!(error.contains("broken.db"), "{error}");
    }
    let mut flipped = whole.clone();
    let middle = whole.len() / 2;
    flipped[middle] ^= 0x10;
    let error = attempt(&flipped, false).unwrap_err().to_string();
    assert!(error.contains("expected sha256"), "{error}");
    assert!(snapshot::status(&dir.path().join("broken.db"), None).is_err());
    // Without a checksum only an explicit wish helps, and the pages are checked instead.
    let bare = &whole[..whole.len() - 32];
    assert!(
        attempt(bare, false)
            .unwrap_err()
            .to_string()
            .contains("--skip-hash-check")
    );
    assert!(attempt(&bare[..8192], true).is_err());
    assert!(attempt(bare, true).is_ok());
    assert!(attempt(&whole, false).is_ok());
    // And never over other data.
    fs::create_dir_all(data_dir.join("member")).unwrap();
    let error = restore(&config(&file, &data_dir, &peer)).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
}
