//! A group of nodes that does what a script says, as etcd raft's `rafttest/interaction_env*.go`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use proto::raftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, HardState,
    Message, MessageType, Snapshot, SnapshotMetadata,
};
use raft::{
    AnyConfChange, Config, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, MemoryStorage, NO_LIMIT, NONE, RawNode,
    ReadOnlyOption, Storage, StorageError, describe_entries, describe_message, describe_ready, is_local_target,
};

use crate::datadriven::Directive;
use crate::output::{LEVELS, Output};

/// Errors are printed, so their text is all that matters.
type Outcome = Result<(), String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A storage whose snapshot is always that of the last applied entry.
struct ScriptStorage {
    memory: MemoryStorage,
    latest: Snapshot,
}

impl Storage for ScriptStorage {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.memory.initial_state()
    }

    fn entries(&self, lo: u64, hi: u64, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        self.memory.entries(lo, hi, max_size)
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.memory.term(index)
    }

    fn first_index(&self) -> u64 {
        self.memory.first_index()
    }

    fn last_index(&self) -> u64 {
        self.memory.last_index()
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.latest.clone())
    }
}

struct Node {
    raw: RawNode<ScriptStorage>,
    config: Config,
    append_work: VecDeque<Message>,
    apply_work: VecDeque<Message>,
}

pub struct Environment {
    nodes: Vec<Node>,
    messages: Vec<Message>,
    output: Output,
}

impl Environment {
    pub fn new() -> Environment {
        Environment {
            nodes: Vec::new(),
            messages: Vec::new(),
            output: Output::default(),
        }
    }

    pub fn handle(&mut self, directive: &Directive) -> String {
        self.output.take();
        if let Err(error) = self.dispatch(directive) {
            if self.output.is_quiet() {
                return error;
            }
            self.output.write(&error);
        }
        let output = self.output.take();
        if output.is_empty() { "ok".to_owned() } else { output }
    }

    fn dispatch(&mut self, d: &Directive) -> Outcome {
        // Nodes are numbered from 1 and kept from 0.
        let nodes: Vec<usize> = match d.command.as_str() {
            "log-level" | "propose" | "add-nodes" => Vec::new(),
            _ => d.numbers().iter().map(|&id| id as usize - 1).collect(),
        };
        match d.command.as_str() {
            "add-nodes" => self.add_nodes(d),
            "campaign" => self.nodes[nodes[0]].raw.campaign().map_err(text),
            "compact" => {
                self.nodes[nodes[0]]
                    .raw
                    .storage_mut()
                    .memory
                    .compact(nodes[1] as u64 + 1)
                    .map_err(text)?;
                self.raft_log(nodes[0])
            }
            "deliver-msgs" => self.handle_deliver(d),
            "process-ready" => self.for_each(&nodes, "handling Ready", Environment::process_ready),
            "process-append-thread" => {
                self.for_each(&nodes, "processing append thread", Environment::process_append_thread)
            }
            "process-apply-thread" => {
                self.for_each(&nodes, "processing apply thread", Environment::process_apply_thread)
            }
            "log-level" => self.log_level(&d.arguments[0].key),
            "raft-log" => self.raft_log(nodes[0]),
            "raft-state" => {
                self.raft_state();
                Ok(())
            }
            "set-randomized-election-timeout" => {
                self.nodes[nodes[0]]
                    .raw
                    .set_randomized_election_timeout(d.value("timeout").unwrap());
                Ok(())
            }
            "stabilize" => self.handle_stabilize(d, nodes),
            "status" => {
                for (id, progress) in &self.nodes[nodes[0]].raw.status().progress {
                    self.output.write(&format!("{id}: {progress}\n"));
                }
                Ok(())
            }
            "tick-election" => self.tick(nodes[0], |config| config.election_tick),
            "tick-heartbeat" => self.tick(nodes[0], |config| config.heartbeat_tick),
            "transfer-leadership" => {
                let (from, to): (usize, u64) = (d.value("from").unwrap(), d.value("to").unwrap());
                self.nodes[from - 1].raw.transfer_leader(to).map_err(text)
            }
            "forget-leader" => {
                _ = self.nodes[nodes[0]].raw.forget_leader();
                Ok(())
            }
            "send-snapshot" => self.send_snapshot(nodes[0], nodes[1]),
            "propose" => {
                let [id, data] = &d.arguments[..] else {
                    panic!("propose <id> <data>")
                };
                let node: usize = id.key.parse().unwrap();
                self.nodes[node - 1]
                    .raw
                    .propose(Bytes::from(data.key.clone()))
                    .map_err(text)
            }
            "propose-conf-change" => {
                let change = conf_change(d)?;
                self.nodes[nodes[0]].raw.propose_conf_change(change).map_err(text)
            }
            "report-unreachable" => self.nodes[nodes[0]]
                .raw
                .report_unreachable(nodes[1] as u64 + 1)
                .map_err(text),
            other => panic!("unknown command {other}"),
        }
    }

