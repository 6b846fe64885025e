//! What is counted about one peer; the metrics endpoint reads it.
//!
//! Invariants: counters only grow, and reading them never waits for a sender.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A histogram of durations with exponential buckets, as Prometheus wants it.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bound of the first bucket, in seconds; each next one is twice as wide.
    pub start: f64,
    /// Observations at or under each bound, the last one for all the rest; not cumulative.
    pub buckets: Vec<AtomicU64>,
    /// The sum of all observations, in nanoseconds.
    pub sum_ns: AtomicU64,
}

impl Histogram {
    /// `count` buckets from `start` seconds on, each twice the one before.
    pub fn new(start: f64, count: usize) -> Histogram {
        let buckets = (0..=count).map(|_| AtomicU64::new(0)).collect();
        Histogram {
            start,
            buckets,
            sum_ns: AtomicU64::new(0),
        }
    }

    /// The upper bounds, in seconds.
    pub fn bounds(&self) -> Vec<f64> {
        (0..self.buckets.len() - 1)
            .map(|i| self.start * f64::powi(2.0, i as i32))
            .collect()
    }

    fn observe(&self, value: Duration) {
        let at = self
            .bounds()
            .iter()
            .position(|bound| value.as_secs_f64() <= *bound)
            .unwrap_or(self.buckets.len() - 1);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(value.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// Counters about one peer, under the names of etcd's `etcd_network_*` metrics.
#[derive(Debug)]
pub struct Statistics {
    /// The peer.
    pub peer_id: u64,
    /// `etcd_network_peer_sent_bytes_total`.
    pub sent_bytes: AtomicU64,
    /// `etcd_network_peer_received_bytes_total`.
    pub received_bytes: AtomicU64,
    /// `etcd_network_peer_sent_failures_total`.
    pub sent_failures: AtomicU64,
    /// `etcd_network_peer_received_failures_total`.
    pub received_failures: AtomicU64,
    /// `etcd_network_disconnected_peers_total`.
    pub disconnects: AtomicU64,
    /// `etcd_network_snapshot_send_success`.
    pub snapshots_sent: AtomicU64,
    /// `etcd_network_snapshot_send_failures`.
    pub snapshot_failures: AtomicU64,
    /// `etcd_network_peer_round_trip_time_seconds`.
    pub round_trips: Histogram,
    /// `etcd_network_snapshot_send_total_duration_seconds`.
    pub snapshot_durations: Histogram,
}

impl Statistics {
    /// All zero.
    pub fn new(peer_id: u64) -> Statistics {
        Statistics {
            peer_id,
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            sent_failures: AtomicU64::new(0),
            received_failures: AtomicU64::new(0),
            disconnects: AtomicU64::new(0),
            snapshots_sent: AtomicU64::new(0),
            snapshot_failures: AtomicU64::new(0),
            round_trips: Histogram::new(0.0001, 16),
            snapshot_durations: Histogram::new(0.1, 10),
        }
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent_failure(&self) {
        self.sent_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received_failure(&self) {
        self.received_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn disconnected(&self) {
        self.disconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot_sent(&self, took: Duration) {
        self.snapshots_sent.fetch_add(1, Ordering::Relaxed);
        self.snapshot_durations.observe(took);
    }

    pub(super) fn snapshot_failure(&self) {
        self.snapshot_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn round_trip(&self, took: Duration) {
        self.round_trips.observe(took);
    }
}
