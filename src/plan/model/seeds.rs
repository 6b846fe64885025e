//! Many seeds through the model: every plan checked, nothing acknowledged lost, and in the end all as wanted.

use std::time::Duration;

use super::super::journal::Journal;
use super::super::reason::Reason;
use super::super::step::Step;
use super::super::{Next, backup, resources};
use super::{Faults, World};

/// `count` seeds from `first` on; built with QUORATE_SEEDS=20 in the environment, twenty times as many. (Read when this
/// is built: nothing under plan/ looks at its surroundings when it runs, not even its tests.)
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let times = option_env!("QUORATE_SEEDS")
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or(1);
    first * 1_000_000..first * 1_000_000 + count * times
}

/// Runs one seed; its number is in the message when it fails.
fn run(seed: u64, replicas: u32, faults: usize, each: impl Fn(&mut World)) -> World {
    let mut world = World::new(seed, replicas);
    for round in 0..faults {
        world.live();
        if round > 3 && world.random.one_in(4) {
            world.fault();
        }
        each(&mut world);
        world.reconcile(Faults::World);
    }
    world.converge(900);
    world
}

#[test]
fn minority_losses_lose_nothing_and_heal() {
    for seed in seeds(0, 40) {
        let world = run(seed, [1, 3, 5][usize::try_from(seed % 3).unwrap_or(0)], 120, |_| {});
        assert!(
            !world.forgiven,
            "seed {seed}: recovered though a majority was there\n{}",
            world.trace.join("\n")
        );
    }
}

#[test]
fn a_forgotten_journal_harms_no_data() {
    for seed in seeds(1000, 20) {
        let world = run(seed, 3, 120, |world| {
            if world.random.one_in(15) {
                world.journal = Journal::default();
                world.note("FAULT the journal is lost".into());
            }
        });
        assert!(
            !world.forgiven,
            "seed {seed}: recovered though a majority was there\n{}",
            world.trace.join("\n")
        );
    }
}

#[test]
fn a_lost_majority_is_recovered_from_the_longest_log() {
    for seed in seeds(2000, 20) {
        let mut world = run(seed, 3, 30, |_| {});
        world.wanted.replicas = [3, 5][usize::try_from(seed % 2).unwrap_or(0)];
        world.converge(900);
        let victims = world.wanted.replicas as usize / 2 + 1;
        for _ in 0..victims {
            let whole: Vec<usize> = (0..world.nodes.len())
                .filter(|i| world.nodes[*i].disk.is_some())
                .collect();
            let i = whole[world.random.below(whole.len())];
            world.nodes[i].disk = None;
            world.nodes[i].running = None;
            world.nodes[i].exited = Some((world.now, 0));
        }
        let longest = world
            .nodes
            .iter()
            .filter_map(|n| n.disk.as_ref())
            .map(|d| d.length)
            .max();
        world.note("FAULT a majority loses its disks".into());
        for _ in 0..400 {
            world.live();
            let next = world.reconcile(Faults::Operator);
            let unattended = !matches!(
                &next,
                Next::Blocked {
                    why: Reason::RecoveryRequired { .. }
                }
            );
            assert!(
                unattended,
                "seed {seed}: waits though the loss is proven\n{}",
                world.trace.join("\n")
            );
        }
        world.converge(900);
        let leader = world.leader(false).and_then(|l| world.nodes[l].disk.clone());
        assert!(
            leader.map(|d| d.length) > longest,
            "seed {seed}: not the longest log\n{}",
            world.trace.join("\n")
        );
    }
}

#[test]
fn silence_alone_never_starts_a_recovery() {
    for seed in seeds(3000, 10) {
        let mut world = run(seed, 3, 20, |_| {});
        world.wanted.replicas = 3;
        world.converge(900);
        // Two of three are behind a partition, alive, and go on without us.
        for i in 0..2 {
            world.nodes[i].cut_off = true;
        }
        let before = world.acknowledged;
        for _ in 0..200 {
            world.live();
            world.reconcile(Faults::Operator);
        }
        assert!(world.acknowledged > before + 100, "seed {seed}: the others stopped");
        assert!(
            world.journal.recovery.is_none() && !world.recovered,
            "seed {seed}\n{}",
            world.trace.join("\n")
        );
        world.nodes.iter_mut().for_each(|n| n.cut_off = false);
        world.converge(900);
        assert!(!world.recovered, "seed {seed}");
    }
}

#[test]
fn with_every_disk_gone_the_backup_is_offered_and_taken_when_agreed() {
    for seed in seeds(4000, 5) {
        let mut world = run(seed, 3, 20, |_| {});
        world.wanted.replicas = 3;
        world.converge(900);
        for node in &mut world.nodes {
            node.disk = None;
            node.running = None;
            node.exited = Some((world.now, 0));
        }
        for _ in 0..40 {
            world.live();
            let next = world.reconcile(Faults::None);
            assert!(
                !matches!(
                    next,
                    Next::Take {
                        step: Step::CreateMember { .. },
                        ..
                    }
                ),
                "seed {seed}"
            );
        }
        let next = world.reconcile(Faults::None);
        assert_eq!(
            next,
            Next::Blocked {
                why: Reason::AllMembersLost
            },
            "seed {seed}"
        );
        world.backups.push(backup::Run {
            name: "nightly".into(),
            policy: None,
            scheduled: world.now,
            phase: backup::Phase::Completed,
            completed: Some(world.now),
            verified: true,
            revision: 5,
        });
        let next = world.reconcile(Faults::None);
        assert!(
            matches!(
                next,
                Next::Blocked {
                    why: Reason::RecoveryRequired { .. }
                }
            ),
            "seed {seed}: {next:?}"
        );
        world.converge(900);
    }
}

#[test]
fn a_hibernated_cluster_wakes_with_its_members() {
    for seed in seeds(5000, 5) {
        let mut world = run(seed, 3, 20, |_| {});
        world.wanted.replicas = 3;
        world.converge(900);
        let names: Vec<String> = world.nodes.iter().map(|n| n.name.clone()).collect();
        world.wanted.replicas = 0;
        for _ in 0..20 {
            world.live();
            world.reconcile(Faults::Operator);
        }
        world.reconcile(Faults::None);
        world.reconcile(Faults::None);
        world.reconcile(Faults::None);
        assert!(
            world.nodes.iter().all(|n| n.running.is_none()),
            "seed {seed}\n{}",
            world.trace.join("\n")
        );
        world.now = world.now.plus(Duration::from_secs(86_400));
        world.wanted.replicas = 3;
        world.converge(300);
        let after: Vec<String> = world.nodes.iter().map(|n| n.name.clone()).collect();
        assert_eq!(names, after, "seed {seed}\n{}", world.trace.join("\n"));
    }
}

#[test]
fn a_changed_flag_reaches_every_member_one_at_a_time() {
    for seed in seeds(6000, 10) {
        let mut world = run(seed, 3, 20, |_| {});
        world.wanted.replicas = 5;
        world.converge(900);
        world.wanted.extra_args.insert("log-outputs".into(), "stderr".into());
        for _ in 0..60 {
            world.live();
            world.reconcile(Faults::Operator);
            let down = world.nodes.iter().filter(|n| n.running.is_none()).count();
            assert!(down <= 1, "seed {seed}");
        }
        world.converge(900);
        let template = resources::template(&world.wanted);
        assert!(
            world.nodes.iter().all(|n| n.template.as_ref() == Some(&template)),
            "seed {seed}"
        );
    }
}
