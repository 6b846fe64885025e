//! The half of a replica that writes the log, on a thread of its own.
//!
//! Invariants:
//! - Jobs are written in the order in which they were made, and reported only after one sync that covers them all.
//! - A snapshot is recorded in this order: `.snap` file durable, record in the log durable, then what depends on it
//!   (reliability: a start in between finds either the old snapshot or the new one, whole).
//! - Any failure is fatal. The writer refuses to go on after one.

use std::sync::Arc;

use disk::Disk;
use proto::raftpb::{Entry, HardState, Message, Snapshot};
use proto::walpb;
use wal::{Snapshotter, Wal};

use crate::Fatal;
use crate::config::Config;
use crate::observer::{Observer, Work};

/// Something to be made durable.
#[derive(Debug, Default)]
pub struct PersistJob {
    /// Jobs are numbered from 1 without a gap.
    pub(crate) number: u64,
    /// A snapshot from the leader; replaces the log up to it.
    pub(crate) received: Option<Snapshot>,
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
    /// A snapshot of this member's own state, whose database is durable; the log before it is given up.
    pub(crate) own: Option<Snapshot>,
    /// What may be said once the job is durable: to raft, or to peers.
    pub(crate) responses: Vec<Message>,
}

impl PersistJob {
    /// Bytes of entries in it, about.
    pub fn size(&self) -> usize {
        self.entries.iter().map(|entry| entry.data.len() + 32).sum()
    }
}

/// What [`LogWriter::persist`] made durable: proof for [`crate::Input::Persisted`].
#[derive(Debug)]
pub struct Persisted {
    pub(crate) jobs: Vec<PersistJob>,
}

/// See the module.
#[derive(Debug)]
pub struct LogWriter<D: Disk> {
    wal: Wal<D>,
    snapshotter: Snapshotter<D>,
    segments_max: usize,
    snapshots_max: usize,
    observer: Option<Arc<dyn Observer>>,
    /// Something was written that must be synced before its jobs count as done.
    sync_due: bool,
}

impl<D: Disk> LogWriter<D> {
    pub(crate) fn new(wal: Wal<D>, snapshotter: Snapshotter<D>, config: &Config) -> LogWriter<D> {
        let all_if_zero = |most: usize| if most == 0 { usize::MAX } else { most };
        LogWriter {
            wal,
            snapshotter,
            segments_max: all_if_zero(config.log_segments_max),
            snapshots_max: all_if_zero(config.snapshots_max),
            observer: config.observer.clone(),
            sync_due: false,
        }
    }

    /// Makes jobs durable with one sync. They must continue those given before. [`LogWriter::write`] and [`LogWriter::sync`] are
    /// the same in parts.
    pub fn persist(&mut self, jobs: Vec<PersistJob>) -> Result<Persisted, Fatal> {
        self.write(&jobs)?;
        self.sync(jobs)
    }

    /// Writes jobs. They count as done only after the sync that follows. Returns whether that has something to sync.
    pub fn write(&mut self, jobs: &[PersistJob]) -> Result<bool, Fatal> {
        let mut due = self.sync_due;
        for job in jobs {
            if let Some(snapshot) = &job.received {
                if mutant::planted("H06") {
                    self.wal.append(&job.hard_state, &[])?;
                    self.wal.sync()?;
                }
                self.save_snapshot(snapshot)?;
            }
            due |= self.wal.append(&job.hard_state, &job.entries)?;
            if let Some(snapshot) = &job.received {
                // The hard state must be durable before the segments that it replaces are given up (etcd #10219).
                self.wal.sync()?;
                self.give_up_before(snapshot)?;
            }
            if let Some(snapshot) = &job.own {
                self.save_snapshot(snapshot)?;
                self.give_up_before(snapshot)?;
            }
        }
        self.sync_due = due;
        Ok(due)
    }

    /// Makes durable what was written: these jobs, all of them.
    pub fn sync(&mut self, jobs: Vec<PersistJob>) -> Result<Persisted, Fatal> {
        if self.sync_due && !mutant::planted("H01") {
            self.wal.sync()?;
            self.sync_due = false;
        }
        Ok(Persisted { jobs })
    }

    /// Writes out what may wait for the next sync, at the end of a process.
    pub fn close(self) -> Result<(), Fatal> {
        Ok(self.wal.close()?)
    }

    fn save_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Fatal> {
        if let Some(observer) = &self.observer {
            observer.begins(Work::SaveSnapshot);
        }
        self.snapshotter.save(snapshot)?;
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        self.wal.save_snapshot(&walpb::Snapshot {
            index: Some(metadata.index),
            term: Some(metadata.term),
            conf_state: metadata.conf_state,
        })?;
        if let Some(observer) = &self.observer {
            observer.ends(Work::SaveSnapshot);
        }
        Ok(())
    }

    fn give_up_before(&mut self, snapshot: &Snapshot) -> Result<(), Fatal> {
        let index = snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index);
        self.wal.release_to(index);
        self.wal.purge(self.segments_max)?;
        self.snapshotter.purge(self.snapshots_max)?;
        Ok(())
    }
}
