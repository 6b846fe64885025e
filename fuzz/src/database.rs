//! The bbolt file, what the state machine reads from it, and the entries that it applies.

use bytes::Bytes;
use disk::{Disk, File, MemoryDisk, Open};
use proto::raftpb::{Entry, EntryType};
use state_machine::schema::Bucket;
use state_machine::{Auth, Config, StateMachine};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

const FILE: &str = "/db";
const PAGE: usize = 512;
/// As the file is laid out: page header, then magic, version, .., and the sum over all before it.
const HEADER: usize = 16;
const META: usize = 64;

fn read_all(disk: &MemoryDisk) -> Vec<u8> {
    let file = disk.open(Path::new(FILE), Open::Read).expect("in memory");
    let mut bytes = vec![0; file.len().expect("in memory") as usize];
    file.read_exact_at(&mut bytes, 0).expect("in memory");
    bytes
}

fn put(disk: &MemoryDisk, bytes: &[u8]) {
    let file = disk.open(Path::new(FILE), Open::WriteOrCreate).expect("in memory");
    file.write_all_at(bytes, 0).expect("in memory");
}

fn options() -> bolt::Options {
    bolt::Options {
        page_size: PAGE,
        growth_bytes: 0,
        ..bolt::Options::default()
    }
}

/// A database with pages of every kind: branches, leaves, a nested and an inline bucket, values longer than a page, a freelist.
pub fn base() -> Vec<u8> {
    let disk = MemoryDisk::new(1);
    let db = bolt::Db::open(disk.clone(), Path::new(FILE), options()).expect("a new one");
    for round in 0..3u32 {
        let mut tx = db.write().expect("a transaction");
        if round == 0 {
            tx.create_bucket(b"key").expect("a bucket");
            tx.create_bucket(b"meta").expect("a bucket");
        }
        for n in (0..60u32).filter(|n| n % 3 == round) {
            let value = vec![n as u8; if n % 20 == 0 { 1500 } else { 20 }];
            tx.put(b"key", &n.to_be_bytes(), &value).expect("put");
        }
        tx.put(b"meta", b"a", b"b").expect("put");
        tx.commit().expect("commit");
    }
    let mut tx = db.write().expect("a transaction");
    for n in 10..25u32 {
        tx.delete(b"key", &n.to_be_bytes()).expect("delete");
    }
    tx.commit().expect("commit");
    db.close().expect("close");
    drop(db);
    read_all(&disk)
}

static BASE: LazyLock<Vec<u8>> = LazyLock::new(base);

