//! Real threads, real files; the network between members is a call.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

use disk::RealDisk;
use proto::etcdserverpb::{CompactionRequest, InternalRaftRequest, Member, PutRequest, RangeRequest};
use proto::raftpb::Message;
use replica::state_machine::mvcc::KvReader;
use replica::{Config, Replica, Start};
use tokio::sync::oneshot;

use super::{Ended, Settings, start};
use crate::handle::{Error, Handle, OutgoingSnapshot, PeerSender, Response};
use crate::metrics::Metrics;

/// All members of a test, by id.
#[derive(Default)]
struct Net {
    handles: RwLock<BTreeMap<u64, Handle>>,
    runtime: OnceLock<tokio::runtime::Handle>,
}

struct Wire {
    me: u64,
    net: Arc<Net>,
}

impl PeerSender for Wire {
    fn send(&self, messages: Vec<Message>) {
        let handles = self.net.handles.read().unwrap();
        for message in messages {
            match handles.get(&message.to) {
                Some(handle) => handle.deliver(message).ok(),
                None => handles.get(&self.me).map(|me| me.report_unreachable(message.to)),
            };
        }
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        let handles = self.net.handles.read().unwrap();
        let (me, to) = (
            handles.get(&self.me).cloned(),
            handles.get(&snapshot.message.to).cloned(),
        );
        let (Some(me), Some(to)) = (me, to) else { return };
        self.net.runtime.get().unwrap().spawn(async move {
            let id = snapshot.message.to;
            let chunks = tokio_stream::iter(snapshot.database);
            let ok = to.deliver_snapshot(snapshot.message, Box::pin(chunks)).await.is_ok();
            me.report_snapshot(id, ok);
        });
    }

    fn set_peers(&self, _: &[Member], _: &[u64]) {}

    fn active_since(&self, member_id: u64) -> Option<Instant> {
        self.net
            .handles
            .read()
            .unwrap()
            .contains_key(&member_id)
            .then(Instant::now)
    }
}

struct Running {
    id: u64,
    handle: Handle,
    ended: oneshot::Receiver<Ended>,
    kv: KvReader<RealDisk>,
}

impl Running {
    async fn stop(self, net: &Net) {
        net.handles.write().unwrap().remove(&self.id);
        self.handle.stop();
        assert!(matches!(self.ended.await, Ok(Ended::Stopped)));
    }

    async fn put(&self, key: &str, value: &str) -> Result<Response, Error> {
        let put = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        self.handle
            .propose(InternalRaftRequest {
                put: Some(put),
                ..Default::default()
            })
            .await
    }

    fn get(&self, key: &str) -> Option<String> {
        let range = RangeRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        let found = self.kv.range(&range).unwrap().kvs.pop()?;
        Some(String::from_utf8(found.value.to_vec()).unwrap())
    }

