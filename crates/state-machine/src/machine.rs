//! The state machine: the tables, what opens them, and what keeps them on the disk.
//!
//! Invariants:
//! - The index of the last applied entry goes into the database in the same commit as what that entry wrote (key
//!   `consistent_index`), and it moves for every entry, also for one that failed or wrote nothing. After a restart, entries up to it
//!   are skipped.
//! - Time, members' connections and randomness are not known in here; what has to happen outside is said by [`Action`](crate::Action)s.

mod stored;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use disk::Disk;
use proto::etcdserverpb::{self, LeaseCheckpoint};
use proto::raftpb::{ConfState, Entry};

use crate::alarm::Alarms;
use crate::apply::{Applied, BadEntry, Decoded, Fatal};
use crate::auth::Auth;
use crate::backend::{Backend, CommitJob, Committed, Options};
use crate::conf_state::conf_state_to_json;
use crate::error::Error;
use crate::lease::{LeaseConfig, Leases, Uptime};
use crate::membership::{Membership, Unreadable};
use crate::mvcc::{Compacted, KvReader, Store};
use crate::quota::Quota;
use crate::schema::{self, Bucket};
use crate::version::Version;

use stored::Tables;

/// What a state machine is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// This member; named in response headers and in the alarms it raises.
    pub member_id: u64,
    /// Its cluster; named in response headers.
    pub cluster_id: u64,
    /// Leases.
    pub lease: LeaseConfig,
    /// How large the db may grow.
    pub quota: Quota,
    /// How many learners the cluster may have (etcd's `--max-learners`).
    pub learners_max: usize,
    /// How long a simple token lives without being used (etcd's `--auth-token-ttl`).
    pub token_ttl: Duration,
    /// The version of this server, in etcd's numbering. It refuses data of newer ones.
    pub server_version: Version,
    /// The database.
    pub backend: Options,
    /// Keep an [`Audit`] of every entry, until [`StateMachine::take_audits`]: for simulators, which compare members by it.
    pub audit: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            member_id: 0,
            cluster_id: 0,
            lease: LeaseConfig::default(),
            quota: Quota::from_config(0),
            learners_max: 1,
            token_ttl: crate::auth::TOKEN_TTL,
            server_version: Version::SERVER,
            backend: Options::default(),
            audit: false,
        }
    }
}

/// What an entry did to the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Its type, as raft numbers them.
    pub kind: i32,
    /// Its data.
    pub data: Bytes,
    /// A hash of every write that it made, in order.
    pub writes: u64,
}

