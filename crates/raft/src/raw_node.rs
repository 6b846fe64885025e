//! The node as the application drives it: ticks, messages and proposals in, [`Ready`] out.

use bytes::Bytes;
use proto::raftpb::{ConfState, Entry, HardState, Message, MessageType};

use crate::confchange::AnyConfChange;
use crate::entry::encoded_size_of;
use crate::message::{check, check_from_peer, is_response, kind_of, message_from};
use crate::raft::Raft;
use crate::ready::{Ready, storage_append, storage_append_response, storage_apply, storage_apply_response};
use crate::status::{BasicStatus, Status};
use crate::tracker::{Progress, ProgressMap};
use crate::{Config, Error, NONE, ReadOnlyOption, SoftState, StateType, Storage, is_local_target};

/// How the delivery of a snapshot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// The follower has it.
    Finish,
    /// It did not arrive.
    Failure,
}

/// One node of a group.
pub struct RawNode<S> {
    raft: Raft<S>,
    async_storage_writes: bool,
    previous_soft_state: SoftState,
    previous_hard_state: HardState,
    /// Messages to this node that are stepped once the last [`Ready`] has been handled.
    steps_on_advance: Vec<Message>,
}

impl<S: Storage> RawNode<S> {
    /// Starts a node from its storage. Refuses a configuration that cannot work, and a storage that contradicts itself.
    pub fn new(config: Config, storage: S) -> Result<RawNode<S>, Error> {
        let async_storage_writes = config.async_storage_writes;
        let raft = Raft::new(config, storage)?;
        Ok(RawNode {
            previous_soft_state: raft.soft_state(),
            previous_hard_state: raft.hard_state(),
            raft,
            async_storage_writes,
            steps_on_advance: Vec::new(),
        })
    }

    /// One unit of time has passed. Errors are fatal ones only.
    pub fn tick(&mut self) -> Result<(), Error> {
        fatal_only(self.raft.tick())
    }

    /// Starts an election now, if this node may lead.
    pub fn campaign(&mut self) -> Result<(), Error> {
        self.raft.step(message_from(MessageType::MsgHup, NONE))
    }

    /// Proposes data for one log entry.
    pub fn propose(&mut self, data: Bytes) -> Result<(), Error> {
        self.propose_all([data])
    }

    /// Proposes data for several entries, which are appended next to each other, and sent in common messages, or not at
    /// all.
    pub fn propose_all(&mut self, data: impl IntoIterator<Item = Bytes>) -> Result<(), Error> {
        let mut proposal = message_from(MessageType::MsgProp, self.raft.id);
        proposal.entries = data
            .into_iter()
            .map(|data| Entry {
                data,
                ..Entry::default()
            })
            .collect();
        if proposal.entries.is_empty() {
            return Ok(());
        }
        self.raft.step(proposal)
    }

    /// Proposes a change of the configuration. A leader appends an empty entry instead of one that must not follow the
    /// changes before it.
    pub fn propose_conf_change(&mut self, change: impl Into<AnyConfChange>) -> Result<(), Error> {
        let mut proposal = message_from(MessageType::MsgProp, NONE);
        proposal.entries = vec![change.into().into_entry()];
        self.raft.step(proposal)
    }

    /// Applies a committed change and answers the new configuration. To be called when the entry is applied, with
    /// `node_id` 0 for a change that the application decided not to carry out. An error changes nothing.
    pub fn apply_conf_change(&mut self, change: impl Into<AnyConfChange>) -> Result<ConfState, Error> {
        self.raft.apply_conf_change(&change.into().into_v2())
    }

    /// Takes a message that came over the network: as [`RawNode::step`], but nobody there can speak for this node or its
    /// storage threads.
    pub fn step_peer(&mut self, m: Message) -> Result<(), Error> {
        let kind = kind_of(&m)?;
        check_from_peer(kind, &m, self.raft.id)?;
        self.step(m)
    }

    /// Takes a message from a peer, or one of the responses that came with work for a storage thread. For what comes over
    /// the network use [`RawNode::step_peer`].
    ///
    /// What no correct peer sends is refused and changes nothing; see [`Error::is_fatal`] for what must stop the node.
    pub fn step(&mut self, m: Message) -> Result<(), Error> {
        let kind = kind_of(&m)?;
        check(kind, &m, self.raft.id)?;
        let from_thread = is_local_target(m.from);
        if is_response(kind) && !from_thread && !self.raft.tracker.progress.contains_key(&m.from) {
            return Err(Error::StepPeerNotFound);
        }
        self.raft.step(m)
    }

