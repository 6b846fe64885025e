//! Member processes: started, found again after the operator died, stopped, and asked for their last words.
//!
//! Invariants:
//! 1. A member outlives the operator: it has a process group and a log of its own, and nothing ties its life to ours.
//! 2. A process is known by its pid *and* its start time: a pid that was given to another program is never signalled.
//! 3. There is never a second process on one data directory: before a start, a process that holds it is looked for,
//!    also when the operator died between starting it and writing its pid down.

use super::files::{self, failed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A log longer than this is set aside, so that a laptop's disk does not fill up.
const LOG_BYTES_MAX: u64 = 32 << 20;

/// The programs that are run as children: a path and the arguments that come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The file that is run.
    pub path: PathBuf,
    /// Arguments before all others.
    pub first: Vec<OsString>,
}

impl Program {
    /// The program that the environment variable `name` points to, else `exe` itself with `first` as its argument.
    pub fn from_env(name: &str, exe: &Path, first: &str) -> Program {
        match std::env::var_os(name).filter(|path| !path.is_empty()) {
            Some(path) => Program {
                path: std::path::absolute(&path).unwrap_or_else(|_| path.into()),
                first: Vec::new(),
            },
            None => Program {
                path: exe.to_owned(),
                first: vec![first.into()],
            },
        }
    }
}

/// A process, told apart from a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The pid.
    pub pid: i32,
    /// When it started, in the words of the system; compared, never read.
    pub started: String,
}

/// How a child of ours ended; shared with the task that waits for it.
#[derive(Debug, Clone, Default)]
pub struct Exit(Arc<Mutex<Option<ExitStatus>>>);

impl Exit {
    /// How it ended in words; none while it runs, or when it was not our child.
    pub fn describe(&self) -> Option<String> {
        let status = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => match Signal::try_from(signal) {
                Ok(signal) => format!("was killed by {signal}"),
                Err(_) => format!("was killed by signal {signal}"),
            },
            (None, None) => "ended".to_owned(),
        })
    }
}

/// Starts `program` with `arguments`; stdout and stderr go to `log`, the pid to `pid_file`. `ended` is notified when it
/// ends.
pub fn start(
    program: &Program,
    arguments: &[String],
    log: &Path,
    pid_file: &Path,
    ended: Arc<Notify>,
) -> Result<(Process, Exit), files::Error> {
    set_aside_long_log(log);
    let output = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .map_err(failed("open", log))?;
    let errors = output.try_clone().map_err(failed("open", log))?;
    let mut command = tokio::process::Command::new(&program.path);
    command
        .args(&program.first)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(false);
    // The member takes its configuration from its arguments alone: an ETCD_ variable of the user's shell, or the
    // variables of a client.env that was sourced there, must not reach it.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("ETCD_") || text.starts_with("ETCDCTL_") {
            command.env_remove(&name);
        }
    }
    let mut child = command.spawn().map_err(failed("run", &program.path))?;
    let exit = Exit::default();
    // A child that is gone before its pid is read has nothing to be written down about it.
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
    let process = Process {
        pid,
        started: started(pid).unwrap_or_default(),
    };
    let wrote = files::write_json(pid_file, &process);
    let report = exit.clone();
    // Somebody must wait for a child, else it stays in the process table as a zombie.
    tokio::spawn(async move {
        if let Ok(status) = child.wait().await {
            *report.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        }
        ended.notify_one();
    });
    wrote.map(|_| (process, exit))
}

/// The process that `pid_file` names, if it still runs; else one that has `marker` among its arguments.
pub fn find(pid_file: &Path, marker: &str) -> Option<Process> {
    let known = files::read_json::<Process>(pid_file).ok().flatten();
    known.filter(Process::alive).or_else(|| holder(marker))
}

impl Process {
    /// Whether it still runs. A zombie does not.
    pub fn alive(&self) -> bool {
        self.pid > 0 && !self.started.is_empty() && started(self.pid).is_some_and(|now| now == self.started)
    }

