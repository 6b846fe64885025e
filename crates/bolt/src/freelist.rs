//! Which pages may be written.
//!
//! In memory the free pages are extents (start, length), found by place and by length, so that an allocation costs
//! O(log extents) however many pages are free. In the file the freelist is bbolt's: sorted page ids.
//!
//! Invariants:
//! - Extents never overlap or touch (they are merged), and lie in 2..high_water.
//! - A page that transaction F freed and transaction B wrote is *pending* while a reader R with B <= R < F is open, and free
//!   at the first write transaction after that. Pages whose B is unknown count as B = 0.
//! - A transaction changes nothing here but by [`Freelist::allocate`]; what it freed is handed over when it has committed, and
//!   what it allocated is given back when it has not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::Error;
use crate::page::{FREELIST, HEADER, Header, u64_at};

/// Pages `start..start + len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extent {
    pub start: u64,
    pub len: u64,
}

impl Extent {
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// Free extents by place and by length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extents {
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    pages: u64,
}

impl Extents {
    /// Number of pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.by_start.iter().map(|(&start, &len)| Extent { start, len })
    }

    /// The extent with the highest pages.
    pub fn last(&self) -> Option<Extent> {
        self.by_start
            .last_key_value()
            .map(|(&start, &len)| Extent { start, len })
    }

    /// The first extent that shares a page with `extent`.
    pub fn overlap(&self, extent: Extent) -> Option<Extent> {
        let (&start, &len) = self.by_start.range(..extent.end()).next_back()?;
        (start + len > extent.start).then_some(Extent { start, len })
    }

    fn cut(&mut self, extent: Extent) {
        self.by_start.remove(&extent.start);
        self.by_len.remove(&(extent.len, extent.start));
        self.pages -= extent.len;
    }

    fn paste(&mut self, extent: Extent) {
        if extent.len > 0 {
            self.by_start.insert(extent.start, extent.len);
            self.by_len.insert((extent.len, extent.start));
            self.pages += extent.len;
        }
    }

    /// Adds pages; those that are there already stay there once.
    pub fn insert(&mut self, extent: Extent) {
        if extent.len == 0 {
            return;
        }
        let (mut start, mut end) = (extent.start, extent.end());
        while let Some(touching) = self.touching(start, end) {
            start = start.min(touching.start);
            end = end.max(touching.end());
            self.cut(touching);
        }
        self.paste(Extent {
            start,
            len: end - start,
        });
    }

    fn touching(&self, start: u64, end: u64) -> Option<Extent> {
        let (&at, &len) = self.by_start.range(..=end).next_back()?;
        (at + len >= start).then_some(Extent { start: at, len })
    }

    /// Takes `len` contiguous pages: single pages from the lowest place, so that neighbours are written together and the end of
    /// the file drains; longer runs from the shortest extent that holds them.
    fn take(&mut self, len: u64) -> Option<Extent> {
        let found = if len == 1 {
            self.by_start
                .first_key_value()
                .map(|(&start, &len)| Extent { start, len })
        } else {
            self.by_len
                .range((len, 0)..)
                .next()
                .map(|&(len, start)| Extent { start, len })
        }?;
        self.cut(found);
        self.paste(Extent {
            start: found.start + len,
            len: found.len - len,
        });
        Some(Extent {
            start: found.start,
            len,
        })
    }

    /// The lowest place for `len` contiguous pages that all lie below page `limit`. Looks at one extent after the other: only
    /// compaction does this.
    fn find_below(&self, len: u64, limit: u64) -> Option<Extent> {
        let below = self
            .by_start
            .iter()
            .take_while(|(start, _)| **start < limit.saturating_sub(len - 1));
        below
            .map(|(&start, &len)| Extent { start, len })
            .find(|extent| extent.len >= len)
    }

    /// Whether [`Freelist::allocate_below`] would find a place.
    pub fn fits_below(&self, len: u64, limit: u64) -> bool {
        self.find_below(len, limit).is_some()
    }

    /// As [`Extents::take`], but only what ends at or below `limit`.
    fn take_below(&mut self, len: u64, limit: u64) -> Option<Extent> {
        let found = self.find_below(len, limit)?;
        self.cut(found);
        self.paste(Extent {
            start: found.start + len,
            len: found.len - len,
        });
        Some(Extent {
            start: found.start,
            len,
        })
    }
}

/// The pages that writers may use, now or later.
#[derive(Debug, Default)]
pub(crate) struct Freelist {
    free: Extents,
    /// Freed but perhaps still read: by (freeing, writing) transaction.
    pending: BTreeMap<(u64, u64), Vec<Extent>>,
    pending_pages: u64,
    /// Which transaction wrote a page (run), as far as open readers make it worth knowing.
    births: HashMap<u64, u64>,
}