    /// Whether [`RawNode::ready`] has something.
    pub fn has_ready(&self) -> bool {
        let raft = &self.raft;
        let hard_state = raft.hard_state();
        !raft.msgs.is_empty()
            || !raft.msgs_after_append.is_empty()
            || raft.log.unstable.has_next_entries()
            || raft.log.has_next_committed_entries(self.applies_unstable())
            || !raft.read_states.is_empty()
            || raft.soft_state() != self.previous_soft_state
            || (hard_state != self.previous_hard_state && hard_state != HardState::default())
            || raft.log.unstable.next_snapshot().is_some()
    }

    /// Takes the work that is due. Without async storage writes, [`RawNode::advance`] has to be called once it is done,
    /// before the next call.
    pub fn ready(&mut self) -> Result<Ready, Error> {
        if !self.steps_on_advance.is_empty() {
            return Err(Error::Misuse("ready was called again before advance"));
        }
        let applies_unstable = self.applies_unstable();
        let raft = &mut self.raft;
        let committed_entries = raft.log.next_committed_entries(applies_unstable)?;
        let last = match raft.log.has_unstable_entries() {
            true => Some(raft.log.last_entry_id()?),
            false => None,
        };
        let (soft_state, hard_state) = (raft.soft_state(), raft.hard_state());
        let previous = &self.previous_hard_state;
        let entries = raft.log.unstable.next_entries();
        let mut ready = Ready {
            must_sync: !entries.is_empty() || hard_state.vote != previous.vote || hard_state.term != previous.term,
            soft_state: (soft_state != self.previous_soft_state).then_some(soft_state),
            hard_state: (hard_state != *previous && hard_state != HardState::default()).then_some(hard_state),
            read_states: std::mem::take(&mut raft.read_states),
            entries,
            snapshot: raft.log.unstable.next_snapshot().cloned(),
            committed_entries,
            messages: std::mem::take(&mut raft.msgs),
        };
        let after_append = std::mem::take(&mut raft.msgs_after_append);
        let append_response = (last.is_some() || ready.snapshot.is_some())
            .then(|| storage_append_response(raft.id, raft.term, last, ready.snapshot.clone()));

        if self.async_storage_writes {
            let stores = !ready.entries.is_empty() || ready.hard_state.is_some() || ready.snapshot.is_some();
            if stores || !after_append.is_empty() {
                // The node hears of its own append before it hears that the entries are stable, so that it still finds
                // their terms in memory.
                let responses = after_append.into_iter().chain(append_response).collect();
                ready.messages.push(storage_append(raft.id, &ready, responses));
            }
            if !ready.committed_entries.is_empty() {
                ready.messages.push(storage_apply(raft.id, &ready.committed_entries));
            }
        } else {
            for m in after_append {
                let queue = if m.to == raft.id {
                    &mut self.steps_on_advance
                } else {
                    &mut ready.messages
                };
                queue.push(m);
            }
            self.steps_on_advance.extend(append_response);
            if !ready.committed_entries.is_empty() {
                self.steps_on_advance
                    .push(storage_apply_response(raft.id, &ready.committed_entries));
            }
        }

        self.previous_soft_state = soft_state;
        if let Some(hard_state) = &ready.hard_state {
            self.previous_hard_state = *hard_state;
        }
        raft.log.unstable.accept_in_progress();
        if let Some(last) = ready.committed_entries.last() {
            raft.log
                .accept_applying(last.index, encoded_size_of(&ready.committed_entries), applies_unstable);
        }
        Ok(ready)
    }

    /// The work of the last [`Ready`] is done: stored, sent and applied. Not to be called with async storage writes.
    pub fn advance(&mut self) -> Result<(), Error> {
        if self.async_storage_writes {
            return Err(Error::Misuse("advance must not be called with async storage writes"));
        }
        for m in std::mem::take(&mut self.steps_on_advance) {
            fatal_only(self.raft.step(m))?;
        }
        Ok(())
    }

    /// Committed entries may be handed out before they are in the local storage, which async writes do not allow.
    fn applies_unstable(&self) -> bool {
        !self.async_storage_writes
    }

