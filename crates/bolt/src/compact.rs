//! Online compaction: packs half-empty leaves, moves pages from the end of the file into free places, and cuts the file off.
//!
//! Each step is an ordinary commit of bounded size, so that readers and the writer go on between steps, and a crash loses nothing.
//! A pass goes through three stages, each of which walks the buckets in order of their keys and remembers the key it has come
//! to; what other transactions change meanwhile does not confuse it.
//!
//! Invariants:
//! - Pages that an open snapshot can reach are never written or cut off: only *free* pages are used, and only free pages at the
//!   end of the file are cut (pages that a reader still pins are pending, not free).
//! - The file is cut only when the meta page with the lower high-water mark is durable.
//! - Trees of buckets nested in other buckets are left where they are (etcd has none).

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use disk::{Disk, File};

use crate::bucket::{BucketHeader, Root};
use crate::build::{Build, Finish};
use crate::db::Db;
use crate::error::Error;
use crate::node::{Node, branch_item, leaf_item};
use crate::page::{BUCKET_FLAG, Kind, Page};
use crate::read::{self, DEPTH_MAX};
use crate::update::{Change, Edited, NewRoot, Slot};
use crate::write::{WriteTx, header};

/// How full packed leaves are left: as etcd's defragmentation leaves them.
const PACKED: f64 = 0.9;
/// At most so many neighbours are packed together. Four leaves that fit into three save a quarter; smaller gains are not worth
/// the writes.
const WINDOW: usize = 4;
/// Free pages that are left below the new end, for the copies that the moving itself makes: so many, fewer in a small file.
const SLACK_PAGES: u64 = 32;
/// The fewest of them.
const SLACK_PAGES_MIN: u64 = 3;

fn slack(high_water: u64) -> u64 {
    (high_water / 16).clamp(SLACK_PAGES_MIN, SLACK_PAGES)
}
/// Pages read per page written, before a step ends although it found little to do.
const READS_PER_WRITE: u64 = 16;

/// What a step of [`Db::compact_step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Pages that were rewritten elsewhere.
    pub moved_pages: u64,
    /// Bytes by which the file became shorter.
    pub released_bytes: u64,
    /// Whether the pass is over. The next call begins a new one.
    pub done: bool,
}

/// A compaction under way: what it does, and how far it has come.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    stage: Stage,
    /// The bucket and the key to go on with; the root tree comes last.
    bucket: Option<Bytes>,
    key: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Put neighbouring leaves together that fit into fewer pages.
    Pack,
    /// Move what lies at or beyond this page to below it.
    Move { limit: u64 },
    /// Give back the end of the file.
    Cut { high_water: u64 },
}

/// A walk over one tree, within the budget of a step.
struct Sweep {
    stage: Stage,
    from: Bytes,
    leaf_depth: usize,
    writes_left: u64,
    reads_left: u64,
    moved: u64,
    /// The key to go on from, when the budget ended the walk.
    stopped_at: Option<Bytes>,
}

impl<D: Disk> Db<D> {
    /// Does the next part of a compaction: rewrites about `budget_pages` pages, in one commit, or cuts the file. Call it until
    /// [`Progress::done`]; other transactions may run between the steps, and wait during one.
    ///
    /// Errors: as for [`WriteTx::commit`]. After an error the next call begins a new pass.
    pub fn compact_step(&self, budget_pages: u64) -> Result<Progress, Error> {
        let tx = WriteTx::begin(&self.shared)?;
        let (mut writer, base) = tx.into_parts();
        let pass = writer.pass.take().unwrap_or(Pass::at(Stage::Pack));
        let budget = budget_pages.max(1);
        let mut progress = Progress {
            moved_pages: 0,
            released_bytes: 0,
            done: false,
        };
        let next = match pass.stage {
            Stage::Pack | Stage::Move { .. } => {
                let build = Build::new(&self.shared, &mut writer, base);
                let rest = build.sweep(&pass, budget, &mut progress)?;
                match (rest, pass.stage) {
                    (Some(rest), _) => Some(rest),
                    // The limit counts what is free now that packing is over.
                    (None, Stage::Pack) => Some(Pass::at(Stage::Move { limit: u64::MAX })),
                    (None, _) => Some(Pass::at(Stage::Cut {
                        high_water: base.high_water,
                    })),
                }
            }
            Stage::Cut { high_water } => {
                // The last step's old pages have become free by now: this commit lowers the high-water mark.
                let finish = Finish {
                    even_if_unchanged: true,
                    store_freelist: true,
                };
                Build::new(&self.shared, &mut writer, base).finish(base.root, finish)?;
                progress.released_bytes = self.truncate()?;
                let state = self.shared.state();
                let free = writer.freelist.free().pages();
                // Big values may have found no place at first.
                let again = state.meta.high_water < high_water - high_water / 64 && free > state.meta.high_water / 8;
                (again && free > 2 * slack(high_water)).then(|| Pass::at(Stage::Move { limit: u64::MAX }))
            }
        };
        let next = next.map(|pass| match pass.stage {
            Stage::Move { limit: u64::MAX } => {
                let high_water = self.shared.state().meta.high_water;
                let unused = writer.freelist.free().pages() + writer.freelist.pending_pages();
                Pass::at(Stage::Move {
                    limit: (high_water + slack(high_water)).saturating_sub(unused),
                })
            }
            Stage::Pack | Stage::Move { .. } | Stage::Cut { .. } => pass,
        });
        progress.done = next.is_none();
        writer.pass = next;
        Ok(progress)
    }

