//! Taking one backup: stream, check, store, read back.
//!
//! Invariants:
//! - The snapshot is opened and compared with the member's own hash before anything is stored.
//! - The manifest goes last. When the backup fails before that, what was stored is deleted again.
//! - An object of another cluster is never replaced.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fetch::{Digested, read_manifest, unpack};
use super::manifest::{Encryption, FORMAT, SCHEME, SUFFIX};
use super::seal;
use super::trial;
use super::{Compression, Error, Etcdutl, Manifest, Progress, Store, Verification};
use crate::member::Member;

/// A piece of the stream must come within this time.
const PIECE: Duration = Duration::from_secs(30);
/// Bytes of the SHA-256 that ends a snapshot.
const TRAILER: usize = 32;

/// One backup to take.
#[derive(Debug, Clone)]
pub struct Job {
    /// The backup's name; part of the key.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster id that members state; nothing of another cluster is overwritten.
    pub cluster_id: u64,
    /// The artifact's key.
    pub key: String,
    /// How the artifact is compressed.
    pub compression: Compression,
    /// What it is encrypted with, if it is.
    pub seal: Option<seal::Key>,
    /// How it is verified; none only stores it.
    pub verify: Option<Verification>,
    /// All must be done within this time.
    pub timeout: Duration,
    /// A directory for spool files; what is in it afterwards is removed.
    pub spool: PathBuf,
    /// The tool that opens snapshots.
    pub etcdutl: Etcdutl,
    /// The server that a restored one is opened with.
    pub server: trial::Server,
}

/// A backup that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What it holds.
    pub manifest: Manifest,
    /// Where the artifact lies.
    pub uri: String,
    /// When it was read back and compared, if it was asked for.
    pub verified: Option<Timestamp>,
}

