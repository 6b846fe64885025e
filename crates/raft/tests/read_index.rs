//! Linearizable reads: the cases of etcd raft, and the schedules in which etcd answered stale reads (issue 20418).

mod network;

use bytes::Bytes;
use network::{Network, kind, storage};
use proto::raftpb::{ConfChange, ConfChangeType, Entry, HardState, Message, MessageType};
use raft::{ReadOnlyOption, StateType};

const HEARTBEAT: MessageType = MessageType::MsgHeartbeat;
const HEARTBEAT_RESP: MessageType = MessageType::MsgHeartbeatResp;

fn three() -> Network {
    Network::new(&[1, 2, 3], &[], |_| {})
}

/// Reads at each of `readers` in turn, after some writes, and expects the commit index of the leader.
fn reads_see_all_writes(mut group: Network, readers: &[u64]) {
    group.elect(1);
    for (i, &reader) in readers.iter().enumerate() {
        for _ in 0..10 {
            group.propose(1, "x");
        }
        let context = format!("ctx{i}");
        group.read(reader, &context);
        group.settle();
        let read = group.reads.get_mut(&reader).unwrap().pop().expect("an answer");
        assert_eq!(read.request_ctx, context);
        assert_eq!(read.index, group.node(1).committed());
        assert!(group.reads[&reader].is_empty());
    }
}

#[test]
fn reads_are_answered_on_every_member() {
    reads_see_all_writes(three(), &[1, 2, 3, 1, 2, 3]);
}

#[test]
fn learners_can_ask_although_they_do_not_confirm() {
    reads_see_all_writes(Network::new(&[1], &[2], |_| {}), &[1, 2, 1, 2]);
    reads_see_all_writes(Network::new(&[1, 2], &[3], |_| {}), &[1, 2, 3]);
}

#[test]
fn lease_based_reads_need_no_round() {
    let lease = |config: &mut raft::Config| {
        config.check_quorum = true;
        config.read_only_option = ReadOnlyOption::LeaseBased;
    };
    reads_see_all_writes(Network::new(&[1, 2, 3], &[], lease), &[1, 2, 3, 1, 2, 3]);
    let mut group = Network::new(&[1, 2, 3], &[], lease);
    group.elect(1);
    group.read(1, "a");
    group.handle_ready();
    assert!(group.queue.is_empty(), "no heartbeats were sent");
    assert_eq!(group.reads[&1].len(), 1);
}

#[test]
fn a_new_leader_answers_only_after_it_has_committed_in_its_term() {
    let mut group = Network::new(&[], &[], |_| {});
    // Member 1 does not know that entry 3 is committed.
    for (id, commit) in [(1, 2), (2, 3), (3, 3)] {
        let mut storage = storage(&[1, 2, 3], &[]);
        storage
            .append(&[2, 3].map(|index| Entry {
                term: 1,
                index,
                ..Entry::default()
            }))
            .unwrap();
        storage.set_hard_state(HardState {
            term: 1,
            vote: 0,
            commit,
        });
        group.add(id, storage, |config| config.applied = commit);
    }
    group.node(1).campaign().unwrap();
    for _ in 0..5 {
        group.lose(|message| kind(message) == MessageType::MsgApp);
        let Some(message) = group.queue.pop_front() else { break };
        group.deliver(message);
        while let Some(message) = group.queue.pop_front() {
            group.deliver(message);
        }
    }
    assert_eq!(group.node(1).state(), StateType::Leader);
    group.read(1, "early");
    group.handle_ready();
    assert!(group.queue.is_empty() && group.reads[&1].is_empty(), "the read waits");

    group.tick(1, 1);
    group.settle();
    let committed = group.node(1).committed();
    assert_eq!(committed, 4, "the empty entry of the new term");
    let read = group.reads.get_mut(&1).unwrap().pop().expect("the read that waited");
    assert_eq!((read.index, &read.request_ctx[..]), (committed, &b"early"[..]));

    group.read(1, "late");
    group.settle();
    assert_eq!(group.reads[&1][0].index, committed);
}

#[test]
fn a_single_voter_too_waits_for_its_first_commit() {
    let mut group = Network::new(&[1], &[], |config| config.async_storage_writes = true);
    let node = group.node(1);
    node.campaign().unwrap();
    // Its vote is durable, its first entry is not yet.
    let vote = node.ready().unwrap().messages.pop().unwrap();
    for response in vote.responses {
        node.step(response).unwrap();
    }
    assert_eq!(node.state(), StateType::Leader);
    node.read_index(Bytes::from_static(b"early")).unwrap();
    let ready = node.ready().unwrap();
    assert!(ready.read_states.is_empty());
    for message in ready.messages {
        node.storage_mut().append(&message.entries).unwrap();
        for response in message.responses {
            node.step(response).unwrap();
        }
    }
    let reads = node.ready().unwrap().read_states;
    assert_eq!((reads.len(), reads[0].index), (1, node.committed()));
}

