//! Replicas in one process: memory disks, a network that is a queue, a clock that is a number.

#![allow(dead_code)] // Each test uses its part of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use disk::{Disk, File, MemoryDisk, Open};
use prost::Message as _;
use proto::etcdserverpb::{InternalRaftRequest, PutRequest, RequestHeader};
use proto::raftpb::{ConfChange, ConfChangeType, Message};
use replica::state_machine::membership::{ChangeContext, Member};
use replica::state_machine::{Error, Response};
use replica::{Config, Input, LogWriter, Output, PersistJob, Replica, Start};

pub type Answer = Result<Response, Error>;

pub struct Node {
    pub name: String,
    pub disk: MemoryDisk,
    pub running: Option<Running>,
    pub removed: bool,
    pub published: bool,
    starts: u64,
}

pub struct Running {
    pub replica: Replica<MemoryDisk>,
    pub writer: LogWriter<MemoryDisk>,
    pub jobs: Vec<PersistJob>,
    pub answers: BTreeMap<u64, Answer>,
    pub configured: BTreeMap<u64, Result<Vec<Member>, Error>>,
    pub reads_ready: u64,
    pub restored: usize,
    reads: u64,
}

pub struct World {
    pub nodes: BTreeMap<u64, Node>,
    pub now: Duration,
    /// Members that nobody can reach, nor they anybody.
    pub cut: BTreeSet<u64>,
    queue: VecDeque<Message>,
    configure: fn(&mut Config),
    pub snapshots_sent: usize,
}

pub fn url(name: &str) -> Vec<String> {
    vec![format!("http://{name}:2380")]
}

impl World {
    /// A new cluster of members `m1`, `m2`, …
    pub fn new(size: usize, seed: u64, configure: fn(&mut Config)) -> World {
        let names: Vec<String> = (1..=size).map(|n| format!("m{n}")).collect();
        let members: BTreeMap<String, Vec<String>> = names.iter().map(|name| (name.clone(), url(name))).collect();
        let start = Start::New {
            members: members.clone(),
            token: "world".into(),
        };
        let mut world = World {
            nodes: BTreeMap::new(),
            now: Duration::from_secs(1),
            cut: BTreeSet::new(),
            queue: VecDeque::new(),
            configure,
            snapshots_sent: 0,
        };
        let (_, all) = replica::new_cluster(&members, "world");
        for (n, member) in all.iter().enumerate() {
            world.add_node(member.id, &member.name, seed * 100 + n as u64);
        }
        for member in all {
            world.start_with(member.id, start.clone());
        }
        world.pump();
        world
    }

    fn add_node(&mut self, id: u64, name: &str, seed: u64) {
        let disk = MemoryDisk::new(seed);
        disk.create_dir_all(Path::new("/data")).unwrap();
        let node = Node {
            name: name.to_owned(),
            disk,
            running: None,
            removed: false,
            published: false,
            starts: 0,
        };
        self.nodes.insert(id, node);
    }

    pub fn config(&self, id: u64, start: Start) -> Config {
        let node = &self.nodes[&id];
        let mut config = Config {
            data_dir: PathBuf::from("/data"),
            name: node.name.clone(),
            client_urls: vec![format!("http://{}:2379", node.name)],
            start,
            seed: id ^ node.starts,
            unix_ms: 1_700_000_000_000 + node.starts * 100_000,
            incarnation: u128::from(id) << 32 | u128::from(node.starts),
            ..Config::default()
        };
        (self.configure)(&mut config);
        config
    }

    pub fn start_with(&mut self, id: u64, start: Start) {
        let config = self.config(id, start);
        let node = self.nodes.get_mut(&id).unwrap();
        node.starts += 1;
        let (replica, writer) = Replica::open(node.disk.clone(), config, self.now).unwrap();
        assert_eq!(replica.identity().member_id, id);
        node.running = Some(Running {
            replica,
            writer,
            jobs: Vec::new(),
            answers: BTreeMap::new(),
            configured: BTreeMap::new(),
            reads_ready: 0,
            restored: 0,
            reads: 0,
        });
    }

    pub fn restart(&mut self, id: u64) {
        self.start_with(id, Start::Resume);
        self.pump();
    }

    /// Power loss: what was not synced may be gone, what was promised must not.
    pub fn crash(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.running = None;
        node.disk.crash();
    }

