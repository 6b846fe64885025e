//! All streams and their watchers.
//!
//! Invariants:
//! - A watcher is either synced (in `synced`, everything up to `current` is in its queue) or lags (in `lagging` by the revision it needs next).
//! - `current` is the revision of the last transaction that watchers were told of; every decision here is made by it alone.
//! - Nothing here reads the file except for `prev_kv`, and that only when a synced watcher of that very key asked for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::WatchCreateRequest;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::mvccpb::KeyValue;

use super::super::write::{Change, Changes};
use super::delivery::{Delivery, Event};
use super::matcher::{Keys, Matcher, WatcherId};
use super::queue::{Notify, Queue, StreamOptions};
use crate::error::Error;
use crate::lease::Uptime;

/// What a watcher is told of what nobody asked for: the whole stream.
const WHOLE_STREAM: i64 = -1;

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WatchStats {
    /// Open streams.
    pub streams: usize,
    /// Watchers on all of them.
    pub watchers: usize,
    /// Watchers that lag.
    pub slow_watchers: usize,
}

/// See the module.
pub(crate) struct Watchers {
    pub(super) current: i64,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    next_serial: u64,
    synced: Matcher,
    /// By the revision that they need next.
    pub(super) lagging: BTreeSet<(i64, WatcherId)>,
    /// Where the last catch-up began, so that all get their turn.
    pub(super) turn: (i64, WatcherId),
    /// When streams send progress notices.
    timers: BTreeSet<(Uptime, u64)>,
    pub(super) driver: Arc<dyn Notify>,
}

struct Stream {
    queue: Arc<Queue>,
    watchers: BTreeMap<i64, Watcher>,
    /// Ids whose watcher a compaction ended. As in etcd they stay taken until they are cancelled, and that is answered.
    ended: BTreeSet<i64>,
    next_id: i64,
    lagging: usize,
    due: Uptime,
}

impl Stream {
    fn has(&self, watch_id: i64) -> bool {
        self.watchers.contains_key(&watch_id) || self.ended.contains(&watch_id)
    }
}

/// One watcher.
#[derive(Debug, Clone)]
pub(super) struct Watcher {
    /// Tells it from another one that had its id before.
    pub(super) serial: u64,
    pub(super) keys: Keys,
    start_revision: i64,
    /// The first revision that it has yet to see.
    pub(super) next: i64,
    synced: bool,
    puts: bool,
    deletes: bool,
    pub(super) prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    /// No events since the last notice was due.
    idle: bool,
}

impl Watcher {
    /// Whether it wants to see a change at a revision.
    pub(super) fn wants(&self, revision: i64, deleted: bool) -> bool {
        (self.next <= revision || mutant::planted("H33"))
            && if deleted {
                self.deletes && !mutant::planted("Q53")
            } else {
                self.puts
            }
    }

    fn delivery(&self, watch_id: i64, revision: i64, events: Vec<Arc<Event>>) -> Delivery {
        Delivery::Events {
            watch_id,
            revision,
            events,
            prev_kv: self.prev_kv,
            fragment: self.fragment,
        }
    }
}

/// Until a driver is set.
struct Nobody;

impl Notify for Nobody {
    fn notify(&self) {}
}

impl Watchers {
    pub(crate) fn new(current: i64) -> Self {
        Watchers {
            current,
            streams: BTreeMap::new(),
            next_stream: 0,
            next_serial: 0,
            synced: Matcher::default(),
            lagging: BTreeSet::new(),
            turn: (0, (0, 0)),
            timers: BTreeSet::new(),
            driver: Arc::new(Nobody),
        }
    }

    pub(super) fn set_driver(&mut self, driver: Arc<dyn Notify>) {
        self.driver = driver;
    }

