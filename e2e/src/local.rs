//! A cluster under `quorate local up`, as a user runs it: a manifest, a directory, and what is published there.
//!
//! Invariant: when the value is dropped, the operator is dead and no member runs on its directory any more.

use crate::access::Access;
use crate::load::Target;
use crate::process::{Background, Programs, Said, all_pids, is_ours, run, signal_ours};
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;

/// Name of the cluster in every manifest.
const CLUSTER: &str = "db";

/// A directory with one cluster and its operator.
#[derive(Debug)]
pub struct Local {
    programs: Programs,
    temp: tempfile::TempDir,
    operator: Option<Background>,
    /// Documents of the manifest besides the cluster, each begun with `---`.
    pub others: String,
    /// Variables of the operator's environment.
    pub environment: Vec<(&'static str, PathBuf)>,
}

/// `status.yaml`: the parts that are looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// One word.
    pub phase: String,
    /// Healthy voters.
    pub ready_replicas: u32,
    /// Voters.
    pub replicas: u32,
    /// Cluster id in hexadecimal.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// Name of the leader.
    pub leader: Option<String>,
    /// Members.
    pub members: Vec<StatusMember>,
    /// The published recovery.
    pub recovery: Option<StatusRecovery>,
    /// What comes next.
    pub plan: Option<StatusPlan>,
    /// Conditions.
    pub conditions: Vec<StatusCondition>,
    /// Revision of the key space.
    pub revision: Option<i64>,
}

/// A condition in `status.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusCondition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Status {
    /// Whether a condition is True.
    pub fn is(&self, condition: &str) -> bool {
        self.conditions
            .iter()
            .any(|c| c.kind == condition && c.status == "True")
    }
}

/// A member in `status.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusMember {
    /// Name.
    pub name: String,
    /// Id in hexadecimal.
    pub id: Option<String>,
    /// Voter, Learner or None.
    pub role: String,
    /// Healthy, Unhealthy or Unknown.
    pub health: String,
}

/// A recovery in `status.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusRecovery {
    /// What is acknowledged.
    pub hash: String,
    /// What would be done.
    pub plan: String,
    /// What may be lost.
    pub loss_bound: String,
    /// It is under way.
    pub acting: bool,
}

/// The next step in `status.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusPlan {
    /// A step, a wait, or Settled.
    pub next_action: String,
    /// What is in the way.
    pub blocked_by: Option<String>,
}

/// What is published in a file; none while there is nothing.
pub fn read_status(path: &Path) -> Option<Status> {
    let text = std::fs::read_to_string(path).ok()?;
    let value: serde_yaml::Value = serde_yaml::from_str(&text).ok()?;
    // Either a status alone or an object that has one.
    let status = value.get("status").cloned().unwrap_or(value);
    serde_yaml::from_value(status).ok()
}

#[derive(Debug, Deserialize)]
struct PidFile {
    pid: i32,
}

