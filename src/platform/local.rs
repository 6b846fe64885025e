//! Members as child processes under one directory of this machine: the platform that needs nothing but this binary.
//!
//! ```text
//! records  what is written down, and where        look      observe
//! secure   TLS material on disk                   steps     carry out
//! process  start, find again, stop                rescue    copies, logs, recovery, restore
//! ```
//! Invariants:
//! 1. Members outlive the operator. One that is killed at any moment and started again goes on from what it observes:
//!    nothing that matters is in memory only.
//! 2. A process is started on an empty data directory only when nothing was ever written there.
//! 3. Data is never deleted except by [`Due::PurgeVolume`] and by a deletion that the owner asked for.

pub mod arguments;
pub mod backups;
pub mod files;
pub mod journal;
pub mod lock;
mod look;
pub mod ports;
pub mod presence;
pub mod process;
pub mod records;
mod rescue;
pub mod secure;
mod steps;
pub mod up;

use super::{Error, Event, Platform};
use crate::member::Connections;
use crate::member::usage::{self, Usage};
use crate::plan::observed::Health;
use crate::plan::{Due, Ensure, Journal, Next, Observed, Plan, Step, Timestamp, Wanted};
use process::{Exit, Process, Program};
use records::{ClusterRecord, Layout};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The programs that the local platform runs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The server: takes etcd's flags.
    pub server: Program,
    /// Offline work: takes etcdutl's commands.
    pub etcdutl: Program,
    /// Reads the end of a log, whoever wrote it: `etcdutl inspect`, which upstream's tool does not have.
    pub inspector: Program,
}

impl Programs {
    /// `exe` (this program) itself, unless QUORATE_SERVER_BIN or QUORATE_ETCDUTL_BIN name others.
    pub fn of(exe: &Path) -> Programs {
        Programs {
            server: Program::from_env("QUORATE_SERVER_BIN", exe, "server"),
            etcdutl: Program::from_env("QUORATE_ETCDUTL_BIN", exe, "etcdutl"),
            inspector: Program {
                path: exe.to_owned(),
                first: vec!["etcdutl".into()],
            },
        }
    }
}

/// One cluster in a directory.
#[derive(Debug)]
pub struct LocalCluster {
    layout: Layout,
    programs: Programs,
    record: ClusterRecord,
    connections: Arc<Connections>,
    /// Processes that this operator knows to run, or started; by member.
    processes: BTreeMap<String, Known>,
    /// The verdict of the last look, for its `since`; by member.
    health: BTreeMap<String, Health>,
    fresh_names: Vec<String>,
    /// Woken when a process ends.
    wake: Arc<Notify>,
    /// Events go to stdout as well.
    verbose: bool,
    /// Nothing is written and nothing begun.
    reading: bool,
    /// The newest tick of the defragmentation schedule.
    defrag_tick: Option<Timestamp>,
    desk: backups::Desk,
    /// Client URLs of the members that answered in the last look.
    endpoints: Vec<String>,
}

#[derive(Debug)]
struct Known {
    process: Process,
    exit: Exit,
}

impl LocalCluster {
    /// The cluster `name` under `directory`; its record is made when there is none. `wake` is notified when a member's
    /// process ends. Without `verbose`, events go to events.log alone.
    pub fn open(
        directory: &Path,
        name: &str,
        programs: Programs,
        wake: Arc<Notify>,
        verbose: bool,
    ) -> Result<LocalCluster, files::Error> {
        LocalCluster::open_as(directory, name, programs, wake, verbose, false)
    }

    /// The cluster `name` under `directory`, to look at: nothing is written, nothing is begun.
    pub fn open_to_read(directory: &Path, name: &str, programs: Programs) -> Result<LocalCluster, files::Error> {
        LocalCluster::open_as(directory, name, programs, Arc::default(), false, true)
    }

