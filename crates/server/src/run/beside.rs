//! The threads beside the replica's, each with one queue of work.
//!
//! Invariants: a thread ends when its queue is closed, with all work done; an error goes to the run loop, which ends the member.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use disk::RealDisk;
use replica::state_machine::mvcc::{WatchHub, watch};
use replica::{CommitJob, Fatal, LogWriter, PersistJob};
use tokio::sync::oneshot;

use crate::handle::{Command, Error};
use crate::metrics::Metrics;

/// Bytes of entries in one sync, about: a larger batch keeps the first of it waiting.
const BATCH_BYTES_MAX: usize = 16 << 20;

pub(super) struct Beside<J, R> {
    pub jobs: mpsc::Sender<J>,
    pub thread: JoinHandle<R>,
}

pub(super) fn spawn<R: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> R + Send + 'static,
) -> io::Result<JoinHandle<R>> {
    thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Writes the log: everything that waits, with one sync.
pub(super) fn log_thread(
    mut writer: LogWriter<RealDisk>,
    commands: mpsc::Sender<Command>,
    metrics: Arc<Metrics>,
) -> io::Result<Beside<PersistJob, Result<(), Fatal>>> {
    let (jobs, queue) = mpsc::channel::<PersistJob>();
    let thread = spawn("log", move || {
        while let Ok(first) = queue.recv() {
            let mut size = first.size();
            let mut batch = vec![first];
            while size < BATCH_BYTES_MAX
                && let Ok(next) = queue.try_recv()
            {
                size += next.size();
                batch.push(next);
            }
            let started = Instant::now();
            let written = writer.write(&batch);
            metrics.wal_write.took(started.elapsed());
            metrics.wal_write_bytes.add(size as i64);
            let result = written.and_then(|due| {
                let started = Instant::now();
                let synced = writer.sync(batch);
                if due {
                    metrics.wal_fsync.took(started.elapsed());
                }
                synced
            });
            let failed = result.is_err();
            if commands.send(Command::Persisted(result)).is_err() || failed {
                return Ok(());
            }
        }
        writer.close()
    })?;
    Ok(Beside { jobs, thread })
}

/// What is done to the database file, one after the other: it takes one writer.
pub(super) enum DatabaseWork {
    Commit(CommitJob<RealDisk>),
    /// One step of a compaction of the file: whether it was the last one.
    Defragment {
        step: Box<dyn FnOnce() -> Result<bool, String> + Send>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// Commits applied entries to the database.
pub(super) fn database_thread(
    commands: mpsc::Sender<Command>,
    metrics: Arc<Metrics>,
    work: Arc<AtomicUsize>,
) -> io::Result<Beside<DatabaseWork, ()>> {
    let (jobs, queue) = mpsc::channel::<DatabaseWork>();
    let thread = spawn("database", move || {
        while let Ok(job) = queue.recv() {
            match job {
                DatabaseWork::Commit(job) => {
                    let started = Instant::now();
                    let result = job.run();
                    metrics.backend_commit.took(started.elapsed());
                    commands.send(Command::Committed(result)).ok();
                }
                DatabaseWork::Defragment { step, reply } => {
                    let done = step().map_err(Error::Internal);
                    commands.send(Command::Defragmented { done, reply }).ok();
                }
            }
            work.fetch_sub(1, Ordering::Release);
        }
    })?;
    Ok(Beside { jobs, thread })
}

/// Lets watchers that lag catch up.
pub(super) struct WatchThread {
    open: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl WatchThread {
    pub fn close(self) {
        drop(self.open);
        self.thread.join().ok();
    }
}

struct Wake(mpsc::SyncSender<()>);

impl watch::Notify for Wake {
    fn notify(&self) {
        // One wake-up that waits is enough.
        self.0.try_send(()).ok();
    }
}

pub(super) fn watch_thread(hub: WatchHub<RealDisk>, clock: Instant) -> io::Result<WatchThread> {
    let (open, closed) = mpsc::channel();
    let (wake, woken) = mpsc::sync_channel(1);
    hub.set_driver(Arc::new(Wake(wake)));
    let thread = spawn("watches", move || {
        loop {
            match hub.step(clock.elapsed(), watch::StepBudget::default()) {
                Ok(watch::Caught::More) => {}
                Ok(watch::Caught::All | watch::Caught::Blocked) => {
                    woken.recv_timeout(watch::STEP_PERIOD).ok();
                }
                Err(error) => {
                    // The same file fails the next commit, which ends the member; watchers must not skip what they cannot read.
                    tracing::error!(%error, "watchers cannot read what they missed");
                    woken.recv_timeout(watch::STEP_PERIOD).ok();
                }
            }
            if matches!(closed.try_recv(), Err(mpsc::TryRecvError::Disconnected)) {
                return;
            }
        }
    })?;
    Ok(WatchThread { open, thread })
}
