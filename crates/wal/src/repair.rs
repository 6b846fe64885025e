//! Cutting off the record that a crash left incomplete (etcd storage/wal/repair.go).
//!
//! Invariants: the file is copied to `.broken` and the copy is durable before anything is cut; only [`Error::Torn`] is
//! repaired, and only in the last segment.

use std::path::{Path, PathBuf};

use disk::{Disk, File, Open};

use crate::Error;
use crate::names::{pair_name, segments};
use crate::read::pass;
use crate::record::Segment;

/// Cuts a torn tail off. Returns the path of the copy, or `None` when there was nothing to repair.
pub fn repair<D: Disk>(disk: &D, dir: &Path) -> Result<Option<PathBuf>, Error> {
    let Some(&(sequence, first)) = segments(disk, dir)?.last() else {
        return Err(Error::NoSegment {
            dir: dir.to_owned(),
            index: 0,
        });
    };
    let path = dir.join(pair_name(sequence, first, ".wal"));
    let file = disk.open(&path, Open::Write).map_err(Error::io("opening", &path))?;
    lock(&file, &path)?;
    let last = [Segment { path, file }];
    let pass = pass(&last, u64::MAX)?;
    if pass.torn.is_none() {
        return Ok(None);
    }
    let Segment { path, file } = &last[0];
    let copy_path = dir.join(format!("{}.broken", pair_name(sequence, first, ".wal")));
    let copy = disk
        .open(&copy_path, Open::WriteOrCreate)
        .map_err(Error::io("creating", &copy_path))?;
    copy.set_len(0).map_err(Error::io("emptying", &copy_path))?;
    let len = file.len().map_err(Error::io("reading the length of", path))?;
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let n = file.read_at(&mut chunk, at).map_err(Error::io("reading", path))?;
        if n == 0 {
            break;
        }
        copy.write_all_at(&chunk[..n], at)
            .map_err(Error::io("writing", &copy_path))?;
        at += n as u64;
    }
    copy.sync_data().map_err(Error::io("syncing", &copy_path))?;
    disk.sync_dir(dir).map_err(Error::io("syncing", dir))?;
    file.set_len(pass.end).map_err(Error::io("truncating", path))?;
    file.sync_data().map_err(Error::io("syncing", path))?;
    Ok(Some(copy_path))
}

/// Takes the lock that keeps a second process out.
pub(crate) fn lock<F: File>(file: &F, path: &Path) -> Result<(), Error> {
    file.try_lock(disk::LockKind::OpenFileDescription)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => Error::Locked { path: path.to_owned() },
            _ => Error::Io {
                doing: "locking",
                path: path.to_owned(),
                source: error,
            },
        })
}
