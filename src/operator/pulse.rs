//! Signs of life: what must go on in this process tells so, and `/healthz` fails when it does not.
//!
//! Invariants:
//! 1. Only what a restart of the process cures counts: work that hangs, a watch that nobody reads any more. An API server
//!    that is away is no such thing; to try and fail is a sign of life.
//! 2. What has ended in order is forgotten: dropping a [`Pulse`] ends it. What a panic ended has stopped, until it is begun
//!    again.

use crate::clock::{self, Instant};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// All that must go on.
#[derive(Debug, Clone, Default)]
pub struct Pulses(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    next: u64,
    all: BTreeMap<String, Sign>,
}

#[derive(Debug)]
struct Sign {
    id: u64,
    last: Instant,
    within: Duration,
}

impl Pulses {
    /// Something that must beat at least once in every `within` from now on. `what` completes "no sign of life of ...".
    pub fn begin(&self, what: String, within: Duration) -> Pulse {
        let mut known = self.known();
        known.next += 1;
        let id = known.next;
        let last = clock::now();
        known.all.insert(what.clone(), Sign { id, last, within });
        Pulse {
            pulses: self.clone(),
            what,
            id,
        }
    }

    /// What has stopped, in words; none when everything goes on.
    pub fn stopped(&self) -> Option<String> {
        let known = self.known();
        let mut all = known.all.iter();
        let (what, sign) = all.find(|(_, sign)| clock::since(sign.last) > sign.within)?;
        Some(format!(
            "no sign of life of {what} for {} s, expected within {} s",
            clock::since(sign.last).as_secs(),
            sign.within.as_secs()
        ))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thing that must go on.
#[derive(Debug)]
pub struct Pulse {
    pulses: Pulses,
    what: String,
    id: u64,
}

impl Pulse {
    /// It goes on.
    pub fn beat(&self) {
        let mut known = self.pulses.known();
        if let Some(sign) = known.all.get_mut(&self.what).filter(|sign| sign.id == self.id) {
            sign.last = clock::now();
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let mut known = self.pulses.known();
        let Some(sign) = known.all.get_mut(&self.what).filter(|sign| sign.id == self.id) else {
            return;
        };
        if std::thread::panicking() {
            sign.within = Duration::ZERO;
        } else {
            known.all.remove(&self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(5);

    #[test]
    fn what_stops_is_told_and_what_ends_is_not() {
        let pulses = Pulses::default();
        let slow = pulses.begin("the sweep".into(), Duration::from_secs(3600));
        let quick = pulses.begin("the watch of Pod".into(), Duration::ZERO);
        std::thread::sleep(MOMENT);
        let told = pulses.stopped().expect("the quick one stopped");
        assert!(told.contains("the watch of Pod"), "{told}");
        drop(quick);
        assert_eq!(pulses.stopped(), None);
        slow.beat();
        assert_eq!(pulses.stopped(), None);
    }

    #[test]
    fn what_a_panic_ended_has_stopped_until_it_is_begun_again() {
        let pulses = Pulses::default();
        let pulse = pulses.begin("the round of a/b".into(), Duration::from_secs(3600));
        let ended = std::thread::spawn(move || {
            let _pulse = pulse;
            panic!("on purpose");
        });
        assert!(ended.join().is_err());
        std::thread::sleep(MOMENT);
        assert!(pulses.stopped().is_some());
        let _again = pulses.begin("the round of a/b".into(), Duration::from_secs(3600));
        assert_eq!(pulses.stopped(), None);
    }
}
