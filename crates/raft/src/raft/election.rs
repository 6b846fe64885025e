//! Elections: when to campaign, how votes are asked for and given, and what winning or losing means.
//!
//! Invariants:
//! - A node campaigns only as a voter without a pending snapshot and without a committed configuration change that it has
//!   not applied: it might not know who votes.
//! - A vote is recorded before the grant is queued, and the grant leaves only after both are durable.

use proto::raftpb::{Entry, EntryType, Message, MessageType};

use super::{Raft, StateType};
use crate::entry::EntryId;
use crate::logger::{debug, error, info, warning};
use crate::message::{message, message_from};
use crate::quorum::VoteResult;
use crate::{Error, NONE, Storage};

/// The context of vote requests that override the lease: the leader itself asked for the election.
pub(super) const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

/// Why and how a node campaigns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Campaign {
    /// Ask first, without a new term.
    PreElection,
    Election,
    /// The leader hands over: no asking first, and voters do not wait for the lease to expire.
    Transfer,
}

impl<S: Storage> Raft<S> {
    pub(super) fn tick_election(&mut self) -> Result<(), Error> {
        self.election_elapsed += 1;
        if self.promotable() && self.election_elapsed >= self.randomized_election_timeout {
            self.election_elapsed = 0;
            self.step(message_from(MessageType::MsgHup, self.id))?;
        }
        Ok(())
    }

    pub(super) fn tick_heartbeat(&mut self) -> Result<(), Error> {
        self.heartbeat_elapsed += 1;
        self.election_elapsed += 1;
        if self.election_elapsed >= self.election_timeout {
            self.election_elapsed = 0;
            if self.check_quorum {
                self.step(message_from(MessageType::MsgCheckQuorum, self.id))?;
            }
            // The transfer did not come to an end in time: take proposals again.
            if self.state == StateType::Leader {
                self.lead_transferee = NONE;
            }
        }
        if self.state == StateType::Leader && self.heartbeat_elapsed >= self.heartbeat_timeout {
            self.heartbeat_elapsed = 0;
            self.step(message_from(MessageType::MsgBeat, self.id))?;
        }
        Ok(())
    }

    pub(super) fn become_follower(&mut self, term: u64, lead: u64) {
        self.reset(term);
        self.lead = lead;
        self.state = StateType::Follower;
        info!(self.logger, "{:x} became follower at term {}", self.id, self.term);
    }

    fn become_candidate(&mut self) {
        self.reset(self.term + 1);
        self.vote = self.id;
        self.state = StateType::Candidate;
        info!(self.logger, "{:x} became candidate at term {}", self.id, self.term);
    }

    /// Changes the role only: neither term nor vote.
    fn become_pre_candidate(&mut self) {
        self.tracker.reset_votes();
        self.lead = NONE;
        self.state = StateType::PreCandidate;
        info!(self.logger, "{:x} became pre-candidate at term {}", self.id, self.term);
    }

    fn become_leader(&mut self) {
        self.reset(self.term);
        self.lead = self.id;
        self.state = StateType::Leader;
        if let Some(own) = self.tracker.progress.get_mut(&self.id) {
            own.become_replicate();
            own.recent_active = true;
        }
        // There may be a configuration change in the tail: no other one until all of it is applied.
        self.pending_conf_index = self.log.last_index();
        // An entry of the own term, by which older ones can be committed. Empty, so no limit refuses it.
        if !mutant::planted("Q49") && !self.append_entries(vec![Entry::default()]) {
            error!(self.logger, "empty entry was dropped");
        }
        info!(self.logger, "{:x} became leader at term {}", self.id, self.term);
    }

    /// Whether this node may lead: a voter that is not waiting for a snapshot.
    pub(super) fn promotable(&self) -> bool {
        self.tracker.progress.get(&self.id).is_some_and(|own| !own.is_learner) && !self.log.has_unstable_snapshot()
    }

    pub(super) fn hup(&mut self, campaign: Campaign) -> Result<(), Error> {
        if self.state == StateType::Leader {
            debug!(self.logger, "{:x} ignoring MsgHup because already leader", self.id);
            return Ok(());
        }
        if !self.promotable() {
            warning!(self.logger, "{:x} is unpromotable and can not campaign", self.id);
            return Ok(());
        }
        if self.has_unapplied_conf_changes()? {
            warning!(
                self.logger,
                "{:x} cannot campaign at term {} since there are still pending configuration changes to apply",
                self.id,
                self.term
            );
            return Ok(());
        }
        info!(
            self.logger,
            "{:x} is starting a new election at term {}", self.id, self.term
        );
        self.campaign(campaign)
    }

