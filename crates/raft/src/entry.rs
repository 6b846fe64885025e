//! Sizes and identities of log entries.
//!
//! Invariants:
//! - An entry's data is `Bytes`: cloning an entry never copies its payload.
//! - Sizes of messages count encoded entries; sizes of the uncommitted tail and of what is in flight count payloads only.

use std::fmt;

use prost::Message as _;
use proto::raftpb::Entry;

/// Term and index of an entry: what identifies it in the logs of all members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct EntryId {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

impl From<&Entry> for EntryId {
    fn from(entry: &Entry) -> EntryId {
        EntryId {
            term: entry.term,
            index: entry.index,
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.index)
    }
}

/// Encoded bytes of one entry.
pub(crate) fn encoded_size(entry: &Entry) -> u64 {
    entry.encoded_len() as u64
}

/// Encoded bytes of several entries.
pub(crate) fn encoded_size_of(entries: &[Entry]) -> u64 {
    entries.iter().map(encoded_size).sum()
}

/// Payload bytes of several entries; empty entries, as a new leader appends one, count as nothing.
pub(crate) fn payload_size_of(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.data.len() as u64).sum()
}

/// The longest prefix whose encoded size does not exceed `max_size`, but at least one entry if there is any.
pub fn limit_size<'a>(entries: impl IntoIterator<Item = &'a Entry>, max_size: u64) -> Vec<Entry> {
    let mut taken = Vec::new();
    extend_limited(&mut taken, 0, entries, max_size);
    taken
}

/// Appends entries to `taken`, whose encoded size is `size`, as long as the total does not exceed `max_size`. The first
/// entry of an empty `taken` is always appended.
pub(crate) fn extend_limited<'a>(
    taken: &mut Vec<Entry>,
    mut size: u64,
    entries: impl IntoIterator<Item = &'a Entry>,
    max_size: u64,
) {
    for entry in entries {
        size = size.saturating_add(encoded_size(entry));
        if size > max_size && !taken.is_empty() {
            return;
        }
        taken.push(entry.clone());
    }
}

/// What is wrong with a piece of log that a leader of `term` says follows `previous`, or `None`.
pub(crate) fn inconsistency(term: u64, previous: EntryId, entries: &[Entry]) -> Option<String> {
    let mut before = previous;
    for entry in entries {
        let id = EntryId::from(entry);
        if id.term == 0 || id.term < before.term || before.index.checked_add(1) != Some(id.index) {
            return Some(format!("entry {id} cannot follow entry {before}"));
        }
        before = id;
    }
    (term < before.term).then(|| format!("entry {before} is newer than the term {term} of its leader"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            term,
            index,
            ..Entry::default()
        }
    }

    #[test]
    fn a_prefix_is_cut_at_the_limit_but_never_empty() {
        let entries = [entry(1, 1), entry(1, 2), entry(1, 3)];
        let one = encoded_size(&entries[0]);
        assert_eq!(limit_size(&entries, 0).len(), 1);
        assert_eq!(limit_size(&entries, one).len(), 1);
        assert_eq!(limit_size(&entries, 2 * one - 1).len(), 1);
        assert_eq!(limit_size(&entries, 2 * one).len(), 2);
        assert_eq!(limit_size(&entries, u64::MAX).len(), 3);
        assert!(limit_size(&[], 10).is_empty());
    }

    #[test]
    fn a_log_slice_must_be_contiguous_with_rising_terms() {
        let previous = EntryId { term: 2, index: 7 };
        assert_eq!(inconsistency(3, previous, &[entry(2, 8), entry(3, 9)]), None);
        assert_eq!(inconsistency(2, previous, &[]), None);
        assert!(inconsistency(3, previous, &[entry(2, 9)]).is_some(), "a hole");
        assert!(inconsistency(3, previous, &[entry(1, 8)]).is_some(), "a falling term");
        assert!(
            inconsistency(3, previous, &[entry(4, 8)]).is_some(),
            "newer than its leader"
        );
        assert!(
            inconsistency(1, previous, &[]).is_some(),
            "a previous entry newer than the leader"
        );
        let last = EntryId {
            term: 2,
            index: u64::MAX,
        };
        assert!(
            inconsistency(3, last, &[entry(2, 0)]).is_some(),
            "indexes do not wrap around"
        );
    }
}
