//! Two sets of voters, both of which must agree, while one replaces the other.

use std::collections::BTreeSet;
use std::fmt;

use super::{Index, MajorityConfig, VoteResult};

/// The incoming voters, and the outgoing ones (empty unless a change is under way).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JointConfig {
    /// The voters that stay.
    pub incoming: MajorityConfig,
    /// The voters before the change.
    pub outgoing: MajorityConfig,
}

impl JointConfig {
    /// All voters of both halves.
    pub fn ids(&self) -> BTreeSet<u64> {
        self.incoming.0.union(&self.outgoing.0).copied().collect()
    }

    /// Whether `id` votes in either half.
    pub fn contains(&self, id: u64) -> bool {
        self.incoming.0.contains(&id) || self.outgoing.0.contains(&id)
    }

    /// Whether a change is under way.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.0.is_empty()
    }

    /// The largest index that both majorities have reached.
    pub fn committed_index(&self, acked: impl Fn(u64) -> Option<u64>) -> Index {
        self.incoming
            .committed_index(&acked)
            .min(self.outgoing.committed_index(&acked))
    }

    /// Both majorities must say yes; one that says no is enough to lose.
    pub fn vote_result(&self, vote: impl Fn(u64) -> Option<bool>) -> VoteResult {
        match (self.incoming.vote_result(&vote), self.outgoing.vote_result(&vote)) {
            (a, b) if a == b => a,
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }

    /// A chart of how far each voter is, one per line.
    pub fn describe(&self, acked: impl Fn(u64) -> Option<u64>) -> String {
        MajorityConfig(self.ids()).describe(acked)
    }
}

impl fmt::Display for JointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.incoming)?;
        if self.is_joint() {
            write!(f, "&&{}", self.outgoing)?;
        }
        Ok(())
    }
}
