//! How the log gets to the followers: backtracking, flow control, limits, snapshots.

mod network;

use bytes::Bytes;
use network::{Network, config, kind, storage};
use prost::Message as _;
use proto::raftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot,
};
use proto::raftpb::{ConfChangeV2, SnapshotMetadata};
use raft::tracker::{Progress, ProgressState};
use raft::{AnyConfChange, Config, Error, MemoryStorage, RawNode, SnapshotStatus, StateType, Storage};

fn entry(term: u64, index: u64) -> Entry {
    Entry {
        term,
        index,
        ..Entry::default()
    }
}

fn message(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
    Message {
        r#type: kind as i32,
        from,
        to,
        term,
        ..Message::default()
    }
}

/// Handles what is due without delivering anything; answers the messages.
fn sent(node: &mut RawNode<MemoryStorage>) -> Vec<Message> {
    let mut messages = Vec::new();
    while node.has_ready() {
        let ready = node.ready().unwrap();
        node.storage_mut().append(&ready.entries).unwrap();
        messages.extend(ready.messages);
        node.advance().unwrap();
    }
    messages
}

/// A leader of members 1, 2 and 3 whose follower 2 is replicated to; follower 3 is silent after its vote.
fn leader(adjust: impl Fn(&mut Config)) -> RawNode<MemoryStorage> {
    let mut options = Config {
        applied: 1,
        ..config(1)
    };
    adjust(&mut options);
    let mut node = RawNode::new(options, storage(&[1, 2, 3], &[])).unwrap();
    node.campaign().unwrap();
    sent(&mut node);
    node.step(message(MessageType::MsgVoteResp, 3, 1, node.term())).unwrap();
    assert_eq!(node.state(), StateType::Leader);
    sent(&mut node);
    acknowledge(&mut node, 2, 2);
    sent(&mut node);
    node
}

fn acknowledge(node: &mut RawNode<MemoryStorage>, from: u64, index: u64) {
    let term = node.term();
    node.step(Message {
        index,
        ..message(MessageType::MsgAppResp, from, 1, term)
    })
    .unwrap();
}

fn progress(node: &RawNode<MemoryStorage>, id: u64) -> Progress {
    node.progress().find(|&(other, _)| other == id).unwrap().1.clone()
}

fn appends(messages: &[Message], to: u64) -> Vec<&Message> {
    messages
        .iter()
        .filter(|m| kind(m) == MessageType::MsgApp && m.to == to)
        .collect()
}

