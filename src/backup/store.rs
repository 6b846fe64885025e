//! Where backups lie: an S3 bucket or a directory, under one face.
//!
//! Invariants:
//! - An object appears whole or not at all: multipart uploads are completed or aborted, files are renamed into place.
//! - Memory does not grow with the object.
//! - An error names the field of the manifest that can cure it.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use tokio::fs;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{directory, s3};

/// A stream of an object's bytes.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;

/// Where backups go. Made from `spec.destination` of an `EtcdBackup` and the Secret that it names.
#[derive(Debug, Clone)]
pub enum Destination {
    /// An S3 bucket.
    S3(s3::Location),
    /// A directory; keys are paths below it.
    Directory(PathBuf),
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key that would leave the store, or none.
    #[error("key {key:?} is not a plain relative path; write one such as \"backups/main\"")]
    Key {
        /// The key.
        key: String,
    },
    /// The file system refused.
    #[error("{what} {path}: {source}")]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The S3 server refused, or is not reached.
    #[error("{field}: {doing} {uri}: {reason}; {remedy}")]
    S3 {
        /// The field of the manifest that is most likely at fault.
        field: &'static str,
        /// What was being done.
        doing: &'static str,
        /// The bucket or object.
        uri: String,
        /// What the server said.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The destination cannot be used at all.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field at fault.
        field: &'static str,
        /// Why, and what to write instead.
        reason: String,
    },
}

impl Error {
    /// True for a trouble that may be over by itself.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Key { .. } | Error::Invalid { .. } => false,
            Error::File { .. } => true,
            // Fields that only a human edits; an endpoint may merely be away, and "destination.s3" is all else.
            Error::S3 { field, .. } => matches!(*field, "destination.s3.endpoint" | "destination.s3"),
        }
    }
}

/// An opened destination.
#[derive(Debug, Clone)]
pub enum Store {
    /// An S3 bucket.
    S3(s3::Bucket),
    /// A directory.
    Directory(PathBuf),
}

impl Store {
    /// Prepares a destination. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Invalid`]: an endpoint that is no URL, plain http without `allowHTTP`, a CA bundle that does not parse.
    pub fn open(destination: &Destination) -> Result<Store, Error> {
        Ok(match destination {
            Destination::S3(location) => Store::S3(s3::Bucket::new(location)?),
            Destination::Directory(path) => Store::Directory(path.clone()),
        })
    }

    /// Stores a file under a key, replacing what is there.
    ///
    /// # Errors
    /// See [`Error`]; then nothing of it is visible.
    pub async fn put_file(&self, key: &str, path: &Path) -> Result<(), Error> {
        let open = |error| Error::File {
            what: "reading",
            path: path.into(),
            source: error,
        };
        let file = fs::File::open(path).await.map_err(open)?;
        match self {
            Store::S3(bucket) => bucket.put(key, file).await,
            Store::Directory(root) => directory::write(root, key, file).await,
        }
    }

    /// Opens an object for reading; `None` when there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: &str) -> Result<Option<Reader>, Error> {
        match self {
            Store::S3(bucket) => bucket.get(key).await,
            Store::Directory(root) => directory::read(root, key).await,
        }
    }

    /// Reads a small object whole, at most 1 MiB of it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_small(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(reader) = self.get(key).await? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = reader.take(1 << 20).read_to_end(&mut bytes).await;
        read.map_err(|source| Error::File {
            what: "reading",
            path: self.uri(key).into(),
            source,
        })?;
        Ok(Some(bytes))
    }

    /// Deletes an object; one that is not there counts as deleted.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        match self {
            Store::S3(bucket) => bucket.delete(key).await,
            Store::Directory(root) => directory::remove(root, key).await,
        }
    }

    /// All keys below a prefix, sorted.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        match self {
            Store::S3(bucket) => bucket.list(prefix).await,
            Store::Directory(root) => directory::list(root, prefix).await,
        }
    }

    /// How a key is shown to people.
    pub fn uri(&self, key: &str) -> String {
        match self {
            Store::S3(bucket) => bucket.uri(key),
            Store::Directory(root) => format!("file://{}", root.join(key).display()),
        }
    }
}
