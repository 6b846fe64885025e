//! A member in this process, driven over its sockets with etcd's gRPC stubs and plain HTTP.

use std::path::Path;
use std::time::Duration;

use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::*;
use proto::health::HealthCheckRequest;
use proto::health::health_client::HealthClient;
use server::config::{Config, Nanos, Url};
use server::run::Ended;
use server::start::{Running, start};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// More than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    running: Running,
    channel: Channel,
    port: u16,
}

async fn boot(dir: &Path, adjust: impl FnOnce(&mut Config)) -> Fixture {
    let url = |text: &str| vec![Url::parse(text).unwrap()];
    let mut config = Config {
        name: "m".into(),
        data_dir: dir.to_owned(),
        listen_peer_urls: url("http://127.0.0.1:0"),
        initial_advertise_peer_urls: url("http://127.0.0.1:0"),
        listen_client_urls: url("http://127.0.0.1:0"),
        advertise_client_urls: url("http://127.0.0.1:1"),
        initial_cluster: "m=http://127.0.0.1:0".into(),
        ..Config::default()
    };
    adjust(&mut config);
    let mut running = start(config).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, running.ready()).await.unwrap());
    let port = running.client_ports()[0];
    let channel = Channel::from_shared(format!("http://127.0.0.1:{port}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    Fixture { running, channel, port }
}

impl Fixture {
    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_encoding_message_size(64 << 20)
    }

    async fn put(&self, key: &str, value: &str) -> PutResponse {
        let request = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..PutRequest::default()
        };
        self.kv().put(request).await.unwrap().into_inner()
    }

    async fn stop(self) {
        let Fixture { running, channel, .. } = self;
        drop(channel);
        assert!(matches!(
            tokio::time::timeout(PATIENCE, running.stop()).await.unwrap(),
            Ended::Stopped
        ));
    }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        ..RangeRequest::default()
    }
}

