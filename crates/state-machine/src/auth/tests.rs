//! Users, roles and permissions as etcd judges them.

use std::time::Duration;

use bytes::Bytes;
use proto::authpb::permission::Type;
use proto::authpb::{Permission, UserAddOptions};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest,
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use super::table::TOKEN_TTL;
use super::*;
use crate::error::Error;
use crate::lease::{LeaseConfig, Lessor};
use crate::schema::{AUTH_ENABLED, AUTH_REVISION, Bucket, encode_u64};

/// A table with what it stored.
#[derive(Default)]
struct Bench {
    table: AuthTable,
    stored: std::collections::BTreeMap<(Bucket, Bytes), Bytes>,
}

/// Calls a change with a place to store.
macro_rules! change {
    ($bench:expr, $method:ident $(, $request:expr)?) => {{
        let stored = &mut $bench.stored;
        $bench.table.$method($(&$request,)? &mut |bucket, key, value| {
            match value {
                Some(value) => stored.insert((bucket, key), value),
                None => stored.remove(&(bucket, key)),
            };
        })
    }};
}

impl Bench {
    fn new() -> Bench {
        let mut bench = Bench::default();
        change!(bench, begin);
        bench
    }

    fn user(&mut self, name: &str, roles: &[&str]) {
        // "aGFzaA==" is "hash".
        let request = AuthUserAddRequest {
            name: name.into(),
            hashed_password: "aGFzaA==".into(),
            ..Default::default()
        };
        change!(self, user_add, request).unwrap();
        for role in roles {
            let request = AuthUserGrantRoleRequest {
                user: name.into(),
                role: (*role).into(),
            };
            change!(self, user_grant_role, request).unwrap();
        }
    }

    fn role(&mut self, name: &str, permissions: &[(Type, &str, &str)]) {
        change!(self, role_add, AuthRoleAddRequest { name: name.into() }).unwrap();
        for permission in permissions {
            self.grant(name, permission).unwrap();
        }
    }

    fn grant(&mut self, name: &str, (kind, key, end): &(Type, &str, &str)) -> Result<(), Error> {
        let perm = Some(Permission {
            perm_type: *kind as i32,
            key: Bytes::copy_from_slice(key.as_bytes()),
            range_end: Bytes::copy_from_slice(end.as_bytes()),
        });
        change!(
            self,
            role_grant_permission,
            AuthRoleGrantPermissionRequest {
                name: name.into(),
                perm
            }
        )
    }

    /// root, and `u` who reads [a, m) and writes [a, f).
    fn enabled() -> Bench {
        let mut bench = Bench::new();
        bench.role("r", &[(Type::Read, "a", "m"), (Type::Write, "a", "f")]);
        bench.user("root", &["root"]);
        bench.user("u", &["r"]);
        change!(bench, enable).unwrap();
        bench
    }

    fn info(&self, name: &str) -> AuthInfo {
        AuthInfo {
            username: name.into(),
            revision: self.table.revision(),
        }
    }
}

fn put(key: &str, lease: i64, prev_kv: bool) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        lease,
        prev_kv,
        ..Default::default()
    }
}

#[test]
fn authentication_needs_a_root_with_the_role() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.stored[&(Bucket::Auth, Bytes::from_static(AUTH_REVISION))],
        encode_u64(1)
    );
    assert_eq!(change!(bench, enable), Err(Error::RootUserNotExist));
    bench.user("root", &[]);
    assert_eq!(change!(bench, enable), Err(Error::RootRoleNotExist));
    // The role need not exist to be granted, and its name is enough.
    change!(
        bench,
        user_grant_role,
        AuthUserGrantRoleRequest {
            user: "root".into(),
            role: "root".into()
        }
    )
    .unwrap();
    let revision = bench.table.revision();
    change!(bench, enable).unwrap();
    assert_eq!(bench.table.revision(), revision, "switching on does not count");
    assert_eq!(bench.stored[&(Bucket::Auth, Bytes::from_static(AUTH_ENABLED))][..], [1]);
    for refused in [
        change!(bench, user_delete, AuthUserDeleteRequest { name: "root".into() }),
        change!(
            bench,
            user_revoke_role,
            AuthUserRevokeRoleRequest {
                name: "root".into(),
                role: "root".into()
            }
        ),
        change!(bench, role_delete, AuthRoleDeleteRequest { role: "root".into() }),
    ] {
        assert_eq!(refused, Err(Error::InvalidAuthManagement));
    }
    change!(bench, disable);
    assert_eq!(bench.table.revision(), revision + 1);
    change!(bench, user_delete, AuthUserDeleteRequest { name: "root".into() }).unwrap();
}

