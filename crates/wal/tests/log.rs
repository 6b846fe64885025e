//! What is written is read back; what was torn is cut; what was changed is refused.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use disk::RealDisk;
use proto::raftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use proto::walpb;
use wal::{Error, Snapshotter, Wal};

fn entry(index: u64, term: u64, size: usize) -> Entry {
    // No zero bytes: an untouched sector is then recognizable.
    let data = (0..size).map(|i| (i as u64 * 31 + index) as u8 | 1).collect::<Vec<_>>();
    Entry {
        term,
        index,
        r#type: 0,
        data: Bytes::from(data),
    }
}

fn state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: 1, commit }
}

fn start() -> walpb::Snapshot {
    walpb::Snapshot::default()
}

fn record(index: u64, term: u64) -> walpb::Snapshot {
    let conf_state = Some(ConfState {
        voters: vec![1],
        ..ConfState::default()
    });
    walpb::Snapshot {
        index: Some(index),
        term: Some(term),
        conf_state,
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    names.sort();
    names
}

/// End of the records in a preallocated file, as the frames tell it.
fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut at, mut all) = (0, Vec::new());
    while at + 8 <= bytes.len() {
        let head = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        if head == 0 {
            break;
        }
        let padding = if head >> 63 == 1 { (head >> 56) & 7 } else { 0 };
        let end = at + 8 + ((head & ((1 << 56) - 1)) + padding) as usize;
        all.push((at, end));
        at = end;
    }
    all
}

#[test]
fn entries_and_state_survive_and_overwrites_win() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("wal");
    let mut wal = Wal::create(&RealDisk, &dir, b"meta").unwrap();
    assert!(matches!(
        Wal::create(&RealDisk, &dir, b"meta"),
        Err(Error::Exists { .. })
    ));
    assert!(
        matches!(Wal::open(&RealDisk, &dir, &start()), Err(Error::Locked { .. })),
        "a second process is kept out"
    );
    wal.save(&state(1, 0), &[entry(1, 1, 10), entry(2, 1, 0), entry(3, 1, 5000)])
        .unwrap();
    assert!(
        !wal.append(&state(1, 2), &[]).unwrap(),
        "a commit index alone needs no sync"
    );
    wal.save(&state(2, 2), &[entry(3, 2, 7)]).unwrap();
    wal.close().unwrap();

    let (mut wal, contents) = Wal::open(&RealDisk, &dir, &start()).unwrap();
    assert_eq!(contents.metadata, "meta");
    assert_eq!(contents.hard_state, state(2, 2));
    assert_eq!(contents.entries, [entry(1, 1, 10), entry(2, 1, 0), entry(3, 2, 7)]);
    wal.save(&state(2, 4), &[entry(4, 2, 1)]).unwrap();
    wal.close().unwrap();
    let contents = wal::read(&RealDisk, &dir, &start()).unwrap();
    assert_eq!(contents.entries.len(), 4);
    assert_eq!(
        fs::metadata(&files(&dir)[0]).unwrap().len(),
        wal::SEGMENT_BYTES,
        "preallocated, before and after"
    );
}

#[test]
fn files_are_cut_chained_released_and_purged() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("wal");
    let mut wal = Wal::create_sized(&RealDisk, &dir, b"meta", 16 * 1024).unwrap();
    for index in 1..=60 {
        wal.save(&state(1, index), &[entry(index, 1, 2000)]).unwrap();
        if index == 30 {
            wal.save_snapshot(&record(30, 1)).unwrap();
        }
    }
    let before = files(&dir);
    assert!(before.len() >= 6, "{before:?}");
    assert_eq!(
        wal::valid_snapshots(&RealDisk, &dir)
            .unwrap()
            .iter()
            .map(|s| s.index())
            .collect::<Vec<_>>(),
        [0, 30]
    );
    assert_eq!(wal::read(&RealDisk, &dir, &start()).unwrap().entries.len(), 60);

    assert_eq!(wal.purge(1).unwrap(), Vec::<String>::new(), "held files stay");
    wal.release_to(30);
    let removed = wal.purge(1).unwrap();
    assert!(!removed.is_empty());
    wal.close().unwrap();
    let (wal, contents) = Wal::open(&RealDisk, &dir, &record(30, 1)).unwrap();
    assert_eq!(contents.entries.first().unwrap().index, 31);
    assert_eq!(contents.entries.len(), 30);
    drop(wal);
    assert!(matches!(
        wal::read(&RealDisk, &dir, &start()),
        Err(Error::NoSegment { index: 0, .. })
    ));
    assert!(matches!(
        wal::read(&RealDisk, &dir, &record(30, 2)),
        Err(Error::SnapshotMissing { .. })
    ));

    let middle = files(&dir)[1].clone();
    fs::remove_file(&middle).unwrap();
    assert!(matches!(
        wal::read(&RealDisk, &dir, &record(30, 1)),
        Err(Error::SequenceGap { .. })
    ));
}

