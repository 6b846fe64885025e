//! The half of a replica that writes the log, on a thread of its own.
//!
//! Invariants:
//! - Jobs are written in the order in which they were made, and reported only after one sync that covers them all.
//! - A snapshot is recorded in this order: `.snap` file durable, record in the log durable, then what depends on it
//!   (reliability: a start in between finds either the old snapshot or the new one, whole).
//! - A record of a snapshot counts once the log holds a commit index that reaches it: that index stands behind the record at the latest,
//!   before any entry that follows the snapshot. No record is older than one before it.
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
    /// The newest snapshot that this writer recorded.
    recorded: u64,
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
            recorded: 0,
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
                // Before the entries behind it: a power cut between the two would leave a log with a gap.
                let reached = HardState {
                    commit: index_of(snapshot),
                    ..job.hard_state
                };
                self.wal.append(&reached, &[])?;
            }
            due |= self.wal.append(&job.hard_state, &job.entries)?;
            if let Some(snapshot) = &job.received {
                // The hard state must be durable before the segments that it replaces are given up (etcd #10219).
                self.wal.sync()?;
                self.give_up_before(snapshot)?;
            }
            // While the disk was slow, a newer one from the leader may have overtaken it.
            if let Some(snapshot) = job.own.as_ref().filter(|own| index_of(own) > self.recorded) {
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
        self.recorded = index_of(snapshot);
        if let Some(observer) = &self.observer {
            observer.ends(Work::SaveSnapshot);
        }
        Ok(())
    }

    fn give_up_before(&mut self, snapshot: &Snapshot) -> Result<(), Fatal> {
        self.wal.release_to(index_of(snapshot));
        self.wal.purge(self.segments_max)?;
        self.snapshotter.purge(self.snapshots_max)?;
        Ok(())
    }
}

/// The last entry that a snapshot stands for.
pub(crate) fn index_of(snapshot: &Snapshot) -> u64 {
    snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use disk::MemoryDisk;
    use proto::raftpb::{ConfState, SnapshotMetadata};
    use wal::valid_snapshots;

    use super::*;

    const LOG: &str = "/data/member/wal";

    fn entry(index: u64, bytes: usize) -> Entry {
        Entry {
            term: 1,
            index,
            data: vec![7; bytes].into(),
            ..Entry::default()
        }
    }

    fn snapshot(index: u64) -> Snapshot {
        let metadata = SnapshotMetadata {
            conf_state: Some(ConfState {
                voters: vec![1],
                ..ConfState::default()
            }),
            index,
            term: 1,
        };
        Snapshot {
            data: "{}".into(),
            metadata: Some(metadata),
        }
    }

    fn state(commit: u64) -> HardState {
        HardState {
            term: 1,
            vote: 1,
            commit,
        }
    }

    /// A writer whose log has the entries up to 16.
    fn writer(disk: &MemoryDisk) -> LogWriter<MemoryDisk> {
        let snap = Path::new("/data/member/snap");
        disk.create_dir_all(snap).unwrap();
        disk.sync_dir(Path::new("/data/member")).unwrap();
        let entries: Vec<Entry> = (1..=16).map(|index| entry(index, 20)).collect();
        let wal = Wal::create_with(disk, Path::new(LOG), b"metadata", &state(12), &entries).unwrap();
        LogWriter::new(wal, Snapshotter::new(disk.clone(), snap), &Config::default())
    }

    /// The snapshot and the entries that a start finds.
    fn found(disk: &MemoryDisk) -> Result<(u64, Vec<u64>), wal::Error> {
        let newest = valid_snapshots(disk, Path::new(LOG))?.pop().unwrap_or_default();
        let (_, contents) = Wal::open_or_repair(disk, Path::new(LOG), &newest)?;
        Ok((
            newest.index(),
            contents.entries.iter().map(|entry| entry.index).collect(),
        ))
    }

    #[test]
    fn an_own_snapshot_that_a_received_one_overtook_is_left_out() {
        let disk = MemoryDisk::new(1);
        let mut writer = writer(&disk);
        let received = PersistJob {
            received: Some(snapshot(17)),
            hard_state: state(17),
            ..PersistJob::default()
        };
        let own = PersistJob {
            own: Some(snapshot(12)),
            ..PersistJob::default()
        };
        let next = PersistJob {
            entries: vec![entry(18, 20)],
            ..PersistJob::default()
        };
        writer.persist(vec![received, own, next]).unwrap();
        drop(writer);
        disk.crash();
        assert_eq!(found(&disk).unwrap(), (17, vec![18]));
    }

    #[test]
    fn the_power_may_fail_while_a_snapshot_and_what_follows_it_are_written() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..60 {
            for at in 0.. {
                let disk = MemoryDisk::new(seed);
                disk.set_tearing(false);
                let mut writer = writer(&disk);
                disk.cut_power_at(disk.operations() + at);
                let job = PersistJob {
                    received: Some(snapshot(17)),
                    hard_state: state(18),
                    entries: vec![entry(18, 700), entry(19, 700)],
                    ..PersistJob::default()
                };
                let result = writer.persist(vec![job]);
                drop(writer);
                disk.crash();
                let (start, entries) = found(&disk).unwrap_or_else(|error| panic!("seed {seed}, call {at}: {error}"));
                outcomes.insert((start, entries.len()));
                if result.is_ok() {
                    break;
                }
            }
        }
        // Nothing of it, or the snapshot, or all.
        assert!(outcomes.contains(&(0, 16)) && outcomes.contains(&(17, 0)) && outcomes.contains(&(17, 2)));
    }
}
