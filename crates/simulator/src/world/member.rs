//! A member: its disk, and the process that runs on it, if one does.
//!
//! Invariants:
//! - What a process holds is gone with it; only the disk stays, and of that only what a power cut leaves.
//! - A process may end by itself only when something was done to its disk.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::{Disk, File, MemoryDisk, Open};
use prost::Message as _;
use proto::raftpb::{Message, MessageType};
use replica::state_machine::mvcc::{Notify, WatchHub, watch};
use replica::state_machine::{Error, Response, check_file};
use replica::{AutoCompaction, CommitJob, Config, Input, LogWriter, Output, PersistJob, Replica, Start};

use super::{DatabaseDone, Event, Life, MS, SECOND, TTL_MIN, Time, Transfer, World, uptime};
use crate::client::Answer;

/// Pages that one step of a defragmentation moves.
const DEFRAGMENT_PAGES: u64 = 16;

/// See the module.
pub struct Member {
    pub(crate) name: String,
    pub(crate) disk: MemoryDisk,
    /// Counts starts.
    pub(crate) life: u64,
    pub(crate) process: Option<Process>,
    pub(crate) paused_until: Time,
    start: Start,
    /// It was removed from the cluster and stopped.
    pub(crate) removed: bool,
    /// Its disk may have lost what was promised: it must not come back under its name.
    pub(crate) lost: bool,
    /// Something was done to its disk, so it may stop, and may be unable to start.
    pub(crate) excused: bool,
    /// Syncs lied, or failed and were forgotten, since the last time all was durable: the next power cut loses promises.
    pub(crate) doubtful: bool,
    /// Syncs of its disk that had failed before the piece of work under way.
    failed_syncs: u64,
    /// Its disk has a limit.
    pub(crate) limited: bool,
    /// How many microseconds its clock gains in a thousand.
    drift: i64,
    /// Its wall clock is off by this many milliseconds.
    pub(crate) wall_offset: i64,
    /// Its disk takes this much longer.
    pub(crate) slowness: Time,
    /// Power is cut at the next message sent.
    pub(crate) cut_at_message: bool,
    /// The next start meets a power cut.
    pub(crate) cut_at_start: Option<u64>,
}

/// What wakes the watch thread and its readers.
#[derive(Default)]
pub(crate) struct Flag(AtomicBool);

