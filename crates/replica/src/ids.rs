//! Request ids: unique in a cluster, also over restarts (etcd pkg/idutil/id.go).
//!
//! Invariants: the top two bytes are the low bits of the member id; the next five the start time in milliseconds, the last
//! one a counter, and the counter runs over into the time. So a restart a second later cannot repeat an id before 256,000
//! requests per second were made.

use std::sync::atomic::{AtomicU64, Ordering};

/// Makes ids for requests, leases and read attempts. Shared by reference between threads.
#[derive(Debug)]
pub struct RequestIds {
    prefix: u64,
    suffix: AtomicU64,
}

impl RequestIds {
    /// `unix_ms` is the wall clock at start, in milliseconds.
    pub fn new(member_id: u64, unix_ms: u64) -> RequestIds {
        RequestIds {
            prefix: member_id << 48,
            suffix: AtomicU64::new(if mutant::planted("Q29") {
                0
            } else {
                (unix_ms & ((1 << 40) - 1)) << 8
            }),
        }
    }

    /// Whether an id may come from this member: its answer is wanted here.
    pub fn are_of_this_member(&self, id: u64) -> bool {
        id & !((1 << 48) - 1) == self.prefix
    }

    /// The next id.
    pub fn next(&self) -> u64 {
        let suffix = self.suffix.fetch_add(1, Ordering::Relaxed) + 1;
        self.prefix | (suffix & ((1 << 48) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_laid_out_as_in_etcd() {
        // The case of etcd pkg/idutil/id_test.go: member 0x12, 0x3456 ms.
        let ids = RequestIds::new(0x12, 0x3456);
        assert_eq!(ids.next(), 0x12000000345601);
        assert_eq!(ids.next(), 0x12000000345602);
        let ids = RequestIds::new(0xabcd_0012, u64::MAX);
        assert_eq!(ids.next() >> 48, 0x0012);
        for _ in 0..300 {
            assert_eq!(ids.next() >> 48, 0x0012, "the counter never runs into the member id");
        }
    }
}
