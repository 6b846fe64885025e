//! Changes of the configuration: what may follow what.
//!
//! Invariants:
//! - A [`Changer`] never changes what it was given: it answers the new configuration or an error.
//! - A simple change alters at most one voter; more than that goes through a joint configuration, in which both the old
//!   and the new majority must agree.
//! - A configuration always has a voter, except before the first one is added.

mod any;
mod restore;

pub use any::AnyConfChange;
pub(crate) use any::{Transition, transition_of};
pub use restore::restore;

use proto::raftpb::{ConfChangeSingle, ConfChangeType};

use crate::tracker::{Config, Inflights, Progress, ProgressMap, ProgressTracker};

/// Why a change does not fit the configuration. The texts are etcd raft's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfChangeError {
    /// A joint configuration must be left before the next one is entered.
    #[error("config is already joint")]
    AlreadyJoint,
    /// There are no voters yet that could be the outgoing half.
    #[error("can't make a zero-voter config joint")]
    NoVotersToJoin,
    /// There is no joint configuration to leave.
    #[error("can't leave a non-joint config")]
    NotJoint,
    /// A simple change in a joint configuration.
    #[error("can't apply simple config change in joint config")]
    SimpleInJoint,
    /// A simple change that alters several voters.
    #[error("more than one voter changed without entering joint config")]
    ManyVoters,
    /// Nobody would be left to vote.
    #[error("removed all voters")]
    NoVoters,
    /// A change type that is not known.
    #[error("unexpected conf type {0}")]
    UnknownType(i32),
    /// A transition that is not known.
    #[error("unexpected transition {0}")]
    UnknownTransition(i32),
    /// Configuration and progress contradict each other: a bug.
    #[error("{0}")]
    Inconsistent(String),
}

/// Computes new configurations from the current one.
#[derive(Debug, Clone, Copy)]
pub struct Changer<'a> {
    /// The current configuration and progress.
    pub tracker: &'a ProgressTracker,
    /// The last index of the log, from which new members are probed.
    pub last_index: u64,
}

/// A new configuration with the progress of its members.
pub type Changed = (Config, ProgressMap);

