//! A bounded cache of tree pages, shared by all transactions.
//!
//! Invariants:
//! - An entry is what the newest commit (or an older snapshot that still pins the page) says of that page id. A commit replaces
//!   or removes the entry of every page that it wrote, before its meta is published; pages that a reader can reach are not
//!   rewritten while it is open.
//! - The bytes held never exceed the limit (each shard evicts before it inserts).
//!
//! Eviction is CLOCK: a page is kept for another round when it was used since the hand last passed, so that one long scan
//! does not throw out the branch pages.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::page::Page;

const SHARDS: usize = 16;

#[derive(Debug)]
pub(crate) struct Cache {
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug)]
struct Shard {
    limit: usize,
    bytes: usize,
    slots: Vec<Slot>,
    index: HashMap<u64, usize>,
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    page: Page,
    used: bool,
}

impl Cache {
    pub fn new(limit: usize) -> Cache {
        let shard = || {
            Mutex::new(Shard {
                limit: limit / SHARDS,
                bytes: 0,
                slots: Vec::new(),
                index: HashMap::new(),
                hand: 0,
            })
        };
        Cache {
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Shard> {
        self.shards[(id % SHARDS as u64) as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, id: u64) -> Option<Page> {
        let mut shard = self.shard(id);
        let slot = *shard.index.get(&id)?;
        let slot = &mut shard.slots[slot];
        slot.used = true;
        Some(slot.page.clone())
    }

    /// Stores a page in the place of whatever was known of its id.
    pub fn insert(&self, page: Page) {
        let mut shard = self.shard(page.id);
        shard.remove(page.id);
        if page.len() > shard.limit {
            return;
        }
        while shard.bytes + page.len() > shard.limit {
            shard.evict();
        }
        shard.bytes += page.len();
        let at = shard.slots.len();
        shard.index.insert(page.id, at);
        shard.slots.push(Slot { page, used: false });
    }

    /// Forgets what was known of a page id.
    pub fn forget(&self, id: u64) {
        self.shard(id).remove(id);
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().bytes).sum()
    }
}

impl Shard {
    fn remove(&mut self, id: u64) {
        let Some(at) = self.index.remove(&id) else { return };
        let slot = self.slots.swap_remove(at);
        self.bytes -= slot.page.len();
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.page.id, at);
        }
    }

    /// Drops one page that was not used lately. Ends: each slot passed loses its mark.
    fn evict(&mut self) {
        while !self.slots.is_empty() {
            self.hand = if self.hand < self.slots.len() { self.hand } else { 0 };
            let slot = &mut self.slots[self.hand];
            if slot.used {
                slot.used = false;
                self.hand += 1;
            } else {
                let id = slot.page.id;
                self.remove(id);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{Header, LEAF};
    use bytes::Bytes;

    fn page(id: u64) -> Page {
        let mut data = vec![0; 4096];
        Header {
            id,
            flags: LEAF,
            count: 0,
            overflow: 0,
        }
        .write(&mut data);
        Page::parse(id, Bytes::from(data)).unwrap()
    }

    #[test]
    fn the_limit_holds_and_used_pages_outlive_a_scan() {
        let limit = SHARDS * 4 * 4096;
        let cache = Cache::new(limit);
        for id in 0..16 {
            cache.insert(page(id));
        }
        for id in 16..1000 {
            for kept in 0..16 {
                assert!(cache.get(kept).is_some(), "page {kept} was thrown out by {id}");
            }
            cache.insert(page(id));
            assert!(cache.bytes() <= limit);
        }
        let held = (16..1000).filter(|id| cache.get(*id).is_some()).count();
        assert_eq!(held, 3 * 16);
    }
}
