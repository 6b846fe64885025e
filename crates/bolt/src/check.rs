//! Is a snapshot sound? The same questions as bbolt's `Tx.Check`, answered without stopping at the first bad page.

use std::fmt;

use bytes::Bytes;
use disk::Disk;

use crate::bucket::BucketHeader;
use crate::db::{Db, Shared};
use crate::error::{Error, lossy};
use crate::freelist::{Extent, Extents};
use crate::meta::{Meta, NO_FREELIST};
use crate::page::Kind;
use crate::read::{DEPTH_MAX, Reach, ReadTx};

/// A list of problems longer than this is cut: one bad page near the root explains thousands.
const PROBLEMS_MAX: usize = 1000;

/// Something that is wrong with a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The page's number.
    pub page: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}: {}", self.page, self.what)
    }
}

/// Checks a snapshot as its pages say it: every tree page well-formed, referenced once, its keys between those of its parent's
/// elements; and, if the freelist is stored, every page either reached or free. An empty list means sound.
pub fn check<D: Disk>(tx: &ReadTx<D>) -> Vec<Problem> {
    let stored = match tx.meta().freelist {
        NO_FREELIST => None,
        _ => Some(tx.shared().stored_freelist(tx.meta())),
    };
    let mut check = Check::new(tx.shared(), *tx.meta());
    match stored {
        None => check.trees(),
        Some(Ok((run, free))) => {
            check.reach(run);
            check.trees();
            check.leaks(&free);
        }
        Some(Err(error)) => {
            check.report(tx.meta().freelist, &error);
            check.trees();
        }
    }
    check.problems
}

impl<D: Disk> Db<D> {
    /// As [`check`], on the newest snapshot, and compares the freelist in memory too. Waits for the writer.
    pub fn check(&self) -> Vec<Problem> {
        let writer = self.shared.writer();
        let mut problems = check(&ReadTx::begin(&self.shared));
        let meta = self.shared.state().meta;
        let mut check = Check::new(&self.shared, meta);
        check.trees();
        if let Some(run) = writer.stored {
            check.reach(run);
        }
        let mut free = writer.freelist.free().clone();
        for extent in writer.freelist.pending() {
            if free.overlap(extent).is_some() {
                check.problem(extent.start, "it is free and pending".into());
            }
            free.insert(extent);
        }
        check.leaks(&free);
        problems.extend(
            check
                .problems
                .into_iter()
                .filter(|problem| !problems.contains(problem))
                .collect::<Vec<_>>(),
        );
        problems
    }
}

struct Check<'a, D: Disk> {
    shared: &'a Shared<D>,
    meta: Meta,
    reach: Option<Reach>,
    problems: Vec<Problem>,
}

/// The keys that a page may hold: from the first on, and less than the second.
struct Range<'a> {
    from: &'a [u8],
    to: Option<&'a [u8]>,
}

impl<'a, D: Disk> Check<'a, D> {
    fn new(shared: &'a Shared<D>, meta: Meta) -> Check<'a, D> {
        let mut check = Check {
            shared,
            meta,
            reach: None,
            problems: Vec::new(),
        };
        match Reach::none(&meta) {
            Ok(reach) => check.reach = Some(reach),
            Err(error) => check.report(meta.slot(), &error),
        }
        check
    }

    fn problem(&mut self, page: u64, what: String) {
        let problem = Problem { page, what };
        if self.problems.len() < PROBLEMS_MAX && !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn report(&mut self, page: u64, error: &Error) {
        match error {
            Error::Corrupt { page, what } => self.problem(*page, what.clone()),
            other => self.problem(page, other.to_string()),
        }
    }

    fn trees(&mut self) {
        if self.reach.is_some() {
            self.tree(self.meta.root, Range { from: &[], to: None }, 0);
        }
    }

    /// Marks pages as in use; false when they were already.
    fn reach(&mut self, run: Extent) -> bool {
        let fresh = self.reach.as_mut().is_some_and(|reach| reach.add(run));
        if !fresh {
            self.problem(run.start, "two references lead to it".into());
        }
        fresh
    }

    fn tree(&mut self, id: u64, range: Range<'_>, depth: usize) {
        let page = match self.shared.page(id, self.meta.high_water) {
            Ok(page) => page,
            Err(error) => return self.report(id, &error),
        };
        // What was seen before is not entered again: cycles end here.
        if !self.reach(Extent {
            start: id,
            len: page.span(),
        }) {
            return;
        }
        if depth > DEPTH_MAX {
            return self.problem(id, "the tree is too deep".into());
        }
        if page.count() == 0 {
            if depth > 0 {
                self.problem(id, "an empty page below a branch".into());
            }
            return;
        }
        let (first, last) = (page.key(0), page.key(page.count() - 1));
        if first < range.from {
            let what = format!(
                "its first key {:?} is less than its parent's {:?}",
                lossy(first),
                lossy(range.from)
            );
            self.problem(id, what);
        }
        if let Some(to) = range.to
            && last >= to
        {
            let what = format!(
                "its last key {:?} is not less than its parent's next {:?}",
                lossy(last),
                lossy(to)
            );
            self.problem(id, what);
        }
        for index in 0..page.count() {
            match page.kind {
                Kind::Branch => {
                    let next: Option<Bytes> = (index + 1 < page.count()).then(|| page.key_bytes(index + 1));
                    let to = next.as_deref().or(range.to);
                    self.tree(
                        page.child(index),
                        Range {
                            from: page.key(index),
                            to,
                        },
                        depth + 1,
                    );
                }
                Kind::Leaf if page.is_bucket(index) => match BucketHeader::read(id, &page.value_bytes(index)) {
                    Ok(header) if header.root != 0 => self.tree(header.root, Range { from: &[], to: None }, 0),
                    Ok(_) => {}
                    Err(error) => self.report(id, &error),
                },
                Kind::Leaf => {}
            }
        }
    }

    /// Every page is either reached or free.
    fn leaks(&mut self, free: &Extents) {
        let Some(reach) = self.reach.take() else { return };
        let mut wrong = Vec::new();
        let mut spans = free.iter().peekable();
        for id in 2..self.meta.high_water {
            while spans.next_if(|span| span.end() <= id).is_some() {}
            let is_free = spans.peek().is_some_and(|span| span.start <= id);
            match (reach.contains(id), is_free) {
                (true, true) => wrong.push((id, "reachable but free")),
                (false, false) => wrong.push((id, "neither reachable nor free")),
                (true, false) | (false, true) => {}
            }
            if wrong.len() > PROBLEMS_MAX {
                break;
            }
        }
        if let Some(last) = free.last()
            && last.end() > self.meta.high_water
        {
            wrong.push((last.start, "free pages beyond the high-water page"));
        }
        self.reach = Some(reach);
        for (page, what) in wrong {
            self.problem(page, what.into());
        }
    }
}
