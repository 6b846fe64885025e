//! Which watchers a key concerns.
//!
//! Invariants: a watcher of one key costs a hash look-up; ranges lie in a tree ordered by their start whose branches know how far the ranges
//! below them reach, so that thousands of ranges elsewhere cost nothing. Watchers come out in the order of their ids.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::tree::{Summary, Tree, Visitor};

/// A watcher: its stream, and its id there.
pub(super) type WatcherId = (u64, i64);

/// The keys that a watcher watches; owned, see [`super::super::index::Span`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keys {
    /// One.
    One(Bytes),
    /// From the first (included) to the second (excluded), or without end.
    Range(Bytes, Option<Bytes>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    // Looked up, never iterated over: its order means nothing.
    keys: HashMap<Bytes, BTreeSet<WatcherId>>,
    ranges: Tree<Reach>,
}

/// How far ranges reach; ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// Nowhere: there are none.
    #[default]
    Nowhere,
    /// Up to this key (excluded).
    Below(Bytes),
    /// Without end.
    Everywhere,
}

impl Reach {
    fn of_end(end: &Option<Bytes>) -> Reach {
        match end {
            Some(end) => Reach::Below(end.clone()),
            None => Reach::Everywhere,
        }
    }

    fn covers(&self, key: &[u8]) -> bool {
        match self {
            Reach::Nowhere => false,
            Reach::Below(end) => key < end.as_ref(),
            Reach::Everywhere => true,
        }
    }
}

impl Summary for Reach {
    /// The ranges with one start, by their ends.
    type Value = BTreeMap<Reach, BTreeSet<WatcherId>>;

    fn of(ranges: &Self::Value) -> Self {
        ranges
            .last_key_value()
            .map(|(reach, _)| reach.clone())
            .unwrap_or_default()
    }

    fn add(&mut self, other: &Self) {
        if *other > *self {
            *self = other.clone();
        }
    }

    fn replace(&mut self, old: &Self, new: &Self) -> bool {
        // When the farthest comes nearer, another one may be the farthest now.
        let shrinks = old == self && new < old;
        self.add(new);
        !shrinks
    }
}

impl Matcher {
    pub(super) fn insert(&mut self, keys: &Keys, watcher: WatcherId) {
        match keys {
            Keys::One(key) => drop(self.keys.entry(key.clone()).or_default().insert(watcher)),
            Keys::Range(from, end) => {
                let reach = Reach::of_end(end);
                self.ranges.upsert(
                    from,
                    || from.clone(),
                    BTreeMap::new,
                    |ranges| {
                        ranges.entry(reach).or_default().insert(watcher);
                    },
                );
            }
        }
    }

    pub(super) fn remove(&mut self, keys: &Keys, watcher: WatcherId) {
        match keys {
            Keys::One(key) => {
                if let Some(watchers) = self.keys.get_mut(key) {
                    watchers.remove(&watcher);
                    if watchers.is_empty() {
                        self.keys.remove(key);
                    }
                }
            }
            Keys::Range(from, end) => {
                let reach = Reach::of_end(end);
                self.ranges.adjust(from, |ranges| {
                    if let Some(watchers) = ranges.get_mut(&reach) {
                        watchers.remove(&watcher);
                        if watchers.is_empty() {
                            ranges.remove(&reach);
                        }
                    }
                    !ranges.is_empty()
                });
            }
        }
    }

    /// Shows every watcher of a key to `visit`.
    pub(super) fn for_each(&self, key: &[u8], mut visit: impl FnMut(WatcherId)) {
        if let Some(watchers) = self.keys.get(key) {
            watchers.iter().copied().for_each(&mut visit);
        }
        // All ranges that start at the key or before: up to the smallest key after it.
        let end = [key, b"\0"].concat();
        self.ranges.walk(b"", Some(&end), &mut Stab { key, visit: &mut visit });
    }
}

struct Stab<'a, F> {
    key: &'a [u8],
    visit: &'a mut F,
}

impl<F: FnMut(WatcherId)> Visitor<Reach> for Stab<'_, F> {
    fn subtree(&mut self, reach: &Reach) -> bool {
        !reach.covers(self.key)
    }

    fn entry(&mut self, _: &Bytes, ranges: &<Reach as Summary>::Value) -> ControlFlow<()> {
        for (_, watchers) in ranges.iter().rev().take_while(|(reach, _)| reach.covers(self.key)) {
            watchers.iter().copied().for_each(&mut *self.visit);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_look_at_every_watcher_finds() {
        let mut state = 88_172_645_463_325_252u64;
        let mut below = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        let mut matcher = Matcher::default();
        let mut model: Vec<(Keys, WatcherId)> = Vec::new();
        let word = |n: u64| Bytes::from(format!("{n:03}"));
        for round in 0..4000i64 {
            if below(3) == 0 && !model.is_empty() {
                let (keys, watcher) = model.swap_remove(below(model.len() as u64) as usize);
                matcher.remove(&keys, watcher);
            } else {
                let from = below(300);
                let keys = match below(10) {
                    0..3 => Keys::One(word(from)),
                    3 => Keys::Range(word(from), None),
                    _ => Keys::Range(word(from), Some(word(from + 1 + below(20)))),
                };
                let watcher = (below(5), round);
                matcher.insert(&keys, watcher);
                model.push((keys, watcher));
            }
            let key = word(below(330));
            let mut found = Vec::new();
            matcher.for_each(&key, |watcher| found.push(watcher));
            found.sort_unstable();
            let mut expected: Vec<_> = model
                .iter()
                .filter(|(keys, _)| match keys {
                    Keys::One(one) => *one == key,
                    Keys::Range(from, end) => key >= from && end.as_ref().is_none_or(|end| key < end),
                })
                .map(|(_, watcher)| *watcher)
                .collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "round {round}, key {key:?}");
        }
        for (keys, watcher) in model.drain(..) {
            matcher.remove(&keys, watcher);
        }
        assert!(matcher.keys.is_empty());
        assert_eq!(matcher.ranges.len(), 0);
    }
}