    /// Cuts the file to the high-water mark: returns by how many bytes.
    fn truncate(&self) -> Result<u64, Error> {
        let shared = &self.shared;
        let wanted = shared.offset(shared.state().meta.high_water);
        let len = shared.file_len.load(Ordering::Relaxed);
        if wanted >= len {
            return Ok(0);
        }
        shared.file_len.store(wanted, Ordering::Relaxed);
        shared.file.set_len(wanted).map_err(shared.io("truncate"))?;
        Ok(len - wanted)
    }
}

impl Pass {
    fn at(stage: Stage) -> Pass {
        Pass {
            stage,
            bucket: None,
            key: Bytes::new(),
        }
    }
}

impl<D: Disk> Build<'_, D> {
    /// One step of a walk over all buckets, committed: returns where to go on, or `None` at the end.
    fn sweep(mut self, pass: &Pass, budget: u64, progress: &mut Progress) -> Result<Option<Pass>, Error> {
        self.lowest = true;
        let root = read::root(self.shared, &self.base);
        let names = root.buckets()?;
        let mut sweep = Sweep {
            stage: pass.stage,
            from: pass.key.clone(),
            leaf_depth: 0,
            writes_left: budget,
            reads_left: budget * READS_PER_WRITE,
            moved: 0,
            stopped_at: None,
        };
        let mut headers = Vec::new();
        let mut rest = None;
        for name in names {
            if pass.bucket.as_ref().is_some_and(|from| name < from) {
                continue;
            }
            if pass.bucket.as_ref().is_some_and(|from| name > from) {
                sweep.from = Bytes::new();
            }
            if let Some(stored) = root.stored(&name)? {
                let change = self.sweep_bucket(&stored, &mut sweep)?;
                headers.extend(change.map(|value| Change {
                    key: name.clone(),
                    flags: BUCKET_FLAG,
                    value: Some(value),
                }));
            }
            if let Some(key) = sweep.stopped_at.take() {
                rest = Some(Pass {
                    stage: pass.stage,
                    bucket: Some(name),
                    key,
                });
                break;
            }
        }
        progress.moved_pages = sweep.moved;
        // The root tree is small: it is moved whenever it is written, and at the end of the walk.
        let fill = self.shared.options.fill_percent;
        let mut new_root = self.base.root;
        if let NewRoot::Page(id) = self.update(Some(&Root::Page(self.base.root)), &headers, fill, false)? {
            new_root = id;
        } else if rest.is_none() {
            (sweep.from, sweep.writes_left, sweep.reads_left) = (Bytes::new(), u64::MAX, u64::MAX);
            if let Some(id) = self.sweep_tree(self.base.root, &mut sweep)? {
                new_root = id;
            }
        }
        self.finish(new_root, Finish::default())?;
        Ok(rest)
    }

    fn sweep_bucket(&mut self, stored: &BucketHeader, sweep: &mut Sweep) -> Result<Option<Bytes>, Error> {
        if stored.inline.is_some() {
            return Ok(None);
        }
        let root = self.sweep_tree(stored.root, sweep)?;
        Ok(root.and_then(|id| header(&NewRoot::Page(id), stored.sequence)))
    }

    /// Walks one tree: returns its new root if it changed.
    fn sweep_tree(&mut self, root: u64, sweep: &mut Sweep) -> Result<Option<u64>, Error> {
        let page = self.page(root)?;
        sweep.leaf_depth = self.leaf_depth(&page)?;
        let edited = match self.sweep_page(&page, sweep, 0)? {
            Some(edited) => edited.node,
            None if sweep.moves(&page) => {
                sweep.count(&page);
                Node::of(&page)
            }
            None => return Ok(None),
        };
        self.free(&page);
        match self.plant(edited, PACKED, false)? {
            NewRoot::Page(id) => Ok(Some(id)),
            NewRoot::Unchanged | NewRoot::Inline(_) => Ok(None),
        }
    }

    /// On which level the leaves are. Trees are level; were one not, some pages would merely stay where they are.
    fn leaf_depth(&self, root: &Page) -> Result<usize, Error> {
        let (mut page, mut depth) = (root.clone(), 0);
        while page.kind == Kind::Branch {
            if depth > DEPTH_MAX {
                return Err(Error::corrupt(page.id, "the tree is too deep: a cycle"));
            }
            page = self.page(page.child(0))?;
            depth += 1;
        }
        Ok(depth)
    }

    /// The new contents of a branch, if anything below it changed. The page itself is for the caller to free.
    fn sweep_page(&mut self, page: &Page, sweep: &mut Sweep, depth: usize) -> Result<Option<Edited>, Error> {
        if depth > DEPTH_MAX {
            return Err(Error::corrupt(page.id, "the tree is too deep: a cycle"));
        }
        if page.kind == Kind::Leaf {
            return Ok(None);
        }
        let start = page.search_child(&sweep.from);
        let mut slots: Vec<Slot> = (0..start).map(|index| Slot::Clean(branch_item(page, index))).collect();
        let mut changed = false;
        let mut index = start;
        while index < page.count() {
            if sweep.is_over(page, index).is_break() {
                slots.extend((index..page.count()).map(|index| Slot::Clean(branch_item(page, index))));
                break;
            }
            let (slot, taken) = match (depth + 1 == sweep.leaf_depth, sweep.stage) {
                (false, _) => (self.sweep_branch(page, index, sweep, depth)?, 1),
                (true, Stage::Pack) => self.pack(page, index, sweep)?,
                (true, _) => (self.move_leaf(page, index, sweep)?, 1),
            };
            changed |= matches!(slot, Slot::Dirty { .. });
            slots.push(slot);
            index += taken;
        }
        if !changed {
            return Ok(None);
        }
        let items = self.settle(slots, PACKED)?;
        let shrunk = items.len() < page.count();
        Ok(Some(Edited {
            node: Node::Branch(items),
            shrunk,
        }))
    }

    fn sweep_branch(&mut self, page: &Page, index: usize, sweep: &mut Sweep, depth: usize) -> Result<Slot, Error> {
        let child = self.page(page.child(index))?;
        let edited = match self.sweep_page(&child, sweep, depth + 1)? {
            Some(edited) => edited,
            None if sweep.moves(&child) => Edited {
                node: Node::of(&child),
                shrunk: false,
            },
            None => return Ok(Slot::Clean(branch_item(page, index))),
        };
        sweep.count(&child);
        self.free(&child);
        Ok(Slot::Dirty {
            node: edited.node,
            shrunk: edited.shrunk,
        })
    }

    fn move_leaf(&mut self, page: &Page, index: usize, sweep: &mut Sweep) -> Result<Slot, Error> {
        let item = branch_item(page, index);
        let Stage::Move { limit } = sweep.stage else {
            return Ok(Slot::Clean(item));
        };
        if item.child < limit {
            return Ok(Slot::Clean(item));
        }
        sweep.reads_left = sweep.reads_left.saturating_sub(1);
        let leaf = self.page(item.child)?;
        // A big value may find no room below the limit; any lower place will do then, and the next pass tries again.
        if !self.writer.freelist.free().fits_below(leaf.span(), leaf.id) {
            return Ok(Slot::Clean(item));
        }
        sweep.count(&leaf);
        self.free(&leaf);
        Ok(Slot::Dirty {
            node: Node::of(&leaf),
            shrunk: false,
        })
    }

    /// Packs the leaf at `index` with those behind it, when they fit into fewer pages. Returns how many leaves the slot replaces.
    fn pack(&mut self, page: &Page, index: usize, sweep: &mut Sweep) -> Result<(Slot, usize), Error> {
        let mut leaves: Vec<Page> = Vec::new();
        let mut used = 0;
        for next in index..page.count().min(index + WINDOW) {
            sweep.reads_left = sweep.reads_left.saturating_sub(1);
            let leaf = self.page(page.child(next))?;
            if leaf.kind != Kind::Leaf || leaf.overflow > 0 {
                break;
            }
            used += leaf.used();
            leaves.push(leaf);
            // Most neighbours are ruled out by their sizes; only then is it worth looking where the cuts would be.
            if used > (leaves.len() - 1) * self.shared.page_size {
                continue;
            }
            let items = |leaf: &Page| {
                (0..leaf.count())
                    .map(|index| leaf_item(leaf, index))
                    .collect::<Vec<_>>()
            };
            let node = Node::Leaf(leaves.iter().flat_map(items).collect());
            if node.clone().split(self.shared.page_size, PACKED).len() < leaves.len() {
                for leaf in &leaves {
                    sweep.count(leaf);
                    self.free(leaf);
                }
                return Ok((Slot::Dirty { node, shrunk: false }, leaves.len()));
            }
        }
        Ok((Slot::Clean(branch_item(page, index)), 1))
    }
}

impl Sweep {
    /// Whether a page lies where nothing should stay.
    fn moves(&self, page: &Page) -> bool {
        matches!(self.stage, Stage::Move { limit } if page.id >= limit)
    }

    fn count(&mut self, page: &Page) {
        self.moved += page.span();
        self.writes_left = self.writes_left.saturating_sub(page.span());
    }

    /// Stops before a child of a branch when the budget is used up.
    fn is_over(&mut self, page: &Page, index: usize) -> ControlFlow<()> {
        if self.stopped_at.is_some() {
            return ControlFlow::Break(());
        }
        if self.writes_left == 0 || self.reads_left == 0 {
            self.stopped_at = Some(page.key_bytes(index));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