/// A manifest: `spec` is YAML, indented by two blanks.
pub fn manifest(spec: &str) -> String {
    format!(
        "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata:\n  name: {CLUSTER}\nspec:\n{}\n",
        spec.lines()
            .map(|line| format!("  {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    )
}

impl Local {
    /// Writes the manifest and starts the operator on it.
    pub fn up(programs: &Programs, spec: &str) -> anyhow::Result<Local> {
        let mut local = Local::prepared(programs, spec, String::new())?;
        local.start_operator()?;
        Ok(local)
    }

    /// Writes the manifest, with other documents, and starts nothing yet.
    pub fn prepared(programs: &Programs, spec: &str, others: String) -> anyhow::Result<Local> {
        if !programs.quorate.is_file() {
            bail!(
                "{} is missing: cargo build --release, or name its directory with --bin-dir",
                programs.quorate.display()
            );
        }
        let local = Local {
            programs: programs.clone(),
            temp: tempfile::Builder::new().prefix("quorate-e2e-").tempdir()?,
            operator: None,
            others,
            environment: Vec::new(),
        };
        local.write_spec(spec)?;
        Ok(local)
    }

    /// [`Local::up`], waited for until all `n` members serve.
    pub async fn running(programs: &Programs, spec: &str, n: usize) -> anyhow::Result<Local> {
        let local = Local::up(programs, spec)?;
        local.wait_settled(n, Duration::from_secs(60)).await?;
        Ok(local)
    }

    /// Replaces the manifest, as an editor does; [`Local::others`] stay.
    pub fn write_spec(&self, spec: &str) -> anyhow::Result<()> {
        self.write_text(&(manifest(spec) + &self.others))
    }

    /// Replaces the whole file, whatever the text is.
    pub fn write_text(&self, text: &str) -> anyhow::Result<()> {
        let new = self.manifest_path().with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, self.manifest_path())?;
        Ok(())
    }

    /// The manifest's file.
    pub fn manifest_path(&self) -> PathBuf {
        self.temp.path().join("cluster.yaml")
    }

    /// The directory given to `local up`.
    pub fn directory(&self) -> PathBuf {
        self.temp.path().join("d")
    }

    /// A place for other files.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The directory of the cluster.
    pub fn root(&self) -> PathBuf {
        self.directory().join(CLUSTER)
    }

    /// The client.env that users source.
    pub fn client_env(&self) -> PathBuf {
        self.root().join("client.env")
    }

    /// The endpoints of now, for a load.
    pub fn target(&self) -> Target {
        Target::ClientEnv(self.client_env())
    }

    /// The endpoints of now.
    pub fn access(&self) -> anyhow::Result<Access> {
        Access::from_client_env(&self.client_env())
    }

    /// Starts the operator (again).
    pub fn start_operator(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.programs.quorate);
        command
            .args(["local", "up", "-f"])
            .arg(self.manifest_path())
            .arg("--dir")
            .arg(self.directory())
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.operator = Some(Background::start(command, &self.temp.path().join("operator.log"))?);
        Ok(())
    }

    /// Kills the operator; members go on.
    pub async fn kill_operator(&mut self) -> anyhow::Result<()> {
        match self.operator.take() {
            Some(mut operator) => operator.end(Signal::SIGKILL, Duration::from_secs(5)).await,
            None => Ok(()),
        }
    }

    /// Interrupts the operator as Ctrl-C does, and waits.
    pub async fn interrupt(&mut self) -> anyhow::Result<()> {
        match self.operator.take() {
            Some(mut operator) => operator.end(Signal::SIGINT, Duration::from_secs(30)).await,
            None => Ok(()),
        }
    }

    /// All that the operator has printed, and the events that it wrote.
    pub fn told(&self) -> String {
        let log = std::fs::read_to_string(self.temp.path().join("operator.log")).unwrap_or_default();
        let events = std::fs::read_to_string(self.root().join("events.log")).unwrap_or_default();
        log + &events
    }

    /// The last that the operator and the members said, for a failed check.
    pub fn last_words(&self) -> String {
        let tail = |text: &str, n: usize| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(n)..].join("\n")
        };
        let mut words = tail(&self.told(), 8);
        for name in self.member_names() {
            let log = std::fs::read(self.root().join("members").join(&name).join("log")).unwrap_or_default();
            words += &format!("\n{name}: {}", tail(&String::from_utf8_lossy(&log), 2));
        }
        words
    }

    /// What is published; none while there is nothing.
    pub fn status(&self) -> Option<Status> {
        read_status(&self.root().join("status.yaml"))
    }

    /// Waits until what is published is as wanted; the time that it took.
    pub async fn wait(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let status = self.status();
            if status.as_ref().is_some_and(&wanted) {
                return Ok(began.elapsed());
            }
            if began.elapsed() > limit {
                bail!("not {what} after {limit:?}; status: {status:?}\n{}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until `n` voters are healthy, nothing is left to do, and all endpoints agree on a leader.
    pub async fn wait_settled(&self, n: usize, limit: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.wait(&format!("{n} healthy members"), limit, |status| {
            status.phase == "Running" && status.ready_replicas as usize == n && status.members.len() == n
        })
        .await?;
        // client.env is written with the status, but not in one step with it.
        let end = Instant::now() + Duration::from_secs(10);
        while self.access()?.endpoints.len() != n {
            if Instant::now() > end {
                bail!("client.env does not have {n} endpoints");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.access()?
            .settled(n, limit)
            .await
            .with_context(|| self.last_words())?;
        Ok(began.elapsed())
    }

    /// Waits until something is told, in an event or on the operator's output; the line.
    pub async fn wait_told(&self, words: &str, limit: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + limit;
        loop {
            if let Some(line) = self.told().lines().find(|line| line.contains(words)) {
                return Ok(line.trim().to_owned());
            }
            if Instant::now() > end {
                bail!("nothing said {words:?} within {limit:?}:\n{}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The directory of a member.
    pub fn member(&self, name: &str) -> PathBuf {
        self.root().join("members").join(name)
    }

    /// The pid of a member's process, while its file tells.
    pub fn pid(&self, member: &str) -> Option<i32> {
        let text = std::fs::read(self.member(member).join("pid")).ok()?;
        serde_json::from_slice::<PidFile>(&text).ok().map(|file| file.pid)
    }

    /// Runs `quorate` with arguments.
    pub async fn quorate(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        let mut command = Command::new(&self.programs.quorate);
        command.args(arguments);
        run(command, Duration::from_secs(60)).await
    }

    /// Names of the members' directories.
    pub fn member_names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root().join("members"))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Sends a signal to a member's process; whether there was one.
    pub fn signal(&self, member: &str, signal: Signal) -> bool {
        self.pid(member)
            .is_some_and(|pid| signal_ours(pid, self.temp.path(), signal))
    }

    /// Whether a process has this directory among its arguments; a zombie has none.
    pub fn any_member_runs(&self) -> bool {
        all_pids().any(|pid| is_ours(pid, self.temp.path()))
    }

    /// Deletes a member's directory, at one moment: its process may be writing new files into it.
    pub fn delete_member_directory(&self, member: &str) -> anyhow::Result<()> {
        let path = self.root().join("members").join(member);
        let gone = self.scratch(&format!("deleted-{member}"));
        std::fs::rename(&path, &gone).with_context(|| format!("cannot remove {}", path.display()))?;
        std::fs::remove_dir_all(&gone).with_context(|| format!("cannot remove {}", gone.display()))
    }

    /// Runs upstream etcdctl in a shell that sourced client.env.
    pub async fn etcdctl(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        run(self.etcdctl_command(arguments)?, Duration::from_secs(30)).await
    }

    /// The command that [`Local::etcdctl`] runs.
    pub fn etcdctl_command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        self.in_shell("", arguments)
    }

    /// The same for one endpoint: etcdctl refuses to take a snapshot when it is given several.
    pub fn etcdctl_of_one_command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        self.in_shell("ETCDCTL_ENDPOINTS=\"${ETCDCTL_ENDPOINTS%%,*}\"", arguments)
    }

    fn in_shell(&self, change: &str, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(format!(". \"$0\" && {change} exec \"$@\""))
            .arg(self.client_env())
            .arg(self.programs.upstream("etcdctl")?)
            .args(arguments);
        Ok(command)
    }

    /// One of etcd's own programs.
    pub fn upstream(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.programs.upstream(name)
    }

    /// Keeps the directory for a look at it.
    pub fn keep(&mut self) -> &Path {
        self.temp.disable_cleanup(true);
        self.temp.path()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // The operator first, so that nothing is started again.
        if let Some(pid) = self.operator.as_ref().and_then(Background::pid) {
            signal_ours(pid, self.temp.path(), Signal::SIGKILL);
        }
        self.operator = None;
        std::thread::sleep(Duration::from_millis(50));
        // All processes on the directory, also those whose pid file was deleted with their directory.
        for pid in all_pids() {
            signal_ours(pid, self.temp.path(), Signal::SIGKILL);
        }
        if std::env::var_os("QUORATE_E2E_KEEP").is_some() {
            println!("        kept: {}", self.keep().display());
        }
    }
}