/// At most one probe for each term, from either side: the cases of etcd raft's TestFastLogRejection.
#[test]
fn a_rejection_skips_what_cannot_match() {
    struct Case {
        leader: &'static [u64],
        follower: &'static [u64],
        compacted: u64,
        hint: (u64, u64),
        next: (u64, u64),
    }
    let case = |leader, follower, hint, next| Case {
        leader,
        follower,
        compacted: 0,
        hint,
        next,
    };
    let cases = [
        case(
            &[1, 2, 2, 4, 4, 4, 4],
            &[1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3],
            (3, 7),
            (2, 3),
        ),
        case(
            &[1, 2, 2, 3, 4, 4, 4, 5],
            &[1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3],
            (3, 8),
            (3, 4),
        ),
        case(&[1, 1, 1, 1], &[1, 2, 2, 4], (1, 1), (1, 1)),
        case(&[1, 1, 1, 1, 1, 1], &[1, 2, 2, 4], (1, 1), (1, 1)),
        case(&[1, 1, 1, 1], &[1, 2, 2, 4, 4, 4], (1, 1), (1, 1)),
        case(&[1, 1, 1, 4, 5], &[1, 1, 1, 4], (4, 4), (4, 4)),
        case(&[2, 5, 5, 5, 5, 5, 5, 5, 5], &[2, 4, 4, 4, 4, 4], (4, 6), (2, 1)),
        case(&[2, 2, 2, 2, 2], &[2, 4, 4, 4, 4, 4, 4, 4], (2, 1), (2, 1)),
        Case {
            compacted: 5,
            ..case(&[1, 1, 3], &[1, 1, 3, 3, 3], (0, 3), (1, 2))
        },
    ];
    let with_log = |terms: &[u64], hard_state: HardState| {
        let conf_state = ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        };
        let metadata = Some(SnapshotMetadata {
            conf_state: Some(conf_state),
            index: 0,
            term: 0,
        });
        let mut stored = MemoryStorage::new();
        stored
            .apply_snapshot(Snapshot {
                data: Bytes::new(),
                metadata,
            })
            .unwrap();
        let entries: Vec<Entry> = terms.iter().zip(1..).map(|(&term, index)| entry(term, index)).collect();
        stored.append(&entries).unwrap();
        stored.set_hard_state(hard_state);
        stored
    };
    for (number, case) in cases.iter().enumerate() {
        let (last, term) = (case.leader.len() as u64, *case.leader.last().unwrap());
        let stored = with_log(
            case.leader,
            HardState {
                term: term - 1,
                vote: 0,
                commit: last,
            },
        );
        let mut leader = RawNode::new(
            Config {
                applied: last,
                ..config(1)
            },
            stored,
        )
        .unwrap();
        leader.campaign().unwrap();
        sent(&mut leader);
        leader.step(message(MessageType::MsgVoteResp, 3, 1, term)).unwrap();
        let messages = sent(&mut leader);
        let [first] = appends(&messages, 2)[..] else {
            panic!("case {number}")
        };
        assert_eq!(first.index, last);

        let stored = with_log(
            case.follower,
            HardState {
                term,
                vote: 1,
                commit: 0,
            },
        );
        let mut follower = RawNode::new(config(2), stored).unwrap();
        if case.compacted > 0 {
            // Not realistic with this commit index: it must do no harm either.
            follower.storage_mut().compact(case.compacted).unwrap();
        }
        let deep = case.compacted > 0;
        follower
            .step(Message {
                commit: if deep { 0 } else { first.commit },
                ..first.clone()
            })
            .unwrap();
        let messages = sent(&mut follower);
        let rejection = &messages[0];
        assert!(rejection.reject, "case {number}");
        assert_eq!((rejection.log_term, rejection.reject_hint), case.hint, "case {number}");
        leader.step(rejection.clone()).unwrap();
        let messages = sent(&mut leader);
        let next = appends(&messages, 2)[0];
        assert_eq!((next.log_term, next.index), case.next, "case {number}");
    }
}

#[test]
fn a_full_window_stops_the_flow_until_something_is_acknowledged() {
    let mut node = leader(|config| config.max_inflight_msgs = 8);
    for _ in 0..8 {
        node.propose(Bytes::from_static(b"x")).unwrap();
        assert_eq!(appends(&sent(&mut node), 2).len(), 1);
    }
    assert!(progress(&node, 2).is_paused());
    for _ in 0..10 {
        node.propose(Bytes::from_static(b"x")).unwrap();
        assert!(appends(&sent(&mut node), 2).is_empty());
    }
    // Each heartbeat response lets one empty message through, by which a lost window is noticed.
    let term = node.term();
    for _ in 0..3 {
        for _ in 0..3 {
            node.step(message(MessageType::MsgHeartbeatResp, 2, 1, term)).unwrap();
            let messages = sent(&mut node);
            let [probe] = appends(&messages, 2)[..] else {
                panic!("one message")
            };
            assert!(probe.entries.is_empty());
        }
        node.propose(Bytes::from_static(b"x")).unwrap();
        assert!(appends(&sent(&mut node), 2).is_empty(), "the window is still full");
    }
    // An old acknowledgement opens nothing, the next one a single place, which takes all that waited.
    acknowledge(&mut node, 2, 2);
    assert!(appends(&sent(&mut node), 2).is_empty());
    acknowledge(&mut node, 2, 3);
    let messages = sent(&mut node);
    let waited: Vec<usize> = appends(&messages, 2)
        .iter()
        .map(|m| m.entries.len())
        .filter(|&n| n > 0)
        .collect();
    assert_eq!(waited, [13]);
    assert_eq!(progress(&node, 2).inflights.count(), 8);
}

#[test]
fn payload_in_flight_is_limited_by_bytes_too() {
    let mut node = leader(|config| {
        config.max_size_per_msg = 100;
        config.max_inflight_bytes = 250;
    });
    for _ in 0..10 {
        node.propose(Bytes::from(vec![7; 90])).unwrap();
    }
    let messages = sent(&mut node);
    let in_flight = appends(&messages, 2);
    assert_eq!(in_flight.len(), 3, "the third one crosses the limit");
    assert!(in_flight.iter().all(|m| m.entries.len() == 1));
}

