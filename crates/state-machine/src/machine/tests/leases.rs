//! Leases and their keys.

use super::*;

#[test]
fn a_revoked_lease_takes_its_keys_in_order_and_in_one_revision() {
    let mut bench = Bench::new();
    bench.ok(grant(7, 60));
    for key in ["c", "a", "b"] {
        bench.ok(put(key, "v", 7));
    }
    bench.ok(put("b", "free", 0));
    assert_eq!(bench.machine.leases().info(7).unwrap().keys, [&b"a"[..], b"c"]);
    let Response::LeaseRevoke(answer) = bench.ok(revoke(7)) else {
        panic!("another answer")
    };
    assert_eq!(answer.header.unwrap().revision, 6 + 1 - 1);
    let deleted: Vec<_> = bench
        .machine
        .backend
        .scan(Bucket::Key, &crate::mvcc::Revision::start_of(6).encode(), None, 0)
        .unwrap()
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(deleted.len(), 2);
    assert!(deleted.iter().all(|key| key.len() == 18 && key[17] == b't'));
    assert!(bench.machine.leases().is_empty());
    assert!(
        bench
            .machine
            .backend
            .scan(Bucket::Lease, &[], None, 0)
            .unwrap()
            .is_empty()
    );
    assert_eq!(bench.refused(revoke(7)), Error::LeaseNotFound);
    // A lease without keys goes without a revision.
    bench.ok(grant(8, 60));
    bench.ok(revoke(8));
    assert_eq!(bench.machine.reader().current_revision(), 6);
}

#[test]
fn a_checkpoint_is_stored_once_all_members_know_it() {
    let mut bench = Bench::new();
    bench.ok(grant(7, 600));
    bench.ok(checkpoint(7, 100));
    let stored = |bench: &Bench| {
        let value = bench
            .machine
            .backend
            .get(Bucket::Lease, &7i64.to_be_bytes())
            .unwrap()
            .unwrap();
        leasepb::Lease::decode(value).unwrap().remaining_ttl
    };
    assert_eq!(stored(&bench), 0);
    bench.ok(version("3.6.0"));
    bench.ok(checkpoint(7, 99));
    bench.ok(checkpoint(8, 99));
    assert_eq!(stored(&bench), 99);
    bench.machine.promote(Duration::from_secs(1), Duration::ZERO);
    let info = bench.machine.leases().info(7).unwrap();
    assert_eq!((info.granted_ttl, info.ttl_seconds(Duration::ZERO)), (600, Some(100)));
}
