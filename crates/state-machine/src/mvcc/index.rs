//! Which revisions each key has: the index in memory over the `key` bucket (`etcd server/storage/mvcc/{index,key_index}.go`).
//!
//! Invariants:
//! - The revisions of a key only grow; a deletion ends a generation, the next write starts one with version 1.
//! - A compaction at C keeps of each key the newest revision ≤ C and all later ones; a deletion below C is not kept, one *at* C is.
//! - Branches know how many keys live below them and the newest change there, so that counting at the current revision is O(log n),
//!   and at an older one costs only what has changed since.
//! - Keys are copied in, never slices of a larger buffer: the index must not keep values alive.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::revision::Revision;
use crate::tree::{Summary, Tree, Visitor};

/// One change of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) revision: Revision,
    /// Main revision of the write that began the generation.
    pub(crate) created: i64,
    /// Counts the writes of the generation from 1.
    pub(crate) version: i64,
    pub(crate) tombstone: bool,
}

/// The changes of one key, oldest first; never empty while in the index.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    stamps: Vec<Stamp>,
}

impl History {
    /// What a reader at `at` sees of the key: nothing when it was deleted or not there yet.
    fn at(&self, at: i64) -> Option<&Stamp> {
        // Readers mostly look at the newest.
        let newest = self.stamps.last()?;
        let stamp = if newest.revision.main <= at {
            newest
        } else {
            let after = self.stamps.partition_point(|stamp| stamp.revision.main <= at);
            &self.stamps[after.checked_sub(1)?]
        };
        (!stamp.tombstone).then_some(stamp)
    }

    /// How many stamps a compaction at `at` drops, and the one that it keeps of those ≤ `at`.
    fn compacted(&self, at: i64) -> (usize, Option<&Stamp>) {
        let after = self.stamps.partition_point(|stamp| stamp.revision.main <= at);
        let Some(last) = after.checked_sub(1) else {
            return (0, None);
        };
        let stamp = &self.stamps[last];
        if !stamp.tombstone && mutant::planted("G13") {
            return (after, None);
        }
        // Before etcd kept that deletion, the marks alone knew how far the revision had come: H27 and H28 need both.
        if mutant::planted("H29") || mutant::planted("H27") || mutant::planted("H28") {
            return match stamp.tombstone {
                true => (after, None),
                false => (last, Some(stamp)),
            };
        }
        match stamp.tombstone && stamp.revision.main < at {
            true => (after, None),
            false => (last, Some(stamp)),
        }
    }
}

/// What branches know: keys that live now, and an upper bound of the newest main revision.
#[derive(Debug, Clone, Default)]
pub(crate) struct Living {
    keys: usize,
    newest: i64,
}

impl Summary for Living {
    type Value = Arc<History>;

    fn of(history: &Arc<History>) -> Self {
        match history.stamps.last() {
            Some(stamp) => Living {
                keys: usize::from(!stamp.tombstone),
                newest: stamp.revision.main,
            },
            None => Living::default(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.keys += other.keys;
        self.newest = self.newest.max(other.newest);
    }

    fn replace(&mut self, old: &Self, new: &Self) -> bool {
        self.keys = self.keys + new.keys - old.keys;
        self.newest = self.newest.max(new.newest);
        true
    }
}

/// Which keys a request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span<'a> {
    /// This one.
    Key(&'a [u8]),
    /// This one and all after it.
    From(&'a [u8]),
    /// From the first (included) to the second (excluded).
    Between(&'a [u8], &'a [u8]),
}

impl<'a> Span<'a> {
    /// As the protocol spells it: no `range_end` means one key, a single zero byte means no end.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Span<'a> {
        match range_end {
            [] => Span::Key(key),
            [0] => Span::From(key),
            end => Span::Between(key, end),
        }
    }

    /// Whether a key lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match *self {
            Span::Key(only) => key == only,
            Span::From(from) => key >= from,
            Span::Between(from, to) => key >= from && key < to,
        }
    }
}

