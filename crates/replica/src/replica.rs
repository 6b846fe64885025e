//! One member: raft, its log in memory, and the state that entries make.
//!
//! Invariants:
//! - Nothing here waits: what takes a disk or a peer goes out as an [`Output`] and comes back as an [`Input`].
//! - Messages that promise something leave only after what they promise is durable (raft's storage messages see to it); a
//!   leader's appends leave before its own write.
//! - An entry is applied only once it is durable here, so the database never gets ahead of the log.
//! - A member that does not lead applies a change of members before it sends anything that was decided after it: votes are
//!   counted by the right configuration.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use disk::Disk;
use proto::raftpb::{Entry, HardState, Message, MessageType};
use raft::{MemoryStorage, RawNode, StateType, Storage};
use state_machine::membership::Member;
use state_machine::{Error, Response, StateMachine, Uptime};
use wal::Snapshotter;

use crate::bootstrap::{self, Opened};
use crate::compactor::Compactor;
use crate::config::{Config, Identity, Incarnation};
use crate::duties::{Duties, Errand};
use crate::error::{Fatal, OpenError};
use crate::ids::RequestIds;
use crate::io::{Input, Output};
use crate::observer::Work;
use crate::reads::Reads;
use crate::snapshots::Snapshots;
use crate::writer::{LogWriter, PersistJob, Persisted};

/// Entries applied between two looks at the messages.
const APPLY_BUDGET: usize = 256;

/// A client's request that raft has not taken yet.
#[derive(Debug)]
struct Proposal {
    data: Bytes,
    since: Uptime,
    /// Decided by this member as the leader: it means nothing once another one leads, and must not be forwarded.
    as_leader: bool,
}

/// Committed entries on their way into the state, and what to tell raft afterwards.
#[derive(Debug)]
struct ApplyTask {
    entries: std::vec::IntoIter<Entry>,
    responses: Vec<Message>,
}

/// See the module.
pub struct Replica<D: Disk> {
    pub(crate) disk: D,
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    incarnation: Incarnation,
    pub(crate) ids: Arc<RequestIds>,
    pub(crate) raft: RawNode<MemoryStorage>,
    pub(crate) state: StateMachine<D>,
    pub(crate) snapshotter: Snapshotter<D>,
    pub(crate) snapshots: Snapshots,
    pub(crate) duties: Duties,
    pub(crate) compactor: Option<Compactor>,
    reads: Reads,
    proposals: VecDeque<Proposal>,
    /// Raft refused proposals; wait for a tick or a new leader before trying again.
    proposals_blocked: bool,
    apply_queue: VecDeque<ApplyTask>,
    jobs_made: u64,
    jobs_done: u64,
    /// Term and vote of the last job.
    vote_made: (u64, u64),
    /// A hard state that only moves the commit index, not yet in any job.
    commit_deferred: Option<HardState>,
    /// Last told to the shell.
    leader: u64,
    term: u64,
    leads: bool,
    founders: Vec<Member>,
    pub(crate) outputs: Vec<Output<D>>,
    answers: Vec<(u64, Result<Response, Error>)>,
    /// What this member proposed on its own account, by request id.
    pub(crate) errands: BTreeMap<u64, Errand>,
    outgoing: Vec<Message>,
}

