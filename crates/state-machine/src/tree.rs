//! An ordered map whose copies cost nothing: a B-tree of reference-counted nodes.
//!
//! Invariants:
//! - A clone is a snapshot. The writer changes nodes in place while nobody else holds them and copies them otherwise
//!   (`Arc::make_mut`), so that a reader neither waits for the writer nor holds it up.
//! - Every branch knows a [`Summary`] of each subtree; whoever counts or filters can pass a subtree by.
//! - `first` of a child is a lower bound of its keys, and every key is below `first` of the next child.
//!
//! Two things are built on it: the index of keys, and the tables of what is not yet in the file.

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

/// Entries of a leaf or children of a branch, at most.
const FULL: usize = 64;
/// Below this, a node is merged with a neighbour if both fit.
const SPARSE: usize = 16;

/// What a branch remembers of a subtree.
pub(crate) trait Summary: Clone + Debug + Default {
    /// The values of the tree.
    type Value: Clone + Debug;
    /// The summary of one entry.
    fn of(value: &Self::Value) -> Self;
    /// Takes another part in.
    fn add(&mut self, other: &Self);
    /// One entry changed from `old` to `new`; the default stands for "not there". `false` when that cannot be told from these: then the
    /// summary is made anew from what lies below.
    fn replace(&mut self, old: &Self, new: &Self) -> bool;
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Tree<S: Summary> {
    root: Arc<Node<S>>,
    summary: S,
    len: usize,
}

#[derive(Debug, Clone)]
enum Node<S: Summary> {
    Leaf(Vec<(Bytes, S::Value)>),
    Branch(Vec<Child<S>>),
}

#[derive(Debug, Clone)]
struct Child<S: Summary> {
    first: Bytes,
    summary: S,
    node: Arc<Node<S>>,
}

/// Goes over a range of keys in order; see [`Tree::walk`].
pub(crate) trait Visitor<S: Summary> {
    /// All of a subtree lies in the range: `true` when its summary says enough and its entries need no visit.
    fn subtree(&mut self, summary: &S) -> bool;
    /// One entry in the range.
    fn entry(&mut self, key: &Bytes, value: &S::Value) -> ControlFlow<()>;
}

/// How one change went, on its way up.
struct Changed<S: Summary> {
    old: S,
    new: S,
    inserted: bool,
    split: Option<Child<S>>,
}

impl<S: Summary> Default for Tree<S> {
    fn default() -> Self {
        Tree {
            root: Arc::new(Node::Leaf(Vec::new())),
            summary: S::default(),
            len: 0,
        }
    }
}

impl<S: Summary> Tree<S> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The summary of everything.
    pub(crate) fn summary(&self) -> &S {
        &self.summary
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&S::Value> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
                    return Some(&entries[at].1);
                }
                Node::Branch(children) => node = &children[child_for(children, key)].node,
            }
        }
    }

    /// Changes the value of a key; a missing one is first inserted as `(own(), missing())`.
    pub(crate) fn upsert(
        &mut self,
        key: &[u8],
        own: impl FnOnce() -> Bytes,
        missing: impl FnOnce() -> S::Value,
        change: impl FnOnce(&mut S::Value),
    ) {
        let changed = upsert_in(&mut self.root, key, own, missing, change);
        if !self.summary.replace(&changed.old, &changed.new) {
            self.summary = self.root.summarize();
        }
        self.len += usize::from(changed.inserted);
        if let Some(right) = changed.split {
            let left = std::mem::replace(&mut self.root, Arc::new(Node::Leaf(Vec::new())));
            let first = left.first().cloned().unwrap_or_default();
            let left = Child {
                first,
                summary: left.summarize(),
                node: left,
            };
            self.root = Arc::new(Node::Branch(vec![left, right]));
        }
    }

    /// Changes the value of a key that is there, and removes it when `change` says `false`. Whether the key was there.
    pub(crate) fn adjust(&mut self, key: &[u8], change: impl FnOnce(&mut S::Value) -> bool) -> bool {
        let Some((old, new, removed)) = adjust_in(&mut self.root, key, change) else {
            return false;
        };
        if !self.summary.replace(&old, &new) {
            self.summary = self.root.summarize();
        }
        self.len -= usize::from(removed);
        loop {
            let next = match &*self.root {
                Node::Branch(children) if children.len() == 1 => children[0].node.clone(),
                Node::Branch(children) if children.is_empty() => Arc::new(Node::Leaf(Vec::new())),
                _ => return true,
            };
            self.root = next;
        }
    }

    /// Visits `[from, to)` in order; no `to` means to the end.
    pub(crate) fn walk(&self, from: &[u8], to: Option<&[u8]>, visitor: &mut impl Visitor<S>) {
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let _ = walk_in(&self.root, Some(from), to, None, visitor);
    }

    /// The entries from `from` on.
    pub(crate) fn iter_from(&self, from: &[u8]) -> Iter<'_, S> {
        let mut stack = Vec::new();
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    stack.push((node, entries.partition_point(|(k, _)| k.as_ref() < from)));
                    return Iter { stack };
                }
                Node::Branch(children) => {
                    let at = child_for(children, from);
                    stack.push((node, at + 1));
                    node = &children[at].node;
                }
            }
        }
    }
}

