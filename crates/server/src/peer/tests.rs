//! Two transports over real sockets; the run loops behind them are the ends of two channels.

use std::sync::{Arc, RwLock, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proto::etcdserverpb::Member;
use proto::raftpb::{Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use tokio::net::TcpListener;

use super::dial::Identity;
use super::*;
use crate::handle::{self, Command, Handle, Leadership, Limits, OutgoingSnapshot, Vital};

struct Node {
    id: u64,
    url: String,
    transport: Arc<Transport>,
    commands: mpsc::Receiver<Command>,
    _dir: tempfile::TempDir,
}

struct NoRequests;

#[async_trait::async_trait]
impl Requests for NoRequests {
    async fn promote(&self, _: u64, _: Option<&str>) -> Result<Vec<Member>, handle::Error> {
        Err(handle::Error::LearnerNotReady)
    }
    async fn lease_renew(
        &self,
        request: proto::etcdserverpb::LeaseKeepAliveRequest,
    ) -> Result<proto::etcdserverpb::LeaseKeepAliveResponse, handle::Error> {
        match request.id {
            7 => Ok(proto::etcdserverpb::LeaseKeepAliveResponse {
                id: 7,
                ttl: 60,
                header: None,
            }),
            _ => Err(handle::Error::Refused(replica::state_machine::Error::LeaseNotFound)),
        }
    }
    async fn lease_time_to_live(
        &self,
        _: proto::leasepb::LeaseInternalRequest,
    ) -> Result<proto::leasepb::LeaseInternalResponse, handle::Error> {
        Err(handle::Error::Timeout)
    }
    async fn hash_kv(&self, revision: i64) -> Result<proto::etcdserverpb::HashKvResponse, handle::Error> {
        Ok(proto::etcdserverpb::HashKvResponse {
            hash: 0xdead_beef,
            hash_revision: revision,
            ..Default::default()
        })
    }
    fn version(&self) -> Bytes {
        Bytes::from_static(br#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#)
    }
    async fn downgrade_enabled(&self) -> Result<bool, handle::Error> {
        Ok(false)
    }
}

async fn node(id: u64, cluster_id: u64) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let identity = Identity {
        member_id: id,
        cluster_id,
        peer_urls: vec![url.clone()].into(),
        tls: None,
        timeout: Duration::from_secs(5),
        idle: idle::Idle::default(),
        incarnation: replica::Incarnation {
            name: u128::from(id) << 8,
            adopted: false,
        },
    };
    let transport = Transport::new(identity, Incarnations::default(), || {});
    let (sender, commands) = mpsc::channel();
    let dir = tempfile::tempdir().unwrap();
    let now = Leadership {
        leader: 0,
        term: 0,
        since: Instant::now(),
    };
    let shared = handle::Shared {
        member_id: id,
        cluster_id,
        clock: now.since,
        limits: Limits {
            tick: Duration::from_millis(100),
            request_timeout: Duration::from_secs(2),
            election_timeout: Duration::from_secs(1),
            max_request_bytes: 1 << 20,
        },
        ids: Arc::new(replica::RequestIds::new(id, 0)),
        vital: Vital::default(),
        membership: RwLock::default(),
        leadership: tokio::sync::watch::Sender::new(now),
        peers: transport.clone(),
        snapshot_dir: dir.path().to_owned(),
        metrics: Arc::new(crate::metrics::Metrics::new(false)),
    };
    transport.start(Handle::new(Arc::new(shared), sender), Arc::new(NoRequests));
    let serving = transport.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let transport = serving.clone();
            let service = service_fn(move |request| transport.clone().serve(request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Node {
        id,
        url,
        transport,
        commands,
        _dir: dir,
    }
}

async fn pair() -> (Node, Node) {
    let (a, b) = (node(1, 9).await, node(2, 9).await);
    let members = [&a, &b].map(|node| Member {
        id: node.id,
        peer_ur_ls: vec![node.url.clone()],
        ..Member::default()
    });
    a.transport.set_peers(&members, &[]);
    b.transport.set_peers(&members, &[]);
    (a, b)
}

fn received(node: &Node, within: Duration) -> Option<Command> {
    node.commands.recv_timeout(within).ok()
}

fn append(index: u64, log_term: u64) -> Message {
    let entry = Entry {
        term: 1,
        index: index + 1,
        data: Bytes::from(vec![7; 3000]),
        ..Entry::default()
    };
    Message {
        r#type: MessageType::MsgApp.into(),
        from: 1,
        to: 2,
        term: 1,
        log_term,
        index,
        entries: vec![entry],
        ..Message::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_by_stream_and_in_order() {
    let (a, b) = pair().await;
    // Wait for both streams, so that all goes one way.
    let deadline = Instant::now() + Duration::from_secs(10);
    let link = a.transport.link(2).unwrap();
    while !(link.outbox(codec::StreamKind::MsgApp).attached() && link.outbox(codec::StreamKind::Message).attached()) {
        assert!(Instant::now() < deadline, "no stream was attached");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for index in 0..500 {
        a.transport.send(vec![append(index, u64::from(index > 0))]);
    }
    for index in 0..500 {
        match received(&b, Duration::from_secs(5)) {
            Some(Command::Deliver(message)) => assert_eq!(message, append(index, u64::from(index > 0))),
            other => panic!("instead of message {index}: {other:?}"),
        }
    }
    assert!(a.transport.active_since(2).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_arrives_whole_and_is_reported() {
    let (a, b) = pair().await;
    let snapshot = Snapshot {
        metadata: Some(SnapshotMetadata {
            index: 5,
            term: 1,
            conf_state: None,
        }),
        data: Bytes::from_static(b"{}"),
    };
    let message = Message {
        r#type: MessageType::MsgSnap.into(),
        from: 1,
        to: 2,
        snapshot: Some(snapshot),
        ..Message::default()
    };
    let chunks: Vec<_> = (0..100u8).map(|i| Ok(Bytes::from(vec![i; 32 * 1024]))).collect();
    let whole: Vec<u8> = (0..100u8).flat_map(|i| vec![i; 32 * 1024]).collect();
    let size = whole.len() as u64;
    a.transport.send_snapshot(OutgoingSnapshot {
        message,
        size,
        database: Box::new(chunks.into_iter()),
    });
    loop {
        match received(&b, Duration::from_secs(10)) {
            Some(Command::SnapshotReceived { message, path, reply }) => {
                assert_eq!(message.snapshot.unwrap().metadata.unwrap().index, 5);
                assert!(std::fs::read(path).unwrap() == whole, "the file is what was sent");
                reply.send(Ok(())).unwrap();
                break;
            }
            Some(_) => {}
            None => panic!("no snapshot arrived"),
        }
    }
    loop {
        match received(&a, Duration::from_secs(10)) {
            Some(Command::SnapshotSent { member_id: 2, ok }) => return assert!(ok),
            Some(_) => {}
            None => panic!("the outcome was not reported"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_removed_members_are_turned_away() {
    let (a, b) = pair().await;
    let stranger = Identity {
        cluster_id: 10,
        ..b.transport.identity().clone()
    };
    let (status, text) = stranger
        .call(http::Method::GET, &a.url, "/raft/stream/message/2", &[], dial::full(""))
        .await
        .unwrap();
    assert_eq!((status.as_u16(), &text[..]), (412, &b"cluster ID mismatch\n"[..]));

    let members = [Member {
        id: 1,
        peer_ur_ls: vec![a.url.clone()],
        ..Member::default()
    }];
    a.transport.set_peers(&members, &[2]);
    let (status, _) = b
        .transport
        .identity()
        .call(
            http::Method::GET,
            &a.url,
            "/raft/stream/message/2",
            &[("x-raft-to", "1")],
            dial::full(""),
        )
        .await
        .unwrap();
    assert_eq!(status.as_u16(), 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_the_leader_come_back_with_their_meaning() {
    let (a, b) = pair().await;
    let (identity, urls) = (b.transport.identity(), [a.url.clone()]);
    assert_eq!(
        identity.forward_promote(&urls, 5, None).await,
        Err(handle::Error::LearnerNotReady)
    );
    let renew = |id| proto::etcdserverpb::LeaseKeepAliveRequest { id };
    assert_eq!(identity.forward_lease_renew(&urls, &renew(7)).await.unwrap().ttl, 60);
    let unknown = identity.forward_lease_renew(&urls, &renew(8)).await.unwrap_err();
    assert_eq!(unknown.to_string(), "etcdserver: requested lease not found");
    assert_eq!(identity.fetch_versions(&urls).await.unwrap().cluster, "3.7.0");
    let hash = identity.fetch_hash_kv(&urls, 12).await.unwrap();
    assert_eq!((hash.hash, hash.hash_revision), (0xdead_beef, 12));
    assert!(identity.fetch_members(&["http://127.0.0.1:1".into()]).await.is_err());
}
