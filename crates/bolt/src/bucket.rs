//! Buckets: a tree of keys and values under a name (bbolt bucket.go).
//!
//! A bucket's header is a value of 16 bytes, root page u64 and sequence u64, in the tree of the bucket that it lies in. With root
//! page 0 the bucket is inline: a leaf page, without padding, follows the header.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use disk::Disk;

use crate::cursor::{Cursor, TreeCursor};
use crate::db::Shared;
use crate::error::{Error, lossy};
use crate::page::{self, Kind, Page};
use crate::read::DEPTH_MAX;

/// Bytes of a bucket's header.
pub(crate) const BUCKET_HEADER: usize = 16;

/// Changes of a bucket that are not in the tree yet: `None` deletes.
pub(crate) type Overlay = BTreeMap<Bytes, Option<Bytes>>;

/// What is stored as the value of a bucket's name.
#[derive(Debug, Clone)]
pub(crate) struct BucketHeader {
    /// Root page, 0 for an inline bucket.
    pub root: u64,
    pub sequence: u64,
    /// The page of an inline bucket.
    pub inline: Option<Page>,
}

impl BucketHeader {
    /// Reads a header that was found on page `page`.
    pub fn read(page: u64, value: &Bytes) -> Result<BucketHeader, Error> {
        if value.len() < BUCKET_HEADER {
            return Err(Error::corrupt(
                page,
                format!("a bucket header of {} bytes", value.len()),
            ));
        }
        let (root, sequence) = (page::u64_at(value, 0), page::u64_at(value, 8));
        let inline = match root {
            0 => {
                let inline = Page::parse(0, value.slice(BUCKET_HEADER..))
                    .map_err(|error| Error::corrupt(page, format!("an inline bucket on it: {error}")))?;
                if inline.kind != Kind::Leaf || inline.overflow != 0 {
                    return Err(Error::corrupt(page, "an inline bucket on it is no plain leaf"));
                }
                Some(inline)
            }
            _ => None,
        };
        Ok(BucketHeader { root, sequence, inline })
    }

    pub fn tree(&self) -> Root {
        match &self.inline {
            Some(page) => Root::Inline(page.clone()),
            None => Root::Page(self.root),
        }
    }
}

/// Where a tree begins.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    Page(u64),
    Inline(Page),
}

/// A tree of a snapshot.
#[derive(Debug)]
pub(crate) struct Tree<'tx, D: Disk> {
    pub shared: &'tx Shared<D>,
    pub high_water: u64,
    pub root: Root,
}

impl<D: Disk> Clone for Tree<'_, D> {
    fn clone(&self) -> Self {
        Tree {
            shared: self.shared,
            high_water: self.high_water,
            root: self.root.clone(),
        }
    }
}

impl<D: Disk> Tree<'_, D> {
    pub fn page(&self, id: u64) -> Result<Page, Error> {
        self.shared.page(id, self.high_water)
    }

    pub fn root_page(&self) -> Result<Page, Error> {
        match &self.root {
            Root::Page(id) => self.page(*id),
            Root::Inline(page) => Ok(page.clone()),
        }
    }

    /// The leaf and place of a key.
    pub fn find(&self, key: &[u8]) -> Result<Option<(Page, usize)>, Error> {
        let mut page = self.root_page()?;
        let mut depth = 0;
        while page.kind == Kind::Branch {
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(Error::corrupt(page.id, "the tree is too deep: a cycle"));
            }
            page = self.page(page.child(page.search_child(key)))?;
        }
        let (index, found) = page.search(key);
        Ok(found.then_some((page, index)))
    }
}

/// A bucket as its transaction sees it.
#[derive(Debug)]
pub struct Bucket<'tx, D: Disk> {
    tree: Option<Tree<'tx, D>>,
    sequence: u64,
    overlay: Option<&'tx Overlay>,
}

impl<'tx, D: Disk> Bucket<'tx, D> {
    pub(crate) fn new(tree: Tree<'tx, D>, sequence: u64) -> Bucket<'tx, D> {
        Bucket {
            tree: Some(tree),
            sequence,
            overlay: None,
        }
    }

    /// A bucket with changes that are not committed; without a tree when it is new.
    pub(crate) fn overlaid(tree: Option<Tree<'tx, D>>, sequence: u64, overlay: &'tx Overlay) -> Bucket<'tx, D> {
        Bucket {
            tree,
            sequence,
            overlay: Some(overlay),
        }
    }

