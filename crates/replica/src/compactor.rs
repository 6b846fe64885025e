//! When the history of revisions is shortened without being asked (etcd etcdserver/api/v3compactor).
//!
//! Invariants: every member samples, only the leader proposes, so that a new leader need not wait a whole period first.

use std::collections::VecDeque;
use std::time::Duration;

use state_machine::Uptime;

use crate::config::AutoCompaction;

const HOUR: Duration = Duration::from_secs(3600);
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Compactor {
    mode: AutoCompaction,
    /// Revisions sampled, oldest first.
    samples: VecDeque<i64>,
    next_sample: Uptime,
    last_revision: i64,
    last_success: Uptime,
    succeeded: bool,
}

impl Compactor {
    pub fn new(mode: AutoCompaction, now: Uptime) -> Compactor {
        let next_sample = match mode {
            AutoCompaction::Periodic(_) => now,
            AutoCompaction::Revision(_) => now + REVISION_INTERVAL,
        };
        Compactor {
            mode,
            samples: VecDeque::new(),
            next_sample,
            last_revision: 0,
            last_success: now,
            succeeded: false,
        }
    }

    /// Up to which revision to compact now, if at all. `current` is the newest revision.
    pub fn tick(&mut self, now: Uptime, current: i64, leads: bool) -> Option<i64> {
        if now < self.next_sample {
            return None;
        }
        let revision = match self.mode {
            AutoCompaction::Revision(keep) => {
                self.next_sample = now + REVISION_INTERVAL;
                current - keep
            }
            AutoCompaction::Periodic(period) => {
                let interval = period.min(HOUR);
                let step = interval / 10;
                self.next_sample = now + step.max(Duration::from_millis(1));
                let slots = (period.as_nanos() / step.as_nanos().max(1)) as usize + 1;
                // The oldest sample is about one period old once all slots are filled.
                let oldest = self.samples.front().copied().unwrap_or(0);
                self.samples.push_back(current);
                if self.samples.len() > slots {
                    self.samples.pop_front();
                }
                let wait = if self.succeeded { interval } else { period };
                if now.saturating_sub(self.last_success) < wait {
                    return None;
                }
                oldest
            }
        };
        if !leads || revision <= 0 || revision == self.last_revision {
            return None;
        }
        self.last_revision = revision;
        self.last_success = now;
        self.succeeded = true;
        Some(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periodic_waits_one_period_and_then_keeps_one() {
        let minute = Duration::from_secs(60);
        let mut compactor = Compactor::new(AutoCompaction::Periodic(10 * minute), Duration::ZERO);
        let mut proposed = Vec::new();
        for tick in 0..=30 {
            let now = minute * tick;
            let current = i64::from(tick) * 100 + 1;
            proposed.extend(compactor.tick(now, current, true).map(|revision| (tick, revision)));
        }
        assert_eq!(proposed, [(10, 1), (20, 901), (30, 1901)]);
    }

    #[test]
    fn revision_mode_keeps_a_number_and_only_the_leader_asks() {
        let mut compactor = Compactor::new(AutoCompaction::Revision(1000), Duration::ZERO);
        assert_eq!(compactor.tick(Duration::from_secs(10), 5000, true), None);
        assert_eq!(compactor.tick(Duration::from_secs(300), 5000, false), None);
        assert_eq!(compactor.tick(Duration::from_secs(600), 5000, true), Some(4000));
        assert_eq!(
            compactor.tick(Duration::from_secs(900), 5000, true),
            None,
            "the same revision again"
        );
        assert_eq!(compactor.tick(Duration::from_secs(1200), 900, true), None);
    }
}