/// A key as a reader at some revision sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: Bytes,
    pub(crate) stamp: Stamp,
}

/// See the module. A clone is a snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    tree: Tree<Living>,
}

impl Index {
    /// Keys in the index, those that are deleted and not yet compacted too.
    pub(crate) fn len(&self) -> usize {
        self.tree.len()
    }

    /// Keys that live now.
    pub(crate) fn living(&self) -> usize {
        self.tree.summary().keys
    }

    /// What a reader at `at` sees of a key.
    pub(crate) fn get(&self, key: &[u8], at: i64) -> Option<Stamp> {
        self.tree.get(key)?.at(at).copied()
    }

    /// Adds a change. Revisions must grow; `false` (and no change) when this one does not, or when it deletes what is not there.
    pub(crate) fn add(&mut self, key: &[u8], stamp: Stamp) -> bool {
        let mut grows = true;
        let own = || Bytes::copy_from_slice(key);
        self.tree.upsert(key, own, Arc::default, |history| {
            match history.stamps.last() {
                Some(newest) => {
                    grows = newest.revision < stamp.revision && !(newest.tombstone && stamp.tombstone);
                }
                // Most keys have one revision most of the time: no room for more until there are more.
                None => Arc::make_mut(history).stamps.reserve_exact(1),
            }
            if grows {
                Arc::make_mut(history).stamps.push(stamp);
            }
        });
        grows
    }

    /// The keys of a span as of `at`, in order, at most `limit` (0 means all), and how many there are in all; the latter is only right
    /// beyond the limit when `total` asks for it.
    pub(crate) fn select(&self, span: Span<'_>, at: i64, limit: usize, total: bool) -> (Vec<Found>, usize) {
        let (from, to) = match span {
            Span::Key(key) => {
                let found = self.get(key, at).map(|stamp| Found {
                    key: Bytes::copy_from_slice(key),
                    stamp,
                });
                return match found {
                    Some(found) => (vec![found], 1),
                    None => (Vec::new(), 0),
                };
            }
            Span::From(from) => (from, None),
            Span::Between(from, to) => (from, Some(to)),
        };
        let mut collector = Collector {
            at,
            limit,
            total,
            found: Vec::new(),
            count: 0,
        };
        self.tree.walk(from, to, &mut collector);
        (collector.found, collector.count)
    }

    /// How many keys of a span there are as of `at`.
    pub(crate) fn count(&self, span: Span<'_>, at: i64) -> usize {
        let (from, to) = match span {
            Span::Key(key) => return usize::from(self.get(key, at).is_some()),
            Span::From(from) => (from, None),
            Span::Between(from, to) => (from, Some(to)),
        };
        let mut counter = Counter { at, count: 0 };
        self.tree.walk(from, to, &mut counter);
        counter.count
    }

    /// Compacts up to `limit` keys from `from` on, and adds to `kept` what is kept of revisions ≤ `at`. Returns where to go on; `None`
    /// when all keys are done. Writes in between do no harm: they are newer than `at`.
    pub(crate) fn compact(&mut self, from: &[u8], at: i64, limit: usize, kept: &mut Vec<Revision>) -> Option<Bytes> {
        let mut due = Vec::new();
        let mut next = None;
        for (i, (key, history)) in self.tree.iter_from(from).enumerate() {
            if i == limit {
                next = Some(key.clone());
                break;
            }
            let (drop, keep) = history.compacted(at);
            kept.extend(keep.map(|stamp| stamp.revision));
            if drop > 0 {
                due.push((key.clone(), drop));
            }
        }
        for (key, drop) in due {
            self.tree.adjust(&key, |history| {
                let history = Arc::make_mut(history);
                history.stamps.drain(..drop);
                history.stamps.shrink_to(history.stamps.len() * 2);
                !history.stamps.is_empty()
            });
        }
        next
    }