fn assert_status(status: &Status, code: Code, text: &str) {
    assert_eq!((status.code(), status.message()), (code, text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    let first = member.put("a", "1").await.header.unwrap();
    assert_eq!(first.revision, 2, "the first write is revision 2, as in etcd");
    assert!(first.cluster_id != 0 && first.member_id != 0 && first.raft_term > 0);
    let second = PutRequest {
        key: "a".into(),
        value: "2".into(),
        prev_kv: true,
        ..PutRequest::default()
    };
    let second = member.kv().put(second).await.unwrap().into_inner();
    assert_eq!(second.prev_kv.unwrap().value, "1");
    let answer = member.kv().range(range("a")).await.unwrap().into_inner();
    assert_eq!(
        (answer.kvs[0].value.as_ref(), answer.kvs[0].version, answer.count),
        (b"2".as_slice(), 2, 1)
    );
    member.stop().await;

    let member = boot(dir.path(), |_| {}).await;
    let answer = member.kv().range(range("a")).await.unwrap().into_inner();
    assert_eq!(answer.kvs[0].value, "2");
    assert_eq!(answer.header.unwrap().revision, 3);
    let mut kv = member.kv();
    let deleted = kv.delete_range(DeleteRangeRequest {
        key: "a".into(),
        ..DeleteRangeRequest::default()
    });
    assert_eq!(deleted.await.unwrap().into_inner().deleted, 1);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_compare_and_write_at_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |config| config.max_txn_ops = 3).await;
    member.put("a", "1").await;
    let put = |key: &str| RequestOp {
        request: Some(Op::RequestPut(PutRequest {
            key: key.to_owned().into(),
            value: "t".into(),
            ..PutRequest::default()
        })),
    };
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: "a".into(),
        target_union: Some(TargetUnion::Value("1".into())),
        ..Compare::default()
    };
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![put("b"), put("c")],
        failure: vec![put("d")],
    };
    let answer = member.kv().txn(txn.clone()).await.unwrap().into_inner();
    assert!(answer.succeeded);
    assert_eq!((answer.responses.len(), answer.header.unwrap().revision), (2, 3));
    let reads = TxnRequest {
        success: vec![RequestOp {
            request: Some(Op::RequestRange(range("b"))),
        }],
        ..TxnRequest::default()
    };
    let answer = member.kv().txn(reads).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, 3, "reading takes no revision");
    let twice = TxnRequest {
        success: vec![put("b"), put("b")],
        ..TxnRequest::default()
    };
    let status = member.kv().txn(twice).await.unwrap_err();
    assert_status(
        &status,
        Code::InvalidArgument,
        "etcdserver: duplicate key given in txn request",
    );
    let many = TxnRequest {
        success: vec![put("1"), put("2"), put("3"), put("4")],
        ..TxnRequest::default()
    };
    let status = member.kv().txn(many).await.unwrap_err();
    assert_status(
        &status,
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
    );
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_carry_etcds_codes_and_texts() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    let mut kv = member.kv();
    member.put("a", "1").await;
    member.put("a", "2").await;
    kv.compact(CompactionRequest {
        revision: 3,
        physical: true,
    })
    .await
    .unwrap();
    let at = |revision| RangeRequest { revision, ..range("a") };
    let failed = |status: Result<tonic::Response<RangeResponse>, Status>| status.unwrap_err();
    assert_status(
        &failed(kv.range(range("")).await),
        Code::InvalidArgument,
        "etcdserver: key is not provided",
    );
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_status(&failed(kv.range(at(2)).await), Code::OutOfRange, compacted);
    let future = "etcdserver: mvcc: required revision is a future revision";
    assert_status(&failed(kv.range(at(99)).await), Code::OutOfRange, future);
    let sort = RangeRequest {
        sort_order: 77,
        ..range("a")
    };
    assert_status(
        &failed(kv.range(sort).await),
        Code::InvalidArgument,
        "etcdserver: invalid sort option",
    );
    let leased = PutRequest {
        key: "a".into(),
        lease: 42,
        ..PutRequest::default()
    };
    let status = kv.put(leased).await.unwrap_err();
    assert_status(&status, Code::NotFound, "etcdserver: requested lease not found");

    let large = |bytes: usize| PutRequest {
        key: "l".into(),
        value: vec![0; bytes].into(),
        ..PutRequest::default()
    };
    let status = kv.put(large(1_600_000)).await.unwrap_err();
    assert_status(&status, Code::InvalidArgument, "etcdserver: request is too large");
    let status = kv.put(large(3_000_000)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status
            .message()
            .starts_with("grpc: received message larger than max (30000"),
        "{}",
        status.message()
    );

    let mut cluster = ClusterClient::new(member.channel.clone());
    let bad = MemberAddRequest {
        peer_ur_ls: vec!["nonsense".into()],
        is_learner: false,
    };
    let status = cluster.member_add(bad).await.unwrap_err();
    assert_status(
        &status,
        Code::InvalidArgument,
        "etcdserver: given member URLs are invalid",
    );
    let status = cluster.member_remove(MemberRemoveRequest { id: 1 }).await.unwrap_err();
    assert_status(&status, Code::NotFound, "etcdserver: member not found");
    let mut maintenance = MaintenanceClient::new(member.channel.clone());
    let status = maintenance
        .move_leader(MoveLeaderRequest { target_id: 1 })
        .await
        .unwrap_err();
    assert_status(&status, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    let mut auth = auth_client::AuthClient::new(member.channel.clone());
    let status = auth.auth_status(AuthStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.enabled, status.auth_revision), (false, 1));
    let mut with_leader = Request::new(range("a"));
    with_leader.metadata_mut().insert("hasleader", "true".parse().unwrap());
    kv.range(with_leader).await.unwrap();
    member.stop().await;
}

struct Watching {
    requests: mpsc::Sender<WatchRequest>,
    answers: tonic::Streaming<WatchResponse>,
}

