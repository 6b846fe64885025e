//! Cursors over a tree, and over a tree with uncommitted changes laid over it.
//!
//! Invariant: going up (down), the keys strictly ascend (descend) whatever the file says, so that every scan ends: a leaf that does
//! not continue the order is an error, and so is an empty one below a branch.

use std::ops::Bound;

use bytes::Bytes;
use disk::Disk;

use crate::bucket::{Overlay, Tree, change_after, change_before};
use crate::error::Error;
use crate::page::{Kind, Page};
use crate::read::DEPTH_MAX;

/// A cursor over the items of one tree, nested buckets included.
#[derive(Debug)]
pub(crate) struct TreeCursor<'tx, D: Disk> {
    tree: Tree<'tx, D>,
    /// From the root to the leaf; when not empty, the leaf's index is that of an item.
    stack: Vec<(Page, usize)>,
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

impl<'tx, D: Disk> TreeCursor<'tx, D> {
    pub fn new(tree: Tree<'tx, D>) -> Self {
        TreeCursor {
            tree,
            stack: Vec::new(),
        }
    }

    /// The leaf and index that the cursor is on; the last move returned true.
    pub fn item(&self) -> (&Page, usize) {
        let (page, index) = self.stack.last().expect("the cursor is on an item");
        (page, *index)
    }

    fn push_root(&mut self) -> Result<(), Error> {
        self.stack.clear();
        let page = self.tree.root_page()?;
        self.stack.push((page, 0));
        Ok(())
    }

    /// From the branch on top of the stack down to the first (last) item below its index.
    fn descend(&mut self, way: Way) -> Result<(), Error> {
        while let Some((page, index)) = self.stack.last()
            && page.kind == Kind::Branch
        {
            if self.stack.len() > DEPTH_MAX {
                return Err(Error::corrupt(page.id, "the tree is too deep: a cycle"));
            }
            let child = self.tree.page(page.child(*index))?;
            if child.count() == 0 {
                return Err(Error::corrupt(child.id, "an empty page below a branch"));
            }
            let index = match way {
                Way::Up => 0,
                Way::Down => child.count() - 1,
            };
            self.stack.push((child, index));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<bool, Error> {
        self.stack.clear();
        Ok(false)
    }

    /// Moves to the first item; false when there is none.
    pub fn first(&mut self) -> Result<bool, Error> {
        self.push_root()?;
        self.descend(Way::Up)?;
        if self.item().0.count() == 0 {
            self.end()
        } else {
            Ok(true)
        }
    }

    /// Moves to the last item; false when there is none.
    pub fn last(&mut self) -> Result<bool, Error> {
        self.push_root()?;
        let (root, index) = &mut self.stack[0];
        if root.count() == 0 {
            return self.end();
        }
        *index = root.count() - 1;
        self.descend(Way::Down)?;
        Ok(true)
    }

    /// Moves to the first item with a key of at least `key`; false when there is none.
    pub fn seek(&mut self, key: &[u8]) -> Result<bool, Error> {
        self.push_root()?;
        loop {
            let depth = self.stack.len();
            let (page, index) = self.stack.last_mut().expect("the root is on the stack");
            if page.kind == Kind::Leaf {
                *index = page.search(key).0;
                break;
            }
            if depth > DEPTH_MAX {
                return Err(Error::corrupt(page.id, "the tree is too deep: a cycle"));
            }
            *index = page.search_child(key);
            let child = self.tree.page(page.child(*index))?;
            if child.count() == 0 {
                return Err(Error::corrupt(child.id, "an empty page below a branch"));
            }
            self.stack.push((child, 0));
        }
        let (page, index) = self.item();
        if index < page.count() {
            return Ok(true);
        }
        if page.count() == 0 {
            return self.end();
        }
        // All keys of this leaf are less: go on from its last one.
        self.stack.last_mut().expect("the leaf").1 -= 1;
        self.next()
    }

    /// Moves to the next item; false when there is none.
    pub fn next(&mut self) -> Result<bool, Error> {
        self.step(Way::Up)
    }

    /// Moves to the previous item; false when there is none.
    pub fn prev(&mut self) -> Result<bool, Error> {
        self.step(Way::Down)
    }

    fn step(&mut self, way: Way) -> Result<bool, Error> {
        let Some((leaf, from)) = self.stack.pop() else {
            return Ok(false);
        };
        match way {
            Way::Up if from + 1 < leaf.count() => {
                self.stack.push((leaf, from + 1));
                return Ok(true);
            }
            Way::Down if from > 0 => {
                self.stack.push((leaf, from - 1));
                return Ok(true);
            }
            Way::Up | Way::Down => {}
        }
        while let Some((page, index)) = self.stack.last_mut() {
            match way {
                Way::Up if *index + 1 < page.count() => *index += 1,
                Way::Down if *index > 0 => *index -= 1,
                Way::Up | Way::Down => {
                    self.stack.pop();
                    continue;
                }
            }
            self.descend(way)?;
            let (page, index) = self.item();
            let in_order = match way {
                Way::Up => page.key(index) > leaf.key(from),
                Way::Down => page.key(index) < leaf.key(from),
            };
            if !in_order {
                let what = format!("its keys do not continue those of page {}", leaf.id);
                return Err(Error::corrupt(page.id, what));
            }
            return Ok(true);
        }
        Ok(false)
    }
}

/// A cursor over the keys and values of a bucket, in order of the keys. It is on an item, or nowhere: before the first move,
/// after a move that returned `None`, and after an error; from nowhere, `next` and `prev` return `None`.
#[derive(Debug)]
pub struct Cursor<'tx, D: Disk> {
    tree: Option<TreeCursor<'tx, D>>,
    overlay: Option<&'tx Overlay>,
    /// The key that an overlaid cursor is on.
    at: Option<Bytes>,
}

impl<'tx, D: Disk> Cursor<'tx, D> {
    pub(crate) fn new(tree: Option<TreeCursor<'tx, D>>, overlay: Option<&'tx Overlay>) -> Self {
        let overlay = overlay.filter(|overlay| !overlay.is_empty());
        Cursor {
            tree,
            overlay,
            at: None,
        }
    }

