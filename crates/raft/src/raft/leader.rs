//! What a leader does with a message.

use proto::raftpb::{Entry, Message, MessageType};

use super::{Raft, StateType};
use crate::confchange::AnyConfChange;
use crate::describe::describe_conf_change;
use crate::entry::payload_size_of;
use crate::logger::{debug, info, warning};
use crate::message::{check_proposal, message, message_from};
use crate::tracker::ProgressState;
use crate::{Error, NONE, Storage};

impl<S: Storage> Raft<S> {
    pub(super) fn step_leader(&mut self, kind: MessageType, m: Message) -> Result<(), Error> {
        match kind {
            MessageType::MsgBeat => {
                self.broadcast_heartbeat();
                Ok(())
            }
            MessageType::MsgCheckQuorum => {
                self.check_quorum_active();
                Ok(())
            }
            MessageType::MsgProp => self.handle_proposal(m),
            MessageType::MsgReadIndex => self.handle_read_index(m),
            MessageType::MsgForgetLeader => Ok(()),
            _ if !self.tracker.progress.contains_key(&m.from) => {
                debug!(self.logger, "{:x} no progress available for {:x}", self.id, m.from);
                Ok(())
            }
            MessageType::MsgAppResp if m.reject => self.handle_append_rejected(&m),
            MessageType::MsgAppResp => self.handle_append_accepted(&m),
            MessageType::MsgHeartbeatResp => self.handle_heartbeat_response(&m),
            MessageType::MsgSnapStatus => {
                self.handle_snapshot_status(&m);
                Ok(())
            }
            MessageType::MsgUnreachable => {
                self.handle_unreachable(m.from);
                Ok(())
            }
            MessageType::MsgTransferLeader => self.handle_transfer(m.from),
            _ => Ok(()),
        }
    }

    fn check_quorum_active(&mut self) {
        if !self.tracker.quorum_active() {
            warning!(
                self.logger,
                "{:x} stepped down to follower since quorum is not active",
                self.id
            );
            self.become_follower(self.term, NONE);
        }
        for (&id, progress) in &mut self.tracker.progress {
            if id != self.id {
                progress.recent_active = false;
            }
        }
    }

    fn handle_proposal(&mut self, mut m: Message) -> Result<(), Error> {
        check_proposal(MessageType::MsgProp, &m)?;
        if !self.tracker.progress.contains_key(&self.id) {
            // Removed while leading.
            return Err(Error::ProposalDropped);
        }
        if self.lead_transferee != NONE {
            debug!(
                self.logger,
                "{:x} [term {}] transfer leadership to {:x} is in progress; dropping proposal",
                self.id,
                self.term,
                self.lead_transferee
            );
            return Err(Error::ProposalDropped);
        }
        let last = self.log.last_index();
        for (i, entry) in m.entries.iter_mut().enumerate() {
            // Decodes: checked above.
            let Ok(Some(change)) = AnyConfChange::decode(entry) else {
                continue;
            };
            match self.reason_to_refuse(&change) {
                Some(reason) if !self.disable_conf_change_validation => {
                    info!(
                        self.logger,
                        "{:x} ignoring conf change {} at config {}: {reason}",
                        self.id,
                        describe_conf_change(&change),
                        self.tracker.config
                    );
                    *entry = Entry::default();
                }
                _ => self.pending_conf_index = last + i as u64 + 1,
            }
        }
        if !self.append_entries(m.entries) {
            return Err(Error::ProposalDropped);
        }
        self.broadcast_append()
    }

    /// Why a configuration change must not be appended now.
    fn reason_to_refuse(&self, change: &AnyConfChange) -> Option<String> {
        let joint = self.tracker.config.voters.is_joint();
        let leaves_joint = matches!(change, AnyConfChange::V2(change) if change.changes.is_empty());
        if self.pending_conf_index > self.log.applied {
            Some(format!(
                "possible unapplied conf change at index {} (applied to {})",
                self.pending_conf_index, self.log.applied
            ))
        } else if joint && !leaves_joint {
            Some("must transition out of joint config first".to_owned())
        } else if !joint && leaves_joint {
            Some("not in joint state; refusing empty conf change".to_owned())
        } else {
            None
        }
    }

