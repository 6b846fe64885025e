//! Groups under random schedules: messages lost, doubled and reordered, members cut off, crashed and restarted, writes
//! that take their time. Whatever happens:
//! - there is at most one leader in a term;
//! - all members apply the same entries at the same indexes;
//! - an entry that was committed anywhere is never replaced;
//! - a read is answered with an index at or above everything that was committed when it was asked;
//! - when the trouble ends, the group works again.

mod network;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use network::{Random, config, storage};
use proto::raftpb::{ConfChange, ConfState, Entry, HardState, Message, MessageType};
use raft::{
    AnyConfChange, Config, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, MemoryStorage, RawNode, StateType, Storage,
};

struct Member {
    node: RawNode<MemoryStorage>,
    /// Work that is written later, in order; lost by a crash.
    append_work: VecDeque<Message>,
    apply_work: VecDeque<Message>,
    /// The last index applied; lost by a crash, because the state is in memory.
    applied: u64,
    conf_state: ConfState,
}

struct World {
    random: Random,
    members: BTreeMap<u64, Member>,
    queue: Vec<Message>,
    cut: Option<u64>,
    options: Config,
    /// Term and data of what was applied at each index, by anybody.
    history: BTreeMap<u64, (u64, Bytes)>,
    leaders: BTreeMap<u64, u64>,
    /// By the context of each read: what was committed somewhere when it was asked.
    asked: BTreeMap<Bytes, u64>,
    answered: usize,
    proposed: u64,
    changes: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let options = Config {
            async_storage_writes: random.one_in(2),
            pre_vote: random.one_in(2),
            check_quorum: random.one_in(2),
            step_down_on_removal: true,
            max_size_per_msg: 1 + random.below(200),
            max_inflight_msgs: 1 + random.below(8) as usize,
            seed,
            ..config(1)
        };
        let mut world = World {
            random,
            members: BTreeMap::new(),
            queue: Vec::new(),
            cut: None,
            options,
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            asked: BTreeMap::new(),
            answered: 0,
            proposed: 0,
            changes: 0,
        };
        for id in 1..=3 {
            world.start(id, storage(&[1, 2, 3], &[]));
        }
        world.start(4, MemoryStorage::new());
        world
    }

    fn start(&mut self, id: u64, stored: MemoryStorage) {
        let applied = stored.first_index() - 1;
        let conf_state = stored.initial_state().unwrap().1;
        let node = RawNode::new(
            Config {
                id,
                applied,
                ..self.options.clone()
            },
            stored,
        )
        .unwrap();
        let (append_work, apply_work) = (VecDeque::new(), VecDeque::new());
        self.members.insert(
            id,
            Member {
                node,
                append_work,
                apply_work,
                applied,
                conf_state,
            },
        );
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).unwrap()
    }

    fn any_id(&mut self) -> u64 {
        1 + self.random.below(4)
    }

    fn pump(&mut self, id: u64) {
        if self.member(id).node.has_ready() {
            let ready = self.member(id).node.ready().unwrap();
            for read in &ready.read_states {
                let floor = self.asked[&read.request_ctx];
                assert!(read.index >= floor, "a stale read on {id}: {} of {floor}", read.index);
                self.answered += 1;
            }
            if self.options.async_storage_writes {
                for message in ready.messages {
                    match message.to {
                        LOCAL_APPEND_THREAD => self.member(id).append_work.push_back(message),
                        LOCAL_APPLY_THREAD => self.member(id).apply_work.push_back(message),
                        _ => self.queue.push(message),
                    }
                }
            } else {
                self.write(id, ready.hard_state.unwrap_or_default(), ready.snapshot, &ready.entries);
                self.queue.extend(ready.messages);
                self.apply(id, ready.committed_entries);
                self.member(id).node.advance().unwrap();
            }
        }
        let node = &self.members[&id].node;
        if node.state() == StateType::Leader {
            let known = *self.leaders.entry(node.term()).or_insert(id);
            assert_eq!(known, id, "two leaders in term {}", node.term());
        }
    }

    fn write_something(&mut self, id: u64) {
        let Some(work) = self.member(id).append_work.pop_front() else {
            return;
        };
        let hard_state = HardState {
            term: work.term,
            vote: work.vote,
            commit: work.commit,
        };
        self.write(id, hard_state, work.snapshot, &work.entries);
        self.respond(id, work.responses);
    }

    fn apply_something(&mut self, id: u64) {
        let Some(work) = self.member(id).apply_work.pop_front() else {
            return;
        };
        self.apply(id, work.entries);
        self.respond(id, work.responses);
    }

    fn respond(&mut self, id: u64, responses: Vec<Message>) {
        for response in responses {
            if response.to != id {
                self.queue.push(response);
            } else if let Err(error) = self.member(id).node.step(response) {
                // A member that was removed meanwhile does not hear of its own promises any more.
                assert_eq!(error, raft::Error::StepPeerNotFound);
            }
        }
    }

    fn write(&mut self, id: u64, hard_state: HardState, snapshot: Option<proto::raftpb::Snapshot>, entries: &[Entry]) {
        let member = self.member(id);
        let stored = member.node.storage_mut();
        if hard_state != HardState::default() {
            stored.set_hard_state(hard_state);
        }
        if let Some(snapshot) = snapshot {
            let metadata = snapshot.metadata.clone().unwrap();
            stored.apply_snapshot(snapshot).unwrap();
            member.applied = metadata.index;
            member.conf_state = metadata.conf_state.unwrap();
        }
        stored.append(entries).unwrap();
    }

    fn apply(&mut self, id: u64, entries: Vec<Entry>) {
        for entry in entries {
            let member = self.member(id);
            assert_eq!(entry.index, member.applied + 1, "applied in order on {id}");
            member.applied = entry.index;
            if let Some(change) = AnyConfChange::decode(&entry).unwrap() {
                member.conf_state = member.node.apply_conf_change(change).unwrap();
                self.changes += 1;
            }
            let this = (entry.term, entry.data);
            let known = self.history.entry(entry.index).or_insert_with(|| this.clone());
            assert_eq!(*known, this, "index {} differs on {id}", entry.index);
        }
    }

    fn deliver(&mut self, message: Message) {
        if self.cut.is_some_and(|cut| cut == message.from || cut == message.to) {
            if message.r#type == MessageType::MsgSnap as i32 {
                let sender = self.member(message.from);
                sender
                    .node
                    .report_snapshot(message.to, raft::SnapshotStatus::Failure)
                    .unwrap();
            }
            return;
        }
        let (from, to) = (message.from, message.to);
        let is_snapshot = message.r#type == MessageType::MsgSnap as i32;
        if let Err(error) = self.member(to).node.step_peer(message) {
            assert!(!error.is_fatal(), "{error}");
        }
        if is_snapshot {
            self.member(from)
                .node
                .report_snapshot(to, raft::SnapshotStatus::Finish)
                .unwrap();
        }
    }

    fn compact(&mut self, id: u64) {
        let member = self.member(id);
        // The snapshot is of what is applied and reported as such, and the commit index that allowed it must be stored: a
        // snapshot beyond it does not fit the hard state after a crash.
        let index = member.node.applied();
        let covered = member.node.storage().hard_state().commit >= index;
        if covered && index == member.applied && index > member.node.storage().last_index().saturating_sub(20) {
            let conf_state = member.conf_state.clone();
            let stored = member.node.storage_mut();
            if stored.create_snapshot(index, Some(conf_state), Bytes::new()).is_ok() {
                stored.compact(index).unwrap();
            }
        }
    }

    fn trouble(&mut self) {
        let id = self.any_id();
        match self.random.below(100) {
            0..=24 => self.member(id).node.tick().unwrap(),
            25..=59 if !self.queue.is_empty() => {
                // Any message, so that they overtake each other.
                let position = self.random.below(self.queue.len().min(6) as u64) as usize;
                let message = self.queue.remove(position);
                if self.random.one_in(15) {
                    self.queue.push(message.clone());
                }
                if !self.random.one_in(15) || message.r#type == MessageType::MsgSnap as i32 {
                    self.deliver(message);
                }
            }
            60..=69 => {
                self.proposed += 1;
                let data = Bytes::from(format!("{}", self.proposed));
                _ = self.member(id).node.propose(data);
            }
            70..=77 => {
                let floor = self
                    .members
                    .values()
                    .map(|member| member.node.committed())
                    .max()
                    .unwrap();
                let context = Bytes::from(format!("{}", self.asked.len()));
                self.asked.insert(context.clone(), floor);
                self.member(id).node.read_index(context).unwrap();
            }
            78..=87 => self.write_something(id),
            88..=95 => self.apply_something(id),
            96 if self.random.one_in(3) => {
                self.cut = if self.cut.is_none() { Some(id) } else { None };
            }
            97 if self.random.one_in(4) => {
                // A crash: what was not written is gone. What is stored stays, the state is built up again.
                let stored = self.members[&id].node.storage().clone();
                self.start(id, stored);
            }
            98 if self.random.one_in(3) => self.compact(id),
            99 if self.random.one_in(4) => {
                let to = self.any_id();
                let change = ConfChange {
                    r#type: [0, 1, 3][self.random.below(3) as usize],
                    node_id: 3 + self.random.below(2),
                    ..ConfChange::default()
                };
                match self.random.below(3) {
                    0 => _ = self.member(id).node.transfer_leader(to),
                    1 => self.member(id).node.report_unreachable(to).unwrap(),
                    _ => _ = self.member(id).node.propose_conf_change(change),
                }
            }
            _ => {}
        }
        self.pump(id);
    }

    /// No more trouble: everybody hears everybody, everything is written.
    fn calm(&mut self) {
        self.cut = None;
        for _ in 0..80 {
            for id in 1..=4 {
                self.member(id).node.tick().unwrap();
                self.compact(id);
            }
            for _ in 0..10 {
                for id in 1..=4 {
                    self.pump(id);
                    while !self.members[&id].append_work.is_empty() {
                        self.write_something(id);
                    }
                    while !self.members[&id].apply_work.is_empty() {
                        self.apply_something(id);
                    }
                }
                for message in std::mem::take(&mut self.queue) {
                    self.deliver(message);
                }
            }
        }
    }
}

