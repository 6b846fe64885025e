//! What no correct peer sends, and storage that contradicts itself: refused with an error that names what is wrong.
//! etcd raft panics in most of these cases.

mod network;

use bytes::Bytes;
use network::{Network, config, kind, storage};
use proto::raftpb::{
    ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message,
    MessageType, Snapshot, SnapshotMetadata,
};
use raft::confchange::ConfChangeError;
use raft::{
    Config, Error, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, MemoryStorage, RawNode, StateType, Storage, StorageError,
};

fn entry(term: u64, index: u64) -> Entry {
    Entry {
        term,
        index,
        ..Entry::default()
    }
}

fn message(kind: MessageType, from: u64, term: u64) -> Message {
    Message {
        r#type: kind as i32,
        from,
        to: 2,
        term,
        ..Message::default()
    }
}

/// A group that has elected member 1 and agrees on a few entries; its second member receives what is impossible.
fn settled() -> Network {
    let mut group = Network::new(&[1, 2, 3], &[], |_| {});
    group.elect(1);
    for data in ["a", "b", "c"] {
        group.propose(1, data);
    }
    group
}

/// Steps a message into member 2 and expects that it is refused as invalid and changes nothing.
fn refused(group: &mut Network, message: Message) -> String {
    let node = group.node(2);
    let before = (node.basic_status(), node.last_index(), node.has_ready());
    let error = node.step(message.clone()).expect_err(&format!("{message:?}"));
    assert!(
        matches!(error, Error::InvalidMessage { .. }) && !error.is_fatal(),
        "{error}"
    );
    assert_eq!((node.basic_status(), node.last_index(), node.has_ready()), before);
    error.to_string()
}

#[test]
fn local_messages_from_peers_are_refused() {
    let mut group = settled();
    for kind in [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        MessageType::MsgStorageAppend,
        MessageType::MsgStorageAppendResp,
        MessageType::MsgStorageApply,
        MessageType::MsgStorageApplyResp,
    ] {
        for from in [0, 1, 9] {
            assert_eq!(group.node(2).step(message(kind, from, 100)), Err(Error::StepLocalMsg));
        }
    }
    assert_eq!(group.node(2).leader(), 1);
}

#[test]
fn responses_of_strangers_are_refused() {
    let mut group = settled();
    for kind in [
        MessageType::MsgAppResp,
        MessageType::MsgVoteResp,
        MessageType::MsgHeartbeatResp,
        MessageType::MsgReadIndexResp,
        MessageType::MsgPreVoteResp,
    ] {
        assert_eq!(group.node(2).step(message(kind, 9, 100)), Err(Error::StepPeerNotFound));
    }
    assert_eq!(group.node(2).leader(), 1, "no new term was taken over");
}

#[test]
fn reserved_ids_are_nobody() {
    let mut group = settled();
    let term = group.node(2).term();
    for from in [0, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD] {
        for kind in [
            MessageType::MsgApp,
            MessageType::MsgVote,
            MessageType::MsgProp,
            MessageType::MsgHeartbeat,
        ] {
            refused(&mut group, message(kind, from, term + 1));
        }
    }
    for id in [0, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD] {
        let refused = RawNode::new(
            Config {
                id,
                ..Config::default()
            },
            MemoryStorage::new(),
        )
        .err()
        .unwrap();
        assert!(matches!(refused, Error::InvalidConfig { field: "id", .. }), "{refused}");
    }
}

#[test]
fn messages_without_a_term_to_somebody_else_or_from_oneself_are_refused() {
    let mut group = settled();
    let term = group.node(2).term();
    assert!(refused(&mut group, message(MessageType::MsgApp, 1, 0)).contains("no term"));
    let misdirected = Message {
        to: 3,
        ..message(MessageType::MsgHeartbeat, 1, term)
    };
    assert!(refused(&mut group, misdirected).contains("addressed to 3"));
    assert!(refused(&mut group, message(MessageType::MsgHeartbeat, 2, term)).contains("this member itself"));
    let unknown = Message {
        r#type: 24,
        ..message(MessageType::MsgApp, 1, term)
    };
    assert!(refused(&mut group, unknown).contains("type 24"));
}

