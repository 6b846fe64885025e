//! What the operator takes from the machine that it runs on, besides the API server: the time of day, chance, and the way
//! to members. A simulator brings its own, so that one seed makes one story.
//!
//! Invariant: spans of time are measured by `crate::clock`, which a simulator moves; only dates come from here.

use crate::member::calls::{Network, Reach};
use crate::plan::Timestamp;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine around the operator.
pub trait Surroundings: Debug + Send + Sync {
    /// The time of day.
    fn now(&self) -> SystemTime;

    /// A number that nobody can foresee.
    fn random(&self) -> u64;

    /// The way to members.
    fn reach(&self) -> Arc<dyn Reach>;

    /// The time of day, as the planner takes it.
    fn timestamp(&self) -> Timestamp {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The machine that this runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine;

impl Surroundings for Machine {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn reach(&self) -> Arc<dyn Reach> {
        Arc::new(Network)
    }
}