    /// Sends a signal, if it is still this process.
    pub fn signal(&self, signal: Signal) {
        if self.alive() {
            // It may end between the look and the signal; then there is nobody to tell.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Asks it to stop and waits; after `grace` it is killed. Returns when it is gone.
    pub async fn stop(&self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        // A stopped process (SIGSTOP) acts on the request only when it goes on.
        self.signal(Signal::SIGCONT);
        if self.gone_within(grace).await {
            return;
        }
        self.signal(Signal::SIGKILL);
        self.gone_within(Duration::from_secs(10)).await;
    }

    /// Ends it at once, without a chance to tidy up.
    pub async fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.gone_within(Duration::from_secs(10)).await;
    }

    async fn gone_within(&self, time: Duration) -> bool {
        let end = tokio::time::Instant::now() + time;
        while self.alive() {
            if tokio::time::Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

/// When the process `pid` started, or nothing when none runs (a zombie does not run).
fn started(pid: i32) -> Option<String> {
    if pid <= 0 {
        return None;
    }
    if Path::new("/proc/self/stat").exists() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        return start_time(&stat);
    }
    // Without /proc (macOS): the same facts from ps.
    let output = std::process::Command::new("ps")
        .args(["-o", "stat=,lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let (state, since) = line.split_once(char::is_whitespace)?;
    (!state.starts_with('Z')).then(|| since.trim().to_owned())
}

/// Field 22 (start time in clock ticks since boot) of /proc/PID/stat, proc(5); none for a zombie or a dead process.
/// The second field is the program's name in parentheses and may hold anything, so fields are counted from its end.
fn start_time(stat: &str) -> Option<String> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X" | "x")).then(|| fields.nth(18).map(str::to_owned))?
}

/// A process with exactly `marker` among its arguments. Linux only: elsewhere the pid file is all there is.
fn holder(marker: &str) -> Option<Process> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(command) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        if command
            .split(|byte| *byte == 0)
            .any(|argument| argument == marker.as_bytes())
            && let Some(started) = started(pid)
        {
            return Some(Process { pid, started });
        }
    }
    None
}

/// The last `lines` lines of a log: what a member said before it ended.
pub fn last_words(log: &Path, lines: usize) -> Vec<String> {
    let text = text(log, length(log).saturating_sub(16 << 10));
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// The length of a log in bytes; 0 when there is none.
pub fn length(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |meta| meta.len())
}

/// Whether `words` stand in what was written to a log since it was `from` bytes long, as far as the first MiB of it tells.
pub fn said(log: &Path, from: u64, words: &str) -> bool {
    text(log, if length(log) < from { 0 } else { from }).contains(words)
}

/// What stands in a log from there on, a MiB at most; nothing when it cannot be read.
fn text(log: &Path, from: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(1 << 20).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Keeps one older log. The process that writes it has it open for appending, so it is copied and emptied in place.
pub fn set_aside_long_log(log: &Path) {
    if length(log) > LOG_BYTES_MAX {
        let older = log.with_extension("log.1");
        // A log is worth no failure: when it cannot be set aside it grows on.
        if fs::copy(log, &older).is_ok() {
            let _ = fs::OpenOptions::new()
                .write(true)
                .open(log)
                .and_then(|file| file.set_len(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Program {
        Program {
            path: "/bin/sh".into(),
            first: vec!["-c".into()],
        }
    }

    #[tokio::test]
    async fn a_process_is_found_again_stopped_and_its_end_told() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (log, pid_file) = (dir.path().join("log"), dir.path().join("pid"));
        let marker = format!("--marker={}", dir.path().display());
        let script = "echo begun; while :; do sleep 1; done".to_owned();
        let (process, exit) =
            start(&sleeper(), &[script, marker.clone()], &log, &pid_file, Arc::default()).expect("starts");
        assert!(process.alive());
        assert_eq!(find(&pid_file, &marker), Some(process.clone()));
        fs::remove_file(&pid_file).expect("removes");
        if Path::new("/proc/self/stat").exists() {
            assert_eq!(
                find(&pid_file, &marker),
                Some(process.clone()),
                "found by its arguments"
            );
        }
        let another = Process {
            started: "1".to_owned(),
            ..process.clone()
        };
        assert!(!another.alive(), "the same pid, another start time: another process");
        process.stop(Duration::from_secs(5)).await;
        assert!(!process.alive());
        assert_eq!(find(&pid_file, &marker), None);
        for _ in 0..100 {
            if exit.describe().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(exit.describe().as_deref(), Some("was killed by SIGTERM"));
        assert_eq!(last_words(&log, 3), ["begun"]);
        assert!(said(&log, 0, "begun"));
        assert!(!said(&log, length(&log), "begun"), "another process wrote it");
        assert!(said(&log, length(&log) + 1, "begun"), "the log was set aside meanwhile");
    }

    #[tokio::test]
    async fn a_stopped_process_can_be_stopped_for_good() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (process, _) = start(
            &sleeper(),
            &["while :; do sleep 1; done".into()],
            &dir.path().join("log"),
            &dir.path().join("pid"),
            Arc::default(),
        )
        .expect("starts");
        process.signal(Signal::SIGSTOP);
        process.stop(Duration::from_secs(5)).await;
        assert!(!process.alive());
    }

    #[test]
    fn the_start_time_is_read_behind_any_program_name() {
        let fields = (4..=52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_time(&format!("17 (a) R b) S {fields}")).as_deref(), Some("22"));
        assert_eq!(start_time(&format!("17 (etcd) Z {fields}")), None);
        assert_eq!(start_time("rubbish"), None);
    }
}
