//! Reads that wait until a quorum has confirmed that the leader still leads.
//!
//! Each read gets a position in a counter of this leader and this term. Heartbeats carry the position of the newest read;
//! what a quorum has echoed is confirmed, in order. The caller's context plays no part in that: it only routes the answer
//! back. (Keying by it made etcd answer stale reads for years, etcd issue 20418: an old echo of a context that is used
//! twice confirmed a later read.)
//!
//! Invariants:
//! - An echo counts only if it is exactly 8 bytes and not above the newest position: anything else was not sent by this
//!   leader in this term.
//! - The whole state is thrown away on every change of role or term.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proto::raftpb::Message;

use crate::config::ReadOnlyOption;
use crate::quorum::JointConfig;

/// The answer to a read: once the application has applied `index`, it may be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadState {
    /// The commit index at the time of the request.
    pub index: u64,
    /// The context that the caller gave.
    pub request_ctx: Bytes,
}

/// A read with the commit index at its arrival.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    pub(crate) message: Message,
    pub(crate) index: u64,
}

#[derive(Debug, Default)]
pub(crate) struct ReadOnly {
    pub(crate) option: ReadOnlyOption,
    /// The highest position that each voter has echoed.
    acks: BTreeMap<u64, u64>,
    unconfirmed: VecDeque<ReadRequest>,
    /// How many reads were confirmed before the first one in `unconfirmed`.
    confirmed: u64,
}

impl ReadOnly {
    pub(crate) fn new(option: ReadOnlyOption) -> ReadOnly {
        ReadOnly {
            option,
            ..ReadOnly::default()
        }
    }

    pub(crate) fn add_request(&mut self, index: u64, message: Message) {
        self.unconfirmed.push_back(ReadRequest { message, index });
    }

    /// The position of the newest read.
    fn newest(&self) -> u64 {
        self.confirmed + self.unconfirmed.len() as u64
    }

    /// What heartbeats carry now: nothing, or the newest position in 8 bytes, little endian.
    pub(crate) fn heartbeat_context(&self) -> Bytes {
        if self.unconfirmed.is_empty() {
            return Bytes::new();
        }
        if mutant::planted("H38") {
            let last = self.unconfirmed.back().and_then(|read| read.message.entries.first());
            return last.map(|entry| entry.data.clone()).unwrap_or_default();
        }
        Bytes::copy_from_slice(&self.newest().to_le_bytes())
    }

    /// This leader itself counts as having heard of every read so far.
    pub(crate) fn acknowledge_self(&mut self, id: u64) {
        self.acks.insert(id, self.newest());
    }

    /// `from` echoed `context`. Answers whether that was an acknowledgement.
    pub(crate) fn acknowledge(&mut self, from: u64, context: &[u8]) -> bool {
        if mutant::planted("H38") {
            let of = |read: &ReadRequest| read.message.entries.first().is_some_and(|entry| entry.data == context);
            let Some(at) = self.unconfirmed.iter().rposition(of) else {
                return false;
            };
            let position = self.confirmed + at as u64 + 1;
            let ack = self.acks.entry(from).or_insert(0);
            *ack = position.max(*ack);
            return true;
        }
        let Ok(bytes) = <[u8; 8]>::try_from(context) else {
            return false;
        };
        let position = u64::from_le_bytes(bytes);
        if position > self.newest() {
            return false;
        }
        let ack = self.acks.entry(from).or_insert(0);
        *ack = position.max(*ack);
        true
    }

    /// Takes out the reads that a quorum of `voters` has confirmed.
    pub(crate) fn advance(&mut self, voters: &JointConfig) -> Vec<ReadRequest> {
        let confirmed = voters
            .committed_index(|id| self.acks.get(&id).copied())
            .0
            .min(self.newest());
        let count = confirmed.saturating_sub(self.confirmed);
        self.confirmed += count;
        self.unconfirmed.drain(..count as usize).collect()
    }

    #[cfg(test)]
    pub(crate) fn unconfirmed_len(&self) -> usize {
        self.unconfirmed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_two_reads() -> ReadOnly {
        let mut reads = ReadOnly::new(ReadOnlyOption::Safe);
        for index in [5, 6] {
            reads.add_request(index, Message::default());
            reads.acknowledge_self(1);
        }
        reads
    }

    fn three() -> JointConfig {
        JointConfig {
            incoming: [1, 2, 3].into_iter().collect(),
            ..JointConfig::default()
        }
    }

    #[test]
    fn the_heartbeat_context_is_the_newest_position_in_little_endian() {
        let mut reads = with_two_reads();
        assert_eq!(&reads.heartbeat_context()[..], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert!(reads.acknowledge(2, &2u64.to_le_bytes()));
        assert_eq!(reads.advance(&three()).len(), 2);
        assert!(reads.heartbeat_context().is_empty());
    }

    #[test]
    fn echoes_of_a_wrong_length_or_value_are_no_acknowledgement() {
        let mut reads = with_two_reads();
        for length in (0..=7).chain([9, 16]) {
            assert!(!reads.acknowledge(2, &vec![1; length]), "{length} bytes");
        }
        assert!(
            !reads.acknowledge(2, &3u64.to_le_bytes()),
            "a position that was never sent"
        );
        assert!(
            !reads.acknowledge(3, &2u64.to_be_bytes()),
            "a position with its bytes swapped"
        );
        assert!(reads.advance(&three()).is_empty());
    }

    #[test]
    fn reads_are_confirmed_in_order_up_to_what_a_quorum_echoed() {
        let mut reads = with_two_reads();
        reads.acknowledge(2, &1u64.to_le_bytes());
        let confirmed: Vec<u64> = reads.advance(&three()).iter().map(|read| read.index).collect();
        assert_eq!(confirmed, [5]);
        reads.acknowledge(3, &1u64.to_le_bytes());
        assert!(reads.advance(&three()).is_empty(), "an old echo confirms nothing more");
        reads.acknowledge(3, &2u64.to_le_bytes());
        assert_eq!(reads.advance(&three()).len(), 1);
        assert_eq!(reads.unconfirmed_len(), 0);
    }

    #[test]
    fn both_halves_of_a_joint_configuration_must_confirm() {
        let mut reads = with_two_reads();
        let voters = JointConfig {
            outgoing: [1, 4, 5].into_iter().collect(),
            ..three()
        };
        reads.acknowledge(2, &2u64.to_le_bytes());
        assert!(reads.advance(&voters).is_empty());
        reads.acknowledge(4, &2u64.to_le_bytes());
        assert_eq!(reads.advance(&voters).len(), 2);
    }
}
