//! Read transactions, and walks over everything that a snapshot can reach.
//!
//! Invariant: while a [`Pin`] of snapshot R lives, no page that R can reach is written.

use std::sync::Arc;

use bytes::Bytes;
use disk::Disk;

use crate::bucket::{Bucket, BucketHeader, Root, Tree};
use crate::db::Shared;
use crate::error::Error;
use crate::freelist::{Extent, Extents};
use crate::meta::Meta;
use crate::page::Kind;

/// A consistent snapshot of the database. Clones share the snapshot; it stays until the last one is dropped.
#[derive(Debug)]
pub struct ReadTx<D: Disk> {
    pin: Arc<Pin<D>>,
}

impl<D: Disk> Clone for ReadTx<D> {
    fn clone(&self) -> ReadTx<D> {
        ReadTx {
            pin: Arc::clone(&self.pin),
        }
    }
}

#[derive(Debug)]
struct Pin<D: Disk> {
    shared: Arc<Shared<D>>,
    meta: Meta,
}

impl<D: Disk> Drop for Pin<D> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(count) = state.readers.get_mut(&self.meta.txid) {
            *count -= 1;
            if *count == 0 {
                state.readers.remove(&self.meta.txid);
            }
        }
    }
}

impl<D: Disk> ReadTx<D> {
    pub(crate) fn begin(shared: &Arc<Shared<D>>) -> ReadTx<D> {
        let mut state = shared.state();
        let meta = state.meta;
        *state.readers.entry(meta.txid).or_default() += 1;
        drop(state);
        ReadTx {
            pin: Arc::new(Pin {
                shared: Arc::clone(shared),
                meta,
            }),
        }
    }

    pub(crate) fn shared(&self) -> &Shared<D> {
        &self.pin.shared
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.pin.meta
    }

    /// The transaction that made this snapshot.
    pub fn txid(&self) -> u64 {
        self.meta().txid
    }

    /// Bytes of the snapshot: its high-water page times page size. [`ReadTx::stream`] yields exactly as many.
    pub fn size(&self) -> u64 {
        self.meta().high_water * self.shared().page_size as u64
    }

    /// The top-level bucket of this name.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'_, D>>, Error> {
        self.root().bucket(name)
    }

    /// The names of the top-level buckets, in order.
    pub fn buckets(&self) -> Result<Vec<Bytes>, Error> {
        self.root().buckets()
    }

    pub(crate) fn root(&self) -> Bucket<'_, D> {
        root(self.shared(), self.meta())
    }
}

/// The bucket of buckets.
pub(crate) fn root<'tx, D: Disk>(shared: &'tx Shared<D>, meta: &Meta) -> Bucket<'tx, D> {
    let tree = Tree {
        shared,
        high_water: meta.high_water,
        root: Root::Page(meta.root),
    };
    Bucket::new(tree, meta.sequence)
}

/// The pages that a snapshot reaches: a bit each.
#[derive(Debug)]
pub(crate) struct Reach {
    bits: Vec<u64>,
}

/// Trees are never deeper: with two children per branch, this is more than 2^64 leaves.
pub(crate) const DEPTH_MAX: usize = 64;

impl Reach {
    /// Walks all trees of the snapshot. An error when a page is damaged or reached twice.
    pub fn of<D: Disk>(shared: &Shared<D>, meta: &Meta) -> Result<Reach, Error> {
        let mut reach = Reach::none(meta)?;
        reach.walk(shared, meta.root, meta.high_water, 0)?;
        Ok(reach)
    }

    pub fn none(meta: &Meta) -> Result<Reach, Error> {
        let words = usize::try_from(meta.high_water / 64 + 1)
            .ok()
            .filter(|words| *words <= 1 << 32)
            .ok_or_else(|| Error::corrupt(meta.slot(), format!("high-water page {}", meta.high_water)))?;
        let mut bits = Vec::new();
        bits.try_reserve_exact(words)
            .map_err(|_| Error::corrupt(meta.slot(), format!("high-water page {}", meta.high_water)))?;
        bits.resize(words, 0);
        Ok(Reach { bits })
    }

    pub fn contains(&self, id: u64) -> bool {
        self.bits
            .get((id / 64) as usize)
            .is_some_and(|word| word & (1 << (id % 64)) != 0)
    }

    /// Marks pages; false when one was marked before.
    pub fn add(&mut self, run: Extent) -> bool {
        let mut fresh = true;
        for id in run.start..run.end() {
            let word = &mut self.bits[(id / 64) as usize];
            fresh &= *word & (1 << (id % 64)) == 0;
            *word |= 1 << (id % 64);
        }
        fresh
    }

    fn walk<D: Disk>(&mut self, shared: &Shared<D>, id: u64, high_water: u64, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::corrupt(id, "the tree is too deep: a cycle"));
        }
        let page = shared.page(id, high_water)?;
        if !self.add(Extent {
            start: id,
            len: page.span(),
        }) {
            return Err(Error::corrupt(id, "two references lead to it"));
        }
        for index in 0..page.count() {
            match page.kind {
                Kind::Branch => self.walk(shared, page.child(index), high_water, depth + 1)?,
                Kind::Leaf if page.is_bucket(index) => {
                    let header = BucketHeader::read(page.id, &page.value_bytes(index))?;
                    if header.root != 0 {
                        self.walk(shared, header.root, high_water, depth + 1)?;
                    }
                }
                Kind::Leaf => {}
            }
        }
        Ok(())
    }

    /// What is below the high-water mark, no meta page, and not reached.
    pub fn unreached(&self, meta: &Meta) -> Extents {
        let mut free = Extents::default();
        let mut id = 2;
        while id < meta.high_water {
            let start = id;
            while id < meta.high_water && !self.contains(id) {
                id += 1;
            }
            free.insert(Extent { start, len: id - start });
            id += 1;
        }
        free
    }
}