#[test]
fn a_snapshot_beyond_the_commit_index_does_not_count() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("wal");
    let mut wal = Wal::create(&RealDisk, &dir, b"meta").unwrap();
    wal.save(&state(1, 1), &[entry(1, 1, 1)]).unwrap();
    wal.save_snapshot(&record(9, 1)).unwrap();
    assert_eq!(wal::valid_snapshots(&RealDisk, &dir).unwrap().len(), 1);
    wal.save(&state(2, 9), &[]).unwrap();
    assert_eq!(wal::valid_snapshots(&RealDisk, &dir).unwrap().len(), 2);
    let bare = walpb::Snapshot {
        index: Some(10),
        term: Some(2),
        conf_state: None,
    };
    assert!(matches!(
        wal.save_snapshot(&bare),
        Err(Error::SnapshotWithoutConfState { index: 10 })
    ));
    wal.close().unwrap();
    assert!(matches!(
        wal::read(&RealDisk, &dir, &start()),
        Err(Error::CommitBeyondLog { commit: 9, last: 1, .. })
    ));
    let (_, contents) = Wal::open(&RealDisk, &dir, &record(9, 1)).unwrap();
    assert_eq!(contents.entries, []);
}

/// A log of three entries, the last of them over several sectors.
fn three(dir: &Path) -> (PathBuf, Vec<u8>, Vec<(usize, usize)>) {
    let mut wal = Wal::create_sized(&RealDisk, dir, b"meta", 64 * 1024).unwrap();
    wal.save(&state(1, 1), &[entry(1, 1, 100)]).unwrap();
    wal.save(&state(1, 1), &[entry(2, 1, 700)]).unwrap();
    wal.save(&HardState::default(), &[entry(3, 1, 4000)]).unwrap();
    wal.close().unwrap();
    let path = files(dir)[0].clone();
    let bytes = fs::read(&path).unwrap();
    let frames = records(&bytes);
    (path, bytes, frames)
}

#[test]
fn a_tail_torn_at_any_sector_is_cut_and_kept_aside() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("wal");
    let (path, bytes, frames) = three(&dir);
    let (from, to) = *frames.last().unwrap();
    let mut tears = 0;
    for sector in from / 512..to.div_ceil(512) {
        // One sector of the last write did not arrive; those after it may have.
        for later_too in [false, true] {
            let mut torn = bytes.clone();
            let zero_from = (sector * 512).max(from);
            let zero_to = if later_too {
                bytes.len()
            } else {
                ((sector + 1) * 512).min(to)
            };
            torn[zero_from..zero_to].fill(0);
            fs::write(&path, &torn).unwrap();
            let (wal, contents) = Wal::open_or_repair(&RealDisk, &dir, &start()).unwrap();
            assert_eq!(
                contents.entries,
                [entry(1, 1, 100), entry(2, 1, 700)],
                "sector {sector}"
            );
            wal.close().unwrap();
            let (mut wal, _) = Wal::open(&RealDisk, &dir, &start()).unwrap();
            wal.save(&state(2, 1), &[entry(3, 2, 50)]).unwrap();
            wal.close().unwrap();
            assert_eq!(
                wal::read(&RealDisk, &dir, &start()).unwrap().entries[2],
                entry(3, 2, 50),
                "sector {sector}"
            );
            tears += 1;
        }
    }
    assert!(tears >= 16);
    let broken = dir.join(format!("{}.broken", path.file_name().unwrap().to_str().unwrap()));
    assert_eq!(fs::metadata(broken).unwrap().len(), bytes.len() as u64);
}

#[test]
fn a_write_that_stopped_anywhere_is_cut() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("wal");
    let (path, bytes, frames) = three(&dir);
    let (from, to) = *frames.last().unwrap();
    for written in (from..from + 40)
        .chain((from + 40..to - 16).step_by(97))
        .chain(to - 16..to)
    {
        let mut torn = bytes.clone();
        torn[written..].fill(0);
        fs::write(&path, &torn).unwrap();
        match Wal::open_or_repair(&RealDisk, &dir, &start()) {
            Ok((_, contents)) if contents.entries.len() == 2 => {}
            // All but the padding was written: it is whole.
            Ok((_, contents)) => assert!(contents.entries.len() == 3 && to - written < 8, "{written}"),
            // The last two bytes may have been zeros; then the record was whole, and something else is wrong.
            Err(error) => assert!(
                matches!(error, Error::Corrupt { .. }) && to - written < 11,
                "{written}: {error}"
            ),
        }
    }
}

