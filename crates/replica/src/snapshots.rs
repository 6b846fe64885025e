//! Commits of the database, snapshots of it, and the log that may be given up because of them.
//!
//! Invariants:
//! - A `.snap` file is recorded only after the database is durable up to its index; the log in memory keeps what a slow
//!   follower may still ask for.
//! - A snapshot that is sent names exactly the entry that its database reaches.
//! - A received database is taken into use only after its snapshot is recorded in the log, by one rename.

use std::path::Path;

use bytes::Bytes;
use disk::Disk;
use proto::raftpb::{Message, Snapshot, SnapshotMetadata};
use raft::{SnapshotStatus, StorageError};
use state_machine::{Uptime, v2};

use crate::error::Fatal;
use crate::io::{CommitJob, Committed, Output};
use crate::replica::Replica;
use crate::writer::index_of;

/// Snapshots that may wait for a commit; raft asks again for those that are dropped.
const WANTED_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Snapshots {
    /// Which database is in use; a received one begins the next generation.
    generation: u64,
    committing: bool,
    committed_at: Uptime,
    /// Index of the last `.snap` file of the own state (or the received one).
    own_index: u64,
    /// Write a `.snap` file although it is not yet time.
    pub force: bool,
    memory_index: u64,
    /// Somebody here waits for the database.
    pub take: bool,
    /// Peers that raft wants to send a snapshot to.
    pub wanted: Vec<Message>,
    /// What the commit under way is for.
    barrier: Option<Barrier>,
    /// Snapshots on their way to peers.
    sending: usize,
    shorten_after: Uptime,
    /// Compactions that the commit under way makes durable.
    compacted: Vec<i64>,
}

/// The state as of a commit.
#[derive(Debug)]
struct Barrier {
    snapshot: Snapshot,
    own: bool,
    take: bool,
    sends: Vec<Message>,
}

impl Snapshots {
    pub fn is_committing(&self) -> bool {
        self.committing
    }

    pub fn new(snapshot_index: u64, applied: u64, now: Uptime) -> Snapshots {
        Snapshots {
            generation: 0,
            committing: false,
            committed_at: now,
            own_index: snapshot_index,
            force: false,
            take: false,
            memory_index: applied,
            wanted: Vec::new(),
            barrier: None,
            sending: 0,
            shorten_after: Uptime::ZERO,
            compacted: Vec::new(),
        }
    }
}

impl<D: Disk> Replica<D> {
    /// Starts a commit when enough waits, when it is time, or when a snapshot needs one.
    pub(crate) fn commit_if_due(&mut self, now: Uptime) -> Result<(), Fatal> {
        self.snapshots.wanted.truncate(WANTED_MAX);
        if self.snapshots.committing || self.snapshots.barrier.is_some() {
            return Ok(());
        }
        let own = self.snapshots.force || self.applied() - self.snapshots.own_index > self.config.snapshot_count;
        if own && mutant::planted("Q15") {
            self.snapshots.own_index = self.applied();
            self.snapshots.force = false;
            let snapshot = self.snapshot_of_state();
            self.persist_own(snapshot);
            return Ok(());
        }
        let needs_barrier = own || self.snapshots.take || !self.snapshots.wanted.is_empty();
        let in_time = now.saturating_sub(self.snapshots.committed_at) >= self.config.commit_interval;
        if !(needs_barrier || self.state.commit_due() || (in_time && self.state.has_uncommitted())) {
            return Ok(());
        }
        if needs_barrier {
            self.snapshots.barrier = Some(Barrier {
                snapshot: self.snapshot_of_state(),
                own,
                take: std::mem::take(&mut self.snapshots.take),
                sends: std::mem::take(&mut self.snapshots.wanted),
            });
            self.snapshots.force = false;
        }
        self.snapshots.committed_at = now;
        self.snapshots.compacted = std::mem::take(&mut self.duties.compacted);
        match self.state.freeze() {
            Some(job) => {
                self.snapshots.committing = true;
                self.outputs.push(Output::Commit(CommitJob {
                    generation: self.snapshots.generation,
                    job,
                }));
            }
            None => self.durable()?,
        }
        Ok(())
    }

    pub(crate) fn committed_to_disk(&mut self, done: Committed<D>) -> Result<(), Fatal> {
        if done.generation != self.snapshots.generation && !mutant::planted("Q13") {
            return Ok(());
        }
        self.state.finish(done.committed);
        self.snapshots.committing = false;
        self.durable()
    }

