//! A group from end to end: replication, election, snapshot, configuration change, read index, with both ways to write.

mod network;

use bytes::Bytes;
use network::{Network, storage};
use proto::raftpb::{ConfChange, ConfChangeType};
use raft::{MemoryStorage, SnapshotStatus, StateType, Storage};

fn change(kind: ConfChangeType, node_id: u64) -> ConfChange {
    ConfChange {
        r#type: kind as i32,
        node_id,
        ..ConfChange::default()
    }
}

fn both(test: impl Fn(bool)) {
    test(false);
    test(true);
}

fn three(async_writes: bool) -> Network {
    Network::new(&[1, 2, 3], &[], |config| config.async_storage_writes = async_writes)
}

#[test]
fn entries_reach_everybody_in_order() {
    both(|async_writes| {
        let mut group = three(async_writes);
        group.elect(1);
        for data in ["a", "b", "c"] {
            group.propose(1, data);
        }
        group.propose(2, "forwarded");
        for id in 1..=3 {
            assert_eq!(group.applied_texts(id), ["a", "b", "c", "forwarded"], "member {id}");
        }
    });
}

#[test]
fn a_tick_driven_group_elects_exactly_one_leader_and_replaces_it() {
    both(|async_writes| {
        let mut group = Network::new(&[1, 2, 3], &[], |config| {
            config.async_storage_writes = async_writes;
            config.pre_vote = true;
            config.check_quorum = true;
        });
        let mut deposed = None;
        for _ in 0..2 {
            for _ in 0..60 {
                for id in 1..=3 {
                    group.tick(id, 1);
                    group.settle();
                }
            }
            let leaders: Vec<u64> = (1..=3)
                .filter(|&id| group.node(id).state() == StateType::Leader)
                .collect();
            assert_eq!(leaders.len(), 1, "a leader that hears of no quorum steps down");
            assert_ne!(Some(leaders[0]), deposed);
            group.isolate(leaders[0]);
            deposed = Some(leaders[0]);
        }
    });
}

#[test]
fn a_divergent_tail_is_replaced_by_the_new_leader() {
    both(|async_writes| {
        let mut group = three(async_writes);
        group.elect(1);
        group.propose(1, "common");
        group.isolate(1);
        for _ in 0..5 {
            group.propose(1, "lost");
        }
        group.elect(2);
        group.propose(2, "kept");
        group.heal();
        group.tick(2, 1);
        group.settle();
        for id in 1..=3 {
            assert_eq!(group.applied_texts(id), ["common", "kept"], "member {id}");
            assert_eq!(group.node(id).storage().last_index(), group.node(2).last_index());
        }
    });
}

#[test]
fn a_follower_behind_the_compacted_log_gets_a_snapshot() {
    both(|async_writes| {
        let mut group = three(async_writes);
        group.elect(1);
        group.isolate(3);
        for i in 0..10 {
            group.propose(1, &format!("{i}"));
        }
        let applied = group.node(1).applied();
        let conf_state = group.node(1).conf_state();
        let storage = group.node(1).storage_mut();
        storage
            .create_snapshot(applied, Some(conf_state), Bytes::from_static(b"state"))
            .unwrap();
        storage.compact(applied).unwrap();

        group.heal();
        group.tick(1, 1);
        group.settle();
        group.node(1).report_snapshot(3, SnapshotStatus::Finish).unwrap();
        group.propose(1, "after");
        assert_eq!(group.node(3).storage().snapshot().unwrap().data, "state");
        assert_eq!(group.applied_texts(3), ["after"]);
        assert_eq!(group.node(3).committed(), group.node(1).committed());
    });
}

#[test]
fn members_join_as_learners_are_promoted_and_removed() {
    both(|async_writes| {
        let adjust = |config: &mut raft::Config| {
            config.async_storage_writes = async_writes;
            config.step_down_on_removal = true;
        };
        let mut group = Network::new(&[1], &[], adjust);
        group.elect(1);
        for id in [2, 3] {
            group.add(id, MemoryStorage::new(), adjust);
            group
                .node(1)
                .propose_conf_change(change(ConfChangeType::ConfChangeAddLearnerNode, id))
                .unwrap();
            group.settle();
            // A fresh member has nothing and needs a snapshot. The one that the leader had is older than the change and
            // is refused: make a newer one.
            let (applied, conf_state) = (group.node(1).applied(), group.node(1).conf_state());
            group
                .node(1)
                .storage_mut()
                .create_snapshot(applied, Some(conf_state), Bytes::new())
                .unwrap();
            group.node(1).report_snapshot(id, SnapshotStatus::Failure).unwrap();
            group.tick(1, 1);
            group.settle();
            assert!(group.node(id).is_learner());
            group
                .node(1)
                .propose_conf_change(change(ConfChangeType::ConfChangeAddNode, id))
                .unwrap();
            group.settle();
            assert!(!group.node(id).is_learner());
        }
        assert_eq!(group.node(3).conf_state().voters, [1, 2, 3]);

        group
            .node(1)
            .propose_conf_change(change(ConfChangeType::ConfChangeRemoveNode, 1))
            .unwrap();
        group.settle();
        assert_eq!(
            group.node(1).state(),
            StateType::Follower,
            "a leader that is removed steps down"
        );
        group.elect(2);
        group.propose(2, "without 1");
        assert_eq!(group.applied_texts(3), ["without 1"]);
        assert_eq!(group.node(3).conf_state().voters, [2, 3]);
    });
}

#[test]
fn a_read_index_covers_what_was_committed_before_it() {
    both(|async_writes| {
        let mut group = three(async_writes);
        group.elect(1);
        group.propose(1, "a");
        let committed = group.node(1).committed();
        for id in 1..=3 {
            group.read(id, "read");
            group.settle();
            let reads = &group.reads[&id];
            assert_eq!(reads.len(), 1, "member {id}");
            assert_eq!((reads[0].index, &reads[0].request_ctx[..]), (committed, &b"read"[..]));
        }
    });
}

#[test]
fn leadership_moves_to_a_member_that_lags_behind() {
    both(|async_writes| {
        let mut group = three(async_writes);
        group.elect(1);
        group.isolate(3);
        group.propose(1, "a");
        group.heal();
        group.node(1).transfer_leader(3).unwrap();
        group.settle();
        group.tick(1, 1);
        group.settle();
        assert_eq!(group.node(3).state(), StateType::Leader);
        assert_eq!(group.applied_texts(3), ["a"]);
    });
}

#[test]
fn a_restarted_member_goes_on_where_it_was() {
    let mut group = three(false);
    group.elect(1);
    group.propose(1, "a");
    let stored = group.node(3).storage().clone();
    let (term, committed) = (group.node(3).term(), group.node(3).committed());
    group.add(3, stored, |_| {});
    assert_eq!((group.node(3).term(), group.node(3).committed()), (term, committed));
    group.propose(1, "b");
    assert_eq!(
        group.applied_texts(3),
        ["a", "b"],
        "everything after the snapshot is applied again"
    );
    // The same storage for both is what a bootstrap makes.
    assert_eq!(storage(&[1], &[]).first_index(), 2);
}