    fn for_each(&mut self, nodes: &[usize], what: &str, work: impl Fn(&mut Environment, usize) -> Outcome) -> Outcome {
        for &node in nodes {
            if nodes.len() > 1 {
                self.headed(node, what, |environment| work(environment, node))?;
            } else {
                work(self, node)?;
            }
        }
        Ok(())
    }

    fn headed(&mut self, node: usize, what: &str, work: impl FnOnce(&mut Environment) -> Outcome) -> Outcome {
        self.output.write(&format!("> {} {what}\n", node + 1));
        let output = self.output.clone();
        output.indented(|| work(self))
    }

    fn add_nodes(&mut self, d: &Directive) -> Outcome {
        let count: u64 = d.arguments[0].key.parse().unwrap();
        let mut config = Config {
            election_tick: 3,
            heartbeat_tick: 1,
            max_size_per_msg: NO_LIMIT,
            max_inflight_msgs: i32::MAX as usize,
            check_quorum: false,
            pre_vote: false,
            logger: Arc::new(self.output.clone()),
            ..Config::default()
        };
        let mut metadata = SnapshotMetadata::default();
        let mut conf_state = ConfState::default();
        let mut data = Bytes::new();
        for argument in &d.arguments[1..] {
            for value in &argument.values {
                let flag = || value.parse::<bool>().unwrap();
                let number = || value.parse::<u64>().unwrap();
                match argument.key.as_str() {
                    "voters" => conf_state.voters.push(number()),
                    "learners" => conf_state.learners.push(number()),
                    "inflight" => config.max_inflight_msgs = number() as usize,
                    "index" => {
                        metadata.index = number();
                        config.applied = metadata.index;
                    }
                    "content" => data = Bytes::from(value.clone()),
                    "async-storage-writes" => config.async_storage_writes = flag(),
                    "prevote" => config.pre_vote = flag(),
                    "checkquorum" => config.check_quorum = flag(),
                    "max-committed-size-per-ready" => config.max_committed_size_per_ready = number(),
                    "disable-conf-change-validation" => config.disable_conf_change_validation = flag(),
                    "read-only" => {
                        config.read_only_option = match value.as_str() {
                            "safe" => ReadOnlyOption::Safe,
                            "lease-based" => ReadOnlyOption::LeaseBased,
                            _ => return Err(format!("invalid read-only option {value:?}")),
                        }
                    }
                    "step-down-on-removal" => config.step_down_on_removal = flag(),
                    other => panic!("unknown argument {other}"),
                }
            }
        }
        let bootstrap = d
            .arguments
            .iter()
            .any(|a| ["voters", "learners", "index", "content"].contains(&&a.key[..]));
        if bootstrap {
            if metadata.index <= 1 {
                return Err("index must be specified as > 1 due to bootstrap".to_owned());
            }
            metadata.term = 1;
        }
        metadata.conf_state = Some(conf_state);
        let snapshot = Snapshot {
            data,
            metadata: Some(metadata),
        };
        for _ in 0..count {
            let id = self.nodes.len() as u64 + 1;
            let mut memory = MemoryStorage::new();
            if bootstrap {
                memory.apply_snapshot(snapshot.clone()).map_err(text)?;
            }
            let config = Config { id, ..config.clone() };
            let storage = ScriptStorage {
                memory,
                latest: snapshot.clone(),
            };
            let raw = RawNode::new(config.clone(), storage).map_err(text)?;
            self.nodes.push(Node {
                raw,
                config,
                append_work: VecDeque::new(),
                apply_work: VecDeque::new(),
            });
        }
        Ok(())
    }

    fn handle_deliver(&mut self, d: &Directive) -> Outcome {
        let mut recipients: Vec<(u64, bool)> = d.numbers().iter().map(|&id| (id, false)).collect();
        for id in d.values("drop").unwrap_or_default() {
            recipients.push((id.parse().unwrap(), true));
        }
        let kind = d
            .value::<String>("type")
            .map(|name| MessageType::from_str_name(&name).expect("a message type"));
        let mut delivered = 0;
        for (id, drop) in recipients {
            delivered += self.deliver(id, drop, kind);
        }
        if delivered == 0 {
            self.output.write("no messages\n");
        }
        Ok(())
    }

