//! Elections, leases and the hand-over of leadership, where the scripts of etcd raft do not look.

mod network;

use network::{Network, config, kind, storage};
use proto::raftpb::{ConfChange, ConfChangeType, HardState, Message, MessageType};
use raft::{Config, Error, LOCAL_APPEND_THREAD, MemoryStorage, RawNode, StateType};

fn message(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
    Message {
        r#type: kind as i32,
        from,
        to,
        term,
        ..Message::default()
    }
}

fn guarded(config: &mut Config) {
    config.check_quorum = true;
    config.pre_vote = true;
}

fn states(group: &mut Network) -> Vec<StateType> {
    group.nodes.values().map(|node| node.state()).collect()
}

#[test]
fn timeouts_are_drawn_from_their_range_and_differ_between_members() {
    let elapsed = |id: u64, seed: u64| {
        let mut node = RawNode::new(
            Config {
                seed,
                applied: 1,
                ..config(id)
            },
            storage(&[1, 2, 3], &[]),
        )
        .unwrap();
        (1..).find(|_| {
            node.tick().unwrap();
            node.state() != StateType::Follower
        })
    };
    let mut seen = [false; 20];
    for seed in 0..200 {
        seen[elapsed(1, seed).unwrap()] = true;
    }
    assert!(
        seen[10..20].iter().all(|&seen| seen) && !seen[..10].iter().any(|&seen| seen),
        "{seen:?}"
    );
    assert_eq!(elapsed(2, 7), elapsed(2, 7), "the same seed draws the same");
    assert!((0..20).any(|seed| elapsed(1, seed) != elapsed(2, seed)));
}

#[test]
fn a_vote_is_given_once_and_only_to_who_has_as_much() {
    let mut stored = storage(&[1, 2, 3], &[]);
    stored
        .append(&[proto::raftpb::Entry {
            term: 2,
            index: 2,
            ..Default::default()
        }])
        .unwrap();
    stored.set_hard_state(HardState {
        term: 2,
        vote: 0,
        commit: 1,
    });
    let ask = |node: &mut RawNode<MemoryStorage>, from, log_term, index| {
        node.step(Message {
            log_term,
            index,
            ..message(MessageType::MsgVote, from, 1, 3)
        })
        .unwrap();
        let ready = node.ready().unwrap();
        node.advance().unwrap();
        let reply = ready.messages.into_iter().next().unwrap();
        assert_eq!(
            (kind(&reply), reply.to, reply.term),
            (MessageType::MsgVoteResp, from, 3)
        );
        !reply.reject
    };
    for (log_term, index, granted) in [
        (2, 2, true),
        (2, 3, true),
        (3, 1, true),
        (2, 1, false),
        (1, 9, false),
        (0, 0, false),
    ] {
        let mut node = RawNode::new(
            Config {
                applied: 1,
                ..config(1)
            },
            stored.clone(),
        )
        .unwrap();
        assert_eq!(ask(&mut node, 2, log_term, index), granted, "{log_term}/{index}");
        assert!(
            !granted || ask(&mut node, 2, log_term, index),
            "a repeated request gets the same answer"
        );
        assert_eq!(
            ask(&mut node, 3, 9, 9),
            !granted,
            "somebody else gets the vote only if it is free"
        );
    }
}

/// etcd raft's TestCandidateSelfVoteAfterLostElection: the own vote, durable late, counts no more.
#[test]
fn a_vote_for_oneself_that_becomes_durable_late_counts_no_more() {
    for pre_vote in [false, true] {
        let options = Config {
            async_storage_writes: true,
            pre_vote,
            applied: 1,
            ..config(1)
        };
        let mut node = RawNode::new(options, storage(&[1, 2, 3], &[])).unwrap();
        node.campaign().unwrap();
        let messages = node.ready().unwrap().messages;
        let work = messages.into_iter().find(|m| m.to == LOCAL_APPEND_THREAD).unwrap();
        let own_vote = work.responses.into_iter().find(|m| m.to == 1).unwrap();
        // Somebody else won this term.
        let term = node.term().max(2);
        node.step(message(MessageType::MsgHeartbeat, 2, 1, term)).unwrap();
        assert_eq!(node.state(), StateType::Follower);
        node.step(own_vote).unwrap();
        assert_eq!((node.state(), node.leader()), (StateType::Follower, 2));
        assert_eq!(node.status().progress.len(), 0);
    }
}

#[test]
fn an_acknowledgement_of_oneself_from_an_earlier_term_is_ignored() {
    let options = Config {
        async_storage_writes: true,
        applied: 1,
        ..config(1)
    };
    let mut node = RawNode::new(options, storage(&[1, 2, 3], &[])).unwrap();
    let run = |node: &mut RawNode<MemoryStorage>| {
        let mut later = Vec::new();
        while node.has_ready() {
            for work in node.ready().unwrap().messages {
                if work.to == LOCAL_APPEND_THREAD {
                    node.storage_mut().append(&work.entries).unwrap();
                    later.extend(work.responses.into_iter().filter(|m| m.to == 1));
                }
            }
        }
        later
    };
    node.campaign().unwrap();
    for response in run(&mut node) {
        node.step(response).unwrap();
    }
    node.step(message(MessageType::MsgVoteResp, 2, 1, node.term())).unwrap();
    assert_eq!(node.state(), StateType::Leader);
    let own = run(&mut node);
    assert!(own.iter().any(|m| kind(m) == MessageType::MsgAppResp));
    node.step(message(MessageType::MsgHeartbeat, 3, 1, node.term() + 1))
        .unwrap();
    for response in own {
        node.step(response).unwrap();
    }
    assert_eq!((node.state(), node.committed()), (StateType::Follower, 1));
}