    /// Moves to the first key.
    pub fn first(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        match self.overlay {
            None => self.plain(Way::Up, |tree| tree.first()),
            Some(overlay) => self.overlaid(overlay, Way::Up, Bound::Unbounded),
        }
    }

    /// Moves to the last key.
    pub fn last(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        match self.overlay {
            None => self.plain(Way::Down, |tree| tree.last()),
            Some(overlay) => self.overlaid(overlay, Way::Down, Bound::Unbounded),
        }
    }

    /// Moves to the first key that is not less than `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        match self.overlay {
            None => self.plain(Way::Up, |tree| tree.seek(key)),
            Some(overlay) => self.overlaid(overlay, Way::Up, Bound::Included(Bytes::copy_from_slice(key))),
        }
    }

    /// Moves to the next key.
    #[allow(clippy::should_implement_trait)] // A cursor also goes back, and fails.
    pub fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        match (self.overlay, self.at.take()) {
            (None, _) => self.plain(Way::Up, |tree| tree.next()),
            (Some(overlay), Some(at)) => self.overlaid(overlay, Way::Up, Bound::Excluded(at)),
            (Some(_), None) => Ok(None),
        }
    }

    /// Moves to the previous key.
    pub fn prev(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        match (self.overlay, self.at.take()) {
            (None, _) => self.plain(Way::Down, |tree| tree.prev()),
            (Some(overlay), Some(at)) => self.overlaid(overlay, Way::Down, Bound::Excluded(at)),
            (Some(_), None) => Ok(None),
        }
    }

    fn plain(
        &mut self,
        way: Way,
        start: impl FnOnce(&mut TreeCursor<'tx, D>) -> Result<bool, Error>,
    ) -> Result<Option<(Bytes, Bytes)>, Error> {
        let Some(tree) = &mut self.tree else { return Ok(None) };
        let moved = start(tree);
        value_on(tree, way, moved)
    }

    /// The nearest of tree and changes from a bound on. Each step seeks anew: scans inside of a write transaction are short.
    fn overlaid(&mut self, overlay: &Overlay, way: Way, from: Bound<Bytes>) -> Result<Option<(Bytes, Bytes)>, Error> {
        self.at = None;
        let mut from = from;
        loop {
            let stored = match &mut self.tree {
                Some(tree) => {
                    let moved = place(tree, way, &from);
                    value_on(tree, way, moved)?
                }
                None => None,
            };
            let bound = from.as_ref().map(|key| &key[..]);
            let change = match way {
                Way::Up => change_after(overlay, bound),
                Way::Down => change_before(overlay, bound),
            };
            let (key, value) = match (stored, change) {
                (None, None) => return Ok(None),
                (Some((key, value)), None) => (key, Some(value)),
                (None, Some((key, value))) => (key.clone(), value.clone()),
                (Some((stored, old)), Some((changed, new))) => {
                    let stored_first = match way {
                        Way::Up => stored < *changed,
                        Way::Down => stored > *changed,
                    };
                    if stored_first {
                        (stored, Some(old))
                    } else {
                        (changed.clone(), new.clone())
                    }
                }
            };
            match value {
                Some(value) => {
                    self.at = Some(key.clone());
                    return Ok(Some((key, value)));
                }
                None => from = Bound::Excluded(key),
            }
        }
    }
}

/// Moves a tree cursor to the first item within the bound, going the given way.
fn place<D: Disk>(tree: &mut TreeCursor<'_, D>, way: Way, from: &Bound<Bytes>) -> Result<bool, Error> {
    let (key, inclusive) = match from {
        Bound::Unbounded => {
            return match way {
                Way::Up => tree.first(),
                Way::Down => tree.last(),
            };
        }
        Bound::Included(key) => (key, true),
        Bound::Excluded(key) => (key, false),
    };
    let found = tree.seek(key)?;
    let equal = found && {
        let (page, index) = tree.item();
        page.key(index) == &key[..]
    };
    match way {
        Way::Up if equal && !inclusive => tree.next(),
        Way::Up => Ok(found),
        Way::Down if equal && inclusive => Ok(true),
        Way::Down if found => tree.prev(),
        Way::Down => tree.last(),
    }
}

/// The key and value that a tree cursor is on, or on the next plain value if it is on a nested bucket.
fn value_on<D: Disk>(
    tree: &mut TreeCursor<'_, D>,
    way: Way,
    moved: Result<bool, Error>,
) -> Result<Option<(Bytes, Bytes)>, Error> {
    let mut moved = moved;
    loop {
        match moved {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                tree.stack.clear();
                return Err(error);
            }
        }
        let (page, index) = tree.item();
        if !page.is_bucket(index) {
            return Ok(Some((page.key_bytes(index), page.value_bytes(index))));
        }
        moved = tree.step(way);
    }
}
