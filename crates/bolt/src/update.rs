//! Applies a sorted batch of changes to a tree, copying only the pages on the way to them.
//!
//! One descent per batch, not per key: each page that is touched is read once and written once. A leaf that shrank below a
//! quarter of a page is merged with a neighbour under the same branch; a leaf that outgrew its page is split.

use std::cmp::Ordering;
use std::collections::HashSet;

use bytes::Bytes;
use disk::Disk;

use crate::bucket::{BucketHeader, Root};
use crate::build::Build;
use crate::error::{Error, lossy};
use crate::node::{BranchItem, LeafItem, Node, branch_item, leaf_item};
use crate::page::{BUCKET_FLAG, Kind, Page};
use crate::read::DEPTH_MAX;

/// A change of one key.
#[derive(Debug)]
pub(crate) struct Change {
    pub key: Bytes,
    /// The leaf item's flags: what is there, if anything, must have the same.
    pub flags: u32,
    /// What it becomes; `None` deletes it.
    pub value: Option<Bytes>,
}

/// Where a tree's contents are after a batch.
#[derive(Debug)]
pub(crate) enum NewRoot {
    /// Where they were.
    Unchanged,
    /// Under this page.
    Page(u64),
    /// In a leaf small enough to be kept in the bucket's header.
    Inline(Node),
}

/// A child of a branch, while the branch is worked on.
#[derive(Debug)]
pub(crate) enum Slot {
    Clean(BranchItem),
    /// Contents that are not written yet; `shrunk` if something was deleted from them.
    Dirty {
        node: Node,
        shrunk: bool,
    },
}

/// A node and whether it lost something.
pub(crate) struct Edited {
    pub node: Node,
    pub shrunk: bool,
}

impl<D: Disk> Build<'_, D> {
    /// Applies `changes` (sorted, one per key) to a tree.
    pub fn update(
        &mut self,
        root: Option<&Root>,
        changes: &[Change],
        fill: f64,
        inline: bool,
    ) -> Result<NewRoot, Error> {
        let node = match root {
            None => {
                let (node, _) = merge(std::iter::empty(), changes, 0)?;
                node.unwrap_or(Node::Leaf(Vec::new()))
            }
            Some(Root::Inline(page)) => match self.edit(page, changes, fill, 0)? {
                None => return Ok(NewRoot::Unchanged),
                Some(edited) => edited.node,
            },
            Some(Root::Page(id)) => {
                let page = self.page(*id)?;
                match self.edit(&page, changes, fill, 0)? {
                    None => return Ok(NewRoot::Unchanged),
                    Some(edited) => {
                        self.free(&page);
                        edited.node
                    }
                }
            }
        };
        self.plant(node, fill, inline)
    }

    /// Makes a node the root of a tree: adds levels while it is too large, takes them away while it has a single child.
    pub fn plant(&mut self, mut node: Node, fill: f64, inline: bool) -> Result<NewRoot, Error> {
        loop {
            match &node {
                Node::Branch(items) if items.is_empty() => node = Node::Leaf(Vec::new()),
                Node::Branch(items) if items.len() == 1 => return Ok(NewRoot::Page(items[0].child)),
                Node::Branch(_) | Node::Leaf(_) => {}
            }
            if inline && node.fits_inline(self.shared.page_size) {
                return Ok(NewRoot::Inline(node));
            }
            let mut items = self.write_split(node, fill)?;
            if items.len() == 1 {
                return Ok(NewRoot::Page(items.remove(0).child));
            }
            node = Node::Branch(items);
        }
    }

    /// Writes a node into as many pages as it needs.
    pub fn write_split(&mut self, node: Node, fill: f64) -> Result<Vec<BranchItem>, Error> {
        let mut items = Vec::new();
        for piece in node.split(self.shared.page_size, fill) {
            let key = if piece.is_empty() {
                Bytes::new()
            } else {
                piece.first_key()
            };
            items.push(BranchItem {
                key,
                child: self.write(&piece)?,
            });
        }
        Ok(items)
    }

    /// The contents of a page after the changes; `None` when they change nothing. The page itself is for the caller to free.
    fn edit(&mut self, page: &Page, changes: &[Change], fill: f64, depth: usize) -> Result<Option<Edited>, Error> {
        if depth > DEPTH_MAX {
            return Err(Error::corrupt(page.id, "the tree is too deep: a cycle"));
        }
        if page.kind == Kind::Leaf {
            let (node, shrunk) = merge((0..page.count()).map(|index| leaf_item(page, index)), changes, page.id)?;
            return Ok(node.map(|node| Edited { node, shrunk }));
        }
        let mut slots = Vec::with_capacity(page.count());
        let mut rest = changes;
        let (mut changed, mut any_shrunk) = (false, false);
        for index in 0..page.count() {
            let here = match index + 1 < page.count() {
                true => rest.partition_point(|change| change.key[..] < *page.key(index + 1)),
                false => rest.len(),
            };
            let (mine, later) = rest.split_at(here);
            rest = later;
            let edited = match mine.is_empty() {
                true => None,
                false => {
                    let child = self.page(page.child(index))?;
                    let edited = self.edit(&child, mine, fill, depth + 1)?;
                    if edited.is_some() {
                        self.free(&child);
                    }
                    edited
                }
            };
            match edited {
                None => slots.push(Slot::Clean(branch_item(page, index))),
                Some(Edited { node, shrunk }) => {
                    changed = true;
                    any_shrunk |= shrunk;
                    slots.push(Slot::Dirty { node, shrunk });
                }
            }
        }
        if !changed {
            return Ok(None);
        }
        let items = self.settle(slots, fill)?;
        let shrunk = any_shrunk && items.len() < page.count();
        Ok(Some(Edited {
            node: Node::Branch(items),
            shrunk,
        }))
    }

    /// Merges and splits the changed children of a branch and writes them.
    pub fn settle(&mut self, slots: Vec<Slot>, fill: f64) -> Result<Vec<BranchItem>, Error> {
        let mut settled: Vec<Slot> = Vec::with_capacity(slots.len());
        for slot in slots {
            if matches!(&slot, Slot::Dirty { node, .. } if node.is_empty()) {
                continue;
            }
            match settled.pop() {
                None => settled.push(slot),
                Some(before) => match self.too_small(&before) || self.too_small(&slot) {
                    false => settled.extend([before, slot]),
                    true => settled.extend(self.join(before, slot)?),
                },
            }
        }
        let mut items = Vec::with_capacity(settled.len());
        for slot in settled {
            match slot {
                Slot::Clean(item) => items.push(item),
                Slot::Dirty { node, .. } => items.extend(self.write_split(node, fill)?),
            }
        }
        Ok(items)
    }

    fn too_small(&self, slot: &Slot) -> bool {
        match slot {
            Slot::Clean(_) => false,
            Slot::Dirty { node, shrunk } => {
                let few = !node.is_leaf() && node.len() < 2;
                *shrunk && (few || node.size() < self.shared.page_size / 4)
            }
        }
    }

    /// Joins two neighbours, of which one is too small; leaves them apart when the other one is a big value of its own.
    fn join(&mut self, first: Slot, second: Slot) -> Result<Vec<Slot>, Error> {
        let (first, second) = match (first, second) {
            (Slot::Clean(item), Slot::Dirty { node: second, shrunk }) => match self.load(&item)? {
                Some((page, first)) if first.is_leaf() == second.is_leaf() => {
                    self.free(&page);
                    (first, second)
                }
                _ => return Ok(vec![Slot::Clean(item), Slot::Dirty { node: second, shrunk }]),
            },
            (Slot::Dirty { node: first, shrunk }, Slot::Clean(item)) => match self.load(&item)? {
                Some((page, second)) if first.is_leaf() == second.is_leaf() => {
                    self.free(&page);
                    (first, second)
                }
                _ => return Ok(vec![Slot::Dirty { node: first, shrunk }, Slot::Clean(item)]),
            },
            (Slot::Dirty { node: first, .. }, Slot::Dirty { node: second, .. })
                if first.is_leaf() == second.is_leaf() =>
            {
                (first, second)
            }
            (first, second) => return Ok(vec![first, second]),
        };
        let mut node = first;
        node.append(second);
        Ok(vec![Slot::Dirty { node, shrunk: true }])
    }

    /// A clean neighbour's contents, unless it is larger than a page.
    fn load(&mut self, item: &BranchItem) -> Result<Option<(Page, Node)>, Error> {
        let page = self.page(item.child)?;
        let node = Node::of(&page);
        Ok((page.overflow == 0).then_some((page, node)))
    }

    /// Frees all pages of a bucket, and of those nested in it.
    pub fn free_bucket(&mut self, header: &BucketHeader) -> Result<(), Error> {
        match &header.inline {
            Some(_) => Ok(()),
            None => self.free_tree(header.root, 0, &mut HashSet::new()),
        }
    }

    fn free_tree(&mut self, id: u64, depth: usize, seen: &mut HashSet<u64>) -> Result<(), Error> {
        if depth > DEPTH_MAX || !seen.insert(id) {
            return Err(Error::corrupt(id, "two references lead to it"));
        }
        let page = self.page(id)?;
        self.free(&page);
        for index in 0..page.count() {
            if page.kind == Kind::Branch {
                self.free_tree(page.child(index), depth + 1, seen)?;
            } else if page.is_bucket(index) {
                let header = BucketHeader::read(page.id, &page.value_bytes(index))?;
                if header.root != 0 {
                    self.free_tree(header.root, depth + 1, seen)?;
                }
            }
        }
        Ok(())
    }
}

