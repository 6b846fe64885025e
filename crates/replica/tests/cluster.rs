//! Three replicas elect, write, crash, catch up and change their members; in the end all hold the same.

mod world;

use proto::etcdserverpb::{CompactionRequest, InternalRaftRequest, LeaseGrantRequest, PutRequest};
use proto::raftpb::ConfChangeType;
use replica::state_machine::{Error, Response};
use replica::{Config, Identity, Input, OpenError, Output, Replica, Start};
use world::World;

fn plain(_: &mut Config) {}

fn small(config: &mut Config) {
    config.snapshot_count = 50;
    config.catch_up_entries = 20;
}

#[test]
fn a_single_member_serves_at_once_and_survives_a_crash() {
    let mut world = World::new(1, 1, plain);
    let id = world.ids()[0];
    assert_eq!(world.elect(), id);
    for n in 0..20 {
        world.must_put(id, &format!("k{n}"), "v");
    }
    assert!(world.read(id));
    assert!(world.nodes[&id].published);
    world.crash(id);
    world.restart(id);
    world.elect();
    assert_eq!(world.get(id, "k19").as_deref(), Some("v"), "what was answered is there");
    world.must_put(id, "again", "v");
    world.assert_same();
}

#[test]
fn three_members_elect_write_and_read_anywhere() {
    let mut world = World::new(3, 2, plain);
    let leader = world.elect();
    for (n, id) in world.ids().into_iter().cycle().take(30).enumerate() {
        world.must_put(id, &format!("k{n}"), &format!("v{n}"));
    }
    world.ticks(3);
    for id in world.ids() {
        assert!(world.nodes[&id].published, "{id:x}");
        assert!(world.read(id));
        assert_eq!(world.get(id, "k29").as_deref(), Some("v29"));
        let members = world.node(id).replica.members();
        assert_eq!(members.len(), 3);
        assert!(
            members
                .iter()
                .all(|member| member.is_started() && member.client_urls.len() == 1),
            "{members:?}"
        );
    }
    world.feed(
        leader,
        Input::Versions(world.ids().iter().map(|&id| (id, Some("3.7.3".into()))).collect()),
    );
    world.pump();
    let version = world.node(leader).replica.state().membership().version().cloned();
    assert_eq!(version.map(|version| version.to_string()).as_deref(), Some("3.7.0"));
    world.assert_same();
}

#[test]
fn a_new_leader_takes_over_and_the_old_one_confirms_no_read() {
    let mut world = World::new(3, 3, plain);
    let old = world.elect();
    world.must_put(old, "k", "1");
    world.cut.insert(old);
    let new = loop {
        let leader = world.elect();
        if leader != old {
            break leader;
        }
    };
    world.must_put(new, "k", "2");
    assert!(!world.read(old), "cut off, it cannot know that it still leads");
    assert_eq!(world.put(old, "lost", "x"), None, "nor can it commit");
    world.cut.clear();
    world.ticks(20);
    assert!(world.read(old));
    assert_eq!(world.get(old, "k").as_deref(), Some("2"));
    world.assert_same();
}

#[test]
fn crashes_of_any_member_lose_nothing_that_was_answered() {
    let mut world = World::new(3, 4, small);
    let mut written = 0;
    for round in 0..12 {
        let leader = world.elect();
        for _ in 0..25 {
            world.must_put(leader, &format!("k{written}"), &format!("{round}"));
            written += 1;
        }
        // In turn the leader and the others; every fourth time all at once.
        let victims = match round % 4 {
            3 => world.ids(),
            turn => vec![world.ids()[turn % 3]],
        };
        victims.iter().for_each(|&id| world.crash(id));
        world.ticks(5);
        victims.iter().for_each(|&id| world.restart(id));
    }
    let leader = world.elect();
    assert!(world.read(leader));
    for n in 0..written {
        assert!(world.get(leader, &format!("k{n}")).is_some(), "k{n}");
    }
    world.ticks(20);
    world.assert_same();
}

