//! The write transaction: collects changes in memory and commits them in one go.
//!
//! Invariants: there is one at a time (it holds the writer's lock); the file is not touched before [`WriteTx::commit`]; dropping it
//! leaves no trace.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use disk::Disk;

use crate::bucket::{BUCKET_HEADER, Bucket, BucketHeader, Overlay, Root, Tree, find_bucket};
use crate::build::{Build, Finish};
use crate::db::{Shared, Writer};
use crate::error::{Error, lossy};
use crate::meta::Meta;
use crate::page::BUCKET_FLAG;
use crate::read;
use crate::update::{Change, NewRoot};

/// Longest key or bucket name, in bytes (bbolt `MaxKeySize`).
pub const KEY_LEN_MAX: usize = 32768;
/// Longest value, in bytes (bbolt `MaxValueSize`).
pub const VALUE_LEN_MAX: usize = (1 << 31) - 2;

/// The one write transaction. Reads through it see its own changes.
#[derive(Debug)]
pub struct WriteTx<'db, D: Disk> {
    shared: &'db Arc<Shared<D>>,
    writer: MutexGuard<'db, Writer>,
    base: Meta,
    edits: BTreeMap<Bytes, BucketEdit>,
    finish: Finish,
}

/// What became of a bucket.
#[derive(Debug)]
struct BucketEdit {
    /// The stored bucket that the changes are laid over; none when it is new.
    base: Option<BucketHeader>,
    /// A stored bucket that was deleted.
    deleted: Option<BucketHeader>,
    exists: bool,
    overlay: Overlay,
    fill: f64,
}

impl<'db, D: Disk> WriteTx<'db, D> {
    pub(crate) fn begin(shared: &'db Arc<Shared<D>>) -> Result<WriteTx<'db, D>, Error> {
        if shared.options.read_only {
            return Err(Error::ReadOnly);
        }
        let mut writer = shared.writer();
        let state = shared.state();
        if let Some(cause) = &state.poisoned {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        writer.freelist.release(&state.readers);
        let base = state.meta;
        drop(state);
        Ok(WriteTx {
            shared,
            writer,
            base,
            edits: BTreeMap::new(),
            finish: Finish::default(),
        })
    }

    /// The writer's lock and the snapshot that a commit would follow, for commits of another kind.
    pub(crate) fn into_parts(self) -> (MutexGuard<'db, Writer>, Meta) {
        (self.writer, self.base)
    }

    fn root(&self) -> Tree<'_, D> {
        Tree {
            shared: self.shared,
            high_water: self.base.high_water,
            root: Root::Page(self.base.root),
        }
    }

    /// The top-level bucket of this name, with the changes made so far.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'_, D>>, Error> {
        match self.edits.get(name) {
            None => read::root(self.shared, &self.base).bucket(name),
            Some(edit) if !edit.exists => Ok(None),
            Some(edit) => {
                let tree = edit.base.as_ref().map(|base| Tree {
                    root: base.tree(),
                    ..self.root()
                });
                let sequence = edit.base.as_ref().map_or(0, |base| base.sequence);
                Ok(Some(Bucket::overlaid(tree, sequence, &edit.overlay)))
            }
        }
    }

    /// The names of the top-level buckets, in order.
    pub fn buckets(&self) -> Result<Vec<Bytes>, Error> {
        let mut names = read::root(self.shared, &self.base).buckets()?;
        names.retain(|name| !self.edits.contains_key(name));
        names.extend(
            self.edits
                .iter()
                .filter(|(_, edit)| edit.exists)
                .map(|(name, _)| name.clone()),
        );
        names.sort_unstable();
        Ok(names)
    }

    /// The edit of a bucket, begun when there is none.
    fn edit(&mut self, name: &[u8]) -> Result<&mut BucketEdit, Error> {
        if !self.edits.contains_key(name) {
            let base = find_bucket(&self.root(), name)?;
            let exists = base.is_some();
            let fill = self.shared.options.fill_percent;
            let edit = BucketEdit {
                base,
                deleted: None,
                exists,
                overlay: Overlay::new(),
                fill,
            };
            self.edits.insert(Bytes::copy_from_slice(name), edit);
        }
        Ok(self.edits.get_mut(name).expect("it was inserted"))
    }

    fn existing(&mut self, name: &[u8]) -> Result<&mut BucketEdit, Error> {
        match self.edit(name)? {
            edit if edit.exists => Ok(edit),
            _ => Err(Error::NoBucket { name: lossy(name) }),
        }
    }