/// Entries in order; see [`Tree::iter_from`].
#[derive(Debug)]
pub(crate) struct Iter<'a, S: Summary> {
    /// From the root down; the number is the next one to go to.
    stack: Vec<(&'a Node<S>, usize)>,
}

impl<'a, S: Summary> Iterator for Iter<'a, S> {
    type Item = (&'a Bytes, &'a S::Value);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (node, at) = self.stack.last_mut()?;
            let here = *at;
            *at += 1;
            match *node {
                Node::Leaf(entries) => match entries.get(here) {
                    Some((key, value)) => return Some((key, value)),
                    None => drop(self.stack.pop()),
                },
                Node::Branch(children) => match children.get(here) {
                    Some(child) => self.stack.push((&child.node, 0)),
                    None => drop(self.stack.pop()),
                },
            }
        }
    }
}

impl<S: Summary> Node<S> {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Branch(children) => children.len(),
        }
    }

    fn first(&self) -> Option<&Bytes> {
        match self {
            Node::Leaf(entries) => entries.first().map(|(key, _)| key),
            Node::Branch(children) => children.first().map(|child| &child.first),
        }
    }

    fn summarize(&self) -> S {
        let mut all = S::default();
        match self {
            Node::Leaf(entries) => entries.iter().for_each(|(_, value)| all.add(&S::of(value))),
            Node::Branch(children) => children.iter().for_each(|child| all.add(&child.summary)),
        }
        all
    }

    /// Splits a node that has grown too large. One that grows at its end (`appended`) leaves full nodes behind: revisions only grow.
    fn split(&mut self, appended: bool) -> Option<Child<S>> {
        if self.len() <= FULL {
            return None;
        }
        let at = if appended { FULL } else { self.len() / 2 };
        let right = match self {
            Node::Leaf(entries) => Node::Leaf(entries.split_off(at)),
            Node::Branch(children) => Node::Branch(children.split_off(at)),
        };
        let first = right.first().cloned().unwrap_or_default();
        Some(Child {
            first,
            summary: right.summarize(),
            node: Arc::new(right),
        })
    }
}

impl<S: Summary> Child<S> {
    /// Takes note of a change of one entry.
    fn took(&mut self, old: &S, new: &S) {
        if !self.summary.replace(old, new) {
            self.summary = self.node.summarize();
        }
    }
}

/// The child that a key belongs to. A branch is never empty.
fn child_for<S: Summary>(children: &[Child<S>], key: &[u8]) -> usize {
    children
        .partition_point(|child| child.first.as_ref() <= key)
        .saturating_sub(1)
}

fn upsert_in<S: Summary>(
    node: &mut Arc<Node<S>>,
    key: &[u8],
    own: impl FnOnce() -> Bytes,
    missing: impl FnOnce() -> S::Value,
    change: impl FnOnce(&mut S::Value),
) -> Changed<S> {
    let node = Arc::make_mut(node);
    match node {
        Node::Leaf(entries) => match entries.binary_search_by(|(k, _)| k.as_ref().cmp(key)) {
            Ok(at) => {
                let value = &mut entries[at].1;
                let old = S::of(value);
                change(value);
                Changed {
                    old,
                    new: S::of(value),
                    inserted: false,
                    split: None,
                }
            }
            Err(at) => {
                let mut value = missing();
                change(&mut value);
                let new = S::of(&value);
                entries.insert(at, (own(), value));
                let appended = at + 1 == entries.len();
                Changed {
                    old: S::default(),
                    new,
                    inserted: true,
                    split: node.split(appended),
                }
            }
        },
        Node::Branch(children) => {
            let at = child_for(children, key);
            let child = &mut children[at];
            let mut changed = upsert_in(&mut child.node, key, own, missing, change);
            if key < child.first.as_ref() {
                // Only ever the leftmost child: keep its bound a lower bound.
                child.first = child.node.first().cloned().unwrap_or_default();
            }
            child.took(&changed.old, &changed.new);
            if let Some(right) = changed.split.take() {
                child.summary = child.node.summarize();
                let appended = at + 1 == children.len();
                children.insert(at + 1, right);
                changed.split = node.split(appended);
            }
            changed
        }
    }
}