#[test]
fn groups_stay_consistent_and_recover() {
    let (mut applied, mut answered, mut terms, mut changes) = (0, 0, 0, 0);
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..4000 {
            world.trouble();
        }
        world.calm();
        let leader = world
            .members
            .values()
            .find(|member| member.node.state() == StateType::Leader);
        let leader = leader
            .unwrap_or_else(|| panic!("seed {seed}: no leader when all is calm"))
            .node
            .id();
        world.proposed += 1;
        let last = Bytes::from_static(b"at last");
        world.member(leader).node.propose(last.clone()).unwrap();
        world.calm();
        let end = *world.history.keys().next_back().unwrap();
        assert!(
            world.history.values().any(|(_, data)| *data == last),
            "seed {seed}: nothing is committed"
        );
        let conf_state = world.members[&leader].node.conf_state();
        for id in conf_state.voters.iter().chain(&conf_state.learners) {
            assert_eq!(world.members[id].applied, end, "seed {seed}: member {id} lags behind");
        }
        applied += world.history.len();
        answered += world.answered;
        terms += world.leaders.len();
        changes += world.changes;
    }
    println!("{applied} entries, {answered} reads, {terms} leaders, {changes} changes applied");
    assert!(
        applied > 5_000 && answered > 3_000 && terms > 250 && changes > 150,
        "too little happened to mean anything"
    );
}