#[test]
fn appends_with_holes_or_falling_terms_are_refused() {
    let mut group = settled();
    let term = group.node(2).term();
    let last = group.node(2).last_index();
    let append = |entries: &[Entry]| Message {
        index: last,
        log_term: term,
        entries: entries.to_vec(),
        ..message(MessageType::MsgApp, 1, term)
    };
    for entries in [
        &[entry(term, last + 2)][..],
        &[entry(term, last + 1), entry(term, last + 3)],
        &[entry(term, last + 1), entry(term, last + 1)],
        &[entry(term - 1, last + 1)],
        &[entry(term + 1, last + 1)],
        &[entry(0, last + 1)],
    ] {
        refused(&mut group, append(entries));
    }
    let overflow = Message {
        index: u64::MAX,
        ..append(&[entry(term, 0)])
    };
    refused(&mut group, overflow);
}

#[test]
fn proposals_without_entries_or_with_damaged_changes_are_refused() {
    let mut group = settled();
    let proposal = |entries: Vec<Entry>| Message {
        entries,
        to: 1,
        ..message(MessageType::MsgProp, 2, 0)
    };
    let of_type = |kind: i32, data: &'static [u8]| Entry {
        r#type: kind,
        data: data.into(),
        ..Entry::default()
    };
    for entries in [
        vec![],
        vec![of_type(EntryType::EntryConfChange as i32, b"\xff\xff")],
        vec![of_type(EntryType::EntryConfChangeV2 as i32, b"\x08")],
        vec![of_type(7, b"")],
    ] {
        let last = group.node(1).last_index();
        let error = group.node(1).step(proposal(entries)).unwrap_err();
        assert!(matches!(error, Error::InvalidMessage { .. }), "{error}");
        assert_eq!(group.node(1).last_index(), last);
    }
    let empty_read = Message {
        to: 1,
        ..message(MessageType::MsgReadIndex, 2, 0)
    };
    assert!(matches!(
        group.node(1).step(empty_read),
        Err(Error::InvalidMessage { .. })
    ));
}

#[test]
fn an_acknowledgement_beyond_the_log_of_the_leader_is_refused() {
    let mut group = settled();
    let (term, last) = (group.node(1).term(), group.node(1).last_index());
    let beyond = Message {
        to: 1,
        index: last + 1,
        ..message(MessageType::MsgAppResp, 2, term)
    };
    assert!(matches!(group.node(1).step(beyond), Err(Error::InvalidMessage { .. })));
    let rejection = Message {
        to: 1,
        index: last,
        reject: true,
        reject_hint: u64::MAX,
        log_term: u64::MAX,
        ..message(MessageType::MsgAppResp, 2, term)
    };
    group.node(1).step(rejection).unwrap();
    for (_, progress) in group.node(1).progress() {
        assert!(progress.matched < progress.next);
    }
    group.settle();
    group.propose(1, "d");
    assert_eq!(group.applied_texts(2), ["a", "b", "c", "d"]);
}

/// A member whose disk was wiped under its old id: the leader still remembers what it acknowledged.
#[test]
fn a_commit_beyond_the_log_is_a_fatal_error_that_names_both_indexes() {
    let mut group = settled();
    let (term, commit) = (group.node(1).term(), group.node(1).committed());
    group.add(2, storage(&[1, 2, 3], &[]), |_| {});
    let heartbeat = Message {
        commit,
        ..message(MessageType::MsgHeartbeat, 1, term)
    };
    let error = group.node(2).step(heartbeat).unwrap_err();
    assert_eq!(error, Error::CommitBeyondLog { commit, last_index: 1 });
    assert!(error.is_fatal());
    assert!(
        error
            .to_string()
            .contains(&format!("commit index {commit} is beyond the last log index 1"))
    );
    assert_eq!(group.node(2).committed(), 1, "nothing was committed");
}

