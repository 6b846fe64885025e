//! The queue between the store and one client.
//!
//! Invariants: events enter only while there is room; control answers always do, for the caller reads no requests while they pile up. After
//! an event was turned away, the driver is told once there is room again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::delivery::Delivery;
use crate::lease::Uptime;

/// Is told that there is something to do; must not block, and may be told in vain.
pub trait Notify: Send + Sync {
    /// There is something to do.
    fn notify(&self);
}

/// Knobs of a stream.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Deliveries that may wait (etcd's buffer).
    pub deliveries_max: usize,
    /// Bytes that may wait. A single delivery may go over it.
    pub bytes_max: usize,
    /// How often watchers that ask for it are told of progress. Add some jitter, so that not all streams are told at once.
    pub progress_interval: Uptime,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            deliveries_max: 128,
            bytes_max: 64 << 20,
            progress_interval: Uptime::from_secs(600),
        }
    }
}

/// See the module.
pub(super) struct Queue {
    options: StreamOptions,
    consumer: Arc<dyn Notify>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// Whoever wants to know that there is room again.
    turned_away: Option<Arc<dyn Notify>>,
}

impl Queue {
    pub(super) fn new(options: StreamOptions, consumer: Arc<dyn Notify>) -> Self {
        Queue {
            options,
            consumer,
            waiting: Mutex::default(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progress_interval(&self) -> Uptime {
        self.options.progress_interval
    }

    pub(super) fn len(&self) -> usize {
        self.waiting().deliveries.len()
    }

    /// Whether there is room for events; if not, `driver` is told when there is.
    pub(super) fn has_room(&self, driver: &Arc<dyn Notify>) -> bool {
        let mut waiting = self.waiting();
        let room = waiting.has_room(&self.options);
        if !room {
            waiting.turned_away = Some(driver.clone());
        }
        room
    }

    /// Adds a control answer.
    pub(super) fn push_control(&self, delivery: Delivery) {
        self.waiting().push(delivery);
        self.consumer.notify();
    }

    /// Adds a delivery if there is room; else `driver` is told when there is, and the answer is `false`.
    pub(super) fn push(&self, delivery: Delivery, driver: &Arc<dyn Notify>) -> bool {
        let mut waiting = self.waiting();
        if !waiting.has_room(&self.options) {
            waiting.turned_away = Some(driver.clone());
            return false;
        }
        waiting.push(delivery);
        drop(waiting);
        self.consumer.notify();
        true
    }

    /// Adds a progress notice, unless there is no room; one that waits at the end is brought up to date instead.
    pub(super) fn push_progress(&self, watch_id: i64, revision: i64) -> bool {
        let mut waiting = self.waiting();
        if let Some(Delivery::Progress {
            watch_id: last,
            revision: old,
        }) = waiting.deliveries.back_mut()
            && *last == watch_id
        {
            *old = revision;
            return true;
        }
        if !waiting.has_room(&self.options) {
            return false;
        }
        waiting.push(Delivery::Progress { watch_id, revision });
        drop(waiting);
        self.consumer.notify();
        true
    }

    pub(super) fn pop(&self) -> Option<Delivery> {
        let mut waiting = self.waiting();
        let delivery = waiting.deliveries.pop_front()?;
        waiting.bytes -= delivery.cost();
        let half_empty =
            waiting.deliveries.len() <= self.options.deliveries_max / 2 && waiting.bytes <= self.options.bytes_max / 2;
        let turned_away = if half_empty { waiting.turned_away.take() } else { None };
        drop(waiting);
        if let Some(driver) = turned_away {
            driver.notify();
        }
        Some(delivery)
    }
}

impl Waiting {
    fn has_room(&self, options: &StreamOptions) -> bool {
        self.deliveries.len() < options.deliveries_max && self.bytes < options.bytes_max
    }

    fn push(&mut self, delivery: Delivery) {
        self.bytes += delivery.cost();
        self.deliveries.push_back(delivery);
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("options", &self.options)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