    pub(super) fn open(&mut self, options: StreamOptions, consumer: Arc<dyn Notify>, now: Uptime) -> (u64, Arc<Queue>) {
        let id = self.next_stream;
        self.next_stream += 1;
        let due = now + options.progress_interval;
        let queue = Arc::new(Queue::new(options, consumer));
        self.timers.insert((due, id));
        let stream = Stream {
            queue: queue.clone(),
            watchers: BTreeMap::new(),
            ended: BTreeSet::new(),
            next_id: 0,
            lagging: 0,
            due,
        };
        self.streams.insert(id, stream);
        (id, queue)
    }

    pub(super) fn close(&mut self, stream: u64) {
        let Some(closed) = self.streams.remove(&stream) else {
            return;
        };
        self.timers.remove(&(closed.due, stream));
        if mutant::planted("H35") {
            return;
        }
        for (watch_id, watcher) in closed.watchers {
            self.forget((stream, watch_id), &watcher);
        }
    }

    fn forget(&mut self, id: WatcherId, watcher: &Watcher) {
        match watcher.synced {
            true => self.synced.remove(&watcher.keys, id),
            false => drop(self.lagging.remove(&(watcher.next, id))),
        }
    }

    pub(super) fn stats(&self) -> WatchStats {
        let watchers = self.streams.values().map(|stream| stream.watchers.len()).sum();
        WatchStats {
            streams: self.streams.len(),
            watchers,
            slow_watchers: self.lagging.len(),
        }
    }

    pub(super) fn refuse(&mut self, stream: u64, reason: String) {
        if let Some(stream) = self.streams.get(&stream) {
            stream.queue.push_control(Delivery::Refused {
                reason,
                revision: self.current,
            });
        }
    }

    pub(super) fn create(&mut self, stream_id: u64, request: &WatchCreateRequest) {
        let current = self.current;
        let Some(stream) = self.streams.get_mut(&stream_id) else {
            return;
        };
        let refuse = |reason: &str| Delivery::Refused {
            reason: reason.into(),
            revision: current,
        };
        if request.start_revision < 0 {
            return stream.queue.push_control(refuse(&Error::Compacted.message()));
        }
        // An empty key is the smallest key.
        let key = if request.key.is_empty() {
            b"\0"
        } else {
            request.key.as_ref()
        };
        let keys = match request.range_end.as_ref() {
            [] => Keys::One(Bytes::copy_from_slice(key)),
            [0] => Keys::Range(Bytes::copy_from_slice(key), None),
            end if key >= end => return stream.queue.push_control(refuse("mvcc: watcher range is empty")),
            end => Keys::Range(Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(end))),
        };
        let watch_id = match request.watch_id {
            0 => {
                while stream.has(stream.next_id) {
                    stream.next_id += 1;
                }
                stream.next_id += 1;
                stream.next_id - 1
            }
            taken if stream.has(taken) => {
                let reason = "mvcc: duplicate watch ID provided on the WatchStream";
                return stream.queue.push_control(refuse(reason));
            }
            wanted => wanted,
        };
        let start = request.start_revision;
        let synced = start == 0 || start > current;
        let filtered = |filter: FilterType| request.filters.contains(&(filter as i32));
        self.next_serial += 1;
        let watcher = Watcher {
            serial: self.next_serial,
            keys,
            start_revision: start,
            next: if synced { start.max(current + 1) } else { start },
            synced,
            puts: !filtered(FilterType::Noput),
            deletes: !filtered(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            idle: true,
        };
        let id = (stream_id, watch_id);
        // The answer first: events must find it in the queue already.
        stream.queue.push_control(Delivery::Created {
            watch_id,
            revision: current,
        });
        if synced {
            self.synced.insert(&watcher.keys, id);
        } else {
            self.lagging.insert((watcher.next, id));
            stream.lagging += 1;
            self.driver.notify();
        }
        stream.watchers.insert(watch_id, watcher);
    }

