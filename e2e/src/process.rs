//! Programs that are run, and processes that are looked at, signalled and ended.
//!
//! Invariants:
//! 1. Only processes that this program started, or that run on a directory that it made, are ever signalled.
//! 2. Nothing outlives its guard: children are killed when their value is dropped.

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Clock ticks of /proc/PID/stat per second: fixed at 100 for user space on every Linux architecture (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Where the programs lie.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Our operator and local platform.
    pub quorate: PathBuf,
    /// Our server; takes etcd's flags.
    pub server: PathBuf,
    /// Directory of etcd, etcdctl, etcdutl and benchmark.
    pub etcd: Option<PathBuf>,
}

impl Programs {
    /// One of etcd's own programs.
    pub fn upstream(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.etcd.as_ref().context(
            "QUORATE_ETCD_BIN_DIR is not set: build etcd's programs with e2e/tools/build.sh DIR and set it to DIR/bin",
        )?;
        let path = dir.join(name);
        if !path.is_file() {
            bail!("{} is missing: build it with e2e/tools/build.sh", path.display());
        }
        Ok(path)
    }
}

/// A child in the background with its output in a file.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts a program; what it prints goes to `log`.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Background> {
        let output = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let errors = output.try_clone()?;
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(&name);
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", command.as_std().get_program().display()))?;
        Ok(Background {
            child,
            log: log.to_owned(),
        })
    }

    /// Its pid, while it has not been waited for.
    pub fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|pid| i32::try_from(pid).ok())
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may end between the look and the signal; then there is nobody to tell.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Sends a signal and waits until it has ended; after `grace` it is killed and that is an error.
    pub async fn end(&mut self, signal: Signal, grace: Duration) -> anyhow::Result<()> {
        self.signal(signal);
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            self.child.wait().await?;
            bail!("did not end within {grace:?} of {signal}\n{}", self.last_words(5));
        }
        Ok(())
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<()> {
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => status.map(drop).map_err(Into::into),
            Err(_) => bail!("still runs after {limit:?}\n{}", self.last_words(5)),
        }
    }

    /// All that it has printed.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines that it has printed.
    pub fn last_words(&self, lines: usize) -> String {
        let output = self.output();
        let all: Vec<&str> = output.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// What a program that ended had to say.
#[derive(Debug)]
pub struct Said {
    /// Exit code; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output, when it succeeded.
    pub fn ok(self) -> anyhow::Result<String> {
        match self.code {
            Some(0) => Ok(self.out),
            code => bail!("exit code {code:?}: {} {}", self.out.trim(), self.err.trim()),
        }
    }
}

/// Runs a program to its end, at most `limit` long.
pub async fn run(mut command: Command, limit: Duration) -> anyhow::Result<Said> {
    let name = command.as_std().get_program().display().to_string();
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(limit, output)
        .await
        .with_context(|| format!("{name} did not end within {limit:?}"))?
        .with_context(|| format!("cannot run {name}"))?;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Pids of all other processes.
pub fn all_pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(std::process::id()))
}

/// Whether a process has `directory` (one that we made) in its arguments.
pub fn is_ours(pid: i32, directory: &Path) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*directory.to_string_lossy()))
}

/// Sends a signal to a process that has `directory` (one that we made) in its arguments; whether it was there.
pub fn signal_ours(pid: i32, directory: &Path, signal: Signal) -> bool {
    is_ours(pid, directory) && kill(Pid::from_raw(pid), signal).is_ok()
}

/// Seconds of CPU, user and system, that a process has used.
pub fn cpu_seconds(pid: i32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // utime and stime are fields 14 and 15; the name in field 2 may hold anything, so count from its end.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = fields
        .get(11)?
        .parse::<u32>()
        .ok()?
        .checked_add(fields.get(12)?.parse().ok()?)?;
    Some(f64::from(ticks) / TICKS_PER_SECOND)
}

/// Resident memory of a process in MiB.
pub fn rss_mib(pid: i32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}

/// `n` ports of 127.0.0.1 that nobody listens on, below those that Linux takes for outgoing connections.
pub fn free_ports(n: usize) -> anyhow::Result<Vec<u16>> {
    let mut found = Vec::new();
    for _ in 0..10_000 {
        let port = rand::random_range(20_000..32_000u16);
        if !found.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            found.push(port);
        }
        if found.len() == n {
            return Ok(found);
        }
    }
    bail!("no {n} free ports between 20000 and 32000 on 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_is_ended_its_words_are_kept_and_others_are_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "echo begun; while :; do sleep 0.1; done"])
            .arg(dir.path());
        let mut child = Background::start(command, &dir.path().join("log")).expect("starts");
        let pid = child.pid().expect("runs");
        assert!(!signal_ours(pid, Path::new("/some/where/else"), Signal::SIGKILL));
        while child.output().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(signal_ours(pid, dir.path(), Signal::SIGTERM));
        child.end(Signal::SIGTERM, Duration::from_secs(5)).await.expect("ends");
        assert_eq!(child.last_words(3), "begun");
        assert!(cpu_seconds(pid).is_none());
    }

    #[test]
    fn a_process_has_memory_and_time() {
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(rss_mib(me).is_some_and(|mib| mib > 0.1));
        assert!(cpu_seconds(me).is_some());
    }
}
