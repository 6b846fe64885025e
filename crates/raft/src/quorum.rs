//! When enough members agree: majorities, and two majorities at once while the configuration changes.
//!
//! Invariants:
//! - An empty majority agrees to everything, so that a joint configuration with one empty half behaves like the other.
//! - Sets are sorted: nothing here depends on the order of a hash map.

mod joint;
mod majority;

pub use joint::JointConfig;
pub use majority::MajorityConfig;

use std::fmt;

/// A log position, or infinity for the answer of an empty majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Index(pub u64);

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == u64::MAX {
            f.write_str("∞")
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// The outcome of a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoteResult {
    /// Votes that are missing decide.
    Pending,
    /// A quorum cannot be reached any more.
    Lost,
    /// A quorum said yes.
    Won,
}

impl fmt::Display for VoteResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VoteResult::Pending => "VotePending",
            VoteResult::Lost => "VoteLost",
            VoteResult::Won => "VoteWon",
        })
    }
}