#[test]
fn a_member_that_comes_back_does_not_disturb_the_leader() {
    let mut group = Network::new(&[1, 2, 3], &[], guarded);
    group.elect(1);
    let term = group.node(1).term();
    group.isolate(3);
    for _ in 0..100 {
        group.tick(3, 1);
        // The leader keeps its quorum.
        group.tick(1, 1);
        group.settle();
    }
    assert_eq!(group.node(3).state(), StateType::PreCandidate);
    group.heal();
    group.tick(1, 1);
    group.settle();
    assert_eq!(
        states(&mut group),
        [StateType::Leader, StateType::Follower, StateType::Follower]
    );
    assert_eq!(group.node(1).term(), term);
}

#[test]
fn a_follower_that_hears_of_a_leader_does_not_vote_without_its_word() {
    let mut group = Network::new(&[1, 2, 3], &[], |config| config.check_quorum = true);
    group.elect(1);
    group.tick(1, 1);
    group.settle();
    let term = group.node(2).term();
    let request = Message {
        log_term: 9,
        index: 99,
        ..message(MessageType::MsgVote, 3, 2, term + 1)
    };
    group.deliver(request.clone());
    assert_eq!((group.node(2).term(), group.node(2).leader()), (term, 1));
    group.deliver(Message {
        context: b"CampaignTransfer"[..].into(),
        ..request
    });
    assert_eq!((group.node(2).term(), group.node(2).leader()), (term + 1, 0));
}

/// Without this answer a member that campaigned alone could be stuck in its higher term for ever.
#[test]
fn a_leader_of_an_older_term_learns_of_the_newer_one() {
    let mut group = Network::new(&[1, 2, 3], &[], |config| config.check_quorum = true);
    group.elect(1);
    group.isolate(3);
    group.node(3).campaign().unwrap();
    group.settle();
    let higher = group.node(3).term();
    assert!(higher > group.node(1).term());
    group.heal();
    group.tick(1, 1);
    group.settle();
    assert_eq!(group.node(1).state(), StateType::Follower);
    assert_eq!(group.node(1).term(), higher);
    group.elect(1);
    assert_eq!(group.node(3).leader(), 1);
}

#[test]
fn a_leader_steps_down_when_it_hears_of_no_quorum() {
    let mut group = Network::new(&[1, 2, 3], &[], |config| config.check_quorum = true);
    group.elect(1);
    group.isolate(1);
    group.tick(1, 20);
    assert_eq!(
        (group.node(1).state(), group.node(1).leader()),
        (StateType::Follower, 0)
    );
    let mut alone = Network::new(&[1], &[], guarded);
    alone.elect(1);
    alone.tick(1, 50);
    assert_eq!(alone.node(1).state(), StateType::Leader);
}

#[test]
fn learners_vote_when_asked_but_never_campaign() {
    let mut group = Network::new(&[1], &[2], |_| {});
    group.tick(2, 100);
    group.node(2).campaign().unwrap();
    assert_eq!(group.node(2).state(), StateType::Follower);
    // A member that knows it as a voter already asks.
    let request = Message {
        log_term: 9,
        index: 99,
        ..message(MessageType::MsgVote, 1, 2, 9)
    };
    group.deliver(request);
    group.handle_ready();
    let reply = group.queue.pop_back().unwrap();
    assert_eq!((kind(&reply), reply.reject), (MessageType::MsgVoteResp, false));
}

#[test]
fn nobody_campaigns_with_a_committed_change_unapplied() {
    let mut group = Network::new(&[1, 2, 3], &[], |_| {});
    group.elect(1);
    let change = ConfChange {
        r#type: ConfChangeType::ConfChangeAddLearnerNode as i32,
        node_id: 4,
        ..Default::default()
    };
    group.node(1).propose_conf_change(change.clone()).unwrap();
    // Member 2 learns that it is committed, but does not get to apply it.
    for _ in 0..50 {
        for id in [1, 3] {
            while group.node(id).has_ready() {
                let ready = group.node(id).ready().unwrap();
                group.node(id).storage_mut().append(&ready.entries).unwrap();
                group.queue.extend(ready.messages);
                group.node(id).advance().unwrap();
            }
        }
        if group.node(2).committed() < group.node(1).committed() {
            let Ok(ready) = group.node(2).ready() else { break };
            group.node(2).storage_mut().append(&ready.entries).unwrap();
            group.queue.extend(ready.messages);
            group.node(2).advance().unwrap();
        }
        let Some(message) = group.queue.pop_front() else { break };
        group.deliver(message);
    }
    assert!(group.node(2).committed() > group.node(2).applied());
    group.node(2).campaign().unwrap();
    assert_eq!(group.node(2).state(), StateType::Follower);
    let ready = group.node(2).ready().unwrap();
    assert_eq!(ready.committed_entries.len(), 1);
    group.node(2).apply_conf_change(change).unwrap();
    group.node(2).advance().unwrap();
    group.node(2).campaign().unwrap();
    assert_eq!(group.node(2).state(), StateType::Candidate);
}

