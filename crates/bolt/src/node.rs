//! Tree nodes in memory, on their way into new pages: contents, sizes, splitting and encoding (bbolt node.go).
//!
//! Invariants: items are in ascending order of their keys; nothing here knows page numbers of nodes that are not yet written.

use bytes::Bytes;

use crate::page::{BRANCH, BUCKET_FLAG, ELEMENT, HEADER, Header, Kind, LEAF, Page};

/// An item of a leaf.
#[derive(Debug, Clone)]
pub(crate) struct LeafItem {
    pub flags: u32,
    pub key: Bytes,
    pub value: Bytes,
}

/// An item of a branch: a child and its first key.
#[derive(Debug, Clone)]
pub(crate) struct BranchItem {
    pub key: Bytes,
    pub child: u64,
}

/// The contents of a leaf or a branch of any size.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Leaf(Vec<LeafItem>),
    Branch(Vec<BranchItem>),
}

impl Node {
    /// The contents of a page; keys and values share its bytes.
    pub fn of(page: &Page) -> Node {
        match page.kind {
            Kind::Leaf => Node::Leaf((0..page.count()).map(|index| leaf_item(page, index)).collect()),
            Kind::Branch => Node::Branch((0..page.count()).map(|index| branch_item(page, index)).collect()),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Branch(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first key; the node is not empty.
    pub fn first_key(&self) -> Bytes {
        match self {
            Node::Leaf(items) => items[0].key.clone(),
            Node::Branch(items) => items[0].key.clone(),
        }
    }

    fn item_size(&self, index: usize) -> usize {
        match self {
            Node::Leaf(items) => ELEMENT + items[index].key.len() + items[index].value.len(),
            Node::Branch(items) => ELEMENT + items[index].key.len(),
        }
    }

    /// Bytes that the node takes in the file.
    pub fn size(&self) -> usize {
        HEADER + (0..self.len()).map(|index| self.item_size(index)).sum::<usize>()
    }

    /// Appends the items of the next node on the same level.
    pub fn append(&mut self, next: Node) {
        match (self, next) {
            (Node::Leaf(items), Node::Leaf(next)) => items.extend(next),
            (Node::Branch(items), Node::Branch(next)) => items.extend(next),
            // Leaves and branches on one level: the caller merges only nodes of one kind.
            (Node::Leaf(_), Node::Branch(_)) | (Node::Branch(_), Node::Leaf(_)) => unreachable!("mixed level"),
        }
    }

    pub fn is_leaf(&self) -> bool {
        matches!(self, Node::Leaf(_))
    }

    /// Whether the node, as the whole of a bucket, is kept inside the bucket's header: a small leaf without nested buckets.
    pub fn fits_inline(&self, page_size: usize) -> bool {
        match self {
            Node::Leaf(items) => self.size() <= page_size / 4 && items.iter().all(|item| item.flags & BUCKET_FLAG == 0),
            Node::Branch(_) => false,
        }
    }

    /// Splits a node that is larger than a page into nodes of about `fill` of a page each. An item that does not fit into a page
    /// gets a run of pages; it shares them only with items before which no cut is possible (branches keep two children).
    pub fn split(self, page_size: usize, fill: f64) -> Vec<Node> {
        if self.size() <= page_size {
            return vec![self];
        }
        let threshold = (page_size as f64 * fill.clamp(0.1, 1.0)) as usize;
        let least = if self.is_leaf() { 1 } else { 2 };
        let mut cuts = Vec::new();
        let (mut start, mut size) = (0, HEADER);
        for index in 0..self.len() {
            let item = self.item_size(index);
            if size + item > threshold && index - start >= least && self.len() - index >= least {
                cuts.push(index);
                (start, size) = (index, HEADER);
            }
            size += item;
        }
        match self {
            Node::Leaf(items) => pieces(items, &cuts).map(Node::Leaf).collect(),
            Node::Branch(items) => pieces(items, &cuts).map(Node::Branch).collect(),
        }
    }

    /// Encodes the node as the page (run) `id` of `pages` pages; with `pages == 0`, without padding, as an inline page.
    pub fn encode(&self, id: u64, pages: u64, page_size: usize) -> Vec<u8> {
        let len = if pages == 0 {
            self.size()
        } else {
            pages as usize * page_size
        };
        let mut data = vec![0; len];
        let flags = if self.is_leaf() { LEAF } else { BRANCH };
        let overflow = pages.saturating_sub(1) as u32;
        Header {
            id,
            flags,
            count: self.len() as u16,
            overflow,
        }
        .write(&mut data);
        let mut free = HEADER + self.len() * ELEMENT;
        for index in 0..self.len() {
            let at = HEADER + index * ELEMENT;
            let pos = (free - at) as u32;
            let element = &mut data[at..at + ELEMENT];
            let (key, value) = match self {
                Node::Leaf(items) => {
                    let item = &items[index];
                    element[0..4].copy_from_slice(&item.flags.to_le_bytes());
                    element[4..8].copy_from_slice(&pos.to_le_bytes());
                    element[8..12].copy_from_slice(&(item.key.len() as u32).to_le_bytes());
                    element[12..16].copy_from_slice(&(item.value.len() as u32).to_le_bytes());
                    (&item.key[..], &item.value[..])
                }
                Node::Branch(items) => {
                    let item = &items[index];
                    element[0..4].copy_from_slice(&pos.to_le_bytes());
                    element[4..8].copy_from_slice(&(item.key.len() as u32).to_le_bytes());
                    element[8..16].copy_from_slice(&item.child.to_le_bytes());
                    (&item.key[..], &[][..])
                }
            };
            data[free..free + key.len()].copy_from_slice(key);
            free += key.len();
            data[free..free + value.len()].copy_from_slice(value);
            free += value.len();
        }
        data
    }
}

pub(crate) fn leaf_item(page: &Page, index: usize) -> LeafItem {
    LeafItem {
        flags: page.flags(index),
        key: page.key_bytes(index),
        value: page.value_bytes(index),
    }
}

pub(crate) fn branch_item(page: &Page, index: usize) -> BranchItem {
    BranchItem {
        key: page.key_bytes(index),
        child: page.child(index),
    }
}

fn pieces<T>(items: Vec<T>, cuts: &[usize]) -> impl Iterator<Item = Vec<T>> {
    let ends: Vec<usize> = cuts.iter().copied().chain([items.len()]).collect();
    let mut items = items.into_iter();
    let mut start = 0;
    ends.into_iter().map(move |end| {
        let piece = items.by_ref().take(end - start).collect();
        start = end;
        piece
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(values: &[usize]) -> Node {
        let item = |(index, len): (usize, &usize)| LeafItem {
            flags: 0,
            key: Bytes::from(format!("{index:04}")),
            value: Bytes::from(vec![b'v'; *len]),
        };
        Node::Leaf(values.iter().enumerate().map(item).collect())
    }

    fn lens(nodes: &[Node]) -> Vec<usize> {
        nodes.iter().map(Node::len).collect()
    }

    #[test]
    fn a_node_that_fits_stays_whole() {
        assert_eq!(lens(&leaf(&[100; 34]).split(4096, 0.5)), [34]);
    }

    #[test]
    fn pages_are_filled_to_the_threshold() {
        let nodes = leaf(&[100; 100]).split(4096, 0.9);
        assert_eq!(lens(&nodes), [30, 30, 30, 10]);
        assert!(nodes.iter().all(|node| node.size() <= 3686));
    }

    #[test]
    fn a_big_value_stands_alone() {
        assert_eq!(lens(&leaf(&[10, 10, 1_500_000, 10, 10]).split(4096, 0.5)), [2, 1, 2]);
    }

    #[test]
    fn a_branch_keeps_two_children_per_page() {
        let item = |index: u64| BranchItem {
            key: Bytes::from(vec![index as u8; 3000]),
            child: index + 2,
        };
        let nodes = Node::Branch((0..5).map(item).collect()).split(4096, 0.5);
        assert_eq!(lens(&nodes), [2, 3]);
    }

    #[test]
    fn what_is_encoded_is_parsed_alike() {
        let node = leaf(&[0, 5000, 3]);
        let pages = node.size().div_ceil(4096) as u64;
        let page = Page::parse(9, Bytes::from(node.encode(9, pages, 4096))).unwrap();
        let Node::Leaf(items) = Node::of(&page) else {
            panic!("a leaf")
        };
        let Node::Leaf(wanted) = node else { panic!("a leaf") };
        assert_eq!(page.span(), pages);
        for (item, wanted) in items.iter().zip(&wanted) {
            assert_eq!(
                (item.flags, &item.key, &item.value),
                (wanted.flags, &wanted.key, &wanted.value)
            );
        }
    }
}