    /// Asks for a confirmed read index, which comes back as a [`crate::ReadState`] with the same context. Reads can get
    /// lost: ask again, with a context never used before, because leaders older than etcd raft 3.7 key reads by it.
    pub fn read_index(&mut self, context: Bytes) -> Result<(), Error> {
        let mut request = message_from(MessageType::MsgReadIndex, NONE);
        request.entries = vec![Entry {
            data: context,
            ..Entry::default()
        }];
        fatal_only(self.raft.step(request))
    }

    /// Messages to `id` were probably lost.
    pub fn report_unreachable(&mut self, id: u64) -> Result<(), Error> {
        fatal_only(self.raft.step(message_from(MessageType::MsgUnreachable, id)))
    }

    /// The snapshot to `id` was delivered, or was not. Each snapshot that was handed out has to be reported, or the
    /// follower may receive nothing any more.
    pub fn report_snapshot(&mut self, id: u64, status: SnapshotStatus) -> Result<(), Error> {
        let mut m = message_from(MessageType::MsgSnapStatus, id);
        m.reject = status == SnapshotStatus::Failure;
        fatal_only(self.raft.step(m))
    }

    /// Tries to hand leadership to `transferee`; a follower forwards that to the leader.
    pub fn transfer_leader(&mut self, transferee: u64) -> Result<(), Error> {
        fatal_only(self.raft.step(message_from(MessageType::MsgTransferLeader, transferee)))
    }

    /// Makes a follower forget its leader without a new term, so that it votes for somebody else at once.
    pub fn forget_leader(&mut self) -> Result<(), Error> {
        self.raft.step(message_from(MessageType::MsgForgetLeader, NONE))
    }

    /// The whole status; clones configuration and progress.
    pub fn status(&self) -> Status {
        let progress = match self.raft.state {
            StateType::Leader => self.raft.tracker.progress.clone(),
            _ => ProgressMap::new(),
        };
        Status {
            basic: self.basic_status(),
            config: self.raft.tracker.config.clone(),
            progress,
        }
    }

    /// The cheap part of the status.
    pub fn basic_status(&self) -> BasicStatus {
        BasicStatus {
            id: self.raft.id,
            hard_state: self.raft.hard_state(),
            soft_state: self.raft.soft_state(),
            applied: self.raft.log.applied,
            lead_transferee: self.raft.lead_transferee,
        }
    }

    /// The progress of the members by ascending id. Means something on a leader only.
    pub fn progress(&self) -> impl Iterator<Item = (u64, &Progress)> {
        self.raft.tracker.progress.iter().map(|(&id, progress)| (id, progress))
    }

    /// The id of the node.
    pub fn id(&self) -> u64 {
        self.raft.id
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.raft.term
    }

    /// The leader that the node knows of, or 0.
    pub fn leader(&self) -> u64 {
        self.raft.lead
    }

    /// The role of the node.
    pub fn state(&self) -> StateType {
        self.raft.state
    }

    /// Whether the node is a learner in the active configuration.
    pub fn is_learner(&self) -> bool {
        self.raft.is_learner
    }

    /// The commit index.
    pub fn committed(&self) -> u64 {
        self.raft.log.committed
    }

    /// The index up to which entries were reported as applied.
    pub fn applied(&self) -> u64 {
        self.raft.log.applied
    }

    /// The last index of the log, stored or not.
    pub fn last_index(&self) -> u64 {
        self.raft.log.last_index()
    }

    /// The active configuration as it is stored in snapshots.
    pub fn conf_state(&self) -> ConfState {
        self.raft.tracker.config.conf_state()
    }

    /// How reads are confirmed.
    pub fn read_only_option(&self) -> ReadOnlyOption {
        self.raft.read_only_option()
    }

    /// The storage.
    pub fn storage(&self) -> &S {
        &self.raft.log.storage
    }

    /// The storage, for what the application writes.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.raft.log.storage
    }

    /// Replaces the drawn election timeout until the next time it is drawn. For scripted elections.
    pub fn set_randomized_election_timeout(&mut self, ticks: u64) {
        self.raft.set_randomized_election_timeout(ticks);
    }
}

/// Lets only those errors through that must stop the node.
fn fatal_only(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if !error.is_fatal() => Ok(()),
        other => other,
    }
}
