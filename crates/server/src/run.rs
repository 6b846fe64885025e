//! The run loop: one thread that steps the replica, and three beside it for what may wait — the log, the database, watchers
//! that lag.
//!
//! Invariants:
//! - The replica's thread never touches a disk or a socket, apart from reading what entries read: ticks and heartbeats go on
//!   while a sync takes its time.
//! - Whatever waits is taken at once: one pass proposes everything that came, the log thread writes everything that is ready
//!   with one sync.
//! - The first fatal error ends the loop; who waits hears that the server stopped, never a wrong answer.

mod beside;
mod stopwatch;
mod waiters;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use disk::RealDisk;
use proto::etcdserverpb::Member;
use proto::raftpb::MessageType;
use replica::state_machine::quota::Quota;
use replica::{Fatal, Input, LogWriter, Output, Replica};
use tokio::sync::oneshot;

use self::beside::{DatabaseWork, spawn};
use self::waiters::Waiters;
use crate::handle::{
    Command, Error, Handle, Leadership, Limits, Membership, OutgoingSnapshot, PeerSender, Shared, Vital,
};
use crate::metrics::Metrics;

pub use self::stopwatch::Stopwatch;

type State = replica::state_machine::StateMachine<RealDisk>;

/// Commands taken in one pass, so that ticks are not late under load.
const COMMANDS_MAX: usize = 4096;
/// A removed member waits this long before it stops, so that the others learn of the removal from it too.
const REMOVED_DELAY: Duration = Duration::from_secs(1);
/// How long a start waits for peers before it gives up on electing a leader early (etcd rafthttp.ConnReadTimeout).
const EARLY_ELECTION: Duration = Duration::from_secs(5);
/// Pages that one step of a defragmentation rewrites: commits wait for that long.
const DEFRAGMENT_PAGES: u64 = 512;
/// Bytes of a database per chunk, when it is sent to a peer.
const SNAPSHOT_CHUNK: usize = 256 * 1024;