    /// The value of a key. It shares, and keeps alive, the memory of its page: copy what is kept for long.
    ///
    /// Errors: [`Error::IsBucket`] when the key names a nested bucket.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if let Some(change) = self.overlay.and_then(|overlay| overlay.get(key)) {
            return Ok(change.clone());
        }
        let Some(tree) = &self.tree else { return Ok(None) };
        match tree.find(key)? {
            Some((page, index)) if page.is_bucket(index) => Err(Error::IsBucket { key: lossy(key) }),
            Some((page, index)) => Ok(Some(page.value_bytes(index))),
            None => Ok(None),
        }
    }

    /// A cursor over the keys and values, in order of the keys. Nested buckets are left out.
    pub fn cursor(&self) -> Cursor<'tx, D> {
        Cursor::new(self.tree.clone().map(TreeCursor::new), self.overlay)
    }

    /// The bucket's sequence number (bbolt `Bucket.Sequence`).
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The nested bucket of this name.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'tx, D>>, Error> {
        let Some(tree) = &self.tree else { return Ok(None) };
        let Some(header) = find_bucket(tree, name)? else {
            return Ok(None);
        };
        let nested = Tree {
            root: header.tree(),
            ..tree.clone()
        };
        Ok(Some(Bucket::new(nested, header.sequence)))
    }

    /// The header of a nested bucket, as it is stored.
    pub(crate) fn stored(&self, name: &[u8]) -> Result<Option<BucketHeader>, Error> {
        self.tree.as_ref().map_or(Ok(None), |tree| find_bucket(tree, name))
    }

    /// The names of the nested buckets, in order.
    pub fn buckets(&self) -> Result<Vec<Bytes>, Error> {
        let mut names = Vec::new();
        let Some(tree) = &self.tree else { return Ok(names) };
        let mut cursor = TreeCursor::new(tree.clone());
        let mut on_item = cursor.first()?;
        while on_item {
            let (page, index) = cursor.item();
            if page.is_bucket(index) {
                names.push(page.key_bytes(index));
            }
            on_item = cursor.next()?;
        }
        Ok(names)
    }

    /// Whether there is nothing in the bucket.
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.cursor().first()?.is_none() && self.buckets()?.is_empty())
    }
}

/// The header of a bucket nested in `tree`.
pub(crate) fn find_bucket<D: Disk>(tree: &Tree<'_, D>, name: &[u8]) -> Result<Option<BucketHeader>, Error> {
    match tree.find(name)? {
        Some((page, index)) if page.is_bucket(index) => {
            Ok(Some(BucketHeader::read(page.id, &page.value_bytes(index))?))
        }
        Some(_) => Err(Error::NotBucket { key: lossy(name) }),
        None => Ok(None),
    }
}

/// The first change beyond `from`, going up.
pub(crate) fn change_after<'a>(overlay: &'a Overlay, from: Bound<&[u8]>) -> Option<(&'a Bytes, &'a Option<Bytes>)> {
    overlay.range::<[u8], _>((from, Bound::Unbounded)).next()
}