    pub(super) fn propose_leaving_joint(&mut self) -> Result<(), Error> {
        let mut proposal = message_from(MessageType::MsgProp, NONE);
        // Without data, so that no size limit can refuse it.
        proposal.entries = vec![AnyConfChange::V2(Default::default()).into_entry()];
        self.step(proposal)
    }

    /// Appends entries with the own term behind the last index; false when that would exceed the limit of the
    /// uncommitted tail.
    pub(super) fn append_entries(&mut self, mut entries: Vec<Entry>) -> bool {
        let size = payload_size_of(&entries);
        // One proposal of any size is taken when the tail is empty, and empty entries are taken always.
        if self.uncommitted_size > 0
            && size > 0
            && self.uncommitted_size.saturating_add(size) > self.max_uncommitted_size
        {
            warning!(
                self.logger,
                "{:x} appending new entries to log would exceed uncommitted entry size limit; dropping proposal",
                self.id
            );
            return false;
        }
        self.uncommitted_size = self.uncommitted_size.saturating_add(size);
        let next = self.log.last_index() + 1;
        for (i, entry) in entries.iter_mut().enumerate() {
            entry.term = self.term;
            entry.index = next + i as u64;
        }
        let mut own = message(MessageType::MsgAppResp, self.id);
        own.index = self.log.append(entries);
        // The own acknowledgement counts once the entries are durable here.
        self.send(own);
        true
    }

    fn handle_append_rejected(&mut self, m: &Message) -> Result<(), Error> {
        let Some(progress) = self.tracker.progress.get_mut(&m.from) else {
            return Ok(());
        };
        progress.recent_active = true;
        debug!(
            self.logger,
            "{:x} received MsgAppResp(rejected, hint: (index {}, term {})) from {:x} for index {}",
            self.id,
            m.reject_hint,
            m.log_term,
            m.from,
            m.index
        );
        // Where the own term is higher than the follower's at the hint the logs cannot match: skip those indexes. So
        // each term takes one probe, not each index.
        let next_probe = if m.log_term > 0 {
            self.log.find_conflict_by_term(m.reject_hint, m.log_term).0
        } else {
            m.reject_hint
        };
        if progress.maybe_decrease_to(m.index, next_probe) {
            debug!(
                self.logger,
                "{:x} decreased progress of {:x} to [{progress}]", self.id, m.from
            );
            if progress.state == ProgressState::Replicate {
                progress.become_probe();
            }
            self.send_append(m.from)?;
        }
        Ok(())
    }

    fn handle_append_accepted(&mut self, m: &Message) -> Result<(), Error> {
        let last = self.log.last_index();
        if m.index > last {
            let why = format!(
                "it acknowledges index {}, the log of the leader ends with {last}",
                m.index
            );
            return Err(Error::invalid(MessageType::MsgAppResp, m.from, why));
        }
        let first = self.log.first_index();
        let Some(progress) = self.tracker.progress.get_mut(&m.from) else {
            return Ok(());
        };
        progress.recent_active = true;
        let probed = progress.matched == m.index && progress.state == ProgressState::Probe;
        if !progress.maybe_update(m.index) && !probed {
            return Ok(());
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            // Whatever snapshot it was that the follower applied: the log can continue from there.
            ProgressState::Snapshot if progress.matched + 1 >= first => {
                debug!(
                    self.logger,
                    "{:x} recovered from needing snapshot, resumed sending replication messages to {:x} [{progress}]",
                    self.id,
                    m.from
                );
                progress.become_probe();
                progress.become_replicate();
            }
            ProgressState::Snapshot => {}
            ProgressState::Replicate => progress.inflights.free_to(m.index),
        }
        let can_bump_commit = progress.can_bump_commit(self.log.committed);
        let caught_up = progress.matched == last;

        if self.maybe_commit()? {
            self.release_pending_reads()?;
            self.broadcast_append()?;
        } else if self.id != m.from && can_bump_commit {
            // Heartbeats carry the commit index too; this is sooner.
            self.send_append(m.from)?;
        }
        if self.id != m.from {
            // The window may have opened for more than one message.
            while self.maybe_send_append(m.from, false)? {}
        }
        if m.from == self.lead_transferee && caught_up {
            info!(
                self.logger,
                "{:x} sent MsgTimeoutNow to {:x} after received MsgAppResp", self.id, m.from
            );
            self.send(message(MessageType::MsgTimeoutNow, m.from));
        }
        Ok(())
    }

