//! One operator for one directory.
//!
//! Invariant: the lock is held by an open file, so it goes when the operator goes, however it ends.

use super::files::{self, failed};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

/// Why a directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another operator has it.
    #[error("another operator (pid {pid}) manages {}; stop it first, or choose another --dir", directory.display())]
    Taken {
        /// The directory.
        directory: PathBuf,
        /// What the lock file says.
        pid: String,
    },
    /// It cannot be made or written.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// A directory that this process alone manages, as long as it holds this value.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes `directory`, making it when it is missing.
    pub fn take(directory: &Path) -> Result<Lock, Error> {
        files::make_directory(directory)?;
        let path = directory.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::Taken {
            directory: directory.to_owned(),
            pid: holder(directory).map_or("unknown".to_owned(), |pid| pid.to_string()),
        })?;
        let written = (|| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        })();
        written.map_err(failed("write", &path))?;
        Ok(Lock { _file: file })
    }
}

/// The pid of the operator that manages `directory` now, if any does.
pub fn holder(directory: &Path) -> Option<i32> {
    let path = directory.join("lock");
    let pid = std::fs::read_to_string(&path).ok()?.trim().parse().ok()?;
    let file = File::open(&path).ok()?;
    // A lock that can be had is held by nobody; it goes again with the value.
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err().then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_operator_at_a_time() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert_eq!(holder(dir.path()), None);
        let lock = Lock::take(dir.path()).expect("takes");
        let refused = Lock::take(dir.path()).expect_err("is taken").to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        assert_eq!(holder(dir.path()), i32::try_from(std::process::id()).ok());
        drop(lock);
        assert_eq!(holder(dir.path()), None);
        Lock::take(dir.path()).expect("takes again");
    }
}