    fn has_unapplied_conf_changes(&self) -> Result<bool, Error> {
        let is_change = |entry: &Entry| entry.r#type != EntryType::EntryNormal as i32;
        self.log.any(
            self.log.applied + 1,
            self.log.committed + 1,
            self.log.max_applying_size,
            is_change,
        )
    }

    pub(super) fn campaign(&mut self, campaign: Campaign) -> Result<(), Error> {
        let (kind, reply_kind, term) = if campaign == Campaign::PreElection {
            self.become_pre_candidate();
            (MessageType::MsgPreVote, MessageType::MsgPreVoteResp, self.term + 1)
        } else {
            self.become_candidate();
            (MessageType::MsgVote, MessageType::MsgVoteResp, self.term)
        };
        let last = self.log.last_entry_id()?;
        for id in self.tracker.config.voters.ids() {
            if id == self.id {
                // The own vote counts once it is durable, like that of anybody else.
                let mut own = message(reply_kind, id);
                own.term = term;
                self.send(own);
                continue;
            }
            info!(
                self.logger,
                "{:x} [logterm: {}, index: {}] sent {} request to {:x} at term {}",
                self.id,
                last.term,
                last.index,
                kind.as_str_name(),
                id,
                self.term
            );
            let mut request = message(kind, id);
            request.term = term;
            request.index = last.index;
            request.log_term = last.term;
            if campaign == Campaign::Transfer {
                request.context = CAMPAIGN_TRANSFER.into();
            }
            self.send(request);
        }
        Ok(())
    }

    /// Counts a vote that was given to this node.
    pub(super) fn count_vote(&mut self, kind: MessageType, m: &Message) -> Result<(), Error> {
        let name = kind.as_str_name();
        let rejection = if m.reject { " rejection" } else { "" };
        info!(
            self.logger,
            "{:x} received {name}{rejection} from {:x} at term {}", self.id, m.from, self.term
        );
        self.tracker.record_vote(m.from, !m.reject || mutant::planted("Q48"));
        let (granted, refused, result) = self.tracker.tally_votes();
        info!(
            self.logger,
            "{:x} has received {granted} {name} votes and {refused} vote rejections", self.id
        );
        match result {
            VoteResult::Won if self.state == StateType::PreCandidate => self.campaign(Campaign::Election),
            VoteResult::Won => {
                self.become_leader();
                self.broadcast_append()
            }
            VoteResult::Lost => {
                // The answers to a pre-vote carry the term to come: stay at the own one.
                self.become_follower(self.term, NONE);
                Ok(())
            }
            VoteResult::Pending => Ok(()),
        }
    }

    /// Answers a request for a vote or a pre-vote. Learners vote too: a member may have been promoted without having
    /// heard of it.
    pub(super) fn consider_vote(&mut self, kind: MessageType, m: &Message) -> Result<(), Error> {
        let pre_vote = kind == MessageType::MsgPreVote;
        let reply_kind = if pre_vote {
            MessageType::MsgPreVoteResp
        } else {
            MessageType::MsgVoteResp
        };
        let can_vote =
            self.vote == m.from || (self.vote == NONE && self.lead == NONE) || (pre_vote && m.term > self.term);
        let can_vote = can_vote || mutant::planted("Q08");
        let mut reply = message(reply_kind, m.from);
        if can_vote
            && self.log.is_up_to_date(EntryId {
                term: m.log_term,
                index: m.index,
            })?
        {
            self.log_vote("cast", kind, m)?;
            // The term of the request: for a pre-vote it is ahead of the own one, and the candidate would take a lower
            // one for old.
            reply.term = m.term;
            self.send(reply);
            if !pre_vote {
                self.election_elapsed = 0;
                self.vote = m.from;
            }
        } else {
            self.log_vote("rejected", kind, m)?;
            reply.term = self.term;
            reply.reject = true;
            self.send(reply);
        }
        Ok(())
    }

    pub(super) fn log_vote(&self, verdict: &str, kind: MessageType, m: &Message) -> Result<(), Error> {
        let last = self.log.last_entry_id()?;
        let preposition = if verdict == "cast" { "for" } else { "from" };
        info!(
            self.logger,
            "{:x} [logterm: {}, index: {}, vote: {:x}] {verdict} {} {preposition} {:x} [logterm: {}, index: {}] at term {}",
            self.id,
            last.term,
            last.index,
            self.vote,
            kind.as_str_name(),
            m.from,
            m.log_term,
            m.index,
            self.term
        );
        Ok(())
    }
}
