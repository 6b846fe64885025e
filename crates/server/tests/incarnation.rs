//! Three members in this process over real sockets: one that comes back with another data directory is turned away, one that comes
//! back with its own is not. Leases are renewed through every member.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use server::config::{Config, Url};
use server::start::{Running, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// More than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Below the range that the kernel gives to outgoing connections.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 1000) as u16 * 20;
    loop {
        let port = 11_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return format!("127.0.0.1:{port}");
        }
    }
}

struct Cluster {
    dir: tempfile::TempDir,
    peers: Vec<String>,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster {
            dir: tempfile::tempdir().unwrap(),
            peers: (0..3).map(|_| free_address()).collect(),
        }
    }

    fn data(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("m{n}"))
    }

    fn config(&self, n: usize) -> Config {
        let peer = vec![Url::parse(&format!("http://{}", self.peers[n])).unwrap()];
        let all = self.peers.iter().enumerate();
        let all: Vec<String> = all.map(|(n, peer)| format!("m{n}=http://{peer}")).collect();
        Config {
            name: format!("m{n}"),
            data_dir: self.data(n),
            listen_peer_urls: peer.clone(),
            initial_advertise_peer_urls: peer,
            listen_client_urls: vec![Url::parse("http://127.0.0.1:0").unwrap()],
            advertise_client_urls: vec![Url::parse("http://127.0.0.1:1").unwrap()],
            initial_cluster: all.join(","),
            ..Config::default()
        }
    }

    async fn start(&self, n: usize) -> Running {
        start(self.config(n)).await.unwrap()
    }
}

async fn ready(running: &mut Running) {
    assert!(tokio::time::timeout(PATIENCE, running.ready()).await.unwrap());
}

async fn stop(running: Running) {
    tokio::time::timeout(PATIENCE, running.stop()).await.unwrap();
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

/// What a peer answers to a request with these headers.
async fn ask(peer: &str, path: &str, headers: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(peer).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {peer}\r\nConnection: close\r\nX-Server-Version: 3.7.3\r\n\
         X-Min-Cluster-Version: 3.0.0\r\n{headers}\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 2048];
    let n = socket.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

fn knows(data: &Path, member_id: u64) -> bool {
    let text = std::fs::read_to_string(data.join("member/peer-incarnations")).unwrap_or_default();
    text.lines().any(|line| line.starts_with(&format!("{member_id:x} ")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_with_another_data_directory_is_turned_away_and_with_its_own_let_in() {
    let cluster = Cluster::new();
    let (mut m0, mut m1, mut m2) = tokio::join!(cluster.start(0), cluster.start(1), cluster.start(2));
    for member in [&mut m0, &mut m1, &mut m2] {
        ready(member).await;
    }
    let id = m2.member().handle.member_id();
    let cluster_id = m2.member().handle.cluster_id();
    for n in 0..2 {
        let data = cluster.data(n);
        until("the peers have met", || knows(&data, id)).await;
    }
    stop(m2).await;
    // What they know outlives a restart.
    stop(m0).await;
    let mut m0 = cluster.start(0).await;
    ready(&mut m0).await;

    let name = cluster.data(2).join("member/incarnation");
    let own = std::fs::read_to_string(&name).unwrap();
    std::fs::write(&name, format!("{:032x}\n", 0xbad)).unwrap();
    let mut stranger = cluster.start(2).await;
    for peer in &cluster.peers[..2] {
        let headers = |from: u128| {
            format!(
                "X-Etcd-Cluster-Id: {cluster_id:x}\r\nX-Server-From: {id:x}\r\nX-Raft-To: 0\r\n\
                 X-Quorate-Incarnation: {from:032x}\r\n"
            )
        };
        for path in [format!("/raft/stream/message/{id:x}"), "/members".into()] {
            let answer = ask(peer, &path, &headers(0xbad)).await;
            assert!(
                answer.starts_with("HTTP/1.1 412") && answer.contains("remove the member"),
                "{path}: {answer}"
            );
        }
        // Who sends no incarnation, as etcd does, is not checked.
        let headers = format!("X-Etcd-Cluster-Id: {cluster_id:x}\r\nX-Server-From: {id:x}\r\n");
        let answer = ask(peer, "/members", &headers).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Nor does it take messages that were meant for the directory before.
    let own_name = own.lines().next().unwrap();
    let headers = format!("X-Etcd-Cluster-Id: {cluster_id:x}\r\nX-Quorate-Incarnation-To: {own_name}\r\n");
    let answer = ask(&cluster.peers[2], "/raft/stream/message/1", &headers).await;
    assert!(answer.starts_with("HTTP/1.1 412"), "{answer}");
    let waited = tokio::time::timeout(Duration::from_secs(3), stranger.ready()).await;
    assert!(waited.is_err(), "it takes no part");
    assert_eq!(stranger.member().leader(), 0);
    stop(stranger).await;

    // Its own directory, as a copy brings it back.
    std::fs::write(&name, own).unwrap();
    let mut m2 = cluster.start(2).await;
    ready(&mut m2).await;
    stop(m2).await;
    // A copy of the data alone, or a directory that etcd used in between: it is not empty.
    std::fs::remove_file(&name).unwrap();
    let mut m2 = cluster.start(2).await;
    ready(&mut m2).await;
    stop(m2).await;
    // The disk came back empty.
    std::fs::remove_dir_all(cluster.data(2)).unwrap();
    let config = Config {
        new_cluster: false,
        ..cluster.config(2)
    };
    let error = start(config).await.err().unwrap().to_string();
    assert!(
        error.contains("is empty, but this member has run before") && error.contains("remove the member"),
        "{error}"
    );
    stop(m1).await;
    stop(m0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lease_is_renewed_through_every_member() {
    use proto::etcdserverpb::{LeaseGrantRequest, lease_client::LeaseClient};
    let cluster = Cluster::new();
    let (mut m0, mut m1, mut m2) = tokio::join!(cluster.start(0), cluster.start(1), cluster.start(2));
    let members = [&mut m0, &mut m1, &mut m2];
    let mut ports = Vec::new();
    for member in members {
        ready(member).await;
        ports.push(member.client_ports()[0]);
    }
    let connect = async |port: u16| {
        let endpoint = tonic::transport::Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        LeaseClient::new(endpoint.connect().await.unwrap())
    };
    for (granter, keeper) in [(0, 1), (1, 2), (2, 0)] {
        let mut client = connect(ports[granter]).await;
        let granted = client.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 });
        let id = granted.await.unwrap().into_inner().id;
        let mut client = connect(ports[keeper]).await;
        // The second and third go over a connection that has rested, where the member does not lead.
        for _ in 0..3 {
            let ask = proto::etcdserverpb::LeaseKeepAliveRequest { id };
            let mut answers = client
                .lease_keep_alive(tokio_stream::iter([ask]))
                .await
                .unwrap()
                .into_inner();
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!((answer.id, answer.ttl), (id, 60));
        }
        let unknown = proto::etcdserverpb::LeaseKeepAliveRequest { id: id ^ 1 };
        let mut answers = client
            .lease_keep_alive(tokio_stream::iter([unknown]))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().ttl, 0);
    }
    let renewed: u64 = [&m0, &m1, &m2]
        .iter()
        .map(|m| m.member().metrics.lease_renewed.get())
        .sum();
    assert_eq!(renewed, 9, "the leader counts each once");
    for member in [m2, m1, m0] {
        stop(member).await;
    }
}
