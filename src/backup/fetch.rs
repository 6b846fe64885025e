//! Reading backups: manifests, the newest verified one, and an artifact back into a snapshot file.
//!
//! Invariants: a file that [`fetch`] leaves behind has the checksum and the hash of its manifest; when it has not, the file is
//! removed and the error says what differs.

use std::path::Path;

use sha2::{Digest, Sha256};
use tokio::fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::manifest::{SCHEME, SUFFIX};
use super::seal::{self, Opener};
use super::take::hex;
use super::{Compression, Error, Etcdutl, Manifest, Progress, Store};

/// Size and SHA-256 of a stream of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digested {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// The manifest beside an artifact.
///
/// # Errors
/// [`Error::Missing`] when there is none, [`Error::Manifest`] when it cannot be read.
pub async fn read_manifest(store: &Store, artifact: &str) -> Result<Manifest, Error> {
    let key = format!("{artifact}{SUFFIX}");
    let bytes = store
        .get_small(&key)
        .await?
        .ok_or_else(|| Error::Missing { uri: store.uri(&key) })?;
    let mut manifest = Manifest::parse(&bytes).map_err(|reason| Error::Manifest {
        uri: store.uri(&key),
        reason,
    })?;
    // The artifact may have been moved together with its manifest.
    artifact.clone_into(&mut manifest.artifact);
    Ok(manifest)
}