    fn is_for(message: &Message, to: u64, drop: bool, kind: Option<MessageType>) -> bool {
        let local = message.from == message.to || is_local_target(message.from) || is_local_target(message.to);
        message.to == to && !(drop && local) && kind.is_none_or(|kind| message.r#type == kind as i32)
    }

    fn deliver(&mut self, to: u64, drop: bool, kind: Option<MessageType>) -> usize {
        let all = std::mem::take(&mut self.messages);
        let (wanted, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|m| Self::is_for(m, to, drop, kind));
        self.messages = kept;
        let count = wanted.len();
        for message in wanted {
            let mark = if drop { "dropped: " } else { "" };
            self.output.write(&format!("{mark}{}\n", describe_message(&message)));
            if !drop && let Err(error) = self.nodes[to as usize - 1].raw.step(message) {
                self.output.write(&format!("{error}\n"));
            }
        }
        count
    }

    fn process_ready(&mut self, index: usize) -> Outcome {
        let node = &mut self.nodes[index];
        let ready = node.raw.ready().map_err(text)?;
        self.output.write(&describe_ready(&ready));
        let is_async = node.config.async_storage_writes;
        if !is_async {
            node.append(ready.hard_state.unwrap_or_default(), &ready.entries, ready.snapshot)?;
            node.apply(ready.committed_entries)?;
        }
        for message in ready.messages {
            match message.to {
                LOCAL_APPEND_THREAD => node.append_work.push_back(message),
                LOCAL_APPLY_THREAD => node.apply_work.push_back(message),
                _ => self.messages.push(message),
            }
        }
        if !is_async {
            node.raw.advance().map_err(text)?;
        }
        Ok(())
    }

    fn process_append_thread(&mut self, index: usize) -> Outcome {
        let node = &mut self.nodes[index];
        let Some(mut work) = node.append_work.pop_front() else {
            self.output.write("no append work to perform");
            return Ok(());
        };
        let responses = std::mem::take(&mut work.responses);
        self.output
            .write(&format!("Processing:\n{}\n", describe_message(&work)));
        let hard_state = HardState {
            term: work.term,
            vote: work.vote,
            commit: work.commit,
        };
        node.append(hard_state, &work.entries, work.snapshot)?;
        self.respond(responses);
        Ok(())
    }

    fn process_apply_thread(&mut self, index: usize) -> Outcome {
        let node = &mut self.nodes[index];
        let Some(mut work) = node.apply_work.pop_front() else {
            self.output.write("no apply work to perform");
            return Ok(());
        };
        let responses = std::mem::take(&mut work.responses);
        self.output
            .write(&format!("Processing:\n{}\n", describe_message(&work)));
        node.apply(work.entries)?;
        self.respond(responses);
        Ok(())
    }

    fn respond(&mut self, responses: Vec<Message>) {
        self.output.write("Responses:\n");
        for response in &responses {
            self.output.write(&format!("{}\n", describe_message(response)));
        }
        self.messages.extend(responses);
    }

    fn log_level(&self, name: &str) -> Outcome {
        let level = LEVELS.iter().position(|level| level.eq_ignore_ascii_case(name));
        self.output
            .set_level(level.ok_or_else(|| format!("log levels must be either of {LEVELS:?}"))?);
        Ok(())
    }

    fn raft_log(&self, index: usize) -> Outcome {
        let storage = &self.nodes[index].raw.storage().memory;
        let (first, last) = (storage.first_index(), storage.last_index());
        if last < first {
            self.output
                .write(&format!("log is empty: first index={first}, last index={last}"));
            return Ok(());
        }
        let entries = storage.entries(first, last + 1, NO_LIMIT).map_err(text)?;
        self.output.write(&describe_entries(&entries));
        Ok(())
    }

    fn raft_state(&self) {
        for node in &self.nodes {
            let status = node.raw.status();
            let basic = status.basic;
            let voter = if status.config.voters.contains(basic.id) {
                "(Voter)"
            } else {
                "(Non-Voter)"
            };
            self.output.write(&format!(
                "{}: {} {voter} Term:{} Lead:{}\n",
                basic.id, basic.soft_state.raft_state, basic.hard_state.term, basic.soft_state.lead
            ));
        }
    }

    fn tick(&mut self, index: usize, ticks: impl Fn(&Config) -> u64) -> Outcome {
        let node = &mut self.nodes[index];
        for _ in 0..ticks(&node.config) {
            node.raw.tick().map_err(text)?;
        }
        Ok(())
    }

    fn send_snapshot(&mut self, from: usize, to: usize) -> Outcome {
        let raw = &self.nodes[from].raw;
        let message = Message {
            r#type: MessageType::MsgSnap as i32,
            term: raw.term(),
            from: from as u64 + 1,
            to: to as u64 + 1,
            snapshot: Some(raw.storage().snapshot().map_err(text)?),
            ..Message::default()
        };
        self.output.write(&describe_message(&message));
        self.messages.push(message);
        Ok(())
    }

    fn handle_stabilize(&mut self, d: &Directive, nodes: Vec<usize>) -> Outcome {
        let before = self.output.level();
        if let Some(level) = d.value::<String>("log-level") {
            self.log_level(&level)?;
        }
        let nodes = if nodes.is_empty() {
            (0..self.nodes.len()).collect()
        } else {
            nodes
        };
        let outcome = self.stabilize(&nodes);
        self.output.set_level(before);
        outcome
    }

    fn stabilize(&mut self, nodes: &[usize]) -> Outcome {
        loop {
            let mut done = true;
            for &node in nodes {
                if self.nodes[node].raw.has_ready() {
                    self.headed(node, "handling Ready", |environment| environment.process_ready(node))?;
                    done = false;
                }
            }
            for &node in nodes {
                let id = node as u64 + 1;
                if self
                    .messages
                    .iter()
                    .any(|message| Self::is_for(message, id, false, None))
                {
                    self.headed(node, "receiving messages", |environment| {
                        environment.deliver(id, false, None);
                        Ok(())
                    })?;
                    done = false;
                }
            }
            for &node in nodes {
                if !self.nodes[node].append_work.is_empty() {
                    self.output.write(&format!("> {} processing append thread\n", node + 1));
                    while !self.nodes[node].append_work.is_empty() {
                        let output = self.output.clone();
                        output.indented(|| self.process_append_thread(node))?;
                    }
                    done = false;
                }
            }
            for &node in nodes {
                if !self.nodes[node].apply_work.is_empty() {
                    self.output.write(&format!("> {} processing apply thread\n", node + 1));
                    while !self.nodes[node].apply_work.is_empty() {
                        let output = self.output.clone();
                        output.indented(|| self.process_apply_thread(node))?;
                    }
                    done = false;
                }
            }
            if done {
                return Ok(());
            }
        }
    }
}

impl Node {
    fn append(&mut self, hard_state: HardState, entries: &[Entry], snapshot: Option<Snapshot>) -> Outcome {
        let memory = &mut self.raw.storage_mut().memory;
        if hard_state != HardState::default() {
            memory.set_hard_state(hard_state);
        }
        match snapshot {
            Some(_) if !entries.is_empty() => Err("can't apply snapshot and entries at the same time".to_owned()),
            Some(snapshot) => memory.apply_snapshot(snapshot).map_err(text),
            None => memory.append(entries).map_err(text),
        }
    }