impl<D: Disk> Replica<D> {
    /// Opens a member: finds out from the data directory how to go on, or begins as `config.start` says.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed then that a later attempt could not deal with.
    pub fn open(disk: D, config: Config, now: Uptime) -> Result<(Replica<D>, LogWriter<D>), OpenError> {
        let Opened {
            identity,
            wal,
            snapshotter,
            state,
            storage,
            applied,
            members,
            incarnation,
        } = bootstrap::open(&disk, &config)?;
        let raft_config = raft::Config {
            id: identity.member_id,
            election_tick: config.election_ticks,
            heartbeat_tick: 1,
            applied,
            async_storage_writes: true,
            check_quorum: true,
            pre_vote: config.pre_vote,
            step_down_on_removal: true,
            max_size_per_msg: config.append_bytes,
            seed: config.seed ^ identity.member_id,
            ..raft::Config::default()
        };
        let snapshot_index = storage.first_index() - 1;
        let raft = RawNode::new(raft_config, storage)?;
        let writer = LogWriter::new(wal, snapshotter.clone(), &config);
        let mut replica = Replica {
            disk,
            ids: Arc::new(RequestIds::new(identity.member_id, config.unix_ms)),
            identity,
            incarnation,
            snapshots: Snapshots::new(snapshot_index, applied, now),
            duties: Duties::default(),
            compactor: config.auto_compaction.map(|mode| Compactor::new(mode, now)),
            reads: Reads::default(),
            proposals: VecDeque::new(),
            proposals_blocked: false,
            apply_queue: VecDeque::new(),
            jobs_made: 0,
            jobs_done: 0,
            vote_made: {
                let stored = raft.storage().hard_state();
                (stored.term, stored.vote)
            },
            commit_deferred: None,
            leader: raft.leader(),
            term: raft.term(),
            leads: false,
            founders: members,
            outputs: Vec::new(),
            answers: Vec::new(),
            errands: BTreeMap::new(),
            outgoing: Vec::new(),
            config,
            raft,
            state,
            snapshotter,
        };
        if replica.state.membership().is_removed(identity.member_id) {
            replica.outputs.push(Output::Removed);
        }
        Ok((replica, writer))
    }

    /// Takes an input and does all that follows from it. [`Replica::feed`] and [`Replica::drain`] are the same in parts, for a
    /// shell that takes many inputs at once.
    ///
    /// # Errors
    /// [`Fatal`]: stop the member. The replica must not be used after one.
    pub fn step(&mut self, input: Input<D>, now: Uptime) -> Result<Vec<Output<D>>, Fatal> {
        self.feed(input, now)?;
        let mut outputs = Vec::new();
        while self.has_work() {
            outputs.append(&mut self.drain(now)?);
        }
        Ok(outputs)
    }

    /// Takes note of an input.
    ///
    /// # Errors
    /// As [`Replica::step`].
    pub fn feed(&mut self, input: Input<D>, now: Uptime) -> Result<(), Fatal> {
        match input {
            Input::Tick => self.tick(now)?,
            Input::Message(message) => self.receive(message)?,
            Input::Propose(data) => self.queue_proposal(data, false, now),
            Input::ProposeConfChange(change) => {
                let id = change.id;
                if let Err(error) = self.raft.propose_conf_change(change) {
                    self.refuse_fatal(&error)?;
                    let result = Err(Error::Other(error.to_string()));
                    self.outputs.push(Output::Configured { id, result });
                }
            }
            Input::Read(number) => self.reads.arrive(number),
            Input::Persisted(persisted) => self.persisted(persisted, now)?,
            Input::Committed(committed) => self.committed_to_disk(committed)?,
            Input::Unreachable(id) => self.raft.report_unreachable(id)?,
            Input::SnapshotSent { member_id, ok } => self.snapshot_sent(member_id, ok, now)?,
            Input::SnapshotReceived { message, path } => self.snapshot_received(*message, &path)?,
            Input::TakeSnapshot => {
                self.snapshots.take = true;
                self.commit_if_due(now)?;
            }
            Input::TransferLeader(id) => self.raft.transfer_leader(id)?,
            Input::Versions(servers) => self.propose_cluster_version(&servers, now),
            Input::AdvanceTicks(ticks) => {
                for _ in 0..ticks.min(self.config.election_ticks) {
                    self.raft.tick()?;
                }
            }
        }
        Ok(())
    }

    /// Brings the database up to the last applied entry, at the end of a process. No commit may be under way; if one is, the log
    /// has what is missing.
    ///
    /// # Errors
    /// As [`Replica::step`].
    pub fn close(&mut self) -> Result<(), Fatal> {
        if !self.snapshots.is_committing() {
            self.state.commit()?;
        }
        Ok(())
    }