#[test]
fn a_confirmed_read_leaves_nothing_behind() {
    let mut group = Network::new(&[1, 2], &[], |_| {});
    group.elect(1);
    group.read(2, "ctx");
    group.settle();
    assert_eq!(group.reads[&2].len(), 1);
    group.tick(1, 1);
    group.handle_ready();
    let heartbeat = group.queue.iter().find(|message| kind(message) == HEARTBEAT).unwrap();
    assert!(heartbeat.context.is_empty(), "nothing is left to confirm");
}

#[test]
fn an_old_leader_forwards_reads_without_a_term() {
    let mut group = three();
    group.elect(1);
    group.read(2, "from 2");
    group.read(3, "from 3");
    group.hold(|message| kind(message) == MessageType::MsgReadIndex);
    let requests = std::mem::take(&mut group.held);
    assert_eq!(
        requests.iter().map(|m| (m.from, m.to, m.term)).collect::<Vec<_>>(),
        [(2, 1, 0), (3, 1, 0)]
    );

    group.elect(3);
    for request in requests {
        group.deliver(request);
    }
    group.handle_ready();
    let forwarded: Vec<(u64, u64, u64)> = group.queue.iter().map(|m| (m.from, m.to, m.term)).collect();
    assert_eq!(forwarded, [(2, 3, 0), (3, 3, 0)]);
    group.settle();
    assert_eq!((group.reads[&2].len(), group.reads[&3].len()), (1, 1));
}

#[test]
fn a_change_of_the_configuration_can_confirm_reads() {
    let mut group = Network::new(&[1, 2], &[], |_| {});
    group.elect(1);
    let remove = ConfChange {
        r#type: ConfChangeType::ConfChangeRemoveNode as i32,
        node_id: 2,
        ..ConfChange::default()
    };
    group.node(1).propose_conf_change(remove).unwrap();
    group.read(1, "a");
    // Member 2 answers appends but no heartbeats.
    while let Some(message) = {
        group.handle_ready();
        group.queue.pop_front()
    } {
        if kind(&message) != HEARTBEAT {
            group.deliver(message);
        }
    }
    assert_eq!(group.node(1).conf_state().voters, [1]);
    assert_eq!(group.reads[&1].len(), 1, "the only voter left confirms the read");
}

#[test]
fn both_majorities_of_a_joint_configuration_confirm_a_read() {
    use proto::raftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeV2};
    let mut group = three();
    group.elect(1);
    let single = |kind: ConfChangeType, node_id| ConfChangeSingle {
        r#type: kind as i32,
        node_id,
    };
    let replace = ConfChangeV2 {
        transition: ConfChangeTransition::JointExplicit as i32,
        changes: vec![
            single(ConfChangeType::ConfChangeRemoveNode, 2),
            single(ConfChangeType::ConfChangeRemoveNode, 3),
        ],
        context: Bytes::new(),
    };
    group.node(1).propose_conf_change(replace).unwrap();
    group.settle();
    group.read(1, "a");
    group.handle_ready();
    assert!(group.reads[&1].is_empty(), "the outgoing majority has not confirmed");
    group.settle();
    assert_eq!(group.reads[&1].len(), 1);
}

/// How the second copy of a read comes about.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Second {
    RetryWithSameContext,
    DuplicatedByNetwork,
    RetryWithFreshContext,
}

/// An old answer to a read must not confirm a newer read, whatever context they carry (mutant H38).
fn old_answers_confirm_nothing(second: Second) {
    let mut group = three();
    group.elect(1);
    let committed = group.node(1).committed();

    // 1. Member 2 asks; a second copy of the request and all answers to the first round stay in flight.
    group.read(2, "A");
    group.hold(|message| kind(message) == MessageType::MsgReadIndex);
    let request = group.held.pop().unwrap();
    let copy = match second {
        Second::DuplicatedByNetwork => request.clone(),
        Second::RetryWithSameContext | Second::RetryWithFreshContext => {
            let context = if second == Second::RetryWithSameContext {
                "A"
            } else {
                "A again"
            };
            group.read(2, context);
            group.hold(|message| kind(message) == MessageType::MsgReadIndex);
            group.held.pop().unwrap()
        }
    };
    group.deliver(request);
    group.handle_ready();
    let heartbeats: Vec<Message> = group.queue.drain(..).collect();
    assert_eq!(heartbeats.len(), 2);
    for heartbeat in heartbeats {
        group.deliver(heartbeat);
    }
    group.hold(|message| kind(message) == HEARTBEAT_RESP);
    assert_eq!(group.held.len(), 2);

    // 2. The next round confirms A, correctly.
    group.tick(1, 1);
    group.settle();
    assert_eq!(group.reads[&2].len(), 1);
    assert_eq!(
        (group.reads[&2][0].index, &group.reads[&2][0].request_ctx[..]),
        (committed, &b"A"[..])
    );

    // 3. Member 1 is cut off; the others go on without it.
    group.isolate(1);
    group.elect(2);
    group.propose(2, "newer");
    let newer = group.node(2).committed();
    assert!(newer > committed);
    assert_eq!(group.node(1).state(), StateType::Leader, "it does not know");

    // 4. A read arrives there. It cannot be confirmed.
    group.read(1, "B");
    group.settle();

    // 5. Healed, the old messages arrive in order.
    group.heal();
    let old_answers = std::mem::take(&mut group.held);
    group.deliver(copy);
    for answer in old_answers {
        group.deliver(answer);
    }
    group.handle_ready();

    // 6. B is not answered by what member 1 knew.
    for reads in group.reads.values() {
        for read in reads.iter().filter(|read| read.request_ctx == "B") {
            assert!(
                read.index >= newer,
                "{second:?}: a stale read at {} of {newer}",
                read.index
            );
        }
    }
    group.settle();
    for reads in group.reads.values() {
        assert!(reads.iter().all(|read| read.request_ctx != "B" || read.index >= newer));
    }
}

