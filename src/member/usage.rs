//! What a database consists of: its keys by prefix, and what is history and free space.
//!
//! Invariants:
//! 1. Memory is bounded, whatever the keys are: beyond [`PREFIXES_MAX`] the smallest prefixes are told as "others".
//! 2. Totals are exact at the revision that was read, also when prefixes were folded.

use super::range::{Entry, Walk};
use super::{Connections, Error, Member};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::JoinHandle;

const PREFIXES_MAX: usize = 4096;
/// A sentence names so many prefixes.
const NAMED: usize = 5;

/// Keys that begin alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prefix {
    /// How they begin, up to and with a separator; empty for those that are told together.
    pub prefix: String,
    /// How many.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The largest of them.
    pub largest_bytes: u64,
}

/// What a database consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// The revision that was read at.
    pub revision: i64,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub bytes: u64,
    /// Bytes of the database file when the reading began.
    pub db_bytes: u64,
    /// Bytes in use in it at that time: live keys, history, and what the store itself needs.
    pub db_in_use_bytes: u64,
    /// The quota; 0 when the member does not tell.
    pub quota_bytes: u64,
    /// By bytes, the largest first.
    pub prefixes: Vec<Prefix>,
}

/// Counts entries by prefix.
#[derive(Debug)]
struct Tally {
    depth: usize,
    total: Prefix,
    others: Prefix,
    by: HashMap<Vec<u8>, Prefix>,
}

impl Tally {
    fn new(depth: usize) -> Tally {
        Tally {
            depth: depth.max(1),
            total: Prefix::default(),
            others: Prefix::default(),
            by: HashMap::new(),
        }
    }

    fn count(&mut self, entry: &Entry) {
        let size = (entry.key.len() + entry.value.len()) as u64;
        let prefix = prefix_of(&entry.key, self.depth);
        let found = match self.by.get_mut(prefix) {
            Some(found) => found,
            None => {
                if self.by.len() >= PREFIXES_MAX {
                    self.fold();
                }
                self.by.entry(prefix.to_vec()).or_default()
            }
        };
        for counted in [found, &mut self.total] {
            counted.keys += 1;
            counted.bytes += size;
            counted.largest_bytes = counted.largest_bytes.max(size);
        }
    }

    /// The smaller half is told together from now on.
    fn fold(&mut self) {
        let mut sizes: Vec<u64> = self.by.values().map(|prefix| prefix.bytes).collect();
        sizes.sort_unstable();
        let limit = sizes[sizes.len() / 2];
        let others = &mut self.others;
        self.by.retain(|_, prefix| {
            let kept = prefix.bytes > limit;
            if !kept {
                others.keys += prefix.keys;
                others.bytes += prefix.bytes;
                others.largest_bytes = others.largest_bytes.max(prefix.largest_bytes);
            }
            kept
        });
    }

    fn ended(self) -> (Prefix, Vec<Prefix>) {
        let named = self.by.into_iter().map(|(prefix, counted)| Prefix {
            prefix: String::from_utf8_lossy(&prefix).into_owned(),
            ..counted
        });
        let mut all: Vec<Prefix> = named.chain((self.others.keys > 0).then_some(self.others)).collect();
        all.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.prefix.cmp(&b.prefix)));
        (self.total, all)
    }
}

/// The first `depth` parts of a key that `/` ends, a leading one aside; of a key without `/` the part that another
/// separator ends; else the whole key.
fn prefix_of(key: &[u8], depth: usize) -> &[u8] {
    let begin = usize::from(key.first() == Some(&b'/'));
    let mut ends = key
        .iter()
        .enumerate()
        .skip(begin)
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at + 1);
    if let Some(end) = ends.by_ref().take(depth).last() {
        return &key[..end];
    }
    match key.iter().skip(begin).position(|byte| b":-_.".contains(byte)) {
        Some(at) => &key[..begin + at + 1],
        None => key,
    }
}