    fn handle_heartbeat_response(&mut self, m: &Message) -> Result<(), Error> {
        let last = self.log.last_index();
        let Some(progress) = self.tracker.progress.get_mut(&m.from) else {
            return Ok(());
        };
        progress.recent_active = true;
        progress.msg_app_flow_paused = false;
        // With a full window this sends an empty message, by which a follower recovers that lost the whole window. A
        // follower that is caught up but probed has to answer something to leave that state.
        if progress.matched < last || progress.state == ProgressState::Probe {
            self.send_append(m.from)?;
        }
        self.handle_read_acknowledged(m);
        Ok(())
    }

    fn handle_snapshot_status(&mut self, m: &Message) {
        let Some(progress) = self.tracker.progress.get_mut(&m.from) else {
            return;
        };
        if progress.state != ProgressState::Snapshot {
            return;
        }
        let outcome = if m.reject {
            // It never arrived: probe from what is known, not from behind it.
            progress.pending_snapshot = 0;
            "failed"
        } else {
            "succeeded"
        };
        progress.become_probe();
        debug!(
            self.logger,
            "{:x} snapshot {outcome}, resumed sending replication messages to {:x} [{progress}]", self.id, m.from
        );
        // Wait for what the follower says, or for the next heartbeat.
        progress.msg_app_flow_paused = true;
    }

    fn handle_unreachable(&mut self, id: u64) {
        let Some(progress) = self.tracker.progress.get_mut(&id) else {
            return;
        };
        // What was sent ahead is probably lost.
        if progress.state == ProgressState::Replicate {
            progress.become_probe();
        }
        debug!(
            self.logger,
            "{:x} failed to send message to {:x} because it is unreachable [{progress}]", self.id, id
        );
    }

    fn handle_transfer(&mut self, to: u64) -> Result<(), Error> {
        let last = self.log.last_index();
        let Some(progress) = self.tracker.progress.get(&to) else {
            return Ok(());
        };
        if progress.is_learner {
            debug!(self.logger, "{:x} is learner. Ignored transferring leadership", self.id);
            return Ok(());
        }
        let up_to_date = progress.matched == last;
        let (id, term) = (self.id, self.term);
        if self.lead_transferee == to {
            info!(
                self.logger,
                "{id:x} [term {term}] transfer leadership to {to:x} is in progress, ignores request to same node {to:x}"
            );
            return Ok(());
        }
        if self.lead_transferee != NONE {
            let before = std::mem::replace(&mut self.lead_transferee, NONE);
            info!(
                self.logger,
                "{id:x} [term {term}] abort previous transferring leadership to {before:x}"
            );
        }
        if to == id {
            debug!(
                self.logger,
                "{id:x} is already leader. Ignored transferring leadership to self"
            );
            return Ok(());
        }
        info!(
            self.logger,
            "{id:x} [term {term}] starts to transfer leadership to {to:x}"
        );
        // It has one election timeout to come to an end.
        self.election_elapsed = 0;
        self.lead_transferee = to;
        if up_to_date {
            self.send(message(MessageType::MsgTimeoutNow, to));
            info!(
                self.logger,
                "{id:x} sends MsgTimeoutNow to {to:x} immediately as {to:x} already has up-to-date log"
            );
            return Ok(());
        }
        self.send_append(to)
    }

    /// Commits what a quorum has; true when that is more than before.
    pub(super) fn maybe_commit(&mut self) -> Result<bool, Error> {
        debug_assert_eq!(self.state, StateType::Leader);
        let at = crate::entry::EntryId {
            term: self.term,
            index: self.tracker.committed(),
        };
        self.log.maybe_commit(at)
    }
}