    /// Looks at the database file as it is now: after a step of its compaction.
    ///
    /// # Errors
    /// As [`Replica::step`].
    pub fn refresh_database(&mut self) -> Result<(), Fatal> {
        Ok(self.state.backend_mut().refresh()?)
    }

    /// Whether [`Replica::drain`] has something to do.
    pub fn has_work(&self) -> bool {
        !self.outputs.is_empty()
            || !self.answers.is_empty()
            || !self.outgoing.is_empty()
            || self.raft.has_ready()
            || !self.apply_queue.is_empty()
            || self.reads.wants_to_ask()
            || (self.may_propose() && !self.proposals.is_empty())
            || self.raft.leader() != self.leader
            || self.raft.term() != self.term
    }

    /// Does a part of the work: first what lets others go on, then some of the applying.
    ///
    /// # Errors
    /// As [`Replica::step`].
    pub fn drain(&mut self, now: Uptime) -> Result<Vec<Output<D>>, Fatal> {
        self.propose()?;
        let ids = &self.ids;
        if let Some(context) = self.reads.question(now, || ids.next()) {
            self.raft.read_index(context)?;
        }
        if self.raft.has_ready() {
            self.take_ready(now)?;
        }
        self.note_leadership(now);
        self.flush_messages();
        self.apply(APPLY_BUDGET, now)?;
        if let Some(number) = self.reads.ready(self.applied()) {
            self.outputs.push(Output::ReadsReady(number));
        }
        if !self.answers.is_empty() {
            self.outputs.push(Output::Applied(std::mem::take(&mut self.answers)));
        }
        self.flush_messages();
        self.commit_if_due(now)?;
        Ok(std::mem::take(&mut self.outputs))
    }

    pub(crate) fn queue_proposal(&mut self, data: Bytes, as_leader: bool, now: Uptime) {
        self.proposals.push_back(Proposal {
            data,
            since: now,
            as_leader,
        });
    }

    fn may_propose(&self) -> bool {
        !self.proposals_blocked && self.raft.leader() != raft::NONE
    }

    /// Hands waiting requests to raft, all in one go: one append, one write, one message per peer.
    fn propose(&mut self) -> Result<(), Fatal> {
        // A lease that ran out here may live on under the new leader (etcd #15247).
        if self.raft.state() != StateType::Leader && !(mutant::planted("H40") || mutant::planted("Q25")) {
            self.proposals.retain(|proposal| !proposal.as_leader);
        }
        if self.proposals.is_empty() || !self.may_propose() {
            return Ok(());
        }
        let data = self.proposals.iter().map(|proposal| proposal.data.clone());
        match self.raft.propose_all(data) {
            Ok(()) => self.proposals.clear(),
            Err(error) => {
                self.refuse_fatal(&error)?;
                // A transfer of leadership is under way, or the like: they wait, as they do without a leader.
                self.proposals_blocked = true;
            }
        }
        Ok(())
    }

    fn receive(&mut self, message: Message) -> Result<(), Fatal> {
        // A snapshot without its database, or work of the storage threads, is nothing that a peer may send this way.
        let kind = message.r#type();
        if kind == MessageType::MsgSnap || raft::is_local(kind) || raft::is_local_target(message.from) {
            return Ok(());
        }
        self.step_raft(message)
    }

    pub(crate) fn step_raft(&mut self, message: Message) -> Result<(), Fatal> {
        match self.raft.step(message) {
            Err(error) => self.refuse_fatal(&error),
            Ok(()) => Ok(()),
        }
    }

    fn refuse_fatal(&self, error: &raft::Error) -> Result<(), Fatal> {
        if error.is_fatal() {
            Err(Fatal::Raft(error.clone()))
        } else {
            Ok(())
        }
    }

