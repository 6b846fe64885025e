//! The world: a clock, a queue of events, members with their disks, a network between them.
//!
//! Invariants:
//! - Events happen in order of their time, and in order of their making when at the same time. Whatever happens is decided by the
//!   world's generator alone.
//! - A member's threads are events: its replica drains, its log is written, its database is committed, its watchers catch up, each after
//!   a time of its own; power may fail between any two and in the middle of each.
//! - What the world checks ends it at once, with the reason.

mod member;
mod network;
mod trouble;
mod upkeep;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::PathBuf;
use std::time::Duration;

use disk::MemoryDisk;
use proto::raftpb::{ConfChange, Message};
use replica::state_machine::FileView;
use replica::state_machine::membership::Member as Listed;
use replica::{Committed, Fatal, Input, Persisted, Start};

use crate::client::{Client, Request};
use crate::history::History;
use crate::random::Random;
use crate::report::{Figures, Story};
use crate::swarm::{Swarm, Trouble};
use crate::truth::Truth;
use crate::watching::Watching;

pub use member::{Member, Process};

/// Microseconds since the world began.
pub type Time = u64;
/// A millisecond.
pub const MS: Time = 1000;
/// A second.
pub const SECOND: Time = 1_000_000;

/// Why a world ended before its time.
pub type Failure = String;

/// The shortest TTL of a lease, in seconds.
pub const TTL_MIN: i64 = 1;

/// Something that will happen.
pub enum Event {
    /// A member's clock ticks.
    Tick(Life),
    /// A replica does what it has to do.
    Drain(Life),
    /// A message arrives.
    Message(Box<Message>),
    /// An input for a replica.
    Input(Life, Box<Input<MemoryDisk>>),
    /// A log thread takes what waits.
    Log(Life),
    /// A log thread is done.
    LogDone(Life, Box<Result<Persisted, Fatal>>),
    /// A database thread takes what waits.
    Database(Life),
    /// A database thread is done.
    DatabaseDone(Life, Box<DatabaseDone>),
    /// A watch thread looks after those that lag.
    Watches(Life),
    /// A database is on its way to a member.
    Transfer(Box<Transfer>),
    /// A member starts.
    Start(u64),
    /// The next misfortune.
    Trouble,
    /// A misfortune ends.
    Relief(Relief),
    /// A client sends its next request.
    Client(usize),
    /// A request reaches a member.
    Arrive(usize, u64, u64, Box<Request>),
    /// An answer reaches its client.
    Answer(usize, u64, Box<crate::client::Answer>),
    /// A client gives up waiting.
    Deadline(usize, u64),
    /// A watch client looks at its stream.
    Watcher(usize),
    /// Somebody looks after the membership.
    Upkeep,
    /// A member that was removed stops.
    Leave(Life),
    /// A new leader is cut off.
    Churn(Life),
    /// Somebody has read a backup to its end.
    Backup(Life, FileView<MemoryDisk>),
    /// A client reads at a member whose read is confirmed.
    Read(Life, usize, u64, Box<Request>),
}

/// A member's process: it is another one after each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// The member.
    pub member: u64,
    /// Which of its lives.
    pub number: u64,
}

/// What a database thread did.
pub enum DatabaseDone {
    /// A commit.
    Commit(Result<Committed<MemoryDisk>, Fatal>),
    /// A step of a defragmentation; whether it was the last.
    Step(Result<bool, String>),
}

/// A snapshot on its way.
pub struct Transfer {
    from: Life,
    message: Message,
    database: FileView<MemoryDisk>,
}

/// The end of a misfortune.
#[derive(Debug, Clone, Copy)]
pub enum Relief {
    /// Links are whole again.
    Links,
    /// A disk is fast, large and honest again.
    Disk(u64),
}

