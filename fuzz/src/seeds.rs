//! Writes the first corpus of every target, from what our own code and etcd's formats make of ordinary data.

use bytes::{Bytes, BytesMut};
use prost::Message;
use proto::etcdserverpb as pb;
use proto::raftpb::{ConfChange, Entry, EntryType, HardState, MessageType, Snapshot};
use server::peer::codec::{Encoder, StreamKind};
use std::path::{Path, PathBuf};

struct Corpus {
    dir: PathBuf,
    count: usize,
}

impl Corpus {
    fn new(root: &Path, target: &str) -> Corpus {
        let dir = root.join(target);
        std::fs::create_dir_all(&dir).expect("a directory for the corpus");
        Corpus { dir, count: 0 }
    }

    fn add(&mut self, first: u8, rest: &[u8]) {
        let mut bytes = vec![first];
        bytes.extend_from_slice(rest);
        std::fs::write(self.dir.join(format!("seed-{}", self.count)), bytes).expect("a file of the corpus");
        self.count += 1;
    }
}

fn put(n: u8) -> pb::InternalRaftRequest {
    pb::InternalRaftRequest {
        id: u64::from(n) + 1,
        put: Some(pb::PutRequest {
            key: vec![b'k', n].into(),
            value: vec![n; 30].into(),
            lease: i64::from(n % 2) * 7,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn requests() -> Vec<pb::InternalRaftRequest> {
    let mut all: Vec<pb::InternalRaftRequest> = (0..3).map(put).collect();
    let request = |fill: &dyn Fn(&mut pb::InternalRaftRequest)| {
        let mut request = pb::InternalRaftRequest {
            id: 77,
            ..Default::default()
        };
        fill(&mut request);
        request
    };
    all.push(request(&|r| {
        r.lease_grant = Some(pb::LeaseGrantRequest { ttl: 30, id: 7 });
    }));
    all.push(request(&|r| r.lease_revoke = Some(pb::LeaseRevokeRequest { id: 7 })));
    all.push(request(&|r| {
        r.compaction = Some(pb::CompactionRequest {
            revision: 3,
            physical: true,
        });
    }));
    all.push(request(&|r| {
        r.delete_range = Some(pb::DeleteRangeRequest {
            key: Bytes::from_static(b"k"),
            range_end: Bytes::from_static(b"l"),
            prev_kv: true,
        });
    }));
    all.push(request(&|r| r.txn = Some(txn())));
    all.push(request(&|r| {
        r.auth_user_add = Some(pb::AuthUserAddRequest {
            name: "root".into(),
            hashed_password: "x".into(),
            ..Default::default()
        });
    }));
    all.push(request(&|r| r.auth_role_add = Some(pb::AuthRoleAddRequest { name: "root".into() })));
    all.push(request(&|r| {
        r.auth_role_grant_permission = Some(pb::AuthRoleGrantPermissionRequest {
            name: "root".into(),
            perm: Some(proto::authpb::Permission {
                perm_type: 2,
                key: Bytes::from_static(b"a"),
                range_end: Bytes::from_static(b"\0"),
            }),
        });
    }));
    all.push(request(&|r| {
        r.auth_user_grant_role = Some(pb::AuthUserGrantRoleRequest {
            user: "root".into(),
            role: "root".into(),
        });
    }));
    all.push(request(&|r| r.auth_enable = Some(pb::AuthEnableRequest {})));
    all.push(request(&|r| {
        r.alarm = Some(pb::AlarmRequest {
            action: 1,
            member_id: 1,
            alarm: 1,
        });
    }));
    all.push(request(&|r| {
        r.cluster_version_set = Some(proto::membershippb::ClusterVersionSetRequest { ver: "3.7.0".into() });
    }));
    all.push(request(&|r| {
        r.lease_checkpoint = Some(pb::LeaseCheckpointRequest {
            checkpoints: vec![pb::LeaseCheckpoint { id: 7, remaining_ttl: 12 }],
        });
    }));
    all
}

fn txn() -> pb::TxnRequest {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    use pb::request_op::Request;
    let put = |key: &'static [u8]| pb::RequestOp {
        request: Some(Request::RequestPut(pb::PutRequest {
            key: Bytes::from_static(key),
            value: Bytes::from_static(b"v"),
            ..Default::default()
        })),
    };
    let range = pb::RequestOp {
        request: Some(Request::RequestRange(pb::RangeRequest {
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(b"z"),
            limit: 3,
            sort_order: 1,
            sort_target: 2,
            ..Default::default()
        })),
    };
    let inner = pb::TxnRequest {
        compare: Vec::new(),
        success: vec![put(b"inner"), range],
        failure: vec![put(b"other")],
    };
    pb::TxnRequest {
        compare: vec![pb::Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Mod.into(),
            key: Bytes::from_static(b"k"),
            range_end: Bytes::from_static(b"l"),
            target_union: Some(TargetUnion::ModRevision(0)),
        }],
        success: vec![
            put(b"k1"),
            pb::RequestOp {
                request: Some(Request::RequestTxn(inner)),
            },
        ],
        failure: vec![put(b"k2")],
    }
}

fn log(corpus: &mut Corpus) {
    let disk = disk::MemoryDisk::new(1);
    let dir = Path::new("/wal");
    // Member 1 of cluster 2.
    let metadata = [8, 1, 16, 2];
    let mut log = wal::Wal::create_sized(&disk, dir, &metadata, 4096).expect("a log");
    for index in 1..=6u64 {
        let entry = Entry {
            index,
            term: 1,
            data: put(index as u8).encode_to_vec().into(),
            ..Default::default()
        };
        let state = HardState {
            term: 1,
            vote: 1,
            commit: index - 1,
        };
        log.save(&state, &[entry]).expect("saved");
    }
    drop(log);
    use disk::{Disk, File, Open};
    for name in disk.list(dir).expect("a list") {
        let file = disk.open(&dir.join(name), Open::Read).expect("a segment");
        let mut bytes = vec![0; file.len().expect("its length") as usize];
        file.read_exact_at(&mut bytes, 0).expect("its bytes");
        corpus.add(0, &bytes[..bytes.len().min(1500)]);
        corpus.add(2, &bytes[..bytes.len().min(1024)]);
    }
    // Records as `fuzz::framed` takes them: metadata, snapshot, entries, state.
    let mut records = Vec::new();
    let mut record = |kind: u8, body: &[u8]| {
        records.push(kind);
        records.extend_from_slice(&(body.len() as u16).to_le_bytes());
        records.extend_from_slice(body);
    };
    record(1, &metadata);
    record(5, &proto::walpb::Snapshot::default().encode_to_vec());
    for index in 1..=3u64 {
        let entry = Entry {
            index,
            term: 1,
            data: put(index as u8).encode_to_vec().into(),
            ..Default::default()
        };
        record(2, &entry.encode_to_vec());
    }
    let state = HardState {
        term: 1,
        vote: 1,
        commit: 2,
    };
    record(3, &state.encode_to_vec());
    for how in [1, 3, 5] {
        corpus.add(how, &records);
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        data: Bytes::from_static(br#"{"voters":[1,2],"auto_leave":false}"#),
        metadata: Some(proto::raftpb::SnapshotMetadata {
            index: 5,
            term: 1,
            conf_state: Some(proto::raftpb::ConfState {
                voters: vec![1, 2],
                ..Default::default()
            }),
        }),
    }
}

fn records(all: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (bucket, key, value) in all {
        out.extend_from_slice(&[*bucket, key.len() as u8]);
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    out
}

fn state(corpus: &mut Corpus) {
    let revision = |main: i64, tombstone: bool| {
        let mut key = main.to_be_bytes().to_vec();
        key.push(b'_');
        key.extend_from_slice(&0i64.to_be_bytes());
        key.extend(tombstone.then_some(b't'));
        key
    };
    let kv = |key: &'static [u8], at: i64, lease: i64| {
        proto::mvccpb::KeyValue {
            key: Bytes::from_static(key),
            create_revision: 2,
            mod_revision: at,
            version: at - 1,
            value: Bytes::from_static(b"v"),
            lease,
        }
        .encode_to_vec()
    };
    let lease = proto::leasepb::Lease {
        id: 7,
        ttl: 30,
        remaining_ttl: 5,
    };
    let member = br#"{"id":1,"peerURLs":["http://a:1"],"name":"m","clientURLs":["http://a:2"]}"#;
    let user = proto::authpb::User {
        name: Bytes::from_static(b"root"),
        password: Bytes::from_static(b"$2a$04$"),
        roles: vec!["root".into()],
        ..Default::default()
    };
    let role = proto::authpb::Role {
        name: Bytes::from_static(b"root"),
        key_permission: vec![proto::authpb::Permission {
            perm_type: 2,
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(b"b"),
        }],
    };
    let alarm = pb::AlarmMember { member_id: 1, alarm: 1 };
    let conf = br#"{"voters":[1],"auto_leave":false}"#;
    corpus.add(
        0,
        &records(&[
            (0, &revision(2, false), &kv(b"k", 2, 7)),
            (0, &revision(3, false), &kv(b"k", 3, 0)),
            (0, &revision(4, true), &kv(b"k", 4, 0)),
            (1, b"consistent_index", &9u64.to_be_bytes()),
            (1, b"term", &1u64.to_be_bytes()),
            (1, b"confState", conf),
            (1, b"scheduledCompactRev", &revision(3, false)),
            (1, b"finishedCompactRev", &revision(2, false)),
            (1, b"storageVersion", b"3.7.0"),
            (2, &7i64.to_be_bytes(), &lease.encode_to_vec()),
            (3, &alarm.encode_to_vec(), b""),
            (4, b"clusterVersion", b"3.7.0"),
            (4, b"downgrade", br#"{"target-version":"3.6.0","enabled":true}"#),
            (5, b"0000000000000001", member),
            (6, b"0000000000000002", b"removed"),
            (7, b"authEnabled", &[1]),
            (7, b"authRevision", &5u64.to_be_bytes()),
            (8, b"root", &user.encode_to_vec()),
            (9, b"root", &role.encode_to_vec()),
        ])[1..],
    );
}

fn main() {
    let root = PathBuf::from(std::env::args().nth(1).expect("the directory of the corpora"));
    log(&mut Corpus::new(&root, "wal"));

    let mut corpus = Corpus::new(&root, "snap");
    corpus.add(1, &snapshot().encode_to_vec());
    let envelope = proto::snappb::Snapshot {
        crc: crc32c::crc32c(&snapshot().encode_to_vec()),
        data: snapshot().encode_to_vec().into(),
    };
    corpus.add(0, &envelope.encode_to_vec());

    let mut corpus = Corpus::new(&root, "database");
    corpus.add(0, &fuzz::base());
    corpus.add(1, &[0, 2, 16, 4, 9, 9, 9, 9, 0, 4, 0, 2, 255, 255]);
    corpus.add(3, &[0, 2, 16, 4, 9, 9, 9, 9, 0, 4, 0, 2, 255, 255]);

    state(&mut Corpus::new(&root, "state"));

    let mut corpus = Corpus::new(&root, "entries");
    let mut all = Vec::new();
    for request in requests() {
        let data = request.encode_to_vec();
        all.push(1);
        all.extend_from_slice(&(data.len() as u16).to_le_bytes());
        all.extend_from_slice(&data);
    }
    corpus.add(7, &all[1..]);
    let member = br#"{"id":5,"peerURLs":["http://a:1"],"name":"","isLearner":true,"isPromote":false}"#;
    let change = ConfChange {
        id: 9,
        r#type: 3,
        node_id: 5,
        context: Bytes::from_static(member),
    };
    let data = change.encode_to_vec();
    let mut bytes = (data.len() as u16).to_le_bytes().to_vec();
    bytes.extend_from_slice(&data);
    corpus.add(0, &bytes);

    let mut corpus = Corpus::new(&root, "peer");
    for (how, kind) in [(0u8, StreamKind::Message), (1, StreamKind::MsgApp)] {
        let (mut encoder, mut wire) = (Encoder::new(kind), BytesMut::new());
        for index in [4u64, 6, 8] {
            let entries = (1..=2u64).map(|n| Entry {
                index: index + n,
                term: 3,
                data: put(n as u8).encode_to_vec().into(),
                r#type: EntryType::EntryNormal.into(),
            });
            let message = proto::raftpb::Message {
                r#type: MessageType::MsgApp.into(),
                from: 2,
                to: 1,
                term: 3,
                log_term: 3,
                index,
                commit: index,
                entries: entries.collect(),
                ..Default::default()
            };
            encoder.encode(&message, &mut wire);
            encoder.heartbeat(&mut wire);
        }
        corpus.add(how, &wire);
        corpus.add(how + 64, &wire);
    }

    let mut corpus = Corpus::new(&root, "messages");
    for request in requests() {
        corpus.add(3, &request.encode_to_vec());
    }
    corpus.add(1, &snapshot().encode_to_vec());
    corpus.add(14, &txn().encode_to_vec());

    let mut corpus = Corpus::new(&root, "json");
    for (which, text) in [
        (0u8, r#"{"key":"Zm9v","range_end":"Zm9w","limit":"3","sort_order":"DESCEND","sort_target":2}"#),
        (1, r#"{"key":"Zm9v","value":"YmFy","lease":"7","prev_kv":true}"#),
        (3, r#"{"compare":[{"result":"EQUAL","target":"CREATE","key":"Zm9v","createRevision":"2"}],"success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}}]}"#),
        (6, r#"{"create_request":{"key":"Zm9v","start_revision":1e3,"filters":["NOPUT",1]}} {"cancel_request":{"watch_id":1}}"#),
    ] {
        for shift in [0u8, 40, 80] {
            corpus.add(which + shift, text.as_bytes());
        }
    }

    let mut corpus = Corpus::new(&root, "token");
    corpus.add(0, b"eyJhbGciOiJIUzI1NiJ9.eyJ1c2VybmFtZSI6InJvb3QifQ.AAAA");
    corpus.add(1, br#"{"username":"root","revision":3,"exp":9999999999,"nbf":1.5}"#);
    corpus.add(1, b"{\"alg\":\"HS256\"}\0{\"username\":\"root\",\"revision\":1e300,\"exp\":-1}");
    let pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEVs/o5+uQbTjL3chynL4wXgUg2R9q\n9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxqQ==\n-----END PUBLIC KEY-----\n";
    corpus.add(2, pem.as_bytes());

    let mut corpus = Corpus::new(&root, "config");
    corpus.add(0, b"name: m\ndata-dir: /d\nlisten-client-urls: http://127.0.0.1:2379\nquota-backend-bytes: 1000\nheartbeat-interval: 100\nauto-compaction-mode: revision\nauto-compaction-retention: \"10\"\nclient-transport-security:\n  cert-file: a\n  key-file: b\n  client-cert-auth: true\nwatch-progress-notify-interval: 600000000000\nlog-outputs: [stderr]\nfeature-gates: InitialCorruptCheck=true\ncipher-suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n");
    corpus.add(1, b"--name=m\n--listen-client-urls=http://127.0.0.1:2379,unix://x:1\n--advertise-client-urls=http://[::1]:2379\n--initial-cluster=m=http://a:1,b=http://b:2\n--log-rotation-config-json={\"maxsize\":1}\nETCD_HEARTBEAT_INTERVAL=100\nETCD_AUTO_COMPACTION_RETENTION=5m\n--snapshot-count=5\n");
}