#[test]
fn h38_a_retry_with_the_same_context() {
    old_answers_confirm_nothing(Second::RetryWithSameContext);
}

#[test]
fn h38_a_request_duplicated_by_the_network() {
    old_answers_confirm_nothing(Second::DuplicatedByNetwork);
}

#[test]
fn h38_a_retry_with_a_fresh_context() {
    old_answers_confirm_nothing(Second::RetryWithFreshContext);
}

#[test]
fn answers_of_an_earlier_term_confirm_nothing() {
    let mut group = three();
    group.elect(1);
    group.read(1, "A");
    group.handle_ready();
    for heartbeat in std::mem::take(&mut group.queue) {
        group.deliver(heartbeat);
    }
    group.hold(|message| kind(message) == HEARTBEAT_RESP);
    let old_answers = std::mem::take(&mut group.held);
    group.elect(2);
    group.elect(1);
    group.read(1, "B");
    group.handle_ready();
    group.queue.clear();
    for answer in old_answers {
        group.deliver(answer);
    }
    group.handle_ready();
    assert!(
        group.reads[&1].is_empty(),
        "the position of B is that of A in the earlier term"
    );
}

#[test]
fn echoes_that_were_never_sent_confirm_nothing() {
    let mut group = three();
    group.elect(1);
    group.read(1, "A");
    group.handle_ready();
    let context = group
        .queue
        .iter()
        .find(|message| kind(message) == HEARTBEAT)
        .unwrap()
        .context
        .clone();
    group.queue.clear();
    let swapped: Vec<u8> = context.iter().rev().copied().collect();
    let mut wrong: Vec<Vec<u8>> = (0..8).map(|length| context[..length].to_vec()).collect();
    wrong.push([&context[..], &[0]].concat());
    wrong.push(swapped);
    wrong.push(2u64.to_le_bytes().to_vec());
    wrong.push(vec![0xff; 8]);
    let term = group.node(1).term();
    let echo = |from, context: &[u8]| Message {
        r#type: HEARTBEAT_RESP as i32,
        from,
        to: 1,
        term,
        context: Bytes::copy_from_slice(context),
        ..Message::default()
    };
    for context in &wrong {
        for from in [2, 3] {
            group.deliver(echo(from, context));
        }
        group.handle_ready();
        assert!(group.reads[&1].is_empty(), "{context:?}");
    }
    group.deliver(echo(2, &context));
    group.handle_ready();
    assert_eq!(group.reads[&1].len(), 1, "the right one does");
}

#[test]
fn a_follower_echoes_the_context_byte_for_byte() {
    let mut group = three();
    group.elect(1);
    let term = group.node(1).term();
    for length in 0..20 {
        let context = Bytes::from(vec![0xa5; length]);
        let heartbeat = Message {
            r#type: HEARTBEAT as i32,
            from: 1,
            to: 2,
            term,
            context: context.clone(),
            ..Message::default()
        };
        group.deliver(heartbeat);
        group.handle_ready();
        let answer = group.queue.pop_back().unwrap();
        assert_eq!((kind(&answer), answer.context), (HEARTBEAT_RESP, context));
    }
}

#[test]
fn reads_of_a_leader_that_steps_down_are_forgotten() {
    let mut group = three();
    group.elect(1);
    group.isolate(1);
    group.read(1, "A");
    group.settle();
    group.elect(2);
    group.heal();
    group.tick(2, 1);
    group.settle();
    assert_eq!(group.node(1).state(), StateType::Follower);
    group.elect(1);
    assert!(group.reads[&1].is_empty(), "the caller has to ask again");
}