impl Freelist {
    /// A freelist of exactly these pages.
    pub fn new(free: Extents) -> Freelist {
        Freelist {
            free,
            ..Freelist::default()
        }
    }

    pub fn free(&self) -> &Extents {
        &self.free
    }

    pub fn pending(&self) -> impl Iterator<Item = Extent> + '_ {
        self.pending.values().flatten().copied()
    }

    pub fn pending_pages(&self) -> u64 {
        self.pending_pages
    }

    /// Makes pending pages free that no reader needs. `readers` maps the ids of open read transactions to their number.
    pub fn release(&mut self, readers: &BTreeMap<u64, usize>) {
        let free = &mut self.free;
        let mut released = 0;
        self.pending.retain(|&(freed, born), extents| {
            if !mutant::planted("Q17") && born < freed && readers.range(born..freed).next().is_some() {
                return true;
            }
            for extent in extents.drain(..) {
                released += extent.len;
                free.insert(extent);
            }
            false
        });
        self.pending_pages -= released;
        match readers.first_key_value() {
            // Births at or before the oldest reader decide nothing any more.
            Some((&oldest, _)) => self.births.retain(|_, born| *born > oldest),
            None => self.births = HashMap::new(),
        }
    }

    /// Takes pages from the free ones.
    pub fn allocate(&mut self, len: u64) -> Option<Extent> {
        self.free.take(len)
    }

    /// Takes pages that all lie below page `limit`, in the lowest place.
    pub fn allocate_below(&mut self, len: u64, limit: u64) -> Option<Extent> {
        self.free.take_below(len, limit)
    }

    /// Gives back what an unfinished transaction allocated.
    pub fn give_back(&mut self, extent: Extent) {
        self.free.insert(extent);
    }

    /// Books what a committed transaction wrote and freed.
    pub fn committed(&mut self, txid: u64, written: &[Extent], freed: &[Extent], readers: bool) {
        for extent in freed {
            let born = self.births.remove(&extent.start).unwrap_or(0);
            self.pending.entry((txid, born)).or_default().push(*extent);
            self.pending_pages += extent.len;
        }
        // Without a reader there is nobody yet who could need the distinction; a reader that opens later reads this commit
        // or a later one, for which "born before" is the truth.
        if readers {
            for extent in written {
                self.births.insert(extent.start, txid);
            }
        }
    }

    /// Cuts free pages off the end: returns the new high-water page.
    pub fn trim(&mut self, high_water: u64) -> (u64, Option<Extent>) {
        match self.free.last() {
            Some(last) if last.end() == high_water => {
                self.free.cut(last);
                (last.start, Some(last))
            }
            _ => (high_water, None),
        }
    }
}

/// Pages that a stored freelist of `count` ids takes.
pub(crate) fn stored_pages(count: u64, page_size: usize) -> u64 {
    // From 0xFFFF on, the count is stored as one more id.
    let ids = if count >= 0xFFFF { count + 1 } else { count };
    (HEADER as u64 + ids * 8).div_ceil(page_size as u64).max(1)
}

/// Encodes extents, which are sorted and do not overlap, as the freelist page (run) `at`.
pub(crate) fn encode(at: Extent, extents: &[Extent], page_size: usize) -> Vec<u8> {
    let mut data = vec![0; at.len as usize * page_size];
    let count: u64 = extents.iter().map(|extent| extent.len).sum();
    let stored = if count >= 0xFFFF { 0xFFFF } else { count as u16 };
    Header {
        id: at.start,
        flags: FREELIST,
        count: stored,
        overflow: (at.len - 1) as u32,
    }
    .write(&mut data);
    let head = (count >= 0xFFFF).then_some(count);
    let ids = head
        .into_iter()
        .chain(extents.iter().flat_map(|extent| extent.start..extent.end()));
    for (chunk, id) in data[HEADER..].chunks_exact_mut(8).zip(ids) {
        chunk.copy_from_slice(&id.to_le_bytes());
    }
    data
}