/// Why a database cannot be opened.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Storage(#[from] Error),
    /// A newer server wrote it.
    #[error(
        "the storage version is {storage}, above this server's {server}: start a newer server, or downgrade the cluster first"
    )]
    StorageTooNew {
        /// The version in the file.
        storage: Version,
        /// The version of this server.
        server: Version,
    },
    /// The cluster has moved on.
    #[error("the cluster version is {cluster}, above this server's {server}: start a newer server")]
    ServerTooOld {
        /// The version of the cluster.
        cluster: Version,
        /// The version of this server.
        server: Version,
    },
    /// A fact about the cluster cannot be read.
    #[error(transparent)]
    Members(#[from] Unreadable),
    /// A record cannot be read.
    #[error("bucket {bucket}, key {key}: {reason}; restore this member from a snapshot or from the other members")]
    Record {
        /// The bucket.
        bucket: &'static str,
        /// The key, as text or hex.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// The last entry that is included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Its index; 0 in a fresh database.
    pub index: u64,
    /// Its term; 0 when unknown.
    pub term: u64,
}

/// See the module.
#[derive(Debug)]
pub struct StateMachine<D: Disk> {
    pub(crate) config: Config,
    pub(crate) backend: Backend<D>,
    pub(crate) store: Store<D>,
    pub(crate) leases: Leases,
    pub(crate) auth: Auth,
    pub(crate) alarms: Alarms,
    pub(crate) cluster: Membership,
    position: Position,
    /// Whether the database lags behind `position`.
    position_moved: bool,
    conf_state: Option<ConfState>,
    audits: Vec<Audit>,
}

impl<D: Disk> StateMachine<D> {
    /// Opens a database, or makes one.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(disk: D, path: &Path, config: Config) -> Result<StateMachine<D>, OpenError> {
        let mut backend = Backend::open(disk, path, config.backend.clone())?;
        backend.hash_writes(config.audit);
        let tables = Tables::read(&backend, &config)?;
        let (store, leased) = Store::open(&backend)?;
        let leases = Leases::new(config.lease);
        let mut leases_found = tables.leases;
        if mutant::planted("H23") {
            leases_found.retain(|lease| lease.id > 0);
        }
        leases.recover(leases_found, leased);
        let auth = Auth::new(leases.clone(), config.token_ttl);
        if !mutant::planted("H16") {
            tables.auth.recover(&auth)?;
        }
        let mut machine = StateMachine {
            config,
            backend,
            store,
            leases,
            auth,
            alarms: tables.alarms,
            cluster: tables.cluster,
            position: tables.position,
            position_moved: false,
            conf_state: tables.conf_state,
            audits: Vec::new(),
        };
        machine.complete()?;
        machine.backend.take_writes_hash();
        Ok(machine)
    }

    /// Goes over to the database of a snapshot that the leader sent. Readers, watchers and lease handles stay valid and follow; no
    /// lease ends here until this member becomes the leader.
    ///
    /// # Errors
    /// See [`OpenError`]. The state machine must not be used after one.
    pub fn restore(&mut self, disk: D, path: &Path) -> Result<(), OpenError> {
        let mut backend = Backend::open(disk, path, self.config.backend.clone())?;
        backend.hash_writes(self.config.audit);
        let tables = Tables::read(&backend, &self.config)?;
        let leased = self.store.restore(&backend)?;
        let leases = if mutant::planted("G14") {
            Vec::new()
        } else {
            tables.leases
        };
        self.leases.recover(leases, leased);
        if !mutant::planted("H18") {
            tables.auth.recover(&self.auth)?;
        }
        self.backend = backend;
        self.alarms = tables.alarms;
        self.cluster = tables.cluster;
        self.position = tables.position;
        self.position_moved = false;
        self.conf_state = tables.conf_state;
        self.complete()?;
        self.backend.take_writes_hash();
        Ok(())
    }

    /// Writes what every database of this version has and this one lacks.
    fn complete(&mut self) -> Result<(), Error> {
        let backend = &mut self.backend;
        self.auth
            .write()
            .begin(&mut |bucket, key, value| backend.put(bucket, key, value.unwrap_or_default()));
        self.align_storage_version()
    }

    /// Applies a normal entry. One that the database includes already does nothing.
    ///
    /// # Errors
    /// [`Fatal`]: the member must stop.
    pub fn apply(&mut self, entry: &Entry, now: Uptime) -> Result<Applied, Fatal> {
        let mut applied = Applied {
            index: entry.index,
            term: entry.term,
            id: 0,
            kind: "",
            result: None,
            actions: Vec::new(),
        };
        if !self.is_due(entry)? {
            return Ok(applied);
        }
        // What compactions wrote since the last entry is no part of this one.
        self.backend.take_writes_hash();
        if !entry.data.is_empty() {
            let decoded = Decoded::read(&entry.data).map_err(|reason| self.bad(entry, reason))?;
            applied.id = decoded.id;
            applied.kind = decoded.request.kind();
            let result = self.apply_request(decoded, entry, now, &mut applied.actions)?;
            applied.result = Some(result);
        }
        self.advance(entry);
        Ok(applied)
    }

    /// Whether an entry is the next one; false for one that is included already.
    pub(crate) fn is_due(&self, entry: &Entry) -> Result<bool, Fatal> {
        let applied = self.position.index;
        if entry.index > applied + 1 {
            return Err(self.bad(entry, BadEntry::Gap { applied }));
        }
        Ok(entry.index > applied)
    }

    pub(crate) fn advance(&mut self, entry: &Entry) {
        self.position = Position {
            index: entry.index,
            term: entry.term,
        };
        self.position_moved = true;
        if self.config.audit {
            self.audits.push(Audit {
                index: entry.index,
                term: entry.term,
                kind: entry.r#type,
                data: entry.data.clone(),
                writes: self.backend.take_writes_hash(),
            });
        }
    }

    /// What entries did since this was last asked, if [`Config::audit`] is set.
    pub fn take_audits(&mut self) -> Vec<Audit> {
        std::mem::take(&mut self.audits)
    }

    pub(crate) fn bad(&self, entry: &Entry, reason: BadEntry) -> Fatal {
        Fatal::Entry {
            index: entry.index,
            reason,
        }
    }

    /// Takes note of the configuration that raft has after a change.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.backend.put(
            Bucket::Meta,
            Bytes::from_static(schema::CONF_STATE),
            conf_state_to_json(&conf_state).into(),
        );
        self.conf_state = Some(conf_state);
        // Belongs to an entry that was audited already.
        self.backend.take_writes_hash();
    }

    /// The configuration that raft starts with: the one that the members of the database make up. `None` in a fresh database.
    pub fn conf_state(&self) -> Option<&ConfState> {
        self.conf_state.as_ref()
    }

    /// The last entry that is included.
    pub fn applied(&self) -> Position {
        self.position
    }

    /// Whether so much waits for the disk that a commit should start before its time has come.
    pub fn commit_due(&self) -> bool {
        self.backend.commit_due()
    }

    /// Whether anything waits for the disk.
    pub fn has_uncommitted(&self) -> bool {
        self.position_moved || self.backend.pending_ops() > 0
    }

    /// Hands out all that waits for the disk, to be written on any thread, together with the index of the last applied entry. `None`
    /// when nothing waits or a commit is under way.
    pub fn freeze(&mut self) -> Option<CommitJob<D>> {
        if self.backend.is_committing() {
            return None;
        }
        self.note_position();
        self.backend.freeze()
    }

    /// Takes note that a commit is done.
    pub fn finish(&mut self, committed: Committed<D>) {
        self.backend.finish(committed);
    }

    /// Commits on this thread: at the end, and before a snapshot. No other commit may be under way.
    ///
    /// # Errors
    /// [`Error::Storage`], fatal.
    pub fn commit(&mut self) -> Result<(), Error> {
        self.note_position();
        self.backend.commit()
    }

    fn note_position(&mut self) {
        if !std::mem::take(&mut self.position_moved) {
            return;
        }
        let Position { mut index, term } = self.position;
        if mutant::planted("G10") {
            index -= 1;
        }
        if mutant::planted("H02") {
            index += 1;
        }
        self.backend.put(
            Bucket::Meta,
            Bytes::from_static(schema::CONSISTENT_INDEX),
            schema::encode_u64(index),
        );
        if term > 0 {
            self.backend
                .put(Bucket::Meta, Bytes::from_static(schema::TERM), schema::encode_u64(term));
        }
    }

    /// The database as of the last commit: what a snapshot is made of. [`StateMachine::commit`] first to have it all.
    pub fn snapshot(&self) -> bolt::ReadTx<D> {
        self.backend.snapshot()
    }

    /// The database, for its sizes and for online compaction.
    pub fn backend(&self) -> &Backend<D> {
        &self.backend
    }

    /// As [`StateMachine::backend`], for [`Backend::refresh`].
    pub fn backend_mut(&mut self) -> &mut Backend<D> {
        &mut self.backend
    }

    /// The key-value store, for what it knows of compactions and hashes.
    pub fn store(&self) -> &Store<D> {
        &self.store
    }

    /// Does a part of the oldest compaction that was decided: at most `budget` keys or records. Commit after each step.
    ///
    /// # Errors
    /// [`Error::Storage`], fatal.
    pub fn compact_step(&mut self, budget: usize) -> Result<Compacted, Error> {
        self.store.compact_step(&mut self.backend, budget)
    }

    /// Reads keys, from any thread.
    pub fn reader(&self) -> KvReader<D> {
        self.store.reader()
    }

    /// The leases, from any thread.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Users, roles and tokens, from any thread.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// This member leads now: leases end here. `extend` is the election timeout.
    pub fn promote(&mut self, extend: Uptime, now: Uptime) {
        self.leases.write().promote(extend, now);
    }

    /// Another member leads: no lease ends here.
    pub fn demote(&mut self) {
        self.leases.write().demote();
    }

    /// Leases to revoke now, up to `limit`; see [`crate::lease::Lessor::expired`].
    pub fn expired_leases(&mut self, now: Uptime, limit: usize) -> Vec<i64> {
        self.leases.write().expired(now, limit)
    }

    /// Checkpoints to propose now; see [`crate::lease::Lessor::due_checkpoints`].
    pub fn due_checkpoints(&mut self, now: Uptime) -> Vec<LeaseCheckpoint> {
        self.leases.write().due_checkpoints(now)
    }

    /// The members, the cluster version and the downgrade job.
    pub fn membership(&self) -> &Membership {
        &self.cluster
    }

    /// The alarms that stand.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// What this state machine was told at start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Changes the ids that response headers name, once they are known.
    pub fn set_identity(&mut self, member_id: u64, cluster_id: u64) {
        self.config.member_id = member_id;
        self.config.cluster_id = cluster_id;
    }

    /// The version of the stored form; `None` up to etcd 3.5.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read.
    pub fn storage_version(&self) -> Result<Option<Version>, Error> {
        let stored = self.backend.get(Bucket::Meta, schema::STORAGE_VERSION)?;
        Ok(stored.and_then(|text| String::from_utf8_lossy(&text).parse().ok()))
    }

    /// Makes the storage version follow the cluster version. 3.7 has no field that 3.6 lacks, so both directions are one write.
    pub(crate) fn align_storage_version(&mut self) -> Result<(), Error> {
        let Some(wanted) = self.cluster.version().map(Version::minor_only) else {
            return Ok(());
        };
        if wanted >= Version::new(3, 6, 0) && self.storage_version()?.as_ref() != Some(&wanted) {
            let text = Bytes::from(wanted.to_string());
            self.backend
                .put(Bucket::Meta, Bytes::from_static(schema::STORAGE_VERSION), text);
        }
        Ok(())
    }

    /// A response header as an applied entry fills it.
    pub(crate) fn header(&self, term: u64) -> etcdserverpb::ResponseHeader {
        etcdserverpb::ResponseHeader {
            cluster_id: self.config.cluster_id,
            member_id: self.config.member_id,
            revision: self.store.current_revision(),
            raft_term: term,
        }
    }
}

#[cfg(test)]
mod tests;
