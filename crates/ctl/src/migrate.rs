//! Moves the storage version of a stopped member's database, for an older or newer etcd (etcdutl migrate).
//!
//! Invariant: the log is never left with entries that the target version cannot carry out, unless that is forced.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bolt::Options;
use disk::RealDisk;
use prost::Message;
use proto::etcdserverpb::InternalRaftRequest;
use state_machine::schema::{Bucket, STORAGE_VERSION, TERM};

use crate::database;

/// Major and minor.
type Version = (i64, i64);

/// The first version that says in the database which it is.
const FIRST_STORED: Version = (3, 6);
/// The newest that is known.
const NEWEST: Version = (3, 7);

/// What is wanted.
#[derive(Debug)]
pub struct Migration {
    /// The data directory of a member that does not run.
    pub data_dir: PathBuf,
    /// The version to move to.
    pub target: (i64, i64),
    /// Whether to write the version although the log speaks against it.
    pub force: bool,
    /// How long to wait for the database's lock; `None`: for ever.
    pub timeout: Option<Duration>,
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    /// The database was of this version already.
    UpToDate((i64, i64)),
    /// It is now.
    Migrated((i64, i64)),
    /// It says so now, against the reason given.
    Forced((i64, i64), String),
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Done::UpToDate((major, minor)) => write!(f, "storage version up-to-date: {major}.{minor}"),
            Done::Migrated((major, minor)) => write!(f, "updated storage version: {major}.{minor}"),
            Done::Forced((major, minor), why) => {
                write!(
                    f,
                    "normal migrate failed, forcefully set storage version {major}.{minor}: {why}"
                )
            }
        }
    }
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// Its file.
    #[error(transparent)]
    Bolt(#[from] bolt::Error),
    /// The log.
    #[error("failed to read wal: {0}")]
    Log(#[from] wal::Error),
    /// It speaks against it.
    #[error("{0}")]
    Refused(String),
}

/// Moves the storage version.
///
/// # Errors
/// When the member runs, when the directory is damaged, when the log or a version in between speaks against it.
pub fn migrate(wanted: &Migration) -> Result<Done, Error> {
    let path = database::database_of(&wanted.data_dir);
    let db = database::open(&path, &Options::default(), wanted.timeout)?;
    let current = {
        let read = db.read()?;
        let meta = read.bucket(Bucket::Meta.name())?;
        let field = |name: &[u8]| meta.as_ref().map_or(Ok(None), |meta| meta.get(name));
        match field(STORAGE_VERSION)? {
            Some(text) => parse(&text)?,
            None if field(TERM)?.is_some() => (3, 5),
            None => return Err(Error::Refused("missing term information".into())),
        }
    };
    let target = wanted.target;
    if current == target {
        return Ok(Done::UpToDate(current));
    }
    let refused = match reason_against(wanted, current)? {
        None => None,
        Some(why) if wanted.force => Some(why),
        Some(why) => return Err(Error::Refused(why)),
    };
    let mut write = db.write()?;
    if target < FIRST_STORED {
        write.delete(Bucket::Meta.name(), STORAGE_VERSION)?;
    } else {
        let text = format!("{}.{}.0", target.0, target.1);
        write.put(Bucket::Meta.name(), STORAGE_VERSION, text.as_bytes())?;
    }
    write.commit()?;
    db.close()?;
    Ok(match refused {
        None => Done::Migrated(target),
        Some(why) => Done::Forced(target, why),
    })
}

fn parse(text: &[u8]) -> Result<Version, Error> {
    let text = String::from_utf8_lossy(text);
    let mut parts = text.split('.').map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(Error::Refused(format!("the storage version {text:?} is no version"))),
    }
}

/// Why the version must not move, if it must not.
fn reason_against(wanted: &Migration, current: Version) -> Result<Option<String>, Error> {
    let target = wanted.target;
    let plan = |why: String| Ok(Some(format!("cannot create migration plan: {why}")));
    if current.0 != target.0 {
        return plan("changing major storage version is not supported".into());
    }
    if target > NEWEST {
        return plan(format!("version \"{}.{}.0\" is not supported", NEWEST.0, NEWEST.1 + 1));
    }
    if target > current {
        return Ok(None);
    }
    match newest_of_log(wanted)? {
        Some(needed) if target < needed => {
            let version = |(major, minor): Version| format!("{major}.{minor}.0");
            let (target, needed) = (version(target), version(needed));
            Ok(Some(format!(
                "cannot downgrade storage, WAL contains newer entries, as the target version ({target}) is lower than the version ({needed}) detected from WAL logs"
            )))
        }
        _ => Ok(None),
    }
}

/// The newest version that an entry behind the last snapshot speaks of. What etcd 3.5 cannot carry out is one kind of entry, which
/// names a version itself.
fn newest_of_log(wanted: &Migration) -> Result<Option<Version>, Error> {
    let dir = wanted.data_dir.join("member").join("wal");
    let start = wal::valid_snapshots(&RealDisk, &dir)?.pop().unwrap_or_default();
    let contents = wal::read(&RealDisk, &dir, &start)?;
    let mut newest = None;
    for entry in &contents.entries {
        let Ok(request) = InternalRaftRequest::decode(entry.data.clone()) else {
            continue;
        };
        if let Some(test) = request.downgrade_version_test
            && let Ok(version) = parse(test.ver.as_bytes())
        {
            newest = newest.max(Some(version));
        }
    }
    Ok(newest)
}