impl Notify for Flag {
    fn notify(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A running process.
pub struct Process {
    pub(crate) replica: Replica<MemoryDisk>,
    pub(crate) writer: LogWriter<MemoryDisk>,
    log_waiting: Vec<PersistJob>,
    pub(crate) log_busy: bool,
    database_waiting: VecDeque<DatabaseWork>,
    database_busy: bool,
    draining: bool,
    started: Time,
    drift: i64,
    pub(crate) proposals: BTreeMap<u64, (usize, u64)>,
    pub(crate) reads: VecDeque<(u64, usize, u64, crate::client::Request)>,
    pub(crate) reads_made: u64,
    pub(crate) hub: WatchHub<MemoryDisk>,
    hub_flag: Arc<Flag>,
    watches_busy: bool,
    pub(crate) configured: BTreeMap<u64, bool>,
    last_revision: i64,
    last_applied: u64,
    published: bool,
}

enum DatabaseWork {
    Commit(CommitJob<MemoryDisk>),
    Defragment,
}

impl Process {
    pub(crate) fn uptime(&self, now: Time) -> std::time::Duration {
        let passed = now.saturating_sub(self.started) as i64;
        uptime((passed + passed * self.drift / 1000).max(0) as u64)
    }
}

impl World {
    pub(crate) fn add_member(&mut self, id: u64, name: &str, start: Start) {
        let seed = self.random.any();
        let disk = MemoryDisk::new(seed);
        let made = disk
            .create_dir_all(Path::new("/data"))
            .and_then(|()| disk.sync_dir(Path::new("/")));
        if let Err(error) = made {
            self.fail(format!("a fresh disk: {error}"));
        }
        let drift = self.swarm.drift as i64;
        let drift = self.random.within(0, drift as u64 * 2) as i64 - drift;
        let member = Member {
            name: name.to_owned(),
            disk,
            life: 0,
            process: None,
            paused_until: 0,
            start,
            removed: false,
            lost: false,
            excused: false,
            doubtful: false,
            failed_syncs: 0,
            limited: false,
            drift,
            wall_offset: 0,
            slowness: 0,
            cut_at_message: false,
            cut_at_start: None,
        };
        self.members.insert(id, member);
    }

    fn config(&mut self, id: u64) -> Option<Config> {
        let seed = self.random.any();
        let incarnation = u128::from(self.random.any()) << 64 | u128::from(self.random.any());
        let swarm = &self.swarm;
        let member = self.members.get(&id)?;
        let unix_ms = (1_700_000_000_000 + (self.now / MS) as i64 + member.wall_offset) as u64;
        let mut config = Config {
            data_dir: PathBuf::from("/data"),
            name: member.name.clone(),
            client_urls: vec![format!("http://{}:2379", member.name)],
            start: member.start.clone(),
            tick: uptime(swarm.tick),
            election_ticks: swarm.election_ticks,
            pre_vote: swarm.pre_vote,
            snapshot_count: swarm.snapshot_count,
            catch_up_entries: swarm.catch_up_entries,
            memory_interval: swarm.memory_interval,
            release_delay: uptime(swarm.release_delay),
            append_bytes: swarm.append_bytes,
            compaction_batch: swarm.compaction_batch,
            compaction_pause: uptime(swarm.compaction_pause),
            log_segments_max: swarm.log_files,
            segment_bytes: swarm.segment_bytes,
            commit_interval: uptime(swarm.commit_interval),
            auto_compaction: swarm.auto_compaction.map(AutoCompaction::Revision),
            seed,
            unix_ms,
            incarnation,
            ..Config::default()
        };
        config.state.audit = true;
        config.state.lease.ttl_seconds_min = TTL_MIN;
        config.state.lease.checkpoint = swarm.checkpoint;
        config.state.lease.checkpoint_interval = uptime(700 * MS);
        config.state.lease.retry_interval = uptime(1500 * MS);
        config.state.backend.batch_ops_max = swarm.batch_ops;
        config.state.backend.file.page_size = swarm.page_size;
        config.state.backend.file.cache_bytes = 256 << 10;
        config.state.backend.file.growth_bytes = 64 << 10;
        config.state.backend.file.freelist_pages_max = 4;
        Some(config)
    }

    /// Starts a member: what its disk holds decides how.
    pub(crate) fn start(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.process.is_some() || member.removed || member.lost {
            return;
        }
        member.life += 1;
        member.paused_until = 0;
        if let Some(calls) = member.cut_at_start.take() {
            member.disk.cut_power_at(member.disk.operations() + calls);
        }
        let (disk, drift) = (member.disk.clone(), member.drift);
        let Some(config) = self.config(id) else {
            return;
        };
        self.figures.starts += 1;
        let failed_syncs = disk.failed_syncs();
        let opened = Replica::open(disk.clone(), config, uptime(0));
        if opened.is_ok() && disk.failed_syncs() > failed_syncs {
            let name = self.name(id);
            return self.fail(format!("{name} started in spite of a failed sync"));
        }
        let name = self.name(id);
        let (replica, writer) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.story.tell(self.now, || format!("{name} cannot start: {error}"));
                return self.died(id, "start", &error.to_string());
            }
        };
        let problems = check_file(&replica.state().snapshot());
        self.figures.fsck += 1;
        if let Some(problem) = problems.first() {
            let excused = self
                .members
                .get(&id)
                .is_some_and(|member| member.excused || member.disk.is_off());
            if !excused {
                return self.fail(format!("the database of {name} is damaged after a start: {problem:?}"));
            }
        }
        let applied = replica.applied();
        let term = replica.term();
        self.story.note(&[1, id, self.now, applied, term]);
        self.story
            .tell(self.now, || format!("{name} starts: term {term}, applied {applied}"));
        let hub = replica.state().store().watch_hub();
        let hub_flag = Arc::new(Flag::default());
        hub.set_driver(hub_flag.clone());
        let last_revision = replica.state().store().current_revision();
        let process = Process {
            replica,
            writer,
            log_waiting: Vec::new(),
            log_busy: false,
            database_waiting: VecDeque::new(),
            database_busy: false,
            draining: false,
            started: self.now,
            drift,
            proposals: BTreeMap::new(),
            reads: VecDeque::new(),
            reads_made: 0,
            hub,
            hub_flag,
            watches_busy: false,
            configured: BTreeMap::new(),
            last_revision,
            last_applied: applied,
            published: false,
        };
        let clean = !disk.is_off();
        if let Some(member) = self.members.get_mut(&id) {
            member.process = Some(process);
            if clean && !member.doubtful && !member.limited {
                member.excused = false;
            }
        }
        // What came back from the disk is what the log made, up to its index.
        if let Some(right) = self.truth.revision_at(applied).filter(|right| *right != last_revision) {
            return self.fail(format!(
                "{name} comes back at revision {last_revision} with index {applied}, where {right} is right"
            ));
        }
        if !disk.is_off() {
            self.compare_with_model(id);
        }
        let life = self.life(id);
        // A cut that the start did not reach is waiting for what comes after it.
        let first = self.random.within(0, self.swarm.tick);
        self.after(first, Event::Tick(life));
        self.wake(life);
    }