#[test]
fn what_changes_nothing_takes_no_revision() {
    let mut bench = Bench::enabled();
    let revision = bench.table.revision();
    let stored = bench.stored.clone();
    let again = AuthUserGrantRoleRequest {
        user: "u".into(),
        role: "r".into(),
    };
    change!(bench, user_grant_role, again).unwrap();
    let user = |name: &str| AuthUserAddRequest {
        name: name.into(),
        hashed_password: "!".into(),
        ..Default::default()
    };
    assert_eq!(change!(bench, user_add, user("")), Err(Error::UserEmpty));
    assert_eq!(change!(bench, user_add, user("u")), Err(Error::UserAlreadyExists));
    assert_eq!(
        change!(bench, user_add, user("v")),
        Err(Error::NoPasswordUser),
        "the hash is not base64"
    );
    assert_eq!(
        change!(bench, role_add, AuthRoleAddRequest { name: "".into() }),
        Err(Error::RoleEmpty)
    );
    assert_eq!(
        change!(bench, role_add, AuthRoleAddRequest { name: "r".into() }),
        Err(Error::RoleAlreadyExists)
    );
    let nobody = AuthUserGrantRoleRequest {
        user: "x".into(),
        role: "r".into(),
    };
    assert_eq!(change!(bench, user_grant_role, nobody), Err(Error::UserNotFound));
    let no_role = AuthUserGrantRoleRequest {
        user: "u".into(),
        role: "x".into(),
    };
    assert_eq!(change!(bench, user_grant_role, no_role), Err(Error::RoleNotFound));
    let not_his = AuthUserRevokeRoleRequest {
        name: "u".into(),
        role: "x".into(),
    };
    assert_eq!(change!(bench, user_revoke_role, not_his), Err(Error::RoleNotGranted));
    let nothing = AuthRoleGrantPermissionRequest {
        name: "r".into(),
        perm: None,
    };
    assert_eq!(
        change!(bench, role_grant_permission, nothing),
        Err(Error::PermissionNotGiven)
    );
    assert_eq!(
        bench.grant("r", &(Type::Read, "b", "a")),
        Err(Error::InvalidAuthManagement)
    );
    let other = AuthRoleRevokePermissionRequest {
        role: "r".into(),
        key: "a".into(),
        range_end: "b".into(),
    };
    assert_eq!(
        change!(bench, role_revoke_permission, other),
        Err(Error::PermissionNotGranted)
    );
    assert_eq!((bench.table.revision(), bench.stored), (revision, stored));
}

#[test]
fn every_part_of_a_request_is_judged() {
    let bench = Bench::enabled();
    let mut leases = Lessor::new(LeaseConfig::default());
    for (id, key) in [(1, "b"), (2, "k")] {
        leases.grant(id, 60, Duration::ZERO).unwrap();
        leases.attach(id, key.into()).unwrap();
    }
    let info = bench.info("u");
    let put = |key, lease, prev_kv| bench.table.check_put(&info, &leases, &put(key, lease, prev_kv));
    assert_eq!(put("a", 0, true), Ok(()));
    assert_eq!(put("g", 0, false), Err(Error::PermissionDenied));
    assert_eq!(put("a", 1, false), Ok(()));
    assert_eq!(
        put("a", 2, false),
        Err(Error::PermissionDenied),
        "the lease holds a key that one may not write"
    );
    assert_eq!(
        put("a", 99, false),
        Ok(()),
        "that the lease is missing is for others to say"
    );
    let range = |key: &str, end: &str| {
        let request = RangeRequest {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            ..Default::default()
        };
        bench.table.check_range(&info, &request)
    };
    assert_eq!(range("a", "m"), Ok(()));
    assert_eq!(range("a", "\0"), Err(Error::PermissionDenied));
    let delete = |key: &str, end: &str| {
        let range_end = end.to_owned().into();
        let request = DeleteRangeRequest {
            key: key.to_owned().into(),
            range_end,
            prev_kv: true,
        };
        bench.table.check_delete(&info, &request)
    };
    assert_eq!(delete("a", "f"), Ok(()));
    assert_eq!(delete("a", "g"), Err(Error::PermissionDenied));
    // A transaction, in both branches and as deep as it goes (CVE-2026-33343).
    let op = |op| RequestOp { request: Some(op) };
    let forbidden = op(Op::RequestPut(super::tests::put("z", 0, false)));
    let mut txn = TxnRequest {
        failure: vec![forbidden],
        ..Default::default()
    };
    for _ in 0..3 {
        assert_eq!(
            bench.table.check_txn(&info, &leases, &txn),
            Err(Error::PermissionDenied)
        );
        assert_eq!(bench.table.check_txn(&bench.info("root"), &leases, &txn), Ok(()));
        txn = TxnRequest {
            success: vec![op(Op::RequestTxn(txn))],
            ..Default::default()
        };
    }
    let compare = |key: &str| Compare {
        key: key.to_owned().into(),
        ..Default::default()
    };
    let reads = TxnRequest {
        compare: vec![compare("a"), compare("z")],
        ..Default::default()
    };
    assert_eq!(
        bench.table.check_txn(&info, &leases, &reads),
        Err(Error::PermissionDenied)
    );
}

