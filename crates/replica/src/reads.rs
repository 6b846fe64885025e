//! Linearizable reads, in batches (etcd server/etcdserver/read, the loop as it is since 3.7).
//!
//! Invariants:
//! - A read waits for a confirmation that was *asked for* after the read arrived: reads that come while a question is under way
//!   wait for the next one.
//! - Every question carries an id that was never used before, repeated ones too; an answer counts if it is to any question of
//!   the present batch.
//! - A confirmed read is ready once everything that was committed at its confirmation is applied.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use state_machine::Uptime;

/// After this long without an answer the question is asked again.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// The last read that arrived.
    arrived: u64,
    /// The last read in a batch that was asked for.
    asked: u64,
    flight: Option<Flight>,
    /// (index, last read): ready when the index is applied.
    confirmed: VecDeque<(u64, u64)>,
}

#[derive(Debug)]
struct Flight {
    up_to: u64,
    ids: Vec<u64>,
    asked_at: Uptime,
    /// The question should be repeated now.
    again: bool,
}

impl Reads {
    pub fn arrive(&mut self, number: u64) {
        self.arrived = self.arrived.max(number);
        if mutant::planted("Q11")
            && let Some(flight) = &mut self.flight
        {
            flight.up_to = self.arrived;
            self.asked = self.arrived;
        }
    }

    /// Whether [`Reads::question`] has something to ask.
    pub fn wants_to_ask(&self) -> bool {
        match &self.flight {
            Some(flight) => flight.again,
            None => self.arrived > self.asked,
        }
    }

    /// The context to ask raft with, if it is time to.
    pub fn question(&mut self, now: Uptime, fresh_id: impl FnOnce() -> u64) -> Option<Bytes> {
        if !self.wants_to_ask() {
            return None;
        }
        let id = fresh_id();
        match &mut self.flight {
            Some(flight) => {
                flight.ids.push(id);
                (flight.asked_at, flight.again) = (now, false);
            }
            None => {
                self.asked = self.arrived;
                self.flight = Some(Flight {
                    up_to: self.arrived,
                    ids: vec![id],
                    asked_at: now,
                    again: false,
                });
            }
        }
        Some(Bytes::copy_from_slice(&id.to_be_bytes()))
    }

    /// The leader changed or committed its first entry, so that a question which was dropped may be answered now.
    pub fn ask_again(&mut self) {
        if let Some(flight) = &mut self.flight {
            flight.again = true;
        }
    }

    pub fn tick(&mut self, now: Uptime) {
        if let Some(flight) = &mut self.flight
            && now.saturating_sub(flight.asked_at) >= RETRY
        {
            flight.again = true;
        }
    }

    /// An answer of raft. Those to older batches are ignored.
    pub fn answer(&mut self, context: &[u8], index: u64) {
        let Ok(id) = context.try_into().map(u64::from_be_bytes) else {
            return;
        };
        if self.flight.as_ref().is_some_and(|flight| flight.ids.contains(&id))
            && let Some(flight) = self.flight.take()
        {
            self.confirmed.push_back((index, flight.up_to));
        }
    }

    /// The last read that may look at the state now, if there is a new one.
    pub fn ready(&mut self, applied: u64) -> Option<u64> {
        let mut last = None;
        while let Some(&(index, up_to)) = self.confirmed.front()
            && (index <= applied || mutant::planted("Q12"))
        {
            last = Some(up_to);
            self.confirmed.pop_front();
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_read_never_rides_on_a_question_asked_before_it() {
        let mut reads = Reads::default();
        reads.arrive(1);
        let first = reads.question(MS, || 100).unwrap();
        reads.arrive(2);
        assert_eq!(reads.question(MS, || 101), None, "one batch at a time");
        reads.answer(&first, 7);
        assert_eq!(reads.ready(6), None);
        assert_eq!(reads.ready(7), Some(1));
        let second = reads.question(MS, || 102).unwrap();
        reads.answer(&first, 9);
        assert_eq!(reads.ready(9), None, "an answer to the batch before says nothing");
        reads.answer(&second, 9);
        assert_eq!(reads.ready(9), Some(2));
    }

    #[test]
    fn a_question_is_repeated_under_a_new_id_and_any_answer_counts() {
        let mut reads = Reads::default();
        reads.arrive(5);
        let first = reads.question(MS, || 100).unwrap();
        reads.tick(499 * MS);
        assert!(!reads.wants_to_ask());
        reads.tick(501 * MS);
        let again = reads.question(501 * MS, || 101).unwrap();
        assert_ne!(first, again);
        reads.ask_again();
        assert!(reads.question(502 * MS, || 102).is_some());
        reads.answer(&first, 3);
        assert_eq!(reads.ready(3), Some(5));
        reads.answer(&again, 3);
        assert_eq!(reads.ready(3), None, "the batch is answered once");
        reads.answer(&[1, 2], 3);
    }
}