    pub(crate) fn tick(&mut self, life: Life) {
        let Some(member) = self.members.get(&life.member) else {
            return;
        };
        let tick = self.swarm.tick as i64;
        let period = (tick - tick * member.drift / 1000) as u64;
        self.after(period, Event::Tick(life));
        self.feed(life, Input::Tick);
        if let Some(process) = self.process(life.member)
            && process.replica.leads()
            && !process.replica.conf_state().voters.contains(&life.member)
        {
            let name = self.name(life.member);
            return self.fail(format!("{name} leads, but is no voter any more"));
        }
        let pause = 0;
        self.wake_watches(life, pause);
    }

    pub(crate) fn feed(&mut self, life: Life, input: Input<MemoryDisk>) {
        let now = self.now;
        let Some(process) = self.process(life.member) else {
            return;
        };
        let uptime = process.uptime(now);
        if let Err(fatal) = process.replica.feed(input, uptime) {
            return self.died(life.member, "replica", &fatal.to_string());
        }
        self.absorb(life.member);
        self.wake(life);
    }

    /// Lets the replica's thread do its work soon.
    fn wake(&mut self, life: Life) {
        let laziness = self.swarm.laziness;
        let Some(process) = self.process(life.member) else {
            return;
        };
        if process.draining || !process.replica.has_work() {
            return;
        }
        process.draining = true;
        let delay = if laziness == 0 {
            1
        } else {
            self.random.within(1, laziness)
        };
        self.after(delay, Event::Drain(life));
    }

    pub(crate) fn drain(&mut self, life: Life) {
        let now = self.now;
        let Some(process) = self.process(life.member) else {
            return;
        };
        process.draining = false;
        let uptime = process.uptime(now);
        let outputs = match process.replica.drain(uptime) {
            Ok(outputs) => outputs,
            Err(fatal) => return self.died(life.member, "replica", &fatal.to_string()),
        };
        self.absorb(life.member);
        for output in outputs {
            // The power may fail at any of them.
            if self.life(life.member) != life {
                return;
            }
            self.carry_out(life, output);
        }
        self.wake(life);
        let due = self
            .process(life.member)
            .is_some_and(|process| process.hub_flag.0.swap(false, Ordering::Relaxed));
        if due {
            self.wake_watches(life, self.swarm.laziness + 1);
        }
    }

    /// Looks at what a replica did, before anybody else can.
    fn absorb(&mut self, id: u64) {
        let now = self.now;
        let Some(process) = self.process(id) else {
            return;
        };
        let audits = process.replica.take_audits();
        let (revision, applied, term) = (
            process.replica.state().store().current_revision(),
            process.replica.applied(),
            process.replica.term(),
        );
        let leads = process.replica.leads();
        let fell = revision < process.last_revision || applied < process.last_applied;
        let was = (process.last_revision, process.last_applied);
        (process.last_revision, process.last_applied) = (revision, applied);
        if fell {
            let name = self.name(id);
            return self.fail(format!(
                "{name} fell from revision {} and index {} to {revision} and {applied}",
                was.0, was.1
            ));
        }
        for audit in audits {
            self.figures.entries += 1;
            let index = audit.index;
            if audit.kind != 0
                && let Ok(change) = proto::raftpb::ConfChange::decode(audit.data.clone())
            {
                self.open_changes.remove(&change.id);
            }
            self.story.note(&[2, id, index, audit.term, audit.writes]);
            match self.truth.applied(id, audit, now) {
                Ok(_) => {}
                Err(reason) => return self.fail(reason),
            }
        }
        if leads {
            let result = self.truth.leads(id, term);
            self.must(result);
        }
        if let Some(right) = self.truth.revision_at(applied).filter(|right| *right != revision) {
            let name = self.name(id);
            self.fail(format!(
                "{name} is at revision {revision} after index {applied}, where {right} is right"
            ));
        }
    }