    /// The database holds all that the last commit was for.
    fn durable(&mut self) -> Result<(), Fatal> {
        for revision in std::mem::take(&mut self.snapshots.compacted) {
            self.outputs.push(Output::Compacted(revision));
        }
        let Some(Barrier {
            snapshot,
            own,
            take,
            sends,
        }) = self.snapshots.barrier.take()
        else {
            return Ok(());
        };
        if take {
            self.outputs.push(Output::SnapshotTaken(self.state.snapshot()));
        }
        for mut message in sends {
            // Raft may have moved on; an old term's message would be ignored, and its database streamed for nothing.
            if message.term != self.raft.term() || !self.leads() {
                self.raft.report_snapshot(message.to, SnapshotStatus::Failure)?;
                continue;
            }
            message.snapshot = Some(snapshot.clone());
            if mutant::planted("Q14") {
                message.snapshot = Some(self.snapshot_of_state());
            }
            self.snapshots.sending += 1;
            self.outputs.push(Output::SendSnapshot {
                message,
                database: self.state.snapshot(),
            });
        }
        if own {
            self.snapshots.own_index = index_of(&snapshot);
            self.persist_own(snapshot);
        }
        Ok(())
    }

    fn snapshot_of_state(&self) -> Snapshot {
        let position = self.state.applied();
        let metadata = SnapshotMetadata {
            conf_state: Some(self.raft.conf_state()).filter(|_| !mutant::planted("G11")),
            index: position.index,
            term: position.term,
        };
        let data = Bytes::from(v2::membership_json(self.state.membership()));
        Snapshot {
            data,
            metadata: Some(metadata),
        }
    }

    /// Gives up entries in memory that nobody needs: those more than `catch_up_entries` behind.
    pub(crate) fn shorten_log_in_memory(&mut self, now: Uptime) -> Result<(), Fatal> {
        let applied = self.applied();
        if applied < self.snapshots.memory_index + self.config.memory_interval {
            return Ok(());
        }
        self.snapshots.memory_index = applied;
        let conf_state = self.raft.conf_state();
        let busy = self.snapshots.sending > 0 || now < self.snapshots.shorten_after;
        // Raft itself still looks at what it does not know to be applied, before it campaigns.
        let keep_from = applied
            .saturating_sub(self.config.catch_up_entries)
            .min(self.raft.applied());
        let storage = self.raft.storage_mut();
        ignore_old(
            storage
                .create_snapshot(applied, Some(conf_state), Bytes::new())
                .map(|_| ()),
        )?;
        if keep_from > 0 && !busy {
            ignore_old(storage.compact(keep_from))?;
        }
        Ok(())
    }

    pub(crate) fn snapshot_sent(&mut self, member_id: u64, ok: bool, now: Uptime) -> Result<(), Fatal> {
        self.snapshots.sending = self.snapshots.sending.saturating_sub(1);
        if ok {
            self.snapshots.shorten_after = now + self.config.release_delay;
        }
        let status = if ok {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.raft.report_snapshot(member_id, status)?;
        Ok(())
    }

    /// Gives a received database its final name and its message to raft, which decides whether it is of use.
    pub(crate) fn snapshot_received(&mut self, message: Message, path: &Path) -> Result<(), Fatal> {
        let index = message.snapshot.as_ref().map_or(0, index_of);
        if index <= self.raft.committed() {
            self.disk.remove(path).map_err(Fatal::io("removing", path))?;
        } else {
            let name = self.snapshotter.database_path(index);
            self.disk.rename(path, &name).map_err(Fatal::io("renaming", path))?;
            let dir = self.snapshotter.dir();
            self.disk.sync_dir(dir).map_err(Fatal::io("syncing", dir))?;
        }
        self.step_raft(message)
    }

    /// Goes over to the database that came with a snapshot, which the log records by now.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) -> Result<(), Fatal> {
        let index = index_of(snapshot);
        let received = self.snapshotter.database_path(index);
        let path = self.config.database();
        self.disk
            .rename(&received, &path)
            .map_err(Fatal::io("renaming", &received))?;
        let dir = self.snapshotter.dir();
        if !mutant::planted("Q30") {
            self.disk.sync_dir(dir).map_err(Fatal::io("syncing", dir))?;
        }
        let restored = self.state.restore(self.disk.clone(), &path);
        restored.map_err(|source| Fatal::Database {
            path: path.clone(),
            source: source.into(),
        })?;
        let applied = self.applied();
        if applied != index {
            return Err(Fatal::ReceivedDatabase { path, applied, index });
        }
        if mutant::planted("H05") {
            self.snapshotter.clean(index)?;
        }
        // Another database may be on its way in, under a temporary name.
        self.snapshotter.forget_received(index)?;
        let snapshots = &mut self.snapshots;
        snapshots.generation += 1;
        snapshots.committing = false;
        // Who waits for the old database gets the new one.
        snapshots.take |= snapshots.barrier.take().is_some_and(|barrier| barrier.take);
        snapshots.wanted.clear();
        snapshots.compacted.clear();
        (snapshots.own_index, snapshots.memory_index) = (index, index);
        self.outputs.push(Output::Restored);
        self.outputs.push(Output::ClusterChanged);
        Ok(())
    }
}

fn ignore_old(result: Result<(), StorageError>) -> Result<(), Fatal> {
    match result {
        Ok(()) | Err(StorageError::SnapshotOutOfDate | StorageError::Compacted) => Ok(()),
        Err(error) => Err(Fatal::Raft(raft::Error::Storage(error))),
    }
}
