//! The life of leases, by a clock that is an argument.

use super::*;
use crate::error::Error;

const fn s(seconds: u64) -> Uptime {
    Duration::from_secs(seconds)
}

fn lessor() -> Lessor {
    Lessor::new(LeaseConfig::default())
}

#[test]
fn grant_refuses_what_etcd_refuses_and_raises_short_ttls() {
    let mut lessor = lessor();
    assert_eq!(lessor.grant(0, 10, s(0)), Err(Error::LeaseNotFound));
    assert_eq!(lessor.grant(1, TTL_SECONDS_MAX + 1, s(0)), Err(Error::LeaseTtlTooLarge));
    assert_eq!(lessor.grant(1, -5, s(0)).unwrap().ttl, 2);
    assert_eq!(lessor.grant(1, 10, s(0)), Err(Error::LeaseExists));
    for id in [i64::MIN, -1, i64::MAX] {
        assert_eq!(lessor.grant(id, TTL_SECONDS_MAX, s(0)).unwrap().id, id);
    }
}

#[test]
fn negative_ids_survive_a_restart() {
    let mut lessor = lessor();
    let records: Vec<_> = [i64::MIN, -1, 1, i64::MAX]
        .map(|id| lessor.grant(id, 60, s(0)).unwrap())
        .into();
    let stored: Vec<_> = records
        .iter()
        .map(|record| (lease_key(record.id), encode_lease(record)))
        .collect();
    let mut again = Lessor::new(LeaseConfig::default());
    again.recover(
        stored
            .iter()
            .map(|(_, value)| leasepb::Lease::decode(value.clone()).unwrap()),
    );
    assert_eq!(again.ids_by_expiry(), vec![i64::MIN, -1, 1, i64::MAX]);
    assert_eq!(&lease_key(-1)[..], &[0xff; 8]);
}

#[test]
fn only_the_primary_ends_leases_and_a_new_one_starts_over() {
    let mut lessor = lessor();
    lessor.grant(1, 5, s(0)).unwrap();
    assert!(lessor.expired(s(1000), 10).is_empty());
    assert_eq!(lessor.renew(1, s(0)), Renewal::NotPrimary);
    lessor.promote(s(1), s(10));
    assert!(lessor.expired(s(15), 10).is_empty());
    assert_eq!(lessor.expired(s(16), 10), vec![1]);
    assert_eq!(lessor.renew(1, s(16)), Renewal::Expired);
    // Offered once, then again after the retry interval, as long as it is there.
    assert!(lessor.expired(s(17), 10).is_empty());
    assert_eq!(lessor.expired(s(16 + 7), 10), vec![1]);
    lessor.demote();
    assert!(lessor.expired(s(1000), 10).is_empty());
    lessor.promote(s(1), s(100));
    assert_eq!(lessor.renew(1, s(101)), Renewal::Renewed { ttl: 5 });
    lessor.remove(1).unwrap();
    assert_eq!(lessor.renew(1, s(101)), Renewal::NotFound);
    assert!(lessor.expired(s(1000), 10).is_empty());
}

#[test]
fn expiry_is_offered_in_bounded_rounds() {
    let mut lessor = lessor();
    lessor.promote(s(0), s(0));
    for id in 1..=30 {
        lessor.grant(id, 5, s(0)).unwrap();
    }
    assert_eq!(lessor.expired(s(5), 20).len(), 20);
    assert_eq!(lessor.expired(s(5), 20).len(), 10);
    assert_eq!(lessor.expired(s(5), 20).len(), 0);
}

#[test]
fn a_promotion_spreads_what_would_end_at_once() {
    let mut lessor = lessor();
    for id in 1..=3000 {
        lessor.grant(id, 10, s(0)).unwrap();
    }
    lessor.promote(s(0), s(0));
    // No second ends more than the revoke rate, none ends before its TTL, and all have ended after some seconds.
    let mut sum = 0;
    for at in 10..16 {
        let ended = lessor.expired(s(at), 100_000).len();
        assert!(ended <= REVOKE_RATE, "{ended} leases ended in second {at}");
        sum += ended;
    }
    assert_eq!(sum, 3000);
}

#[test]
fn a_key_follows_its_last_lease() {
    let mut lessor = lessor();
    lessor.grant(1, 5, s(0)).unwrap();
    lessor.grant(2, 5, s(0)).unwrap();
    let key = Bytes::from_static(b"k");
    assert_eq!(lessor.attach(3, key.clone()), Err(Error::LeaseNotFound));
    lessor.attach(1, key.clone()).unwrap();
    assert_eq!(lessor.detach(b"k"), Some(1));
    lessor.attach(2, key.clone()).unwrap();
    assert_eq!(lessor.keys(1).unwrap(), Vec::<Bytes>::new());
    assert_eq!(lessor.keys(2).unwrap(), vec![key]);
    assert_eq!(lessor.lease_of(b"k"), Some(2));
    lessor.remove(2).unwrap();
    assert_eq!(lessor.lease_of(b"k"), None);
}

/// reliability H41: a checkpointed rest must not grow back over leader changes.
#[test]
fn a_checkpoint_outlives_leader_changes() {
    let config = LeaseConfig {
        checkpoint: true,
        ..LeaseConfig::default()
    };
    let mut lessor = Lessor::new(config);
    lessor.promote(s(0), s(0));
    lessor.grant(1, 3600, s(0)).unwrap();
    let mut left = 3600;
    let mut now = 0;
    for _ in 0..5 {
        now += 300;
        let batch = lessor.due_checkpoints(s(now));
        assert_eq!(batch.len(), 1);
        assert!(batch[0].remaining_ttl < left);
        left = batch[0].remaining_ttl;
        let record = lessor.checkpoint(1, left, s(now)).unwrap();
        // The next leader has the record, and perhaps restarted.
        lessor.recover([record]);
        lessor.promote(s(0), s(now));
        assert_eq!(lessor.info(1).unwrap().ttl_seconds(s(now)), Some(left));
    }
    assert_eq!(left, 3600 - 5 * 300);
    assert_eq!(lessor.renew(1, s(now)), Renewal::ClearCheckpointFirst);
    lessor.checkpoint(1, 0, s(now)).unwrap();
    assert_eq!(lessor.renew(1, s(now)), Renewal::Renewed { ttl: 3600 });
    assert_eq!(lessor.info(1).unwrap().ttl_seconds(s(now)), Some(3600));
}

#[test]
fn time_to_live_is_cut_towards_zero() {
    let info = LeaseInfo {
        id: 1,
        granted_ttl: 5,
        expiry: Some(Duration::from_millis(5500)),
        keys: Vec::new(),
    };
    assert_eq!(info.ttl_seconds(s(1)), Some(4));
    assert_eq!(info.ttl_seconds(s(6)), Some(0));
    assert_eq!(info.ttl_seconds(s(7)), Some(-1));
    assert_eq!(LeaseInfo { expiry: None, ..info }.ttl_seconds(s(1)), None);
}
