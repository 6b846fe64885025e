//! What is refused, and what stops a member.

use super::*;

#[test]
fn a_gap_in_the_log_is_fatal() {
    let mut bench = Bench::new();
    let entry = Entry {
        index: 3,
        term: 1,
        ..Entry::default()
    };
    let error = bench.machine.apply(&entry, Duration::ZERO).unwrap_err();
    assert_eq!(
        error,
        Fatal::Entry {
            index: 3,
            reason: BadEntry::Gap { applied: 0 }
        }
    );
    let entry = Entry {
        index: 1,
        term: 1,
        r#type: 2,
        ..Entry::default()
    };
    let error = bench.machine.apply_conf_change(&entry).unwrap_err();
    assert_eq!(
        error,
        Fatal::Entry {
            index: 1,
            reason: BadEntry::UnknownType(2)
        }
    );
}

#[test]
fn an_entry_that_is_not_understood_is_fatal_and_not_counted() {
    let mut bench = Bench::new();
    let unknown = InternalRaftRequest {
        id: 1,
        ..Default::default()
    }
    .encode_to_vec();
    let entry = bench.entry(EntryType::EntryNormal, unknown);
    let error = bench.machine.apply(&entry, Duration::ZERO).unwrap_err();
    assert_eq!(
        error,
        Fatal::Entry {
            index: 1,
            reason: BadEntry::UnknownRequest
        }
    );
    assert_eq!(bench.machine.applied().index, 0);
    let bad_version = InternalRaftRequest {
        id: 1,
        ..version("three")
    }
    .encode_to_vec();
    let entry = Entry {
        data: bad_version.into(),
        ..entry
    };
    assert!(matches!(
        bench.machine.apply(&entry, Duration::ZERO),
        Err(Fatal::Entry {
            reason: BadEntry::ClusterVersion(_),
            ..
        })
    ));
    let stranger = InternalRaftRequest {
        id: 1,
        ..attributes(5, "x")
    }
    .encode_to_vec();
    let entry = Entry {
        data: stranger.into(),
        ..entry
    };
    assert!(matches!(
        bench.machine.apply(&entry, Duration::ZERO),
        Err(Fatal::Entry {
            reason: BadEntry::Attributes(_),
            ..
        })
    ));
}

#[test]
fn data_of_another_world_is_refused_with_a_reason() {
    let write = |bucket, key: &'static [u8], value: &'static [u8]| {
        let mut bench = Bench::new();
        bench
            .machine
            .backend
            .put(bucket, Bytes::from_static(key), Bytes::from_static(value));
        bench.machine.commit().unwrap();
        let Bench {
            dir, config, machine, ..
        } = bench;
        drop(machine);
        open(dir.path(), &config).unwrap_err()
    };
    let server = Version::new(3, 7, 0);
    let storage = Version::new(3, 8, 0);
    let refused = write(Bucket::Meta, schema::STORAGE_VERSION, b"3.8.0");
    assert_eq!(
        refused,
        OpenError::StorageTooNew {
            storage: storage.clone(),
            server: server.clone()
        }
    );
    let refused = write(Bucket::Cluster, schema::CLUSTER_VERSION, b"3.8.0");
    assert_eq!(
        refused,
        OpenError::ServerTooOld {
            cluster: storage,
            server
        }
    );
    for (bucket, key, value) in [
        (Bucket::Meta, schema::CONSISTENT_INDEX, &b"1"[..]),
        (Bucket::Meta, schema::CONF_STATE, b"no json"),
        (Bucket::Lease, b"12345678", b"\xff"),
        (Bucket::Alarm, b"\xff", b""),
        (Bucket::Auth, schema::AUTH_REVISION, b"1"),
        (Bucket::AuthUsers, b"u", b"\xff"),
        (Bucket::AuthRoles, b"r", b"\xff"),
    ] {
        assert!(matches!(write(bucket, key, value), OpenError::Record { .. }), "{key:?}");
    }
    assert!(matches!(write(Bucket::Members, b"zz", b"{}"), OpenError::Members(_)));
}

#[test]
fn alarms_decide_what_still_goes_through() {
    let mut bench = Bench::new();
    bench.ok(grant(7, 600));
    bench.ok(put("a", "1", 7));
    let raised = bench.apply(alarm(AlarmAction::Activate, AlarmType::Nospace));
    assert_eq!(raised.actions, [Action::AlarmsChanged]);
    assert!(
        bench
            .apply(alarm(AlarmAction::Activate, AlarmType::Nospace))
            .actions
            .is_empty()
    );
    assert_eq!(bench.refused(put("b", "1", 0)), Error::NoSpace);
    assert_eq!(bench.refused(txn_put("b")), Error::NoSpace);
    assert_eq!(bench.refused(grant(8, 600)), Error::NoSpace);
    bench.ok(InternalRaftRequest {
        txn: Some(pb::TxnRequest::default()),
        ..Default::default()
    });
    bench.ok(delete("a"));
    bench.ok(compact(2));
    bench.ok(revoke(7));
    bench.ok(alarm(AlarmAction::Deactivate, AlarmType::Nospace));
    bench.ok(put("b", "1", 0));
    bench.ok(alarm(AlarmAction::Activate, AlarmType::Corrupt));
    for request in [
        put("b", "1", 0),
        txn_put("b"),
        delete("b"),
        compact(3),
        grant(9, 60),
        revoke(9),
    ] {
        assert_eq!(bench.refused(request), Error::Corrupt);
    }
    bench.ok(downgrade(true));
    bench.ok(checkpoint(9, 1));
    let Response::Alarm(all) = bench.ok(alarm(AlarmAction::Get, AlarmType::None)) else {
        panic!("another answer")
    };
    assert_eq!(all.alarms.len(), 1);
    // It outlives a restart, and NONE cannot be raised.
    bench.ok(alarm(AlarmAction::Activate, AlarmType::None));
    bench.machine.commit().unwrap();
    let mut bench = bench.crash();
    assert_eq!(bench.refused(put("b", "1", 0)), Error::Corrupt);
    bench.ok(alarm(AlarmAction::Deactivate, AlarmType::Corrupt));
    bench.ok(put("b", "1", 0));
}

