//! The operating system's file system.
//!
//! Invariants: directories are made with mode 0700 and files with 0600, so that nobody else on the machine reads keys.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Disk, File, LockKind, Open};

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

static NEVER_SYNC: AtomicBool = AtomicBool::new(false);

/// From now on no file or directory of this process is synced (`--unsafe-no-fsync`): fast, and a power cut or a crash of the
/// system loses or breaks data. For tests on machines with slow disks.
pub fn never_sync() {
    NEVER_SYNC.store(true, Ordering::Relaxed);
}

fn syncs() -> bool {
    !NEVER_SYNC.load(Ordering::Relaxed)
}

/// An open file of the operating system.
#[derive(Debug)]
pub struct RealFile {
    file: fs::File,
}

impl Disk for RealDisk {
    type File = RealFile;

    fn open(&self, path: &Path, how: Open) -> io::Result<RealFile> {
        let mut options = fs::OpenOptions::new();
        options.read(true).mode(0o600);
        match how {
            Open::Read => &mut options,
            Open::Write => options.write(true),
            Open::WriteOrCreate => options.write(true).create(true),
            Open::CreateNew => options.write(true).create_new(true),
        };
        Ok(RealFile {
            file: options.open(path)?,
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if syncs() {
            fs::File::open(dir)?.sync_all()
        } else {
            Ok(())
        }
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(path)?;
        Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
    }
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        use nix::errno::Errno;
        use nix::fcntl::{FallocateFlags, fallocate};
        let wanted = i64::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match fallocate(&self.file, FallocateFlags::empty(), 0, wanted) {
            Ok(()) => Ok(()),
            // File systems without fallocate get the length alone, as etcd does.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                if self.file.metadata()?.len() < len {
                    self.file.set_len(len)?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        if syncs() { self.file.sync_data() } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<()> {
        match kind {
            LockKind::Flock => self.file.try_lock().map_err(|error| match error {
                fs::TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
                fs::TryLockError::Error(error) => error,
            }),
            LockKind::OpenFileDescription => {
                use nix::fcntl::{FcntlArg, fcntl};
                let lock = nix::libc::flock {
                    l_type: nix::libc::F_WRLCK as i16,
                    l_whence: nix::libc::SEEK_SET as i16,
                    l_start: 0,
                    l_len: 0,
                    l_pid: 0,
                };
                fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock))
                    .map(|_| ())
                    .map_err(|error| match error {
                        nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES => io::ErrorKind::WouldBlock.into(),
                        other => other.into(),
                    })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_locks_exclude_a_second_open_file() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind) in [("a", LockKind::Flock), ("b", LockKind::OpenFileDescription)] {
            let path = dir.path().join(name);
            let first = RealDisk.open(&path, Open::CreateNew).unwrap();
            first.try_lock(kind).unwrap();
            let second = RealDisk.open(&path, Open::Write).unwrap();
            assert_eq!(
                second.try_lock(kind).unwrap_err().kind(),
                io::ErrorKind::WouldBlock,
                "{kind:?}"
            );
            drop(first);
            second.try_lock(kind).unwrap();
        }
    }

    #[test]
    fn preallocate_grows_and_reads_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), Open::CreateNew).unwrap();
        file.preallocate(8192).unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        let mut buf = [1u8; 16];
        file.read_exact_at(&mut buf, 8176).unwrap();
        assert_eq!(buf, [0; 16]);
        assert_eq!(file.read_at(&mut buf, 8192).unwrap(), 0);
    }
}
