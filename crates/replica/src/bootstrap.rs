//! From a data directory, or nothing, to a log and a state that fit together (etcd etcdserver/bootstrap.go).
//!
//! Invariants:
//! - What is on the disk decides: how a cluster was to be started is looked at only when there is no log.
//! - The database never lags behind the snapshot that the log begins with, and never holds what the log does not have.
//! - A log appears at once with the entries that make the first members; half a bootstrap is no data.

use bytes::Bytes;
use disk::{Disk, File, Open};
use prost::Message as _;
use proto::raftpb::{ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata};
use raft::MemoryStorage;
use state_machine::StateMachine;
use state_machine::membership::{Member, cluster_id};
use wal::{Snapshotter, Wal};

use crate::config::{Config, Identity, Incarnation, Start};
use crate::error::OpenError;

/// What a log's files carry as metadata (etcd etcdserverpb.Metadata).
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Metadata {
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    #[prost(uint64, tag = "2")]
    pub cluster_id: u64,
}

/// A member that is ready to run.
pub(crate) struct Opened<D: Disk> {
    pub identity: Identity,
    pub wal: Wal<D>,
    pub snapshotter: Snapshotter<D>,
    pub state: StateMachine<D>,
    pub storage: MemoryStorage,
    /// The last entry that the database includes; raft does not hand it out again.
    pub applied: u64,
    /// Members to talk to before the database knows any.
    pub members: Vec<Member>,
    pub incarnation: Incarnation,
}

/// Whether the directory holds a log, so that `start` will not be looked at.
pub fn has_data<D: Disk>(disk: &D, config: &Config) -> Result<bool, OpenError> {
    Ok(wal::exists(disk, &config.wal_dir())?)
}

/// The members of a new cluster, sorted by id, and the cluster's id.
pub fn new_cluster(members: &std::collections::BTreeMap<String, Vec<String>>, token: &str) -> (u64, Vec<Member>) {
    let make = |(name, urls): (&String, &Vec<String>)| Member::new(name, urls, token, None);
    let mut all: Vec<Member> = members.iter().map(make).collect();
    all.sort_by_key(|member| member.id);
    (cluster_id(all.iter().map(|member| member.id)), all)
}

pub(crate) fn open<D: Disk>(disk: &D, config: &Config) -> Result<Opened<D>, OpenError> {
    let snap_dir = config.snap_dir();
    disk.create_dir_all(&snap_dir)
        .map_err(OpenError::io("creating", &snap_dir))?;
    let incarnation = incarnation(disk, config)?;
    let snapshotter = Snapshotter::new(disk.clone(), &snap_dir);
    snapshotter.clean(0)?;
    if has_data(disk, config)? {
        resume(disk, config, snapshotter, incarnation)
    } else {
        begin(disk, config, snapshotter, incarnation)
    }
}

