//! What a change of the configuration means for the node.
//!
//! Invariant: the configuration changes when the entry is applied, never when it is appended.

use proto::raftpb::{ConfChangeV2, ConfState};

use super::{Raft, StateType};
use crate::confchange::{Changed, Changer, Transition, transition_of};
use crate::logger::info;
use crate::{Error, NONE, Storage};

impl<S: Storage> Raft<S> {
    /// Applies a committed change. An error leaves everything as it was.
    pub(crate) fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, Error> {
        let changer = Changer {
            tracker: &self.tracker,
            last_index: self.log.last_index(),
        };
        let changed = match transition_of(change)? {
            Transition::LeaveJoint => changer.leave_joint(),
            Transition::EnterJoint { auto_leave } => changer.enter_joint(auto_leave, &change.changes),
            Transition::Simple => changer.simple(&change.changes),
        }?;
        self.switch_to_config(changed)
    }

    pub(super) fn switch_to_config(&mut self, (config, progress): Changed) -> Result<ConfState, Error> {
        self.tracker.config = config;
        self.tracker.progress = progress;
        info!(
            self.logger,
            "{:x} switched to configuration {}", self.id, self.tracker.config
        );
        let conf_state = self.tracker.config.conf_state();
        let own = self.tracker.progress.get(&self.id);
        let is_member = own.is_some();
        self.is_learner = own.is_some_and(|own| own.is_learner);

        if self.state != StateType::Leader {
            return Ok(conf_state);
        }
        if !is_member || self.is_learner {
            if self.step_down_on_removal && !mutant::planted("Q03") {
                self.become_follower(self.term, NONE);
            }
            return Ok(conf_state);
        }
        if conf_state.voters.is_empty() {
            return Ok(conf_state);
        }
        if self.maybe_commit()? {
            // The new quorum is content with less.
            self.release_pending_reads()?;
            self.broadcast_append()?;
        } else {
            // New members need not wait for a heartbeat.
            self.broadcast_append_with(false)?;
        }
        // The same holds for reads: nobody may be left whose answer could confirm them.
        self.answer_confirmed_reads();
        if self.lead_transferee != NONE && !self.tracker.config.voters.contains(self.lead_transferee) {
            self.lead_transferee = NONE;
        }
        Ok(conf_state)
    }
}

/// Refuses a configuration that did not come back as it was stored; the order of ids does not matter.
pub(super) fn check_equivalent(stored: &ConfState, restored: &ConfState) -> Result<(), Error> {
    let sorted = |conf_state: &ConfState| {
        let mut conf_state = conf_state.clone();
        conf_state.voters.sort_unstable();
        conf_state.learners.sort_unstable();
        conf_state.voters_outgoing.sort_unstable();
        conf_state.learners_next.sort_unstable();
        conf_state
    };
    if sorted(stored) == sorted(restored) {
        return Ok(());
    }
    Err(Error::ConfStateMismatch {
        stored: format!("{stored:?}"),
        restored: format!("{restored:?}"),
    })
}