    /// The revisions ≤ `at` that a hash at `at` covers, in order: those that a compaction there would keep, without deletions.
    pub(crate) fn keep(&self, at: i64) -> Vec<Revision> {
        let mut keep: Vec<_> = self
            .tree
            .iter_from(b"")
            .filter_map(|(_, history)| history.compacted(at).1.filter(|stamp| !stamp.tombstone))
            .map(|stamp| stamp.revision)
            .collect();
        keep.sort_unstable();
        keep
    }
}

struct Collector {
    at: i64,
    limit: usize,
    total: bool,
    found: Vec<Found>,
    count: usize,
}

impl Collector {
    fn full(&self) -> bool {
        self.limit > 0 && self.found.len() >= self.limit
    }
}

impl Visitor<Living> for Collector {
    fn subtree(&mut self, summary: &Living) -> bool {
        if summary.newest > self.at {
            return false;
        }
        if summary.keys == 0 {
            return true;
        }
        let full = self.full();
        if full {
            self.count += summary.keys;
        }
        full
    }

    fn entry(&mut self, key: &Bytes, history: &Arc<History>) -> ControlFlow<()> {
        let full = self.full();
        if full && !self.total {
            return ControlFlow::Break(());
        }
        if let Some(stamp) = history.at(self.at) {
            self.count += 1;
            if !full {
                self.found.push(Found {
                    key: key.clone(),
                    stamp: *stamp,
                });
            }
        }
        ControlFlow::Continue(())
    }
}

struct Counter {
    at: i64,
    count: usize,
}

impl Visitor<Living> for Counter {
    fn subtree(&mut self, summary: &Living) -> bool {
        let settled = summary.newest <= self.at;
        if settled {
            self.count += summary.keys;
        }
        settled
    }

