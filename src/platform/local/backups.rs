//! `EtcdBackup` objects of one cluster: what an API server would keep, kept in `backups/<name>.json`, and the work that
//! they ask for.
//!
//! Invariants:
//! 1. A backup is an object before it is work, and its name is taken once: a tick never makes two.
//! 2. What was under way when the operator died begins again; nothing that is in the store without a manifest counts.
//! 3. Work runs beside reconciliation, never in its way.

use super::process::Program;
use super::up::Desired;
use super::{Layout, LocalCluster, files, log_event};
use crate::api::etcd_backup::EtcdBackupStatus;
use crate::api::parts::Store as Written;
use crate::api::{EtcdBackup, convert};
use crate::backup::work::{self, Place, Secrets, Source, Workshop};
use crate::backup::{Etcdutl, fetch, store};
use crate::plan::backup::{Action, Run};
use crate::plan::observed::Member;
use crate::plan::wanted::BackupSource;
use crate::plan::{Timestamp, Wanted};
use crate::platform::{Error, Event};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What backups of one cluster need besides their objects.
#[derive(Debug, Default)]
pub(super) struct Desk {
    secrets: Arc<BTreeMap<String, Secret>>,
    base: PathBuf,
    working: BTreeMap<String, JoinHandle<()>>,
}

/// The Secrets of a manifest.
struct OfManifest(Arc<BTreeMap<String, Secret>>);

impl Secrets for OfManifest {
    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let secret = self.0.get(name)?;
        let plain = secret
            .string_data
            .iter()
            .flatten()
            .map(|(key, text)| (key.clone(), text.clone().into_bytes()));
        let encoded = secret
            .data
            .iter()
            .flatten()
            .map(|(key, bytes)| (key.clone(), bytes.0.clone()));
        // As with an API server, stringData wins.
        Some(encoded.chain(plain).collect())
    }
}

impl Desk {
    fn place(&self, written: &Written) -> Result<Place, store::Error> {
        Place::open(written, &OfManifest(Arc::clone(&self.secrets)), &self.base)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.working.values().for_each(JoinHandle::abort);
    }
}

/// How the backup module calls the offline tool.
pub(super) fn tool(program: &Program) -> Etcdutl {
    Etcdutl {
        program: program.path.clone().into_os_string(),
        leading: program.first.clone(),
    }
}

/// All objects that are kept for a cluster, by name.
pub fn objects(layout: &Layout) -> Result<Vec<EtcdBackup>, files::Error> {
    let mut objects = Vec::new();
    let Ok(entries) = std::fs::read_dir(layout.file("backups")) else {
        return Ok(objects);
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            objects.extend(files::read_json::<EtcdBackup>(&path)?);
        }
    }
    objects.sort_by_key(ResourceExt::name_any);
    Ok(objects)
}

fn file(layout: &Layout, name: &str) -> PathBuf {
    layout.file("backups").join(format!("{name}.json"))
}

/// Writes a new status into an object.
fn put_status(layout: &Layout, name: &str, status: &EtcdBackupStatus) -> Result<(), files::Error> {
    let file = file(layout, name);
    if let Some(mut object) = files::read_json::<EtcdBackup>(&file)? {
        object.status = Some(status.clone());
        files::write_json(&file, &object)?;
    }
    Ok(())
}

impl LocalCluster {
    /// Takes over the objects of the manifest, with the creation time of when they were first seen; returns the
    /// policies among them.
    pub(super) fn adopt_backups(&mut self, desired: &Desired) -> Result<Vec<EtcdBackup>, files::Error> {
        self.desk.base.clone_from(&desired.base);
        if *self.desk.secrets != desired.secrets {
            self.desk.secrets = Arc::new(desired.secrets.clone());
        }
        let mut policies = Vec::new();
        for written in &desired.backups {
            let file = file(&self.layout, &written.name_any());
            let known = files::read_json::<EtcdBackup>(&file)?;
            let mut object = written.clone();
            object.metadata.creation_timestamp = known
                .as_ref()
                .and_then(|known| known.metadata.creation_timestamp.clone())
                .or_else(|| Some(Time(jiff::Timestamp::now())));
            object.status = known.and_then(|known| known.status);
            if !self.reading {
                files::write_json(&file, &object)?;
            }
            if object.spec.schedule.is_some() {
                policies.push(object);
            }
        }
        Ok(policies)
    }

    /// The backups as the planner sees them.
    pub(super) fn backup_runs(&self) -> Result<Vec<Run>, files::Error> {
        Ok(objects(&self.layout)?.iter().filter_map(convert::run).collect())
    }

    /// Does what is due for a policy.
    pub(super) async fn due_backup(&mut self, action: &Action) -> Result<(), Error> {
        match action {
            Action::Create {
                policy,
                name,
                scheduled,
            } => self.create_child(policy, name, *scheduled),
            Action::Prune { name } => self.prune(name).await,
        }
    }

    fn create_child(&mut self, policy: &str, name: &str, scheduled: Timestamp) -> Result<(), Error> {
        let place = file(&self.layout, name);
        if place.exists() {
            return Ok(());
        }
        let policy = files::read_json::<EtcdBackup>(&file(&self.layout, policy)).map_err(Error::platform)?;
        let Some(policy) = policy else { return Ok(()) };
        let mut child = convert::child(&policy, name, scheduled);
        child.metadata.creation_timestamp = Some(Time(jiff::Timestamp::now()));
        files::write_json(&place, &child).map(drop).map_err(Error::platform)
    }