#[test]
fn messages_stay_within_their_size_but_never_without_an_entry() {
    let size = Entry {
        term: 2,
        index: 3,
        data: Bytes::from(vec![7; 20]),
        ..Entry::default()
    }
    .encoded_len() as u64;
    let mut node = leader(|config| config.max_size_per_msg = 2 * size);
    node.report_unreachable(2).unwrap();
    sent(&mut node);
    node.propose_all((0..5).map(|_| Bytes::from(vec![7; 20]))).unwrap();
    node.propose(Bytes::from(vec![7; 500])).unwrap();
    sent(&mut node);
    acknowledge(&mut node, 2, 2);
    let messages = sent(&mut node);
    let counts: Vec<usize> = appends(&messages, 2)
        .iter()
        .map(|m| m.entries.len())
        .filter(|&n| n > 0)
        .collect();
    assert_eq!(counts, [2, 2, 1, 1]);
}

#[test]
fn a_proposal_of_several_entries_is_one_message() {
    let mut node = leader(|_| {});
    let shared = Bytes::from(vec![7; 1000]);
    node.propose_all([shared.clone(), shared.clone()]).unwrap();
    let messages = sent(&mut node);
    let [append] = appends(&messages, 2)[..] else {
        panic!("one message")
    };
    assert_eq!(append.entries.len(), 2);
    assert!(
        append
            .entries
            .iter()
            .all(|entry| entry.data.as_ptr() == shared.as_ptr()),
        "payload is never copied"
    );
}

#[test]
fn the_uncommitted_tail_is_limited_but_takes_one_proposal_of_any_size() {
    let mut node = leader(|config| config.max_uncommitted_entries_size = 1024);
    let small = Bytes::from_static(b"testdata");
    for _ in 0..1024 / 8 {
        node.propose(small.clone()).unwrap();
    }
    assert_eq!(node.propose(small.clone()), Err(Error::ProposalDropped));
    node.propose(Bytes::new()).unwrap();
    sent(&mut node);
    let last = node.last_index();
    acknowledge(&mut node, 2, last);
    sent(&mut node);
    assert_eq!(node.applied(), last, "all is applied, the tail is empty");
    node.propose(Bytes::from(vec![7; 5000])).unwrap();
    assert_eq!(node.propose(small), Err(Error::ProposalDropped));
    node.propose(Bytes::new()).unwrap();
}

#[test]
fn the_commit_index_in_a_heartbeat_is_not_beyond_what_the_follower_has() {
    let mut node = leader(|_| {});
    node.propose(Bytes::from_static(b"x")).unwrap();
    sent(&mut node);
    acknowledge(&mut node, 2, 3);
    sent(&mut node);
    assert_eq!(node.committed(), 3);
    node.tick().unwrap();
    let messages = sent(&mut node);
    let commits: Vec<(u64, u64)> = messages
        .iter()
        .filter(|m| kind(m) == MessageType::MsgHeartbeat)
        .map(|m| (m.to, m.commit))
        .collect();
    assert_eq!(commits, [(2, 3), (3, 0)]);
}

#[test]
fn an_entry_of_an_older_term_is_not_committed_by_counting() {
    let mut group = Network::new(&[1, 2, 3, 4, 5], &[], |_| {});
    group.elect(1);
    for id in 3..=5 {
        group.isolate(id);
    }
    group.propose(1, "old");
    assert_eq!(group.node(2).last_index(), 3);
    group.heal();
    // Member 2 leads the next term; its own empty entry reaches nobody, the old entry reaches a quorum.
    group.node(2).campaign().unwrap();
    for _ in 0..100 {
        group.handle_ready();
        let Some(mut message) = group.queue.pop_front() else {
            break;
        };
        if kind(&message) == MessageType::MsgApp {
            let term = message.term;
            message.entries.retain(|entry| entry.term < term);
        }
        group.deliver(message);
    }
    assert_eq!(group.node(2).state(), StateType::Leader);
    let with_old = (1..=5).filter(|&id| group.node(id).last_index() >= 3).count();
    assert!(with_old >= 3, "{with_old} members have it");
    assert_eq!(group.node(2).committed(), 2, "it is not committed");
    group.propose(2, "new");
    group.tick(2, 1);
    group.settle();
    assert_eq!(group.applied_texts(2), ["old", "new"]);
}

