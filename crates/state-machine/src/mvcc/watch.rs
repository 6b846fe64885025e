//! Watching keys (`etcd server/storage/mvcc/watchable_store.go`, `etcdserver/api/v3rpc/watch.go`).
//!
//! Invariants:
//! - Per watcher: events come by revision, each once, all events of a revision in one delivery; none is left out without the watcher being
//!   cancelled for compaction.
//! - A stream has one queue, so what is in it is in order: "created" comes before the first event, and a progress notice never runs ahead of
//!   an event. A notice with revision R means: no event ≤ R is still to come.
//! - Queues are bounded by number and bytes. Whoever does not keep up is *unsynced*: nothing is kept for it, it reads from the store what it
//!   missed when there is room again. So no client can hold up the store or make it keep data.
//! - `prev_kv` is read under the view of the event: compaction cannot take it away in between.
//! - No threads and no clock: [`WatchHub::step`] is called with the time, and [`Notify`] says when there is something to do.
//!
//! ```text
//! notify (each transaction)  -> synced watchers   -> queue of their stream -> WatchStream::pop
//! step (each 100 ms, sooner) -> unsynced watchers -> the same, until they have caught up
//! ```

mod catch_up;
mod delivery;
mod matcher;
mod queue;
mod watchers;

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use disk::Disk;
use proto::etcdserverpb::WatchCreateRequest;
use proto::mvccpb::KeyValue;

pub use catch_up::{Caught, StepBudget};
pub use delivery::{Delivery, Event};
pub use queue::{Notify, StreamOptions};
pub use watchers::WatchStats;
pub(super) use watchers::Watchers;

use super::read::ReadView;
use super::store::Shared;
use super::write::Changes;
use crate::error::Error;
use crate::lease::Uptime;
use queue::Queue;

/// How often watchers that lag are looked after when nothing else calls for it (etcd's period).
pub const STEP_PERIOD: Uptime = Uptime::from_millis(100);

/// Opens watch streams and lets those that lag catch up. Cheap to clone; for any thread.
#[derive(Debug)]
pub struct WatchHub<D: Disk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for WatchHub<D> {
    fn clone(&self) -> Self {
        WatchHub {
            shared: self.shared.clone(),
        }
    }
}

impl<D: Disk> WatchHub<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        WatchHub { shared }
    }

    /// Says whom to tell when [`WatchHub::step`] has something to do before its period is over.
    pub fn set_driver(&self, driver: Arc<dyn Notify>) {
        self.shared.watchers().set_driver(driver);
    }

    /// Opens a stream; `consumer` is told when [`WatchStream::pop`] has something.
    pub fn open(&self, options: StreamOptions, consumer: Arc<dyn Notify>, now: Uptime) -> WatchStream<D> {
        let (id, queue) = self.shared.watchers().open(options, consumer, now);
        WatchStream {
            shared: self.shared.clone(),
            id,
            queue,
        }
    }

    /// Lets watchers that lag read a piece of what they missed, and sends progress notices that are due. Not for the thread that applies: it
    /// reads the file. Call it every [`STEP_PERIOD`], when the driver is told, and again at once while it answers [`Caught::More`].
    ///
    /// # Errors
    /// [`Error::Storage`]: the member must stop.
    pub fn step(&self, now: Uptime, budget: StepBudget) -> Result<Caught, Error> {
        self.shared.watchers().send_progress(now);
        let _one_at_a_time = self.shared.catching_up.lock().unwrap_or_else(PoisonError::into_inner);
        catch_up::step(&self.shared, budget)
    }

    /// How many streams and watchers there are, and how many of them lag.
    pub fn stats(&self) -> WatchStats {
        self.shared.watchers().stats()
    }
}

/// One client's stream of watchers. Dropping it cancels them all.
#[derive(Debug)]
pub struct WatchStream<D: Disk> {
    shared: Arc<Shared<D>>,
    id: u64,
    queue: Arc<Queue>,
}

impl<D: Disk> WatchStream<D> {
    /// Adds a watcher. The answer goes into the queue: [`Delivery::Created`] or [`Delivery::Refused`].
    pub fn create(&self, request: &WatchCreateRequest) {
        self.shared.watchers().create(self.id, request);
    }

    /// Refuses a watcher for a reason of the caller's, such as missing rights; `reason` is what the client reads.
    pub fn refuse(&self, reason: String) {
        self.shared.watchers().refuse(self.id, reason);
    }

    /// Removes a watcher: [`Delivery::Canceled`], or nothing when there is no such watcher.
    pub fn cancel(&self, watch_id: i64) {
        self.shared.watchers().cancel(self.id, watch_id);
    }

    /// Asks for a progress notice for the whole stream. One is sent only if every watcher is in sync; else the client asks again.
    pub fn request_progress(&self) {
        self.shared.watchers().request_progress(self.id);
    }

    /// The next thing to send.
    pub fn pop(&self) -> Option<Delivery> {
        self.queue.pop()
    }

    /// What waits to be sent. Stop reading requests while this is large: answers to them are never refused for want of room.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }
}

impl<D: Disk> Drop for WatchStream<D> {
    fn drop(&mut self) {
        self.shared.watchers().close(self.id);
    }
}

/// Tells synced watchers what a transaction changed. The store's revision has moved already.
pub(super) fn notify<D: Disk>(shared: &Shared<D>, changes: &Changes) {
    let mut view: Option<ReadView<D>> = None;
    let previous = |key: &[u8], revision: i64| {
        let view = view.get_or_insert_with(|| ReadView::new(shared));
        previous_of(view, key, revision)
    };
    shared.watchers().notify(changes, previous);
}

/// What a key was before a revision; nothing when it was not there or that is compacted away.
fn previous_of<D: Disk>(view: &ReadView<D>, key: &[u8], revision: i64) -> Result<Option<KeyValue>, Error> {
    if mutant::planted("Q36") {
        return Ok(view.get(key)?.map(detached));
    }
    match revision - 1 < view.compact_revision() {
        true => Ok(None),
        false => Ok(view.get_at(key, revision - 1)?.map(detached)),
    }
}

/// A copy that does not keep a page of the file in memory: an event may wait long for its client.
fn detached(kv: KeyValue) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(&kv.key),
        value: Bytes::copy_from_slice(&kv.value),
        ..kv
    }
}

#[cfg(test)]
mod tests;
