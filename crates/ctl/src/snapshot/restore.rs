//! A snapshot becomes the data dir of a member of a new cluster (etcdutl/snapshot/v3_snapshot.go, Restore).
//!
//! Invariants:
//! - Nothing is made from a file that does not pass its checks. What is made appears as `member/` only when all of it is durable, so
//!   that a member never starts from half of it.
//! - Keys, leases, alarms, users and roles are kept; the members are the new cluster's, with new ids.
//! - The log begins with the new members at index 1..N, term 1, committed; the database says that it includes them.
//! - A revision bump leaves a gap that clients see as a compaction: no watcher mistakes the new history for the old one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bolt::{Db, Options, WriteTx};
use bytes::Bytes;
use disk::{Disk, RealDisk};
use prost::Message;
use proto::raftpb::{ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata};
use proto::walpb;
use state_machine::conf_state::conf_state_to_json;
use state_machine::membership::member_key;
use state_machine::mvcc::Revision;
use state_machine::schema::{self, Bucket};
use state_machine::v2;
use wal::{Snapshotter, Wal};

use super::file::{FileError, copy_verified, layout};
use super::identity::{BadFlags, Identity};

/// Where a restore is built; renamed to `member` at the end. A left-over of one that was interrupted is removed.
const BUILDING: &str = "member.restoring";

/// The term of the log that a restore makes.
const TERM: u64 = 1;

/// What to restore, and as whom.
#[derive(Debug, Clone)]
pub struct RestoreConfig {
    /// The snapshot file.
    pub snapshot: PathBuf,
    /// The directory to make; it must be missing or empty.
    pub data_dir: PathBuf,
    /// A directory for the log outside of the data dir; it must not exist.
    pub wal_dir: Option<PathBuf>,
    /// `name=url,…` of all members.
    pub initial_cluster: String,
    /// What makes this cluster's ids differ from those of other clusters with the same URLs.
    pub initial_cluster_token: String,
    /// This member's URLs, separated by commas; the same as in `initial_cluster`.
    pub initial_advertise_peer_urls: String,
    /// This member's name.
    pub name: String,
    /// Whether to take a file without a checksum, or with a wrong one.
    pub skip_hash_check: bool,
    /// By how much to raise the revision; 0 = not, otherwise the raised revision is also marked compacted.
    pub bump_revision: u64,
}

