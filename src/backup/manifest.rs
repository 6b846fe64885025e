//! The manifest beside each artifact: what it holds, so that it can be restored when nothing else is left.
//!
//! Invariants:
//! - The manifest is written last. An artifact without one is no backup, however whole it looks.
//! - It says enough to check the artifact byte for byte and content for content, and names the cluster that it came from.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Newest format of the manifest; readers refuse a newer one. 2 added encryption, and only encrypted artifacts need it.
pub const FORMAT: u32 = 2;
/// What is appended to the artifact's key.
pub const SUFFIX: &str = ".manifest.json";

/// How an artifact is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// The snapshot as `etcdctl snapshot save` writes it: `etcdutl` reads it as it is.
    None,
    /// Zstandard; `zstd -d` gives the snapshot.
    #[default]
    Zstd,
}

/// How an artifact is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// The scheme: [`SCHEME`].
    pub scheme: String,
    /// Names the key without telling it.
    #[serde(rename = "keyID")]
    pub key_id: String,
}

/// The scheme of [`super::seal`].
pub const SCHEME: &str = "qrseal1-chacha20poly1305";

/// How thoroughly a backup was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verification {
    /// Read back from the store, opened, and its hash compared.
    Hash,
    /// Restored into a throw-away data directory as well, and hash, revision and key count compared.
    Restore,
}

/// See the module. Field names are camel case in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The backup's name.
    pub backup: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster id that members call themselves by, in hex.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// The member that it was taken from, in hex.
    #[serde(rename = "memberID")]
    pub member_id: String,
    /// The version that the member stated.
    pub etcd_version: String,
    /// The revision of the content.
    pub revision: i64,
    /// The raft term when it was taken.
    pub raft_term: u64,
    /// Keys and revisions of keys in it, as `etcdutl snapshot status` counts them.
    pub keys: u64,
    /// Keys that a client saw at that revision, by the member's own count; absent when it could not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_keys: Option<u64>,
    /// `HashKV` at `revision`.
    pub hash: u32,
    /// The compacted revision that `hash` begins at; -1 when nothing was compacted.
    pub compact_revision: i64,
    /// Bytes of the snapshot before compression, its SHA-256 trailer included.
    pub snapshot_bytes: u64,
    /// SHA-256 of the snapshot before compression, in hex.
    pub snapshot_sha256: String,
    /// The object's key or the file's name.
    pub artifact: String,
    /// Bytes of the artifact as stored.
    pub artifact_bytes: u64,
    /// SHA-256 of the artifact as stored, in hex.
    pub artifact_sha256: String,
    /// How the artifact is compressed.
    pub compression: Compression,
    /// How it is encrypted (after it was compressed), if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// When the snapshot was taken.
    pub taken_at: Timestamp,
    /// When it was read back from the store and compared; absent when it was stored with `verify: None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Timestamp>,
}

impl Manifest {
    /// Parses a manifest.
    ///
    /// # Errors
    /// Not JSON, a field missing, or a format newer than this program: the text says which.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, String> {
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if manifest.format > FORMAT {
            return Err(format!(
                "its format is {}, this program reads up to {FORMAT}: use a newer one",
                manifest.format
            ));
        }
        Ok(manifest)
    }
}