#[test]
fn beyond_the_quota_a_write_is_done_and_yet_refused() {
    let quota = Quota::Bytes(1);
    let mut bench = Bench::with(Config {
        member_id: ME,
        quota,
        ..Config::default()
    });
    let applied = bench.apply(put("a", "1", 0));
    assert_eq!(applied.result, Some(Err(Error::NoSpace)));
    assert_eq!(applied.actions, [Action::RaiseNoSpace]);
    assert_eq!(
        bench.machine.reader().current_revision(),
        2,
        "every member did it, so this one did too"
    );
    // An error of its own comes first, and with the alarm raised nobody raises it again.
    assert_eq!(bench.refused(put("a", "1", 7)), Error::LeaseNotFound);
    bench.ok(delete("a"));
    bench.ok(alarm(AlarmAction::Activate, AlarmType::Nospace));
    let applied = bench.apply(put("a", "1", 0));
    assert_eq!((applied.result, applied.actions), (Some(Err(Error::NoSpace)), vec![]));
    assert_eq!(bench.machine.reader().current_revision(), 3);
}

#[test]
fn rights_are_judged_when_an_entry_is_applied() {
    let mut bench = Bench::new();
    let user = |name: &str| pb::AuthUserAddRequest {
        name: name.into(),
        ..Default::default()
    };
    for name in ["root", "u"] {
        bench.ok(InternalRaftRequest {
            auth_user_add: Some(user(name)),
            ..Default::default()
        });
    }
    let role = pb::AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    bench.ok(InternalRaftRequest {
        auth_user_grant_role: Some(role.clone()),
        ..Default::default()
    });
    let enable = InternalRaftRequest {
        auth_enable: Some(pb::AuthEnableRequest {}),
        ..Default::default()
    };
    let enabled = bench.apply(enable.clone());
    assert_eq!(enabled.actions, [Action::AuthChanged]);
    let revision = bench.machine.auth().revision();
    let by = |name: &str, auth_revision: u64, request: InternalRaftRequest| {
        let header = Some(pb::RequestHeader {
            id: 0,
            username: name.into(),
            auth_revision,
        });
        InternalRaftRequest { header, ..request }
    };
    assert_eq!(bench.refused(put("a", "1", 0)), Error::UserEmpty);
    assert_eq!(
        bench.refused(by("u", revision, put("a", "1", 0))),
        Error::PermissionDenied
    );
    assert_eq!(
        bench.refused(by("root", revision - 1, put("a", "1", 0))),
        Error::AuthOldRevision
    );
    bench.ok(by("root", revision, put("a", "1", 0)));
    let get = |name: &str| {
        let get = pb::AuthUserGetRequest { name: name.into() };
        InternalRaftRequest {
            auth_user_get: Some(get),
            ..Default::default()
        }
    };
    bench.ok(by("u", revision, get("u")));
    assert_eq!(bench.refused(by("u", revision, get("root"))), Error::PermissionDenied);
    // The token names the entry before, and is the same wherever the log is applied.
    let authenticate = pb::InternalAuthenticateRequest {
        name: "u".into(),
        simple_token: "letters".into(),
        ..Default::default()
    };
    let applied = bench.apply(InternalRaftRequest {
        authenticate: Some(authenticate),
        ..Default::default()
    });
    let Some(Ok(Response::Authenticate(answer))) = applied.result else {
        panic!("another answer")
    };
    assert_eq!(answer.token, format!("letters.{}", applied.index - 1));
    let holder = bench
        .machine
        .auth()
        .token_holder(&answer.token, Duration::ZERO)
        .unwrap();
    assert_eq!((holder.username.as_str(), holder.revision), ("u", revision));
    // After a restart the rights are there and the tokens are not.
    bench.machine.commit().unwrap();
    let mut bench = bench.crash();
    assert_eq!(
        bench.refused(by("u", revision, put("a", "1", 0))),
        Error::PermissionDenied
    );
    assert_eq!(bench.machine.auth().token_holder(&answer.token, Duration::ZERO), None);
    // Passwords in clear text cannot be hashed alike everywhere.
    let plain = pb::AuthUserAddRequest {
        password: "p".into(),
        ..user("v")
    };
    let request = InternalRaftRequest {
        id: 1,
        auth_user_add: Some(plain),
        ..Default::default()
    };
    let entry = bench.entry(EntryType::EntryNormal, request.encode_to_vec());
    let error = bench.machine.apply(&entry, Duration::ZERO).unwrap_err();
    assert!(
        matches!(
            error,
            Fatal::Entry {
                reason: BadEntry::PlainPassword,
                ..
            }
        ),
        "{error}"
    );
}
