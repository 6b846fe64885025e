//! Pages as they lie in the file (bbolt internal/common/page.go).
//!
//! A page is a 16-byte header (id u64, flags u16, count u16, overflow u32; all little-endian), then `count` elements of 16
//! bytes, then the keys and values that the elements point at. `overflow` further pages follow without a header of their own.
//!
//! Invariants of a parsed [`Page`]: every element lies inside `data`; keys are not empty and strictly ascending; so the
//! accessors cannot go out of bounds whatever the file says.

use bytes::Bytes;

use crate::error::Error;

/// Bytes before the first element.
pub(crate) const HEADER: usize = 16;
/// Bytes of a leaf or branch element.
pub(crate) const ELEMENT: usize = 16;
/// Leaf element flag: the value is a bucket header.
pub(crate) const BUCKET_FLAG: u32 = 1;

pub(crate) const BRANCH: u16 = 0x01;
pub(crate) const LEAF: u16 = 0x02;
pub(crate) const META: u16 = 0x04;
pub(crate) const FREELIST: u16 = 0x10;

pub(crate) fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(data[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at..at + 8].try_into().expect("eight bytes"))
}

/// The first 16 bytes of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub id: u64,
    pub flags: u16,
    pub count: u16,
    pub overflow: u32,
}

impl Header {
    /// Reads the header; `data` has at least 16 bytes.
    pub fn read(data: &[u8]) -> Header {
        Header {
            id: u64_at(data, 0),
            flags: u16_at(data, 8),
            count: u16_at(data, 10),
            overflow: u32_at(data, 12),
        }
    }

    pub fn write(&self, data: &mut [u8]) {
        data[0..8].copy_from_slice(&self.id.to_le_bytes());
        data[8..10].copy_from_slice(&self.flags.to_le_bytes());
        data[10..12].copy_from_slice(&self.count.to_le_bytes());
        data[12..16].copy_from_slice(&self.overflow.to_le_bytes());
    }
}

/// The two kinds of tree pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Branch,
    Leaf,
}

/// A checked tree page. Cheap to clone: the bytes are shared.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub id: u64,
    pub kind: Kind,
    pub overflow: u32,
    count: u16,
    data: Bytes,
}

impl Page {
    /// Checks `data` (header included, overflow included) to be the tree page `id`.
    pub fn parse(id: u64, data: Bytes) -> Result<Page, Error> {
        if data.len() < HEADER {
            return Err(Error::corrupt(
                id,
                format!("{} bytes are too few for a page header", data.len()),
            ));
        }
        let header = Header::read(&data);
        if header.id != id {
            return Err(Error::corrupt(id, format!("it calls itself page {}", header.id)));
        }
        let kind = match header.flags {
            BRANCH => Kind::Branch,
            LEAF => Kind::Leaf,
            other => {
                return Err(Error::corrupt(
                    id,
                    format!("flags {other:#x} are neither branch nor leaf"),
                ));
            }
        };
        let page = Page {
            id,
            kind,
            overflow: header.overflow,
            count: header.count,
            data,
        };
        page.validate()?;
        Ok(page)
    }

    fn validate(&self) -> Result<(), Error> {
        let elements_end = HEADER + self.count() * ELEMENT;
        if elements_end > self.data.len() {
            let what = format!("{} elements do not fit into {} bytes", self.count, self.data.len());
            return Err(Error::corrupt(self.id, what));
        }
        let mut previous: &[u8] = &[];
        for index in 0..self.count() {
            let (start, key, value) = self.bounds(index);
            let end = start as u64 + key as u64 + value as u64;
            if end > self.data.len() as u64 {
                return Err(Error::corrupt(
                    self.id,
                    format!("element {index} ends at byte {end}, beyond the page"),
                ));
            }
            if key == 0 {
                return Err(Error::corrupt(self.id, format!("element {index} has an empty key")));
            }
            let key = &self.data[start..start + key];
            if key <= previous {
                return Err(Error::corrupt(
                    self.id,
                    format!("the key of element {index} does not ascend"),
                ));
            }
            previous = key;
        }
        if self.kind == Kind::Branch && self.count == 0 {
            return Err(Error::corrupt(self.id, "a branch without children"));
        }
        Ok(())
    }

    /// Start of the key in `data`, length of the key, length of the value.
    fn bounds(&self, index: usize) -> (usize, usize, usize) {
        let at = HEADER + index * ELEMENT;
        match self.kind {
            Kind::Leaf => {
                let (pos, key, value) = (
                    u32_at(&self.data, at + 4),
                    u32_at(&self.data, at + 8),
                    u32_at(&self.data, at + 12),
                );
                (at + pos as usize, key as usize, value as usize)
            }
            Kind::Branch => {
                let (pos, key) = (u32_at(&self.data, at), u32_at(&self.data, at + 4));
                (at + pos as usize, key as usize, 0)
            }
        }
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Bytes held by the page, overflow included.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Bytes in use: header, elements, keys and values.
    pub fn used(&self) -> usize {
        let content = (0..self.count())
            .map(|index| self.bounds(index))
            .map(|(_, key, value)| key + value);
        HEADER + self.count() * ELEMENT + content.sum::<usize>()
    }

    /// Pages taken, the overflow included.
    pub fn span(&self) -> u64 {
        u64::from(self.overflow) + 1
    }

    pub fn key(&self, index: usize) -> &[u8] {
        let (start, key, _) = self.bounds(index);
        &self.data[start..start + key]
    }

    /// The key as a slice that shares (and keeps alive) the page.
    pub fn key_bytes(&self, index: usize) -> Bytes {
        let (start, key, _) = self.bounds(index);
        self.data.slice(start..start + key)
    }

    /// The value as a slice that shares (and keeps alive) the page. Leaf pages only.
    pub fn value_bytes(&self, index: usize) -> Bytes {
        let (start, key, value) = self.bounds(index);
        self.data.slice(start + key..start + key + value)
    }

    /// The flags of a leaf element.
    pub fn flags(&self, index: usize) -> u32 {
        u32_at(&self.data, HEADER + index * ELEMENT)
    }

    pub fn is_bucket(&self, index: usize) -> bool {
        self.kind == Kind::Leaf && self.flags(index) & BUCKET_FLAG != 0
    }

    /// The child of a branch element.
    pub fn child(&self, index: usize) -> u64 {
        u64_at(&self.data, HEADER + index * ELEMENT + 8)
    }

    /// Index of the first key that is not less than `key`, and whether it is equal.
    pub fn search(&self, key: &[u8]) -> (usize, bool) {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = (low + high) / 2;
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return (middle, true),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        (low, false)
    }

    /// Index of the branch element under which `key` lies.
    pub fn search_child(&self, key: &[u8]) -> usize {
        match self.search(key) {
            (index, true) => index,
            (index, false) => index.saturating_sub(1),
        }
    }
}
