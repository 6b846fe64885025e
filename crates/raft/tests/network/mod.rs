//! A group of nodes in one thread: messages wait in one queue until they are delivered, held or lost.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use proto::raftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata};
use raft::{
    AnyConfChange, Config, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, MemoryStorage, RawNode, ReadState, StateType,
    Storage,
};

pub struct Network {
    pub nodes: BTreeMap<u64, RawNode<MemoryStorage>>,
    /// Data of the normal entries that each node has applied.
    pub applied: BTreeMap<u64, Vec<Bytes>>,
    pub reads: BTreeMap<u64, Vec<ReadState>>,
    pub queue: VecDeque<Message>,
    /// Messages taken out of the queue by [`Network::hold`].
    pub held: Vec<Message>,
    cut: BTreeSet<(u64, u64)>,
    async_writes: bool,
}

pub fn config(id: u64) -> Config {
    Config {
        id,
        seed: 1,
        check_quorum: false,
        pre_vote: false,
        ..Config::default()
    }
}

/// A storage as after a bootstrap from a snapshot at index 1, so that every member starts with the same voters.
pub fn storage(voters: &[u64], learners: &[u64]) -> MemoryStorage {
    let conf_state = ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        ..ConfState::default()
    };
    let metadata = SnapshotMetadata {
        index: 1,
        term: 1,
        conf_state: Some(conf_state),
    };
    let mut storage = MemoryStorage::new();
    storage
        .apply_snapshot(Snapshot {
            data: Bytes::new(),
            metadata: Some(metadata),
        })
        .unwrap();
    storage.set_hard_state(HardState {
        term: 1,
        vote: 0,
        commit: 1,
    });
    storage
}

pub fn kind(message: &Message) -> MessageType {
    MessageType::try_from(message.r#type).unwrap()
}

impl Network {
    pub fn new(voters: &[u64], learners: &[u64], adjust: impl Fn(&mut Config)) -> Network {
        let mut network = Network {
            nodes: BTreeMap::new(),
            applied: BTreeMap::new(),
            reads: BTreeMap::new(),
            queue: VecDeque::new(),
            held: Vec::new(),
            cut: BTreeSet::new(),
            async_writes: false,
        };
        for &id in voters.iter().chain(learners) {
            network.add(id, storage(voters, learners), &adjust);
        }
        network
    }

    pub fn add(&mut self, id: u64, storage: MemoryStorage, adjust: impl Fn(&mut Config)) {
        let mut config = Config {
            applied: storage.first_index() - 1,
            ..config(id)
        };
        adjust(&mut config);
        self.async_writes = config.async_storage_writes;
        self.nodes.insert(id, RawNode::new(config, storage).unwrap());
        self.applied.insert(id, Vec::new());
        self.reads.insert(id, Vec::new());
    }

    pub fn node(&mut self, id: u64) -> &mut RawNode<MemoryStorage> {
        self.nodes.get_mut(&id).unwrap()
    }

    /// From now on nothing passes between `id` and the others.
    pub fn isolate(&mut self, id: u64) {
        for &other in self.nodes.keys() {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Handles what every node wants done; its messages join the queue.
    pub fn handle_ready(&mut self) -> bool {
        let mut any = false;
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            while self.node(id).has_ready() {
                any = true;
                self.handle_ready_of(id);
            }
        }
        any
    }

    fn handle_ready_of(&mut self, id: u64) {
        let ready = self.node(id).ready().unwrap();
        self.reads.get_mut(&id).unwrap().extend(ready.read_states);
        if self.async_writes {
            for message in ready.messages {
                match message.to {
                    LOCAL_APPEND_THREAD => {
                        let storage = self.node(id).storage_mut();
                        if message.term != 0 || message.commit != 0 {
                            storage.set_hard_state(HardState {
                                term: message.term,
                                vote: message.vote,
                                commit: message.commit,
                            });
                        }
                        if let Some(snapshot) = message.snapshot {
                            storage.apply_snapshot(snapshot).unwrap();
                        }
                        storage.append(&message.entries).unwrap();
                        self.respond(id, message.responses);
                    }
                    LOCAL_APPLY_THREAD => {
                        self.apply(id, message.entries);
                        self.respond(id, message.responses);
                    }
                    _ => self.queue.push_back(message),
                }
            }
            return;
        }
        let storage = self.node(id).storage_mut();
        if let Some(hard_state) = ready.hard_state {
            storage.set_hard_state(hard_state);
        }
        if let Some(snapshot) = ready.snapshot {
            storage.apply_snapshot(snapshot).unwrap();
        }
        storage.append(&ready.entries).unwrap();
        self.queue.extend(ready.messages);
        self.apply(id, ready.committed_entries);
        self.node(id).advance().unwrap();
    }

    fn respond(&mut self, id: u64, responses: Vec<Message>) {
        for response in responses {
            if response.to == id {
                self.node(id).step(response).unwrap();
            } else {
                self.queue.push_back(response);
            }
        }
    }

    fn apply(&mut self, id: u64, entries: Vec<Entry>) {
        for entry in entries {
            match AnyConfChange::decode(&entry).unwrap() {
                Some(change) => _ = self.node(id).apply_conf_change(change).unwrap(),
                None if entry.data.is_empty() => {}
                None => {
                    assert_eq!(entry.r#type, EntryType::EntryNormal as i32);
                    self.applied.get_mut(&id).unwrap().push(entry.data);
                }
            }
        }
    }

    /// Handles and delivers until nothing moves any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let worked = self.handle_ready();
            let Some(message) = self.queue.pop_front() else {
                if worked {
                    continue;
                }
                return;
            };
            self.deliver(message);
        }
        panic!("the group does not come to rest");
    }

    pub fn deliver(&mut self, message: Message) {
        assert_eq!(
            (message.vote, message.responses.len()),
            (0, 0),
            "local fields were sent to a peer"
        );
        if self.cut.contains(&(message.from, message.to)) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&message.to)
            && let Err(error) = node.step_peer(message)
        {
            assert!(!error.is_fatal(), "{error}");
        }
    }

    /// Takes messages out of the queue; they can be delivered later.
    pub fn hold(&mut self, wanted: impl Fn(&Message) -> bool) {
        self.handle_ready();
        let (held, kept): (VecDeque<_>, VecDeque<_>) = self.queue.drain(..).partition(wanted);
        self.held.extend(held);
        self.queue = kept;
    }

    /// Handles what is due and throws away all messages that match.
    pub fn lose(&mut self, wanted: impl Fn(&Message) -> bool) {
        self.handle_ready();
        self.queue.retain(|message| !wanted(message));
    }

    pub fn elect(&mut self, id: u64) {
        self.node(id).campaign().unwrap();
        self.settle();
        assert_eq!(self.node(id).state(), StateType::Leader);
    }

    pub fn propose(&mut self, id: u64, data: &str) {
        self.node(id).propose(Bytes::copy_from_slice(data.as_bytes())).unwrap();
        self.settle();
    }

    pub fn tick(&mut self, id: u64, times: u64) {
        for _ in 0..times {
            self.node(id).tick().unwrap();
        }
    }

    pub fn read(&mut self, id: u64, context: &str) {
        self.node(id)
            .read_index(Bytes::copy_from_slice(context.as_bytes()))
            .unwrap();
    }

    pub fn applied_texts(&self, id: u64) -> Vec<&str> {
        self.applied[&id]
            .iter()
            .map(|data| std::str::from_utf8(data).unwrap())
            .collect()
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
