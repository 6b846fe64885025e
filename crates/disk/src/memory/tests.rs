//! What the disk in memory keeps and loses.

use super::*;
use std::path::PathBuf;

fn file(disk: &MemoryDisk, name: &str) -> MemoryFile {
    disk.open(Path::new(name), Open::WriteOrCreate).unwrap()
}

fn read(disk: &MemoryDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(name), Open::Read).ok()?;
    let mut data = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut data, 0).unwrap();
    Some(data)
}

#[test]
fn what_was_synced_survives_and_the_rest_may_not() {
    let mut fates = BTreeSet::new();
    for seed in 0..200 {
        let disk = MemoryDisk::new(seed);
        let f = file(&disk, "/f");
        f.write_all_at(&[1; 1000], 0).unwrap();
        f.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        f.write_all_at(&[2; 1000], 700).unwrap();
        disk.crash();
        assert!(f.len().is_err(), "the open file is dead");
        let data = read(&disk, "/f").expect("the name is durable");
        assert_eq!(data[..700], [1; 700], "seed {seed}");
        let new = data[700..].iter().filter(|byte| **byte == 2).count();
        let zero = data[700..].contains(&0);
        fates.insert(match (data.len(), new) {
            (1000, 0) if !zero => "lost",
            (1700, 1000) => "kept",
            _ if zero => "zeroed",
            _ => "partly",
        });
    }
    assert_eq!(fates, BTreeSet::from(["lost", "kept", "zeroed", "partly"]));
}

#[test]
fn names_need_their_directory_synced() {
    let mut seen = BTreeSet::new();
    for seed in 0..50 {
        let disk = MemoryDisk::new(seed);
        disk.create_dir_all(Path::new("/a/b")).unwrap();
        disk.sync_dir(Path::new("/a")).unwrap();
        file(&disk, "/a/b/old");
        disk.sync_dir(Path::new("/a/b")).unwrap();
        disk.rename(Path::new("/a/b/old"), Path::new("/a/b/new")).unwrap();
        disk.crash();
        let names = disk.list(Path::new("/a/b")).unwrap();
        assert_eq!(names.len(), 1, "renaming is atomic");
        seen.insert(names[0].clone());
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[test]
fn a_directory_moves_with_what_it_holds() {
    let disk = MemoryDisk::new(1);
    disk.create_dir_all(Path::new("/m/wal.tmp")).unwrap();
    file(&disk, "/m/wal.tmp/0").write_all_at(b"x", 0).unwrap();
    disk.rename(Path::new("/m/wal.tmp"), Path::new("/m/wal")).unwrap();
    assert_eq!(disk.list(Path::new("/m")).unwrap(), ["wal"]);
    assert_eq!(read(&disk, "/m/wal/0").unwrap(), b"x");
    assert!(!disk.exists(Path::new("/m/wal.tmp/0")).unwrap());
    disk.remove_dir_all(Path::new("/m/wal")).unwrap();
    assert!(!disk.exists(Path::new("/m/wal/0")).unwrap());
}

#[test]
fn power_fails_in_the_middle_of_the_chosen_operation() {
    let mut kept = BTreeSet::new();
    for seed in 0..30 {
        let disk = MemoryDisk::new(seed);
        let f = file(&disk, "/f");
        disk.sync_dir(Path::new("/")).unwrap();
        assert_eq!(disk.operations(), 2);
        disk.cut_power_at(3);
        f.write_all_at(b"data", 0).unwrap();
        assert!(f.sync_data().is_err());
        assert!(disk.is_off() && f.len().is_err() && disk.open(Path::new("/f"), Open::Read).is_err());
        disk.crash();
        kept.insert(read(&disk, "/f").unwrap() == b"data");
    }
    assert_eq!(kept.len(), 2, "an interrupted sync may have done its work or not");
}

#[test]
fn a_failed_sync_loses_for_good_and_later_syncs_do_not_tell() {
    let mut lost = 0;
    for seed in 0..30 {
        let disk = MemoryDisk::new(seed);
        let f = file(&disk, "/f");
        disk.sync_dir(Path::new("/")).unwrap();
        disk.fail_at(3, io::ErrorKind::Other);
        f.write_all_at(b"data", 0).unwrap();
        assert!(f.sync_data().is_err());
        f.sync_data().unwrap();
        disk.crash();
        lost += usize::from(read(&disk, "/f").unwrap() != b"data");
    }
    assert!((5..30).contains(&lost), "{lost}");
}

#[test]
fn a_full_disk_refuses_growth_and_keeps_what_was_reserved() {
    let disk = MemoryDisk::new(1);
    let f = file(&disk, "/f");
    f.preallocate(8192).unwrap();
    disk.set_capacity(Some(12288));
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 4096);
    f.write_all_at(&[1; 8192], 0).unwrap();
    assert_eq!(f.preallocate(16384).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(f.len().unwrap(), 8192);
    assert_eq!(
        f.write_all_at(&[1; 8192], 8192).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    f.set_len(4096).unwrap();
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 8192);
}

#[test]
fn locks_exclude_until_the_file_is_dropped_or_the_machine_restarts() {
    let disk = MemoryDisk::new(1);
    let first = file(&disk, "/f");
    first.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    first.try_lock(LockKind::Flock).unwrap();
    let second = file(&disk, "/f");
    assert_eq!(
        second.try_lock(LockKind::Flock).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    second.try_lock(LockKind::OpenFileDescription).unwrap();
    drop(first);
    second.try_lock(LockKind::Flock).unwrap();
    disk.crash();
    file(&disk, "/f").try_lock(LockKind::Flock).unwrap();
}

#[test]
fn the_same_seed_gives_the_same_outcome_and_a_fork_its_own() {
    let run = |seed| {
        let disk = MemoryDisk::new(seed);
        let f = file(&disk, "/f");
        disk.sync_dir(Path::new("/")).unwrap();
        f.write_all_at(&[7; 20_000], 0).unwrap();
        let forks: Vec<_> = (0..20).map(|seed| disk.fork(seed)).collect();
        disk.crash();
        let after = |disk: &MemoryDisk| {
            disk.crash();
            read(disk, "/f")
        };
        (read(&disk, "/f"), forks.iter().map(after).collect::<BTreeSet<_>>())
    };
    assert_eq!(run(3), run(3));
    assert!(run(3).1.len() > 3);
}

#[test]
fn missing_directories_are_errors() {
    let disk = MemoryDisk::new(1);
    let path = PathBuf::from("/missing/f");
    assert_eq!(
        disk.open(&path, Open::CreateNew).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    assert_eq!(
        disk.list(Path::new("/missing")).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    disk.create_dir_all(Path::new("/missing")).unwrap();
    file(&disk, "/missing/f");
    assert_eq!(
        disk.open(&path, Open::CreateNew).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
}