    fn carry_out(&mut self, life: Life, output: Output<MemoryDisk>) {
        let id = life.member;
        match output {
            Output::Persist(job) => {
                if let Some(process) = self.process(id) {
                    process.log_waiting.push(job);
                }
                self.wake_log(life);
            }
            Output::Commit(job) => self.queue_database(life, DatabaseWork::Commit(job)),
            Output::Send(messages) => {
                for message in messages {
                    self.send(life, message);
                }
            }
            Output::SendSnapshot { message, database } => {
                let delay = self.swarm.latency + self.random.around(self.swarm.transfer);
                self.story
                    .tell(self.now, || format!("a snapshot is on its way to {:x}", message.to));
                self.after(
                    delay,
                    Event::Transfer(Box::new(Transfer {
                        from: life,
                        message,
                        database,
                    })),
                );
            }
            Output::SnapshotTaken(view) => {
                // It is read slowly, while writes go on.
                let delay = self.random.around(self.swarm.transfer);
                self.after(delay, Event::Backup(life, view));
            }
            Output::Applied(answers) => {
                for (request, result) in answers {
                    self.answer_proposal(life, request, result);
                }
            }
            Output::Configured { id: change, result } => {
                let ok = result.is_ok();
                let name = self.name(id);
                self.story.tell(self.now, || match &result {
                    Ok(members) => format!("{name}: the cluster has {} members now", members.len()),
                    Err(error) => format!("{name}: a change of members was refused: {error}"),
                });
                if let Some(process) = self.process(id) {
                    process.configured.insert(change, ok);
                }
            }
            Output::ReadsReady(number) => self.reads_ready(life, number),
            Output::Leader { leader, term } => {
                if leader == id && !self.calm && self.random.chance(self.swarm.churn) {
                    // While its first entries are on their way.
                    let delay = self.random.within(0, 6 * (self.swarm.latency + self.swarm.sync) + MS);
                    self.after(delay, Event::Churn(life));
                }
                let (name, leader_name) = (self.name(id), self.name(leader));
                self.story.note(&[3, id, leader, term]);
                self.story.tell(self.now, || match leader {
                    0 => format!("{name} knows no leader in term {term}"),
                    _ => format!("{name} follows {leader_name} in term {term}"),
                });
            }
            Output::ClusterChanged => {
                if let Some(process) = self.process(id) {
                    let applied = process.replica.applied();
                    let members = process.replica.members();
                    // The first entries name the founders one by one.
                    if applied >= self.latest.0 && applied > self.swarm.members as u64 {
                        self.latest = (applied, members);
                    }
                }
                self.compare_members(id);
            }
            Output::Compacted(_) => {}
            Output::Published => {
                if let Some(process) = self.process(id) {
                    process.published = true;
                }
            }
            Output::Restored => {
                self.figures.snapshots += 1;
                let name = self.name(id);
                self.story.tell(self.now, || format!("{name} goes over to a snapshot"));
                self.compare_with_model(id);
            }
            Output::Removed => {
                let name = self.name(id);
                self.story.tell(self.now, || format!("{name} is no longer a member"));
                // As the server does: so that the others learn of it from this one too.
                self.after(SECOND, Event::Leave(life));
            }
        }
    }

    fn answer_proposal(&mut self, life: Life, request: u64, result: Result<Response, Error>) {
        let Some(process) = self.process(life.member) else {
            return;
        };
        if let Some((client, turn)) = process.proposals.remove(&request) {
            let revision = process.replica.state().store().current_revision();
            let _ = revision;
            self.reply(client, turn, Answer::Applied(request, Box::new(result)));
        }
    }

    fn disk_time(&mut self, id: u64) -> Time {
        let slowness = self.members.get(&id).map_or(0, |member| member.slowness);
        let sync = self.swarm.sync;
        self.random.around(sync) + slowness
    }

    pub(crate) fn wake_log(&mut self, life: Life) {
        let Some(process) = self.process(life.member) else {
            return;
        };
        if process.log_busy || process.log_waiting.is_empty() {
            return;
        }
        process.log_busy = true;
        let delay = self.disk_time(life.member);
        self.after(delay, Event::Log(life));
    }

    pub(crate) fn write_log(&mut self, life: Life) {
        self.before_work(life.member);
        let Some(process) = self.process(life.member) else {
            return;
        };
        let jobs = std::mem::take(&mut process.log_waiting);
        let result = process.writer.persist(jobs);
        let survived = result.is_ok();
        let failed = result.is_err();
        let delay = if failed { 0 } else { self.random.within(1, 300) };
        self.after(delay, Event::LogDone(life, Box::new(result)));
        if survived {
            self.no_sync_failed(life.member, "log");
        }
    }