#[test]
fn who_asks_with_old_rights_asks_again() {
    let mut bench = Bench::enabled();
    let info = bench.info("u");
    let read = |bench: &Bench, info: &AuthInfo| bench.table.check_read(info, b"a", b"");
    assert_eq!(read(&bench, &info), Ok(()));
    assert_eq!(read(&bench, &AuthInfo::default()), Err(Error::UserEmpty));
    assert_eq!(read(&bench, &bench.info("x")), Err(Error::PermissionDenied));
    let revoke = AuthRoleRevokePermissionRequest {
        role: "r".into(),
        key: "a".into(),
        range_end: "m".into(),
    };
    change!(bench, role_revoke_permission, revoke).unwrap();
    assert_eq!(read(&bench, &info), Err(Error::AuthOldRevision));
    assert_eq!(read(&bench, &bench.info("u")), Err(Error::PermissionDenied));
    assert_eq!(bench.table.check_admin(&bench.info("u")), Err(Error::PermissionDenied));
    assert_eq!(bench.table.check_admin(&bench.info("x")), Err(Error::UserNotFound));
    assert_eq!(bench.table.check_admin(&AuthInfo::default()), Err(Error::UserEmpty));
    // Whoever had a role that is gone has it no longer.
    change!(bench, role_delete, AuthRoleDeleteRequest { role: "r".into() }).unwrap();
    assert!(bench.table.user("u").unwrap().roles.is_empty());
    change!(bench, disable);
    assert_eq!(read(&bench, &AuthInfo::default()), Ok(()));
}

#[test]
fn simple_tokens_live_while_they_are_used() {
    let mut bench = Bench::enabled();
    let at = Duration::from_secs;
    assert_eq!(bench.table.authenticate("x", "p", 7, at(0)), Err(Error::AuthFailed));
    let token = bench.table.authenticate("u", "prefix", 7, at(0)).unwrap();
    assert_eq!(token, "prefix.7");
    let info = bench.info("u");
    let last = TOKEN_TTL.as_secs() - 1;
    assert_eq!(bench.table.token_holder(&token, at(last)), Some(info.clone()));
    assert_eq!(bench.table.token_holder(&token, at(2 * last)), Some(info));
    assert_eq!(bench.table.token_holder(&token, at(4 * last)), None);
    assert_eq!(bench.table.token_holder("prefix.8", at(0)), None);
    // A new password, the end of the user and the end of authentication end the tokens.
    let token = bench.table.authenticate("u", "prefix", 8, at(0)).unwrap();
    let change = AuthUserChangePasswordRequest {
        name: "u".into(),
        ..Default::default()
    };
    change!(bench, user_change_password, change).unwrap();
    assert_eq!(bench.table.token_holder(&token, at(0)), None);
    let token = bench.table.authenticate("root", "prefix", 9, at(0)).unwrap();
    change!(bench, disable);
    assert_eq!(bench.table.token_holder(&token, at(0)), None);
    assert_eq!(bench.table.authenticate("u", "p", 9, at(0)), Err(Error::AuthNotEnabled));
    let options = Some(UserAddOptions { no_password: true });
    let certificate = AuthUserAddRequest {
        name: "cn".into(),
        options,
        ..Default::default()
    };
    change!(bench, user_add, certificate).unwrap();
    change!(bench, enable).unwrap();
    assert_eq!(bench.table.authenticate("cn", "p", 9, at(0)), Err(Error::AuthFailed));
}

/// reliability H16, H18: whoever gets the users as records judges as whoever applied the entries.
#[test]
fn what_is_stored_judges_alike() {
    let mut bench = Bench::enabled();
    bench.role(
        "s",
        &[
            (Type::Readwrite, "m", "\0"),
            (Type::Read, "m", ""),
            (Type::Write, "f", "m"),
        ],
    );
    change!(
        bench,
        user_grant_role,
        AuthUserGrantRoleRequest {
            user: "u".into(),
            role: "s".into()
        }
    )
    .unwrap();
    let mut again = AuthTable::default();
    let all = |bucket| {
        let of = bench.stored.iter().filter(move |((have, _), _)| *have == bucket);
        of.map(|((_, key), value)| (key.clone(), value.clone()))
            .collect::<Vec<_>>()
    };
    again
        .recover(
            true,
            bench.table.revision(),
            all(Bucket::AuthUsers),
            all(Bucket::AuthRoles),
        )
        .unwrap();
    let info = bench.info("u");
    for key in ["a", "e", "f", "m", "z", "A"] {
        for end in ["", "f", "m", "n", "\0"] {
            let leases = Lessor::default();
            let txn = TxnRequest {
                success: vec![RequestOp {
                    request: Some(Op::RequestDeleteRange(DeleteRangeRequest {
                        key: key.into(),
                        range_end: end.into(),
                        prev_kv: true,
                    })),
                }],
                ..Default::default()
            };
            let verdict = bench.table.check_txn(&info, &leases, &txn);
            assert_eq!(again.check_txn(&info, &leases, &txn), verdict, "[{key}, {end})");
        }
    }
    assert_eq!(
        again.check_read(&info, b"a", b"\0"),
        Ok(()),
        "three ranges of two roles make one"
    );
    let everything = again.role_permissions("root");
    assert_eq!(everything, Err(Error::RoleNotFound), "granted, but never made");
}