struct Scheduled {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// See the module.
pub struct World {
    /// Now.
    pub now: Time,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    pub(crate) random: Random,
    /// What it is like.
    pub swarm: Swarm,
    pub(crate) members: BTreeMap<u64, Member>,
    /// When the last message of a link arrives; messages do not overtake each other unless the swarm says so.
    links: BTreeMap<(u64, u64), Time>,
    /// Links that carry nothing.
    blocked: std::collections::BTreeSet<(u64, u64)>,
    /// Links that are slow, by how much.
    slow: BTreeMap<(u64, u64), Time>,
    pub(crate) clients: Vec<Client>,
    pub(crate) watchers: Vec<Watching>,
    /// What is true.
    pub truth: Truth,
    /// Every request and answer.
    pub history: History,
    pub(crate) story: Story,
    pub(crate) figures: Figures,
    failure: Option<Failure>,
    /// Trouble is over.
    pub(crate) calm: bool,
    names: u64,
    /// A change of members under way: its id, who was asked and since when.
    changing: Option<(u64, u64, Time)>,
    /// The members as of the last change that anybody applied, and its index.
    latest: (u64, Vec<Listed>),
    /// Changes of members that were proposed and that nobody has applied: they may still come true, much later.
    open_changes: std::collections::BTreeSet<u64>,
    /// Members that upkeep is asked to remove although they are well.
    unwanted: Vec<u64>,
    /// Whoever receives the next snapshot loses power after so many disk calls.
    cut_at_snapshot: Option<u64>,
    values: u64,
}

/// What became of a seed.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The hash of everything that happened.
    pub hash: u64,
    /// Counts.
    pub figures: Figures,
    /// The story, if it was asked for.
    pub story: Vec<String>,
    /// The options of the swarm.
    pub swarm: String,
}

/// Runs a seed to its end.
pub fn run(seed: u64, told: bool) -> Outcome {
    let mut random = Random::new(seed);
    let swarm = Swarm::draw(&mut random);
    run_in(seed, swarm, random, told)
}

/// Runs a seed in a world that is told.
pub fn run_in(seed: u64, swarm: Swarm, random: Random, told: bool) -> Outcome {
    let text = swarm.to_string();
    let mut world = World::new(swarm, random, told);
    let result = world.live();
    let mut figures = std::mem::take(&mut world.figures);
    figures.seeds = 1;
    figures.simulated = world.now;
    if let Err(reason) = &result {
        world.story.tell(world.now, || format!("FAILED: {reason}"));
    }
    Outcome {
        seed,
        failure: result.err(),
        hash: world.story.hash(),
        figures,
        story: world.story.into_lines(),
        swarm: text,
    }
}

impl World {
    fn new(swarm: Swarm, random: Random, told: bool) -> World {
        let drift = swarm.drift;
        World {
            now: SECOND,
            queue: BinaryHeap::new(),
            scheduled: 0,
            random,
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            blocked: Default::default(),
            slow: BTreeMap::new(),
            clients: (0..swarm.clients).map(Client::new).collect(),
            watchers: (0..swarm.watchers).map(Watching::new).collect(),
            truth: Truth::new(TTL_MIN, drift),
            history: History::default(),
            story: Story::new(told),
            figures: Figures::default(),
            failure: None,
            calm: false,
            names: 0,
            changing: None,
            latest: (0, Vec::new()),
            open_changes: Default::default(),
            unwanted: Vec::new(),
            cut_at_snapshot: None,
            values: 0,
            swarm,
        }
    }

