//! The state machine: what a node does with a message or a tick, depending on its role.
//!
//! Invariants:
//! - The term never falls; within a term the vote is given once.
//! - Promises (append and vote responses) go to `msgs_after_append`: they leave only after what they promise is durable.
//!   Everything else goes to `msgs` and may leave at once.
//! - A leader commits only entries of its own term by counting; older ones follow with them.

mod candidate;
mod election;
mod follower;
mod leader;
mod membership;
mod reads;
mod replication;

use std::fmt;
use std::sync::Arc;

use proto::raftpb::{HardState, Message, MessageType, Snapshot};

use crate::confchange;
use crate::config::{Config, ReadOnlyOption};
use crate::entry::{EntryId, encoded_size_of, payload_size_of};
use crate::log::RaftLog;
use crate::logger::{Logger, debug, error, info};
use crate::message::{kind_of, message};
use crate::random::Random;
use crate::read_only::{ReadOnly, ReadState};
use crate::tracker::{Inflights, Progress, ProgressTracker};
use crate::unstable::snapshot_id;
use crate::{Error, NONE, Storage};

/// The role of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateType {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads its term.
    Leader,
    /// Asks whether it would get votes.
    PreCandidate,
}

impl fmt::Display for StateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StateType::Follower => "StateFollower",
            StateType::Candidate => "StateCandidate",
            StateType::Leader => "StateLeader",
            StateType::PreCandidate => "StatePreCandidate",
        })
    }
}

/// State that need not be stored: it is useful for logs and for routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SoftState {
    /// The leader that the node knows of, or 0.
    pub lead: u64,
    /// Its role.
    pub raft_state: StateType,
}

pub(crate) struct Raft<S> {
    pub(crate) id: u64,
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) state: StateType,
    pub(crate) lead: u64,
    pub(crate) is_learner: bool,
    pub(crate) log: RaftLog<S>,
    pub(crate) tracker: ProgressTracker,

    /// Messages that may be sent at once.
    pub(crate) msgs: Vec<Message>,
    /// Messages that may be sent, or stepped if they are to this node, once everything before them is durable.
    pub(crate) msgs_after_append: Vec<Message>,
    pub(crate) read_states: Vec<ReadState>,
    read_only: ReadOnly,
    /// Reads that came before this leader committed an entry of its term.
    pending_reads: Vec<Message>,

    /// The member that leadership is being handed to, or 0.
    pub(crate) lead_transferee: u64,
    /// No configuration change may be appended before this index is applied. May be higher than needed.
    pending_conf_index: u64,
    /// Payload bytes of the uncommitted tail, an estimate that is never too high.
    uncommitted_size: u64,

    /// Ticks since the last sign of a leader; for a leader, since the last check of the quorum.
    election_elapsed: u64,
    heartbeat_elapsed: u64,
    randomized_election_timeout: u64,
    random: Random,

    max_msg_size: u64,
    max_uncommitted_size: u64,
    election_timeout: u64,
    heartbeat_timeout: u64,
    check_quorum: bool,
    pre_vote: bool,
    disable_proposal_forwarding: bool,
    disable_conf_change_validation: bool,
    step_down_on_removal: bool,
    logger: Arc<dyn Logger>,
}

impl<S: Storage> Raft<S> {
    pub(crate) fn new(config: Config, storage: S) -> Result<Raft<S>, Error> {
        let config = config.validated()?;
        let (hard_state, conf_state) = storage.initial_state()?;
        let log = RaftLog::new(storage, Arc::clone(&config.logger), config.max_committed_size_per_ready);
        let mut raft = Raft {
            id: config.id,
            term: 0,
            vote: NONE,
            state: StateType::Follower,
            lead: NONE,
            is_learner: false,
            log,
            tracker: ProgressTracker::new(config.max_inflight_msgs, config.max_inflight_bytes),
            msgs: Vec::new(),
            msgs_after_append: Vec::new(),
            read_states: Vec::new(),
            read_only: ReadOnly::new(config.read_only_option),
            pending_reads: Vec::new(),
            lead_transferee: NONE,
            pending_conf_index: 0,
            uncommitted_size: 0,
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            randomized_election_timeout: 0,
            random: Random::new(config.seed, config.id),
            max_msg_size: config.max_size_per_msg,
            max_uncommitted_size: config.max_uncommitted_entries_size,
            election_timeout: config.election_tick,
            heartbeat_timeout: config.heartbeat_tick,
            check_quorum: config.check_quorum,
            pre_vote: config.pre_vote,
            disable_proposal_forwarding: config.disable_proposal_forwarding,
            disable_conf_change_validation: config.disable_conf_change_validation,
            step_down_on_removal: config.step_down_on_removal,
            logger: config.logger,
        };

        let last = raft.log.last_entry_id()?;
        let restored = confchange::restore(
            raft.tracker.max_inflight,
            raft.tracker.max_inflight_bytes,
            last.index,
            &conf_state,
        )?;
        membership::check_equivalent(&conf_state, &restored.0.conf_state())?;
        raft.switch_to_config(restored)?;

        if hard_state != HardState::default() {
            raft.load_hard_state(&hard_state)?;
        }
        if config.applied > 0 {
            raft.log.applied_to(config.applied, 0)?;
        }
        raft.become_follower(raft.term, NONE);
        let peers: Vec<String> = raft
            .tracker
            .config
            .voters
            .ids()
            .iter()
            .map(|id| format!("{id:x}"))
            .collect();
        info!(
            raft.logger,
            "newRaft {:x} [peers: [{}], term: {}, commit: {}, applied: {}, lastindex: {}, lastterm: {}]",
            raft.id,
            peers.join(","),
            raft.term,
            raft.log.committed,
            raft.log.applied,
            last.index,
            last.term
        );
        Ok(raft)
    }