#[test]
fn leadership_is_handed_over_with_and_without_lag_and_through_followers() {
    for adjust in [|_: &mut Config| {}, guarded as fn(&mut Config)] {
        for asked in 1..=3 {
            let mut group = Network::new(&[1, 2, 3], &[], adjust);
            group.elect(1);
            group.node(asked).transfer_leader(2).unwrap();
            group.settle();
            assert_eq!(group.node(2).state(), StateType::Leader, "asked {asked}");
            group.node(2).transfer_leader(1).unwrap();
            group.settle();
            assert_eq!(group.node(1).state(), StateType::Leader);
        }
    }
}

#[test]
fn a_hand_over_that_does_not_come_to_an_end_is_given_up() {
    let mut group = Network::new(&[1, 2, 3], &[], |_| {});
    group.elect(1);
    group.isolate(3);
    group.node(1).transfer_leader(3).unwrap();
    assert_eq!(group.node(1).basic_status().lead_transferee, 3);
    assert_eq!(group.node(1).propose(b"x"[..].into()), Err(Error::ProposalDropped));
    group.tick(1, 9);
    assert_eq!(group.node(1).basic_status().lead_transferee, 3);
    group.tick(1, 1);
    assert_eq!(group.node(1).basic_status().lead_transferee, 0);
    group.propose(1, "x");
    assert_eq!(group.applied_texts(2), ["x"]);
}

#[test]
fn hand_overs_to_the_wrong_member_do_nothing() {
    let mut group = Network::new(&[1, 2], &[3], |_| {});
    group.elect(1);
    for target in [1, 3, 9] {
        group.node(1).transfer_leader(target).unwrap();
        group.settle();
        assert_eq!(group.node(1).basic_status().lead_transferee, 0, "to {target}");
        assert_eq!(group.node(1).state(), StateType::Leader);
    }
}

#[test]
fn a_second_hand_over_replaces_the_first_unless_it_is_to_the_same_member() {
    let mut group = Network::new(&[1, 2, 3, 4, 5], &[], |_| {});
    group.elect(1);
    group.isolate(3);
    group.node(1).transfer_leader(3).unwrap();
    group.tick(1, 5);
    // The same again does not extend its time.
    group.node(1).transfer_leader(3).unwrap();
    group.tick(1, 5);
    assert_eq!(group.node(1).basic_status().lead_transferee, 0);
    group.node(1).transfer_leader(3).unwrap();
    group.node(1).transfer_leader(2).unwrap();
    group.settle();
    assert_eq!(group.node(2).state(), StateType::Leader);
}

#[test]
fn a_hand_over_to_a_member_that_is_removed_is_given_up() {
    let mut group = Network::new(&[1, 2, 3], &[], |_| {});
    group.elect(1);
    let remove = ConfChange {
        r#type: ConfChangeType::ConfChangeRemoveNode as i32,
        node_id: 3,
        ..Default::default()
    };
    group.isolate(3);
    group.node(1).transfer_leader(3).unwrap();
    group.node(1).apply_conf_change(remove).unwrap();
    assert_eq!(group.node(1).basic_status().lead_transferee, 0);
}

#[test]
fn a_removed_leader_stays_or_steps_down_as_configured() {
    for step_down in [false, true] {
        let mut group = Network::new(&[1, 2, 3], &[], |config| config.step_down_on_removal = step_down);
        group.elect(1);
        let remove = ConfChange {
            r#type: ConfChangeType::ConfChangeRemoveNode as i32,
            node_id: 1,
            ..Default::default()
        };
        group.node(1).propose_conf_change(remove).unwrap();
        group.settle();
        let expected = if step_down {
            StateType::Follower
        } else {
            StateType::Leader
        };
        assert_eq!(group.node(1).state(), expected);
        assert_eq!(group.node(1).propose(b"x"[..].into()), Err(Error::ProposalDropped));
        // A leader that is not in the configuration must not take itself for its only voter.
        group.read(1, "r");
        group.handle_ready();
        assert!(group.reads[&1].is_empty());
    }
}

#[test]
fn the_status_prints_as_etcd_raft_does() {
    let mut group = Network::new(&[1, 2], &[], |_| {});
    group.elect(1);
    assert_eq!(
        group.node(1).status().to_string(),
        r#"{"id":"1","term":2,"vote":"1","commit":2,"lead":"1","raftState":"StateLeader","applied":2,"progress":{"1":{"match":2,"next":3,"state":"StateReplicate"},"2":{"match":2,"next":3,"state":"StateReplicate"}},"leadtransferee":"0"}"#
    );
    assert!(group.node(2).status().progress.is_empty());
}