    /// The first failure is the one that counts.
    pub(crate) fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }

    pub(crate) fn must(&mut self, result: Result<(), String>) {
        if let Err(reason) = result {
            self.fail(reason);
        }
    }

    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled {
            at,
            order: self.scheduled,
            event,
        }));
    }

    pub(crate) fn after(&mut self, delay: Time, event: Event) {
        self.at(self.now + delay, event);
    }

    fn begin(&mut self) {
        let names: Vec<String> = (1..=self.swarm.members).map(|n| format!("m{n}")).collect();
        self.names = names.len() as u64;
        let members: BTreeMap<String, Vec<String>> = names
            .iter()
            .map(|name| (name.clone(), vec![format!("http://{name}:2380")]))
            .collect();
        let start = Start::New {
            members: members.clone(),
            token: "world".into(),
        };
        self.latest.1 = replica::new_cluster(&members, "world").1;
        for member in self.latest.1.clone() {
            self.add_member(member.id, &member.name, start.clone());
            let delay = self.random.within(0, 300 * MS);
            self.after(delay, Event::Start(member.id));
        }
        for client in 0..self.clients.len() {
            let delay = SECOND + self.random.within(0, SECOND);
            self.after(delay, Event::Client(client));
        }
        for watcher in 0..self.watchers.len() {
            let delay = SECOND + self.random.within(0, 2 * SECOND);
            self.after(delay, Event::Watcher(watcher));
        }
        let first = SECOND + self.random.around(self.swarm.trouble_pause);
        self.after(first, Event::Trouble);
        self.after(SECOND, Event::Upkeep);
    }

    fn live(&mut self) -> Result<(), Failure> {
        self.begin();
        let end = self.now + self.swarm.duration;
        self.until(end)?;
        self.calm_down();
        // From here on nothing goes wrong any more: all must be well within a time that is long for a cluster and short for a person.
        let patience = self.now + 60 * SECOND;
        let mut well_since = None;
        loop {
            let next = self.now + 250 * MS;
            self.until(next)?;
            match self.unwell() {
                None => {
                    let since = *well_since.get_or_insert(self.now);
                    // Leases that nobody renews end meanwhile.
                    if self.now >= since + 250 * MS && self.truth.model.leases.is_empty() {
                        break;
                    }
                    if self.now > patience && !self.truth.model.leases.is_empty() {
                        return Err(format!(
                            "leases {:?} never end",
                            self.truth.model.leases.keys().collect::<Vec<_>>()
                        ));
                    }
                }
                Some(reason) if self.now > patience => {
                    return Err(format!("a minute after the last trouble: {reason}"));
                }
                Some(_) => well_since = None,
            }
        }
        self.compare_all()?;
        self.history.check(&self.truth, &mut self.figures)
    }

    fn until(&mut self, end: Time) -> Result<(), Failure> {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.at > end {
                break;
            }
            let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() else {
                break;
            };
            self.now = self.now.max(at);
            self.figures.events += 1;
            self.happen(event);
            if let Some(reason) = self.failure.take() {
                return Err(reason);
            }
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        // A process that is paused does nothing; the world goes on.
        if let Some(life) = event.life() {
            let Some(member) = self.members.get(&life.member) else {
                return;
            };
            if member.life != life.number {
                return;
            }
            if member.paused_until > self.now {
                let at = member.paused_until;
                self.at(at, event);
                return;
            }
        }
        match event {
            Event::Tick(life) => self.tick(life),
            Event::Drain(life) => self.drain(life),
            Event::Message(message) => self.arrive(*message),
            Event::Input(life, input) => self.feed(life, *input),
            Event::Log(life) => self.write_log(life),
            Event::LogDone(life, result) => match *result {
                Ok(persisted) => {
                    if let Some(process) = self.process(life.member) {
                        process.log_busy = false;
                    }
                    self.feed(life, Input::Persisted(persisted));
                    self.wake_log(life);
                }
                Err(fatal) => self.died(life.member, "log", &fatal.to_string()),
            },
            Event::Database(life) => self.work_on_database(life),
            Event::DatabaseDone(life, done) => self.database_done(life, *done),
            Event::Watches(life) => self.step_watches(life),
            Event::Transfer(transfer) => self.transfer(*transfer),
            Event::Start(id) => self.start(id),
            Event::Trouble => self.trouble(),
            Event::Relief(relief) => self.relieve(relief),
            Event::Client(client) => self.client_turn(client),
            Event::Arrive(client, turn, member, request) => self.request_arrives(client, turn, member, *request),
            Event::Answer(client, turn, answer) => self.answered(client, turn, *answer),
            Event::Deadline(client, turn) => self.gives_up(client, turn),
            Event::Watcher(watcher) => self.watcher_turn(watcher),
            Event::Upkeep => self.upkeep(),
            Event::Leave(life) => self.leave(life.member),
            Event::Churn(life) => self.churn(life),
            Event::Backup(life, view) => self.check_backup(life, view),
            Event::Read(life, client, turn, request) => self.read(life, client, turn, *request),
        }
    }

    pub(crate) fn process(&mut self, id: u64) -> Option<&mut Process> {
        self.members.get_mut(&id)?.process.as_mut()
    }

    pub(crate) fn life(&self, id: u64) -> Life {
        Life {
            member: id,
            number: self.members.get(&id).map_or(0, |member| member.life),
        }
    }

    /// A short name for a member.
    pub(crate) fn name(&self, id: u64) -> String {
        self.members
            .get(&id)
            .map_or_else(|| format!("{id:x}"), |member| member.name.clone())
    }

    /// Members that run.
    pub(crate) fn up(&self) -> Vec<u64> {
        self.members
            .iter()
            .filter(|(_, member)| member.process.is_some())
            .map(|(id, _)| *id)
            .collect()
    }

    /// The member that leads in the highest term, as it says itself.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.members
            .iter()
            .filter_map(|(id, member)| {
                let replica = &member.process.as_ref()?.replica;
                replica.leads().then(|| (replica.term(), *id))
            })
            .max()
            .map(|(_, id)| id)
    }

    /// The members, as of the last change that anybody applied.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        self.latest.1.clone()
    }

    /// What is not yet as it should be when nothing goes wrong.
    fn unwell(&self) -> Option<String> {
        let listed = self.listed();
        if listed.len() != self.swarm.members || listed.iter().any(|member| member.is_learner) {
            return Some(format!("{} members, {} wanted", listed.len(), self.swarm.members));
        }
        let mut leader = None;
        for member in &listed {
            let Some(process) = self.members.get(&member.id).and_then(|member| member.process.as_ref()) else {
                return Some(format!("{} does not run", self.name(member.id)));
            };
            if process.replica.leader() == 0 {
                return Some(format!("{} knows no leader", self.name(member.id)));
            }
            if *leader.get_or_insert(process.replica.leader()) != process.replica.leader() {
                return Some("members follow different leaders".into());
            }
            if process.replica.applied() < self.truth.last() {
                return Some(format!(
                    "{} has applied {} of {}",
                    self.name(member.id),
                    process.replica.applied(),
                    self.truth.last()
                ));
            }
        }
        for (n, client) in self.clients.iter().enumerate() {
            if client.calm_answers < 4 {
                return Some(format!("client {n} is not answered"));
            }
        }
        self.watchers
            .iter()
            .find_map(|watching| watching.behind(&self.truth.model))
    }

    pub(crate) fn next_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    pub(crate) fn snapshot_name(&mut self) -> PathBuf {
        let n = self.next_value();
        PathBuf::from(format!("/data/member/snap/tmp{n}"))
    }

    pub(crate) fn propose_change(&mut self, at: u64, mut change: ConfChange) -> Option<u64> {
        let life = self.life(at);
        let id = self.process(at)?.replica.ids().next();
        change.id = id;
        self.open_changes.insert(id);
        self.feed(life, Input::ProposeConfChange(change));
        Some(id)
    }

    pub(crate) fn count(&mut self, trouble: Trouble) {
        self.count_named(trouble.what());
    }

    pub(crate) fn count_named(&mut self, what: &'static str) {
        *self.figures.troubles.entry(what).or_default() += 1;
    }
}

impl Event {
    /// Whose process it concerns, of those that a pause holds up.
    fn life(&self) -> Option<Life> {
        match self {
            Event::Tick(life)
            | Event::Drain(life)
            | Event::Input(life, _)
            | Event::Log(life)
            | Event::LogDone(life, _)
            | Event::Database(life)
            | Event::DatabaseDone(life, _)
            | Event::Watches(life)
            | Event::Leave(life)
            | Event::Churn(life)
            | Event::Backup(life, _)
            | Event::Read(life, ..) => Some(*life),
            Event::Message(_)
            | Event::Transfer(_)
            | Event::Start(_)
            | Event::Trouble
            | Event::Relief(_)
            | Event::Client(_)
            | Event::Arrive(..)
            | Event::Answer(..)
            | Event::Deadline(..)
            | Event::Watcher(_)
            | Event::Upkeep => None,
        }
    }
}

pub(crate) fn uptime(micros: Time) -> Duration {
    Duration::from_micros(micros)
}

/// Nobody to tell: whoever watches looks by itself.
pub(crate) struct Nobody;

impl replica::state_machine::mvcc::Notify for Nobody {
    fn notify(&self) {}
}
