//! One set of voters, more than half of which decide.

use std::collections::BTreeSet;
use std::fmt;

use super::{Index, VoteResult};

/// Voters that decide by majority.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MajorityConfig(pub BTreeSet<u64>);

impl MajorityConfig {
    /// The largest index that a majority has reached; `acked` answers how far one voter is, if that is known.
    pub fn committed_index(&self, acked: impl Fn(u64) -> Option<u64>) -> Index {
        const USUAL: usize = 7;
        let n = self.0.len();
        if n == 0 {
            return Index(u64::MAX);
        }
        let (mut array, mut vec);
        let reached: &mut [u64] = if n <= USUAL {
            array = [0; USUAL];
            &mut array[..n]
        } else {
            vec = vec![0; n];
            &mut vec
        };
        for (slot, &id) in reached.iter_mut().zip(&self.0) {
            *slot = acked(id).unwrap_or(0);
        }
        reached.sort_unstable();
        if n > 1 && mutant::planted("G08") {
            return Index(reached[n - n / 2]);
        }
        if mutant::planted("G05") {
            return Index(reached[n - 1]);
        }
        Index(reached[n - (n / 2 + 1)])
    }

    /// What a vote has come to; `vote` answers what one voter said, if anything.
    pub fn vote_result(&self, vote: impl Fn(u64) -> Option<bool>) -> VoteResult {
        if self.0.is_empty() {
            return VoteResult::Won;
        }
        let (mut yes, mut missing) = (0, 0);
        for &id in &self.0 {
            match vote(id) {
                Some(true) => yes += 1,
                Some(false) => {}
                None => missing += 1,
            }
        }
        let mut quorum = self.0.len() / 2 + 1;
        if mutant::planted("Q31") {
            quorum = (self.0.len() / 2).max(1);
        }
        if yes >= quorum {
            VoteResult::Won
        } else if yes + missing >= quorum {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }

    /// A chart of how far each voter is, one per line.
    pub fn describe(&self, acked: impl Fn(u64) -> Option<u64>) -> String {
        if self.0.is_empty() {
            return "<empty majority quorum>".to_owned();
        }
        let n = self.0.len();
        let rows: Vec<(u64, Option<u64>)> = self.0.iter().map(|&id| (id, acked(id))).collect();
        let mut out = format!("{}    idx\n", " ".repeat(n));
        for &(id, index) in &rows {
            // The bar is as long as there are voters that are strictly behind.
            let bar = rows
                .iter()
                .filter(|(_, other)| other.unwrap_or(0) < index.unwrap_or(0))
                .count();
            let chart = match index {
                None => format!("?{}", " ".repeat(n)),
                Some(_) => format!("{}>{}", "x".repeat(bar), " ".repeat(n - bar)),
            };
            out.push_str(&format!("{chart} {:5}    (id={id:x})\n", index.unwrap_or(0)));
        }
        out
    }
}

impl fmt::Display for MajorityConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, id) in self.0.iter().enumerate() {
            let space = if i > 0 { " " } else { "" };
            write!(f, "{space}{id:x}")?;
        }
        f.write_str(")")
    }
}

impl FromIterator<u64> for MajorityConfig {
    fn from_iter<I: IntoIterator<Item = u64>>(ids: I) -> MajorityConfig {
        MajorityConfig(ids.into_iter().collect())
    }
}