impl Changer<'_> {
    /// Enters a joint configuration: the current voters become the outgoing half, `changes` apply to the incoming one.
    pub fn enter_joint(&self, auto_leave: bool, changes: &[ConfChangeSingle]) -> Result<Changed, ConfChangeError> {
        let (mut config, mut progress) = self.checked_copy()?;
        if config.voters.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        if config.voters.incoming.0.is_empty() {
            return Err(ConfChangeError::NoVotersToJoin);
        }
        config.voters.outgoing = config.voters.incoming.clone();
        self.apply(&mut config, &mut progress, changes)?;
        config.auto_leave = auto_leave;
        checked(config, progress)
    }

    /// Leaves a joint configuration: the incoming voters decide alone, and staged learners become learners.
    pub fn leave_joint(&self) -> Result<Changed, ConfChangeError> {
        let (mut config, mut progress) = self.checked_copy()?;
        if !config.voters.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        for id in std::mem::take(&mut config.learners_next) {
            config.learners.insert(id);
            if let Some(progress) = progress.get_mut(&id) {
                progress.is_learner = true;
            }
        }
        for id in std::mem::take(&mut config.voters.outgoing.0) {
            if !config.voters.incoming.0.contains(&id) && !config.learners.contains(&id) {
                progress.remove(&id);
            }
        }
        config.auto_leave = false;
        checked(config, progress)
    }

    /// Applies changes that together alter at most one voter.
    pub fn simple(&self, changes: &[ConfChangeSingle]) -> Result<Changed, ConfChangeError> {
        let (mut config, mut progress) = self.checked_copy()?;
        if config.voters.is_joint() {
            return Err(ConfChangeError::SimpleInJoint);
        }
        self.apply(&mut config, &mut progress, changes)?;
        let (before, after) = (&self.tracker.config.voters.incoming.0, &config.voters.incoming.0);
        if before.symmetric_difference(after).count() > 1 {
            return Err(ConfChangeError::ManyVoters);
        }
        checked(config, progress)
    }

    fn apply(
        &self,
        config: &mut Config,
        progress: &mut ProgressMap,
        changes: &[ConfChangeSingle],
    ) -> Result<(), ConfChangeError> {
        for change in changes {
            let id = change.node_id;
            if id == 0 {
                // etcd sets the id to zero when it decides, above raft, not to apply a change.
                continue;
            }
            match ConfChangeType::try_from(change.r#type) {
                Ok(ConfChangeType::ConfChangeAddNode) => self.make_voter(config, progress, id),
                Ok(ConfChangeType::ConfChangeAddLearnerNode) => self.make_learner(config, progress, id),
                Ok(ConfChangeType::ConfChangeRemoveNode) => remove(config, progress, id),
                Ok(ConfChangeType::ConfChangeUpdateNode) => {}
                Err(_) => return Err(ConfChangeError::UnknownType(change.r#type)),
            }
        }
        if config.voters.incoming.0.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        Ok(())
    }

    fn make_voter(&self, config: &mut Config, progress: &mut ProgressMap, id: u64) {
        match progress.get_mut(&id) {
            None => {
                progress.insert(id, self.new_progress(false));
            }
            Some(progress) => {
                progress.is_learner = false;
                config.learners.remove(&id);
                config.learners_next.remove(&id);
            }
        }
        config.voters.incoming.0.insert(id);
    }

    /// A voter of the outgoing half cannot be a learner at the same time: it is staged until the joint configuration is
    /// left.
    fn make_learner(&self, config: &mut Config, progress: &mut ProgressMap, id: u64) {
        let Some(known) = progress.get(&id).cloned() else {
            progress.insert(id, self.new_progress(true));
            config.learners.insert(id);
            return;
        };
        if known.is_learner {
            return;
        }
        remove(config, progress, id);
        let known = progress.entry(id).or_insert(known);
        if config.voters.outgoing.0.contains(&id) {
            config.learners_next.insert(id);
        } else {
            known.is_learner = true;
            config.learners.insert(id);
        }
    }

    fn new_progress(&self, is_learner: bool) -> Progress {
        Progress {
            // Optimistic: the first probe tells where the new member really is.
            next: self.last_index.max(1),
            inflights: Inflights::new(self.tracker.max_inflight, self.tracker.max_inflight_bytes),
            is_learner,
            // Otherwise a check of the quorum could make the leader step down before the member had a chance to speak.
            recent_active: true,
            ..Progress::default()
        }
    }

    fn checked_copy(&self) -> Result<Changed, ConfChangeError> {
        checked(self.tracker.config.clone(), self.tracker.progress.clone())
    }
}

fn remove(config: &mut Config, progress: &mut ProgressMap, id: u64) {
    if !progress.contains_key(&id) {
        return;
    }
    config.voters.incoming.0.remove(&id);
    config.learners.remove(&id);
    config.learners_next.remove(&id);
    // A voter of the outgoing half is still needed.
    if !config.voters.outgoing.0.contains(&id) {
        progress.remove(&id);
    }
}

fn checked(config: Config, progress: ProgressMap) -> Result<Changed, ConfChangeError> {
    let inconsistent = |text: String| Err(ConfChangeError::Inconsistent(text));
    let voters = config.voters.ids();
    for id in voters.iter().chain(&config.learners).chain(&config.learners_next) {
        if !progress.contains_key(id) {
            return inconsistent(format!("no progress for {id}"));
        }
    }
    let is_learner = |id: &u64| progress.get(id).is_some_and(|progress| progress.is_learner);
    for id in &config.learners_next {
        if !config.voters.outgoing.0.contains(id) {
            return inconsistent(format!("{id} is in LearnersNext, but not Voters[1]"));
        }
        if is_learner(id) {
            return inconsistent(format!("{id} is in LearnersNext, but is already marked as learner"));
        }
    }
    for id in &config.learners {
        if config.voters.outgoing.0.contains(id) {
            return inconsistent(format!("{id} is in Learners and Voters[1]"));
        }
        if config.voters.incoming.0.contains(id) {
            return inconsistent(format!("{id} is in Learners and Voters[0]"));
        }
        if !is_learner(id) {
            return inconsistent(format!("{id} is in Learners, but is not marked as learner"));
        }
    }
    if !config.voters.is_joint() {
        if !config.learners_next.is_empty() {
            return inconsistent("cfg.LearnersNext must be nil when not joint".to_owned());
        }
        if config.auto_leave {
            return inconsistent("AutoLeave must be false when not joint".to_owned());
        }
    }
    Ok((config, progress))
}