#[test]
fn what_is_committed_is_never_replaced() {
    let mut group = settled();
    let (term, committed) = (group.node(2).term(), group.node(2).committed());
    let stored = |group: &mut Network| {
        let storage = group.node(2).storage();
        storage
            .entries(storage.first_index(), storage.last_index() + 1, u64::MAX)
            .unwrap()
    };
    let before = stored(&mut group);
    // As if a later leader had another history.
    let other_history = Message {
        index: committed - 1,
        log_term: term,
        entries: vec![entry(term + 1, committed)],
        ..message(MessageType::MsgApp, 3, term + 1)
    };
    group.node(2).step(other_history).unwrap();
    group.handle_ready();
    let reply = group.queue.pop_back().unwrap();
    assert_eq!(
        (kind(&reply), reply.index, reply.reject),
        (MessageType::MsgAppResp, committed, false)
    );
    assert_eq!(stored(&mut group), before);
    // What is not committed may be replaced.
    for leader in [1, 3] {
        let tail = Message {
            index: committed,
            log_term: term,
            entries: vec![entry(term + leader, committed + 1)],
            ..message(MessageType::MsgApp, leader, term + leader)
        };
        group.node(2).step(tail).unwrap();
        group.handle_ready();
        assert_eq!(stored(&mut group).last().unwrap().term, term + leader);
    }
    assert_eq!(group.node(2).last_index(), committed + 1);
}

#[test]
fn a_snapshot_that_cannot_be_restored_changes_nothing() {
    let mut group = settled();
    let (term, last) = (group.node(2).term(), group.node(2).last_index());
    let snapshot = |conf_state: ConfState| Message {
        snapshot: Some(Snapshot {
            data: Bytes::new(),
            metadata: Some(SnapshotMetadata {
                index: last + 10,
                term,
                conf_state: Some(conf_state),
            }),
        }),
        ..message(MessageType::MsgSnap, 1, term)
    };
    // A learner that is a voter too; and only learners.
    for conf_state in [
        ConfState {
            voters: vec![1, 2],
            learners: vec![2],
            ..ConfState::default()
        },
        ConfState {
            learners: vec![2],
            ..ConfState::default()
        },
    ] {
        refused(&mut group, snapshot(conf_state));
    }
    // Somebody else's, or none at all: acknowledged with what is there.
    for m in [
        snapshot(ConfState {
            voters: vec![1, 3],
            ..ConfState::default()
        }),
        message(MessageType::MsgSnap, 1, term),
        Message {
            snapshot: Some(Snapshot::default()),
            ..message(MessageType::MsgSnap, 1, term)
        },
    ] {
        group.node(2).step(m).unwrap();
        group.handle_ready();
        let reply = group.queue.pop_back().unwrap();
        assert_eq!(
            (kind(&reply), reply.index),
            (MessageType::MsgAppResp, group.node(2).committed())
        );
    }
    assert_eq!(group.node(2).last_index(), last);
    assert_eq!(group.node(2).conf_state().voters, [1, 2, 3]);
    // An empty snapshot on another message, as older peers send it, is no harm.
    let heartbeat = Message {
        snapshot: Some(Snapshot::default()),
        ..message(MessageType::MsgHeartbeat, 1, term)
    };
    group.node(2).step(heartbeat).unwrap();
}

