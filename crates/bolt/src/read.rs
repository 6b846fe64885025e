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
use crate::page::{self, BUCKET_FLAG, ELEMENT, HEADER, Header, Kind, LEAF, Page};

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

/// Pages so far apart are read in one stroke, with what lies between.
const GAP_PAGES: u64 = 8;
/// Children read in one stroke, at most.
const STROKE_PAGES: usize = 64;

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

    fn mark(&mut self, id: u64, span: u64) -> Result<(), Error> {
        match self.add(Extent { start: id, len: span }) {
            true => Ok(()),
            false => Err(Error::corrupt(id, "two references lead to it")),
        }
    }

    fn walk<D: Disk>(&mut self, shared: &Shared<D>, id: u64, high_water: u64, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::corrupt(id, "the tree is too deep: a cycle"));
        }
        let page = shared.page(id, high_water)?;
        self.mark(id, page.span())?;
        match page.kind {
            Kind::Branch => self.walk_children(shared, &page, high_water, depth),
            Kind::Leaf => {
                for index in (0..page.count()).filter(|index| page.is_bucket(*index)) {
                    let header = BucketHeader::read(page.id, &page.value_bytes(index))?;
                    if header.root != 0 {
                        self.walk(shared, header.root, high_water, depth + 1)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Reads the heads of the children in large strokes, as they lie in the file. Of a leaf without nested buckets, which is almost
    /// every page, only the head is looked at.
    fn walk_children<D: Disk>(
        &mut self,
        shared: &Shared<D>,
        branch: &Page,
        high_water: u64,
        depth: usize,
    ) -> Result<(), Error> {
        let mut children: Vec<u64> = (0..branch.count()).map(|index| branch.child(index)).collect();
        children.sort_unstable();
        if let Some(id) = children.iter().find(|id| !(2..high_water).contains(*id)) {
            return Err(Error::corrupt(
                *id,
                format!("page {} leads to it, beyond the database", branch.id),
            ));
        }
        let near = |a: &u64, b: &u64| b - a <= GAP_PAGES;
        for stroke in children.chunk_by(near).flat_map(|run| run.chunks(STROKE_PAGES)) {
            let (first, last) = (stroke[0], stroke[stroke.len() - 1]);
            let data = shared.read_pages(first, last - first + 1)?;
            for &id in stroke {
                let at = (id - first) as usize * shared.page_size;
                match leaf_span(id, &data[at..at + shared.page_size], high_water) {
                    Some(span) => self.mark(id, span)?,
                    None => self.walk(shared, id, high_water, depth + 1)?,
                }
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

/// How many pages a leaf takes, if `data`, its first page, shows a leaf whose items are all plain values.
fn leaf_span(id: u64, data: &[u8], high_water: u64) -> Option<u64> {
    let header = Header::read(data);
    let elements = data.get(HEADER..HEADER + usize::from(header.count) * ELEMENT)?;
    let plain = elements
        .chunks_exact(ELEMENT)
        .all(|element| page::u32_at(element, 0) & BUCKET_FLAG == 0);
    let span = u64::from(header.overflow) + 1;
    (header.id == id && header.flags == LEAF && plain && span <= high_water - id).then_some(span)
}
