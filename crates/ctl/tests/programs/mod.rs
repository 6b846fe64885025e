//! Real etcd processes for tests. Without `QUORATE_ETCD_BIN_DIR` the tests that need them say so and pass.
#![allow(dead_code)] // Each test file uses a part of it.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Where etcd, etcdctl and etcdutl are; `None` prints why a test is skipped.
pub fn bin_dir() -> Option<PathBuf> {
    let dir = std::env::var_os("QUORATE_ETCD_BIN_DIR").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: QUORATE_ETCD_BIN_DIR does not name a directory with etcd, etcdctl and etcdutl");
    }
    dir
}

/// Runs a program and returns its stdout; panics with all it said when it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?} failed:\n{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Two ports that were free a moment ago.
pub fn free_ports() -> (u16, u16) {
    let (a, b) = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    (a.local_addr().unwrap().port(), b.local_addr().unwrap().port())
}

/// A running member of a cluster of one.
pub struct Etcd {
    bin: PathBuf,
    pub data_dir: PathBuf,
    pub client: String,
    pub peer: String,
    child: Child,
}

impl Etcd {
    /// Starts etcd and waits until it serves.
    pub fn start(bin: &Path, data_dir: &Path, ports: (u16, u16), flags: &[&str]) -> Etcd {
        let client = format!("http://127.0.0.1:{}", ports.0);
        let peer = format!("http://127.0.0.1:{}", ports.1);
        let log = File::create(data_dir.with_extension("log")).unwrap();
        let child = Command::new(bin.join("etcd"))
            .args(["--name", "m0", "--data-dir"])
            .arg(data_dir)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m0={peer}")])
            .args(flags)
            .env("ETCD_VERIFY", "all")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut etcd = Etcd {
            bin: bin.to_owned(),
            data_dir: data_dir.to_owned(),
            client,
            peer,
            child,
        };
        let started = Instant::now();
        while !etcd.ctl_output(&["get", "healthy"]).status.success() {
            let log = || fs::read_to_string(data_dir.with_extension("log")).unwrap();
            assert!(etcd.child.try_wait().unwrap().is_none(), "etcd ended:\n{}", log());
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "etcd does not serve:\n{}",
                log()
            );
            thread::sleep(Duration::from_millis(100));
        }
        etcd
    }

    pub fn ctl_output(&self, args: &[&str]) -> Output {
        self.ctl_command(args).output().unwrap()
    }

    fn ctl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join("etcdctl"));
        // etcdctl refuses a flag that the environment sets too.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCDCTL_")) {
            command.env_remove(name);
        }
        command
            .args(["--endpoints", &self.client, "--command-timeout", "3s"])
            .args(args);
        command
    }

    /// What etcdctl answers; panics when it fails.
    pub fn ctl(&self, args: &[&str]) -> String {
        run(&mut self.ctl_command(args))
    }

    /// A transaction, in etcdctl's form.
    pub fn txn(&self, lines: &str) {
        let mut command = self.ctl_command(&["txn"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "txn {lines}");
    }

    /// An answer as JSON.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let args: Vec<&str> = args.iter().copied().chain(["-w", "json"]).collect();
        serde_json::from_str(&self.ctl(&args)).unwrap()
    }

    /// The hash at the newest revision, and that revision.
    pub fn hash_kv(&self) -> (u64, i64) {
        let answer = self.json(&["endpoint", "hashkv"]);
        let hash = &answer[0]["HashKV"];
        (hash["hash"].as_u64().unwrap(), hash["hash_revision"].as_i64().unwrap())
    }

    /// Ends it as an operator would, so that all is committed.
    pub fn stop(mut self) -> PathBuf {
        run(Command::new("kill").arg(self.child.id().to_string()));
        self.child.wait().unwrap();
        self.data_dir.clone()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