/// The first start of a member.
fn begin<D: Disk>(
    disk: &D,
    config: &Config,
    snapshotter: Snapshotter<D>,
    incarnation: Incarnation,
) -> Result<Opened<D>, OpenError> {
    let (identity, members, entries) = match &config.start {
        Start::New { members, token } => {
            let (cluster_id, all) = new_cluster(members, token);
            let own = all.iter().find(|member| member.name == config.name);
            let own = own.ok_or_else(|| OpenError::NotInInitialCluster {
                name: config.name.clone(),
            })?;
            let identity = Identity {
                member_id: own.id,
                cluster_id,
            };
            let entries: Vec<Entry> = all
                .iter()
                .zip(1..)
                .map(|(member, index)| first_entry(member, index))
                .collect();
            (identity, all, entries)
        }
        Start::Join {
            cluster_id,
            member_id,
            members,
        } => (
            Identity {
                member_id: *member_id,
                cluster_id: *cluster_id,
            },
            members.clone(),
            Vec::new(),
        ),
        Start::Resume => {
            return Err(OpenError::NoData {
                dir: config.data_dir.clone(),
            });
        }
    };
    check_identity(config, identity)?;
    let state = open_state(disk, config, identity)?;
    if state.applied().index > 0 {
        // A database without its log may hold anybody's past; it must not become this member's.
        return Err(OpenError::DatabaseAheadOfLog {
            path: config.database(),
            applied: state.applied().index,
            last: 0,
        });
    }
    let wal_dir = config.wal_dir();
    if let Some(parent) = wal_dir.parent() {
        disk.create_dir_all(parent).map_err(OpenError::io("creating", parent))?;
    }
    let metadata = Metadata {
        node_id: identity.member_id,
        cluster_id: identity.cluster_id,
    };
    let hard_state = match entries.len() {
        0 => HardState::default(),
        n => HardState {
            term: 1,
            vote: 0,
            commit: n as u64,
        },
    };
    let mut wal = Wal::create_with(disk, &wal_dir, &metadata.encode_to_vec(), &hard_state, &entries)?;
    wal.set_segment_bytes(config.segment_bytes);
    let mut storage = MemoryStorage::new();
    storage.append(&entries).map_err(raft::Error::from)?;
    storage.set_hard_state(hard_state);
    Ok(Opened {
        identity,
        wal,
        snapshotter,
        state,
        storage,
        applied: 0,
        members,
        incarnation,
    })
}

/// The entry that adds a founding member.
fn first_entry(member: &Member, index: u64) -> Entry {
    let change = ConfChange {
        r#type: ConfChangeType::ConfChangeAddNode as i32,
        node_id: member.id,
        context: Bytes::from(member.to_json()),
        id: 0,
    };
    Entry {
        term: 1,
        index,
        r#type: EntryType::EntryConfChange as i32,
        data: change.encode_to_vec().into(),
    }
}

/// Every later start.
fn resume<D: Disk>(
    disk: &D,
    config: &Config,
    snapshotter: Snapshotter<D>,
    incarnation: Incarnation,
) -> Result<Opened<D>, OpenError> {
    let wal_dir = config.wal_dir();
    let newest = wal::valid_snapshots(disk, &wal_dir)?.pop().unwrap_or_default();
    let (wal, contents) = Wal::open_or_repair(disk, &wal_dir, &newest)?;
    let metadata = Metadata::decode(contents.metadata.clone()).map_err(|error| OpenError::Metadata {
        dir: wal_dir.clone(),
        reason: error.to_string(),
    })?;
    if metadata.node_id == 0 || metadata.cluster_id == 0 {
        return Err(OpenError::Metadata {
            dir: wal_dir,
            reason: "an id is missing".into(),
        });
    }
    let identity = Identity {
        member_id: metadata.node_id,
        cluster_id: metadata.cluster_id,
    };
    check_identity(config, identity)?;

    let snapshot = newest.index();
    let path = config.database();
    let mut state = open_state(disk, config, identity)?;
    let received = snapshotter.database_path(snapshot);
    if state.applied().index < snapshot
        && disk
            .exists(&received)
            .map_err(OpenError::io("looking for", &received))?
    {
        // The crash came after the snapshot was recorded and before its database was taken into use.
        drop(state);
        disk.rename(&received, &path)
            .map_err(OpenError::io("renaming", &received))?;
        disk.sync_dir(snapshotter.dir())
            .map_err(OpenError::io("syncing", snapshotter.dir()))?;
        state = open_state(disk, config, identity)?;
    }
    let applied = state.applied().index;
    if applied < snapshot {
        return Err(OpenError::DatabaseBehindLog {
            path,
            applied,
            snapshot,
        });
    }
    let last = snapshot + contents.entries.len() as u64;
    if applied > last {
        return Err(OpenError::DatabaseAheadOfLog { path, applied, last });
    }
    let me = identity.member_id;
    let cluster = state.membership();
    let must_know = joined_by(me, applied, &newest, &contents.entries);
    if must_know && cluster.members().next().is_some() && cluster.member(me).is_none() && !cluster.is_removed(me) {
        return Err(OpenError::ForeignDatabase { path, member: me });
    }
    snapshotter.clean(snapshot + 1)?;

    let mut wal = wal;
    wal.set_segment_bytes(config.segment_bytes);
    let mut hard_state = contents.hard_state;
    let mut entries = contents.entries;
    // A commit index alone is not synced; what the database holds was committed all the same.
    if hard_state.commit < applied {
        hard_state.commit = applied;
        // Raft will not say so again, and a snapshot counts only if the log says that its entry was committed.
        wal.append(&hard_state, &[])?;
    }
    if config.force_new_cluster {
        // Unlike etcd, which cuts the log at the commit index: the index on disk may trail what was acknowledged, and an entry of
        // the survivor that never was committed does no harm by becoming so (decision 0003).
        hard_state.commit = last;
        let changes = dismissals(&state, &entries, me, applied, hard_state);
        hard_state.commit += changes.len() as u64;
        wal.save(&hard_state, &changes)?;
        wal.sync()?;
        entries.extend(changes);
    }
    let mut storage = MemoryStorage::new();
    if snapshot > 0 || applied > 0 {
        // As etcd 3.7 does, the configuration comes from the database, which may be ahead of the snapshot; entries that the
        // database includes are not applied to raft again.
        let metadata = SnapshotMetadata {
            conf_state: Some(conf_state(&state)),
            index: snapshot,
            term: newest.term(),
        };
        let snapshot = Snapshot {
            data: Bytes::new(),
            metadata: Some(metadata),
        };
        storage.apply_snapshot(snapshot).map_err(raft::Error::from)?;
    }
    storage.append(&entries).map_err(raft::Error::from)?;
    storage.set_hard_state(hard_state);
    let members = state.membership().members().cloned().collect();
    Ok(Opened {
        identity,
        wal,
        snapshotter,
        state,
        storage,
        applied,
        members,
        incarnation,
    })
}