    pub(super) fn cancel(&mut self, stream_id: u64, watch_id: i64) {
        let Some(stream) = self.streams.get_mut(&stream_id) else {
            return;
        };
        let watcher = stream.watchers.remove(&watch_id);
        if watcher.is_none() && !stream.ended.remove(&watch_id) {
            return;
        }
        stream.queue.push_control(Delivery::Canceled {
            watch_id,
            revision: self.current,
        });
        let Some(watcher) = watcher else {
            return;
        };
        stream.lagging -= usize::from(!watcher.synced);
        self.forget((stream_id, watch_id), &watcher);
    }

    pub(super) fn request_progress(&mut self, stream_id: u64) {
        let Some(stream) = self.streams.get(&stream_id) else {
            return;
        };
        let ready = !stream.watchers.is_empty()
            && (stream.lagging == 0 || mutant::planted("H30"))
            && stream
                .watchers
                .values()
                .all(|watcher| watcher.start_revision <= self.current);
        if ready {
            stream.queue.push_progress(WHOLE_STREAM, self.current);
        }
    }

    pub(super) fn send_progress(&mut self, now: Uptime) {
        while let Some((due, stream_id)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            let Some(stream) = self.streams.get_mut(&stream_id) else {
                continue;
            };
            for (watch_id, watcher) in stream
                .watchers
                .iter_mut()
                .filter(|(_, watcher)| watcher.progress_notify)
            {
                if watcher.idle && watcher.synced && watcher.start_revision <= self.current {
                    stream.queue.push_progress(*watch_id, self.current);
                }
                watcher.idle = true;
            }
            stream.due = now + stream.queue.progress_interval().max(Uptime::from_millis(1));
            self.timers.insert((stream.due, stream_id));
        }
    }

    /// Tells synced watchers. `previous` reads what a key was before a revision.
    pub(super) fn notify(
        &mut self,
        changes: &Changes,
        mut previous: impl FnMut(&[u8], i64) -> Result<Option<KeyValue>, Error>,
    ) {
        let revision = changes.revision;
        self.current = revision;
        let mut due: BTreeMap<WatcherId, Vec<Arc<Event>>> = BTreeMap::new();
        let mut failed = BTreeSet::new();
        for change in &changes.changes {
            let concerned = self.concerned(change, revision);
            if concerned.is_empty() {
                continue;
            }
            let mut event = Event {
                kv: change.kv.clone(),
                deleted: change.deleted,
                previous: None,
            };
            let asks = |id: &WatcherId| self.watcher(*id).is_some_and(|watcher| watcher.prev_kv);
            if !event.creates() && concerned.iter().any(asks) {
                match previous(&event.kv.key, revision) {
                    Ok(previous) => event.previous = previous,
                    // Who asked reads it again when catching up, where an error has somewhere to go.
                    Err(_) => failed.extend(concerned.iter().copied().filter(asks)),
                }
            }
            let event = Arc::new(event);
            for id in concerned {
                due.entry(id).or_default().push(event.clone());
            }
        }
        for (id, events) in due {
            if failed.contains(&id) || !self.deliver(id, revision, events) {
                self.fall_behind(id, revision);
            }
        }
        if !failed.is_empty() {
            self.driver.notify();
        }
    }

    fn concerned(&self, change: &Change, revision: i64) -> Vec<WatcherId> {
        let mut ids = Vec::new();
        self.synced.for_each(&change.kv.key, |id| {
            if self
                .watcher(id)
                .is_some_and(|watcher| watcher.wants(revision, change.deleted))
            {
                ids.push(id);
            }
        });
        ids
    }

    pub(super) fn watcher(&self, (stream, watch_id): WatcherId) -> Option<&Watcher> {
        self.streams.get(&stream)?.watchers.get(&watch_id)
    }

