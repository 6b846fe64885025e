//! The window of append messages that a follower has not acknowledged yet.

use std::collections::VecDeque;

/// Append messages in flight: the last index in each, and its payload bytes. Indexes ascend.
#[derive(Debug, Clone, Default)]
pub struct Inflights {
    messages: VecDeque<(u64, u64)>,
    bytes: u64,
    max_messages: usize,
    max_bytes: u64,
}

impl Inflights {
    /// A window of `max_messages` messages and `max_bytes` payload bytes (0: no limit). The byte limit is soft: one
    /// message may cross it.
    pub fn new(max_messages: usize, max_bytes: u64) -> Inflights {
        Inflights {
            max_messages,
            max_bytes,
            ..Inflights::default()
        }
    }

    /// Notes a message that ends with `index`. The caller has checked that the window is not full.
    pub fn add(&mut self, index: u64, bytes: u64) {
        debug_assert!(!self.is_full(), "a message was sent into a full window");
        self.messages.push_back((index, bytes));
        self.bytes += bytes;
    }

    /// Frees the messages that end at or before `index`.
    pub fn free_to(&mut self, index: u64) {
        while let Some(&(last, bytes)) = self.messages.front() {
            if index < last {
                return;
            }
            self.messages.pop_front();
            self.bytes -= bytes;
        }
    }

    /// Whether no further message may be sent.
    pub fn is_full(&self) -> bool {
        self.messages.len() >= self.max_messages || (self.max_bytes != 0 && self.bytes >= self.max_bytes)
    }

    /// Messages in flight.
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// Payload bytes in flight.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn reset(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_full_by_count_or_by_bytes() {
        let mut by_count = Inflights::new(2, 0);
        by_count.add(1, 1000);
        assert!(!by_count.is_full());
        by_count.add(2, 1000);
        assert!(by_count.is_full());

        let mut by_bytes = Inflights::new(10, 100);
        by_bytes.add(1, 99);
        assert!(!by_bytes.is_full());
        by_bytes.add(2, 500);
        assert!(by_bytes.is_full(), "one message may cross the limit, no further one");
    }

    #[test]
    fn an_acknowledgement_frees_all_messages_up_to_its_index() {
        let mut window = Inflights::new(10, 0);
        for index in 0..10 {
            window.add(index, 1 + index);
        }
        window.free_to(4);
        assert_eq!((window.count(), window.bytes()), (5, 6 + 7 + 8 + 9 + 10));
        window.free_to(2);
        assert_eq!(window.count(), 5, "an old acknowledgement changes nothing");
        window.free_to(100);
        assert_eq!((window.count(), window.bytes()), (0, 0));
    }
}
