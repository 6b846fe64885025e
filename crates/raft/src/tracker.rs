//! What a leader knows of the others, and the configuration that says who they are.
//!
//! Invariants:
//! - Every voter and learner of the configuration has a progress entry, and nobody else has one.
//! - Maps are sorted by id; whoever walks them meets the members in that order.

mod inflights;
mod progress;

pub use inflights::Inflights;
pub use progress::{Progress, ProgressState};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proto::raftpb::ConfState;

use crate::quorum::{JointConfig, MajorityConfig, VoteResult};

/// Progress by member id.
pub type ProgressMap = BTreeMap<u64, Progress>;

/// Who votes and who only learns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The voters.
    pub voters: JointConfig,
    /// A joint configuration is left by itself as soon as it is applied.
    pub auto_leave: bool,
    /// Members that receive the log but do not vote. Disjoint from both halves of `voters`.
    pub learners: BTreeSet<u64>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: BTreeSet<u64>,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters={}", self.voters)?;
        if !self.learners.is_empty() {
            write!(f, " learners={}", MajorityConfig(self.learners.clone()))?;
        }
        if !self.learners_next.is_empty() {
            write!(f, " learners_next={}", MajorityConfig(self.learners_next.clone()))?;
        }
        if self.auto_leave {
            f.write_str(" autoleave")?;
        }
        Ok(())
    }
}

impl Config {
    /// The configuration as it is stored; ids ascend.
    pub fn conf_state(&self) -> ConfState {
        let list = |ids: &BTreeSet<u64>| ids.iter().copied().collect();
        ConfState {
            voters: list(&self.voters.incoming.0),
            voters_outgoing: list(&self.voters.outgoing.0),
            learners: list(&self.learners),
            learners_next: list(&self.learners_next),
            auto_leave: self.auto_leave,
        }
    }
}

/// The active configuration with the progress of its members and the votes of an election.
#[derive(Debug, Clone, Default)]
pub struct ProgressTracker {
    /// Who takes part.
    pub config: Config,
    /// How far each of them is.
    pub progress: ProgressMap,
    /// What each of them voted in the election under way; the first answer counts.
    pub votes: BTreeMap<u64, bool>,
    /// Limit of append messages in flight to one member.
    pub max_inflight: usize,
    /// Limit of payload bytes in flight to one member.
    pub max_inflight_bytes: u64,
}

impl ProgressTracker {
    /// A tracker of an empty configuration.
    pub fn new(max_inflight: usize, max_inflight_bytes: u64) -> ProgressTracker {
        ProgressTracker {
            max_inflight,
            max_inflight_bytes,
            ..ProgressTracker::default()
        }
    }

    /// Whether `id` is the only voter.
    pub fn is_only_voter(&self, id: u64) -> bool {
        let voters = &self.config.voters;
        voters.incoming.0.len() == 1 && !voters.is_joint() && voters.incoming.0.contains(&id)
    }

    /// The largest index that the voters have acknowledged by quorum.
    pub fn committed(&self) -> u64 {
        self.config
            .voters
            .committed_index(|id| self.progress.get(&id).map(|progress| progress.matched))
            .0
    }

    /// The smallest member id above `id`; walks the members without holding a borrow when started from 0.
    pub(crate) fn next_id(&self, id: u64) -> Option<u64> {
        self.progress.range(id.checked_add(1)?..).next().map(|(&id, _)| id)
    }

    /// Whether a quorum of voters was heard of since the last check.
    pub fn quorum_active(&self) -> bool {
        let heard = |id| {
            let progress = self.progress.get(&id)?;
            (!progress.is_learner).then_some(progress.recent_active)
        };
        self.config.voters.vote_result(heard) == VoteResult::Won
    }

    /// Forgets all votes.
    pub fn reset_votes(&mut self) {
        self.votes.clear();
    }

    /// Notes a vote; the first one of a member counts.
    pub fn record_vote(&mut self, id: u64, granted: bool) {
        self.votes.entry(id).or_insert(granted);
    }

    /// Votes granted, votes refused, and what that means.
    pub fn tally_votes(&self) -> (usize, usize, VoteResult) {
        let (mut granted, mut refused) = (0, 0);
        for (id, progress) in &self.progress {
            match self.votes.get(id) {
                Some(_) if progress.is_learner => {}
                Some(true) => granted += 1,
                Some(false) => refused += 1,
                None => {}
            }
        }
        (
            granted,
            refused,
            self.config.voters.vote_result(|id| self.votes.get(&id).copied()),
        )
    }
}