    fn tick(&mut self, now: Uptime) -> Result<(), Fatal> {
        self.raft.tick()?;
        self.reads.tick(now);
        self.proposals_blocked = false;
        let limit = self.config.request_timeout();
        // Whoever waits for these has given up.
        while self
            .proposals
            .front()
            .is_some_and(|proposal| now.saturating_sub(proposal.since) > limit)
        {
            self.proposals.pop_front();
        }
        if self.commit_deferred.is_some() {
            self.make_job(PersistJob::default());
        }
        self.do_duties(now)
    }

    /// Carries out what raft decided.
    fn take_ready(&mut self, now: Uptime) -> Result<(), Fatal> {
        let ready = self.raft.ready()?;
        for read in &ready.read_states {
            self.reads.answer(&read.request_ctx, read.index);
        }
        let mut changes_members = false;
        for message in ready.messages {
            match message.to {
                raft::LOCAL_APPEND_THREAD => self.persist(message)?,
                raft::LOCAL_APPLY_THREAD => {
                    changes_members |= message.entries.iter().any(|entry| entry.r#type != 0);
                    let Message { entries, responses, .. } = message;
                    self.apply_queue.push_back(ApplyTask {
                        entries: entries.into_iter(),
                        responses,
                    });
                }
                _ if message.r#type() == MessageType::MsgSnap => self.snapshots.wanted.push(message),
                _ => self.outgoing.push(message),
            }
        }
        if changes_members && self.raft.state() != StateType::Leader {
            self.apply(usize::MAX, now)?;
        }
        Ok(())
    }

    /// Turns raft's storage message into a job for the log writer.
    fn persist(&mut self, message: Message) -> Result<(), Fatal> {
        let hard_state = HardState {
            term: message.term,
            vote: message.vote,
            commit: message.commit,
        };
        let Message {
            entries,
            snapshot: received,
            responses,
            ..
        } = message;
        let quiet = hard_state == HardState::default() || (hard_state.term, hard_state.vote) == self.vote_made;
        if quiet && entries.is_empty() && received.is_none() {
            // A commit index need not be durable: it goes with the next write, or with the next tick.
            if hard_state != HardState::default() {
                self.commit_deferred = Some(hard_state);
            }
            if responses.is_empty() {
                return Ok(());
            }
            if self.jobs_done == self.jobs_made {
                return self.respond(responses);
            }
        }
        self.make_job(PersistJob {
            number: 0,
            received,
            hard_state,
            entries,
            own: None,
            responses,
        });
        Ok(())
    }

    /// Makes a snapshot of this member's own state known to the log.
    pub(crate) fn persist_own(&mut self, snapshot: proto::raftpb::Snapshot) {
        self.make_job(PersistJob {
            own: Some(snapshot),
            ..PersistJob::default()
        });
    }

    fn make_job(&mut self, mut job: PersistJob) {
        self.jobs_made += 1;
        job.number = self.jobs_made;
        let deferred = self.commit_deferred.take();
        if job.hard_state == HardState::default() {
            job.hard_state = deferred.unwrap_or_default();
        }
        if job.hard_state != HardState::default() {
            self.vote_made = (job.hard_state.term, job.hard_state.vote);
        }
        self.outputs.push(Output::Persist(job));
    }

    /// Says what may be said once everything before it is durable: to raft, or to peers.
    fn respond(&mut self, responses: Vec<Message>) -> Result<(), Fatal> {
        for response in responses {
            if response.to == self.identity.member_id {
                self.step_raft(response)?;
            } else {
                self.outgoing.push(response);
            }
        }
        Ok(())
    }

    fn persisted(&mut self, persisted: Persisted, now: Uptime) -> Result<(), Fatal> {
        for job in persisted.jobs {
            if job.number != self.jobs_done + 1 {
                return Err(Fatal::OutOfOrder {
                    expected: self.jobs_done + 1,
                    found: job.number,
                });
            }
            self.jobs_done += 1;
            let storage = self.raft.storage_mut();
            if let Some(snapshot) = &job.received {
                storage.apply_snapshot(snapshot.clone()).map_err(raft::Error::from)?;
            }
            storage.append(&job.entries).map_err(raft::Error::from)?;
            if job.hard_state != HardState::default() {
                storage.set_hard_state(job.hard_state);
            }
            if let Some(snapshot) = job.received {
                // What was committed before it comes first.
                self.apply(usize::MAX, now)?;
                self.restore(&snapshot)?;
            }
            self.respond(job.responses)?;
        }
        Ok(())
    }

    /// Applies up to `budget` entries.
    fn apply(&mut self, budget: usize, now: Uptime) -> Result<(), Fatal> {
        let mut left = budget;
        while left > 0
            && let Some(task) = self.apply_queue.front_mut()
        {
            match task.entries.next() {
                Some(entry) if entry.r#type == 0 => self.apply_normal(&entry, now)?,
                Some(entry) => self.apply_conf_change(&entry)?,
                None => {
                    if let Some(task) = self.apply_queue.pop_front() {
                        for response in task.responses {
                            self.step_raft(response)?;
                        }
                    }
                    continue;
                }
            }
            left -= 1;
        }
        // The answer of a task whose last entry fell on the budget should not wait for the next round.
        if let Some(task) = self.apply_queue.front()
            && task.entries.len() == 0
            && let Some(task) = self.apply_queue.pop_front()
        {
            for response in task.responses {
                self.step_raft(response)?;
            }
        }
        self.shorten_log_in_memory(now)
    }

    fn apply_normal(&mut self, entry: &Entry, now: Uptime) -> Result<(), Fatal> {
        let applied = match &self.config.observer {
            None => self.state.apply(entry, now)?,
            Some(observer) => {
                observer.begins(Work::Apply);
                let applied = self.state.apply(entry, now)?;
                if let Some(result) = &applied.result {
                    observer.applied(applied.kind, result.is_ok());
                }
                observer.ends(Work::Apply);
                applied
            }
        };
        if entry.data.is_empty() {
            self.first_commit_in_term(entry.term, now);
        }
        self.carry_out(&applied.actions, now)?;
        let Some(result) = applied.result else { return Ok(()) };
        if !self.ids.are_of_this_member(applied.id) {
            return Ok(());
        }
        match self.errands.remove(&applied.id) {
            Some(errand) => self.errand_done(errand, &result),
            None if matches!(result, Err(Error::NoSpace)) && self.duties.alarm_under_way() => {
                // The client hears of it when the alarm stands, as in etcd.
                self.duties.after_alarm.push((applied.id, result));
            }
            None => self.answers.push((applied.id, result)),
        }
        Ok(())
    }

    fn apply_conf_change(&mut self, entry: &Entry) -> Result<(), Fatal> {
        let applied = self.state.apply_conf_change(entry)?;
        let Some(change) = &applied.for_raft else { return Ok(()) };
        let conf_state = self.raft.apply_conf_change(change.clone())?;
        if matches!(applied.result, Some(Ok(_))) {
            self.state.set_conf_state(conf_state);
            self.outputs.push(Output::ClusterChanged);
        }
        if let Some(result) = applied.answer(&self.state)
            && self.ids.are_of_this_member(applied.id)
        {
            self.outputs.push(Output::Configured { id: applied.id, result });
        }
        if applied.removed_self {
            self.outputs.push(Output::Removed);
        }
        Ok(())
    }

    /// The empty entry of a new leader: reads that were dropped in between may be asked again, and the leader's leases begin to
    /// run.
    fn first_commit_in_term(&mut self, term: u64, now: Uptime) {
        self.reads.ask_again();
        if self.raft.state() == StateType::Leader && term == self.raft.term() {
            self.state.promote(self.config.election_timeout(), now);
        }
    }

    fn note_leadership(&mut self, now: Uptime) {
        let (leader, term) = (self.raft.leader(), self.raft.term());
        let leads = self.raft.state() == StateType::Leader;
        if self.leads && !leads && !mutant::planted("Q25") {
            self.state.demote();
        }
        self.leads = leads;
        if (leader, term) != (self.leader, self.term) {
            if leader != self.leader && leader != raft::NONE {
                self.reads.ask_again();
                self.proposals_blocked = false;
                self.publish_if_needed(now);
            }
            (self.leader, self.term) = (leader, term);
            self.outputs.push(Output::Leader { leader, term });
        }
    }

    fn flush_messages(&mut self) {
        let cluster = self.state.membership();
        let mut messages = std::mem::take(&mut self.outgoing);
        messages.retain(|message| message.to != self.identity.member_id && !cluster.is_removed(message.to));
        // Of several acknowledgements to one leader only the last matters.
        if messages.len() > 1 {
            let accepts = |m: &Message| m.r#type() == MessageType::MsgAppResp && !m.reject;
            let mut later: Vec<(u64, u64)> = Vec::new();
            let mut keep: Vec<bool> = messages
                .iter()
                .rev()
                .map(|m| {
                    let key = (m.to, m.term);
                    let repeated = accepts(m) && later.contains(&key);
                    if accepts(m) {
                        later.push(key);
                    }
                    !repeated
                })
                .collect();
            messages.retain(|_| keep.pop().unwrap_or(true));
        }
        if !messages.is_empty() {
            self.outputs.push(Output::Send(messages));
        }
    }
}

impl<D: Disk> fmt::Debug for Replica<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("identity", &self.identity)
            .field("raft", &self.raft.basic_status())
            .field("applied", &self.applied())
            .finish_non_exhaustive()
    }
}