/// What the run loop is told besides the replica.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Zero of the replica's time.
    pub clock: Instant,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--initial-election-tick-advance`.
    pub early_election: bool,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Why the run loop ended.
#[derive(Debug)]
pub enum Ended {
    /// [`Handle::stop`] was called.
    Stopped,
    /// This member was removed from the cluster: its data must not be used again.
    Removed,
    /// It could not go on. Restart the process: what is durable is known only then.
    Failed(Fatal),
}

/// Starts the threads. The receiver tells when and why they ended; after that, everything is flushed and closed.
///
/// # Errors
/// No thread could be made.
pub fn start(
    replica: Replica<RealDisk>,
    writer: LogWriter<RealDisk>,
    peers: Arc<dyn PeerSender>,
    settings: Settings,
) -> io::Result<(Handle, oneshot::Receiver<Ended>)> {
    let (sender, commands) = mpsc::channel();
    let identity = replica.identity();
    let config = replica.config();
    let leadership = Leadership {
        leader: 0,
        term: replica.term(),
        since: Instant::now(),
    };
    let shared = Arc::new(Shared {
        member_id: identity.member_id,
        cluster_id: identity.cluster_id,
        clock: settings.clock,
        limits: Limits {
            tick: config.tick,
            request_timeout: config.request_timeout(),
            election_timeout: config.election_timeout(),
            max_request_bytes: settings.max_request_bytes,
        },
        ids: replica.ids(),
        vital: Vital::default(),
        membership: RwLock::default(),
        leadership: tokio::sync::watch::Sender::new(leadership),
        peers: peers.clone(),
        snapshot_dir: config.snap_dir(),
        metrics: settings.metrics.clone(),
    });
    let handle = Handle::new(shared.clone(), sender.clone());
    let work = Arc::new(AtomicUsize::new(0));
    let log = beside::log_thread(writer, sender.clone(), settings.metrics.clone())?;
    let database = beside::database_thread(sender.clone(), settings.metrics.clone(), work.clone())?;
    let watches = beside::watch_thread(replica.state().store().watch_hub(), settings.clock)?;
    let (tell_end, ended) = oneshot::channel();
    let mut run = Run {
        next_tick: Instant::now(),
        started: Instant::now(),
        tick: config.tick,
        early_election: settings.early_election,
        election_ticks: config.election_ticks,
        removed_at: None,
        replica,
        commands,
        shared,
        peers,
        settings,
        waiters: Waiters::default(),
        log: log.jobs,
        database: database.jobs,
        database_work: work,
        swept: Instant::now(),
    };
    spawn("replica", move || {
        run.publish_cluster();
        let mut end = match run.run() {
            Ok(end) => end,
            Err(fatal) => Ended::Failed(fatal),
        };
        let result = run.close();
        // Closing the queues ends the threads; the log's last records are synced by its own. Then no file is open any more.
        drop(run);
        watches.close();
        let log = log.thread.join();
        database.thread.join().ok();
        if !matches!(end, Ended::Failed(_)) {
            match (result, log) {
                (Err(fatal), _) | (_, Ok(Err(fatal))) => end = Ended::Failed(fatal),
                (Ok(()), _) => {}
            }
        }
        tell_end.send(end).ok();
    })?;
    Ok((handle, ended))
}

struct Run {
    replica: Replica<RealDisk>,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    peers: Arc<dyn PeerSender>,
    settings: Settings,
    waiters: Waiters,
    log: mpsc::Sender<replica::PersistJob>,
    database: mpsc::Sender<DatabaseWork>,
    /// Jobs that the database thread has not finished.
    database_work: Arc<AtomicUsize>,
    tick: Duration,
    next_tick: Instant,
    started: Instant,
    /// Still to be tried.
    early_election: bool,
    election_ticks: u64,
    removed_at: Option<Instant>,
    swept: Instant,
}

impl Run {
    fn run(&mut self) -> Result<Ended, Fatal> {
        loop {
            let mut command = if self.replica.has_work() {
                match self.commands.try_recv() {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return Ok(Ended::Stopped),
                }
            } else {
                match self
                    .commands
                    .recv_timeout(self.next_tick.saturating_duration_since(Instant::now()))
                {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Ok(Ended::Stopped),
                }
            };
            let mut taken = 0;
            while let Some(next) = command {
                if matches!(next, Command::Stop) {
                    return Ok(Ended::Stopped);
                }
                self.take(next)?;
                taken += 1;
                command = if taken < COMMANDS_MAX {
                    self.commands.try_recv().ok()
                } else {
                    None
                };
            }
            let now = Instant::now();
            if now >= self.next_tick {
                self.on_tick(now)?;
            }
            if self.removed_at.is_some_and(|at| now >= at) {
                return Ok(Ended::Removed);
            }
            let outputs = self.replica.drain(self.settings.clock.elapsed())?;
            for output in outputs {
                self.carry_out(output)?;
            }
            self.publish_vital();
        }
    }

    fn feed(&mut self, input: Input<RealDisk>) -> Result<(), Fatal> {
        self.replica.feed(input, self.settings.clock.elapsed())
    }

    fn stood_still(&self) -> bool {
        Instant::now().saturating_duration_since(self.next_tick) > 2 * self.tick
    }

    fn on_tick(&mut self, now: Instant) -> Result<(), Fatal> {
        let late = now.duration_since(self.next_tick);
        if late > self.tick && self.replica.leads() {
            self.settings.metrics.heartbeat_failures.inc();
        }
        // Ticks that were missed are not made up for: time that this process did not have is no reason for an election.
        self.next_tick = if late > self.tick {
            now + self.tick
        } else {
            self.next_tick + self.tick
        };
        self.feed(Input::Tick)?;
        self.elect_early(now)?;
        if now.duration_since(self.swept) > Duration::from_secs(1) {
            self.swept = now;
            self.waiters.sweep();
        }
        let vital = &self.shared.vital;
        let ticked = u64::try_from(self.settings.clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        vital.ticked_us.store(ticked, Ordering::Release);
        let backend = self.replica.state().backend();
        vital.db_size.store(backend.size() as i64, Ordering::Relaxed);
        vital
            .db_size_in_use
            .store(backend.size_in_use() as i64, Ordering::Relaxed);
        let quota = match self.replica.state().config().quota {
            Quota::Bytes(bytes) => i64::try_from(bytes).unwrap_or(i64::MAX),
            Quota::Unlimited => -1,
        };
        vital.quota.store(quota, Ordering::Relaxed);
        Ok(())
    }

    /// A restarted cluster need not wait a whole election timeout: a single member not at all, others as soon as they see two
    /// peers (etcd etcdserver/server.go adjustTicks).
    fn elect_early(&mut self, now: Instant) -> Result<(), Fatal> {
        if !self.early_election {
            return Ok(());
        }
        let members = self.replica.members();
        let me = self.shared.member_id;
        let alone = members.len() == 1;
        let active = members
            .iter()
            .filter(|member| member.id != me && self.peers.active_since(member.id).is_some());
        if alone || active.count() > 1 {
            self.early_election = false;
            let ticks = self.election_ticks.saturating_sub(if alone { 1 } else { 2 });
            if self.replica.leader() == 0 {
                self.feed(Input::AdvanceTicks(ticks))?;
            }
        } else if now.duration_since(self.started) > EARLY_ELECTION {
            self.early_election = false;
        }
        Ok(())
    }

    fn take(&mut self, command: Command) -> Result<(), Fatal> {
        match command {
            Command::Propose {
                id,
                data,
                wait_compacted,
                reply,
            } => {
                self.waiters.proposal(id, wait_compacted, reply);
                self.feed(Input::Propose(data))
            }
            Command::Configure { change, reply } => {
                self.waiters.change(change.id, reply);
                self.feed(Input::ProposeConfChange(change))
            }
            Command::Linearizable { reply } => {
                let number = self.waiters.read(reply);
                self.feed(Input::Read(number))
            }
            Command::WaitApplied { index, reply } => {
                self.waiters.index(index, reply);
                self.waiters.applied(self.replica.applied());
                Ok(())
            }
            Command::Deliver(message) => self.feed(Input::Message(message)),
            Command::Unreachable(id) => self.feed(Input::Unreachable(id)),
            Command::SnapshotSent { member_id, ok } => self.feed(Input::SnapshotSent { member_id, ok }),
            Command::SnapshotReceived { message, path, reply } => {
                self.feed(Input::SnapshotReceived { message, path })?;
                reply.send(Ok(())).ok();
                Ok(())
            }
            Command::TransferLeader { target } => self.feed(Input::TransferLeader(target)),
            // A leader that stood still may lead no longer and not know it yet: it asks before it promises a lease its life (etcd
            // etcdserver/v3_server.go, ensureLeadership).
            Command::LeaseRenew { id, reply } if self.replica.leads() && self.stood_still() => {
                let number = self.waiters.renewal_to_confirm(id, reply);
                self.feed(Input::Read(number))
            }
            Command::LeaseRenew { id, reply } => {
                self.waiters.renewals.push((id, reply));
                self.renew();
                Ok(())
            }
            Command::LearnerReady { id, reply } => {
                reply.send(self.learner_ready(id)).ok();
                Ok(())
            }
            Command::Defragment { reply } => {
                self.defragment(reply);
                Ok(())
            }
            Command::Defragmented { done, reply } => {
                // So that the pages which the step moved are no longer in use.
                self.replica.refresh_database()?;
                match done {
                    Ok(false) if !reply.is_closed() => self.defragment(reply),
                    done => {
                        reply.send(done.map(|_| ())).ok();
                    }
                }
                Ok(())
            }
            Command::Snapshot { reply } => {
                self.waiters.snapshots.push(reply);
                self.feed(Input::TakeSnapshot)
            }
            Command::Versions(versions) => self.feed(Input::Versions(versions)),
            Command::Persisted(result) => self.feed(Input::Persisted(result?)),
            Command::Committed(result) => self.feed(Input::Committed(result?)),
            Command::Stop => Ok(()),
        }
    }

    /// Queues one step, behind a commit that waits: writes go on while the file shrinks.
    fn defragment(&self, reply: oneshot::Sender<Result<(), Error>>) {
        let db = self.replica.state().backend().db().clone();
        let step = move || {
            db.compact_step(DEFRAGMENT_PAGES)
                .map(|progress| progress.done)
                .map_err(|error| error.to_string())
        };
        self.database_work.fetch_add(1, Ordering::Relaxed);
        self.database
            .send(DatabaseWork::Defragment {
                step: Box::new(step),
                reply,
            })
            .ok();
    }

    fn learner_ready(&self, id: u64) -> Result<(), Error> {
        if !self.replica.leads() {
            return Err(Error::NotLeader);
        }
        match self.replica.match_of(id) {
            None => Err(Error::MemberNotFound),
            // etcd: readyPercentThreshold.
            Some((matched, own)) if (matched as f64) < own as f64 * 0.9 => Err(Error::LearnerNotReady),
            Some(_) => Ok(()),
        }
    }

    /// Renews leases that are waited for; those that have expired wait until they are gone.
    fn renew(&mut self) {
        use replica::state_machine::lease::Renewal;
        let now = self.settings.clock.elapsed();
        let leases = self.replica.state().leases();
        let leads = self.replica.leads();
        let waiting = std::mem::take(&mut self.waiters.renewals);
        for (id, reply) in waiting {
            let answer = match leases.renew(id, now) {
                _ if !leads => Err(Error::NotLeader),
                Renewal::Renewed { ttl } => Ok(ttl),
                Renewal::NotFound => Err(Error::Refused(replica::state_machine::Error::LeaseNotFound)),
                Renewal::NotPrimary => Err(Error::Refused(replica::state_machine::Error::NotPrimary)),
                // A checkpoint only shortens what a new leader gives: the next one will say so again.
                Renewal::ClearCheckpointFirst | Renewal::Expired => {
                    if !reply.is_closed() {
                        self.waiters.renewals.push((id, reply));
                    }
                    continue;
                }
            };
            reply.send(answer).ok();
        }
    }

    fn carry_out(&mut self, output: Output<RealDisk>) -> Result<(), Fatal> {
        match output {
            // A thread that is gone has left its reason in the queue.
            Output::Persist(job) => {
                self.log.send(job).ok();
            }
            Output::Commit(job) => {
                self.database_work.fetch_add(1, Ordering::Relaxed);
                self.database.send(DatabaseWork::Commit(job)).ok();
            }
            Output::Send(messages) => self.peers.send(messages),
            Output::SendSnapshot { message, database } => {
                debug_assert_eq!(message.r#type(), MessageType::MsgSnap);
                let size = database.size();
                let chunks = database
                    .stream(SNAPSHOT_CHUNK)
                    .map(|chunk| chunk.map_err(io::Error::other));
                self.peers.send_snapshot(OutgoingSnapshot {
                    message,
                    size,
                    database: Box::new(chunks),
                });
            }
            Output::SnapshotTaken(view) => self.waiters.snapshot(&view),
            Output::Applied(answers) => {
                for (id, result) in answers {
                    self.waiters.answer(id, result);
                }
            }
            Output::Configured { id, result } => self.waiters.configured(id, result.map(|all| to_proto(all.iter()))),
            Output::ReadsReady(number) => {
                if self.waiters.reads_ready(number) {
                    self.renew();
                }
            }
            Output::Leader { leader, term } => self.publish_leader(leader, term),
            Output::ClusterChanged => self.publish_cluster(),
            Output::Compacted(revision) => self.waiters.compacted(revision),
            Output::Published => self.shared.vital.published.store(true, Ordering::Release),
            Output::Restored => {
                tracing::info!(
                    applied = self.replica.applied(),
                    "went over to a snapshot from the leader"
                );
            }
            Output::Removed => {
                tracing::warn!("this member was removed from the cluster; its data directory must not be used again");
                self.removed_at.get_or_insert(Instant::now() + REMOVED_DELAY);
            }
        }
        Ok(())
    }

    fn publish_leader(&mut self, leader: u64, term: u64) {
        let vital = &self.shared.vital;
        let before = vital.leader.swap(leader, Ordering::AcqRel);
        if leader != before && leader != 0 {
            vital.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        vital.term.store(term, Ordering::Relaxed);
        if leader != before {
            tracing::info!(leader = format!("{leader:x}"), term, "leader changed");
            self.shared.leadership.send_replace(Leadership {
                leader,
                term,
                since: Instant::now(),
            });
        }
    }

    fn publish_cluster(&mut self) {
        let state: &State = self.replica.state();
        let cluster = state.membership();
        let membership = Membership {
            members: to_proto(self.replica.members().iter()),
            removed: cluster.removed().collect(),
            cluster_version: cluster.version().map(ToString::to_string),
            downgrade_target: Some(cluster.downgrade())
                .filter(|job| job.enabled)
                .map(|job| job.target_version),
            alarms: state.alarms().list(0),
        };
        self.peers.set_peers(&membership.members, &membership.removed);
        *self
            .shared
            .membership
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(membership);
    }

    fn publish_vital(&mut self) {
        let vital = &self.shared.vital;
        let applied = self.replica.applied();
        vital.term.store(self.replica.term(), Ordering::Relaxed);
        vital.commit.store(self.replica.committed(), Ordering::Relaxed);
        vital.applied.store(applied, Ordering::Release);
        vital
            .revision
            .store(self.replica.state().store().current_revision(), Ordering::Relaxed);
        vital.is_learner.store(self.replica.is_learner(), Ordering::Relaxed);
        vital
            .proposals_pending
            .store(self.waiters.proposals() as u64, Ordering::Relaxed);
        self.waiters.applied(applied);
        if !self.waiters.renewals.is_empty() {
            self.renew();
        }
    }

    /// Brings the database up to date, as far as nothing failed before.
    fn close(&mut self) -> Result<(), Fatal> {
        self.waiters = Waiters::default();
        let (log, database) = (mpsc::channel().0, mpsc::channel().0);
        self.log = log;
        self.database = database;
        let until = Instant::now() + Duration::from_secs(5);
        while self.database_work.load(Ordering::Acquire) > 0 && Instant::now() < until {
            match self.commands.recv_timeout(Duration::from_millis(10)) {
                Ok(Command::Committed(result)) => self.feed(Input::Committed(result?))?,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Committed(result) = command {
                self.feed(Input::Committed(result?))?;
            }
        }
        self.replica.close()
    }
}

fn to_proto<'a>(members: impl Iterator<Item = &'a replica::state_machine::membership::Member>) -> Vec<Member> {
    members
        .map(|member| Member {
            id: member.id,
            name: member.name.clone(),
            peer_ur_ls: member.peer_urls.clone(),
            client_ur_ls: member.client_urls.clone(),
            is_learner: member.is_learner,
        })
        .collect()
}

#[cfg(test)]
mod tests;