fn adjust_in<S: Summary>(
    node: &mut Arc<Node<S>>,
    key: &[u8],
    change: impl FnOnce(&mut S::Value) -> bool,
) -> Option<(S, S, bool)> {
    // Look before copying: a key that is not there must not cost a copy of the path.
    match &**node {
        Node::Leaf(entries) => {
            entries.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        }
        Node::Branch(children) if children.is_empty() => return None,
        Node::Branch(_) => {}
    }
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            let at = entries.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
            let old = S::of(&entries[at].1);
            if change(&mut entries[at].1) {
                let new = S::of(&entries[at].1);
                return Some((old, new, false));
            }
            entries.remove(at);
            Some((old, S::default(), true))
        }
        Node::Branch(children) => {
            let at = child_for(children, key);
            let (old, new, removed) = adjust_in(&mut children[at].node, key, change)?;
            children[at].took(&old, &new);
            if removed {
                tidy(children, at);
            }
            Some((old, new, removed))
        }
    }
}

/// After a removal below child `at`: drops it when empty, merges it with a neighbour when sparse.
fn tidy<S: Summary>(children: &mut Vec<Child<S>>, at: usize) {
    let len = children[at].node.len();
    if len == 0 {
        children.remove(at);
        return;
    }
    if len >= SPARSE {
        return;
    }
    let fits = |left: usize| {
        children
            .get(left + 1)
            .is_some_and(|right| children[left].node.len() + right.node.len() <= FULL * 3 / 4)
    };
    let left = match at.checked_sub(1) {
        Some(before) if fits(before) => before,
        _ if fits(at) => at,
        _ => return,
    };
    let right = children.remove(left + 1);
    let into = &mut children[left];
    into.summary.add(&right.summary);
    match (Arc::make_mut(&mut into.node), Arc::unwrap_or_clone(right.node)) {
        (Node::Leaf(entries), Node::Leaf(more)) => entries.extend(more),
        (Node::Branch(children), Node::Branch(more)) => children.extend(more),
        // Children of one branch are of one kind: the tree grows and shrinks at its root.
        _ => unreachable!("siblings of different height"),
    }
}

