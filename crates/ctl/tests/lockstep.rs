//! The same log in etcd and in our state machine: bucket by bucket, the databases must be equal.

mod programs;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ctl::database;
use disk::RealDisk;
use programs::{Etcd, bin_dir, free_ports, text};
use proto::etcdserverpb::AlarmType;
use proto::raftpb::EntryType;
use proto::walpb;
use state_machine::mvcc::Compacted;
use state_machine::quota::Quota;
use state_machine::schema;
use state_machine::{Action, AuthInfo, Config, StateMachine};

type Contents = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// Everything in a database file.
fn contents(path: &Path) -> Contents {
    let db = database::open(path, &database::read_only(), Some(Duration::from_secs(5))).unwrap();
    let read = db.read().unwrap();
    let mut all = Contents::new();
    for name in read.buckets().unwrap() {
        let bucket = read.bucket(&name).unwrap().unwrap();
        let mut cursor = bucket.cursor();
        let mut pair = cursor.first().unwrap();
        while let Some((key, value)) = pair {
            all.insert(
                (String::from_utf8_lossy(&name).into_owned(), key.to_vec()),
                value.to_vec(),
            );
            pair = cursor.next().unwrap();
        }
    }
    all
}

/// Applies the log of a data dir to a fresh state machine and compares the databases.
fn replay_and_compare(data_dir: &Path, config: Config) -> (StateMachine<RealDisk>, Vec<Action>) {
    let log = wal::read(
        &RealDisk,
        &data_dir.join("member").join("wal"),
        &walpb::Snapshot::default(),
    )
    .unwrap();
    let ours = data_dir.with_extension("ours.db");
    let mut machine = StateMachine::open(RealDisk, &ours, config.clone()).unwrap();
    let mut actions = Vec::new();
    for entry in log.entries.iter().filter(|entry| entry.index <= log.hard_state.commit) {
        if entry.r#type == EntryType::EntryConfChange as i32 {
            let applied = machine.apply_conf_change(entry).unwrap();
            if applied.result.is_some_and(|result| result.is_ok()) {
                let conf_state = machine.membership().conf_state().unwrap();
                machine.set_conf_state(conf_state);
            }
        } else {
            let applied = machine.apply(entry, Duration::ZERO).unwrap();
            actions.extend(applied.actions);
        }
        while machine.compact_step(1000).unwrap() != Compacted::Nothing {}
    }
    machine.commit().unwrap();
    drop(machine);
    let (theirs, ours_contents) = (contents(&database::database_of(data_dir)), contents(&ours));
    for (key, value) in &theirs {
        let bucket = key.0.as_str();
        let name = String::from_utf8_lossy(&key.1);
        let shown = |value: Option<&Vec<u8>>| value.map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(
            shown(ours_contents.get(key)),
            shown(Some(value)),
            "bucket {bucket}, key {name:?} ({:02x?})",
            key.1
        );
        assert_eq!(ours_contents.get(key), Some(value), "bucket {bucket}, key {name:?}");
    }
    let extra: Vec<_> = ours_contents.keys().filter(|key| !theirs.contains_key(key)).collect();
    assert!(extra.is_empty(), "only we have {extra:?}");
    assert!(theirs.contains_key(&("meta".into(), schema::CONSISTENT_INDEX.to_vec())));
    (StateMachine::open(RealDisk, &ours, config).unwrap(), actions)
}

