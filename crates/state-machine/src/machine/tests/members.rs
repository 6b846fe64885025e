//! Members and versions.

use super::*;

#[test]
fn a_refused_change_of_members_is_voided_and_counts() {
    let mut bench = Bench::new();
    add(&mut bench, ME, false);
    add(&mut bench, 0xb2, true);
    let refused = add(&mut bench, 0xb3, true);
    assert_eq!(refused.result, Some(Err(Error::TooManyLearners)));
    assert_eq!(refused.for_raft.as_ref().unwrap().node_id, 0);
    assert_eq!(bench.machine.applied().index, 3);
    assert_eq!(refused.answer(&bench.machine), Some(Err(Error::TooManyLearners)));
    let promote = ChangeContext {
        member: Member {
            id: 0xb2,
            ..Member::default()
        },
        is_promote: true,
    }
    .to_json();
    let promoted = bench.change(ConfChangeType::ConfChangeAddNode, 0xb2, promote);
    assert_eq!(promoted.answer(&bench.machine).unwrap().unwrap().len(), 2);
    assert!(!bench.machine.membership().member(0xb2).unwrap().is_learner);
    let removed = bench.change(ConfChangeType::ConfChangeRemoveNode, ME, String::new());
    assert!(removed.removed_self);
    assert_eq!(removed.result, Some(Ok(Change::Remove(ME))));
    // Attributes of a removed member are skipped, and entries that were applied are not validated again.
    bench.ok(attributes(ME, "late"));
    bench.machine.commit().unwrap();
    let mut bench = bench.crash();
    for entry in bench
        .log
        .clone()
        .iter()
        .filter(|entry| entry.r#type == EntryType::EntryConfChange as i32)
    {
        let applied = bench.machine.apply_conf_change(entry).unwrap();
        assert_eq!(
            (applied.for_raft, applied.result, applied.removed_self),
            (None, None, false)
        );
    }
    assert_eq!(bench.machine.conf_state().unwrap().voters, [0xb2]);
    assert!(bench.machine.membership().is_removed(ME));
}

#[test]
fn the_storage_version_follows_the_cluster_version() {
    let mut bench = Bench::new();
    assert_eq!(bench.machine.storage_version().unwrap(), None);
    let first = bench.apply(version("3.7.0"));
    assert_eq!(
        first.actions,
        [Action::ClusterVersionChanged {
            from: None,
            to: Version::new(3, 7, 0)
        }]
    );
    assert_eq!(bench.machine.storage_version().unwrap(), Some(Version::new(3, 7, 0)));
    bench.ok(version("3.6.0"));
    assert_eq!(bench.machine.storage_version().unwrap(), Some(Version::new(3, 6, 0)));
    let newer = InternalRaftRequest {
        id: 1,
        ..version("3.8.0")
    }
    .encode_to_vec();
    let entry = bench.entry(EntryType::EntryNormal, newer);
    let error = bench.machine.apply(&entry, Duration::ZERO).unwrap_err();
    assert!(
        matches!(
            error,
            Fatal::Entry {
                reason: BadEntry::ServerTooOld { .. },
                ..
            }
        ),
        "{error}"
    );
}