    pub fn node(&mut self, id: u64) -> &mut Running {
        self.nodes.get_mut(&id).unwrap().running.as_mut().unwrap()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub fn feed(&mut self, id: u64, input: Input<MemoryDisk>) {
        let now = self.now;
        let outputs = self.node(id).replica.step(input, now).unwrap();
        self.carry_out(id, outputs);
    }

    fn carry_out(&mut self, id: u64, outputs: Vec<Output<MemoryDisk>>) {
        for output in outputs {
            match output {
                Output::Persist(job) => self.node(id).jobs.push(job),
                Output::Commit(job) => {
                    let committed = job.run().unwrap();
                    self.feed(id, Input::Committed(committed));
                }
                Output::Send(messages) => self.queue.extend(messages.into_iter().filter(|m| {
                    assert_ne!(m.to, id);
                    true
                })),
                Output::SendSnapshot { message, database } => self.send_snapshot(id, message, database.stream(4096)),
                Output::Applied(answers) => self.node(id).answers.extend(answers),
                Output::Configured { id: change, result } => {
                    self.node(id).configured.insert(change, result);
                }
                Output::ReadsReady(number) => self.node(id).reads_ready = number,
                Output::Published => self.nodes.get_mut(&id).unwrap().published = true,
                Output::Restored => self.node(id).restored += 1,
                Output::Removed => self.nodes.get_mut(&id).unwrap().removed = true,
                Output::SnapshotTaken(_) | Output::Leader { .. } | Output::ClusterChanged | Output::Compacted(_) => {}
            }
        }
    }

    fn send_snapshot<E: std::fmt::Debug>(
        &mut self,
        from: u64,
        message: Message,
        chunks: impl Iterator<Item = Result<Bytes, E>>,
    ) {
        self.snapshots_sent += 1;
        let to = message.to;
        let ok = self.reaches(from, to);
        if ok {
            let disk = self.nodes[&to].disk.clone();
            let path = PathBuf::from(format!("/data/member/snap/tmp-{}", self.snapshots_sent));
            let file = disk.open(&path, Open::CreateNew).unwrap();
            let mut at = 0;
            for chunk in chunks {
                let chunk = chunk.unwrap();
                file.write_all_at(&chunk, at).unwrap();
                at += chunk.len() as u64;
            }
            file.sync_data().unwrap();
            self.feed(
                to,
                Input::SnapshotReceived {
                    message: Box::new(message),
                    path,
                },
            );
        }
        self.feed(from, Input::SnapshotSent { member_id: to, ok });
    }

    fn reaches(&self, from: u64, to: u64) -> bool {
        let up = |id| self.nodes.get(&id).is_some_and(|node| node.running.is_some());
        !self.cut.contains(&from) && !self.cut.contains(&to) && up(to)
    }

    /// Writes, sends and applies until nothing is left to do.
    pub fn pump(&mut self) {
        loop {
            let mut quiet = true;
            for id in self.ids() {
                let now = self.now;
                let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else {
                    continue;
                };
                let mut outputs = Vec::new();
                while running.replica.has_work() {
                    outputs.append(&mut running.replica.drain(now).unwrap());
                }
                quiet &= outputs.is_empty();
                self.carry_out(id, outputs);
                let jobs = std::mem::take(&mut self.node(id).jobs);
                if !jobs.is_empty() {
                    quiet = false;
                    let persisted = self.node(id).writer.persist(jobs).unwrap();
                    self.feed(id, Input::Persisted(persisted));
                }
            }
            while let Some(message) = self.queue.pop_front() {
                quiet = false;
                if self.reaches(message.from, message.to) {
                    self.feed(message.to, Input::Message(message));
                } else if self.nodes.get(&message.from).is_some_and(|node| node.running.is_some()) {
                    self.feed(message.from, Input::Unreachable(message.to));
                }
            }
            if quiet {
                return;
            }
        }
    }

    pub fn tick(&mut self) {
        self.now += Duration::from_millis(100);
        for id in self.ids() {
            if self.nodes[&id].running.is_some() {
                self.feed(id, Input::Tick);
            }
        }
        self.pump();
    }

    pub fn ticks(&mut self, n: usize) {
        for _ in 0..n {
            self.tick();
        }
    }

    /// Lets time pass until there is one leader that the reachable majority follows.
    pub fn elect(&mut self) -> u64 {
        for _ in 0..200 {
            self.tick();
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("no leader within 20 s");
    }

    pub fn leader(&self) -> Option<u64> {
        let up: Vec<_> = self
            .nodes
            .iter()
            .filter(|(id, node)| !self.cut.contains(id) && !node.removed)
            .filter_map(|(id, node)| Some((*id, &node.running.as_ref()?.replica)))
            .collect();
        let (leader, _) = *up.iter().find(|(_, replica)| replica.leads())?;
        up.iter()
            .all(|(_, replica)| replica.leader() == leader)
            .then_some(leader)
    }

    /// Proposes a request at a member; the answer is in `answers` under the id returned.
    pub fn propose(&mut self, at: u64, mut request: InternalRaftRequest) -> u64 {
        let id = self.node(at).replica.ids().next();
        request.header = Some(RequestHeader {
            id,
            ..Default::default()
        });
        self.feed(at, Input::Propose(request.encode_to_vec().into()));
        id
    }

    pub fn put(&mut self, at: u64, key: &str, value: &str) -> Option<Answer> {
        let put = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        let id = self.propose(
            at,
            InternalRaftRequest {
                put: Some(put),
                ..Default::default()
            },
        );
        self.pump();
        self.node(at).answers.remove(&id)
    }

    pub fn must_put(&mut self, at: u64, key: &str, value: &str) {
        match self.put(at, key, value) {
            Some(Ok(Response::Put(_))) => {}
            other => panic!("put {key}: {other:?}"),
        }
    }

    pub fn get(&self, at: u64, key: &str) -> Option<String> {
        let replica = &self.nodes[&at].running.as_ref().unwrap().replica;
        let value = replica.state().reader().view().get(key.as_bytes()).unwrap();
        value.map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
    }

    /// A linearizable read: waits for it over some ticks.
    pub fn read(&mut self, at: u64) -> bool {
        let running = self.node(at);
        running.reads += 1;
        let number = running.reads;
        self.feed(at, Input::Read(number));
        self.pump();
        for _ in 0..10 {
            if self.node(at).reads_ready >= number {
                return true;
            }
            self.tick();
        }
        false
    }

    pub fn change(
        &mut self,
        at: u64,
        kind: ConfChangeType,
        node_id: u64,
        context: String,
    ) -> Result<Vec<Member>, Error> {
        let id = self.node(at).replica.ids().next();
        let change = ConfChange {
            id,
            r#type: kind as i32,
            node_id,
            context: context.into(),
        };
        self.feed(at, Input::ProposeConfChange(change));
        self.pump();
        for _ in 0..5 {
            self.tick();
        }
        self.node(at).configured.remove(&id).expect("the change is applied")
    }

    /// Adds a member through `at` and starts it with an empty disk.
    pub fn add_member(&mut self, at: u64, name: &str, learner: bool) -> u64 {
        let member = Member {
            is_learner: learner,
            ..Member::new("", &url(name), "", Some(1_700_000_000))
        };
        let id = member.id;
        let kind = if learner {
            ConfChangeType::ConfChangeAddLearnerNode
        } else {
            ConfChangeType::ConfChangeAddNode
        };
        let context = ChangeContext {
            member,
            is_promote: false,
        }
        .to_json();
        let members = self.change(at, kind, id, context).unwrap();
        self.add_node(id, name, id);
        let cluster_id = self.node(at).replica.identity().cluster_id;
        self.start_with(
            id,
            Start::Join {
                cluster_id,
                member_id: id,
                members,
            },
        );
        self.pump();
        id
    }

    pub fn promote(&mut self, at: u64, id: u64) -> Result<Vec<Member>, Error> {
        let member = Member {
            id,
            ..Member::default()
        };
        let context = ChangeContext {
            member,
            is_promote: true,
        }
        .to_json();
        self.change(at, ConfChangeType::ConfChangeAddNode, id, context)
    }

    /// All running members hold the same keys, members and index.
    pub fn assert_same(&mut self) {
        self.ticks(3);
        let mut first = None;
        for (id, node) in &self.nodes {
            let Some(running) = node.running.as_ref().filter(|_| !node.removed) else {
                continue;
            };
            let state = running.replica.state();
            let (hash, revision) = state.reader().hash_kv(0).unwrap();
            let members: Vec<Member> = state.membership().members().cloned().collect();
            let this = (hash, revision, members, state.applied(), running.replica.term());
            match &first {
                None => first = Some((*id, this)),
                Some((other, that)) => assert_eq!(&this, that, "{id:x} and {other:x} differ"),
            }
        }
    }
}