#[test]
fn the_same_log_gives_the_same_database() {
    let Some(bin) = bin_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports();
    // A snapshot every few entries: the log is all there, but etcd has been through its own snapshots.
    let etcd = Etcd::start(&bin, &dir.path().join("data"), ports, &["--snapshot-count", "10"]);
    for round in 0..4 {
        for key in 0..6 {
            etcd.ctl(&["put", &format!("key{key}"), &format!("{round}")]);
        }
        etcd.txn("value(\"key1\") = \"2\"\nversion(\"absent\") = \"0\"\n\nput a 1\nput b 2\ndel key2\n\ndel --range key0 key4\nget a\n\n");
        etcd.ctl(&["del", "nothing"]);
    }
    // Leases: one revoked with its keys, one that keeps some, one whose key moves to another.
    let grant = || {
        let answer = etcd.json(&["lease", "grant", "900"]);
        format!("{:x}", answer["ID"].as_u64().unwrap())
    };
    let (gone, stays, other) = (grant(), grant(), grant());
    for key in ["z", "y", "x"] {
        etcd.ctl(&["put", key, "leased", "--lease", &gone]);
    }
    etcd.ctl(&["put", "kept", "leased", "--lease", &stays]);
    etcd.ctl(&["put", "moved", "leased", "--lease", &stays]);
    etcd.ctl(&["put", "moved", "again", "--lease", &other]);
    etcd.ctl(&["put", "y", "freed"]);
    etcd.ctl(&["lease", "revoke", &gone]);
    assert!(!etcd.ctl_output(&["put", "y", "1", "--lease", &gone]).status.success());
    etcd.ctl(&["compact", "15", "--physical"]);
    etcd.ctl(&["put", "after", "the compaction"]);
    etcd.ctl(&["compact", "30", "--physical"]);
    // Members: a learner comes, a second one is refused, its URL changes, it goes, its id stays gone.
    let learner = etcd.json(&["member", "add", "l1", "--learner", "--peer-urls", "http://127.0.0.1:1"]);
    let id = format!("{:x}", learner["member"]["ID"].as_u64().unwrap());
    let refused = etcd.ctl_output(&["member", "add", "l2", "--learner", "--peer-urls", "http://127.0.0.1:2"]);
    assert!(
        text(&refused).contains("too many learner members"),
        "{}",
        text(&refused)
    );
    etcd.ctl(&["member", "update", &id, "--peer-urls", "http://127.0.0.1:3"]);
    etcd.ctl(&["member", "remove", &id]);
    etcd.ctl(&["put", "last", "1"]);
    let hash = etcd.hash_kv();
    let members = etcd.json(&["member", "list"]);
    let ttl = etcd.json(&["lease", "timetolive", &other, "--keys"]);
    let data_dir = etcd.stop();

    let (machine, _) = replay_and_compare(&data_dir, Config::default());
    let (ours, _) = machine.reader().hash_kv(0).unwrap();
    assert_eq!((u64::from(ours.hash), ours.revision), hash);
    let ids: Vec<u64> = machine.membership().members().map(|member| member.id).collect();
    assert_eq!(ids, [members["members"][0]["ID"].as_u64().unwrap()]);
    assert_eq!(machine.leases().len(), 2);
    let info = machine.leases().info(i64::from_str_radix(&other, 16).unwrap()).unwrap();
    assert_eq!(
        (info.granted_ttl, info.keys.len()),
        (900, ttl["keys"].as_array().unwrap().len())
    );

    // And the database as etcd left it opens here with the same tables.
    let copy = dir.path().join("copy.db");
    fs::copy(database::database_of(&data_dir), &copy).unwrap();
    let opened = StateMachine::open(RealDisk, &copy, Config::default()).unwrap();
    assert_eq!(opened.membership(), machine.membership());
    assert_eq!(opened.applied(), machine.applied());
    assert_eq!(opened.conf_state(), machine.conf_state());
    assert_eq!(opened.leases().ids_by_expiry(), machine.leases().ids_by_expiry());
    assert_eq!(opened.reader().hash_kv(0).unwrap().0, ours);
}

