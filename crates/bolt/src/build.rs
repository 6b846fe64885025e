//! The making of a commit: which pages it takes, frees and writes.
//!
//! Invariants:
//! - A `Build` that is dropped unfinished gives back every page that it took; the file's live pages were not touched, since only
//!   free pages and pages beyond the high-water mark are ever written.
//! - Order on the disk: data pages, sync, meta, sync. What fails before the first sync rolls back cleanly; from there on a
//!   failure poisons the database.
//! - Every page image is parsed before it is written, so that neither a bug here nor a damaged neighbour makes a bad page.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use disk::{Disk, File};

use crate::db::{Shared, Writer};
use crate::error::Error;
use crate::freelist::{self, Extent};
use crate::meta::{Meta, NO_FREELIST};
use crate::node::Node;
use crate::page::{Kind, Page};

/// Neighbouring pages are written together, up to this many bytes.
const WRITE_BYTES_MAX: usize = 4 << 20;

/// A commit in the making.
#[derive(Debug)]
pub(crate) struct Build<'a, D: Disk> {
    pub shared: &'a Shared<D>,
    pub writer: &'a mut Writer,
    /// The snapshot that the commit follows.
    pub base: Meta,
    high_water: u64,
    taken: Vec<Extent>,
    freed: Vec<Extent>,
    images: BTreeMap<u64, Bytes>,
    pages: Vec<Page>,
    /// Whether everything goes to the lowest place that it fits into, however long that takes to find.
    pub lowest: bool,
    finished: bool,
}

/// What a finished commit must also do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Finish {
    /// Commit although nothing changed.
    pub even_if_unchanged: bool,
    /// Store the freelist however long it is.
    pub store_freelist: bool,
}

impl<D: Disk> Drop for Build<'_, D> {
    fn drop(&mut self) {
        if !self.finished {
            for extent in &self.taken {
                let end = extent.end().min(self.base.high_water);
                if extent.start < end {
                    self.writer.freelist.give_back(Extent {
                        start: extent.start,
                        len: end - extent.start,
                    });
                }
            }
        }
    }
}