#[test]
fn a_hard_state_that_does_not_fit_the_log_is_refused_at_start() {
    let start = |commit| {
        let mut stored = storage(&[1, 2, 3], &[]);
        stored.append(&[entry(1, 2), entry(1, 3)]).unwrap();
        stored.set_hard_state(HardState {
            term: 1,
            vote: 0,
            commit,
        });
        RawNode::new(config(1), stored).map(|node| node.committed())
    };
    assert_eq!(start(3), Ok(3));
    assert_eq!(
        start(4),
        Err(Error::HardStateOutOfRange {
            commit: 4,
            first: 1,
            last: 3
        })
    );
    assert_eq!(
        start(0),
        Err(Error::HardStateOutOfRange {
            commit: 0,
            first: 1,
            last: 3
        })
    );

    let stored = storage(&[1, 2, 3], &[]);
    let ahead = RawNode::new(
        Config {
            applied: 2,
            ..config(1)
        },
        stored,
    )
    .err();
    assert_eq!(
        ahead,
        Some(Error::AppliedOutOfRange {
            index: 2,
            applied: 1,
            committed: 1
        })
    );
}

#[test]
fn changes_that_do_not_fit_are_refused_and_change_nothing() {
    let mut group = settled();
    let change = |kind: i32, node_id| ConfChange {
        r#type: kind,
        node_id,
        ..ConfChange::default()
    };
    let remove = ConfChangeType::ConfChangeRemoveNode as i32;
    assert_eq!(
        group.node(2).apply_conf_change(change(9, 4)),
        Err(Error::ConfChange(ConfChangeError::UnknownType(9)))
    );
    assert_eq!(
        group.node(2).apply_conf_change(ConfChangeV2::default()),
        Err(Error::ConfChange(ConfChangeError::NotJoint))
    );
    let unknown = ConfChangeV2 {
        transition: 5,
        ..ConfChangeV2::default()
    };
    assert_eq!(
        group.node(2).apply_conf_change(unknown),
        Err(Error::ConfChange(ConfChangeError::UnknownTransition(5)))
    );
    assert_eq!(group.node(2).conf_state().voters, [1, 2, 3]);
    // Voided by the application, or of no effect.
    group.node(2).apply_conf_change(change(remove, 0)).unwrap();
    group.node(2).apply_conf_change(change(remove, 9)).unwrap();
    group
        .node(2)
        .apply_conf_change(change(ConfChangeType::ConfChangeUpdateNode as i32, 1))
        .unwrap();
    assert_eq!(group.node(2).conf_state().voters, [1, 2, 3]);

    let mut alone = Network::new(&[1], &[], |_| {});
    assert_eq!(
        alone.node(1).apply_conf_change(change(remove, 1)),
        Err(Error::ConfChange(ConfChangeError::NoVoters))
    );
    let joint = ConfChangeV2 {
        changes: [4, 5].map(|node_id| ConfChangeSingle { r#type: 0, node_id }).to_vec(),
        ..ConfChangeV2::default()
    };
    alone.node(1).apply_conf_change(joint).unwrap();
    assert_eq!(
        alone.node(1).apply_conf_change(change(0, 6)),
        Err(Error::ConfChange(ConfChangeError::SimpleInJoint))
    );
}

#[test]
fn the_api_says_when_it_is_used_out_of_order() {
    let mut node = RawNode::new(config(1), storage(&[1], &[])).unwrap();
    node.campaign().unwrap();
    node.ready().unwrap();
    assert!(matches!(node.ready(), Err(Error::Misuse(_))));
    node.advance().unwrap();
    assert_eq!(node.state(), StateType::Leader);

    let asynchronous = Config {
        async_storage_writes: true,
        ..config(1)
    };
    let mut node = RawNode::new(asynchronous, storage(&[1], &[])).unwrap();
    assert!(matches!(node.advance(), Err(Error::Misuse(_))));
    // A storage thread that reports what was never committed.
    let applied = Message {
        r#type: MessageType::MsgStorageApplyResp as i32,
        from: LOCAL_APPLY_THREAD,
        entries: vec![entry(1, 9)],
        ..Message::default()
    };
    assert_eq!(
        node.step(applied),
        Err(Error::AppliedOutOfRange {
            index: 9,
            applied: 1,
            committed: 1
        })
    );
}

/// A storage that fails, and that notes how much was asked for at once.
struct Instrumented {
    inner: MemoryStorage,
    broken: bool,
    largest_page: std::cell::Cell<usize>,
}

impl Storage for Instrumented {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.inner.initial_state()
    }
    fn entries(&self, lo: u64, hi: u64, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        if self.broken {
            return Err(StorageError::Other("disk on fire".to_owned()));
        }
        let entries = self.inner.entries(lo, hi, max_size)?;
        self.largest_page.set(self.largest_page.get().max(entries.len()));
        Ok(entries)
    }
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.inner.term(index)
    }
    fn first_index(&self) -> u64 {
        self.inner.first_index()
    }
    fn last_index(&self) -> u64 {
        self.inner.last_index()
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.inner.snapshot()
    }
}