    /// Creates a top-level bucket if it is missing.
    pub fn create_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        check_key(name)?;
        self.edit(name)?.exists = true;
        Ok(())
    }

    /// Deletes a top-level bucket with all that is in it. Errors: [`Error::NoBucket`].
    pub fn delete_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        let edit = self.existing(name)?;
        edit.exists = false;
        edit.overlay.clear();
        if let Some(base) = edit.base.take() {
            edit.deleted = Some(base);
        }
        Ok(())
    }

    /// How full pages of a bucket are left when this transaction splits them (0.1 to 1.0): high for keys that come in order.
    pub fn set_fill_percent(&mut self, bucket: &[u8], fill: f64) -> Result<(), Error> {
        self.existing(bucket)?.fill = fill;
        Ok(())
    }

    /// Sets a key. Errors: [`Error::NoBucket`], [`Error::KeyLength`], [`Error::ValueLength`]. A key that names a nested bucket is
    /// refused by the commit ([`Error::IsBucket`]).
    pub fn put(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.put_bytes(bucket, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
    }

    /// As [`WriteTx::put`], without copying.
    pub fn put_bytes(&mut self, bucket: &[u8], key: Bytes, value: Bytes) -> Result<(), Error> {
        check_key(&key)?;
        if value.len() > VALUE_LEN_MAX {
            return Err(Error::ValueLength { len: value.len() });
        }
        self.existing(bucket)?.overlay.insert(key, Some(value));
        Ok(())
    }

    /// Deletes a key; a missing one is no error. One that names a nested bucket is refused by the commit ([`Error::IsBucket`]).
    pub fn delete(&mut self, bucket: &[u8], key: &[u8]) -> Result<(), Error> {
        self.existing(bucket)?.overlay.insert(Bytes::copy_from_slice(key), None);
        Ok(())
    }

    pub(crate) fn store_freelist(&mut self) {
        self.finish.store_freelist = true;
    }

    /// Writes the changes, syncs, writes the meta page, syncs. Only then do new readers see them.
    ///
    /// Errors: [`Error::NoSpace`] and other errors before the first sync leave everything as it was, and later transactions may
    /// succeed; a failed sync or meta write is final ([`Error::Poisoned`] from then on).
    pub fn commit(mut self) -> Result<(), Error> {
        let edits = std::mem::take(&mut self.edits);
        let base = self.base;
        let mut build = Build::new(self.shared, &mut self.writer, base);
        let mut headers = Vec::new();
        for (name, edit) in edits {
            if let Some(deleted) = &edit.deleted {
                build.free_bucket(deleted)?;
            }
            let of_bucket = |value| Change {
                key: name,
                flags: BUCKET_FLAG,
                value,
            };
            if !edit.exists {
                headers.extend(edit.deleted.is_some().then(|| of_bucket(None)));
                continue;
            }
            let overlay = edit.overlay.into_iter();
            let changes: Vec<Change> = overlay.map(|(key, value)| Change { key, flags: 0, value }).collect();
            let tree = edit.base.as_ref().map(BucketHeader::tree);
            let sequence = edit.base.as_ref().map_or(0, |base| base.sequence);
            let new = build.update(tree.as_ref(), &changes, edit.fill, true)?;
            headers.extend(header(&new, sequence).map(|value| of_bucket(Some(value))));
        }
        let fill = build.shared.options.fill_percent;
        let root = match build.update(Some(&Root::Page(base.root)), &headers, fill, false)? {
            NewRoot::Page(id) => id,
            NewRoot::Unchanged | NewRoot::Inline(_) => base.root,
        };
        build.finish(root, self.finish)
    }
}

/// A bucket's header for its place in the tree; `None` when nothing changed.
pub(crate) fn header(root: &NewRoot, sequence: u64) -> Option<Bytes> {
    let mut value = vec![0; BUCKET_HEADER];
    value[8..16].copy_from_slice(&sequence.to_le_bytes());
    match root {
        NewRoot::Unchanged => return None,
        NewRoot::Page(id) => value[0..8].copy_from_slice(&id.to_le_bytes()),
        NewRoot::Inline(node) => value.extend(node.encode(0, 0, 0)),
    }
    Some(Bytes::from(value))
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    match key.len() {
        1..=KEY_LEN_MAX => Ok(()),
        len => Err(Error::KeyLength { len }),
    }
}