/// The last change before `to`, going down.
pub(crate) fn change_before<'a>(overlay: &'a Overlay, to: Bound<&[u8]>) -> Option<(&'a Bytes, &'a Option<Bytes>)> {
    overlay.range::<[u8], _>((Bound::Unbounded, to)).next_back()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use disk::MemoryDisk;

    use super::*;
    use crate::build::{Build, Finish};
    use crate::page::BUCKET_FLAG;
    use crate::update::{Change, NewRoot};
    use crate::write::{WriteTx, header};
    use crate::{Db, Options};

    fn change(key: &str, flags: u32, value: Bytes) -> Change {
        Change {
            key: Bytes::copy_from_slice(key.as_bytes()),
            flags,
            value: Some(value),
        }
    }

    /// outer { big { 000..299 }, plain, small { a } }: etcd writes no such thing, bbolt does.
    fn nested(disk: &MemoryDisk) -> Db<MemoryDisk> {
        let options = Options {
            freelist_pages_max: 0,
            ..Options::default()
        };
        let db = Db::open(disk.clone(), Path::new("/db"), options).unwrap();
        let (mut writer, base) = WriteTx::begin(&db.shared).unwrap().into_parts();
        let mut build = Build::new(&db.shared, &mut writer, base);
        let many: Vec<Change> = (0..300)
            .map(|i| change(&format!("{i:03}"), 0, Bytes::from(vec![1; 100])))
            .collect();
        let big = build.update(None, &many, 0.5, true).unwrap();
        assert!(matches!(big, NewRoot::Page(_)));
        let one = [change("a", 0, Bytes::from_static(b"1"))];
        let small = build.update(None, &one, 0.5, true).unwrap();
        assert!(matches!(small, NewRoot::Inline(_)));
        let outer = [
            change("big", BUCKET_FLAG, header(&big, 7).unwrap()),
            change("plain", 0, Bytes::from_static(b"value")),
            change("small", BUCKET_FLAG, header(&small, 3).unwrap()),
        ];
        let outer = build.update(None, &outer, 0.5, true).unwrap();
        assert!(matches!(outer, NewRoot::Page(_)), "a bucket with buckets is not inline");
        let top = [change("outer", BUCKET_FLAG, header(&outer, 0).unwrap())];
        let NewRoot::Page(root) = build.update(Some(&Root::Page(base.root)), &top, 0.5, false).unwrap() else {
            panic!("the root tree is never inline");
        };
        build.finish(root, Finish::default()).unwrap();
        drop(writer);
        db
    }

    #[test]
    fn nested_buckets_are_read_checked_kept_and_freed() {
        let disk = MemoryDisk::new(1);
        drop(nested(&disk));
        // Nothing stored says what is free: the walk must find the nested trees.
        let db = Db::open(disk, Path::new("/db"), Options::default()).unwrap();
        assert_eq!(db.check(), []);
        let tx = db.read().unwrap();
        let outer = tx.bucket(b"outer").unwrap().unwrap();
        assert_eq!(outer.buckets().unwrap(), ["big", "small"]);
        assert!(matches!(outer.get(b"big"), Err(Error::IsBucket { .. })));
        assert!(matches!(outer.bucket(b"plain"), Err(Error::NotBucket { .. })));
        assert!(outer.bucket(b"none").unwrap().is_none());
        let plain = (Bytes::from_static(b"plain"), Bytes::from_static(b"value"));
        let mut cursor = outer.cursor();
        assert_eq!(cursor.first().unwrap(), Some(plain.clone()));
        assert_eq!(cursor.next().unwrap(), None);
        assert_eq!(cursor.last().unwrap(), Some(plain.clone()));
        assert_eq!(cursor.seek(b"a").unwrap(), Some(plain));
        let big = outer.bucket(b"big").unwrap().unwrap();
        assert_eq!((big.sequence(), big.get(b"299").unwrap().unwrap().len()), (7, 100));
        let small = outer.bucket(b"small").unwrap().unwrap();
        assert_eq!(
            (small.sequence(), small.get(b"a").unwrap().unwrap()),
            (3, Bytes::from_static(b"1"))
        );
        drop(tx);

        for put in [true, false] {
            let mut tx = db.write().unwrap();
            match put {
                true => tx.put(b"outer", b"big", b"x").unwrap(),
                false => tx.delete(b"outer", b"big").unwrap(),
            }
            assert!(matches!(tx.commit(), Err(Error::IsBucket { .. })));
            assert_eq!(db.check(), [], "rolled back");
        }
        let mut tx = db.write().unwrap();
        tx.put(b"outer", b"plain", b"changed").unwrap();
        tx.commit().unwrap();
        while !db.compact_step(10).unwrap().done {}
        assert_eq!(db.check(), []);
        let tx = db.read().unwrap();
        let big = tx.bucket(b"outer").unwrap().unwrap().bucket(b"big").unwrap().unwrap();
        assert_eq!(big.cursor().last().unwrap().unwrap().0, "299");
        drop(tx);

        let mut tx = db.write().unwrap();
        tx.delete_bucket(b"outer").unwrap();
        tx.commit().unwrap();
        assert_eq!(db.check(), []);
        assert_eq!(db.size_in_use(), 4 * 4096, "two metas, the freelist, the root leaf");
    }
}