#[test]
fn committed_entries_come_in_pages_after_a_restart() {
    let mut stored = storage(&[1, 2, 3], &[]);
    let entries: Vec<Entry> = (2..=11)
        .map(|index| Entry {
            data: Bytes::from_static(b"a"),
            ..entry(1, index)
        })
        .collect();
    let size: u64 = entries[..9].iter().map(|entry| entry.encoded_len() as u64).sum();
    stored.append(&entries).unwrap();
    stored.set_hard_state(HardState {
        term: 1,
        vote: 0,
        commit: 11,
    });
    let options = Config {
        applied: 1,
        max_size_per_msg: size - 1,
        ..config(1)
    };
    let mut node = RawNode::new(options, stored).unwrap();
    let mut next = 2;
    while node.has_ready() {
        let ready = node.ready().unwrap();
        assert!(
            ready
                .committed_entries
                .iter()
                .map(|entry| entry.encoded_len() as u64)
                .sum::<u64>()
                < size
        );
        for entry in ready.committed_entries {
            assert_eq!(entry.index, next);
            next += 1;
        }
        node.advance().unwrap();
    }
    assert_eq!(next, 12);
}

#[test]
fn the_log_of_a_leader_without_followers_does_not_grow_without_bound() {
    let mut node = leader(|config| config.max_uncommitted_entries_size = 512);
    let mut dropped = 0;
    for _ in 0..1000 {
        dropped += usize::from(node.propose(Bytes::from_static(b"testdata")) == Err(Error::ProposalDropped));
        sent(&mut node);
    }
    assert_eq!(dropped, 1000 - 512 / 8);
}

/// A leader whose log starts behind what follower 3 needs.
fn compacted_leader() -> RawNode<MemoryStorage> {
    let mut node = leader(|_| {});
    node.propose_all((0..5).map(|_| Bytes::from_static(b"x"))).unwrap();
    sent(&mut node);
    acknowledge(&mut node, 2, 7);
    sent(&mut node);
    assert_eq!(node.applied(), 7);
    let conf_state = node.conf_state();
    node.storage_mut()
        .create_snapshot(7, Some(conf_state), Bytes::from_static(b"s"))
        .unwrap();
    node.storage_mut().compact(7).unwrap();
    node
}

fn ask_for_snapshot(node: &mut RawNode<MemoryStorage>) -> Vec<Message> {
    let term = node.term();
    let rejection = Message {
        index: progress(node, 3).next - 1,
        reject: true,
        reject_hint: 0,
        ..message(MessageType::MsgAppResp, 3, 1, term)
    };
    node.step(rejection).unwrap();
    sent(node)
}

#[test]
fn a_snapshot_pauses_appends_until_its_fate_is_known() {
    for (report, expected) in [
        (Some(SnapshotStatus::Failure), (ProgressState::Probe, 0, 1, true)),
        (Some(SnapshotStatus::Finish), (ProgressState::Probe, 0, 8, true)),
        (None, (ProgressState::Replicate, 7, 9, false)),
    ] {
        let mut node = compacted_leader();
        let messages = ask_for_snapshot(&mut node);
        let [snapshot] = &messages[..] else {
            panic!("{messages:?}")
        };
        assert_eq!((kind(snapshot), snapshot.to), (MessageType::MsgSnap, 3));
        let pending = progress(&node, 3);
        assert_eq!(
            (pending.state, pending.pending_snapshot, pending.next),
            (ProgressState::Snapshot, 7, 8)
        );

        node.propose(Bytes::from_static(b"x")).unwrap();
        assert!(appends(&sent(&mut node), 3).is_empty());
        match report {
            Some(status) => node.report_snapshot(3, status).unwrap(),
            // The acknowledgement overtook the report.
            None => acknowledge(&mut node, 3, 7),
        }
        sent(&mut node);
        let after = progress(&node, 3);
        assert_eq!(
            (after.state, after.matched, after.next, after.msg_app_flow_paused),
            expected,
            "{report:?}"
        );
        assert_eq!(after.pending_snapshot, 0);
    }
}