#[test]
fn a_snapshot_made_right_after_a_start_counts_at_the_next() {
    let mut world = World::new(1, 12, plain);
    let only = world.elect();
    for n in 0..60 {
        world.must_put(only, "k", &n.to_string());
    }
    // Of the last entry the database knows that it was committed; the log, where that waits for the next sync, does not.
    world.node(only).replica.close().unwrap();
    let applied = world.node(only).replica.applied();
    let node = world.nodes.get_mut(&only).unwrap();
    node.running = None;
    let disk = node.disk.clone();
    disk.kill();
    let config = Config {
        snapshot_count: 10,
        ..world.config(only, Start::Resume)
    };
    let (mut replica, mut writer) = Replica::open(disk.clone(), config, world.now).unwrap();
    assert_eq!(replica.applied(), applied);
    let mut inputs = std::collections::VecDeque::from([Input::TakeSnapshot]);
    while let Some(input) = inputs.pop_front() {
        for output in replica.step(input, world.now).unwrap() {
            match output {
                Output::Persist(job) => inputs.push_back(Input::Persisted(writer.persist(vec![job]).unwrap())),
                Output::Commit(job) => inputs.push_back(Input::Committed(job.run().unwrap())),
                _ => {}
            }
        }
    }
    drop((replica, writer));
    let log = std::path::Path::new("/data/member/wal");
    let newest = wal::valid_snapshots(&disk, log).unwrap().pop().unwrap_or_default();
    assert_eq!(
        newest.index(),
        applied,
        "else the log before it is given up and nothing begins there"
    );
}

#[test]
fn a_member_far_behind_gets_the_database() {
    let mut world = World::new(3, 5, small);
    let leader = world.elect();
    let behind = world.ids().into_iter().find(|&id| id != leader).unwrap();
    world.must_put(leader, "before", "1");
    world.cut.insert(behind);
    for n in 0..400 {
        world.must_put(leader, &format!("k{}", n % 50), &n.to_string());
    }
    world.cut.clear();
    world.ticks(20);
    assert!(world.snapshots_sent >= 1);
    assert!(world.node(behind).restored >= 1, "entries were not enough");
    assert_eq!(world.get(behind, "k49").as_deref(), Some("399"));
    world.must_put(behind, "after", "1");
    world.assert_same();
    world.crash(behind);
    world.restart(behind);
    world.ticks(20);
    world.must_put(behind, "after restart", "1");
    world.assert_same();
}

#[test]
fn learners_are_added_promoted_and_members_removed() {
    let mut world = World::new(3, 6, small);
    let leader = world.elect();
    for n in 0..200 {
        world.must_put(leader, &format!("k{n}"), "v");
    }
    let learner = world.add_member(leader, "m4", true);
    world.ticks(10);
    assert!(world.node(learner).replica.is_learner());
    assert_eq!(world.get(learner, "k199").as_deref(), Some("v"));
    let (matched, own) = world.node(leader).replica.match_of(learner).unwrap();
    assert!(matched * 10 >= own * 9, "{matched} of {own}");
    let members = world.promote(leader, learner).unwrap();
    assert!(members.iter().all(|member| !member.is_learner));
    world.ticks(3);
    assert!(!world.node(learner).replica.is_learner());
    assert_eq!(
        world.promote(leader, learner),
        Err(Error::MemberNotLearner),
        "refused at apply, and no harm done"
    );

    // The leader removes itself: it hands over by stepping down, and stops.
    world
        .change(leader, ConfChangeType::ConfChangeRemoveNode, leader, String::new())
        .unwrap();
    assert!(world.nodes[&leader].removed);
    world.nodes.get_mut(&leader).unwrap().running = None;
    let next = world.elect();
    assert_ne!(next, leader);
    world.must_put(next, "after", "removal");
    assert_eq!(world.node(next).replica.members().len(), 3);
    world.assert_same();

    // A removed member that is started again knows that it is out.
    world.nodes.get_mut(&leader).unwrap().removed = false;
    world.restart(leader);
    assert!(world.nodes[&leader].removed);
}

#[test]
fn expired_leases_are_revoked_by_the_leader() {
    let mut world = World::new(3, 7, plain);
    let leader = world.elect();
    let grant = LeaseGrantRequest { id: 77, ttl: 2 };
    world.propose(
        leader,
        InternalRaftRequest {
            lease_grant: Some(grant),
            ..Default::default()
        },
    );
    let put = PutRequest {
        key: "leased".into(),
        value: "v".into(),
        lease: 77,
        ..Default::default()
    };
    world.propose(
        leader,
        InternalRaftRequest {
            put: Some(put),
            ..Default::default()
        },
    );
    world.pump();
    assert!(world.get(leader, "leased").is_some());
    world.ticks(10);
    assert!(world.get(leader, "leased").is_some(), "after one second it lives");
    world.ticks(40);
    assert_eq!(world.get(leader, "leased"), None);
    world.assert_same();
}