#[test]
fn users_and_roles_are_the_same() {
    let Some(bin) = bin_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&bin, &dir.path().join("data"), free_ports(), &["--bcrypt-cost", "4"]);
    etcd.ctl(&["put", "before", "1"]);
    for (user, password) in [("root", "r"), ("ann", "a"), ("bob", "b"), ("gone", "g")] {
        etcd.ctl(&["user", "add", &format!("{user}:{password}")]);
    }
    etcd.ctl(&["user", "add", "certified", "--no-password"]);
    for role in ["root", "reader", "writer", "gone"] {
        etcd.ctl(&["role", "add", role]);
    }
    etcd.ctl(&["role", "grant-permission", "reader", "read", "a", "m"]);
    etcd.ctl(&["role", "grant-permission", "reader", "read", "b"]);
    etcd.ctl(&["role", "grant-permission", "reader", "readwrite", "a", "m"]);
    etcd.ctl(&["role", "grant-permission", "writer", "write", "m", "--from-key"]);
    etcd.ctl(&["role", "grant-permission", "writer", "readwrite", "dir/", "--prefix"]);
    etcd.ctl(&["role", "revoke-permission", "reader", "b"]);
    for (user, role) in [
        ("root", "root"),
        ("ann", "reader"),
        ("bob", "writer"),
        ("bob", "reader"),
        ("bob", "gone"),
    ] {
        etcd.ctl(&["user", "grant-role", user, role]);
    }
    etcd.ctl(&["role", "delete", "gone"]);
    etcd.ctl(&["user", "delete", "gone"]);
    etcd.ctl(&["auth", "enable"]);
    let as_user = |user: &str, args: &[&str]| {
        let user = format!("--user={user}");
        let args: Vec<&str> = std::iter::once(user.as_str()).chain(args.iter().copied()).collect();
        etcd.ctl_output(&args).status.success()
    };
    assert!(as_user("bob:b", &["put", "mine", "1"]));
    assert!(as_user("bob:b", &["put", "c", "1"]));
    assert!(!as_user("bob:b", &["get", "mine"]));
    assert!(!as_user("ann:wrong", &["put", "c", "1"]));
    assert!(as_user("root:r", &["put", "zz", "1"]));
    assert!(as_user("root:r", &["user", "revoke-role", "bob", "reader"]));
    assert!(!as_user("bob:b", &["get", "c"]));
    let users = {
        let output = etcd.ctl_output(&["--user=root:r", "user", "list"]);
        String::from_utf8(output.stdout).unwrap()
    };
    let data_dir = etcd.stop();
    let (machine, actions) = replay_and_compare(&data_dir, Config::default());
    assert!(actions.contains(&Action::AuthChanged));
    assert!(machine.auth().is_enabled());
    let names: Vec<&str> = users.lines().collect();
    assert!(
        names.iter().all(|name| machine.auth().user(name).0.is_some()),
        "{names:?}"
    );
    // What etcd let through and what it refused.
    let revision = machine.auth().revision();
    let may = |name: &str, key: &[u8]| {
        let info = AuthInfo {
            username: name.into(),
            revision,
        };
        machine.auth().check_read(&info, key, b"").is_ok()
    };
    assert!(
        may("ann", b"c") && !may("bob", b"c") && !may("bob", b"mine") && may("bob", b"dir/x") && may("root", b"zz")
    );
}

#[test]
fn a_full_database_and_its_alarm_are_the_same() {
    let Some(bin) = bin_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--quota-backend-bytes", "300000"];
    let etcd = Etcd::start(&bin, &dir.path().join("data"), free_ports(), &flags);
    let value = "x".repeat(40_000);
    let mut refused = 0;
    for key in 0..12 {
        refused += usize::from(
            !etcd
                .ctl_output(&["put", &format!("large{key}"), &value])
                .status
                .success(),
        );
    }
    assert!(refused > 0 && etcd.ctl(&["alarm", "list"]).contains("NOSPACE"));
    etcd.ctl(&["del", "large0"]);
    let data_dir = etcd.stop();
    let config = Config {
        quota: Quota::Bytes(300_000),
        ..Config::default()
    };
    let (machine, actions) = replay_and_compare(&data_dir, config);
    assert!(machine.alarms().stands(AlarmType::Nospace));
    assert!(actions.contains(&Action::AlarmsChanged));
}
