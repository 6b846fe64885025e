//! The write-ahead log and `.snap` files.

use bytes::Bytes;
use disk::{Disk, File, MemoryDisk, Open};
use prost::Message;
use proto::{snappb, walpb};
use std::path::Path;
use wal::{Snapshotter, Wal};

const DIR: &str = "/wal";

fn put(disk: &MemoryDisk, path: &str, bytes: &[u8]) {
    let path = Path::new(path);
    disk.create_dir_all(path.parent().expect("a directory")).expect("in memory");
    let file = disk.open(path, Open::WriteOrCreate).expect("in memory");
    file.write_all_at(bytes, 0).expect("in memory");
    file.sync_data().expect("in memory");
    disk.sync_dir(path.parent().expect("a directory")).expect("in memory");
}

/// Records with right lengths and checksums. Of `data`, each begins with its kind and two bytes of length.
pub fn framed(mut data: &[u8]) -> Vec<u8> {
    let (mut out, mut crc) = (Vec::new(), 0u32);
    let mut record = |kind: i64, body: Option<&[u8]>, crc: &mut u32| {
        *crc = crc32c::crc32c_append(*crc, body.unwrap_or_default());
        let record = walpb::Record {
            r#type: kind,
            crc: *crc,
            data: body.map(Bytes::copy_from_slice),
        };
        let mut bytes = record.encode_to_vec();
        let pad = (8 - bytes.len() % 8) % 8;
        let mark = if pad == 0 { 0 } else { (0x80 | pad as u64) << 56 };
        out.extend_from_slice(&(bytes.len() as u64 | mark).to_le_bytes());
        bytes.resize(bytes.len() + pad, 0);
        out.extend_from_slice(&bytes);
    };
    record(4, None, &mut crc);
    while let [kind, low, high, rest @ ..] = data {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        record(i64::from(*kind % 7), Some(&rest[..len]), &mut crc);
        data = &rest[len..];
    }
    out
}

/// `data[0]`: how the rest is a log. In one file, or cut into two at a quarter of its length.
pub fn wal(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let bytes = if how & 1 == 0 { rest.to_vec() } else { framed(rest) };
    let disk = MemoryDisk::new(1);
    if how & 2 == 0 {
        put(&disk, "/wal/0000000000000000-0000000000000000.wal", &bytes);
    } else {
        let (one, two) = bytes.split_at(bytes.len() / 4 / 8 * 8);
        put(&disk, "/wal/0000000000000000-0000000000000000.wal", one);
        put(&disk, "/wal/0000000000000001-0000000000000003.wal", two);
    }
    let dir = Path::new(DIR);
    let start = walpb::Snapshot::default();
    let _ = wal::read(&disk, dir, &start);
    let snapshots = wal::valid_snapshots(&disk, dir).unwrap_or_default();
    if let Some(last) = snapshots.last() {
        let _ = wal::read(&disk, dir, last);
    }
    if how & 4 == 0 {
        let _ = wal::repair(&disk, dir);
    }
    if let Ok((mut log, contents)) = Wal::open_or_repair(&disk, dir, &start) {
        // What was opened is written on, and read again.
        let index = contents.entries.last().map_or(0, |entry| entry.index);
        if let Some(index) = index.checked_add(1) {
            let entry = proto::raftpb::Entry {
                term: u64::MAX,
                index,
                ..Default::default()
            };
            if log.save(&contents.hard_state, &[entry]).is_ok() {
                drop(log);
                let again = wal::read(&disk, dir, &start).expect("what was saved is read");
                assert_eq!(again.entries.last().map(|entry| entry.index), Some(index));
            }
        }
    }
}

/// `data[0]`: whether the rest is the file, or what is in its envelope.
pub fn snap(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let bytes = if how & 1 == 0 {
        rest.to_vec()
    } else {
        let envelope = snappb::Snapshot {
            crc: crc32c::crc32c(rest),
            data: Bytes::copy_from_slice(rest),
        };
        envelope.encode_to_vec()
    };
    let disk = MemoryDisk::new(1);
    put(&disk, "/snap/0000000000000001-0000000000000005.snap", &bytes);
    let snapshots = Snapshotter::new(disk, Path::new("/snap"));
    if let Ok(snapshot) = snapshots.read(Path::new("/snap/0000000000000001-0000000000000005.snap")) {
        let _ = replica::state_machine::conf_state::conf_state_from_json(&snapshot.data);
    }
    let record = walpb::Snapshot {
        index: Some(5),
        term: Some(1),
        ..Default::default()
    };
    let _ = snapshots.load_newest(&[record]);
}