/// All backups below a prefix, oldest first. What has no readable manifest is left out: it is no backup.
///
/// # Errors
/// The store cannot be listed or read.
pub async fn list(store: &Store, prefix: &str) -> Result<Vec<Manifest>, Error> {
    let mut found = Vec::new();
    for key in store.list(prefix).await? {
        let Some(artifact) = key.strip_suffix(SUFFIX) else {
            continue;
        };
        match read_manifest(store, artifact).await {
            Ok(manifest) => found.push(manifest),
            Err(Error::Manifest { uri, reason }) => tracing::warn!(uri, reason, "passed over"),
            Err(Error::Missing { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    found.sort_by(|a, b| a.taken_at.cmp(&b.taken_at).then_with(|| a.artifact.cmp(&b.artifact)));
    Ok(found)
}

/// The newest verified backup below a prefix that is `wanted`, by its manifest alone: what is left to restore from when no
/// object and no status is left.
///
/// # Errors
/// The store cannot be listed or read.
pub async fn newest(
    store: &Store,
    prefix: &str,
    wanted: impl Fn(&Manifest) -> bool,
) -> Result<Option<Manifest>, Error> {
    let all = list(store, prefix).await?;
    Ok(all.into_iter().rfind(|m| m.verified.is_some() && wanted(m)))
}

/// Brings a backup back as a snapshot file that `etcdutl snapshot restore` takes, and proves it. `seal` is the key of an
/// encrypted one.
///
/// # Errors
/// See [`Error`]; then there is no file.
pub async fn fetch(
    store: &Store,
    artifact: &str,
    seal: Option<&seal::Key>,
    into: &Path,
    etcdutl: &Etcdutl,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Manifest, Error> {
    let manifest = read_manifest(store, artifact).await?;
    let proven = async {
        unpack(store, &manifest, seal, into, progress).await?;
        let damaged = |what| Error::Damaged {
            uri: store.uri(artifact),
            what,
        };
        let hash = etcdutl.hash_kv(into, manifest.revision).await?;
        if hash.hash != manifest.hash {
            return Err(damaged(format!(
                "its hash is {}, its manifest says {}",
                hash.hash, manifest.hash
            )));
        }
        Ok(())
    };
    if let Err(error) = proven.await {
        fs::remove_file(into).await.ok();
        return Err(error);
    }
    Ok(manifest)
}

/// Deletes a backup: the manifest first, so that what is left of an interrupted deletion is no backup.
///
/// # Errors
/// What the store said.
pub async fn delete(store: &Store, artifact: &str) -> Result<(), Error> {
    store.delete(&format!("{artifact}{SUFFIX}")).await?;
    store.delete(artifact).await?;
    Ok(())
}

/// Reads an artifact, checks it against its manifest and writes the snapshot that it holds.
pub(super) async fn unpack(
    store: &Store,
    manifest: &Manifest,
    seal: Option<&seal::Key>,
    into: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), Error> {
    let uri = store.uri(&manifest.artifact);
    let spool = |source| Error::Spool {
        what: "writing",
        path: into.into(),
        source,
    };
    let mut opener = opener(manifest, seal, &uri)?;
    let mut reader = store
        .get(&manifest.artifact)
        .await?
        .ok_or_else(|| Error::Missing { uri: uri.clone() })?;
    let mut target = Target::create(into, manifest.compression).await.map_err(spool)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0u64, vec![0; 256 * 1024]);
    loop {
        let read = reader.read(&mut buffer).await;
        let n = read.map_err(|error| Error::Damaged {
            uri: uri.clone(),
            what: format!("reading it broke off: {error}"),
        })?;
        if n == 0 {
            break;
        }
        bytes += n as u64;
        if bytes > manifest.artifact_bytes {
            break;
        }
        hash.update(&buffer[..n]);
        // Content is judged by the checksum below; what does not decompress is damaged as well.
        let written = match &mut opener {
            None => target.write(&buffer[..n], manifest.snapshot_bytes).await,
            Some(opener) => match opener.push(&buffer[..n]) {
                Ok(content) => target.write(&content, manifest.snapshot_bytes).await,
                Err(error) => Err(error),
            },
        };
        written.map_err(|error| damaged(&uri, &error))?;
        progress(Progress {
            step: "reading back",
            bytes,
        });
    }
    let found = Digested {
        bytes,
        sha256: hex(&hash.finalize()),
    };
    let wanted = Digested {
        bytes: manifest.artifact_bytes,
        sha256: manifest.artifact_sha256.clone(),
    };
    if found != wanted {
        let what = if found.bytes == wanted.bytes {
            format!("its SHA-256 is {}, its manifest says {}", found.sha256, wanted.sha256)
        } else {
            format!("it has {} bytes, its manifest says {}", found.bytes, wanted.bytes)
        };
        return Err(Error::Damaged { uri, what });
    }
    if let Some(mut opener) = opener {
        let content = opener.finish().map_err(|error| damaged(&uri, &error))?;
        let written = target.write(&content, manifest.snapshot_bytes).await;
        written.map_err(|error| damaged(&uri, &error))?;
    }
    target.finish().await.map_err(spool)
}

fn damaged(uri: &str, error: &std::io::Error) -> Error {
    Error::Damaged {
        uri: uri.to_owned(),
        what: error.to_string(),
    }
}

/// What opens an encrypted artifact; nothing for one that is not encrypted.
fn opener(manifest: &Manifest, seal: Option<&seal::Key>, uri: &str) -> Result<Option<Opener>, Error> {
    let Some(encryption) = &manifest.encryption else {
        return Ok(None);
    };
    if encryption.scheme != SCHEME {
        let what = format!(
            "it is encrypted by {:?}, which this program does not know: use a newer one",
            encryption.scheme
        );
        return Err(Error::Manifest {
            uri: uri.to_owned(),
            reason: what,
        });
    }
    let found = match seal {
        Some(key) if key.id() == encryption.key_id => return Ok(Some(Opener::new(key.clone()))),
        Some(key) => format!("and the Secret holds key {}", key.id()),
        None => "and no key is given".to_owned(),
    };
    Err(Error::Sealed {
        uri: uri.to_owned(),
        wanted: encryption.key_id.clone(),
        found,
    })
}

/// The snapshot file being written, behind a decompressor where the artifact is compressed.
enum Target {
    Plain(fs::File),
    Zstd {
        decoder: Box<zstd::stream::raw::Decoder<'static>>,
        file: fs::File,
        written: u64,
    },
}

impl Target {
    async fn create(path: &Path, compression: Compression) -> std::io::Result<Target> {
        let file = fs::File::create(path).await?;
        Ok(match compression {
            Compression::None => Target::Plain(file),
            Compression::Zstd => Target::Zstd {
                decoder: Box::new(zstd::stream::raw::Decoder::new()?),
                file,
                written: 0,
            },
        })
    }

    /// `most`: a decompressed size beyond this is not what was stored.
    async fn write(&mut self, mut bytes: &[u8], most: u64) -> std::io::Result<()> {
        use zstd::stream::raw::Operation;
        match self {
            Target::Plain(file) => file.write_all(bytes).await,
            Target::Zstd { decoder, file, written } => {
                let mut out = vec![0; 512 * 1024];
                loop {
                    let step = decoder.run_on_buffers(bytes, &mut out)?;
                    bytes = &bytes[step.bytes_read..];
                    *written += step.bytes_written as u64;
                    if *written > most {
                        return Err(std::io::Error::other("it decompresses to more than its manifest says"));
                    }
                    file.write_all(&out[..step.bytes_written]).await?;
                    if bytes.is_empty() && step.bytes_written < out.len() {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn finish(self) -> std::io::Result<()> {
        let (Target::Plain(mut file) | Target::Zstd { mut file, .. }) = self;
        file.flush().await?;
        file.sync_all().await
    }
}
