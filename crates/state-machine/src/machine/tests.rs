//! A state machine on a disk of its own, with a log, for the tests in here.

mod crash;
mod leases;
mod members;
mod refusals;

use std::path::{Path, PathBuf};
use std::time::Duration;

use disk::RealDisk;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmType, InternalRaftRequest};
use proto::leasepb;
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
