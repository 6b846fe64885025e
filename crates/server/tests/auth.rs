//! Users, roles and tokens over the wire: every call by everybody, and what stays behind on the disk.

mod booted;

use booted::{Booted, assert_status, boot, with};
use proto::authpb::{Permission, UserAddOptions, permission};
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::*;
use proto::v3electionpb::LeaderRequest;
use proto::v3electionpb::election_client::ElectionClient;
use proto::v3lockpb::lock_client::LockClient;
use proto::v3lockpb::{LockRequest, UnlockRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};

const ROOT_PASSWORD: &str = "CANARY-root-password";
const USER_PASSWORD: &str = "CANARY-user-password";

struct Guarded {
    booted: Booted,
    root: String,
    user: String,
}

impl Guarded {
    fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.booted.channel.clone())
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.booted.channel.clone())
    }
}

async fn authenticate(booted: &Booted, name: &str, password: &str) -> Result<String, Status> {
    let request = AuthenticateRequest {
        name: name.into(),
        password: password.into(),
    };
    let answer = AuthClient::new(booted.channel.clone()).authenticate(request).await?;
    Ok(answer.into_inner().token)
}

/// `root` with the role root, and `user` who may read and write keys that begin with `u`.
async fn set_up(booted: &Booted) {
    let mut auth = AuthClient::new(booted.channel.clone());
    for (name, password, role) in [("root", ROOT_PASSWORD, "root"), ("user", USER_PASSWORD, "own")] {
        let add = AuthUserAddRequest {
            name: name.into(),
            password: password.into(),
            ..AuthUserAddRequest::default()
        };
        auth.user_add(add).await.unwrap();
        auth.role_add(AuthRoleAddRequest { name: role.into() }).await.unwrap();
        let grant = AuthUserGrantRoleRequest {
            user: name.into(),
            role: role.into(),
        };
        auth.user_grant_role(grant).await.unwrap();
    }
    let perm = Permission {
        perm_type: permission::Type::Readwrite.into(),
        key: "u".into(),
        range_end: "v".into(),
    };
    auth.role_grant_permission(AuthRoleGrantPermissionRequest {
        name: "own".into(),
        perm: Some(perm),
    })
    .await
    .unwrap();
}

async fn guarded(dir: &std::path::Path, adjust: impl FnOnce(&mut server::config::Config)) -> Guarded {
    let booted = boot(dir, adjust).await;
    set_up(&booted).await;
    let mut auth = AuthClient::new(booted.channel.clone());
    auth.auth_enable(AuthEnableRequest {}).await.unwrap();
    let root = authenticate(&booted, "root", ROOT_PASSWORD).await.unwrap();
    let user = authenticate(&booted, "user", USER_PASSWORD).await.unwrap();
    Guarded { booted, root, user }
}

fn put(key: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        ..PutRequest::default()
    }
}

fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..RangeRequest::default()
    }
}

