//! Files that must never be seen half written.
//!
//! Invariant: after a crash at any moment a file holds its old content or its new content, and nobody but the owner
//! of this process can read it (keys lie among them).

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that cannot be read, written or understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The content is not what this program writes.
    #[error("{} is damaged ({why}); it was written by quorate and must not be edited: restore it, or remove it if you accept that what it says is forgotten", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Wraps an I/O error with what was tried on which path.
pub fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { verb, path, source }
}

/// Makes a directory and its parents, for the owner alone.
pub fn make_directory(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("make", path))
}

/// Replaces the content of `path` in one step that survives a power cut. Returns whether the content changed.
pub fn write(path: &Path, content: &[u8]) -> Result<bool, Error> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    make_directory(directory)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // Best effort: the error that is reported is the one that matters.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed("write", path)).map(|()| true)
}

/// As [`write`], for what is written again every second and may be a moment old after a power cut.
pub fn write_unsynced(path: &Path, content: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(failed("write", path))
}

/// [`write`] of a value as JSON that a human can read.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<bool, Error> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| Error::Damaged {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    text.push(b'\n');
    write(path, &text)
}

/// The whole of a file, or nothing when there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// A value that [`write_json`] wrote, or nothing when there is no file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let Some(content) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&content)
        .map(Some)
        .map_err(|error| Error::Damaged {
            path: path.to_owned(),
            why: error.to_string(),
        })
}

/// Removes a file or a directory with all that is in it; that there is none is fine.
pub fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Copies a directory with all that is in it, and syncs the copy, so that it can be relied upon at once.
pub fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    make_directory(to)?;
    for entry in fs::read_dir(from).map_err(failed("list", from))? {
        let entry = entry.map_err(failed("list", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(failed("inspect", &source))?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target).map_err(failed("copy", &source))?;
            File::open(&target)
                .and_then(|file| file.sync_all())
                .map_err(failed("sync", &target))?;
        }
    }
    File::open(to)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync", to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_written_file_is_private_and_leaves_no_temporary_behind() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("deep/er/key.pem");
        assert!(write(&path, b"one").expect("writes"));
        assert!(
            !write(&path, b"one").expect("writes"),
            "same content is not written again"
        );
        assert!(write(&path, b"two").expect("writes"));
        assert_eq!(fs::metadata(&path).expect("meta").permissions().mode() & 0o777, 0o600);
        let names: Vec<_> = fs::read_dir(path.parent().expect("parent")).expect("list").collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn a_damaged_file_is_named_and_a_missing_one_is_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("volume.json");
        assert_eq!(read_json::<u32>(&path).expect("reads"), None);
        fs::write(&path, "{").expect("writes");
        assert!(
            read_json::<u32>(&path)
                .expect_err("damaged")
                .to_string()
                .contains("volume.json")
        );
    }

    #[test]
    fn a_copied_tree_is_equal() {
        let dir = tempfile::tempdir().expect("temp dir");
        write(&dir.path().join("a/wal/0.wal"), b"log").expect("writes");
        write(&dir.path().join("a/snap/db"), b"db").expect("writes");
        copy_tree(&dir.path().join("a"), &dir.path().join("b")).expect("copies");
        assert_eq!(fs::read(dir.path().join("b/wal/0.wal")).expect("reads"), b"log");
        assert_eq!(fs::read(dir.path().join("b/snap/db")).expect("reads"), b"db");
    }
}
