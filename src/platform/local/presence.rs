//! Whether a member's data is there, gone, or merely out of reach.
//!
//! Invariant: what may come back is never called gone. A link that leads nowhere, a file system that is not mounted, a
//! directory that cannot be read: each proves nothing about the data (only loss that is proven lets a recovery act alone).

use super::records::Layout;
use crate::plan::resources::short_hash;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is known of a member's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    There,
    /// The place can be seen, and there is none.
    Absent,
    /// The place cannot be seen; why, and what to do.
    OutOfReach(String),
}

/// Looks for a member's write-ahead log: etcd calls a directory initialised by the same test (server/storage/wal, Exist).
/// `own_disk`: it lay on another file system than the cluster's directory when it was last seen.
pub fn of_log(layout: &Layout, name: &str, own_disk: bool) -> Presence {
    let log = log(layout, name);
    let out_of_reach =
        |path: &Path, why: &std::io::Error| Presence::OutOfReach(format!("{} cannot be read: {why}", path.display()));
    match fs::read_dir(&log) {
        Ok(entries) => {
            for entry in entries {
                match entry {
                    Ok(entry) if entry.path().extension().is_some_and(|extension| extension == "wal") => {
                        return Presence::There;
                    }
                    Ok(_) => {}
                    Err(error) => return out_of_reach(&log, &error),
                }
            }
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(error) => return out_of_reach(&log, &error),
    }
    // Nothing there. From the cluster's directory downward: where does the path end?
    let mut deepest = layout.root().to_owned();
    let below = log.strip_prefix(layout.root()).unwrap_or(&log).to_owned();
    for part in &below {
        let next = deepest.join(part);
        match fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_symlink() && fs::metadata(&next).is_err() => {
                let to = fs::read_link(&next).unwrap_or_default();
                return Presence::OutOfReach(format!(
                    "{} leads to {}, which is not there: mount the disk that it is on, or delete the link if the data is \
                     gone for good",
                    next.display(),
                    to.display()
                ));
            }
            Ok(_) => deepest = next,
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return out_of_reach(&next, &error),
        }
    }
    if own_disk && device(&deepest) == device(layout.root()) {
        return Presence::OutOfReach(format!(
            "the file system that {} was on is not mounted: mount it there",
            layout.of(name, "data").display()
        ));
    }
    Presence::Absent
}

/// Whether a member's log lies on another file system than the cluster's directory.
pub fn own_disk(layout: &Layout, name: &str) -> bool {
    match (device(&log(layout, name)), device(layout.root())) {
        (Some(log), Some(root)) => log != root,
        _ => false,
    }
}

/// A short hash over names, sizes and times of the files of a member's data: another one after somebody changed them.
pub fn print(layout: &Layout, name: &str) -> Option<String> {
    let member = layout.of(name, "data").join("member");
    let mut files = Vec::new();
    for part in ["wal", "snap"] {
        for entry in fs::read_dir(member.join(part)).ok()?.flatten() {
            let meta = entry.metadata().ok()?;
            files.push(format!(
                "{part}/{} {} {} {}.{}",
                entry.file_name().display(),
                meta.ino(),
                meta.len(),
                meta.mtime(),
                meta.mtime_nsec()
            ));
        }
    }
    files.sort();
    Some(short_hash(&files.join("\n")))
}

fn log(layout: &Layout, name: &str) -> PathBuf {
    layout.of(name, "data").join("member").join("wal")
}

fn device(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_out_of_reach(presence: &Presence, words: &str) -> bool {
        matches!(presence, Presence::OutOfReach(why) if why.contains(words))
    }

    #[test]
    fn there_absent_and_out_of_reach_are_told_apart() {
        let dir = tempfile::tempdir().expect("temp dir");
        let layout = Layout::new(dir.path(), "demo");
        fs::create_dir_all(layout.root()).expect("makes");
        assert_eq!(of_log(&layout, "a", false), Presence::Absent, "no directory at all");

        // The member's data is on a disk of its own, behind a link.
        let disk = dir.path().join("disk");
        let wal = disk.join("member/wal");
        fs::create_dir_all(&wal).expect("makes");
        fs::create_dir_all(layout.member("a")).expect("makes");
        std::os::unix::fs::symlink(&disk, layout.of("a", "data")).expect("links");
        assert_eq!(of_log(&layout, "a", false), Presence::Absent, "begun, no log yet");
        fs::write(wal.join("0.wal"), b"").expect("writes");
        assert_eq!(of_log(&layout, "a", false), Presence::There);

        let away = dir.path().join("away");
        fs::rename(&disk, &away).expect("takes the disk away");
        let gone = of_log(&layout, "a", false);
        assert!(is_out_of_reach(&gone, "mount the disk"), "{gone:?}");
        fs::rename(&away, &disk).expect("brings it back");
        assert_eq!(of_log(&layout, "a", false), Presence::There);
    }

    #[test]
    fn a_file_system_that_is_not_mounted_is_no_loss() {
        let dir = tempfile::tempdir().expect("temp dir");
        let layout = Layout::new(dir.path(), "demo");
        // An empty mount point, as it is seen when nothing is mounted there.
        fs::create_dir_all(layout.of("a", "data")).expect("makes");
        assert_eq!(of_log(&layout, "a", false), Presence::Absent);
        let presence = of_log(&layout, "a", true);
        assert!(is_out_of_reach(&presence, "is not mounted"), "{presence:?}");
        assert!(!own_disk(&layout, "a"));
    }
}