impl<'a, D: Disk> Build<'a, D> {
    pub fn new(shared: &'a Shared<D>, writer: &'a mut Writer, base: Meta) -> Build<'a, D> {
        Build {
            shared,
            writer,
            base,
            high_water: base.high_water,
            taken: Vec::new(),
            freed: Vec::new(),
            images: BTreeMap::new(),
            pages: Vec::new(),
            lowest: false,
            finished: false,
        }
    }

    /// A page of the base snapshot.
    pub fn page(&self, id: u64) -> Result<Page, Error> {
        self.shared.page(id, self.base.high_water)
    }

    /// Frees a page of the base snapshot, with its overflow.
    pub fn free(&mut self, page: &Page) {
        self.freed.push(Extent {
            start: page.id,
            len: page.span(),
        });
    }

    fn allocate(&mut self, pages: u64) -> Extent {
        let found = match self.lowest {
            true => self.writer.freelist.allocate_below(pages, u64::MAX),
            false => self.writer.freelist.allocate(pages),
        };
        let extent = found.unwrap_or_else(|| {
            let start = self.high_water;
            self.high_water += pages;
            Extent { start, len: pages }
        });
        self.taken.push(extent);
        extent
    }

    /// Puts a node into new pages: returns the first one's id.
    pub fn write(&mut self, node: &Node) -> Result<u64, Error> {
        let pages = node.size().div_ceil(self.shared.page_size) as u64;
        if node.len() >= 0xFFFF || pages > u64::from(u32::MAX) {
            return Err(Error::corrupt(
                0,
                format!("a node of {} items in {pages} pages cannot be stored", node.len()),
            ));
        }
        let extent = self.allocate(pages);
        let image = Bytes::from(node.encode(extent.start, pages, self.shared.page_size));
        self.pages.push(Page::parse(extent.start, image.clone())?);
        self.images.insert(extent.start, image);
        Ok(extent.start)
    }

    /// Makes the commit durable and visible, with `root` as the root bucket's root page.
    pub fn finish(mut self, root: u64, finish: Finish) -> Result<(), Error> {
        if self.images.is_empty() && self.freed.is_empty() && !finish.even_if_unchanged && !finish.store_freelist {
            return Ok(());
        }
        if let Some(stored) = self.writer.stored {
            self.freed.push(stored);
        }
        self.refuse_double_frees()?;
        let (high_water, cut) = self.writer.freelist.trim(self.high_water);
        self.high_water = high_water;
        self.taken.extend(cut);
        let stored = self.store_freelist(finish.store_freelist)?;
        let meta = Meta {
            root,
            freelist: stored.map_or(NO_FREELIST, |extent| extent.start),
            high_water: self.high_water,
            txid: self.base.txid + 1,
            ..self.base
        };
        self.grow()?;
        self.write_images()?;
        let shared = self.shared;
        if !mutant::planted("G03") {
            shared
                .file
                .sync_data()
                .map_err(|source| shared.poison("sync", source))?;
        }
        let slot = if mutant::planted("Q18") { 0 } else { meta.slot() };
        let page = meta.encode(slot, shared.page_size);
        shared
            .file
            .write_all_at(&page, shared.offset(slot))
            .map_err(|source| shared.poison("write the meta page of", source))?;
        if !mutant::planted("Q34") {
            shared
                .file
                .sync_data()
                .map_err(|source| shared.poison("sync the meta page of", source))?;
        }
        self.publish(meta, stored);
        Ok(())
    }

    fn publish(mut self, meta: Meta, stored: Option<Extent>) {
        for page in self.pages.drain(..) {
            match page.kind {
                Kind::Branch => self.shared.cache.insert(page),
                // Most are never read again, and until then the system's cache has them.
                Kind::Leaf => self.shared.cache.forget(page.id),
            }
        }
        self.finished = true;
        let mut state = self.shared.state();
        let readers = !state.readers.is_empty();
        self.writer
            .freelist
            .committed(meta.txid, &self.taken, &self.freed, readers);
        self.writer.stored = stored;
        state.meta = meta;
        state.unused_pages = self.writer.freelist.free().pages() + self.writer.freelist.pending_pages();
    }

    /// A page that is freed twice, or freed while it is free, shows that two references lead to it: the tree is damaged.
    fn refuse_double_frees(&self) -> Result<(), Error> {
        let mut all: Vec<Extent> = self.freed.iter().chain(&self.taken).copied().collect();
        all.sort_unstable();
        for pair in all.windows(2) {
            if pair[0].end() > pair[1].start {
                return Err(Error::corrupt(pair[1].start, "two references lead to it"));
            }
        }
        match self
            .freed
            .iter()
            .find(|extent| self.writer.freelist.free().overlap(**extent).is_some())
        {
            Some(extent) => Err(Error::corrupt(extent.start, "it is in use and in the freelist")),
            None => Ok(()),
        }
    }

    fn store_freelist(&mut self, always: bool) -> Result<Option<Extent>, Error> {
        let freed: u64 = self.freed.iter().map(|extent| extent.len).sum();
        let count = self.writer.freelist.free().pages() + self.writer.freelist.pending_pages() + freed;
        let pages = freelist::stored_pages(count, self.shared.page_size);
        if !always && pages > self.shared.options.freelist_pages_max {
            return Ok(None);
        }
        // The list's own pages may come out of it, so that it shrinks meanwhile; the run may then have an unused end.
        let at = self.allocate(pages);
        let free = self.writer.freelist.free().iter();
        let mut all: Vec<Extent> = free
            .chain(self.writer.freelist.pending())
            .chain(self.freed.iter().copied())
            .collect();
        all.sort_unstable();
        let image = freelist::encode(at, &all, self.shared.page_size);
        self.images.insert(at.start, Bytes::from(image));
        Ok(Some(at))
    }

    fn grow(&self) -> Result<(), Error> {
        let shared = self.shared;
        let need = shared.offset(self.high_water);
        if need <= shared.file_len.load(Ordering::Relaxed) {
            return Ok(());
        }
        let with_reserve = need.next_multiple_of(4096) + shared.options.growth_bytes;
        let len = match shared.file.preallocate(with_reserve) {
            Ok(()) => with_reserve,
            // No room for a reserve is no reason to stop yet.
            Err(error) if is_full(&error) => {
                shared
                    .file
                    .preallocate(need)
                    .map_err(|error| self.refused("grow", need, error))?;
                need
            }
            Err(error) => return Err(shared.io("grow")(error)),
        };
        shared.file_len.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn write_images(&self) -> Result<(), Error> {
        let mut buffer: Vec<u8> = Vec::new();
        let mut start = 0;
        let flush = |buffer: &[u8], start: u64| {
            self.shared
                .file
                .write_all_at(buffer, self.shared.offset(start))
                .map_err(|error| self.refused("write", buffer.len() as u64, error))
        };
        for (&id, image) in &self.images {
            let follows = self.shared.offset(start) + buffer.len() as u64 == self.shared.offset(id);
            if !buffer.is_empty() && (!follows || buffer.len() + image.len() > WRITE_BYTES_MAX) {
                flush(&buffer, start)?;
                buffer.clear();
            }
            if buffer.is_empty() {
                start = id;
            }
            buffer.extend_from_slice(image);
        }
        if buffer.is_empty() {
            Ok(())
        } else {
            flush(&buffer, start)
        }
    }

    fn refused(&self, verb: &'static str, bytes: u64, error: io::Error) -> Error {
        match is_full(&error) {
            true => Error::NoSpace {
                verb,
                path: self.shared.path.clone(),
                bytes,
            },
            false => self.shared.io(verb)(error),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