#[test]
fn a_last_file_that_lost_its_beginning_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = Wal::create_sized(&RealDisk, dir.path(), b"meta", 2048).unwrap();
    for index in 1..=6 {
        wal.save(&state(1, 1), &[entry(index, 1, 700)]).unwrap();
    }
    wal.close().unwrap();
    let segments = files(dir.path());
    assert!(segments.len() > 1);
    let last = segments.last().unwrap();
    let len = fs::metadata(last).unwrap().len() as usize;
    fs::write(last, vec![0; len]).unwrap();
    let (mut wal, before) = Wal::open_or_repair(&RealDisk, dir.path(), &start()).unwrap();
    let next = before.entries.last().map_or(1, |entry| entry.index + 1);
    wal.save(&before.hard_state, &[entry(next, 9, 10)]).unwrap();
    drop(wal);
    let after = wal::read(&RealDisk, dir.path(), &start()).unwrap();
    assert_eq!(after.entries.last().map(|entry| entry.index), Some(next));
    assert_eq!(after.hard_state, before.hard_state);
}

#[test]
fn a_file_cut_short_within_the_last_record_is_repaired() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("wal");
    let (path, bytes, frames) = three(&dir);
    let (from, to) = *frames.last().unwrap();
    for len in [from + 1, from + 7, from + 8, from + 600, to - 1] {
        fs::write(&path, &bytes[..len]).unwrap();
        assert!(
            matches!(Wal::open(&RealDisk, &dir, &start()), Err(Error::Torn { .. })),
            "{len}"
        );
        assert_eq!(wal::read(&RealDisk, &dir, &start()).unwrap().entries.len(), 2);
        let (_, contents) = Wal::open_or_repair(&RealDisk, &dir, &start()).unwrap();
        assert_eq!(contents.entries.len(), 2, "{len}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("wal");
    let (path, bytes, frames) = three(&dir);
    let whole = wal::read(&RealDisk, &dir, &start()).unwrap();
    // The last record too: that it was complete shows in its own checksum.
    let end = frames.last().unwrap().1;
    let (mut silent, mut tried) = (0, 0);
    for position in (0..end).filter(|at| *at < 220 || at % 61 == 0) {
        for bit in 0..8 {
            tried += 1;
            let mut bad = bytes.clone();
            bad[position] ^= 1 << bit;
            fs::write(&path, &bad).unwrap();
            match Wal::open(&RealDisk, &dir, &start()) {
                Err(Error::Corrupt { .. } | Error::SnapshotMissing { .. }) => {}
                Ok((_, contents)) if contents == whole => silent += 1,
                Ok((_, contents)) => panic!("byte {position} bit {bit}: {} entries", contents.entries.len()),
                Err(error) => panic!("byte {position} bit {bit}: {error}"),
            }
        }
    }
    // Padding and the unused high bits of a varint have no meaning. Everything else was refused.
    assert!(silent * 16 < tried, "{silent} of {tried} flips are harmless");
}

#[test]
fn a_length_of_any_size_is_refused_before_it_is_allocated() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("wal");
    let (path, bytes, frames) = three(&dir);
    for length in [u64::MAX, 1 << 55, 0x81ff_ffff_ffff_ffff, 0x8700_0000_0000_0001] {
        let mut bad = bytes.clone();
        bad[frames[3].0..frames[3].0 + 8].copy_from_slice(&length.to_le_bytes());
        fs::write(&path, &bad).unwrap();
        assert!(
            matches!(Wal::open(&RealDisk, &dir, &start()), Err(Error::Corrupt { .. })),
            "{length:x}"
        );
    }
}

#[test]
fn snap_files_are_found_by_their_record_and_bad_ones_set_aside() {
    let temp = tempfile::tempdir().unwrap();
    let snapshotter = Snapshotter::new(RealDisk, temp.path());
    let snapshot = |index, term| Snapshot {
        data: Bytes::from_static(b"{}"),
        metadata: Some(SnapshotMetadata {
            conf_state: record(index, term).conf_state,
            index,
            term,
        }),
    };
    assert_eq!(snapshotter.load_newest(&[record(5, 1)]).unwrap(), None);
    for (index, term) in [(5, 1), (9, 1), (12, 2)] {
        snapshotter.save(&snapshot(index, term)).unwrap();
    }
    let all = [record(5, 1), record(9, 1)];
    assert_eq!(
        snapshotter.load_newest(&all).unwrap(),
        Some(snapshot(9, 1)),
        "12 has no record"
    );
    let path = temp.path().join("0000000000000001-0000000000000009.snap");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(snapshotter.load_newest(&all).unwrap(), Some(snapshot(5, 1)));
    assert!(path.with_extension("snap.broken").exists());
    fs::write(snapshotter.database_path(7), b"old").unwrap();
    fs::write(snapshotter.database_path(12), b"new").unwrap();
    fs::write(temp.path().join("tmp123"), b"").unwrap();
    snapshotter.clean(12).unwrap();
    assert!(!snapshotter.database_path(7).exists() && snapshotter.database_path(12).exists());
    snapshotter.purge(1).unwrap();
    let left: Vec<_> = fs::read_dir(temp.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(
        left.iter()
            .filter(|name| name.to_str().unwrap().ends_with(".snap"))
            .count(),
        1,
        "{left:?}"
    );
}
