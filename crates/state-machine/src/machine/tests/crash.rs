//! Logs that are cut, replayed and handed over.

use super::*;

#[test]
fn every_entry_moves_the_index_and_none_is_applied_twice() {
    let mut bench = Bench::new();
    assert_eq!(bench.machine.applied(), Position::default());
    let empty = bench.entry(EntryType::EntryNormal, Vec::new());
    let applied = bench.machine.apply(&empty, Duration::ZERO).unwrap();
    assert_eq!((applied.id, applied.result), (0, None));
    bench.ok(put("a", "1", 0));
    // A refused request, and one that changes nothing, count too.
    assert_eq!(bench.refused(put("a", "1", 77)), Error::LeaseNotFound);
    bench.ok(delete("missing"));
    assert_eq!(bench.machine.applied(), Position { index: 4, term: 2 });
    assert_eq!(bench.machine.reader().current_revision(), 2);
    bench.replay();
    assert_eq!(bench.machine.reader().current_revision(), 2);
    bench.machine.commit().unwrap();
    let bench = bench.crash();
    assert_eq!(bench.machine.applied(), Position { index: 4, term: 2 });
}

/// A log with everything in it, for the tests below.
fn long_log(bench: &mut Bench) {
    add(bench, ME, false);
    bench.ok(version("3.7.0"));
    bench.ok(attributes(ME, "one"));
    for lease in [1, -1, i64::MIN] {
        bench.ok(grant(lease, 60));
    }
    for round in 0..5 {
        for (number, lease) in [(0, 0), (1, 1), (2, -1), (3, i64::MIN)] {
            bench.ok(put(&format!("key{number}"), &format!("{round}"), lease));
        }
        bench.ok(txn_put(&format!("key{round}")));
        bench.ok(delete("key0"));
    }
    add(bench, 0xb2, true);
    add(bench, 0xb3, true);
    bench.ok(checkpoint(1, 30));
    bench.ok(alarm(AlarmAction::Activate, AlarmType::Nospace));
    bench.refused(put("full", "1", 0));
    bench.ok(alarm(AlarmAction::Deactivate, AlarmType::Nospace));
    bench.ok(revoke(-1));
    bench.ok(downgrade(true));
    bench.ok(downgrade(false));
    bench.change(ConfChangeType::ConfChangeRemoveNode, 0xb2, String::new());
    bench.ok(put("key1", "moved", i64::MIN));
    bench.ok(attributes(ME, "renamed"));
}

/// reliability H16, H17, H25: a restart after any entry, with any part of the log lost from the database, leads to the same state.
#[test]
fn a_crash_after_any_entry_changes_nothing() {
    let mut whole = Bench::new();
    long_log(&mut whole);
    let expected = whole.contents();
    let leases = |machine: &Machine| -> Vec<_> {
        let ids = machine.leases().ids_by_expiry();
        ids.into_iter().map(|id| machine.leases().info(id).unwrap()).collect()
    };
    let expected_leases = leases(&whole.machine);
    for cut in 0..=whole.log.len() {
        let mut bench = Bench::new();
        bench.log = whole.log.clone();
        for (at, entry) in whole.log[..cut].iter().enumerate() {
            replay_one(&mut bench.machine, entry);
            // Some of what was applied is on the disk, the rest is lost.
            if at % 7 == cut % 7 {
                bench.machine.commit().unwrap();
            }
        }
        let mut bench = bench.crash();
        bench.replay();
        assert_eq!(bench.contents(), expected, "cut after {cut} entries");
        assert_eq!(leases(&bench.machine), expected_leases, "cut after {cut} entries");
        assert_eq!(bench.machine.membership(), whole.machine.membership());
    }
}

/// reliability H18, H25: who gets the state as a file has the same as who applied the log, leases included.
#[test]
fn a_snapshot_gives_the_same_state_as_the_log() {
    let mut whole = Bench::new();
    long_log(&mut whole);
    let half = whole.log.len() / 2;
    let mut behind = Bench::new();
    behind.log = whole.log.clone();
    for entry in &whole.log[..half] {
        replay_one(&mut behind.machine, entry);
    }
    let (reader, leases) = (behind.machine.reader(), behind.machine.leases().clone());
    behind.machine.promote(Duration::from_secs(1), Duration::ZERO);
    let expected = whole.contents();
    let db = whole.db();
    let Bench { dir, machine, .. } = whole;
    drop(machine);
    let received = behind.dir.path().join("received.db");
    std::fs::copy(&db, &received).unwrap();
    behind.machine.restore(RealDisk, &received).unwrap();
    assert_eq!(behind.contents(), expected);
    // The handles that others hold follow.
    assert_eq!(reader.current_revision(), behind.machine.reader().current_revision());
    assert_eq!(leases.len(), 2);
    assert!(!leases.is_primary());
    assert_eq!(leases.info(i64::MIN).unwrap().keys, [&b"key1"[..], b"key3"]);
    behind.replay();
    behind.ok(put("after", "1", 1));
    assert_eq!(leases.info(1).unwrap().keys, [&b"after"[..]]);
    drop(dir);
}

#[test]
fn a_compaction_goes_on_after_a_crash() {
    let mut bench = Bench::new();
    for round in 0..20 {
        bench.ok(put("a", &round.to_string(), 0));
    }
    let applied = bench.apply(compact(15));
    assert_eq!(applied.actions, [Action::CompactionScheduled { revision: 15 }]);
    assert_eq!(bench.refused(compact(15)), Error::Compacted);
    assert_eq!(bench.refused(compact(99)), Error::FutureRevision);
    assert_eq!(bench.machine.compact_step(1), Ok(Compacted::More));
    bench.machine.commit().unwrap();
    let mut bench = bench.crash();
    let mut steps = 0;
    while bench.machine.compact_step(4).unwrap() == Compacted::More {
        steps += 1;
    }
    assert!(steps > 2, "a step is bounded by its budget");
    assert_eq!(bench.machine.compact_step(4), Ok(Compacted::Nothing));
    assert_eq!(
        bench.machine.backend.scan(Bucket::Key, &[], None, 0).unwrap().len(),
        21 - 14
    );
}

#[test]
fn a_commit_on_another_thread_holds_nothing_up() {
    let mut bench = Bench::new();
    bench.ok(put("a", "1", 0));
    let job = bench.machine.freeze().unwrap();
    bench.ok(put("b", "2", 0));
    assert!(bench.machine.freeze().is_none(), "one at a time");
    assert!(bench.machine.has_uncommitted());
    let committed = std::thread::spawn(move || job.run()).join().unwrap().unwrap();
    bench.machine.finish(committed);
    let mut bench = bench.crash();
    assert_eq!(
        bench.machine.applied().index,
        1,
        "what was frozen is there, with its index"
    );
    bench.replay();
    assert_eq!(bench.machine.reader().current_revision(), 3);
}

#[test]
fn a_hash_of_now_is_not_that_of_a_compaction_at_zero() {
    let mut bench = Bench::new();
    bench.ok(compact(0));
    for _ in 0..3 {
        bench.machine.compact_step(100).unwrap();
    }
    bench.ok(put("k", "v", 0));
    let (hash, now) = bench.machine.reader().hash_kv(0).unwrap();
    assert_eq!((hash.revision, now), (2, 2));
}
