//! The contents of a file in memory: sparse, and shared between copies until they differ.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Random;

const BLOCK: u64 = 4096;
/// What a disk writes as a whole, if it writes at all.
const SECTOR: u64 = 512;

/// Blocks that are not there read as zeros.
#[derive(Debug, Clone, Default)]
pub struct Content {
    len: u64,
    /// Space that was reserved, from the start of the file.
    reserved: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK as usize]>>,
}

/// A change of a file.
#[derive(Debug, Clone)]
pub enum Change {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
    Preallocate(u64),
}

/// What becomes of a sector, or of a change of length, that was not synced.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    Kept,
    Lost,
    /// The first bytes are new, the others old.
    Torn(u64),
    Zeroed,
}

/// Draws a fate.
pub type Draw = fn(&mut Random) -> Fate;

fn draw(random: &mut Random) -> Fate {
    match random.below(20) {
        0 => Fate::Torn(random.next() % SECTOR),
        1 => Fate::Zeroed,
        2..=10 => Fate::Lost,
        _ => Fate::Kept,
    }
}

/// What becomes of a sector that was being written when the power failed: nothing is likelier than the rest.
pub fn draw_in_flight(random: &mut Random) -> Fate {
    match random.below(4) {
        // The heads of pages and records are where it matters.
        0 => Fate::Torn(1 + random.next() % if random.below(2) == 0 { 96 } else { SECTOR - 1 }),
        1 => Fate::Zeroed,
        2 => Fate::Lost,
        _ => Fate::Kept,
    }
}

impl Change {
    /// Leaves a random beginning of a write, and nothing of anything else.
    pub fn shorten(&mut self, below: &mut dyn FnMut(usize) -> usize) {
        match self {
            Change::Write { data, .. } => data.truncate(below(data.len())),
            Change::SetLen(_) | Change::Preallocate(_) => {
                *self = Change::Write {
                    offset: 0,
                    data: Vec::new(),
                }
            }
        }
    }
}

impl Content {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes taken from the disk.
    pub fn allocated(&self) -> u64 {
        let beyond = self.blocks.range(self.reserved.div_ceil(BLOCK)..).count() as u64;
        self.reserved.next_multiple_of(BLOCK) + beyond * BLOCK
    }

    /// Bytes that a change would take from the disk.
    pub fn grows_by(&self, change: &Change) -> u64 {
        match change {
            Change::Write { data, .. } if data.is_empty() => 0,
            Change::Write { offset, data } => {
                let reserved = self.reserved.div_ceil(BLOCK);
                let blocks = offset / BLOCK..(offset + data.len() as u64).div_ceil(BLOCK);
                blocks
                    .filter(|block| *block >= reserved && !self.blocks.contains_key(block))
                    .count() as u64
                    * BLOCK
            }
            Change::SetLen(_) => 0,
            Change::Preallocate(len) => {
                let after = Content {
                    reserved: self.reserved.max(*len),
                    ..self.clone()
                };
                after.allocated() - self.allocated()
            }
        }
    }

    pub fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let at = offset + done as u64;
            let (block, within) = (at / BLOCK, (at % BLOCK) as usize);
            let step = (n - done).min(BLOCK as usize - within);
            match self.blocks.get(&block) {
                Some(block) => buf[done..done + step].copy_from_slice(&block[within..within + step]),
                None => buf[done..done + step].fill(0),
            }
            done += step;
        }
        n
    }

    pub fn write(&mut self, data: &[u8], offset: u64) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (block, within) = (at / BLOCK, (at % BLOCK) as usize);
            let step = (data.len() - done).min(BLOCK as usize - within);
            let block = self
                .blocks
                .entry(block)
                .or_insert_with(|| Arc::new([0; BLOCK as usize]));
            Arc::make_mut(block)[within..within + step].copy_from_slice(&data[done..done + step]);
            done += step;
        }
        if !data.is_empty() {
            self.len = self.len.max(offset + data.len() as u64);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.blocks.split_off(&len.div_ceil(BLOCK));
            if let Some(last) = self.blocks.get_mut(&(len / BLOCK)) {
                Arc::make_mut(last)[(len % BLOCK) as usize..].fill(0);
            }
            self.reserved = self.reserved.min(len);
        }
        self.len = len;
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => self.write(data, *offset),
            Change::SetLen(len) => self.set_len(*len),
            Change::Preallocate(len) => {
                self.reserved = self.reserved.max(*len);
                self.len = self.len.max(*len);
            }
        }
    }

    /// Applies what a crash leaves of a change: `fate` is asked for each sector of a write (only the bytes written are touched),
    /// and once for anything else. It is given the means to draw lots.
    pub fn survive(&mut self, change: &Change, mut fate: impl FnMut(Draw) -> Fate) {
        let Change::Write { offset, data } = change else {
            match fate(draw) {
                Fate::Kept => self.apply(change),
                Fate::Lost | Fate::Torn(_) | Fate::Zeroed => {}
            }
            return;
        };
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let step = (data.len() - done).min((SECTOR - at % SECTOR) as usize);
            let sector = &data[done..done + step];
            match fate(draw) {
                Fate::Kept => self.write(sector, at),
                Fate::Lost => {}
                Fate::Torn(bytes) => self.write(&sector[..step.min(bytes as usize)], at),
                Fate::Zeroed => self.write(&vec![0; step], at),
            }
            done += step;
        }
    }
}
