//! How long the replica's work takes: it knows no clock, and tells of beginnings and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use replica::{Observer, Work};

use crate::metrics::Metrics;

/// Puts the replica's work into the metrics.
#[derive(Debug)]
pub struct Stopwatch {
    metrics: Arc<Metrics>,
    clock: Instant,
    /// `--warning-apply-duration`.
    slow_apply: Option<Duration>,
    /// When the work under way began, by kind, in nanoseconds of the clock.
    apply_ns: AtomicU64,
    compact_ns: AtomicU64,
    save_ns: AtomicU64,
    /// When the first step of the compaction under way began; 0 for none.
    compaction_ns: AtomicU64,
}

impl Stopwatch {
    /// Entries that take longer than `slow_apply` count as slow.
    pub fn new(metrics: Arc<Metrics>, clock: Instant, slow_apply: Option<Duration>) -> Stopwatch {
        Stopwatch {
            metrics,
            clock,
            slow_apply,
            apply_ns: AtomicU64::new(0),
            compact_ns: AtomicU64::new(0),
            save_ns: AtomicU64::new(0),
            compaction_ns: AtomicU64::new(0),
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn since(&self, begun: &AtomicU64) -> Duration {
        Duration::from_nanos(self.now_ns().saturating_sub(begun.load(Ordering::Relaxed)))
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Observer for Stopwatch {
    fn begins(&self, work: Work) {
        let now = self.now_ns();
        match work {
            Work::Apply => self.apply_ns.store(now, Ordering::Relaxed),
            Work::Compact => {
                self.compact_ns.store(now, Ordering::Relaxed);
                self.compaction_ns
                    .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed)
                    .ok();
            }
            Work::SaveSnapshot => self.save_ns.store(now, Ordering::Relaxed),
        }
    }

    fn ends(&self, work: Work) {
        match work {
            Work::Apply => {}
            Work::Compact => self
                .metrics
                .compaction_pause
                .observe(millis(self.since(&self.compact_ns))),
            Work::SaveSnapshot => self.metrics.snap_save.took(self.since(&self.save_ns)),
        }
    }

    fn applied(&self, kind: &'static str, success: bool) {
        let took = self.since(&self.apply_ns);
        let success = if success { "true" } else { "false" };
        self.metrics.apply.with(&["v3", kind, success]).took(took);
        if self.slow_apply.is_some_and(|limit| took > limit) {
            self.metrics.slow_apply.inc();
            tracing::warn!(request = kind, ?took, "apply request took too long");
        }
    }

    fn compacted(&self, records: u64, done: bool) {
        self.metrics.compaction_keys.add(records);
        if done {
            self.metrics
                .compaction_total
                .observe(millis(self.since(&self.compaction_ns)));
            self.compaction_ns.store(0, Ordering::Relaxed);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.metrics.compaction_last.set(now.as_secs() as i64);
        }
    }

    fn leases_expired(&self, leases: usize) {
        self.metrics.lease_expired.add(leases as u64);
    }
}