    async fn prune(&mut self, name: &str) -> Result<(), Error> {
        let place = file(&self.layout, name);
        let Some(object) = files::read_json::<EtcdBackup>(&place).map_err(Error::platform)? else {
            return Ok(());
        };
        if let Some(key) = key_of(&object) {
            let opened = self.desk.place(&object.spec.destination).map_err(Error::platform)?;
            fetch::delete(&opened.store, &key).await.map_err(Error::platform)?;
        }
        files::remove(&place).map_err(Error::platform)
    }

    /// Begins every backup that is not done and not under way, from the members that answered in this look.
    pub(super) fn begin_backups(&mut self, wanted: &Wanted, members: &[Member]) -> Result<(), files::Error> {
        self.desk.working.retain(|_, task| !task.is_finished());
        for object in objects(&self.layout)? {
            let name = object.name_any();
            let open = convert::run(&object).is_some_and(|run| run.phase.open());
            if !open || self.desk.working.contains_key(&name) {
                continue;
            }
            let healthy: Vec<&Member> = members.iter().filter(|m| m.healthy()).collect();
            let Some(cluster_id) = healthy.iter().find_map(|m| m.answer.as_ref()).map(|a| a.cluster_id.0) else {
                continue;
            };
            let endpoints: Vec<(String, bool)> = healthy
                .iter()
                .filter_map(|m| {
                    let answer = m.answer.as_ref().filter(|answer| !answer.learner)?;
                    let volume = self.record.volumes.get(&m.name)?;
                    let url = super::arguments::client_url(wanted, &volume.ports);
                    Some((url, answer.leader == Some(answer.member_id)))
                })
                .collect();
            let place = match self.desk.place(&object.spec.destination) {
                Ok(place) => place,
                Err(error) => {
                    let mut status = object.status.clone().unwrap_or_default();
                    work::failed(&mut status, &format!("spec.{error}"));
                    put_status(&self.layout, &name, &status)?;
                    tell_end(&self.layout, &name, &status, self.verbose);
                    continue;
                }
            };
            let workshop = Workshop {
                spool: self.layout.file("spool"),
                etcdutl: tool(&self.programs.etcdutl),
            };
            let (connections, layout, verbose) = (Arc::clone(&self.connections), self.layout.clone(), self.verbose);
            let cluster = wanted.name.clone();
            let task_name = name.clone();
            let task = async move {
                let mut members = Vec::new();
                for (url, leads) in endpoints {
                    members.extend(connections.member(&url).await.ok().map(|member| (member, leads)));
                }
                let source = Source {
                    cluster,
                    cluster_id,
                    members,
                };
                let publish = |status: &EtcdBackupStatus| {
                    if let Err(error) = put_status(&layout, &task_name, status) {
                        tracing::warn!("the status of backup {task_name} is not written: {error}");
                    }
                };
                let status = work::run(&object, &task_name, source, &place, workshop, &publish).await;
                tell_end(&layout, &task_name, &status, verbose);
            };
            self.desk.working.insert(name, tokio::spawn(task));
        }
        Ok(())
    }

    /// Brings the artifact of a backup into a file, proven against its manifest.
    pub(super) async fn fetch_backup(&mut self, source: &BackupSource, into: &Path) -> Result<(), Error> {
        let (written, key) = match source {
            BackupSource::Backup(name) => {
                let object = self.find_backup(name).map_err(Error::platform)?.ok_or_else(|| {
                    Error::platform(format!(
                        "there is no EtcdBackup {name} in this directory; name one that is completed"
                    ))
                })?;
                let key = key_of(&object).ok_or_else(|| {
                    Error::platform(format!("EtcdBackup {name} is not completed: nothing to restore"))
                })?;
                (object.spec.destination, key)
            }
            BackupSource::Location(text) => {
                let mut written: Written = serde_json::from_str(text).map_err(Error::platform)?;
                let key = match (&written.s3, &mut written.directory) {
                    (Some(s3), _) => s3.key.clone().unwrap_or_default(),
                    (None, Some(directory)) => {
                        // The path names the artifact itself.
                        let path = PathBuf::from(&directory.path);
                        directory.path = path.parent().unwrap_or(Path::new("")).display().to_string();
                        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
                    }
                    (None, None) => String::new(),
                };
                (written, key)
            }
        };
        let place = self.desk.place(&written).map_err(Error::platform)?;
        let etcdutl = tool(&self.programs.etcdutl);
        fetch::fetch(&place.store, &key, into, &etcdutl, &|_| {})
            .await
            .map(drop)
            .map_err(Error::platform)
    }

    /// A backup of this cluster, or of another one in the same directory.
    fn find_backup(&self, name: &str) -> Result<Option<EtcdBackup>, files::Error> {
        if let Some(object) = files::read_json(&file(&self.layout, name))? {
            return Ok(Some(object));
        }
        let directory = self.layout.root().parent().unwrap_or(self.layout.root());
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let sibling = Layout::new(directory, &entry.file_name().to_string_lossy());
            if let Some(object) = files::read_json(&file(&sibling, name))? {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }
}

/// The key under which a completed backup lies.
fn key_of(object: &EtcdBackup) -> Option<String> {
    object.status.as_ref()?.artifact.as_ref()?.store.get("key").cloned()
}

fn tell_end(layout: &Layout, name: &str, status: &EtcdBackupStatus, print: bool) {
    let normal = status.phase.as_deref() == Some("Completed");
    let message = match (&status.artifact, &status.message) {
        (Some(artifact), _) => {
            let verified = if status.verified.is_some() {
                ", read back and verified"
            } else {
                ""
            };
            format!(
                "backup {name} is {}, revision {}{verified}",
                artifact.uri, artifact.revision
            )
        }
        (None, why) => format!("backup {name} failed: {}", why.clone().unwrap_or_default()),
    };
    log_event(
        layout,
        &Event {
            normal,
            reason: "Backup".to_owned(),
            message,
        },
        print,
    );
}
