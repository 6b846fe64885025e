//! What is in a snapshot file (etcdutl/snapshot/v3_snapshot.go, Status).
//!
//! Invariant: the hash runs over every bucket's name and over its keys and values in order; it tells two snapshots apart, nothing more.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::mvccpb::KeyValue;
use serde::Serialize;
use state_machine::mvcc::Revision;
use state_machine::schema::{Bucket, STORAGE_VERSION};
use state_machine::version::Version;

use super::verify;
use crate::database::{self, Error};

/// What is in a snapshot file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// CRC-32C over everything in it.
    pub hash: u32,
    /// The revision of the newest record.
    pub revision: i64,
    /// Keys that live.
    pub total_key: usize,
    /// Bytes of the database.
    pub total_size: u64,
    /// The storage version; empty before etcd 3.6.
    pub version: String,
}

/// Checks a snapshot or db file and says what is in it. Nothing is written.
///
/// # Errors
/// [`Error::File`] when it was cut or changed, [`Error::Unsound`] when the database in it is damaged.
pub fn status(path: &Path, timeout: Option<Duration>) -> Result<Status, Error> {
    verify(path)?;
    let db = database::open(path, &database::read_only(), timeout)?;
    let read = db.read()?;
    let problems: Vec<String> = bolt::check(&read).iter().map(ToString::to_string).collect();
    if !problems.is_empty() {
        return Err(Error::Unsound {
            path: path.to_owned(),
            problems,
        });
    }
    let mut status = Status {
        total_size: read.size(),
        ..Status::default()
    };
    if let Some(meta) = read.bucket(Bucket::Meta.name())?
        && let Some(text) = meta.get(STORAGE_VERSION)?
        && let Ok(version) = String::from_utf8_lossy(&text).parse::<Version>()
    {
        status.version = version.to_string();
    }
    let mut living: HashSet<Bytes> = HashSet::new();
    for name in read.buckets()? {
        let Some(bucket) = read.bucket(&name)? else { continue };
        status.hash = crc32c::crc32c_append(status.hash, &name);
        let mut cursor = bucket.cursor();
        let mut pair = cursor.first()?;
        while let Some((key, value)) = pair {
            status.hash = crc32c::crc32c_append(status.hash, &key);
            status.hash = crc32c::crc32c_append(status.hash, &value);
            if name[..] == *Bucket::Key.name() {
                let contents = |error| Error::Contents {
                    path: path.to_owned(),
                    error,
                };
                let (revision, tombstone) = Revision::decode(&key).map_err(contents)?;
                status.revision = revision.main;
                let record = KeyValue::decode(value).map_err(|error| {
                    let text = format!("the record of revision {}/{}: {error}", revision.main, revision.sub);
                    contents(state_machine::Error::Storage(text))
                })?;
                // Copied, so that no page is held for the sake of a key.
                let key = Bytes::copy_from_slice(&record.key);
                if tombstone {
                    living.remove(&key);
                } else {
                    living.insert(key);
                }
            }
            pair = cursor.next()?;
        }
    }
    status.total_key = living.len();
    Ok(status)
}
