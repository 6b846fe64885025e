//! A data directory goes back and forth between this server and real etcd, also after being killed, and members of both kinds
//! form one cluster. Needs QUORATE_ETCD_BIN_DIR (etcd, etcdctl, etcdutl); skips without it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const OURS: &str = env!("CARGO_BIN_EXE_quorate-server");

struct Member {
    child: Child,
    client: String,
}

impl Member {
    fn terminate(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        println!("ended with {}", self.child.wait().unwrap());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn bin_dir() -> Option<PathBuf> {
    let dir = std::env::var_os("QUORATE_ETCD_BIN_DIR").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: QUORATE_ETCD_BIN_DIR names no directory with etcd, etcdctl and etcdutl");
    }
    dir
}

fn free_url() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below the range that the kernel gives to outgoing connections, any of which could take the port before the member does.
    let first = (std::process::id() % 1000) as u16 * 20;
    loop {
        let port = 11_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return format!("http://127.0.0.1:{port}");
        }
    }
}

fn start(program: &Path, data: &Path, name: &str, peer: &str, cluster: &str) -> Member {
    let client = free_url();
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(data.with_extension("log"))
        .unwrap();
    let child = Command::new(program)
        .args([
            "--name",
            name,
            "--snapshot-count",
            "10",
            "--snapshot-catchup-entries",
            "3",
            "--data-dir",
        ])
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", cluster])
        .env("ETCD_VERIFY", "all")
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Member { child, client }
}

fn etcdctl(bin: &Path, endpoints: &str, arguments: &[&str]) -> Output {
    Command::new(bin.join("etcdctl"))
        .args(["--endpoints", endpoints, "--command-timeout", "3s"])
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs etcdctl until it succeeds: members may still be starting.
fn must(bin: &Path, endpoints: &str, arguments: &[&str]) -> String {
    let begin = Instant::now();
    loop {
        let output = etcdctl(bin, endpoints, arguments);
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(begin.elapsed() < Duration::from_secs(40), "{arguments:?}: {error}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Writes `key{from}` to `key{to}`, many in one process: transactions, each one entry.
fn write(bin: &Path, endpoints: &str, from: usize, to: usize) {
    for n in (from..to).step_by(20) {
        let puts: Vec<String> = (n..to.min(n + 20)).map(|n| format!("put key{n} value{n}")).collect();
        let script = format!("\n{}\n\n\n", puts.join("\n"));
        let mut child = Command::new(bin.join("etcdctl"))
            .args(["--endpoints", endpoints, "txn"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success() && output.stdout.starts_with(b"SUCCESS"),
            "{output:?}"
        );
    }
}

fn count(bin: &Path, endpoints: &str) -> usize {
    let all = must(bin, endpoints, &["get", "key", "--prefix", "--keys-only"]);
    all.lines().filter(|line| line.starts_with("key")).count()
}

#[test]
fn the_same_directory_serves_both_servers_in_turn() {
    let Some(bin) = bin_dir() else { return };
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let peer = free_url();
    let cluster = format!("m={peer}");
    let (ours, theirs) = (Path::new(OURS).to_owned(), bin.join("etcd"));
    let mut written = 0;
    for (turn, program) in [&ours, &theirs, &ours, &theirs, &ours].into_iter().enumerate() {
        let member = start(program, &data, "m", &peer, &cluster);
        let endpoint = member.client.clone();
        must(&bin, &endpoint, &["put", "first", "value"]);
        assert_eq!(
            count(&bin, &endpoint),
            written,
            "turn {turn}: what the other server wrote"
        );
        write(&bin, &endpoint, written, written + 1200);
        written += 1200;
        // Every other time it is killed.
        if turn % 2 == 0 {
            drop(member)
        } else {
            member.terminate()
        }
    }
    let snaps = std::fs::read_dir(data.join("member/snap")).unwrap();
    let snaps = snaps.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "snap"));
    assert!(snaps.count() >= 2, "snapshots were taken");
    let check = Command::new(bin.join("etcdutl"))
        .arg("hashkv")
        .arg(data.join("member/snap/db"))
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn mixed_members_form_one_cluster_and_hold_the_same() {
    let Some(bin) = bin_dir() else { return };
    let temp = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c"];
    let peers = names.map(|_| free_url());
    let cluster = names
        .iter()
        .zip(&peers)
        .map(|(name, peer)| format!("{name}={peer}"))
        .collect::<Vec<_>>()
        .join(",");
    let theirs = bin.join("etcd");
    let program = |n: usize| if n == 1 { theirs.as_path() } else { Path::new(OURS) };
    let run = |n: usize| start(program(n), &temp.path().join(names[n]), names[n], &peers[n], &cluster);
    let mut members: Vec<Option<Member>> = (0..3).map(|n| Some(run(n))).collect();
    let endpoints = |members: &[Option<Member>]| {
        let up: Vec<&str> = members.iter().flatten().map(|member| member.client.as_str()).collect();
        up.join(",")
    };
    must(&bin, &endpoints(&members), &["put", "first", "value"]);
    write(&bin, &endpoints(&members), 0, 300);
    // Each in turn is killed, misses something, and comes back.
    for n in 0..3 {
        drop(members[n].take());
        must(&bin, &endpoints(&members), &["put", "again", "value"]);
        write(&bin, &endpoints(&members), 300 + n * 300, 600 + n * 300);
        members[n] = Some(run(n));
        must(&bin, &members[n].as_ref().unwrap().client, &["endpoint", "health"]);
    }
    let all = endpoints(&members);
    let begin = Instant::now();
    loop {
        let json = must(&bin, &all, &["endpoint", "hashkv", "-w", "json"]);
        let of = |key: &str| -> Vec<String> {
            let name = format!("\"{key}\":");
            let after = json.split(&name).skip(1);
            after
                .map(|rest| rest.split([',', '}']).next().unwrap().to_owned())
                .collect()
        };
        let (hashes, revisions) = (of("hash"), of("revision"));
        if hashes.len() == 3 && hashes.windows(2).all(|pair| pair[0] == pair[1]) {
            println!("hashes {hashes:?} at {revisions:?}");
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{hashes:?} {revisions:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
    for member in members.iter().flatten() {
        assert_eq!(count(&bin, &member.client), 1200);
    }
}
