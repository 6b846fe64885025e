//! Logs that are applied, cut and replayed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use disk::RealDisk;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmType, InternalRaftRequest};
use proto::membershippb;
use proto::raftpb::{ConfChange, ConfChangeType, EntryType};
use tempfile::TempDir;

use super::*;
use crate::apply::{Action, Response};
use crate::membership::{Change, ChangeContext, Member};

type Machine = StateMachine<RealDisk>;

const ME: u64 = 0xa1;

/// A machine on a directory of its own, with a log.
struct Bench {
    dir: TempDir,
    config: Config,
    machine: Machine,
    log: Vec<Entry>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Config {
            member_id: ME,
            cluster_id: 0xc1,
            ..Config::default()
        })
    }

    fn with(config: Config) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let machine = open(dir.path(), &config).unwrap();
        Bench {
            dir,
            config,
            machine,
            log: Vec::new(),
        }
    }

    fn db(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    fn entry(&mut self, kind: EntryType, data: Vec<u8>) -> Entry {
        let entry = Entry {
            r#type: kind as i32,
            term: 2,
            index: self.machine.applied().index + 1,
            data: data.into(),
        };
        self.log.push(entry.clone());
        entry
    }

    fn apply(&mut self, mut request: InternalRaftRequest) -> Applied {
        request.id = self.log.len() as u64 + 100;
        let entry = self.entry(EntryType::EntryNormal, request.encode_to_vec());
        self.machine.apply(&entry, Duration::ZERO).unwrap()
    }

    fn ok(&mut self, request: InternalRaftRequest) -> Response {
        self.apply(request).result.unwrap().unwrap()
    }

    fn refused(&mut self, request: InternalRaftRequest) -> Error {
        self.apply(request).result.unwrap().unwrap_err()
    }

    fn change(&mut self, kind: ConfChangeType, node_id: u64, context: String) -> crate::ConfChangeApplied {
        let change = ConfChange {
            id: 9,
            r#type: kind as i32,
            node_id,
            context: context.into(),
        };
        let entry = self.entry(EntryType::EntryConfChange, change.encode_to_vec());
        let applied = self.machine.apply_conf_change(&entry).unwrap();
        if let Some(Ok(_)) = applied.result {
            let voters = self.machine.membership().members().map(|member| member.id).collect();
            self.machine.set_conf_state(ConfState {
                voters,
                ..ConfState::default()
            });
        }
        applied
    }

    /// Closes without a commit, as a crash does.
    fn crash(self) -> Bench {
        let Bench {
            dir,
            config,
            machine,
            log,
        } = self;
        drop(machine);
        let machine = open(dir.path(), &config).unwrap();
        Bench {
            dir,
            config,
            machine,
            log,
        }
    }

    /// Applies what the log has beyond the machine, and all before it once more.
    fn replay(&mut self) {
        for entry in self.log.clone() {
            replay_one(&mut self.machine, &entry);
        }
    }

    fn contents(&mut self) -> Vec<(Bucket, Bytes, Bytes)> {
        contents(&mut self.machine)
    }
}

fn open(dir: &Path, config: &Config) -> Result<Machine, OpenError> {
    StateMachine::open(RealDisk, &dir.join("db"), config.clone())
}

fn replay_one(machine: &mut Machine, entry: &Entry) {
    if entry.r#type == EntryType::EntryConfChange as i32 {
        let applied = machine.apply_conf_change(entry).unwrap();
        if let Some(Ok(_)) = applied.result {
            let voters = machine.membership().members().map(|member| member.id).collect();
            machine.set_conf_state(ConfState {
                voters,
                ..ConfState::default()
            });
        }
    } else {
        machine.apply(entry, Duration::ZERO).unwrap();
    }
}