/// Whether the log says that this member belonged to the cluster when the entry at `applied` was. A member that catches up from the first
/// entry on may be stopped before it has come to the one that adds it.
fn joined_by(me: u64, applied: u64, snapshot: &proto::walpb::Snapshot, entries: &[Entry]) -> bool {
    let by_snapshot = snapshot.conf_state.as_ref().is_some_and(|state| {
        let mut all = state.voters.iter().chain(&state.learners);
        all.any(|id| *id == me)
    });
    let mut changes = entries
        .iter()
        .filter(|entry| entry.index <= applied && entry.r#type() == EntryType::EntryConfChange)
        .filter_map(|entry| ConfChange::decode(entry.data.clone()).ok());
    by_snapshot
        || changes.any(|change| {
            let adds = [
                ConfChangeType::ConfChangeAddNode,
                ConfChangeType::ConfChangeAddLearnerNode,
            ];
            adds.contains(&change.r#type()) && change.node_id == me
        })
}

/// Entries that remove everybody else, for a member that is to go on alone (etcd server/storage/util.go).
fn dismissals<D: Disk>(
    state: &StateMachine<D>,
    entries: &[Entry],
    me: u64,
    applied: u64,
    hard_state: HardState,
) -> Vec<Entry> {
    let mut ids: std::collections::BTreeSet<u64> = state.membership().members().map(|member| member.id).collect();
    let later = entries
        .iter()
        .filter(|entry| entry.index > applied && entry.r#type() == EntryType::EntryConfChange);
    for change in later.filter_map(|entry| ConfChange::decode(entry.data.clone()).ok()) {
        match change.r#type() {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => ids.insert(change.node_id),
            ConfChangeType::ConfChangeRemoveNode => ids.remove(&change.node_id),
            ConfChangeType::ConfChangeUpdateNode => false,
        };
    }
    let others = ids.into_iter().filter(|&id| id != me);
    let changes = others.zip(hard_state.commit + 1..).map(|(id, index)| {
        let change = ConfChange {
            r#type: ConfChangeType::ConfChangeRemoveNode as i32,
            node_id: id,
            ..ConfChange::default()
        };
        let data = change.encode_to_vec().into();
        Entry {
            term: hard_state.term,
            index,
            r#type: EntryType::EntryConfChange as i32,
            data,
        }
    });
    changes.collect()
}

fn conf_state<D: Disk>(state: &StateMachine<D>) -> ConfState {
    let ids = |learners| {
        let chosen = state
            .membership()
            .members()
            .filter(move |member| member.is_learner == learners);
        chosen.map(|member| member.id).collect::<Vec<u64>>()
    };
    ConfState {
        voters: ids(false),
        learners: ids(true),
        ..ConfState::default()
    }
}

fn open_state<D: Disk>(disk: &D, config: &Config, identity: Identity) -> Result<StateMachine<D>, OpenError> {
    let path = config.database();
    let state = state_machine::Config {
        member_id: identity.member_id,
        cluster_id: identity.cluster_id,
        ..config.state.clone()
    };
    StateMachine::open(disk.clone(), &path, state).map_err(|source| OpenError::Database {
        path,
        source: source.into(),
    })
}

fn check_identity(config: &Config, found: Identity) -> Result<(), OpenError> {
    match config.expect {
        Some(wanted) if wanted != found => Err(OpenError::OtherIdentity {
            dir: config.data_dir.clone(),
            member: wanted.member_id,
            cluster: wanted.cluster_id,
            found_member: found.member_id,
            found_cluster: found.cluster_id,
        }),
        _ => Ok(()),
    }
}

/// The name of this data directory: made once, kept in `member/incarnation`, which etcd does not look at.
fn incarnation<D: Disk>(disk: &D, config: &Config) -> Result<Incarnation, OpenError> {
    if let Some(known) = stored_incarnation(disk, config)? {
        return Ok(known);
    }
    let made = Incarnation {
        name: config.incarnation,
        adopted: has_data(disk, config)?,
    };
    let dir = config.member_dir();
    let (path, building) = (dir.join("incarnation"), dir.join("incarnation.tmp"));
    let file = disk
        .open(&building, Open::WriteOrCreate)
        .map_err(OpenError::io("creating", &building))?;
    let text = format!("{:032x}\n{}", made.name, if made.adopted { ADOPTED } else { "" });
    file.set_len(0).map_err(OpenError::io("emptying", &building))?;
    file.write_all_at(text.as_bytes(), 0)
        .map_err(OpenError::io("writing", &building))?;
    file.sync_data().map_err(OpenError::io("syncing", &building))?;
    disk.rename(&building, &path)
        .map_err(OpenError::io("renaming", &building))?;
    disk.sync_dir(&dir).map_err(OpenError::io("syncing", &dir))?;
    Ok(made)
}

/// The second line of the file that names a directory with data in it.
const ADOPTED: &str = "adopted\n";

/// The name that the data directory has by now. `None` before its first start.
///
/// # Errors
/// The file cannot be read.
pub fn stored_incarnation<D: Disk>(disk: &D, config: &Config) -> Result<Option<Incarnation>, OpenError> {
    let path = &config.member_dir().join("incarnation");
    if !disk.exists(path).map_err(OpenError::io("looking for", path))? {
        return Ok(None);
    }
    let file = disk.open(path, Open::Read).map_err(OpenError::io("opening", path))?;
    let mut text = [0; 64];
    let n = file.read_at(&mut text, 0).map_err(OpenError::io("reading", path))?;
    let text = std::str::from_utf8(&text[..n]).unwrap_or_default();
    let (name, rest) = text.split_once('\n').unwrap_or((text, ""));
    Ok(u128::from_str_radix(name, 16).ok().map(|name| Incarnation {
        name,
        adopted: rest == ADOPTED,
    }))
}