    /// Whether the queue of a stream takes events; if not, the driver is told when it does.
    pub(super) fn has_room(&self, stream: u64) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|stream| stream.queue.has_room(&self.driver))
    }

    /// Puts events into the queue of a watcher, if there is room.
    pub(super) fn deliver(&mut self, (stream, watch_id): WatcherId, revision: i64, events: Vec<Arc<Event>>) -> bool {
        let driver = &self.driver;
        let Some(stream) = self.streams.get_mut(&stream) else {
            return true;
        };
        let Some(watcher) = stream.watchers.get_mut(&watch_id) else {
            return true;
        };
        let sent = stream.queue.push(watcher.delivery(watch_id, revision, events), driver);
        watcher.idle &= !sent;
        sent
    }

    /// A synced watcher missed `revision`.
    fn fall_behind(&mut self, id: WatcherId, revision: i64) {
        let Some(stream) = self.streams.get_mut(&id.0) else {
            return;
        };
        let Some(watcher) = stream.watchers.get_mut(&id.1) else {
            return;
        };
        watcher.synced = false;
        watcher.next = revision;
        stream.lagging += 1;
        self.synced.remove(&watcher.keys, id);
        self.lagging.insert((revision, id));
    }

    /// A watcher that lags has seen everything below `next`; it is synced when that is all there is.
    pub(super) fn advance(&mut self, id: WatcherId, next: i64) {
        let current = self.current;
        let Some(stream) = self.streams.get_mut(&id.0) else {
            return;
        };
        let Some(watcher) = stream.watchers.get_mut(&id.1) else {
            return;
        };
        self.lagging.remove(&(watcher.next, id));
        watcher.next = match (mutant::planted("H22"), mutant::planted("Q52")) {
            (true, _) => next - 1,
            (_, true) if next <= current => next + 1,
            _ => next,
        };
        if mutant::planted("G15") && next == current {
            watcher.next = next + 1;
        }
        let next = watcher.next;
        if next > current {
            watcher.synced = true;
            stream.lagging -= 1;
            self.synced.insert(&watcher.keys, id);
        } else {
            self.lagging.insert((next, id));
        }
    }

    /// Cancels watchers that need what is compacted away, if their queue has room to say so.
    pub(super) fn cancel_compacted(&mut self, compacted: i64) {
        let lost: Vec<_> = self
            .lagging
            .range(..(compacted, (0, i64::MIN)))
            .map(|(_, id)| *id)
            .collect();
        for (stream_id, watch_id) in lost {
            if mutant::planted("H32") {
                self.advance((stream_id, watch_id), compacted);
                continue;
            }
            let driver = self.driver.clone();
            let Some(stream) = self.streams.get_mut(&stream_id) else {
                continue;
            };
            if stream.queue.push(
                Delivery::Compacted {
                    watch_id,
                    compact_revision: compacted,
                },
                &driver,
            ) && let Some(watcher) = stream.watchers.remove(&watch_id)
            {
                stream.lagging -= 1;
                stream.ended.insert(watch_id);
                self.forget((stream_id, watch_id), &watcher);
            }
        }
    }

    /// The store went over to another database: what synced watchers have seen ends at the old revision.
    pub(crate) fn restored(&mut self, current: i64) {
        let seen = std::mem::replace(&mut self.current, current);
        for (stream_id, stream) in &mut self.streams {
            for (watch_id, watcher) in stream.watchers.iter_mut().filter(|(_, watcher)| watcher.synced) {
                watcher.next = watcher.next.max(seen + 1);
                if mutant::planted("H31") {
                    watcher.next = watcher.start_revision.max(1);
                }
                if mutant::planted("Q35") {
                    watcher.next = current + 1;
                }
                if watcher.next <= current {
                    let id = (*stream_id, *watch_id);
                    watcher.synced = false;
                    stream.lagging += 1;
                    self.synced.remove(&watcher.keys, id);
                    self.lagging.insert((watcher.next, id));
                }
            }
        }
        if !self.lagging.is_empty() {
            self.driver.notify();
        }
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers")
            .field("current", &self.current)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