    fn entry(&mut self, _: &Bytes, history: &Arc<History>) -> ControlFlow<()> {
        self.count += usize::from(history.at(self.at).is_some());
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(main: i64, created: i64, version: i64) -> Stamp {
        Stamp {
            revision: Revision { main, sub: 0 },
            created,
            version,
            tombstone: false,
        }
    }

    fn delete(main: i64) -> Stamp {
        Stamp {
            revision: Revision { main, sub: 0 },
            created: 0,
            version: 0,
            tombstone: true,
        }
    }

    /// The example of etcd's `key_index.go`: put 1, put 2, delete 3, put 4, delete 5, put 6.
    fn example() -> Index {
        let mut index = Index::default();
        let stamps = [
            write(1, 1, 1),
            write(2, 1, 2),
            delete(3),
            write(4, 4, 1),
            delete(5),
            write(6, 6, 1),
        ];
        assert!(stamps.into_iter().all(|stamp| index.add(b"foo", stamp)));
        index
    }

    #[test]
    fn a_reader_sees_its_revision() {
        let index = example();
        let seen = |at| {
            index
                .get(b"foo", at)
                .map(|stamp| (stamp.revision.main, stamp.created, stamp.version))
        };
        let expected = [
            None,
            Some((1, 1, 1)),
            Some((2, 1, 2)),
            None,
            Some((4, 4, 1)),
            None,
            Some((6, 6, 1)),
        ];
        for (at, expected) in expected.into_iter().enumerate() {
            assert_eq!(seen(at as i64), expected, "at {at}");
        }
        assert_eq!(seen(100), Some((6, 6, 1)));
        assert_eq!(index.get(b"fo", 100), None);
    }

    #[test]
    fn a_compaction_keeps_what_is_visible_and_a_deletion_at_its_revision() {
        // compaction at -> revisions that stay, what is kept of those at or below it, what a hash covers of those
        type Case = (i64, &'static [i64], &'static [i64], &'static [i64]);
        let cases: [Case; 7] = [
            (0, &[1, 2, 3, 4, 5, 6], &[], &[]),
            (1, &[1, 2, 3, 4, 5, 6], &[1], &[1]),
            (2, &[2, 3, 4, 5, 6], &[2], &[2]),
            (3, &[3, 4, 5, 6], &[3], &[]),
            (4, &[4, 5, 6], &[4], &[4]),
            (5, &[5, 6], &[5], &[]),
            (9, &[6], &[6], &[6]),
        ];
        for (at, stays, kept, covered) in cases {
            let mut index = example();
            let covers: Vec<_> = index.keep(at).into_iter().map(|revision| revision.main).collect();
            assert_eq!(covers, covered, "at {at}");
            let mut keeps = Vec::new();
            assert_eq!(index.compact(b"", at, 10, &mut keeps), None);
            assert_eq!(
                keeps.iter().map(|revision| revision.main).collect::<Vec<_>>(),
                kept,
                "at {at}"
            );
            let left: Vec<_> = index
                .tree
                .get(b"foo")
                .unwrap()
                .stamps
                .iter()
                .map(|stamp| stamp.revision.main)
                .collect();
            assert_eq!(left, stays, "at {at}");
        }
    }

    #[test]
    fn a_deleted_key_leaves_with_the_next_compaction() {
        let mut index = Index::default();
        assert!(index.add(b"k", write(2, 2, 1)) && index.add(b"k", delete(3)));
        assert!(!index.add(b"k", delete(4)), "nothing to delete");
        assert!(!index.add(b"k", write(3, 3, 1)), "revisions must grow");
        let mut kept = Vec::new();
        index.compact(b"", 3, 10, &mut kept);
        assert_eq!((index.len(), index.living(), kept.len()), (1, 0, 1));
        index.compact(b"", 4, 10, &mut kept);
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn compacting_in_pieces_visits_every_key_once() {
        let mut index = Index::default();
        for i in 0..500i64 {
            assert!(index.add(format!("k{i:03}").as_bytes(), write(i + 2, i + 2, 1)));
        }
        for i in 0..250i64 {
            assert!(index.add(format!("k{i:03}").as_bytes(), delete(600 + i)));
        }
        let (mut kept, mut from, mut pieces) = (Vec::new(), Bytes::new(), 0);
        while let Some(next) = index.compact(&from, 10_000, 7, &mut kept) {
            from = next;
            pieces += 1;
        }
        assert_eq!((index.len(), index.living(), kept.len(), pieces), (250, 250, 250, 71));
    }

    #[test]
    fn counts_and_limits_at_every_revision() {
        let mut index = Index::default();
        let keys = 3000i64;
        for i in 0..keys {
            assert!(index.add(format!("{:04}", (i * 7) % keys).as_bytes(), write(i + 1, i + 1, 1)));
        }
        for i in 0..keys / 2 {
            assert!(index.add(format!("{:04}", (i * 7) % keys).as_bytes(), delete(keys + i + 1)));
        }
        for at in [0, 1, 17, 1500, 2999, 3000, 3001, 3700, 4499, 4500, 9999] {
            let expected: Vec<_> = (0..keys)
                .filter(|k| {
                    // Key k was written at the i with i * 7 mod 3000 = k.
                    let i = (0..7)
                        .find(|j| (k + j * keys) % 7 == 0)
                        .map(|j| (k + j * keys) / 7)
                        .unwrap();
                    i < at && (i >= keys / 2 || at < keys + i + 1)
                })
                .map(|k| format!("{k:04}"))
                .collect();
            assert_eq!(index.count(Span::From(b""), at), expected.len(), "at {at}");
            for limit in [0, 1, 10, 5000] {
                let (found, total) = index.select(Span::Between(b"0100", b"2900"), at, limit, true);
                let inside: Vec<_> = expected
                    .iter()
                    .filter(|k| ("0100".."2900").contains(&k.as_str()))
                    .cloned()
                    .collect();
                assert_eq!(total, inside.len());
                let some = if limit == 0 {
                    inside.len()
                } else {
                    limit.min(inside.len())
                };
                let got: Vec<_> = found
                    .iter()
                    .map(|f| String::from_utf8(f.key.to_vec()).unwrap())
                    .collect();
                assert_eq!(got, inside[..some]);
            }
        }
    }
}
