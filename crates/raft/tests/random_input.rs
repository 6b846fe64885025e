//! Random messages, plausible and impossible, into a node in every role: errors, but never a panic, and the log stays
//! sound.

mod network;

use bytes::Bytes;
use network::{Random, config, storage};
use prost::Message as _;
use proto::raftpb::{ConfChange, ConfState, Entry, Message, Snapshot, SnapshotMetadata};
use raft::{AnyConfChange, Config, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, MemoryStorage, RawNode, Storage};

/// What a peer could send, with all its parts random.
trait Arbitrary {
    fn number(&mut self) -> u64;
    fn around(&mut self, near: u64) -> u64;
    fn id(&mut self) -> u64;
    fn bytes(&mut self) -> Bytes;
    fn entries(&mut self, term: u64, index: u64) -> Vec<Entry>;
    fn snapshot(&mut self, index: u64, term: u64) -> Snapshot;
    fn message(&mut self, node: &RawNode<MemoryStorage>) -> Message;
}

impl Arbitrary for Random {
    /// Mostly small, now and then at the edge of what fits.
    fn number(&mut self) -> u64 {
        match self.below(40) {
            0 => u64::MAX - self.below(3),
            1 => i64::MAX as u64,
            _ => self.below(12),
        }
    }

    /// Mostly close to `near`.
    fn around(&mut self, near: u64) -> u64 {
        match self.below(8) {
            0 => self.number(),
            _ => near.saturating_add(self.below(4)).saturating_sub(self.below(4)),
        }
    }

    fn id(&mut self) -> u64 {
        match self.below(20) {
            0 => 0,
            1 => LOCAL_APPEND_THREAD,
            2 => LOCAL_APPLY_THREAD,
            _ => 1 + self.below(5),
        }
    }

    fn bytes(&mut self) -> Bytes {
        if self.one_in(6) {
            return Bytes::from_static(b"CampaignTransfer");
        }
        let length = self.below(12);
        (0..length).map(|_| self.below(3) as u8).collect()
    }

    fn entries(&mut self, term: u64, index: u64) -> Vec<Entry> {
        let count = self.below(4);
        (1..=count)
            .map(|i| {
                let change = ConfChange {
                    r#type: self.below(5) as i32,
                    node_id: self.below(5),
                    ..ConfChange::default()
                };
                let (kind, data) = match self.below(8) {
                    0 => (1, change.encode_to_vec().into()),
                    1 => (self.below(4) as i32, self.bytes()),
                    _ => (0, self.bytes()),
                };
                let index = if self.one_in(20) {
                    self.number()
                } else {
                    index.saturating_add(i)
                };
                let term = if self.one_in(20) { self.number() } else { term };
                Entry {
                    r#type: kind,
                    term,
                    index,
                    data,
                }
            })
            .collect()
    }

    fn snapshot(&mut self, index: u64, term: u64) -> Snapshot {
        let mut ids = || (0..self.below(4)).map(|_| self.below(5)).collect::<Vec<u64>>();
        let mut conf_state = ConfState {
            voters: ids(),
            ..ConfState::default()
        };
        if self.one_in(2) {
            conf_state.voters = vec![1, 2, 3];
        }
        if self.one_in(5) {
            let mut ids = || (0..self.below(3)).map(|_| self.below(5)).collect::<Vec<u64>>();
            conf_state.learners = ids();
            conf_state.voters_outgoing = ids();
            conf_state.learners_next = ids();
        }
        Snapshot {
            data: self.bytes(),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(conf_state),
                index,
                term,
            }),
        }
    }

    fn message(&mut self, node: &RawNode<MemoryStorage>) -> Message {
        let term = if self.one_in(30) {
            self.number()
        } else {
            node.term().saturating_add(u64::from(self.one_in(6)))
        };
        let index = self.around(node.last_index());
        let log_term = match node.storage().term(index) {
            Ok(term) if !self.one_in(4) => term,
            _ => self.around(term),
        };
        Message {
            r#type: self.below(26) as i32,
            to: if self.one_in(20) { self.id() } else { node.id() },
            from: self.id(),
            term,
            log_term,
            index,
            entries: self.entries(term, index),
            commit: self.around(node.committed()),
            vote: self.below(3),
            snapshot: if self.one_in(3) {
                Some(self.snapshot(index, log_term))
            } else {
                None
            },
            reject: self.one_in(3),
            reject_hint: self.around(index),
            context: self.bytes(),
            responses: Vec::new(),
        }
    }
}