impl Watching {
    async fn begin(member: &Fixture) -> Watching {
        let (requests, stream) = mpsc::channel(8);
        let mut client = WatchClient::new(member.channel.clone());
        let answers = client.watch(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Watching { requests, answers }
    }

    async fn ask(&self, request: RequestUnion) {
        self.requests
            .send(WatchRequest {
                request_union: Some(request),
            })
            .await
            .unwrap();
    }

    async fn next(&mut self) -> WatchResponse {
        tokio::time::timeout(PATIENCE, self.answers.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_hear_of_every_change_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |config| {
        config.watch_progress_notify_interval = Nanos::from_millis(200)
    })
    .await;
    member.put("w1", "old").await;
    let mut watching = Watching::begin(&member).await;
    let create = |start_revision, progress_notify| {
        RequestUnion::CreateRequest(WatchCreateRequest {
            key: "w".into(),
            range_end: "x".into(),
            start_revision,
            prev_kv: true,
            progress_notify,
            ..WatchCreateRequest::default()
        })
    };
    watching.ask(create(2, false)).await;
    let created = watching.next().await;
    assert!(created.created && !created.canceled);
    assert_eq!(created.watch_id, 0);
    member.put("w1", "new").await;
    member.put("other", "x").await;
    member
        .kv()
        .delete_range(DeleteRangeRequest {
            key: "w1".into(),
            ..DeleteRangeRequest::default()
        })
        .await
        .unwrap();
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(watching.next().await.events);
    }
    let seen: Vec<_> = events
        .iter()
        .map(|event| {
            let kv = event.kv.as_ref().unwrap();
            let previous = event.prev_kv.as_ref().map(|kv| kv.value.clone());
            (event.r#type, kv.mod_revision, kv.value.clone(), previous)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (0, 2, "old".into(), None),
            (0, 3, "new".into(), Some("old".into())),
            (1, 5, "".into(), Some("new".into()))
        ]
    );
    watching
        .ask(RequestUnion::ProgressRequest(WatchProgressRequest {}))
        .await;
    let progress = watching.next().await;
    assert_eq!(
        (
            progress.watch_id,
            progress.events.len(),
            progress.header.unwrap().revision
        ),
        (-1, 0, 5)
    );
    watching
        .ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 }))
        .await;
    let canceled = watching.next().await;
    assert!(canceled.canceled && !canceled.created);
    watching.ask(create(-1, false)).await;
    let refused = watching.next().await;
    assert!(refused.created && refused.canceled);
    assert_eq!(
        (refused.watch_id, refused.cancel_reason.as_str()),
        (-1, "etcdserver: mvcc: required revision has been compacted")
    );
    watching.ask(create(0, true)).await;
    assert!(watching.next().await.created);
    let notice = watching.next().await;
    assert!(
        notice.events.is_empty() && notice.header.unwrap().revision == 5,
        "periodic progress"
    );

    // A watcher on an open stream does not hold up the stop, and hears of it.
    let stopped = tokio::spawn(member.stop());
    loop {
        match tokio::time::timeout(PATIENCE, watching.answers.message())
            .await
            .unwrap()
        {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                break;
            }
        }
    }
    stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_take_their_keys_along() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    let mut leases = LeaseClient::new(member.channel.clone());
    let granted = leases
        .lease_grant(LeaseGrantRequest { ttl: 1, id: 0 })
        .await
        .unwrap()
        .into_inner();
    assert!(granted.id > 0);
    assert_eq!(granted.ttl, 2, "raised to the minimum");
    let put = PutRequest {
        key: "l".into(),
        value: "v".into(),
        lease: granted.id,
        ..PutRequest::default()
    };
    member.kv().put(put).await.unwrap();
    let (requests, stream) = mpsc::channel(1);
    // As with etcd, headers come with the first answer.
    requests.send(LeaseKeepAliveRequest { id: granted.id }).await.unwrap();
    let mut alive = leases
        .lease_keep_alive(ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(alive.message().await.unwrap().unwrap().ttl, 2);
    requests.send(LeaseKeepAliveRequest { id: 12345 }).await.unwrap();
    assert_eq!(
        alive.message().await.unwrap().unwrap().ttl,
        0,
        "an unknown lease is no error"
    );
    let ask = LeaseTimeToLiveRequest {
        id: granted.id,
        keys: true,
    };
    let left = leases.lease_time_to_live(ask).await.unwrap().into_inner();
    assert_eq!((left.granted_ttl, left.keys.len()), (2, 1));
    let unknown = leases
        .lease_time_to_live(LeaseTimeToLiveRequest { id: 12345, keys: false })
        .await
        .unwrap();
    assert_eq!(unknown.into_inner().ttl, -1);
    assert_eq!(
        leases
            .lease_leases(LeaseLeasesRequest {})
            .await
            .unwrap()
            .into_inner()
            .leases
            .len(),
        1
    );
    let again = leases
        .lease_grant(LeaseGrantRequest { ttl: 5, id: granted.id })
        .await
        .unwrap_err();
    assert_status(&again, Code::FailedPrecondition, "etcdserver: lease already exists");
    let too_large = leases
        .lease_grant(LeaseGrantRequest {
            ttl: 9_000_000_001,
            id: 0,
        })
        .await
        .unwrap_err();
    assert_status(&too_large, Code::OutOfRange, "etcdserver: too large lease TTL");
    // It is not renewed any more, and its key goes with it.
    let gone = async {
        while member.kv().range(range("l")).await.unwrap().into_inner().count > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    let status = leases
        .lease_revoke(LeaseRevokeRequest { id: granted.id })
        .await
        .unwrap_err();
    assert_status(&status, Code::NotFound, "etcdserver: requested lease not found");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_answers() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    for i in 0..50 {
        member.put(&format!("k{i:02}"), &"v".repeat(1000)).await;
    }
    let mut client = MaintenanceClient::new(member.channel.clone());
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (status.version.as_str(), status.is_learner, status.errors.len()),
        ("3.7.3", false, 0)
    );
    assert_eq!(status.leader, status.header.unwrap().member_id);
    assert!(status.db_size > 0 && status.db_size_quota == 2 * 1024 * 1024 * 1024);
    let hash = client
        .hash_kv(HashKvRequest { revision: 0 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((hash.hash_revision, hash.header.unwrap().revision), (51, 51));
    assert_eq!(
        hash.hash,
        client
            .hash_kv(HashKvRequest { revision: 51 })
            .await
            .unwrap()
            .into_inner()
            .hash
    );
    let mut snapshot = client.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let mut blobs = Vec::new();
    while let Some(part) = snapshot.message().await.unwrap() {
        blobs.push(part.blob);
    }
    let digest = blobs.pop().unwrap();
    let image = blobs.concat();
    assert_eq!(digest.as_ref(), Sha256::digest(&image).as_slice());
    assert!(image.len() > 50_000 && image.len() % 4096 == 0);
    assert!(
        client
            .defragment(DefragmentRequest {})
            .await
            .unwrap()
            .into_inner()
            .header
            .is_none()
    );
    let alarm = AlarmRequest {
        action: alarm_request::AlarmAction::Activate.into(),
        member_id: 7,
        alarm: AlarmType::Corrupt.into(),
    };
    client.alarm(alarm).await.unwrap();
    let put = PutRequest {
        key: "x".into(),
        ..PutRequest::default()
    };
    assert_status(
        &member.kv().put(put).await.unwrap_err(),
        Code::DataLoss,
        "etcdserver: corrupt cluster",
    );
    member.kv().range(range("k00")).await.unwrap();
    let text = get(member.port, "/readyz").await;
    assert!(
        text.starts_with("HTTP/1.1 503") && text.contains("[-]data_corruption failed: alarm activated: CORRUPT"),
        "{text}"
    );
    assert!(
        get(member.port, "/health")
            .await
            .contains(r#"{"health":"false","reason":"ALARM CORRUPT"}"#)
    );
    assert!(
        get(member.port, "/health?exclude=CORRUPT")
            .await
            .contains(r#"{"health":"true","reason":""}"#)
    );
    assert!(get(member.port, "/livez").await.ends_with("\r\n\r\nok\n"));
    let mut health = HealthClient::new(member.channel.clone());
    let serving = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(serving.status().as_str_name(), "SERVING");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_raises_an_alarm_and_refuses_writes() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |config| config.quota_backend_bytes = 24 * 1024).await;
    let put = PutRequest {
        key: "q".into(),
        value: vec![0; 30_000].into(),
        ..PutRequest::default()
    };
    let status = member.kv().put(put.clone()).await.unwrap_err();
    assert_status(
        &status,
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
    );
    let mut client = MaintenanceClient::new(member.channel.clone());
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(
        status.errors.iter().any(|error| error.contains("NOSPACE")),
        "{:?}",
        status.errors
    );
    assert!(get(member.port, "/health").await.contains("ALARM NOSPACE"));
    member.stop().await;
}

async fn get(port: u16, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_and_grpc_share_the_port() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    member.put("a", "1").await;
    let version = async {
        while !get(member.port, "/version")
            .await
            .contains(r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, version).await.unwrap();
    let metrics = get(member.port, "/metrics").await;
    assert!(metrics.contains("\netcd_server_has_leader 1\n"));
    let handled = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1\n";
    assert!(metrics.contains(handled));
    let verbose = get(member.port, "/readyz?verbose&exclude=linearizable_read").await;
    assert!(
        verbose.ends_with("[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner ok\nok\n"),
        "{verbose}"
    );
    assert!(get(member.port, "/nothing").await.starts_with("HTTP/1.1 404"));
    assert!(
        get(member.port, "/health")
            .await
            .contains("access-control-allow-origin: *")
    );
    let mut cluster = ClusterClient::new(member.channel.clone());
    let members = cluster.member_list(MemberListRequest { linearizable: true });
    let members = members.await.unwrap().into_inner();
    assert_eq!((members.members.len(), members.members[0].name.as_str()), (1, "m"));
    assert_eq!(
        members.header.unwrap().revision,
        0,
        "membership answers carry no revision"
    );
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_range_is_one_answer_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    for i in 0..45 {
        member.put(&format!("k{i:02}"), "v").await;
    }
    let request = RangeRequest {
        range_end: "l".into(),
        ..range("k")
    };
    let mut parts = member.kv().range_stream(request).await.unwrap().into_inner();
    let (mut keys, mut count, mut answers) = (Vec::new(), 0, 0);
    while let Some(part) = parts.message().await.unwrap() {
        let part = part.range_response.unwrap();
        keys.extend(part.kvs.into_iter().map(|kv| kv.key));
        count += part.count;
        answers += 1;
        if let Some(header) = part.header {
            assert_eq!(header.revision, 46);
            assert!(header.cluster_id != 0);
        }
    }
    assert!(answers > 1 && keys.len() == 45 && keys.is_sorted() && count == 45);
    let sorted = RangeRequest {
        sort_order: 2,
        ..range("k")
    };
    let status = member.kv().range_stream(sorted).await.unwrap_err();
    assert_status(
        &status,
        Code::Unimplemented,
        "RangeStream does not support custom sort orders",
    );
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let member = boot(dir.path(), |_| {}).await;
    let taken = format!("http://127.0.0.1:{}", member.port);
    let other = tempfile::tempdir().unwrap();
    let start_with = |adjust: Box<dyn FnOnce(&mut Config)>| {
        let mut config = Config {
            name: "m".into(),
            data_dir: other.path().to_owned(),
            listen_peer_urls: vec![Url::parse("http://127.0.0.1:0").unwrap()],
            listen_client_urls: vec![Url::parse("http://127.0.0.1:0").unwrap()],
            ..Config::default()
        };
        adjust(&mut config);
        async {
            start(config)
                .await
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        }
    };
    let busy = start_with(Box::new(move |config| {
        config.listen_client_urls = vec![Url::parse(&taken).unwrap()]
    }))
    .await;
    assert!(
        busy.contains("--listen-client-urls") && busy.contains("another process"),
        "{busy}"
    );
    assert!(
        !other.path().join("member").exists(),
        "a busy port leaves no data behind"
    );
    let nameless = start_with(Box::new(|config| {
        config.initial_cluster = "x=http://localhost:2380".into()
    }))
    .await;
    assert!(nameless.contains("couldn't find local name \"m\""), "{nameless}");
    let elsewhere = start_with(Box::new(|config| {
        config.initial_cluster = "m=http://127.0.0.1:7".into()
    }))
    .await;
    assert!(elsewhere.contains("missing from --initial-cluster"), "{elsewhere}");
    member.stop().await;
}