/// `upper`: a bound that all keys of this node are below, if known.
fn walk_in<S: Summary>(
    node: &Node<S>,
    from: Option<&[u8]>,
    to: Option<&[u8]>,
    upper: Option<&[u8]>,
    visitor: &mut impl Visitor<S>,
) -> ControlFlow<()> {
    match node {
        Node::Leaf(entries) => {
            let start = from.map_or(0, |from| entries.partition_point(|(k, _)| k.as_ref() < from));
            for (key, value) in &entries[start..] {
                if to.is_some_and(|to| key.as_ref() >= to) {
                    return ControlFlow::Break(());
                }
                visitor.entry(key, value)?;
            }
        }
        Node::Branch(children) => {
            let start = from.map_or(0, |from| child_for(children, from));
            for (i, child) in children.iter().enumerate().skip(start) {
                if to.is_some_and(|to| child.first.as_ref() >= to) {
                    return ControlFlow::Break(());
                }
                let from = from.filter(|from| i == start && *from > child.first.as_ref());
                let upper = children.get(i + 1).map(|next| next.first.as_ref()).or(upper);
                let inside = from.is_none() && to.is_none_or(|to| upper.is_some_and(|upper| upper <= to));
                if inside && visitor.subtree(&child.summary) {
                    continue;
                }
                walk_in(&child.node, from, to, upper, visitor)?;
            }
        }
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Counts entries and sums their values.
    #[derive(Debug, Clone, Default, PartialEq)]
    struct Sum {
        count: usize,
        sum: u64,
    }

    impl Summary for Sum {
        type Value = u64;
        fn of(value: &u64) -> Self {
            Sum { count: 1, sum: *value }
        }
        fn add(&mut self, other: &Self) {
            self.count += other.count;
            self.sum += other.sum;
        }
        fn replace(&mut self, old: &Self, new: &Self) -> bool {
            self.count = self.count + new.count - old.count;
            self.sum = self.sum + new.sum - old.sum;
            true
        }
    }

    struct Adder {
        total: Sum,
        entries: usize,
    }

    impl Visitor<Sum> for Adder {
        fn subtree(&mut self, summary: &Sum) -> bool {
            self.total.add(summary);
            true
        }
        fn entry(&mut self, _: &Bytes, value: &u64) -> ControlFlow<()> {
            self.total.add(&Sum::of(value));
            self.entries += 1;
            ControlFlow::Continue(())
        }
    }

    fn sum_of(tree: &Tree<Sum>, from: &[u8], to: Option<&[u8]>) -> (Sum, usize) {
        let mut adder = Adder {
            total: Sum::default(),
            entries: 0,
        };
        tree.walk(from, to, &mut adder);
        (adder.total, adder.entries)
    }

    /// A xorshift: the same on every run.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn behaves_like_a_map_and_its_snapshots_do_not_move() {
        let mut state = 0x9E37_79B9_7F4A_7C15;
        let mut tree = Tree::<Sum>::default();
        let mut model = BTreeMap::new();
        let mut snapshots = Vec::new();
        for round in 0..30_000u64 {
            // Grows, then shrinks to nothing: splits and merges at all heights.
            let shrinking = round > 18_000;
            let key = format!("{:05}", next(&mut state) % 6_000).into_bytes();
            if next(&mut state) % 10 < if shrinking { 9 } else { 2 } {
                assert_eq!(tree.adjust(&key, |_| false), model.remove(&key).is_some());
            } else {
                let value = next(&mut state) % 1000;
                tree.upsert(&key, || Bytes::copy_from_slice(&key), || 0, |v| *v = value);
                model.insert(key.clone(), value);
            }
            if round % 1000 == 7 {
                snapshots.push((tree.clone(), model.clone()));
            }
        }
        for key in model.keys().cloned().collect::<Vec<_>>() {
            if key[4] % 2 == 0 {
                assert!(tree.adjust(&key, |_| false));
                model.remove(&key);
            }
        }
        snapshots.push((tree, model));
        for (tree, model) in &snapshots {
            assert_eq!(tree.len(), model.len());
            assert_eq!(tree.summary().sum, model.values().sum::<u64>());
            let all: Vec<_> = tree.iter_from(b"").map(|(k, v)| (k.to_vec(), *v)).collect();
            assert_eq!(all, model.iter().map(|(k, v)| (k.clone(), *v)).collect::<Vec<_>>());
            for _ in 0..50 {
                let from = format!("{:05}", next(&mut state) % 6_500).into_bytes();
                let to = format!("{:05}", next(&mut state) % 6_500).into_bytes();
                assert_eq!(tree.get(&from), model.get(&from));
                let rest: Vec<_> = tree.iter_from(&from).map(|(k, _)| k.to_vec()).collect();
                assert_eq!(
                    rest,
                    model.range(from.clone()..).map(|(k, _)| k.clone()).collect::<Vec<_>>()
                );
                let (sum, _) = sum_of(tree, &from, None);
                assert_eq!(sum.count, rest.len());
                let (sum, visited) = sum_of(tree, &from, Some(&to));
                let expected: Vec<u64> = if from < to {
                    model.range(from..to).map(|(_, v)| *v).collect()
                } else {
                    vec![]
                };
                assert_eq!(
                    sum,
                    Sum {
                        count: expected.len(),
                        sum: expected.iter().sum()
                    }
                );
                assert!(visited <= 2 * FULL, "a count must not look at {visited} entries");
            }
        }
    }

    #[test]
    fn appending_leaves_full_nodes() {
        let mut tree = Tree::<Sum>::default();
        for i in 0..100_000u64 {
            tree.upsert(
                &i.to_be_bytes(),
                || Bytes::copy_from_slice(&i.to_be_bytes()),
                || i,
                |_| (),
            );
        }
        assert_eq!(tree.len(), 100_000);
        let Node::Branch(children) = &*tree.root else {
            panic!("a root of 100,000 entries is a branch")
        };
        assert!(
            children.len() <= 100_000 / FULL / FULL + 1,
            "{} children",
            children.len()
        );
    }
}