/// Does what the node wants done, as a faithful application would.
fn handle_ready(node: &mut RawNode<MemoryStorage>, applied: &mut u64) -> Result<(), raft::Error> {
    while node.has_ready() {
        let ready = node.ready()?;
        let storage = node.storage_mut();
        if let Some(hard_state) = ready.hard_state {
            storage.set_hard_state(hard_state);
        }
        if let Some(snapshot) = ready.snapshot {
            *applied = snapshot.metadata.as_ref().unwrap().index;
            storage.apply_snapshot(snapshot).unwrap();
        }
        storage.append(&ready.entries).unwrap();
        for entry in ready.committed_entries {
            assert_eq!(entry.index, *applied + 1, "entries are applied in order, each once");
            *applied = entry.index;
            if let Some(change) = AnyConfChange::decode(&entry).unwrap_or(None) {
                // Refused ones are skipped, as by every member.
                _ = node.apply_conf_change(change);
            }
        }
        node.advance()?;
    }
    assert!(node.committed() <= node.last_index());
    for (_, progress) in node.progress() {
        assert!(progress.matched < progress.next);
    }
    Ok(())
}

fn run(seed: u64, steps: usize) -> (usize, usize, usize) {
    let mut random = Random(seed);
    let start = |random: &mut Random| {
        let options = Config {
            applied: 1,
            pre_vote: random.one_in(2),
            check_quorum: random.one_in(2),
            max_size_per_msg: 1 + random.below(100),
            max_inflight_msgs: 1 + random.below(3) as usize,
            step_down_on_removal: random.one_in(2),
            seed: random.below(1000),
            ..config(1)
        };
        let voters: &[u64] = if random.one_in(4) { &[1] } else { &[1, 2, 3] };
        (RawNode::new(options, storage(voters, &[4])).unwrap(), 1)
    };
    let (mut node, mut applied) = start(&mut random);
    let (mut accepted, mut refused, mut fatal) = (0, 0, 0);
    for _ in 0..steps {
        let result = match random.below(30) {
            0 => node.campaign(),
            1..=4 => node.tick(),
            5 => node.propose(random.bytes()),
            6 => node.read_index(random.bytes()),
            7 => node.report_unreachable(random.id()),
            8 => node.report_snapshot(random.id(), raft::SnapshotStatus::Failure),
            9 => node.transfer_leader(random.id()),
            10 if random.one_in(3) => node.forget_leader(),
            // What a quorum of willing followers would say, so that the node gets to lead and to commit.
            11..=16 => {
                let kind = [6, 18, 4, 9][random.below(4) as usize];
                let term = node.term().saturating_add(u64::from(kind == 18));
                let from = 2 + random.below(2);
                let index = if random.one_in(2) {
                    node.last_index()
                } else {
                    random.below(node.last_index() + 1)
                };
                node.step_peer(Message {
                    r#type: kind,
                    to: 1,
                    from,
                    term,
                    index,
                    ..Message::default()
                })
            }
            17 => {
                let conf_state = node.conf_state();
                let storage = node.storage_mut();
                if applied > storage.first_index()
                    && storage.create_snapshot(applied, Some(conf_state), Bytes::new()).is_ok()
                {
                    storage.compact(applied).unwrap();
                }
                Ok(())
            }
            _ => {
                let message = random.message(&node);
                node.step_peer(message)
            }
        };
        match result.and_then(|()| handle_ready(&mut node, &mut applied)) {
            Ok(()) => accepted += 1,
            Err(error) if !error.is_fatal() => refused += 1,
            Err(error) => {
                // The one thing that a peer can say and a sound member must not survive: it lost what it acknowledged.
                assert!(matches!(error, raft::Error::CommitBeyondLog { .. }), "{error}");
                fatal += 1;
                (node, applied) = start(&mut random);
            }
        }
    }
    (accepted, refused, fatal)
}

#[test]
fn no_input_makes_a_node_panic() {
    let (mut accepted, mut refused, mut fatal) = (0, 0, 0);
    for seed in 0..300 {
        let counts = run(seed, 400);
        accepted += counts.0;
        refused += counts.1;
        fatal += counts.2;
    }
    println!("{accepted} accepted, {refused} refused, {fatal} fatal");
    assert!(
        accepted > 10_000 && refused > 10_000 && fatal > 100,
        "the input is too uniform to mean anything"
    );
}
