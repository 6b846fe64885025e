//! The image of a snapshot: a whole database file of exactly [`ReadTx::size`] bytes, as bbolt's `Tx.WriteTo` makes it.
//!
//! Invariants: both meta pages of the image are the snapshot's own (the second one a transaction older), so that what the file
//! says by now does not matter; the tree pages are pinned by the transaction. Free pages come as they lie there, and as zeros where
//! the file has been cut since.

use bytes::Bytes;
use disk::{Disk, File};

use crate::error::Error;
use crate::meta::Meta;
use crate::read::ReadTx;

/// The chunks of an image, in order. Each one is read when it is asked for.
#[derive(Debug)]
pub struct Stream<D: Disk> {
    tx: ReadTx<D>,
    offset: u64,
    chunk_bytes: usize,
}

impl<D: Disk> ReadTx<D> {
    /// The image of this snapshot in chunks of `chunk_bytes` (the last one may be shorter). The stream keeps the snapshot open.
    pub fn stream(&self, chunk_bytes: usize) -> Stream<D> {
        Stream {
            tx: self.clone(),
            offset: 0,
            chunk_bytes: chunk_bytes.max(1),
        }
    }
}

impl<D: Disk> Stream<D> {
    /// Bytes that are still to come.
    pub fn remaining(&self) -> u64 {
        self.tx.size() - self.offset
    }

    fn read(&self, len: usize) -> Result<Bytes, Error> {
        let mut chunk = vec![0; len];
        // Short where the file was truncated since: only free pages lay there.
        self.tx
            .shared()
            .file
            .read_at(&mut chunk, self.offset)
            .map_err(self.tx.shared().io("read"))?;
        let (meta, page_size) = (*self.tx.meta(), self.tx.shared().page_size);
        for slot in 0..2 {
            let start = slot * page_size as u64;
            if self.offset < start + page_size as u64 {
                let page = Meta {
                    txid: meta.txid.saturating_sub(slot),
                    ..meta
                }
                .encode(slot, page_size);
                overlay(&mut chunk, self.offset, &page, start);
            }
        }
        Ok(Bytes::from(chunk))
    }
}

/// Copies `page`, which lies at `start`, into `chunk`, which lies at `offset`, as far as they overlap.
fn overlay(chunk: &mut [u8], offset: u64, page: &[u8], start: u64) {
    let from = start.max(offset);
    let to = (start + page.len() as u64).min(offset + chunk.len() as u64);
    if from < to {
        chunk[(from - offset) as usize..(to - offset) as usize]
            .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
    }
}

impl<D: Disk> Iterator for Stream<D> {
    type Item = Result<Bytes, Error>;

    fn next(&mut self) -> Option<Result<Bytes, Error>> {
        let len = self.remaining().min(self.chunk_bytes as u64) as usize;
        if len == 0 {
            return None;
        }
        let chunk = self.read(len);
        self.offset += len as u64;
        if chunk.is_err() {
            // An image with a hole must not be taken for a whole one.
            self.offset = self.tx.size();
        }
        Some(chunk)
    }
}
