//! How far one follower is, in the eyes of the leader.
//!
//! Invariants:
//! - `matched < next`, whatever arrives in whatever order.
//! - In `Snapshot`, `next == pending_snapshot + 1`.

use std::fmt;

use super::Inflights;

/// How a leader treats a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressState {
    /// Where its log ends is not known: one append message per heartbeat.
    #[default]
    Probe,
    /// A steady flow of append messages, sent before the ones before are acknowledged.
    Replicate,
    /// What it needs is compacted: no append messages until a snapshot has arrived.
    Snapshot,
}

impl fmt::Display for ProgressState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProgressState::Probe => "StateProbe",
            ProgressState::Replicate => "StateReplicate",
            ProgressState::Snapshot => "StateSnapshot",
        })
    }
}

/// The progress of one follower.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The log of the follower is known to be the leader's up to here.
    pub matched: u64,
    /// The next index to send; what lies between is in flight.
    pub next: u64,
    /// The highest commit index in flight. Falls when messages were probably lost.
    pub(crate) sent_commit: u64,
    /// How the follower is treated.
    pub state: ProgressState,
    /// In `Snapshot`: the index of the snapshot that was sent.
    pub pending_snapshot: u64,
    /// Something was heard of the follower since the last check of the quorum.
    pub recent_active: bool,
    /// Append messages wait for the next heartbeat response.
    pub msg_app_flow_paused: bool,
    /// Append messages that are not acknowledged yet.
    pub inflights: Inflights,
    /// The follower does not vote.
    pub is_learner: bool,
}

impl Progress {
    fn reset_state(&mut self, state: ProgressState) {
        self.msg_app_flow_paused = false;
        self.pending_snapshot = 0;
        self.state = state;
        self.inflights.reset();
    }

    /// Back to probing, behind what is known to match or behind the snapshot that was delivered.
    pub(crate) fn become_probe(&mut self) {
        let pending_snapshot = self.pending_snapshot;
        let from_snapshot = self.state == ProgressState::Snapshot;
        self.reset_state(ProgressState::Probe);
        self.next = self.matched + 1;
        if from_snapshot {
            self.next = self.next.max(pending_snapshot + 1);
        }
        self.sent_commit = self.sent_commit.min(self.next - 1);
    }

    pub(crate) fn become_replicate(&mut self) {
        self.reset_state(ProgressState::Replicate);
        self.next = self.matched + 1;
    }

    pub(crate) fn become_snapshot(&mut self, index: u64) {
        self.reset_state(ProgressState::Snapshot);
        self.pending_snapshot = index;
        self.next = index + 1;
        self.sent_commit = index;
    }

    /// `entries` entries with `bytes` payload bytes were sent from `next` on.
    pub(crate) fn sent_entries(&mut self, entries: usize, bytes: u64) {
        match self.state {
            ProgressState::Replicate => {
                if entries > 0 {
                    self.next += entries as u64;
                    self.inflights.add(self.next - 1, bytes);
                }
                // The message that fills the window, and each one sent while it is full, is a probe: the flow waits for
                // a heartbeat response.
                self.msg_app_flow_paused = self.inflights.is_full();
            }
            ProgressState::Probe => {
                if entries > 0 {
                    self.msg_app_flow_paused = true;
                }
            }
            // Paused: nothing is sent in this state.
            ProgressState::Snapshot => {}
        }
    }

    /// Whether sending `commit` can raise the commit index of the follower.
    pub(crate) fn can_bump_commit(&self, commit: u64) -> bool {
        commit > self.sent_commit && self.sent_commit < self.next - 1
    }

    /// The follower acknowledged `index`; false when that is no news.
    pub(crate) fn maybe_update(&mut self, index: u64) -> bool {
        if index <= self.matched {
            return false;
        }
        self.matched = index;
        self.next = self.next.max(index + 1);
        self.msg_app_flow_paused = false;
        true
    }

    /// The follower refused to append behind `rejected` and may match at `hint`; false when that is old news.
    pub(crate) fn maybe_decrease_to(&mut self, rejected: u64, hint: u64) -> bool {
        if self.state == ProgressState::Replicate {
            if rejected <= self.matched {
                return false;
            }
            self.next = self.matched + 1;
            self.sent_commit = self.sent_commit.min(self.next - 1);
            return true;
        }
        // Outside of Replicate entries are probed one by one: anything else answers an older probe.
        if self.next - 1 != rejected {
            return false;
        }
        // Not below matched + 1: a reordered rejection must not undo what was acknowledged.
        self.next = rejected.min(hint.saturating_add(1)).max(self.matched + 1);
        if mutant::planted("H45") {
            self.next = rejected.min(hint.saturating_add(1)).max(1);
        }
        debug_assert!(self.next > self.matched, "what was acknowledged is not sent again");
        self.sent_commit = self.sent_commit.min(self.next - 1);
        self.msg_app_flow_paused = false;
        true
    }

    /// Whether append messages have to wait.
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe | ProgressState::Replicate => self.msg_app_flow_paused,
            ProgressState::Snapshot => true,
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} match={} next={}", self.state, self.matched, self.next)?;
        if self.is_learner {
            f.write_str(" learner")?;
        }
        if self.is_paused() {
            f.write_str(" paused")?;
        }
        if self.pending_snapshot > 0 {
            write!(f, " pendingSnap={}", self.pending_snapshot)?;
        }
        if !self.recent_active {
            f.write_str(" inactive")?;
        }
        if self.inflights.count() > 0 {
            write!(f, " inflight={}", self.inflights.count())?;
            if self.inflights.is_full() {
                f.write_str("[full]")?;
            }
        }
        Ok(())
    }
}