impl Job {
    /// Takes the backup from a member.
    ///
    /// # Errors
    /// See [`Error`]; then the store holds nothing that counts as this backup.
    pub async fn take(
        &self,
        member: &Member,
        store: &Store,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Taken, Error> {
        let spool = Spool::create(&self.spool, &self.name).await?;
        match tokio::time::timeout(self.timeout, self.take_within(member, store, &spool, progress)).await {
            Ok(taken) => taken,
            Err(_) => Err(Error::Timeout(self.timeout)),
        }
    }

    async fn take_within(
        &self,
        member: &Member,
        store: &Store,
        spool: &Spool,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Taken, Error> {
        let key = self.key.clone();
        self.refuse_foreign(store, &key).await?;
        let stated = member.status().await?;
        let snapshot = spool.path("snapshot.db");
        let streamed = self.stream(member, &snapshot, progress).await?;
        let status = self.etcdutl.status(&snapshot).await?;
        let hash = self.etcdutl.hash_kv(&snapshot, status.revision).await?;
        self.compare_with_source(member, hash.hash, hash.hash_revision, hash.compact_revision)
            .await?;

        let packed = match (self.compression, &self.seal) {
            (Compression::None, None) => snapshot.clone(),
            (compression, seal) => pack(&snapshot, spool.path("packed"), compression, seal.clone()).await?,
        };
        let artifact = digest(&packed).await?;
        progress(Progress {
            step: "storing",
            bytes: artifact.bytes,
        });
        store.put_file(&key, &packed).await?;
        let mut manifest = Manifest {
            format: if self.seal.is_some() { FORMAT } else { 1 },
            backup: self.name.clone(),
            cluster: self.cluster.clone(),
            cluster_id: format!("{:x}", self.cluster_id),
            member_id: format!("{:x}", stated.member_id),
            etcd_version: stated.version.clone(),
            revision: status.revision,
            raft_term: stated.term,
            keys: status.total_key,
            live_keys: member.count_keys(status.revision).await.ok(),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            snapshot_bytes: streamed.bytes,
            snapshot_sha256: streamed.sha256,
            artifact: key.clone(),
            artifact_bytes: artifact.bytes,
            artifact_sha256: artifact.sha256,
            compression: self.compression,
            encryption: self.seal.as_ref().map(|key| Encryption {
                scheme: SCHEME.into(),
                key_id: key.id().to_owned(),
            }),
            taken_at: Timestamp::now(),
            verified: None,
        };
        let finished = self
            .verify_and_publish(store, &key, &mut manifest, spool, progress)
            .await;
        if finished.is_err()
            && let Err(error) = store.delete(&key).await
        {
            tracing::warn!(%error, "an artifact that did not become a backup stays in the store");
        }
        finished?;
        Ok(Taken {
            uri: store.uri(&key),
            verified: manifest.verified,
            manifest,
        })
    }

    /// Reads the artifact back and opens it, then writes the manifest.
    async fn verify_and_publish(
        &self,
        store: &Store,
        key: &str,
        manifest: &mut Manifest,
        spool: &Spool,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), Error> {
        if let Some(verification) = self.verify {
            progress(Progress {
                step: "verifying",
                bytes: manifest.artifact_bytes,
            });
            let back = spool.path("back.db");
            unpack(store, manifest, self.seal.as_ref(), &back, progress).await?;
            let hash = self.etcdutl.hash_kv(&back, manifest.revision).await?;
            compare(store, key, "hash", &hash.hash, &manifest.hash)?;
            if verification == Verification::Restore {
                let data = spool.path("restored");
                self.etcdutl.restore_to(&back, &data).await?;
                let found = self.server.look(&data, manifest.revision).await?;
                compare(store, key, "hash in a member", &found.hash, &manifest.hash)?;
                // A key space that was never written has revision 1 for a member, and no revision at all for the tool.
                let revision = manifest.revision.max(1);
                compare(store, key, "revision in a member", &found.revision, &revision)?;
                if let Some(keys) = manifest.live_keys {
                    compare(store, key, "count of keys in a member", &found.keys, &keys)?;
                }
            }
            manifest.verified = Some(Timestamp::now());
        }
        let file = spool.path("manifest.json");
        let json = serde_json::to_vec_pretty(manifest).map_err(|error| Error::Tool(format!("manifest: {error}")))?;
        fs::write(&file, json).await.map_err(|source| Error::Spool {
            what: "writing",
            path: file.clone(),
            source,
        })?;
        store.put_file(&format!("{key}{SUFFIX}"), &file).await?;
        Ok(())
    }

    async fn refuse_foreign(&self, store: &Store, key: &str) -> Result<(), Error> {
        let found = match read_manifest(store, key).await {
            Ok(found) => found,
            Err(Error::Missing { .. }) => return Ok(()),
            Err(other) => return Err(other),
        };
        if found.cluster_id == format!("{:x}", self.cluster_id) {
            return Ok(());
        }
        Err(Error::Foreign {
            uri: store.uri(&format!("{key}{SUFFIX}")),
            found: found.cluster,
            found_id: found.cluster_id,
            wanted: self.cluster.clone(),
        })
    }

    /// Streams the snapshot into a file and checks the SHA-256 that ends it.
    async fn stream(
        &self,
        member: &Member,
        path: &Path,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Digested, Error> {
        let spool = |source| Error::Spool {
            what: "writing",
            path: path.into(),
            source,
        };
        let broken = |what: String| Error::Stream {
            endpoint: member.endpoint().into(),
            what,
        };
        let mut stream = member.snapshot().await?;
        let mut file = fs::File::create(path).await.map_err(spool)?;
        let (mut content, mut whole, mut bytes) = (Sha256::new(), Sha256::new(), 0u64);
        // The last 32 bytes seen so far: they are the trailer if nothing follows.
        let mut tail: Vec<u8> = Vec::new();
        let mut complete = false;
        loop {
            let piece = tokio::time::timeout(PIECE, stream.message()).await;
            let piece = piece.map_err(|_| broken(format!("stuck: nothing came for {PIECE:?}")))?;
            let Some(piece) = piece.map_err(|error| broken(format!("broken off: {error}")))? else {
                break;
            };
            let blob = piece.blob();
            file.write_all(blob).await.map_err(spool)?;
            whole.update(blob);
            tail.extend_from_slice(blob);
            if tail.len() > TRAILER {
                let settled = tail.len() - TRAILER;
                content.update(&tail[..settled]);
                tail.drain(..settled);
            }
            bytes += blob.len() as u64;
            complete = piece.remaining_bytes() == 0;
            progress(Progress { step: "reading", bytes });
        }
        file.flush().await.map_err(spool)?;
        if !complete || tail.len() != TRAILER {
            return Err(broken(format!("cut off after {bytes} bytes")));
        }
        if content.finalize().as_slice() != tail {
            return Err(broken("not what the member hashed: its SHA-256 differs".into()));
        }
        Ok(Digested {
            bytes,
            sha256: hex(&whole.finalize()),
        })
    }

    /// Compares the snapshot's hash with the running member's at the same revision. A compaction that went on meanwhile makes
    /// the two incomparable; the SHA-256 has been checked then, and nothing more can be said.
    async fn compare_with_source(
        &self,
        member: &Member,
        hash: u32,
        revision: i64,
        compacted: i64,
    ) -> Result<(), Error> {
        match member.hash_kv(revision).await {
            Ok(live) if live.compact_revision == compacted && live.revision == revision && live.hash != hash => {
                Err(Error::Stream {
                    endpoint: member.endpoint().into(),
                    what: format!(
                        "not what the member holds: hash {hash} at revision {revision}, the member says {}",
                        live.hash
                    ),
                })
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::info!(%error, revision, "the snapshot was not compared with its source");
                Ok(())
            }
        }
    }
}

fn compare<T: PartialEq + std::fmt::Display>(
    store: &Store,
    key: &str,
    what: &str,
    found: &T,
    wanted: &T,
) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Damaged {
        uri: store.uri(key),
        what: format!("its {what} is {found}, its manifest says {wanted}"),
    })
}

/// Compresses and encrypts, in this order, what is asked for of the two.
async fn pack(from: &Path, to: PathBuf, compression: Compression, seal: Option<seal::Key>) -> Result<PathBuf, Error> {
    let (from, path) = (from.to_owned(), to.clone());
    let packed = tokio::task::spawn_blocking(move || {
        let source = std::fs::File::open(from)?;
        let file = std::fs::File::create(&to)?;
        match seal {
            None => compress(source, file, compression)?.sync_all(),
            Some(key) => compress(source, seal::Sealer::new(file, &key)?, compression)?
                .finish()?
                .sync_all(),
        }
    });
    let failed = |source| Error::Spool {
        what: "packing into",
        path: path.clone(),
        source,
    };
    packed
        .await
        .map_err(|error| failed(std::io::Error::other(error)))?
        .map_err(failed)?;
    Ok(path)
}

fn compress<W: std::io::Write>(source: std::fs::File, mut target: W, compression: Compression) -> std::io::Result<W> {
    let mut source = std::io::BufReader::with_capacity(256 * 1024, source);
    match compression {
        Compression::None => {
            std::io::copy(&mut source, &mut target)?;
            Ok(target)
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(target, 3)?;
            encoder.include_checksum(true)?;
            std::io::copy(&mut source, &mut encoder)?;
            encoder.finish()
        }
    }
}

/// Size and SHA-256 of a file.
async fn digest(path: &Path) -> Result<Digested, Error> {
    let failed = |source| Error::Spool {
        what: "reading",
        path: path.into(),
        source,
    };
    let mut file = fs::File::open(path).await.map_err(failed)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    loop {
        let n = file.read(&mut buffer).await.map_err(failed)?;
        if n == 0 {
            return Ok(Digested {
                bytes,
                sha256: hex(&hash.finalize()),
            });
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// Lowercase hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A directory of spool files; removed when dropped.
struct Spool {
    dir: PathBuf,
}

impl Spool {
    async fn create(parent: &Path, name: &str) -> Result<Spool, Error> {
        let dir = parent.join(format!("spool-{name}"));
        let failed = |source| Error::Spool {
            what: "creating",
            path: dir.clone(),
            source,
        };
        // Left over by a process that was killed.
        fs::remove_dir_all(&dir).await.ok();
        fs::create_dir_all(&dir).await.map_err(failed)?;
        Ok(Spool { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "spool files stay behind");
        }
    }
}
