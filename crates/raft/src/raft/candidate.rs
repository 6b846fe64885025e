//! What a candidate or pre-candidate does with a message.

use proto::raftpb::{Message, MessageType};

use super::{Raft, StateType};
use crate::logger::{debug, info};
use crate::{Error, Storage};

impl<S: Storage> Raft<S> {
    pub(super) fn step_candidate(&mut self, kind: MessageType, m: Message) -> Result<(), Error> {
        match kind {
            MessageType::MsgProp => {
                info!(
                    self.logger,
                    "{:x} no leader at term {}; dropping proposal", self.id, self.term
                );
                Err(Error::ProposalDropped)
            }
            // Somebody else won this term.
            MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap => {
                self.become_follower(m.term, m.from);
                self.step_follower(kind, m)
            }
            // Only answers to the campaign under way: a candidate may still receive those to its pre-vote.
            MessageType::MsgPreVoteResp if self.state == StateType::PreCandidate => self.count_vote(kind, &m),
            MessageType::MsgVoteResp if self.state == StateType::Candidate => self.count_vote(kind, &m),
            MessageType::MsgTimeoutNow => {
                debug!(
                    self.logger,
                    "{:x} [term {} state {}] ignored MsgTimeoutNow from {:x}", self.id, self.term, self.state, m.from
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