    /// After a failed sync a process must not go on: what it calls durable may be lost.
    fn no_sync_failed(&mut self, id: u64, thread: &str) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let failed = member.disk.failed_syncs();
        // A sync of a defragmentation or of a snapshot on its way in may fail and leave all as it was.
        let others = std::mem::replace(&mut member.failed_syncs, failed);
        let struck = member.disk.struck();
        if failed > others
            && let Some((call @ ("sync" | "sync directory"), path)) = struck
        {
            let name = self.name(id);
            self.fail(format!(
                "{name}'s {thread} survived a failed {call} of {}",
                path.display()
            ));
        }
    }

    /// How many syncs had failed before a piece of work that must not survive one.
    fn before_work(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.failed_syncs = member.disk.failed_syncs();
        }
    }

    /// A backup that was read for a while is as whole as it was when it was begun.
    pub(crate) fn check_backup(&mut self, life: Life, view: replica::state_machine::FileView<MemoryDisk>) {
        let problems = check_file(&view);
        self.figures.fsck += 1;
        // The power may have gone while this was in hand.
        let excused = self
            .members
            .get(&life.member)
            .is_some_and(|member| member.excused || member.disk.is_off());
        if let Some(problem) = problems.first()
            && !excused
        {
            let name = self.name(life.member);
            self.fail(format!("a backup of {name} is damaged: {problem:?}"));
        }
    }

    fn queue_database(&mut self, life: Life, work: DatabaseWork) {
        if let Some(process) = self.process(life.member) {
            process.database_waiting.push_back(work);
        }
        self.wake_database(life);
    }

    fn wake_database(&mut self, life: Life) {
        let Some(process) = self.process(life.member) else {
            return;
        };
        if process.database_busy || process.database_waiting.is_empty() {
            return;
        }
        process.database_busy = true;
        let delay = self.disk_time(life.member);
        self.after(delay, Event::Database(life));
    }

    pub(crate) fn defragment(&mut self, id: u64) {
        let life = self.life(id);
        self.queue_database(life, DatabaseWork::Defragment);
    }

    pub(crate) fn work_on_database(&mut self, life: Life) {
        self.before_work(life.member);
        let Some(process) = self.process(life.member) else {
            return;
        };
        let done = match process.database_waiting.pop_front() {
            None => return,
            Some(DatabaseWork::Commit(job)) => DatabaseDone::Commit(job.run()),
            Some(DatabaseWork::Defragment) => {
                let step = process
                    .replica
                    .state()
                    .backend()
                    .db()
                    .clone()
                    .compact_step(DEFRAGMENT_PAGES);
                DatabaseDone::Step(step.map(|progress| progress.done).map_err(|error| error.to_string()))
            }
        };
        let survived = matches!(done, DatabaseDone::Commit(Ok(_)));
        let delay = self.random.within(1, 300);
        self.after(delay, Event::DatabaseDone(life, Box::new(done)));
        if survived {
            self.no_sync_failed(life.member, "database");
        }
    }

    pub(crate) fn database_done(&mut self, life: Life, done: DatabaseDone) {
        let id = life.member;
        if let Some(process) = self.process(id) {
            process.database_busy = false;
        }
        match done {
            DatabaseDone::Commit(Ok(committed)) => self.feed(life, Input::Committed(committed)),
            DatabaseDone::Commit(Err(fatal)) => return self.died(id, "database", &fatal.to_string()),
            DatabaseDone::Step(result) => {
                let Some(process) = self.process(id) else {
                    return;
                };
                if let Err(fatal) = process.replica.refresh_database() {
                    return self.died(id, "database", &fatal.to_string());
                }
                match result {
                    Ok(true) => {}
                    Ok(false) => self.queue_database(life, DatabaseWork::Defragment),
                    // The file is as it was; the next commit tells what is wrong with it.
                    Err(reason) => {
                        let name = self.name(id);
                        self.story
                            .tell(self.now, || format!("{name} cannot defragment: {reason}"));
                        if self.members.get(&id).is_some_and(|member| member.disk.is_off()) {
                            return self.died(id, "defragment", &reason);
                        }
                    }
                }
            }
        }
        self.wake_database(life);
    }

    fn wake_watches(&mut self, life: Life, delay: Time) {
        if let Some(process) = self.process(life.member)
            && !process.watches_busy
        {
            process.watches_busy = true;
            self.after(delay + 1, Event::Watches(life));
        }
    }

    pub(crate) fn step_watches(&mut self, life: Life) {
        let now = self.now;
        let budget = watch::StepBudget {
            revisions_max: self.swarm.catch_up_window,
            ..watch::StepBudget::default()
        };
        let Some(process) = self.process(life.member) else {
            return;
        };
        process.watches_busy = false;
        let uptime = process.uptime(now);
        match process.hub.step(uptime, budget) {
            Ok(watch::Caught::More) => self.wake_watches(life, 100),
            Ok(watch::Caught::All | watch::Caught::Blocked) => {}
            Err(error) => {
                let member = self.members.get(&life.member);
                if !member.is_some_and(|member| member.disk.is_off() || member.excused) {
                    self.fail(format!("watchers cannot read: {error}"));
                }
            }
        }
    }

    pub(crate) fn leave(&mut self, id: u64) {
        self.stop(id);
        if let Some(member) = self.members.get_mut(&id) {
            member.removed = true;
        }
    }

    /// How long a machine takes to come back: mostly less than an election, sometimes much longer.
    fn restart_delay(&mut self) -> Time {
        let election = self.swarm.election();
        let most = if self.random.chance(200) {
            3 * SECOND
        } else {
            2 * election
        };
        self.random.within(10 * MS, most)
    }

    /// The process is gone; what it held is forgotten.
    pub(crate) fn stop(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let Some(process) = member.process.take() else {
            return;
        };
        member.life += 1;
        member.paused_until = 0;
        drop(process);
        member.disk.kill();
    }

    /// A process ended by itself, or with the power.
    pub(crate) fn died(&mut self, id: u64, thread: &str, reason: &str) {
        let name = self.name(id);
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let off = member.disk.is_off();
        let struck = member.disk.struck();
        self.story.note(&[4, id, self.now, u64::from(off)]);
        self.story
            .tell(self.now, || format!("{name}'s {thread} ends: {reason}"));
        if off {
            if let Some((call, path)) = struck {
                self.figures
                    .crash_points
                    .insert(format!("{thread}: {call} {}", kind_of(&path)));
            }
            return self.cut_power(id);
        }
        if !member.excused {
            return self.fail(format!("{name} stopped by itself ({thread}): {reason}"));
        }
        if thread == "start" && self.calm {
            // Its disk is damaged for good, and says so: it is replaced.
            self.story.tell(self.now, || format!("{name} is given up"));
            if let Some(member) = self.members.get_mut(&id) {
                member.lost = true;
            }
            return self.stop(id);
        }
        self.stop(id);
        let delay = self.restart_delay();
        self.after(delay, Event::Start(id));
    }

    /// The power of a machine fails, and comes back after a while.
    pub(crate) fn cut_power(&mut self, id: u64) {
        let tears = self.may_break(id);
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if let Some(process) = member.process.take() {
            member.life += 1;
            drop(process);
        }
        member.paused_until = 0;
        member.cut_at_message = false;
        let disk = member.disk.clone();
        let torn = disk.torn();
        disk.set_tearing(tears);
        disk.crash();
        // A sector that is half old and half new may look like one that decayed: then it is right not to start.
        member.excused |= disk.torn() > torn;
        if member.doubtful {
            // Promises may be broken now. Raft cannot bear that: the member must not come back under this name.
            member.lost = true;
            let name = self.name(id);
            self.story
                .tell(self.now, || format!("{name}'s disk had lied: it is given up"));
            return;
        }
        let delay = self.restart_delay();
        let cut_again = self.random.chance(150) && !self.calm;
        let calls = self.random.within(0, 60);
        if let Some(member) = self.members.get_mut(&id)
            && cut_again
        {
            member.cut_at_start = Some(calls);
        }
        self.after(delay, Event::Start(id));
    }

    /// Writes a received database to the receiver's disk, and tells both sides.
    pub(crate) fn transfer(&mut self, transfer: Transfer) {
        let Transfer {
            from,
            message,
            database,
        } = transfer;
        let to = message.to;
        let sender_lives = self
            .members
            .get(&from.member)
            .is_some_and(|member| member.life == from.number);
        if !sender_lives {
            return;
        }
        let reaches = self.reaches(from.member, to) && !self.random.chance(self.swarm.drop);
        let path = self.snapshot_name();
        let half = self.random.chance(if self.calm { 0 } else { 100 });
        let ok = reaches && self.receive(to, &path, &database, half);
        let twice = ok && self.random.chance(self.swarm.duplicate / 2);
        if ok {
            let life = self.life(to);
            let input = Input::SnapshotReceived {
                message: Box::new(message.clone()),
                path,
            };
            let delay = self.random.within(0, 3 * MS);
            self.after(delay, Event::Input(life, Box::new(input)));
        }
        if twice {
            let path = self.snapshot_name();
            if self.receive(to, &path, &database, false) {
                let life = self.life(to);
                let input = Input::SnapshotReceived {
                    message: Box::new(message),
                    path,
                };
                let delay = self.random.within(0, 50 * MS);
                self.after(delay, Event::Input(life, Box::new(input)));
            }
        }
        let delay = self.random.within(0, 5 * MS);
        self.after(
            delay,
            Event::Input(from, Box::new(Input::SnapshotSent { member_id: to, ok })),
        );
    }

    fn receive(
        &mut self,
        to: u64,
        path: &Path,
        database: &replica::state_machine::FileView<MemoryDisk>,
        half: bool,
    ) -> bool {
        let Some(member) = self.members.get(&to) else {
            return false;
        };
        let disk = member.disk.clone();
        // The most delicate moments of a disk are those around a snapshot.
        if !half && let Some(calls) = self.cut_at_snapshot.take() {
            disk.cut_power_at(disk.operations() + calls);
        }
        let write = || -> Result<bool, String> {
            let file = disk.open(path, Open::CreateNew).map_err(|error| error.to_string())?;
            let mut at = 0;
            for chunk in database.stream(4096) {
                let chunk = chunk.map_err(|error| error.to_string())?;
                file.write_all_at(&chunk, at).map_err(|error| error.to_string())?;
                at += chunk.len() as u64;
                if half && at > database.size() / 2 {
                    return Ok(false);
                }
            }
            file.sync_data().map_err(|error| error.to_string())?;
            Ok(true)
        };
        match write() {
            Ok(true) => true,
            // The real receiver removes what it could not finish.
            Ok(false) => {
                disk.remove(path).ok();
                false
            }
            Err(reason) => {
                if disk.is_off() {
                    self.died(to, "receiver", &reason);
                } else {
                    disk.remove(path).ok();
                }
                false
            }
        }
    }

    /// Opens an image of a member's disk beside the world: it must be whole by itself.
    pub(crate) fn open_aside(&mut self, id: u64, image: MemoryDisk, name: &str) {
        let Some(config) = self.config(id) else {
            return;
        };
        let life = self.members.get(&id).map(|member| member.start.clone());
        let config = Config {
            start: life.unwrap_or(Start::Resume),
            ..config
        };
        match Replica::open(image, config, uptime(0)) {
            Ok((replica, _)) => {
                self.figures.fsck += 1;
                if let Some(problem) = check_file(&replica.state().snapshot()).first() {
                    self.fail(format!("the database of an image of {name} is damaged: {problem:?}"));
                }
            }
            Err(error) => self.fail(format!(
                "an image of {name} as a power cut leaves it cannot be started: {error}"
            )),
        }
    }

    /// Raft's members and the store's are the same.
    fn compare_members(&mut self, id: u64) {
        let Some(process) = self.process(id) else {
            return;
        };
        let raft = process.replica.conf_state();
        let cluster = process.replica.state().membership();
        let ids = |learners: bool| -> Vec<u64> {
            cluster
                .members()
                .filter(|member| member.is_learner == learners)
                .map(|member| member.id)
                .collect()
        };
        let (voters, learners) = (ids(false), ids(true));
        let sorted = |mut ids: Vec<u64>| {
            ids.sort_unstable();
            ids
        };
        let same = sorted(raft.voters.clone()) == sorted(voters.clone())
            && sorted(raft.learners.clone()) == sorted(learners.clone());
        // A founder's first entries come one by one.
        if !same && !voters.is_empty() && process.replica.applied() > 5 {
            let name = self.name(id);
            self.fail(format!(
                "{name}: raft has voters {:x?} and learners {:x?}, the store {voters:x?} and {learners:x?}",
                raft.voters, raft.learners
            ));
        }
    }

    /// A member's content is that of the model, if it is as far.
    pub(crate) fn compare_with_model(&mut self, id: u64) {
        let Some(process) = self.process(id) else {
            return;
        };
        let state = process.replica.state();
        let view = state.reader().view();
        let revision = view.current_revision();
        let request = proto::etcdserverpb::RangeRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            ..Default::default()
        };
        let found = view.range(&request);
        let leases: Vec<i64> = {
            let mut leases = state.leases().ids_by_expiry();
            leases.sort_unstable();
            leases
        };
        let as_far = state.applied().index == self.truth.last();
        drop(view);
        self.figures.compared += 1;
        let name = self.name(id);
        let wanted = self.truth.model.range_at(b"\0", b"\0", revision);
        match found {
            Ok(found) if found.kvs == wanted => {}
            Ok(found) => {
                let differing = found.kvs.iter().zip(&wanted).find(|(found, wanted)| found != wanted);
                return self.fail(format!(
                    "{name} holds {} keys at revision {revision}, {} are right; {differing:?}",
                    found.kvs.len(),
                    wanted.len()
                ));
            }
            Err(error) => return self.fail(format!("{name} cannot be read: {error}")),
        }
        if as_far && leases != self.truth.model.leases.keys().copied().collect::<Vec<_>>() {
            self.fail(format!(
                "{name} has leases {leases:?}, {:?} are right",
                self.truth.model.leases.keys().collect::<Vec<_>>()
            ));
        }
    }

    /// At the end: all members hold the same, and no more than they should.
    pub(crate) fn compare_all(&mut self) -> Result<(), String> {
        let ids: Vec<u64> = self.listed().iter().map(|member| member.id).collect();
        let mut first: Option<(u64, _)> = None;
        for id in ids {
            self.compare_with_model(id);
            self.compare_members(id);
            if let Some(reason) = self.failure.take() {
                return Err(reason);
            }
            let name = self.name(id);
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            let Some(process) = &member.process else {
                continue;
            };
            let state = process.replica.state();
            let compacted = state.reader().compact_revision();
            let hash = state.reader().view().hash_kv(0).map_err(|error| error.to_string())?;
            // Without living keys etcd's hash counts what a compaction has not removed yet.
            let hash = (state.reader().living_keys() > 0).then_some(hash);
            let members: Vec<_> = state.membership().members().cloned().collect();
            let seen = (state.applied(), hash, members, state.alarms().list(0));
            if compacted != self.truth.model.compacted {
                return Err(format!(
                    "{name} is compacted to {compacted}, {} is right",
                    self.truth.model.compacted
                ));
            }
            match &first {
                None => first = Some((id, seen)),
                Some((other, same)) if *same != seen => {
                    return Err(format!("{other:x} and {id:x} differ: {same:?} and {seen:?}"));
                }
                Some(_) => {}
            }
            let watches = process.hub.stats();
            if watches.slow_watchers > watches.watchers {
                return Err(format!("{name} keeps watchers of streams that are closed: {watches:?}"));
            }
            // What must not pile up.
            let list = |dir: &str| member.disk.list(Path::new(dir)).unwrap_or_default();
            let logs = list("/data/member/wal")
                .iter()
                .filter(|name| name.ends_with(".wal"))
                .count();
            let snaps = list("/data/member/snap")
                .iter()
                .filter(|name| name.ends_with(".snap"))
                .count();
            let left: Vec<String> = list("/data/member/snap")
                .into_iter()
                .filter(|name| name.ends_with(".snap.db"))
                .collect();
            if snaps > 7 || left.len() > 3 {
                return Err(format!("{name} keeps {snaps} .snap files and {left:?}"));
            }
            let entries = self.swarm.snapshot_count * 2 + 1000;
            let most = 12 + entries * 4096 / self.swarm.segment_bytes;
            if logs as u64 > most {
                return Err(format!("{name} keeps {logs} files of its log, {most} are plenty"));
            }
        }
        Ok(())
    }

    /// Notes what a member says by a message.
    pub(crate) fn overhear(&mut self, message: &Message) {
        let promised = match message.r#type() {
            MessageType::MsgVoteResp if !message.reject => self.truth.votes(message.from, message.term, message.to),
            _ => Ok(()),
        };
        self.must(promised);
        if matches!(message.r#type(), MessageType::MsgAppResp | MessageType::MsgVoteResp) && !message.reject {
            let result = self.truth.is_in_term(message.from, message.term);
            self.must(result);
        }
    }
}

/// A file by its kind, for counting distinct places.
fn kind_of(path: &Path) -> &'static str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let parent = path
        .parent()
        .and_then(|parent| parent.file_name())
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    match name {
        "db" => "database",
        "incarnation" | "incarnation.tmp" => "incarnation",
        "wal" | "wal.tmp" => "log directory",
        "snap" => "snapshot directory",
        "member" => "member directory",
        _ if name.ends_with(".wal.broken") => "broken log",
        _ if name.ends_with(".wal") && name.starts_with("0000000000000000-") => "first log file",
        _ if name.ends_with(".wal") => "log file",
        _ if name.ends_with(".tmp") && parent.starts_with("wal") => "next log file",
        _ if name.ends_with(".snap.db") => "received database",
        _ if name.ends_with(".snap") => "snapshot file",
        _ if name.starts_with("tmp") => "database being received",
        "" => "a file without a name",
        _ => "another file",
    }
}