impl Member {
    /// Reads all keys below `below` page by page, and counts them by the first `depth` parts of their path. `progress` is
    /// told the totals after every page.
    pub async fn usage(&self, below: &[u8], depth: usize, mut progress: impl FnMut(u64, u64)) -> Result<Usage, Error> {
        let status = self.status().await?;
        let mut tally = Tally::new(depth);
        let mut walk = Walk::below(below);
        while !walk.done() {
            for entry in self.page(&mut walk).await? {
                tally.count(&entry);
            }
            progress(tally.total.keys, tally.total.bytes);
        }
        let (total, prefixes) = tally.ended();
        Ok(Usage {
            revision: walk.revision(),
            keys: total.keys,
            bytes: total.bytes,
            db_bytes: status.db_size,
            db_in_use_bytes: status.db_size_in_use,
            quota_bytes: status.db_size_quota,
            prefixes,
        })
    }
}

/// Reads from the first of `endpoints` that lets itself be read, in a task of its own; by the first two parts of paths.
pub fn begin(connections: Arc<Connections>, endpoints: Vec<String>) -> JoinHandle<Option<Usage>> {
    tokio::spawn(async move {
        for endpoint in endpoints {
            let read = async { connections.member(&endpoint).await?.usage(b"", 2, |_, _| ()).await };
            match read.await {
                Ok(usage) => return Some(usage),
                Err(error) => tracing::debug!(endpoint, %error, "what fills the database cannot be read here"),
            }
        }
        None
    })
}

impl Usage {
    /// What fills the database, in a sentence.
    pub fn sentence(&self) -> String {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let named: Vec<String> = self
            .prefixes
            .iter()
            .take(NAMED)
            .map(|prefix| {
                let name = if prefix.prefix.is_empty() {
                    "others"
                } else {
                    &prefix.prefix
                };
                format!("{name} {} in {} keys", mib(prefix.bytes), prefix.keys)
            })
            .collect();
        format!(
            "{} of the database were in use: {} keys hold {}, the rest is history and the store's own; largest prefixes: {}",
            mib(self.db_in_use_bytes),
            self.keys,
            mib(self.bytes),
            if named.is_empty() {
                "none".to_owned()
            } else {
                named.join(", ")
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_with_a_separator() {
        let of = |key: &'static str, depth| std::str::from_utf8(prefix_of(key.as_bytes(), depth)).expect("utf-8");
        assert_eq!(of("/registry/pods/default/a", 2), "/registry/pods/");
        assert_eq!(of("/registry/pods/default/a", 3), "/registry/pods/default/");
        assert_eq!(of("/registry/pods/default/a", 9), "/registry/pods/default/");
        assert_eq!(of("registry/pods/a", 1), "registry/");
        assert_eq!(of("/top", 2), "/top");
        assert_eq!(of("key-1", 2), "key-");
        assert_eq!(of("alone", 2), "alone");
        assert_eq!(of("/", 2), "/");
        assert_eq!(of("", 2), "");
    }

    #[test]
    fn totals_are_exact_and_memory_is_bounded() {
        let mut tally = Tally::new(1);
        for number in 0..20_000_u32 {
            let key = format!("/{number}/x").into_bytes();
            tally.count(&Entry {
                key,
                value: vec![0; 10],
            });
        }
        for _ in 0..1000 {
            let key = b"/large/x".to_vec();
            tally.count(&Entry {
                key,
                value: vec![0; 1000],
            });
        }
        assert!(tally.by.len() <= PREFIXES_MAX);
        let (total, prefixes) = tally.ended();
        assert_eq!(total.keys, 21_000);
        assert_eq!(prefixes.iter().map(|prefix| prefix.keys).sum::<u64>(), 21_000);
        assert_eq!(prefixes.iter().map(|prefix| prefix.bytes).sum::<u64>(), total.bytes);
        let large = prefixes
            .iter()
            .find(|prefix| prefix.prefix == "/large/")
            .expect("counted");
        assert_eq!((large.keys, large.bytes, large.largest_bytes), (1000, 1_008_000, 1008));
    }
}