/// Every call there is, by nobody, by a user without rights to anything but `u…`, and with a bad token. One line each: what nobody and the
/// user are told. Keys and names are chosen so that `user` has no right to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_refused_to_whoever_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let member = guarded(dir.path(), |_| {}).await;
    let channel = || member.booted.channel.clone();
    let empty = (Code::InvalidArgument, "etcdserver: user name is empty");
    let denied = (Code::PermissionDenied, "etcdserver: permission denied");
    let rejected = (Code::Unauthenticated, "etcdserver: invalid auth token");
    let mut calls = 0;
    macro_rules! refused {
        ($client:ident . $call:ident ( $message:expr ), $nobody:expr, $user:expr) => {{
            let nobody: (Code, &str) = $nobody;
            let error = $client::new(channel()).$call($message).await.unwrap_err();
            assert_eq!(
                (error.code(), error.message()),
                nobody,
                "{} by nobody",
                stringify!($call)
            );
            let user: (Code, &str) = $user;
            let error = $client::new(channel())
                .$call(with(&member.user, $message))
                .await
                .unwrap_err();
            assert_eq!((error.code(), error.message()), user, "{} by user", stringify!($call));
            let bad = $client::new(channel())
                .$call(with("abcdefghijklmnop.1", $message))
                .await
                .unwrap_err();
            if nobody.0 != Code::Unknown {
                assert_eq!(
                    (bad.code(), bad.message()),
                    rejected,
                    "{} with a bad token",
                    stringify!($call)
                );
            }
            calls += 1;
        }};
    }
    refused!(KvClient.range(range("k", "")), empty, denied);
    refused!(
        KvClient.range(RangeRequest {
            serializable: true,
            ..range("k", "")
        }),
        empty,
        denied
    );
    refused!(KvClient.range(range("u", "\0")), empty, denied);
    refused!(KvClient.put(put("k")), empty, denied);
    refused!(
        KvClient.delete_range(DeleteRangeRequest {
            key: "k".into(),
            ..Default::default()
        }),
        empty,
        denied
    );
    let op = |request| RequestOp { request: Some(request) };
    let hidden = TxnRequest {
        success: vec![op(Op::RequestTxn(TxnRequest {
            failure: vec![op(Op::RequestPut(put("k")))],
            ..TxnRequest::default()
        }))],
        ..TxnRequest::default()
    };
    refused!(KvClient.txn(hidden.clone()), empty, denied);
    let reads = TxnRequest {
        failure: vec![op(Op::RequestRange(range("k", "")))],
        ..TxnRequest::default()
    };
    refused!(KvClient.txn(reads.clone()), empty, denied);
    refused!(
        KvClient.compact(CompactionRequest {
            revision: 1,
            physical: false
        }),
        empty,
        denied
    );
    refused!(ClusterClient.member_add(MemberAddRequest::default()), empty, denied);
    refused!(
        ClusterClient.member_remove(MemberRemoveRequest { id: 1 }),
        empty,
        denied
    );
    refused!(
        ClusterClient.member_update(MemberUpdateRequest::default()),
        empty,
        denied
    );
    refused!(
        ClusterClient.member_promote(MemberPromoteRequest { id: 1 }),
        empty,
        denied
    );
    let alarm = AlarmRequest {
        action: alarm_request::AlarmAction::Activate.into(),
        alarm: AlarmType::Nospace.into(),
        member_id: 0,
    };
    refused!(MaintenanceClient.alarm(alarm), empty, denied);
    refused!(MaintenanceClient.defragment(DefragmentRequest {}), empty, denied);
    refused!(MaintenanceClient.hash(HashRequest {}), empty, denied);
    refused!(MaintenanceClient.hash_kv(HashKvRequest { revision: 0 }), empty, denied);
    refused!(MaintenanceClient.snapshot(SnapshotRequest {}), empty, denied);
    refused!(
        MaintenanceClient.move_leader(MoveLeaderRequest { target_id: 1 }),
        empty,
        denied
    );
    refused!(MaintenanceClient.downgrade(DowngradeRequest::default()), empty, denied);
    refused!(AuthClient.auth_enable(AuthEnableRequest {}), empty, denied);
    refused!(AuthClient.auth_disable(AuthDisableRequest {}), empty, denied);
    refused!(AuthClient.user_add(AuthUserAddRequest::default()), empty, denied);
    refused!(
        AuthClient.user_get(AuthUserGetRequest { name: "root".into() }),
        empty,
        denied
    );
    refused!(AuthClient.user_list(AuthUserListRequest {}), empty, denied);
    refused!(
        AuthClient.user_delete(AuthUserDeleteRequest { name: "user".into() }),
        empty,
        denied
    );
    refused!(
        AuthClient.user_change_password(AuthUserChangePasswordRequest::default()),
        empty,
        denied
    );
    refused!(
        AuthClient.user_grant_role(AuthUserGrantRoleRequest::default()),
        empty,
        denied
    );
    refused!(
        AuthClient.user_revoke_role(AuthUserRevokeRoleRequest::default()),
        empty,
        denied
    );
    refused!(AuthClient.role_add(AuthRoleAddRequest::default()), empty, denied);
    refused!(
        AuthClient.role_get(AuthRoleGetRequest { role: "root".into() }),
        empty,
        denied
    );
    refused!(AuthClient.role_list(AuthRoleListRequest {}), empty, denied);
    refused!(AuthClient.role_delete(AuthRoleDeleteRequest::default()), empty, denied);
    refused!(
        AuthClient.role_grant_permission(AuthRoleGrantPermissionRequest::default()),
        empty,
        denied
    );
    refused!(
        AuthClient.role_revoke_permission(AuthRoleRevokePermissionRequest::default()),
        empty,
        denied
    );
    // Locks and elections hand on what their steps are told, as etcd's do: without the code.
    let handed_on = |text| (Code::Unknown, text);
    let lock = LockRequest {
        name: "k".into(),
        lease: 0,
    };
    refused!(LockClient.lock(lock.clone()), handed_on(empty.1), handed_on(denied.1));
    refused!(
        LockClient.unlock(UnlockRequest { key: "k".into() }),
        handed_on(empty.1),
        handed_on(denied.1)
    );
    refused!(
        ElectionClient.leader(LeaderRequest { name: "k".into() }),
        handed_on(empty.1),
        handed_on(denied.1)
    );
    println!("{calls} calls");
    // These take some user, and no right.
    let mut lease = LeaseClient::new(channel());
    let error = lease
        .lease_grant(LeaseGrantRequest { ttl: 60, id: 0 })
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.message()), empty);
    let error = lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await.unwrap_err();
    assert_eq!((error.code(), error.message()), empty);
    let error = lease
        .lease_time_to_live(LeaseTimeToLiveRequest { id: 7, keys: false })
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.message()), empty);
    let error = lease.lease_leases(LeaseLeasesRequest {}).await.unwrap_err();
    assert_eq!((error.code(), error.message()), empty);
    let error = ClusterClient::new(channel())
        .member_list(MemberListRequest { linearizable: false })
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.message()), empty);
    let error = MaintenanceClient::new(channel())
        .status(StatusRequest {})
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.message()), empty);
    let error = MaintenanceClient::new(channel())
        .alarm(AlarmRequest::default())
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.message()), empty);
    let mut maintenance = MaintenanceClient::new(channel());
    maintenance.status(with(&member.user, StatusRequest {})).await.unwrap();
    maintenance
        .alarm(with(&member.user, AlarmRequest::default()))
        .await
        .unwrap();
    // What is one's own may be looked at.
    let mut auth = member.auth();
    let get = AuthUserGetRequest { name: "user".into() };
    assert_eq!(
        auth.user_get(with(&member.user, get)).await.unwrap().into_inner().roles,
        ["own"]
    );
    auth.role_get(with(&member.user, AuthRoleGetRequest { role: "own".into() }))
        .await
        .unwrap();
    let status = auth.auth_status(AuthStatusRequest {}).await.unwrap().into_inner();
    assert!(status.enabled);
    assert_eq!(
        status.auth_revision, 8,
        "two users, two roles, two grants, one permission, and 1 to begin with"
    );
    member.booted.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_reach_their_keys_and_root_all() {
    let dir = tempfile::tempdir().unwrap();
    let member = guarded(dir.path(), |_| {}).await;
    let mut kv = member.kv();
    kv.put(with(&member.user, put("u1"))).await.unwrap();
    kv.put(with(&member.root, put("k"))).await.unwrap();
    let mine = kv
        .range(with(&member.user, range("u", "v")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(mine.count, 1);
    let all = kv
        .range(with(&member.root, range("\0", "\0")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(all.count, 2);
    // The tokens of the gateway's header, and of Bearer.
    let mut request = tonic::Request::new(range("u1", ""));
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {}", member.user).parse().unwrap());
    kv.range(request).await.unwrap();
    // A lease with a key that is not theirs is neither renewed nor shown, nor attached to.
    let mut lease = LeaseClient::new(member.booted.channel.clone());
    let granted = lease
        .lease_grant(with(&member.root, LeaseGrantRequest { ttl: 60, id: 0 }))
        .await
        .unwrap();
    let id = granted.into_inner().id;
    kv.put(with(&member.root, PutRequest { lease: id, ..put("k2") }))
        .await
        .unwrap();
    let error = lease
        .lease_time_to_live(with(&member.user, LeaseTimeToLiveRequest { id, keys: true }))
        .await
        .unwrap_err();
    assert_status(&error, Code::PermissionDenied, "etcdserver: permission denied");
    lease
        .lease_time_to_live(with(&member.user, LeaseTimeToLiveRequest { id, keys: false }))
        .await
        .unwrap();
    let error = lease
        .lease_leases(with(&member.user, LeaseLeasesRequest {}))
        .await
        .unwrap_err();
    assert_status(&error, Code::PermissionDenied, "etcdserver: permission denied");
    let error = kv
        .put(with(&member.user, PutRequest { lease: id, ..put("u2") }))
        .await
        .unwrap_err();
    assert_status(&error, Code::PermissionDenied, "etcdserver: permission denied");
    let error = lease
        .lease_revoke(with(&member.user, LeaseRevokeRequest { id }))
        .await
        .unwrap_err();
    assert_status(&error, Code::PermissionDenied, "etcdserver: permission denied");
    let keep = tokio_stream::once(LeaseKeepAliveRequest { id });
    let mut answers = lease
        .lease_keep_alive(with(&member.user, keep))
        .await
        .unwrap()
        .into_inner();
    assert_status(
        &answers.message().await.unwrap_err(),
        Code::PermissionDenied,
        "etcdserver: permission denied",
    );
    let keep = tokio_stream::once(LeaseKeepAliveRequest { id });
    let mut answers = lease
        .lease_keep_alive(with(&member.root, keep))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, 60);
    member.booted.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_take_the_right_to_all_of_their_range() {
    let dir = tempfile::tempdir().unwrap();
    let member = guarded(dir.path(), |_| {}).await;
    let create = |key: &str, end: &str| WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            ..WatchCreateRequest::default()
        })),
    };
    let mut watch = WatchClient::new(member.booted.channel.clone());
    let wanted = [create("k", ""), create("u", "\0"), create("", "\0"), create("u", "v")];
    let mut stream = watch
        .watch(with(&member.user, tokio_stream::iter(wanted.clone())))
        .await
        .unwrap()
        .into_inner();
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    for _ in 0..3 {
        let answer = stream.message().await.unwrap().unwrap();
        assert_eq!(
            (
                answer.created,
                answer.canceled,
                answer.watch_id,
                answer.cancel_reason.as_str()
            ),
            (true, true, -1, denied)
        );
    }
    let answer = stream.message().await.unwrap().unwrap();
    assert!(answer.created && !answer.canceled);
    for (token, reason) in [
        (
            "",
            "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
        ),
        (
            "x.1",
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
        ),
    ] {
        let one = tokio_stream::iter([create("u", "")]);
        let request = if token.is_empty() {
            tonic::Request::new(one)
        } else {
            with(token, one)
        };
        let answer = watch
            .watch(request)
            .await
            .unwrap()
            .into_inner()
            .message()
            .await
            .unwrap()
            .unwrap();
        assert_eq!((answer.canceled, answer.cancel_reason.as_str()), (true, reason));
    }
    // Who is let in stays in, as with etcd, and the key's changes are still told.
    let revoke = AuthUserRevokeRoleRequest {
        name: "user".into(),
        role: "own".into(),
    };
    member
        .auth()
        .user_revoke_role(with(&member.root, revoke))
        .await
        .unwrap();
    member.kv().put(with(&member.root, put("u1"))).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().events.len(), 1);
    member.booted.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_passwords_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let member = guarded(dir.path(), |config| config.auth_token_ttl = 5).await;
    let failed = "etcdserver: authentication failed, invalid user ID or password";
    for (name, password) in [("user", "wrong"), ("nobody", USER_PASSWORD), ("user", "")] {
        let error = authenticate(&member.booted, name, password).await.unwrap_err();
        assert_status(&error, Code::InvalidArgument, failed);
    }
    let without = AuthUserAddRequest {
        name: "cert".into(),
        options: Some(UserAddOptions { no_password: true }),
        ..AuthUserAddRequest::default()
    };
    // Tokens are short-lived here, and the machine may be slow.
    let root = async || authenticate(&member.booted, "root", ROOT_PASSWORD).await.unwrap();
    member.auth().user_add(with(&root().await, without)).await.unwrap();
    let error = authenticate(&member.booted, "cert", "x").await.unwrap_err();
    assert_status(
        &error,
        Code::Unknown,
        "auth: authentication failed, password was given for no password user",
    );
    let long = AuthUserAddRequest {
        name: "long".into(),
        password: "x".repeat(73),
        ..AuthUserAddRequest::default()
    };
    let error = member.auth().user_add(with(&root().await, long)).await.unwrap_err();
    assert_status(&error, Code::Unknown, "bcrypt: password length exceeds 72 bytes");
    // A simple token has letters, and the index of the entry before its own.
    let token = authenticate(&member.booted, "user", USER_PASSWORD).await.unwrap();
    let (letters, index) = token.split_once('.').unwrap();
    assert!(letters.len() == 16 && index.parse::<u64>().unwrap() > 0, "{token}");
    let change = AuthUserChangePasswordRequest {
        name: "user".into(),
        password: "CANARY-changed".into(),
        ..AuthUserChangePasswordRequest::default()
    };
    member
        .auth()
        .user_change_password(with(&root().await, change))
        .await
        .unwrap();
    let error = member.kv().put(with(&token, put("u"))).await.unwrap_err();
    assert_status(&error, Code::Unauthenticated, "etcdserver: invalid auth token");
    let token = authenticate(&member.booted, "user", "CANARY-changed").await.unwrap();
    // Use keeps a token alive, and idleness ends it.
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        member.kv().put(with(&token, put("u"))).await.unwrap();
    }
    tokio::time::sleep(std::time::Duration::from_millis(5500)).await;
    let error = member.kv().put(with(&token, put("u"))).await.unwrap_err();
    assert_status(&error, Code::Unauthenticated, "etcdserver: invalid auth token");
    // No password is anywhere in the data, and it is enforced after a restart.
    let Guarded { booted, .. } = member;
    booted.stop().await;
    let mut read = 0;
    let mut directories = vec![dir.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let content = std::fs::read(&path).unwrap();
            assert!(
                !content.windows(6).any(|window| window == b"CANARY"),
                "{}",
                path.display()
            );
            read += content.len();
        }
    }
    assert!(read > 20_000, "{read} bytes searched");
    let booted = boot(dir.path(), |_| {}).await;
    let error = KvClient::new(booted.channel.clone()).put(put("u")).await.unwrap_err();
    assert_status(&error, Code::InvalidArgument, "etcdserver: user name is empty");
    let root = authenticate(&booted, "root", ROOT_PASSWORD).await.unwrap();
    let mut auth = AuthClient::new(booted.channel.clone());
    auth.auth_disable(with(&root, AuthDisableRequest {})).await.unwrap();
    KvClient::new(booted.channel.clone()).put(put("u")).await.unwrap();
    let error = authenticate(&booted, "root", ROOT_PASSWORD).await.unwrap_err();
    assert_status(
        &error,
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
    booted.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_tokens_are_bound_to_the_revision_of_the_rights() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "s3cret").unwrap();
    let flag = format!("jwt,sign-method=HS256,priv-key={}", secret.display());
    let data = dir.path().join("data");
    let member = guarded(&data, |config| config.auth_token = flag.clone()).await;
    assert_eq!(member.user.split('.').count(), 3, "{}", member.user);
    member.kv().put(with(&member.user, put("u1"))).await.unwrap();
    member
        .auth()
        .role_add(with(&member.root, AuthRoleAddRequest { name: "new".into() }))
        .await
        .unwrap();
    let error = member.kv().put(with(&member.user, put("u1"))).await.unwrap_err();
    assert_status(
        &error,
        Code::InvalidArgument,
        "etcdserver: revision of auth store is old",
    );
    let user = authenticate(&member.booted, "user", USER_PASSWORD).await.unwrap();
    member.booted.stop().await;
    // They outlive a restart: nobody keeps them.
    let booted = boot(&data, |config| config.auth_token = flag).await;
    KvClient::new(booted.channel.clone())
        .put(with(&user, put("u1")))
        .await
        .unwrap();
    booted.stop().await;
}