    /// The state machine is the concatenation of all that was applied.
    fn apply(&mut self, entries: Vec<Entry>) -> Outcome {
        for entry in entries {
            let mut conf_state = None;
            let update = match AnyConfChange::decode(&entry)? {
                None => entry.data,
                Some(change) => {
                    conf_state = Some(self.raw.apply_conf_change(change.clone()).map_err(text)?);
                    change.into_v2().context
                }
            };
            let latest = &mut self.raw.storage_mut().latest;
            latest.data = [&latest.data[..], &update[..]].concat().into();
            let metadata = latest.metadata.get_or_insert_default();
            metadata.index = entry.index;
            metadata.term = entry.term;
            if conf_state.is_some() {
                metadata.conf_state = conf_state;
            }
        }
        Ok(())
    }
}

fn conf_change(d: &Directive) -> Result<AnyConfChange, String> {
    let v1 = d.value("v1").unwrap_or(false);
    let transition = match d.value::<String>("transition").as_deref() {
        None | Some("auto") => ConfChangeTransition::Auto,
        Some("implicit") => ConfChangeTransition::JointImplicit,
        Some("explicit") => ConfChangeTransition::JointExplicit,
        Some(other) => return Err(format!("unknown transition {other}")),
    };
    let changes = parse_changes(&d.input)?;
    if !v1 {
        return Ok(ConfChangeV2 {
            transition: transition as i32,
            changes,
            context: Bytes::new(),
        }
        .into());
    }
    let [change] = &changes[..] else {
        return Err("v1 conf change can only have one operation and no transition".to_owned());
    };
    Ok(ConfChange {
        r#type: change.r#type,
        node_id: change.node_id,
        id: NONE,
        context: Bytes::new(),
    }
    .into())
}

/// `v1 l2 r3 u4`: voter, learner, removed, updated.
pub fn parse_changes(text: &str) -> Result<Vec<ConfChangeSingle>, String> {
    text.split_whitespace()
        .map(|word| {
            let (verb, id) = word.split_at(1);
            let kind = match verb {
                "v" => ConfChangeType::ConfChangeAddNode,
                "l" => ConfChangeType::ConfChangeAddLearnerNode,
                "r" => ConfChangeType::ConfChangeRemoveNode,
                "u" => ConfChangeType::ConfChangeUpdateNode,
                _ => return Err(format!("unknown input: {word}")),
            };
            Ok(ConfChangeSingle {
                r#type: kind as i32,
                node_id: id.parse().map_err(|error| format!("{error}"))?,
            })
        })
        .collect()
}