#[test]
fn compaction_shortens_history_everywhere() {
    let mut world = World::new(3, 8, plain);
    let leader = world.elect();
    for n in 0..50 {
        world.must_put(leader, "same", &n.to_string());
    }
    let compaction = CompactionRequest {
        revision: 40,
        physical: true,
    };
    let id = world.propose(
        leader,
        InternalRaftRequest {
            compaction: Some(compaction),
            ..Default::default()
        },
    );
    world.pump();
    assert!(matches!(
        world.node(leader).answers.remove(&id),
        Some(Ok(Response::Compaction(_)))
    ));
    world.ticks(20);
    for id in world.ids() {
        assert_eq!(world.node(id).replica.state().reader().compact_revision(), 40);
    }
    world.assert_same();
}

#[test]
fn a_proposal_waits_for_a_leader_and_no_longer_than_its_client() {
    let mut world = World::new(3, 9, plain);
    let leader = world.elect();
    let others: Vec<u64> = world.ids().into_iter().filter(|&id| id != leader).collect();
    world.crash(leader);
    let put = PutRequest {
        key: "waits".into(),
        value: "v".into(),
        ..Default::default()
    };
    // The dead leader is still believed in, so let its silence be noticed first.
    world.elect();
    let id = world.propose(
        others[0],
        InternalRaftRequest {
            put: Some(put),
            ..Default::default()
        },
    );
    world.ticks(30);
    assert!(matches!(world.node(others[0]).answers.remove(&id), Some(Ok(_))));
    world.restart(leader);
    world.ticks(20);
    world.assert_same();
}

#[test]
fn data_of_others_and_lost_halves_are_refused_with_a_reason() {
    let mut world = World::new(1, 10, plain);
    let id = world.ids()[0];
    world.elect();
    world.must_put(id, "k", "v");
    world.ticks(3);
    let identity = world.node(id).replica.identity();
    world.nodes.get_mut(&id).unwrap().running = None;
    let disk = world.nodes[&id].disk.clone();
    let open = |configure: &dyn Fn(&mut Config)| {
        let mut config = world.config(id, Start::Resume);
        configure(&mut config);
        Replica::open(disk.fork(1), config, world.now).map(|_| ()).unwrap_err()
    };
    let other = Identity {
        member_id: 1,
        ..identity
    };
    assert!(matches!(
        open(&|config| config.expect = Some(other)),
        OpenError::OtherIdentity { .. }
    ));
    assert!(matches!(
        open(&|config| config.data_dir = "/elsewhere".into()),
        OpenError::NoData { .. }
    ));
    let error = open(&|config| config.wal_dir = Some("/data/other-wal".into()));
    assert!(matches!(error, OpenError::NoData { .. }), "{error}");
    let members = [("m1".to_owned(), world::url("m1"))].into();
    let start = Start::New {
        members,
        token: "world".into(),
    };
    let error = open(&|config| {
        config.wal_dir = Some("/data/other-wal".into());
        config.start = start.clone();
    });
    assert!(
        matches!(error, OpenError::DatabaseAheadOfLog { .. }),
        "a database without its log: {error}"
    );
}

#[test]
fn one_of_three_goes_on_alone_when_forced() {
    let mut world = World::new(3, 11, plain);
    let leader = world.elect();
    world.must_put(leader, "k", "v");
    world.ticks(3);
    let ids = world.ids();
    ids.iter().for_each(|&id| world.crash(id));
    let survivor = ids[0];
    let mut config = world.config(survivor, Start::Resume);
    config.force_new_cluster = true;
    let disk = world.nodes[&survivor].disk.clone();
    drop(Replica::open(disk, config, world.now).unwrap());
    world.restart(survivor);
    world.nodes.retain(|&id, _| id == survivor);
    world.elect();
    assert_eq!(world.get(survivor, "k").as_deref(), Some("v"));
    world.must_put(survivor, "alone", "v");
    assert_eq!(world.node(survivor).replica.members().len(), 1);
}
