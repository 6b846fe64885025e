//! Linearizable reads on the side of the leader.
//!
//! Invariants:
//! - No read is answered before an entry of the leader's own term is committed: the commit index could be an old one.
//! - With [`ReadOnlyOption::Safe`], no read is answered before a quorum has answered a heartbeat sent after it arrived;
//!   a leader that is the only voter is that quorum.

use proto::raftpb::{Message, MessageType};

use super::{Raft, StateType};
use crate::config::ReadOnlyOption;
use crate::logger::error;
use crate::message::message;
use crate::read_only::ReadState;
use crate::{Error, NONE, Storage};

impl<S: Storage> Raft<S> {
    pub(super) fn handle_read_index(&mut self, m: Message) -> Result<(), Error> {
        if m.entries.is_empty() {
            return Err(Error::invalid(
                MessageType::MsgReadIndex,
                m.from,
                "it carries no request",
            ));
        }
        if !self.committed_in_current_term()? && !mutant::planted("H39") {
            self.pending_reads.push(m);
            return Ok(());
        }
        self.start_read(m);
        Ok(())
    }

    fn start_read(&mut self, m: Message) {
        let index = self.log.committed;
        if mutant::planted("G09")
            || self.tracker.is_only_voter(self.id)
            || self.read_only.option == ReadOnlyOption::LeaseBased
        {
            self.answer_read(m, index);
            return;
        }
        self.read_only.add_request(index, m);
        self.read_only.acknowledge_self(self.id);
        self.broadcast_heartbeat();
    }

    /// Starts the reads that waited for the first commit of this term.
    pub(super) fn release_pending_reads(&mut self) -> Result<(), Error> {
        if self.pending_reads.is_empty() {
            return Ok(());
        }
        if !self.committed_in_current_term()? {
            error!(
                self.logger,
                "pending MsgReadIndex should be released only after first commit in current term"
            );
            return Ok(());
        }
        for m in std::mem::take(&mut self.pending_reads) {
            self.start_read(m);
        }
        Ok(())
    }

    pub(super) fn handle_read_acknowledged(&mut self, m: &Message) {
        if self.read_only.option == ReadOnlyOption::Safe && self.read_only.acknowledge(m.from, &m.context) {
            self.answer_confirmed_reads();
        }
    }

    /// Answers what the voters of the current configuration have confirmed.
    pub(super) fn answer_confirmed_reads(&mut self) {
        debug_assert_eq!(self.state, StateType::Leader);
        for request in self.read_only.advance(&self.tracker.config.voters) {
            self.answer_read(request.message, request.index);
        }
    }

    fn answer_read(&mut self, mut request: Message, index: u64) {
        if request.from == NONE || request.from == self.id {
            let request_ctx = request.entries.first_mut().map(|entry| std::mem::take(&mut entry.data));
            self.read_states.push(ReadState {
                index,
                request_ctx: request_ctx.unwrap_or_default(),
            });
            return;
        }
        let mut reply = message(MessageType::MsgReadIndexResp, request.from);
        reply.index = index;
        reply.entries = request.entries;
        self.send(reply);
    }

    fn committed_in_current_term(&self) -> Result<bool, Error> {
        // The term of a leader is never 0, so a term that is not known is no match.
        Ok(self.log.term_or_zero(self.log.committed)? == self.term)
    }
}