    fn load_hard_state(&mut self, hard_state: &HardState) -> Result<(), Error> {
        let (first, last) = (self.log.committed, self.log.last_index());
        if !(first..=last).contains(&hard_state.commit) {
            return Err(Error::HardStateOutOfRange {
                commit: hard_state.commit,
                first,
                last,
            });
        }
        self.log.committed = hard_state.commit;
        self.term = hard_state.term;
        self.vote = hard_state.vote;
        Ok(())
    }

    pub(crate) fn soft_state(&self) -> SoftState {
        SoftState {
            lead: self.lead,
            raft_state: self.state,
        }
    }

    pub(crate) fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.log.committed,
        }
    }

    /// Queues a message, with this node as the sender unless it says otherwise, and with the term where one belongs.
    fn send(&mut self, mut m: Message) {
        let Ok(kind) = kind_of(&m) else { return };
        if m.from == NONE {
            m.from = self.id;
        }
        match kind {
            MessageType::MsgVote | MessageType::MsgVoteResp | MessageType::MsgPreVote | MessageType::MsgPreVoteResp => {
                // The term of the campaign, not necessarily the own one. A node without a term has nothing to answer.
                if m.term == 0 {
                    error!(self.logger, "term should be set when sending {}", kind.as_str_name());
                    return;
                }
            }
            // Forwarded to the leader; without a term they count as local there.
            MessageType::MsgProp | MessageType::MsgReadIndex => m.term = 0,
            _ => m.term = self.term,
        }
        match kind {
            MessageType::MsgAppResp if m.to != self.id && mutant::planted("Q01") => self.msgs.push(m),
            MessageType::MsgVoteResp if m.to != self.id && mutant::planted("Q02") => self.msgs.push(m),
            MessageType::MsgAppResp | MessageType::MsgVoteResp | MessageType::MsgPreVoteResp => {
                self.msgs_after_append.push(m);
            }
            _ => self.msgs.push(m),
        }
    }

    /// The application has applied the log up to `index`, in entries of `size` encoded bytes.
    fn applied_to(&mut self, index: u64, size: u64) -> Result<(), Error> {
        let applied = index.max(self.log.applied);
        self.log.applied_to(applied, size)?;
        if self.tracker.config.auto_leave && applied >= self.pending_conf_index && self.state == StateType::Leader {
            let config = self.tracker.config.clone();
            match self.propose_leaving_joint() {
                Ok(()) => {
                    info!(
                        self.logger,
                        "initiating automatic transition out of joint configuration {config}"
                    );
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    debug!(
                        self.logger,
                        "not initiating automatic transition out of joint configuration {config}: {error}"
                    );
                }
            }
        }
        Ok(())
    }

    fn applied_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let index = snapshot_id(snapshot).index;
        self.log.unstable.stable_snapshot_to(index);
        self.applied_to(index, 0)
    }

    /// A clean slate for a new role or term.
    fn reset(&mut self, term: u64) {
        if self.term != term {
            self.term = term;
            self.vote = NONE;
        }
        self.lead = NONE;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        self.randomized_election_timeout = self.election_timeout + self.random.below(self.election_timeout);
        self.lead_transferee = NONE;
        self.tracker.reset_votes();
        let last = self.log.last_index();
        let (max_inflight, max_inflight_bytes) = (self.tracker.max_inflight, self.tracker.max_inflight_bytes);
        for (&id, progress) in &mut self.tracker.progress {
            *progress = Progress {
                matched: if id == self.id { last } else { 0 },
                next: last + 1,
                inflights: Inflights::new(max_inflight, max_inflight_bytes),
                is_learner: progress.is_learner,
                ..Progress::default()
            };
        }
        self.pending_conf_index = 0;
        self.uncommitted_size = 0;
        self.read_only = ReadOnly::new(self.read_only.option);
        self.pending_reads.clear();
    }

    /// One unit of time has passed.
    pub(crate) fn tick(&mut self) -> Result<(), Error> {
        match self.state {
            StateType::Leader => self.tick_heartbeat(),
            StateType::Follower | StateType::Candidate | StateType::PreCandidate => self.tick_election(),
        }
    }

    /// Takes one message, from a peer, from the application or from the node itself.
    pub(crate) fn step(&mut self, m: Message) -> Result<(), Error> {
        let kind = kind_of(&m)?;
        if m.term > self.term {
            if !self.accept_higher_term(kind, &m)? {
                return Ok(());
            }
        } else if m.term != 0 && m.term < self.term && !mutant::planted("Q50") {
            return self.step_lower_term(kind, m);
        }

        match kind {
            MessageType::MsgHup if self.pre_vote => self.hup(election::Campaign::PreElection),
            MessageType::MsgHup => self.hup(election::Campaign::Election),
            MessageType::MsgStorageAppendResp => {
                if m.index != 0 {
                    self.log.unstable.stable_to(EntryId {
                        term: m.log_term,
                        index: m.index,
                    });
                }
                m.snapshot
                    .as_ref()
                    .map_or(Ok(()), |snapshot| self.applied_snapshot(snapshot))
            }
            MessageType::MsgStorageApplyResp => {
                let Some(last) = m.entries.last() else { return Ok(()) };
                self.applied_to(last.index, encoded_size_of(&m.entries))?;
                self.uncommitted_size = self.uncommitted_size.saturating_sub(payload_size_of(&m.entries));
                Ok(())
            }
            MessageType::MsgVote | MessageType::MsgPreVote => self.consider_vote(kind, &m),
            _ => match self.state {
                StateType::Leader => self.step_leader(kind, m),
                StateType::Follower => self.step_follower(kind, m),
                StateType::Candidate | StateType::PreCandidate => self.step_candidate(kind, m),
            },
        }
    }

    /// Takes over a higher term where the message asks for it; false when the message is to be ignored.
    fn accept_higher_term(&mut self, kind: MessageType, m: &Message) -> Result<bool, Error> {
        if matches!(kind, MessageType::MsgVote | MessageType::MsgPreVote) {
            let forced = m.context[..] == *election::CAMPAIGN_TRANSFER;
            let in_lease = self.check_quorum && self.lead != NONE && self.election_elapsed < self.election_timeout;
            if in_lease && !forced {
                let last = self.log.last_entry_id()?;
                info!(
                    self.logger,
                    "{:x} [logterm: {}, index: {}, vote: {:x}] ignored {} from {:x} [logterm: {}, index: {}] at term {}: \
                     lease is not expired (remaining ticks: {})",
                    self.id,
                    last.term,
                    last.index,
                    self.vote,
                    kind.as_str_name(),
                    m.from,
                    m.log_term,
                    m.index,
                    self.term,
                    self.election_timeout - self.election_elapsed
                );
                return Ok(false);
            }
        }
        match kind {
            // A pre-vote never changes the term; a granted one carries the term of the campaign to come.
            MessageType::MsgPreVote => {}
            MessageType::MsgPreVoteResp if !m.reject => {}
            _ => {
                info!(
                    self.logger,
                    "{:x} [term: {}] received a {} message with higher term from {:x} [term: {}]",
                    self.id,
                    self.term,
                    kind.as_str_name(),
                    m.from,
                    m.term
                );
                let from_leader = matches!(
                    kind,
                    MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap
                );
                self.become_follower(m.term, if from_leader { m.from } else { NONE });
            }
        }
        Ok(true)
    }

    fn step_lower_term(&mut self, kind: MessageType, m: Message) -> Result<(), Error> {
        match kind {
            // A leader of an older term. With check-quorum or pre-vote this node could be stuck in its higher term,
            // because nobody takes it over from its vote requests: the answer makes that leader step down.
            MessageType::MsgHeartbeat | MessageType::MsgApp if self.check_quorum || self.pre_vote => {
                self.send(message(MessageType::MsgAppResp, m.from));
            }
            // A candidate of an older term must hear of the newer one, or members could wait for each other for ever
            // while pre-vote is being switched on.
            MessageType::MsgPreVote => {
                self.log_vote("rejected", kind, &m)?;
                let mut reply = message(MessageType::MsgPreVoteResp, m.from);
                reply.term = self.term;
                reply.reject = true;
                self.send(reply);
            }
            MessageType::MsgStorageAppendResp => {
                if m.index != 0 {
                    // The entries may have been replaced since by those of a newer term: do not count them as stable.
                    info!(
                        self.logger,
                        "{:x} [term: {}] ignored entry appends from a {} message with lower term [term: {}]",
                        self.id,
                        self.term,
                        kind.as_str_name(),
                        m.term
                    );
                }
                // A snapshot is committed state, valid in every term.
                if let Some(snapshot) = &m.snapshot {
                    self.applied_snapshot(snapshot)?;
                }
            }
            _ => info!(
                self.logger,
                "{:x} [term: {}] ignored a {} message with lower term from {:x} [term: {}]",
                self.id,
                self.term,
                kind.as_str_name(),
                m.from,
                m.term
            ),
        }
        Ok(())
    }

    pub(crate) fn read_only_option(&self) -> ReadOnlyOption {
        self.read_only.option
    }

    pub(crate) fn set_randomized_election_timeout(&mut self, ticks: u64) {
        self.randomized_election_timeout = ticks;
    }
}
