//! What a follower does with a message: it follows the leader, and forwards to it.
//!
//! Invariants:
//! - A heartbeat's context is echoed byte for byte: a leader takes it for its own counter.
//! - A commit index beyond the own log is refused with an error, and nothing is committed by it.

use proto::raftpb::{Message, MessageType, Snapshot};

use super::{Raft, StateType, membership};
use crate::confchange;
use crate::config::ReadOnlyOption;
use crate::entry::EntryId;
use crate::logger::{debug, error, info, warning};
use crate::message::message;
use crate::read_only::ReadState;
use crate::unstable::snapshot_id;
use crate::{Error, NONE, Storage};

impl<S: Storage> Raft<S> {
    pub(super) fn step_follower(&mut self, kind: MessageType, mut m: Message) -> Result<(), Error> {
        match kind {
            MessageType::MsgProp => {
                if self.lead == NONE {
                    info!(
                        self.logger,
                        "{:x} no leader at term {}; dropping proposal", self.id, self.term
                    );
                    return Err(Error::ProposalDropped);
                }
                if self.disable_proposal_forwarding {
                    info!(
                        self.logger,
                        "{:x} not forwarding to leader {:x} at term {}; dropping proposal",
                        self.id,
                        self.lead,
                        self.term
                    );
                    return Err(Error::ProposalDropped);
                }
                m.to = self.lead;
                self.send(m);
            }
            MessageType::MsgApp => {
                self.hear_of_leader(m.from);
                self.handle_append_entries(m)?;
            }
            MessageType::MsgHeartbeat => {
                self.hear_of_leader(m.from);
                self.log.commit_to(m.commit)?;
                let mut reply = message(MessageType::MsgHeartbeatResp, m.from);
                reply.context = m.context;
                self.send(reply);
            }
            MessageType::MsgSnap => {
                self.hear_of_leader(m.from);
                self.handle_snapshot(m)?;
            }
            MessageType::MsgTransferLeader => {
                if self.lead == NONE {
                    info!(
                        self.logger,
                        "{:x} no leader at term {}; dropping leader transfer msg", self.id, self.term
                    );
                    return Ok(());
                }
                m.to = self.lead;
                self.send(m);
            }
            MessageType::MsgForgetLeader => {
                if self.read_only.option == ReadOnlyOption::LeaseBased {
                    error!(self.logger, "ignoring MsgForgetLeader due to ReadOnlyLeaseBased");
                } else if self.lead != NONE {
                    info!(
                        self.logger,
                        "{:x} forgetting leader {:x} at term {}", self.id, self.lead, self.term
                    );
                    self.lead = NONE;
                }
            }
            MessageType::MsgTimeoutNow => {
                info!(
                    self.logger,
                    "{:x} [term {}] received MsgTimeoutNow from {:x} and starts an election to get leadership.",
                    self.id,
                    self.term,
                    m.from
                );
                self.hup(super::election::Campaign::Transfer)?;
            }
            MessageType::MsgReadIndex => {
                if self.lead == NONE {
                    info!(
                        self.logger,
                        "{:x} no leader at term {}; dropping index reading msg", self.id, self.term
                    );
                    return Ok(());
                }
                m.to = self.lead;
                self.send(m);
            }
            MessageType::MsgReadIndexResp => match &mut m.entries[..] {
                [request] => {
                    let request_ctx = std::mem::take(&mut request.data);
                    self.read_states.push(ReadState {
                        index: m.index,
                        request_ctx,
                    });
                }
                entries => error!(
                    self.logger,
                    "{:x} invalid format of MsgReadIndexResp from {:x}, entries count: {}",
                    self.id,
                    m.from,
                    entries.len()
                ),
            },
            _ => {}
        }
        Ok(())
    }

    fn hear_of_leader(&mut self, id: u64) {
        self.election_elapsed = 0;
        self.lead = id;
    }