fn mend_metas(bytes: &mut [u8]) {
    for page in [0, PAGE] {
        if let Some(body) = bytes.get_mut(page + HEADER..page + HEADER + META) {
            let sum = body[..META - 8]
                .iter()
                .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
            body[META - 8..].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// The file of `data`: its own bytes, or the base with patches (three bytes of place, one of length, bytes).
fn image(data: &[u8]) -> Vec<u8> {
    let Some((how, mut rest)) = data.split_first() else {
        return Vec::new();
    };
    let mut bytes = if how & 1 == 0 {
        rest.to_vec()
    } else {
        let mut bytes = BASE.clone();
        while let [a, b, c, len, more @ ..] = rest {
            let place = u32::from_le_bytes([*a, *b, *c, 0]) as usize % bytes.len();
            let len = usize::from(*len % 32).min(more.len()).min(bytes.len() - place);
            bytes[place..place + len].copy_from_slice(&more[..len]);
            rest = &more[len..];
        }
        bytes
    };
    if how & 2 == 0 {
        mend_metas(&mut bytes);
    }
    bytes
}

/// Opened, checked, walked in both directions, written to, shortened.
pub fn database(data: &[u8]) {
    let bytes = image(data);
    if bytes.is_empty() {
        return;
    }
    let disk = MemoryDisk::new(1);
    put(&disk, &bytes);
    let reading = bolt::Options {
        read_only: true,
        ..options()
    };
    if let Ok(db) = bolt::Db::open(disk.clone(), Path::new(FILE), reading) {
        walk(&db);
    }
    if let Ok(db) = bolt::Db::open(disk.clone(), Path::new(FILE), options()) {
        walk(&db);
        if let Ok(mut tx) = db.write() {
            let put = tx.put(b"key", b"new", &[1; 700]);
            let gone = tx.delete(b"key", &[0, 0, 0, 30]);
            if put.is_ok() && gone.is_ok() {
                let _ = tx.commit();
            }
        }
        for _ in 0..4 {
            if db.compact_step(64).is_err() {
                break;
            }
        }
        let _ = db.close();
    }
    // As etcdutl, backups and members look at one.
    let _ = StateMachine::open(disk, Path::new(FILE), machine());
}

fn walk(db: &bolt::Db<MemoryDisk>) {
    let Ok(tx) = db.read() else {
        return;
    };
    let _ = bolt::check(&tx);
    for name in tx.buckets().unwrap_or_default() {
        let Ok(Some(bucket)) = tx.bucket(&name) else {
            continue;
        };
        let _ = bucket.buckets();
        let mut cursor = bucket.cursor();
        let (mut next, mut steps) = (cursor.first(), 0u32);
        while let Ok(Some((key, _))) = &next {
            if steps.is_multiple_of(7) {
                let _ = bucket.get(key);
                let _ = bucket.bucket(key);
            }
            steps += 1;
            next = cursor.next();
        }
        let mut last = cursor.last();
        while let Ok(Some(_)) = last {
            last = cursor.prev();
        }
        let _ = cursor.seek(&[0, 0, 0, 20]);
    }
}

fn machine() -> Config {
    Config {
        member_id: 1,
        cluster_id: 2,
        backend: state_machine::backend::Options {
            file: options(),
            ..Default::default()
        },
        ..Config::default()
    }
}

/// A table of users with nobody in it.
pub static NOBODY: LazyLock<Auth> = LazyLock::new(|| {
    let machine = StateMachine::open(MemoryDisk::new(1), Path::new(FILE), machine()).expect("a new database");
    machine.auth().clone()
});

const BUCKETS: [Bucket; 10] = Bucket::ALWAYS;

/// A database with these records: bucket, one byte of key length, two of value length, key, value.
pub fn fill(mut data: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new(1);
    let db = bolt::Db::open(disk.clone(), Path::new(FILE), options()).expect("a new one");
    let mut records = std::collections::BTreeMap::new();
    while let [bucket, key, low, high, rest @ ..] = data {
        let name = BUCKETS[usize::from(*bucket) % BUCKETS.len()].name();
        let key_len = usize::from(*key % 40).min(rest.len());
        let (key, rest) = rest.split_at(key_len);
        let value_len = usize::from(u16::from_le_bytes([*low, *high]) % 2048).min(rest.len());
        let (value, rest) = rest.split_at(value_len);
        if !key.is_empty() {
            records.insert((name, key.to_vec()), value.to_vec());
        }
        data = rest;
    }
    let mut tx = db.write().expect("a transaction");
    for bucket in BUCKETS {
        tx.create_bucket(bucket.name()).expect("a bucket");
    }
    for ((bucket, key), value) in records {
        tx.put(bucket, &key, &value).expect("put");
    }
    tx.commit().expect("commit");
    db.close().expect("close");
    disk
}

/// What a database says in its buckets: keys, leases, members, users, alarms, the versions. Opened, read, applied to.
pub fn state(data: &[u8]) {
    let disk = fill(data);
    let Ok(mut machine) = StateMachine::open(disk, Path::new(FILE), machine()) else {
        return;
    };
    use_it(&mut machine);
    let after = machine.applied().index;
    for n in 1..=2 {
        let Some(index) = after.checked_add(n) else {
            return;
        };
        let put = proto::etcdserverpb::InternalRaftRequest {
            id: n,
            put: Some(proto::etcdserverpb::PutRequest {
                key: Bytes::from_static(b"k"),
                value: Bytes::from_static(b"v"),
                ..Default::default()
            }),
            ..Default::default()
        };
        let entry = Entry {
            index,
            term: 1,
            data: prost::Message::encode_to_vec(&put).into(),
            ..Default::default()
        };
        if machine.apply(&entry, Duration::ZERO).is_err() {
            return;
        }
    }
    let _ = machine.commit();
}

fn use_it(machine: &mut StateMachine<MemoryDisk>) {
    machine.promote(Duration::ZERO, Duration::ZERO);
    let _ = machine.expired_leases(Duration::from_secs(1 << 40), 100);
    let _ = machine.due_checkpoints(Duration::from_secs(5));
    let _ = machine.storage_version();
    for member in machine.membership().members() {
        let _ = member.to_json();
    }
    let _ = state_machine::v2::membership_json(machine.membership());
    for _ in 0..3 {
        if machine.compact_step(100).is_err() {
            return;
        }
    }
}

/// Entries of a log: kind, two bytes of length, data. A member refuses those that it cannot read; it may not panic.
pub fn entries(mut data: &[u8]) {
    let disk = MemoryDisk::new(1);
    let Ok(mut machine) = StateMachine::open(disk, Path::new(FILE), machine()) else {
        panic!("a new database opens");
    };
    let mut index = machine.applied().index;
    while let [kind, low, high, rest @ ..] = data {
        let len = usize::from(u16::from_le_bytes([*low, *high]) % 4096).min(rest.len());
        index += 1;
        let mut entry = Entry {
            index,
            term: 1,
            data: Bytes::copy_from_slice(&rest[..len]),
            ..Default::default()
        };
        data = &rest[len..];
        let now = Duration::from_secs(index);
        let stop = match kind % 4 {
            0 => {
                entry.r#type = EntryType::EntryConfChange.into();
                machine.apply_conf_change(&entry).is_err()
            }
            _ => machine.apply(&entry, now).is_err(),
        };
        if stop {
            break;
        }
        if kind % 8 == 7 {
            use_it(&mut machine);
        }
    }
    let _ = machine.commit();
}