/// Many entries that are committed and not applied, with a configuration change at the very end.
fn after_a_long_pause() -> MemoryStorage {
    let mut stored = storage(&[1, 2, 3], &[]);
    let payload = Bytes::from(vec![7; 100]);
    let mut entries: Vec<Entry> = (2..=1000)
        .map(|index| Entry {
            data: payload.clone(),
            ..entry(1, index)
        })
        .collect();
    entries.push(Entry {
        r#type: EntryType::EntryConfChange as i32,
        ..entry(1, 1001)
    });
    stored.append(&entries).unwrap();
    stored.set_hard_state(HardState {
        term: 1,
        vote: 0,
        commit: 1001,
    });
    stored
}

/// The scan read the whole log into memory in etcd raft before #32, raft-rs before #530, TiKV #15770.
#[test]
fn the_scan_for_unapplied_changes_before_an_election_reads_bounded_pages() {
    let inner = after_a_long_pause();
    let instrumented = Instrumented {
        inner,
        broken: false,
        largest_page: 0.into(),
    };
    let limits = Config {
        max_committed_size_per_ready: 1100,
        applied: 1,
        ..config(1)
    };
    let mut node = RawNode::new(limits, instrumented).unwrap();
    node.campaign().unwrap();
    assert_eq!(node.state(), StateType::Follower, "the change at the end was found");
    let largest = node.storage().largest_page.get();
    assert!((1..=11).contains(&largest), "a page of {largest} entries");
}

#[test]
fn a_failing_storage_is_a_fatal_error() {
    let instrumented = Instrumented {
        inner: after_a_long_pause(),
        broken: true,
        largest_page: 0.into(),
    };
    let mut node = RawNode::new(
        Config {
            applied: 1,
            ..config(1)
        },
        instrumented,
    )
    .unwrap();
    let error = node.campaign().unwrap_err();
    assert!(
        error.is_fatal() && error.to_string().contains("disk on fire"),
        "{error}"
    );
    assert!(node.ready().is_err());
    assert!((0..30).any(|_| node.tick().is_err()), "a tick reports it too");
}

/// A rejection that was overtaken by an acknowledgement (etcd raft #149, raft-rs #557).
#[test]
fn a_reordered_rejection_does_not_lower_next_to_what_is_known_to_match() {
    let mut group = settled();
    let (term, last) = (group.node(1).term(), group.node(1).last_index());
    for unreachable in [false, true] {
        for index in 1..=last {
            if unreachable {
                group.node(1).report_unreachable(2).unwrap();
            }
            for reject_hint in 0..=last {
                let rejection = Message {
                    to: 1,
                    index,
                    reject: true,
                    reject_hint,
                    log_term: term,
                    ..message(MessageType::MsgAppResp, 2, term)
                };
                group.node(1).step(rejection).unwrap();
                let (_, progress) = group.node(1).progress().find(|&(id, _)| id == 2).unwrap();
                assert_eq!(
                    (progress.matched, progress.next),
                    (last, last + 1),
                    "{index} hint {reject_hint}"
                );
            }
        }
    }
}