/// What a restore made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// From which file.
    pub snapshot: PathBuf,
    /// Where.
    pub data_dir: PathBuf,
    /// The member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// The newest revision.
    pub revision: i64,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The flags do not make a cluster.
    #[error(transparent)]
    Flags(#[from] BadFlags),
    /// The snapshot file is not whole.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is data already.
    #[error(
        "data-dir {:?} not empty or could not be read: choose another one, or remove what is in it",
        path
    )]
    DataDirNotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// There is a log already.
    #[error("wal-dir {:?} exists: choose another one, or remove it", path)]
    WalDirExists {
        /// The directory.
        path: PathBuf,
    },
    /// The database in the snapshot is damaged.
    #[error("snapshot {}: {problem}; use another copy of it", path.display())]
    Unsound {
        /// The snapshot file.
        path: PathBuf,
        /// The first problem found.
        problem: String,
    },
    /// The bump leads beyond the largest revision.
    #[error("--bump-revision={bump}: revision {revision} cannot be raised by that much")]
    BumpTooLarge {
        /// The newest revision in the snapshot.
        revision: i64,
        /// The bump.
        bump: u64,
    },
    /// The database refused.
    #[error(transparent)]
    Database(#[from] bolt::Error),
    /// The log refused.
    #[error(transparent)]
    Wal(#[from] wal::Error),
    /// The system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What etcd writes into the head of every log file (etcdserverpb.Metadata).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metadata {
    #[prost(uint64, tag = "1")]
    pub(crate) node_id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) cluster_id: u64,
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    move |source| RestoreError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Makes a data dir from a snapshot.
///
/// # Errors
/// See [`RestoreError`]. Nothing that a member could start from is left behind.
pub fn restore(config: &RestoreConfig) -> Result<Restored, RestoreError> {
    let identity = Identity::from_flags(
        &config.name,
        &config.initial_cluster,
        &config.initial_cluster_token,
        &config.initial_advertise_peer_urls,
    )?;
    let member_dir = config.data_dir.join("member");
    // A log dir inside the member's own directory is the default place, spelled out.
    let wal_dir = config.wal_dir.clone().filter(|dir| *dir != member_dir.join("wal"));
    refuse_existing(&config.data_dir, wal_dir.as_deref())?;
    let layout = layout(&config.snapshot)?;
    if !layout.has_hash && !config.skip_hash_check {
        return Err(FileError::NoHash {
            path: config.snapshot.clone(),
        }
        .into());
    }
    let building = config.data_dir.join(BUILDING);
    let result = build(config, &identity, &building, wal_dir.as_deref());
    match result {
        Ok(revision) => {
            RealDisk
                .rename(&building, &member_dir)
                .map_err(io_error("rename", &building))?;
            RealDisk
                .sync_dir(&config.data_dir)
                .map_err(io_error("sync", &config.data_dir))?;
            Ok(Restored {
                snapshot: config.snapshot.clone(),
                data_dir: config.data_dir.clone(),
                member_id: identity.member_id,
                cluster_id: identity.cluster_id,
                revision,
            })
        }
        Err(error) => {
            // The first error says what went wrong; left-overs do no harm.
            let _left = RealDisk.remove_dir_all(&building);
            if let Some(dir) = wal_dir {
                let _left = RealDisk.remove_dir_all(&dir);
            }
            Err(error)
        }
    }
}

fn refuse_existing(data_dir: &Path, wal_dir: Option<&Path>) -> Result<(), RestoreError> {
    if RealDisk.exists(data_dir).map_err(io_error("look for", data_dir))? {
        let names = RealDisk.list(data_dir);
        let free = names.is_ok_and(|names| names.iter().all(|name| name == BUILDING));
        if !free {
            return Err(RestoreError::DataDirNotEmpty {
                path: data_dir.to_owned(),
            });
        }
    }
    match wal_dir {
        Some(dir) if RealDisk.exists(dir).map_err(io_error("look for", dir))? => {
            Err(RestoreError::WalDirExists { path: dir.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Makes database, `.snap` and log; returns the newest revision.
fn build(
    config: &RestoreConfig,
    identity: &Identity,
    building: &Path,
    wal_dir: Option<&Path>,
) -> Result<i64, RestoreError> {
    RealDisk
        .remove_dir_all(building)
        .map_err(io_error("remove", building))?;
    let snap_dir = building.join("snap");
    RealDisk
        .create_dir_all(&snap_dir)
        .map_err(io_error("create", &snap_dir))?;
    let db_path = snap_dir.join("db");
    copy(config, &db_path)?;
    let revision = adapt(config, identity, &db_path)?;
    let wal_dir = wal_dir.map_or_else(|| building.join("wal"), Path::to_owned);
    write_log(identity, &snap_dir, &wal_dir)?;
    RealDisk.sync_dir(&snap_dir).map_err(io_error("sync", &snap_dir))?;
    RealDisk.sync_dir(building).map_err(io_error("sync", building))?;
    Ok(revision)
}

fn copy(config: &RestoreConfig, db_path: &Path) -> Result<(), RestoreError> {
    let mut options = fs::OpenOptions::new();
    let mut out = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(db_path)
        .map_err(io_error("create", db_path))?;
    let mut layout = layout(&config.snapshot)?;
    // Without the check the checksum is cut off all the same.
    layout.has_hash &= !config.skip_hash_check;
    copy_verified(&config.snapshot, layout, &mut out)?;
    out.flush().map_err(io_error("write", db_path))?;
    out.sync_all().map_err(io_error("sync", db_path))
}

/// Makes the database that of the new cluster's member; returns the newest revision.
fn adapt(config: &RestoreConfig, identity: &Identity, db_path: &Path) -> Result<i64, RestoreError> {
    let unsound = |problem: String| RestoreError::Unsound {
        path: config.snapshot.clone(),
        problem,
    };
    let db = Db::open(
        RealDisk,
        db_path,
        Options {
            growth_bytes: 0,
            ..Options::default()
        },
    )
    .map_err(|error| unsound(error.to_string()))?;
    if config.skip_hash_check
        && let Some(problem) = bolt::check(&db.read()?).first()
    {
        return Err(unsound(problem.to_string()));
    }
    let mut write = db.write()?;
    for bucket in [
        Bucket::Members,
        Bucket::MembersRemoved,
        Bucket::Cluster,
        Bucket::Key,
        Bucket::Meta,
    ] {
        write.create_bucket(bucket.name())?;
    }
    for bucket in [Bucket::Members, Bucket::MembersRemoved] {
        clear(&mut write, bucket.name())?;
    }
    for member in identity.members.members() {
        write.put(
            Bucket::Members.name(),
            &member_key(member.id),
            member.to_json().as_bytes(),
        )?;
    }
    let mut revision = newest_revision(&write)?.map_err(|error| unsound(error.to_string()))?;
    if config.bump_revision > 0 {
        revision = bump(&mut write, revision, config.bump_revision)?;
    }
    let meta = Bucket::Meta.name();
    let members = identity.members.members().count() as u64;
    write.put(meta, schema::CONSISTENT_INDEX, &schema::encode_u64(members))?;
    write.put(meta, schema::TERM, &schema::encode_u64(TERM))?;
    write.put(
        meta,
        schema::CONF_STATE,
        conf_state_to_json(&conf_state(identity)).as_bytes(),
    )?;
    write.commit()?;
    Ok(revision)
}

fn clear(write: &mut WriteTx<'_, RealDisk>, bucket: &[u8]) -> Result<(), bolt::Error> {
    let mut keys: Vec<Bytes> = Vec::new();
    if let Some(bucket) = write.bucket(bucket)? {
        let mut cursor = bucket.cursor();
        let mut pair = cursor.first()?;
        while let Some((key, _)) = pair {
            keys.push(key);
            pair = cursor.next()?;
        }
    }
    keys.iter().try_for_each(|key| write.delete(bucket, key))
}

fn newest_revision(write: &WriteTx<'_, RealDisk>) -> Result<Result<i64, state_machine::Error>, bolt::Error> {
    let last = match write.bucket(Bucket::Key.name())? {
        Some(bucket) => bucket.cursor().last()?,
        None => None,
    };
    Ok(last.map_or(Ok(0), |(key, _)| {
        Revision::decode(&key).map(|(revision, _)| revision.main)
    }))
}

/// Puts an empty record at the raised revision, and marks all before it as compacted: the compaction runs when the member starts.
fn bump(write: &mut WriteTx<'_, RealDisk>, revision: i64, by: u64) -> Result<i64, RestoreError> {
    let raised = i64::try_from(by).ok().and_then(|by| revision.checked_add(by));
    let raised = raised.ok_or(RestoreError::BumpTooLarge { revision, bump: by })?;
    let encoded = Revision::start_of(raised).encode();
    write.put(Bucket::Key.name(), &encoded, &[])?;
    write.put(Bucket::Meta.name(), schema::SCHEDULED_COMPACT, &encoded)?;
    Ok(raised)
}

fn conf_state(identity: &Identity) -> ConfState {
    ConfState {
        voters: identity.members.members().map(|member| member.id).collect(),
        ..ConfState::default()
    }
}

fn write_log(identity: &Identity, snap_dir: &Path, wal_dir: &Path) -> Result<(), RestoreError> {
    if let Some(parent) = wal_dir.parent() {
        RealDisk.create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    let metadata = Metadata {
        node_id: identity.member_id,
        cluster_id: identity.cluster_id,
    };
    let mut wal = Wal::create(&RealDisk, wal_dir, &metadata.encode_to_vec())?;
    let mut entries = Vec::new();
    for (member, index) in identity.members.members().zip(1..) {
        let change = ConfChange {
            r#type: ConfChangeType::ConfChangeAddNode as i32,
            node_id: member.id,
            context: member.to_json().into(),
            id: 0,
        };
        let data = change.encode_to_vec().into();
        entries.push(Entry {
            r#type: EntryType::EntryConfChange as i32,
            term: TERM,
            index,
            data,
        });
    }
    let commit = entries.len() as u64;
    let vote = identity.members.members().next().map_or(0, |member| member.id);
    wal.save(
        &HardState {
            term: TERM,
            vote,
            commit,
        },
        &entries,
    )?;
    let conf_state = conf_state(identity);
    let metadata = SnapshotMetadata {
        conf_state: Some(conf_state.clone()),
        index: commit,
        term: TERM,
    };
    let data = v2::membership_json(&identity.members).into();
    Snapshotter::new(RealDisk, snap_dir).save(&Snapshot {
        data,
        metadata: Some(metadata),
    })?;
    let record = walpb::Snapshot {
        index: Some(commit),
        term: Some(TERM),
        conf_state: Some(conf_state),
    };
    wal.save_snapshot(&record)?;
    wal.close()?;
    Ok(())
}