    fn open_as(
        directory: &Path,
        name: &str,
        programs: Programs,
        wake: Arc<Notify>,
        verbose: bool,
        reading: bool,
    ) -> Result<LocalCluster, files::Error> {
        let layout = Layout::new(directory, name);
        let mut record = match ClusterRecord::load(&layout)? {
            Some(record) => record,
            None => ClusterRecord::new(uid(), now().0),
        };
        record.find_unrecorded(&layout)?;
        if !reading {
            record.save(&layout)?;
        }
        Ok(LocalCluster {
            layout,
            programs,
            record,
            connections: Connections::new(),
            processes: BTreeMap::new(),
            health: BTreeMap::new(),
            fresh_names: Vec::new(),
            wake,
            verbose,
            reading,
            defrag_tick: None,
            desk: backups::Desk::default(),
            endpoints: Vec::new(),
        })
    }

    /// The cluster's identity in this directory.
    pub fn uid(&self) -> &str {
        &self.record.uid
    }

    /// Where its files lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Counts changes of the spec: give its canonical text, get its generation.
    pub fn generation(&mut self, spec: &str) -> Result<i64, files::Error> {
        let hash = crate::plan::resources::short_hash(spec);
        if self.record.spec != hash {
            self.record.spec = hash;
            self.record.generation += 1;
            if !self.reading {
                self.record.save(&self.layout)?;
            }
        }
        Ok(self.record.generation)
    }

    /// Connections to its members, shared with work in the background.
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.connections)
    }

    /// Stops every process and keeps all data; `up` resumes them.
    ///
    /// Returns the names of those that ran.
    pub async fn stop_all(&mut self) -> Vec<String> {
        let mut stopped = Vec::new();
        let names: Vec<String> = self.record.volumes.keys().cloned().collect();
        let mut stopping = tokio::task::JoinSet::new();
        for name in names {
            if let Some(process) = self.find_process(&name) {
                // On purpose: the next look must not call it a crash.
                let _ = self.forget_process(&name);
                stopped.push(name);
                stopping.spawn(async move { process.stop(steps::STOP_GRACE).await });
            }
        }
        stopping.join_all().await;
        stopped
    }
}

impl Platform for LocalCluster {
    fn now(&self) -> Timestamp {
        now()
    }

    async fn observe(&mut self, wanted: &Wanted) -> Result<Observed, Error> {
        self.look(wanted).await.map_err(Error::platform)
    }

    async fn ensure(&mut self, wanted: &Wanted, what: &Ensure) -> Result<(), Error> {
        match what {
            Ensure::Certificates { tls, members } => {
                let running: Vec<secure::Reader> = self.readers();
                // A volume that vanished needs no certificates; making its directory again would hide the loss.
                let members: Vec<String> = members
                    .iter()
                    .filter(|name| self.layout.member(name).is_dir())
                    .cloned()
                    .collect();
                let rotated = secure::ensure(&self.layout, wanted, tls, &members, &running).map_err(Error::platform)?;
                self.connections
                    .trust(secure::access(&self.layout, tls).map_err(Error::platform)?);
                for message in rotated {
                    let reason = "Certificates".to_owned();
                    let event = Event {
                        normal: true,
                        reason,
                        message,
                    };
                    log_event(&self.layout, &event, self.verbose);
                }
                Ok(())
            }
            // Endpoints are published with the status; on one machine there is no Service, budget or network policy.
            Ensure::PeerService
            | Ensure::ClientService(_)
            | Ensure::DisruptionBudget { .. }
            | Ensure::UnboundVolumes
            | Ensure::NoDisruptionBudget
            | Ensure::NetworkPolicy
            | Ensure::NoNetworkPolicy => Ok(()),
        }
    }

    async fn begin(&mut self, _wanted: &Wanted, due: &Due) -> Result<(), Error> {
        match due {
            Due::PurgeVolume { name, volume } => self.purge(name, volume).map_err(Error::platform),
            Due::Backup(action) => self.due_backup(action).await,
        }
    }

