//! Three processes, each of them real etcd or this server, that form one cluster.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{MoveLeaderRequest, PutRequest, StatusRequest, StatusResponse};
use tonic::Status;
use tonic::transport::Channel;

const OURS: &str = env!("CARGO_BIN_EXE_quorate-server");
/// More than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// This server.
pub fn ours() -> PathBuf {
    Path::new(OURS).to_owned()
}

/// Real etcd, where there is one.
pub fn theirs() -> Option<PathBuf> {
    let dir = std::env::var_os("QUORATE_ETCD_BIN_DIR").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: QUORATE_ETCD_BIN_DIR names no directory with etcd");
    }
    dir.map(|dir| dir.join("etcd"))
}

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

pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub programs: [PathBuf; 3],
    peers: [String; 3],
    pub clients: [String; 3],
    running: [Option<Child>; 3],
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Cluster {
    #[allow(dead_code)]
    pub fn new(programs: [PathBuf; 3]) -> Cluster {
        Cluster {
            dir: tempfile::tempdir().unwrap(),
            programs,
            peers: [(); 3].map(|()| free_address()),
            clients: [(); 3].map(|()| free_address()),
            running: [None, None, None],
        }
    }

    #[allow(dead_code)]
    pub fn start(&mut self, n: usize, flags: &[&str]) {
        let all = self.peers.iter().enumerate();
        let all: Vec<String> = all.map(|(n, peer)| format!("m{n}=http://{peer}")).collect();
        let log = std::fs::File::create(self.dir.path().join(format!("m{n}.log"))).unwrap();
        let (client, peer) = (&self.clients[n], &self.peers[n]);
        let child = Command::new(&self.programs[n])
            .arg(format!("--name=m{n}"))
            .arg(format!(
                "--data-dir={}",
                self.dir.path().join(format!("m{n}")).display()
            ))
            .arg(format!("--listen-client-urls=http://{client}"))
            .arg(format!("--advertise-client-urls=http://{client}"))
            .arg(format!("--listen-peer-urls=http://{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
            .arg(format!("--initial-cluster={}", all.join(",")))
            .args(flags)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running[n] = Some(child);
    }

    /// Ends a member; its database holds everything then.
    #[allow(dead_code)]
    pub fn stop(&mut self, n: usize) {
        let mut child = self.running[n].take().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait().unwrap();
    }

    #[allow(dead_code)]
    pub fn channel(&self, n: usize) -> Channel {
        Channel::from_shared(format!("http://{}", self.clients[n]))
            .unwrap()
            .connect_lazy()
    }

    #[allow(dead_code)]
    pub fn log(&self, n: usize) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("m{n}.log"))).unwrap_or_default()
    }

    #[allow(dead_code)]
    pub async fn status(&self, n: usize) -> StatusResponse {
        let ask = async || MaintenanceClient::new(self.channel(n)).status(StatusRequest {}).await;
        let answer = until("a member answers", async || {
            ask().await.ok().filter(|status| status.get_ref().leader != 0)
        });
        answer.await.into_inner()
    }

    #[allow(dead_code)]
    pub async fn put(&self, n: usize, value: &[u8]) -> Result<i64, Status> {
        let request = PutRequest {
            key: b"key".as_slice().into(),
            value: value.to_vec().into(),
            ..PutRequest::default()
        };
        let answer = KvClient::new(self.channel(n)).put(request).await?.into_inner();
        Ok(answer.header.unwrap().revision)
    }

    /// Lets a member lead.
    #[allow(dead_code)]
    pub async fn lead(&self, n: usize) {
        let id = self.status(n).await.header.unwrap().member_id;
        until("leadership moves", async || {
            for other in 0..3 {
                if self.running[other].is_none() {
                    continue;
                }
                let status = self.status(other).await;
                if status.leader == id {
                    return Some(());
                }
                if status.leader == status.header.unwrap().member_id {
                    let request = MoveLeaderRequest { target_id: id };
                    MaintenanceClient::new(self.channel(other))
                        .move_leader(request)
                        .await
                        .ok();
                }
            }
            None
        })
        .await
    }
}

pub async fn until<T>(what: &str, attempt: impl AsyncFn() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
