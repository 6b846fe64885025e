//! A consistent view of one bucket.
//!
//! Invariants: what is in an upper layer (a value or a deletion) hides the layers below; nothing changes while the view lives. The view
//! pins pages of the file, so it is for one request, not for a session.

use bytes::Bytes;
use disk::Disk;

use super::table::Table;
use super::{Pair, storage};
use crate::error::Error;
use crate::schema::Bucket;

/// See the module.
#[derive(Debug, Clone)]
pub struct Snapshot<D: Disk> {
    bucket: Bucket,
    active: Table,
    frozen: Option<Table>,
    file: bolt::ReadTx<D>,
}

/// Pairs that a cursor goes over before it looks for the next key from the root.
const STEPS_MAX: usize = 8;

/// What the visitor of a scan wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// The next pair.
    More,
    /// No more pairs.
    Enough,
}

impl<D: Disk> Snapshot<D> {
    pub(super) fn new(bucket: Bucket, active: Table, frozen: Option<Table>, file: bolt::ReadTx<D>) -> Self {
        Snapshot {
            bucket,
            active,
            frozen,
            file,
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let upper = self
            .active
            .get(key)
            .or_else(|| self.frozen.as_ref().and_then(|table| table.get(key)));
        if let Some(found) = upper {
            return Ok(found.clone());
        }
        match self.file.bucket(self.bucket.name()).map_err(storage)? {
            Some(bucket) => bucket.get(key).map_err(storage),
            None => Ok(None),
        }
    }

    /// The values of many keys, which must ascend: one pass over the file instead of a descent for each.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read.
    pub fn get_ascending<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Bytes>>, Error> {
        let bucket = self.file.bucket(self.bucket.name()).map_err(storage)?;
        let mut cursor = bucket.as_ref().map(|bucket| bucket.cursor());
        let mut head: Option<Pair> = None;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let key = key.as_ref();
            let upper = self
                .active
                .get(key)
                .or_else(|| self.frozen.as_ref().and_then(|table| table.get(key)));
            if let Some(found) = upper {
                values.push(found.clone());
                continue;
            }
            let Some(cursor) = &mut cursor else {
                values.push(None);
                continue;
            };
            // Close by, the next pair is nearer than a descent from the root.
            let mut steps = 0;
            while head.as_ref().is_some_and(|(at, _)| at.as_ref() < key) && steps < STEPS_MAX {
                head = cursor.next().map_err(storage)?;
                steps += 1;
            }
            if head.as_ref().is_none_or(|(at, _)| at.as_ref() < key) {
                head = cursor.seek(key).map_err(storage)?;
            }
            values.push(
                head.as_ref()
                    .filter(|(at, _)| at.as_ref() == key)
                    .map(|(_, value)| value.clone()),
            );
        }
        Ok(values)
    }

    /// Up to `limit` pairs in `[from, to)`, in order; no `to` means to the end, `limit` 0 means all.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        self.for_each(from, to, |key, value| {
            pairs.push((key, value));
            Ok(if pairs.len() == limit {
                Pairs::Enough
            } else {
                Pairs::More
            })
        })?;
        Ok(pairs)
    }

    /// Shows the pairs in `[from, to)` to `visit`, in order, until it has enough. Holds one pair at a time.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file cannot be read, and what `visit` returns.
    pub fn for_each(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        mut visit: impl FnMut(Bytes, Bytes) -> Result<Pairs, Error>,
    ) -> Result<(), Error> {
        let mut active = self.active.iter_from(from).peekable();
        let mut frozen = self
            .frozen
            .as_ref()
            .map(|table| table.iter_from(from))
            .into_iter()
            .flatten()
            .peekable();
        let bucket = self.file.bucket(self.bucket.name()).map_err(storage)?;
        let mut cursor = bucket.as_ref().map(|bucket| bucket.cursor());
        let mut file = match &mut cursor {
            Some(cursor) => cursor.seek(from).map_err(storage)?,
            None => None,
        };
        loop {
            // The smallest key that any layer has next; the topmost layer that has it decides.
            let heads = [
                active.peek().map(|head| head.0),
                frozen.peek().map(|head| head.0),
                file.as_ref().map(|f| &f.0),
            ];
            let Some(key) = heads.into_iter().flatten().min().cloned() else {
                return Ok(());
            };
            if to.is_some_and(|to| key.as_ref() >= to) {
                return Ok(());
            }
            let mut value = None;
            if file.as_ref().is_some_and(|head| head.0 == key) {
                value = file.take().map(|head| head.1);
                if let Some(cursor) = &mut cursor {
                    file = cursor.next().map_err(storage)?;
                }
            }
            if let Some((_, hiding)) = frozen.next_if(|head| *head.0 == key) {
                value = hiding.clone();
            }
            if let Some((_, hiding)) = active.next_if(|head| *head.0 == key) {
                value = hiding.clone();
            }
            if let Some(value) = value
                && visit(key, value)? == Pairs::Enough
            {
                return Ok(());
            }
        }
    }
}