/// All that the database holds, after a commit.
fn contents(machine: &mut Machine) -> Vec<(Bucket, Bytes, Bytes)> {
    machine.commit().unwrap();
    let mut all = Vec::new();
    for bucket in Bucket::ALWAYS {
        for (key, value) in machine.backend.scan(bucket, &[], None, 0).unwrap() {
            all.push((bucket, key, value));
        }
    }
    all
}

fn put(key: &str, value: &str, lease: i64) -> InternalRaftRequest {
    let put = pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease,
        ..Default::default()
    };
    InternalRaftRequest {
        put: Some(put),
        ..Default::default()
    }
}

fn delete(key: &str) -> InternalRaftRequest {
    let delete = pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    InternalRaftRequest {
        delete_range: Some(delete),
        ..Default::default()
    }
}

fn txn_put(key: &str) -> InternalRaftRequest {
    let op = pb::request_op::Request::RequestPut(put(key, "t", 0).put.unwrap());
    let txn = pb::TxnRequest {
        success: vec![pb::RequestOp { request: Some(op) }],
        ..Default::default()
    };
    InternalRaftRequest {
        txn: Some(txn),
        ..Default::default()
    }
}

fn compact(revision: i64) -> InternalRaftRequest {
    let compaction = pb::CompactionRequest {
        revision,
        ..Default::default()
    };
    InternalRaftRequest {
        compaction: Some(compaction),
        ..Default::default()
    }
}

fn grant(id: i64, ttl: i64) -> InternalRaftRequest {
    InternalRaftRequest {
        lease_grant: Some(pb::LeaseGrantRequest { id, ttl }),
        ..Default::default()
    }
}

fn revoke(id: i64) -> InternalRaftRequest {
    InternalRaftRequest {
        lease_revoke: Some(pb::LeaseRevokeRequest { id }),
        ..Default::default()
    }
}

fn checkpoint(id: i64, remaining_ttl: i64) -> InternalRaftRequest {
    let checkpoints = vec![pb::LeaseCheckpoint { id, remaining_ttl }];
    InternalRaftRequest {
        lease_checkpoint: Some(pb::LeaseCheckpointRequest { checkpoints }),
        ..Default::default()
    }
}

fn alarm(action: AlarmAction, kind: AlarmType) -> InternalRaftRequest {
    let alarm = pb::AlarmRequest {
        action: action as i32,
        member_id: ME,
        alarm: kind as i32,
    };
    InternalRaftRequest {
        alarm: Some(alarm),
        ..Default::default()
    }
}

fn version(ver: &str) -> InternalRaftRequest {
    let set = membershippb::ClusterVersionSetRequest { ver: ver.into() };
    InternalRaftRequest {
        cluster_version_set: Some(set),
        ..Default::default()
    }
}

fn attributes(member_id: u64, name: &str) -> InternalRaftRequest {
    let member_attributes = Some(membershippb::Attributes {
        name: name.into(),
        client_urls: vec![format!("http://{name}:2379")],
    });
    let set = membershippb::ClusterMemberAttrSetRequest {
        member_id,
        member_attributes,
    };
    InternalRaftRequest {
        cluster_member_attr_set: Some(set),
        ..Default::default()
    }
}

fn downgrade(enabled: bool) -> InternalRaftRequest {
    let set = membershippb::DowngradeInfoSetRequest {
        enabled,
        ver: "3.6.0".into(),
    };
    InternalRaftRequest {
        downgrade_info_set: Some(set),
        ..Default::default()
    }
}

fn add(bench: &mut Bench, id: u64, is_learner: bool) -> crate::ConfChangeApplied {
    let member = Member {
        id,
        peer_urls: vec![format!("http://m{id}:2380")],
        is_learner,
        ..Member::default()
    };
    let context = ChangeContext {
        member,
        is_promote: false,
    }
    .to_json();
    let kind = match is_learner {
        true => ConfChangeType::ConfChangeAddLearnerNode,
        false => ConfChangeType::ConfChangeAddNode,
    };
    bench.change(kind, id, context)
}

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
        auth_user_grant_role: Some(role),
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