/// What the shell may look at between two steps.
impl<D: Disk> Replica<D> {
    /// Who this is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The random name of the data directory.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Makes ids for requests of this member; shared with the shell.
    pub fn ids(&self) -> Arc<RequestIds> {
        self.ids.clone()
    }

    /// The state: its readers, leases, members and sizes.
    pub fn state(&self) -> &StateMachine<D> {
        &self.state
    }

    /// What entries did, when the state machine's `audit` is set.
    pub fn take_audits(&mut self) -> Vec<state_machine::Audit> {
        self.state.take_audits()
    }

    /// The configuration that raft goes by.
    pub fn conf_state(&self) -> proto::raftpb::ConfState {
        self.raft.conf_state()
    }

    /// What the replica was told.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The leader it knows, 0 without one.
    pub fn leader(&self) -> u64 {
        self.raft.leader()
    }

    /// Whether this member leads.
    pub fn leads(&self) -> bool {
        self.raft.state() == StateType::Leader
    }

    /// Whether this member is a learner.
    pub fn is_learner(&self) -> bool {
        self.raft.is_learner()
    }

    /// The raft term.
    pub fn term(&self) -> u64 {
        self.raft.term()
    }

    /// The last committed entry known here.
    pub fn committed(&self) -> u64 {
        self.raft.committed()
    }

    /// The last applied entry.
    pub fn applied(&self) -> u64 {
        self.state.applied().index
    }

    /// Members to talk to: those of the state, or, before it knows any, those that the start named.
    pub fn members(&self) -> Vec<Member> {
        let known: Vec<Member> = self.state.membership().members().cloned().collect();
        if known.is_empty() { self.founders.clone() } else { known }
    }

    /// How far a member's log is as this leader knows: (its match index, the leader's own). `None` when this member does not
    /// lead or does not know it.
    pub fn match_of(&self, id: u64) -> Option<(u64, u64)> {
        if !self.leads() {
            return None;
        }
        let of = |wanted: u64| {
            self.raft
                .progress()
                .find(|(id, _)| *id == wanted)
                .map(|(_, progress)| progress.matched)
        };
        Some((of(id)?, of(self.identity.member_id)?))
    }
}
