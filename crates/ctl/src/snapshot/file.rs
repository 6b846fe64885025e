//! Is a snapshot file whole? (etcdutl/snapshot/v3_snapshot.go)
//!
//! Invariants: a database is a multiple of 512 bytes long, and one that came over the network has its SHA-256 behind it, 32 bytes; so
//! the length alone tells which of the two a file is, and every other length is a cut.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

const SECTOR: u64 = 512;
const HASH: u64 = 32;

/// Why a snapshot file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("read snapshot {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its length is that of no snapshot.
    #[error("snapshot {} is truncated: {len} bytes are neither a database nor a database with its checksum; take the snapshot again or use another copy", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
    /// Its contents are not what was saved.
    #[error("snapshot {} is damaged: expected sha256 {expected}, got {actual}; use another copy of it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the file says, in hex.
        expected: String,
        /// What its contents give, in hex.
        actual: String,
    },
    /// There is no checksum.
    #[error("snapshot missing hash but --skip-hash-check=false: {} has no checksum, as when it was copied from a data dir (pass --skip-hash-check for that) or was truncated", path.display())]
    NoHash {
        /// The file.
        path: PathBuf,
    },
}

/// How a file is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes of the database.
    pub database_len: u64,
    /// Whether a checksum follows.
    pub has_hash: bool,
}

/// Looks at the length of a file.
pub(crate) fn layout(path: &Path) -> Result<Layout, FileError> {
    let metadata = fs::metadata(path).map_err(|source| FileError::Io {
        path: path.to_owned(),
        source,
    })?;
    let len = metadata.len();
    match len % SECTOR {
        0 if len > 0 => Ok(Layout {
            database_len: len,
            has_hash: false,
        }),
        HASH if len > HASH => Ok(Layout {
            database_len: len - HASH,
            has_hash: true,
        }),
        _ => Err(FileError::Truncated {
            path: path.to_owned(),
            len,
        }),
    }
}

/// Reads the file once: copies the database to `out` and compares the checksum, if there is one.
pub(crate) fn copy_verified(path: &Path, layout: Layout, out: &mut impl Write) -> Result<(), FileError> {
    let error = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = fs::File::open(path).map_err(error)?;
    let mut hash = Sha256::new();
    let mut left = layout.database_len;
    let mut chunk = vec![0; 1 << 20];
    while left > 0 {
        let want = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut chunk[..want]).map_err(error)?;
        hash.update(&chunk[..want]);
        out.write_all(&chunk[..want]).map_err(error)?;
        left -= want as u64;
    }
    if layout.has_hash {
        let mut expected = [0; HASH as usize];
        file.read_exact(&mut expected).map_err(error)?;
        let actual = hash.finalize();
        if actual[..] != expected {
            let (expected, actual) = (hex(&expected), hex(&actual));
            return Err(FileError::Damaged {
                path: path.to_owned(),
                expected,
                actual,
            });
        }
    }
    Ok(())
}

/// Checks a file that may carry a checksum; one without passes when its length is that of a database.
pub(crate) fn verify(path: &Path) -> Result<(), FileError> {
    let layout = layout(path)?;
    if layout.has_hash {
        copy_verified(path, layout, &mut io::sink())?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        file
    }

    fn verify(bytes: &[u8]) -> Result<Vec<u8>, FileError> {
        let file = write(bytes);
        let mut out = Vec::new();
        copy_verified(file.path(), layout(file.path())?, &mut out)?;
        Ok(out)
    }

    /// reliability H55: cut at every length that a broken stream may leave; flip bits anywhere.
    #[test]
    fn a_cut_or_changed_file_is_never_taken_for_a_whole_one() {
        let body: Vec<u8> = (0..1024u32).map(|i| (i * 7) as u8).collect();
        let mut whole = body.clone();
        whole.extend_from_slice(&Sha256::digest(&body));
        assert_eq!(verify(&whole).unwrap(), body);
        for len in 0..whole.len() {
            let cut = &whole[..len];
            match verify(cut) {
                Ok(_) => assert!(len > 0 && len % 512 == 0, "{len} bytes pass"),
                Err(FileError::Truncated { .. } | FileError::Damaged { .. }) => {}
                Err(other) => panic!("{len}: {other}"),
            }
        }
        for at in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(matches!(verify(&flipped), Err(FileError::Damaged { .. })), "byte {at}");
        }
    }
}