    async fn until(&self, what: &str, condition: impl Fn(&Running) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "{what}: {:?}",
                self.handle.status()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn run(dir: &Path, net: &Arc<Net>, name: &str, all: &[&str], configure: impl Fn(&mut Config)) -> Running {
    net.runtime.get_or_init(tokio::runtime::Handle::current);
    let members = all
        .iter()
        .map(|name| ((*name).to_owned(), vec![format!("http://{name}:2380")]))
        .collect();
    let mut config = Config {
        data_dir: dir.join(name),
        name: name.into(),
        client_urls: vec![format!("http://{name}:2379")],
        start: Start::New {
            members,
            token: "run".into(),
        },
        tick: Duration::from_millis(20),
        seed: 7,
        unix_ms: 1_700_000_000_000,
        ..Config::default()
    };
    configure(&mut config);
    let clock = Instant::now();
    let (replica, writer) = Replica::open(RealDisk, config, Duration::ZERO).unwrap();
    let id = replica.identity().member_id;
    let kv = replica.state().reader();
    let settings = Settings {
        clock,
        max_request_bytes: 1 << 20,
        early_election: true,
        metrics: Arc::new(Metrics::new(false)),
    };
    let peers = Arc::new(Wire {
        me: id,
        net: net.clone(),
    });
    let (handle, ended) = start(replica, writer, peers, settings).unwrap();
    net.handles.write().unwrap().insert(id, handle.clone());
    Running { id, handle, ended, kv }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_writes_reads_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let net = Arc::new(Net::default());
    let member = run(dir.path(), &net, "a", &["a"], |_| {});
    member.until("published", |m| m.handle.status().published).await;
    for n in 0..50 {
        assert!(
            matches!(member.put(&format!("k{n}"), "v").await, Ok(Response::Put(_))),
            "put {n}"
        );
    }
    member.handle.linearizable().await.unwrap();
    assert_eq!(member.get("k49").as_deref(), Some("v"));
    let large = "x".repeat(2 << 20);
    assert_eq!(member.put("large", &large).await, Err(Error::RequestTooLarge));
    let compaction = Some(CompactionRequest {
        revision: 20,
        physical: true,
    });
    let request = InternalRaftRequest {
        compaction,
        ..Default::default()
    };
    member.handle.propose(request.clone()).await.unwrap();
    let again = member.handle.propose(request).await;
    assert_eq!(
        again.unwrap_err().to_string(),
        "etcdserver: mvcc: required revision has been compacted"
    );
    let view = member.handle.snapshot().await.unwrap();
    let bytes: usize = view.stream(8192).map(|chunk| chunk.unwrap().len()).sum();
    assert_eq!(bytes as u64, view.size());
    drop(view);
    member.stop(&net).await;

    let member = run(dir.path(), &net, "a", &["a"], |config| config.start = Start::Resume);
    assert_eq!(
        member.get("k49").as_deref(),
        Some("v"),
        "the database was brought up to date at the end"
    );
    member.until("leads", |m| m.handle.leader() == m.id).await;
    member.put("again", "v").await.unwrap();
    member.stop(&net).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defragmentation_shrinks_the_file_while_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let net = Arc::new(Net::default());
    let member = run(dir.path(), &net, "a", &["a"], |_| {});
    member.until("leads", |m| m.handle.leader() == m.id).await;
    let value = "v".repeat(100_000);
    for n in 0..60 {
        member.put(&format!("k{}", n % 3), &value).await.unwrap();
    }
    let compaction = Some(CompactionRequest {
        revision: 61,
        physical: true,
    });
    member
        .handle
        .propose(InternalRaftRequest {
            compaction,
            ..Default::default()
        })
        .await
        .unwrap();
    let db = dir.path().join("a/member/snap/db");
    let before = std::fs::metadata(&db).unwrap().len();
    let (defragmented, put) = tokio::join!(member.handle.defragment(), member.put("k0", "small"));
    defragmented.unwrap();
    put.unwrap();
    let after = std::fs::metadata(&db).unwrap().len();
    println!("{before} -> {after} bytes");
    assert!(after < before / 4, "{before} -> {after}");
    member
        .until("size", |m| m.handle.status().db_size as u64 <= after)
        .await;
    member.stop(&net).await;
    let member = run(dir.path(), &net, "a", &["a"], |config| config.start = Start::Resume);
    assert_eq!(member.get("k0").as_deref(), Some("small"));
    assert_eq!(member.get("k1").as_deref(), Some(value.as_str()));
    member.stop(&net).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_replicate_transfer_and_catch_up() {
    let dir = tempfile::tempdir().unwrap();
    let net = Arc::new(Net::default());
    let names = ["a", "b", "c"];
    let small = |config: &mut Config| {
        config.snapshot_count = 100;
        config.catch_up_entries = 50;
    };
    let mut all: Vec<Running> = names
        .iter()
        .map(|name| run(dir.path(), &net, name, &names, small))
        .collect();
    for member in &all {
        member.until("published", |m| m.handle.status().published).await;
    }
    for (n, member) in all.iter().cycle().take(30).enumerate() {
        member.put(&format!("k{n}"), "v").await.unwrap();
        member.handle.linearizable().await.unwrap();
        assert_eq!(
            member.get(&format!("k{n}")).as_deref(),
            Some("v"),
            "a member reads what it wrote"
        );
    }
    let leader = all[0].handle.leader();
    let other = all.iter().position(|member| member.id != leader).unwrap();
    let leading = all.iter().position(|member| member.id == leader).unwrap();
    all[leading].handle.transfer_leader(all[other].id).await.unwrap();
    assert_eq!(all[leading].handle.transfer_leader(1).await, Err(Error::NotLeader));
    all[other].until("leads", |m| m.handle.leader() == m.id).await;

    // One is away for longer than the log is kept.
    let behind = all.remove(leading);
    behind.stop(&net).await;
    for n in 0..400 {
        all[0].put("many", &n.to_string()).await.unwrap();
    }
    let back = run(dir.path(), &net, names[leading], &names, |config| {
        small(config);
        config.start = Start::Resume;
    });
    back.until("caught up", |m| m.get("many").as_deref() == Some("399"))
        .await;
    back.put("after", "v").await.unwrap();
    all.push(back);
    for member in &all {
        member.handle.linearizable().await.unwrap();
    }
    let hashes: Vec<_> = all.iter().map(|member| member.kv.hash_kv(0).unwrap()).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    for member in all {
        member.stop(&net).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_requests_time_out_and_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let net = Arc::new(Net::default());
    let member = run(dir.path(), &net, "a", &["a", "b", "c"], |config| {
        config.tick = Duration::from_millis(5)
    });
    let (put, read) = tokio::join!(member.put("k", "v"), member.handle.linearizable());
    assert_eq!(put, Err(Error::Timeout));
    assert_eq!(read, Err(Error::Timeout));
    member.stop(&net).await;
}

/// Prints how many puts a single member takes; only the printing is the test, machines differ.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_of_many_clients_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let net = Arc::new(Net::default());
    let member = Arc::new(run(dir.path(), &net, "a", &["a"], |_| {}));
    member.until("leads", |m| m.handle.leader() == m.id).await;
    let (clients, each) = (200, 20);
    let begin = Instant::now();
    let tasks = (0..clients).map(|client| {
        let member = member.clone();
        tokio::spawn(async move {
            for n in 0..each {
                member.put(&format!("c{client}-{n}"), "0123456789abcdef").await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let puts = clients * each;
    println!("{puts} puts of {clients} clients took {:?}", begin.elapsed());
    assert_eq!(member.kv.current_revision(), 1 + i64::from(puts));
    Arc::into_inner(member).unwrap().stop(&net).await;
}
