//! Backups: a snapshot streamed from a member into a store, proven by opening it, and brought back for a restore.
//!
//! What is due when is decided in [`crate::plan::backup`]; this module carries it out.
//!
//! Invariants:
//! - A backup counts once its manifest is written, which happens last and only after the content was checked.
//! - Verification reads the artifact back from the store and opens it; nothing that was not read back is called verified.
//! - Memory does not grow with the database. A spool file of the database's size is needed while a backup is taken or read.
//! - A restore never starts from an artifact whose checksum or hash differs from its manifest.

pub mod address;
mod directory;
pub mod fetch;
pub mod in_pod;
pub mod manifest;
pub mod mounts;
pub mod s3;
pub mod seal;
pub mod store;
pub mod take;
pub mod tool;
pub mod trial;
pub mod work;

use std::path::PathBuf;

pub use manifest::{Compression, Manifest, Verification};
pub use store::{Destination, Store};
pub use tool::Etcdutl;

/// Why a backup was not taken, not proven or not read. The text names field, file or object and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The member did not give its snapshot.
    #[error("taking the snapshot: {0}")]
    Member(#[from] crate::member::Error),
    /// The stream broke off, or is not what the member hashed.
    #[error("the snapshot of {endpoint} is {what}; it was not stored, the next try takes a new one")]
    Stream {
        /// Client URL of the member.
        endpoint: String,
        /// What is wrong with it.
        what: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A spool file could not be written or read.
    #[error("{what} {path}: {source}; the spool directory needs as much free space as the database")]
    Spool {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// `etcdutl` or a throw-away member did not accept a snapshot, or could not be run.
    #[error("{0}")]
    Tool(String),
    /// What was read differs from what was stored.
    #[error("{uri} is damaged: {what}; it is not used, choose another backup")]
    Damaged {
        /// The object.
        uri: String,
        /// What differs.
        what: String,
    },
    /// There is no such backup.
    #[error("{uri} does not exist: there is no such backup; check destination and key")]
    Missing {
        /// The manifest's address.
        uri: String,
    },
    /// A manifest that cannot be read.
    #[error("{uri} is not a usable manifest: {reason}")]
    Manifest {
        /// Its address.
        uri: String,
        /// Why.
        reason: String,
    },
    /// It is encrypted, and the right key is not at hand.
    #[error("{uri} is encrypted with key {wanted}, {found}: name the Secret with that key in encryptionSecretRef")]
    Sealed {
        /// The artifact's address.
        uri: String,
        /// Id of the key that is needed.
        wanted: String,
        /// What is there instead, in words.
        found: String,
    },
    /// The key belongs to another cluster.
    #[error(
        "{uri} holds a backup of cluster {found} (id {found_id}), not of {wanted}: give this cluster a prefix of its own in destination"
    )]
    Foreign {
        /// The manifest's address.
        uri: String,
        /// The cluster named in it.
        found: String,
        /// Its id.
        found_id: String,
        /// The cluster that is being backed up.
        wanted: String,
    },
    /// It took longer than `spec.timeout`.
    #[error("timeout: the backup was not done within {0:?}; raise spec.timeout or look at the store's speed")]
    Timeout(std::time::Duration),
}

impl Error {
    /// True for a trouble that may be over by itself: another try is worth it without anybody's help.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Member(_) | Error::Stream { .. } | Error::Spool { .. } | Error::Tool(_) | Error::Timeout(_) => true,
            // What was stored is gone or differs from what was sent: the next try stores it anew.
            Error::Damaged { .. } | Error::Missing { .. } => true,
            Error::Store(error) => error.may_pass(),
            Error::Manifest { .. } | Error::Foreign { .. } | Error::Sealed { .. } => false,
        }
    }
}

/// Reports how far a long piece of work has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: &'static str,
    /// Bytes done.
    pub bytes: u64,
}