    async fn carry_out(&mut self, wanted: &Wanted, step: &Step) -> Result<(), Error> {
        self.step(wanted, step).await
    }

    async fn persist(&mut self, journal: &Journal) -> Result<(), Error> {
        journal::save(&self.layout, journal).map_err(Error::platform)
    }

    async fn publish(&mut self, wanted: &Wanted, plan: &Plan) -> Result<(), Error> {
        self.write_client_env(wanted, &plan.next).map_err(Error::platform)?;
        self.write_status(plan).map_err(Error::platform)
    }

    fn measure(&mut self) -> Option<JoinHandle<Option<Usage>>> {
        let endpoints = self.endpoints.clone();
        (!endpoints.is_empty()).then(|| usage::begin(self.connections(), endpoints))
    }

    async fn tell(&mut self, event: &Event) {
        log_event(&self.layout, event, self.verbose);
    }
}

impl LocalCluster {
    /// What users source before they call etcdctl. A member that is about to leave is not in it any more.
    fn write_client_env(&self, wanted: &Wanted, next: &Next) -> Result<(), files::Error> {
        let leaving = match next {
            Next::Take { step, .. } => match step {
                Step::RemoveMember { name, .. } => Some(name),
                Step::RetireMember { member } => Some(&member.name),
                _ => None,
            },
            Next::Settled | Next::Wait { .. } | Next::Blocked { .. } => None,
        };
        let endpoints: Vec<String> = self
            .record
            .volumes
            .iter()
            .filter(|(name, volume)| volume.started && self.layout.member(name).is_dir() && leaving != Some(name))
            .map(|(_, volume)| arguments::client_url(wanted, &volume.ports))
            .collect();
        if endpoints.is_empty() {
            return Ok(());
        }
        let mut text = format!("export ETCDCTL_ENDPOINTS={}\n", endpoints.join(","));
        if wanted.tls.client.is_some() {
            let tls = self.layout.file("tls");
            for (variable, file) in [("CACERT", "ca.crt"), ("CERT", "client.crt"), ("KEY", "client.key")] {
                text.push_str(&format!("export ETCDCTL_{variable}={}\n", quoted(&tls.join(file))));
            }
        }
        files::write(&self.layout.file("client.env"), text.as_bytes()).map(drop)
    }

    fn write_status(&self, plan: &Plan) -> Result<(), files::Error> {
        let status = crate::api::status::EtcdClusterStatus::from(plan);
        let path = self.layout.file("status.yaml");
        let text = serde_yaml::to_string(&status).map_err(|error| files::Error::Damaged {
            path: path.clone(),
            why: error.to_string(),
        })?;
        files::write_unsynced(&path, text.as_bytes())
    }
}

/// Appends an event to the log of a cluster, and prints it.
fn log_event(layout: &Layout, event: &Event, print: bool) {
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let name = layout
        .root()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let line = format!("{time} {name} {event}");
    if print {
        println!("{line}");
    }
    let path = layout.file("events.log");
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = opened.and_then(|mut file| writeln!(file, "{line}")) {
        tracing::warn!("cannot write {}: {error}", path.display());
    }
}

/// Stops every member of every cluster in a directory that no operator manages; their names.
pub async fn stop_directory(directory: &Path, programs: &Programs) -> Result<Vec<String>, lock::Error> {
    let _lock = lock::Lock::take(directory)?;
    let mut stopped = Vec::new();
    let entries = std::fs::read_dir(directory).map_err(files::failed("list", directory))?;
    for entry in entries
        .flatten()
        .filter(|entry| entry.path().join("cluster.json").is_file())
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut cluster = LocalCluster::open(directory, &name, programs.clone(), Arc::default(), false)?;
        stopped.extend(cluster.stop_all().await);
    }
    Ok(stopped)
}

/// A path as a POSIX shell reads it, whatever is in it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// This moment.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// 64 random bits in hexadecimal.
fn uid() -> String {
    format!("{:016x}", rand::random::<u64>())
}