/// Decodes the freelist page (run) `id`: `data` is the whole run.
pub(crate) fn decode(id: u64, data: &[u8], high_water: u64) -> Result<Extents, Error> {
    if data.len() < HEADER {
        return Err(Error::corrupt(id, "the freelist is cut short"));
    }
    let header = Header::read(data);
    if header.id != id || header.flags != FREELIST {
        let what = format!(
            "a freelist was expected, found page {} with flags {:#x}",
            header.id, header.flags
        );
        return Err(Error::corrupt(id, what));
    }
    let mut ids = data[HEADER..].chunks_exact(8).map(|chunk| u64_at(chunk, 0));
    let count = match header.count {
        0xFFFF => ids
            .next()
            .ok_or_else(|| Error::corrupt(id, "the freelist is cut short"))?,
        count => u64::from(count),
    };
    if count > ids.len() as u64 {
        return Err(Error::corrupt(
            id,
            format!("{count} free pages do not fit into {} bytes", data.len()),
        ));
    }
    let mut extents = Extents::default();
    let mut run: Option<Extent> = None;
    for free in ids.take(count as usize) {
        let floor = run.map_or(2, |run| run.end());
        if !(floor..high_water).contains(&free) {
            return Err(Error::corrupt(
                id,
                format!("free page {free} is out of order or beyond page {high_water}"),
            ));
        }
        run = match run {
            Some(run) if run.end() == free => Some(Extent {
                start: run.start,
                len: run.len + 1,
            }),
            Some(run) => {
                extents.paste(run);
                Some(Extent { start: free, len: 1 })
            }
            None => Some(Extent { start: free, len: 1 }),
        };
    }
    if let Some(run) = run {
        extents.paste(run);
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(list: &[(u64, u64)]) -> Extents {
        let mut extents = Extents::default();
        for &(start, len) in list {
            extents.insert(Extent { start, len });
        }
        extents
    }

    fn list(extents: &Extents) -> Vec<(u64, u64)> {
        extents.iter().map(|extent| (extent.start, extent.len)).collect()
    }

    #[test]
    fn neighbours_and_overlaps_merge() {
        assert_eq!(
            list(&extents(&[(10, 2), (14, 1), (12, 2), (20, 5), (22, 6)])),
            [(10, 5), (20, 8)]
        );
        assert_eq!(extents(&[(10, 2), (11, 2)]).pages(), 3);
    }

    #[test]
    fn single_pages_come_from_the_lowest_place_and_runs_from_the_tightest() {
        let mut free = extents(&[(5, 1), (10, 8), (30, 3)]);
        assert_eq!(free.take(1), Some(Extent { start: 5, len: 1 }));
        assert_eq!(free.take(3), Some(Extent { start: 30, len: 3 }));
        assert_eq!(free.take(9), None);
        assert_eq!(free.take_below(4, 13), None);
        assert_eq!(free.take_below(4, 14), Some(Extent { start: 10, len: 4 }));
        assert_eq!(list(&free), [(14, 4)]);
    }

    #[test]
    fn both_stored_forms_are_read_back() {
        for pages in [0, 1, 0xFFFE, 0xFFFF, 0x12345] {
            let free = extents(&[(100, pages)]);
            let at = Extent {
                start: 7,
                len: stored_pages(pages, 4096),
            };
            let data = encode(at, &free.iter().collect::<Vec<_>>(), 4096);
            assert_eq!(list(&decode(7, &data, 200_000).unwrap()), list(&free), "{pages}");
        }
    }

    #[test]
    fn a_damaged_list_is_refused() {
        let free = extents(&[(100, 3)]);
        let at = Extent { start: 7, len: 1 };
        let data = encode(at, &free.iter().collect::<Vec<_>>(), 512);
        assert!(decode(7, &data, 102).is_err(), "beyond the high-water page");
        assert!(decode(8, &data, 200).is_err(), "another page");
        let mut twice = data.clone();
        twice[HEADER + 8] = 100;
        assert!(decode(7, &twice, 200).is_err(), "not ascending");
        let mut many = data;
        many[10] = 200;
        assert!(decode(7, &many, 200).is_err(), "more than fit");
    }

    #[test]
    fn pages_stay_pending_exactly_while_a_reader_can_see_them() {
        let mut freelist = Freelist::default();
        let mut readers = BTreeMap::from([(5, 1)]);
        // Written at 3, freed at 6: reader 5 sees it.
        freelist.committed(
            6,
            &[Extent { start: 50, len: 1 }],
            &[Extent { start: 30, len: 1 }],
            true,
        );
        freelist.release(&readers);
        assert_eq!(freelist.free().pages(), 0);
        // Written at 6, freed at 7: nobody ever saw it.
        freelist.committed(7, &[], &[Extent { start: 50, len: 1 }], true);
        freelist.release(&readers);
        assert_eq!(list(freelist.free()), [(50, 1)]);
        readers = BTreeMap::from([(6, 1)]);
        freelist.release(&readers);
        assert_eq!(list(freelist.free()), [(30, 1), (50, 1)]);
        assert_eq!(freelist.pending_pages(), 0);
    }
}