    fn handle_append_entries(&mut self, m: Message) -> Result<(), Error> {
        let mut reply = message(MessageType::MsgAppResp, m.from);
        let previous = EntryId {
            term: m.log_term,
            index: m.index,
        };
        if previous.index < self.log.committed {
            reply.index = self.log.committed;
            self.send(reply);
            return Ok(());
        }
        if let Some(last_new) = self.log.maybe_append(previous, m.entries, m.commit)? {
            reply.index = last_new;
            self.send(reply);
            return Ok(());
        }
        debug!(
            self.logger,
            "{:x} [logterm: {}, index: {}] rejected MsgApp [logterm: {}, index: {}] from {:x}",
            self.id,
            self.log.term_or_zero(previous.index)?,
            previous.index,
            previous.term,
            previous.index,
            m.from
        );
        // A hint where the logs may match: everything of a higher term than the leader has there cannot.
        let hint = previous.index.min(self.log.last_index());
        let (hint, hint_term) = self.log.find_conflict_by_term(hint, previous.term);
        reply.index = previous.index;
        reply.reject = true;
        reply.reject_hint = hint;
        reply.log_term = hint_term;
        self.send(reply);
        Ok(())
    }

    fn handle_snapshot(&mut self, m: Message) -> Result<(), Error> {
        let snapshot = m.snapshot.unwrap_or_default();
        let id = snapshot_id(&snapshot);
        let mut reply = message(MessageType::MsgAppResp, m.from);
        let restored = self.restore(snapshot, m.from)?;
        let verb = if restored { "restored" } else { "ignored" };
        info!(
            self.logger,
            "{:x} [commit: {}] {verb} snapshot [index: {}, term: {}]", self.id, self.log.committed, id.index, id.term
        );
        reply.index = if restored {
            self.log.last_index()
        } else {
            self.log.committed
        };
        self.send(reply);
        Ok(())
    }

    /// Replaces log and configuration by those of the snapshot; false when there is no need to, or when it is not for
    /// this node.
    fn restore(&mut self, snapshot: Snapshot, from: u64) -> Result<bool, Error> {
        let id = snapshot_id(&snapshot);
        if id.index <= self.log.committed {
            return Ok(false);
        }
        if self.state != StateType::Follower {
            warning!(
                self.logger,
                "{:x} attempted to restore snapshot as leader; should never happen",
                self.id
            );
            self.become_follower(self.term + 1, NONE);
            return Ok(false);
        }
        let conf_state = snapshot
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.conf_state.clone())
            .unwrap_or_default();
        let mut members = conf_state
            .voters
            .iter()
            .chain(&conf_state.learners)
            .chain(&conf_state.voters_outgoing);
        if !members.any(|&member| member == self.id) {
            warning!(
                self.logger,
                "{:x} attempted to restore snapshot but it is not in the ConfState {conf_state:?}; should never happen",
                self.id
            );
            return Ok(false);
        }
        if self.log.matches(id)? {
            let last = self.log.last_entry_id()?;
            info!(
                self.logger,
                "{:x} [commit: {}, lastindex: {}, lastterm: {}] fast-forwarded commit to snapshot [index: {}, term: {}]",
                self.id,
                self.log.committed,
                last.index,
                last.term,
                id.index,
                id.term
            );
            self.log.commit_to(id.index)?;
            return Ok(false);
        }

        // The configuration is built before anything is replaced: one that cannot be restored changes nothing.
        let invalid = |why: String| Error::invalid(MessageType::MsgSnap, from, why);
        let (max_inflight, max_inflight_bytes) = (self.tracker.max_inflight, self.tracker.max_inflight_bytes);
        let changed = confchange::restore(max_inflight, max_inflight_bytes, id.index, &conf_state)
            .map_err(|error| invalid(format!("its configuration cannot be restored: {error}")))?;
        membership::check_equivalent(&conf_state, &changed.0.conf_state())
            .map_err(|error| invalid(error.to_string()))?;
        self.log.restore(snapshot);
        self.tracker.reset_votes();
        self.switch_to_config(changed)?;

        let last = self.log.last_entry_id()?;
        info!(
            self.logger,
            "{:x} [commit: {}, lastindex: {}, lastterm: {}] restored snapshot [index: {}, term: {}]",
            self.id,
            self.log.committed,
            last.index,
            last.term,
            id.index,
            id.term
        );
        Ok(true)
    }
}