#[test]
fn any_snapshot_that_reconnects_the_follower_ends_the_wait() {
    let mut node = compacted_leader();
    ask_for_snapshot(&mut node);
    node.propose_all((0..3).map(|_| Bytes::from_static(b"x"))).unwrap();
    sent(&mut node);
    // The application sent a newer one than raft asked for.
    acknowledge(&mut node, 3, 9);
    let messages = sent(&mut node);
    assert_eq!(progress(&node, 3).state, ProgressState::Replicate);
    assert_eq!(appends(&messages, 3)[0].index, 9);
}

#[test]
fn a_follower_that_is_silent_gets_no_snapshot() {
    let mut node = leader(|config| config.check_quorum = true);
    node.propose_all((0..5).map(|_| Bytes::from_static(b"x"))).unwrap();
    sent(&mut node);
    acknowledge(&mut node, 2, 7);
    sent(&mut node);
    let conf_state = node.conf_state();
    node.storage_mut()
        .create_snapshot(7, Some(conf_state), Bytes::new())
        .unwrap();
    node.storage_mut().compact(7).unwrap();
    for _ in 0..15 {
        node.tick().unwrap();
        let term = node.term();
        node.step(message(MessageType::MsgHeartbeatResp, 2, 1, term)).unwrap();
        assert!(sent(&mut node).iter().all(|m| kind(m) != MessageType::MsgSnap));
    }
    assert!(!progress(&node, 3).recent_active);
    assert_eq!(ask_for_snapshot(&mut node).len(), 1, "as soon as it speaks it gets one");
}

#[test]
fn a_change_that_must_not_follow_the_pending_one_becomes_an_empty_entry() {
    let mut node = leader(|_| {});
    let add = |node_id| ConfChange {
        r#type: ConfChangeType::ConfChangeAddNode as i32,
        node_id,
        ..ConfChange::default()
    };
    node.propose_conf_change(add(4)).unwrap();
    node.propose_conf_change(add(5)).unwrap();
    sent(&mut node);
    let stored = node.storage().entries(3, 5, u64::MAX).unwrap();
    assert_eq!(stored[0].r#type, EntryType::EntryConfChange as i32);
    assert_eq!(stored[1], entry(node.term(), 4));
    // Voided by the application: applied all the same, so that the next one may follow.
    acknowledge(&mut node, 2, 4);
    sent(&mut node);
    node.apply_conf_change(add(0)).unwrap();
    assert_eq!(node.applied(), 4);
    node.propose_conf_change(add(5)).unwrap();
    sent(&mut node);
    assert_eq!(
        node.storage().entries(5, 6, u64::MAX).unwrap()[0].r#type,
        EntryType::EntryConfChange as i32
    );
}

#[test]
fn changes_travel_in_etcds_numbers() {
    let learner = ConfChange {
        id: 1,
        r#type: 3,
        node_id: 2,
        context: Bytes::from_static(b"c"),
    };
    assert_eq!(learner.r#type(), ConfChangeType::ConfChangeAddLearnerNode);
    assert_eq!(ConfChangeType::try_from(2), Ok(ConfChangeType::ConfChangeUpdateNode));
    assert_eq!(learner.encode_to_vec(), [8, 1, 16, 3, 24, 2, 34, 1, b'c']);
    let first = AnyConfChange::from(learner.clone()).into_entry();
    assert_eq!((first.r#type, &first.data[..]), (1, &learner.encode_to_vec()[..]));
    let second = AnyConfChange::from(ConfChangeV2::default()).into_entry();
    assert_eq!((second.r#type, second.data.len()), (2, 0));
    // An entry with all its fields, as a write-ahead log of etcd holds it: zeros written or left out.
    let bytes = [8, 0, 16, 2, 24, 3, 34, 1, b'd'];
    let full = Entry {
        data: Bytes::from_static(b"d"),
        ..entry(2, 3)
    };
    assert_eq!(Entry::decode(&bytes[..]).unwrap(), full);
    assert_eq!(full.encode_to_vec(), bytes[2..]);
}
