//! Reading a key space piece by piece, with bounded memory on both sides.
//!
//! Invariants:
//! 1. All pages of one walk are of one revision: what is written meanwhile is in none of them.
//! 2. A page is small: its limit follows the size of what came before, and one that is too large for a message is asked
//!    for again in smaller pieces.

use super::{Error, Member};
use std::time::Duration;

const PAGE: Duration = Duration::from_secs(30);
/// Bytes that a page aims at; a message may have 4 MiB.
const PAGE_BYTES: usize = 512 * 1024;
const PAGE_KEYS_MAX: i64 = 4096;

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// Some keys, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// They.
    pub entries: Vec<Entry>,
    /// There are more in the range.
    pub more: bool,
    /// The latest revision when they were read.
    pub revision: i64,
}

/// A walk over the keys of `[from, end)`; an empty end is the end of all keys.
#[derive(Debug, Clone)]
pub struct Walk {
    from: Vec<u8>,
    end: Vec<u8>,
    revision: i64,
    limit: i64,
    done: bool,
}

impl Walk {
    /// All keys that begin with `prefix` (every key, when it is empty), at the revision of the first page.
    pub fn below(prefix: &[u8]) -> Walk {
        let from = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
        Walk {
            from,
            end: after(prefix),
            revision: 0,
            limit: 32,
            done: false,
        }
    }

    /// The revision that is read at; 0 before the first page.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// No page is left.
    pub fn done(&self) -> bool {
        self.done
    }
}

/// The first key that does not begin with `prefix`; a zero byte, which stands for the end of all keys, when there is none.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

impl Member {
    /// The next page of a walk, from this member's own store: no other member is asked. Empty when the walk is done.
    pub async fn page(&self, walk: &mut Walk) -> Result<Vec<Entry>, Error> {
        loop {
            if walk.done {
                return Ok(Vec::new());
            }
            let (from, end) = (walk.from.clone(), walk.end.clone());
            let call = self.calls.range(from, end, walk.limit, walk.revision);
            let page = match self.ask("range", PAGE, call).await {
                Ok(page) => page,
                // More than a message holds.
                Err(error) if walk.limit > 1 && too_large(&error) => {
                    walk.limit = (walk.limit / 4).max(1);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if walk.revision == 0 {
                walk.revision = page.revision;
            }
            walk.done = !page.more;
            let entries = page.entries;
            let bytes: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
            if let Some(last) = entries.last() {
                walk.from = last.key.clone();
                walk.from.push(0);
                let each = (bytes / entries.len()).max(1);
                let fitting = i64::try_from(PAGE_BYTES / each).unwrap_or(PAGE_KEYS_MAX);
                // At most four times as many as before: the next values may be larger than these.
                walk.limit = fitting.clamp(1, (walk.limit * 4).min(PAGE_KEYS_MAX));
            } else {
                walk.done = true;
            }
            return Ok(entries);
        }
    }
}

fn too_large(error: &Error) -> bool {
    error
        .server_message()
        .is_some_and(|message| message.contains("message length too large") || message.contains("larger than max"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_that_has_it_not() {
        assert_eq!(after(b"/a"), b"/b");
        assert_eq!(after(b"a\xff"), b"b");
        assert_eq!(after(b"\xff\xff"), b"\0");
        assert_eq!(after(b""), b"\0");
    }
}