/// A leaf's items after the changes, or `None` when these change nothing; and whether something was deleted.
fn merge(items: impl Iterator<Item = LeafItem>, changes: &[Change], page: u64) -> Result<(Option<Node>, bool), Error> {
    let mut items = items.peekable();
    let mut merged = Vec::with_capacity(items.size_hint().0 + changes.len());
    let (mut changed, mut shrunk) = (false, false);
    for change in changes {
        let mut old = None;
        while let Some(item) = items.peek() {
            match item.key.cmp(&change.key) {
                Ordering::Less => merged.extend(items.next()),
                Ordering::Equal => {
                    old = items.next();
                    break;
                }
                Ordering::Greater => break,
            }
        }
        if let Some(old) = &old
            && (old.flags ^ change.flags) & BUCKET_FLAG != 0
        {
            let key = lossy(&change.key);
            return Err(match change.flags & BUCKET_FLAG {
                0 => Error::IsBucket { key },
                _ => Error::NotBucket { key },
            });
        }
        match (&old, &change.value) {
            (None, None) => continue,
            (Some(old), Some(value)) if old.value == value => {
                merged.push(old.clone());
                continue;
            }
            (Some(old), Some(value)) => shrunk |= value.len() < old.value.len(),
            (Some(_), None) => shrunk = true,
            (None, Some(_)) => {}
        }
        changed = true;
        if let Some(value) = &change.value {
            merged.push(LeafItem {
                flags: change.flags,
                key: change.key.clone(),
                value: value.clone(),
            });
        }
    }
    if !changed {
        return Ok((None, false));
    }
    merged.extend(items);
    debug_assert!(merged.is_sorted_by(|a, b| a.key < b.key), "page {page}");
    Ok((Some(Node::Leaf(merged)), shrunk))
}
