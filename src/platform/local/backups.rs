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
use crate::backup::work::{self, Ground, Place, Secrets, Sought, Source, Workshop};
use crate::backup::{Etcdutl, Manifest, fetch, store, trial};
use crate::plan::backup::{Action, Phase, Run};
use crate::plan::observed::Member;
use crate::plan::wanted::BackupSource;
use crate::plan::{ClusterId, Timestamp, Wanted};
use crate::platform::{Error, Event, Platform};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Stores are searched this often while a cluster has nothing to go on from.
const STORES_EVERY: Duration = Duration::from_secs(15);

/// What backups of one cluster need besides their objects.
#[derive(Debug, Default)]
pub(super) struct Desk {
    secrets: Arc<BTreeMap<String, Secret>>,
    base: PathBuf,
    /// All of the manifests, also those of other clusters: a restore may name one of them.
    written: Vec<EtcdBackup>,
    /// What was last found in the stores, and when.
    found: Option<(Instant, Vec<Run>)>,
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
        Place::open(
            written,
            &OfManifest(Arc::clone(&self.secrets)),
            Ground::Machine(&self.base),
        )
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

/// Adds an object, as an API server would take it; false when its name is taken.
pub fn create(layout: &Layout, mut object: EtcdBackup) -> Result<bool, files::Error> {
    let place = file(layout, &object.name_any());
    if place.exists() {
        return Ok(false);
    }
    object.metadata.creation_timestamp = Some(Time(jiff::Timestamp::now()));
    files::write_json(&place, &object).map(|_| true)
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
        self.desk.written.clone_from(&desired.backups);
        let cluster = desired.cluster.name_any();
        let mut policies = Vec::new();
        for written in desired.backups.iter().filter(|backup| backup.is_of(&cluster)) {
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
                server: trial::Server {
                    program: self.programs.server.path.clone().into_os_string(),
                    leading: self.programs.server.first.clone(),
                },
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
                let ended = work::run(&object, &task_name, source, &place, workshop, &publish).await;
                tell_end(&layout, &task_name, &ended.status, verbose);
            };
            self.desk.working.insert(name, tokio::spawn(task));
        }
        Ok(())
    }

    /// Brings the artifact of a backup into a file, proven against its manifest.
    pub(super) async fn fetch_backup(&mut self, source: &BackupSource, into: &Path) -> Result<(), Error> {
        let (place, key) = match source {
            BackupSource::Backup(name) => self.place_of(name).await?,
            BackupSource::Location(text) => self.place_at(text).await?,
        };
        let etcdutl = tool(&self.programs.etcdutl);
        fetch::fetch(&place.store, &key, place.seal.as_ref(), into, &etcdutl, &|_| {})
            .await
            .map(drop)
            .map_err(Error::platform)
    }

    /// Where the backup with this name lies: as its status tells, else as the manifests in its destination do.
    async fn place_of(&mut self, name: &str) -> Result<(Place, String), Error> {
        let kept = self.find_backup(name).map_err(Error::platform)?;
        let written = self.desk.written.iter().find(|backup| backup.name_any() == name);
        if let Some(object) = &kept
            && let Some(key) = key_of(object)
        {
            return Ok((self.desk.place(&object.spec.destination).map_err(Error::platform)?, key));
        }
        // The name may be that of a policy's child whose object is gone: then every destination of this cluster counts.
        let objects = match kept.or_else(|| written.cloned()) {
            Some(object) => vec![object],
            None => self.own_objects().map_err(Error::platform)?,
        };
        if objects.is_empty() {
            return Err(Error::platform(format!(
                "there is no EtcdBackup {name} here, neither in the manifest nor in this directory: name one that is, or \
                 give bootstrap.restore.source"
            )));
        }
        let mut searched = Vec::new();
        for object in objects {
            let place = self.desk.place(&object.spec.destination).map_err(Error::platform)?;
            let of = object.spec.cluster_ref.as_ref().map(|of| of.name.clone());
            let sought = Sought {
                cluster: of.as_deref(),
                backup: Some(name),
                ..Sought::default()
            };
            if let Some(manifest) = place.newest(&sought).await.map_err(Error::platform)? {
                self.tell_found(&place, &manifest).await;
                return Ok((place, manifest.artifact));
            }
            searched.push(place.store.uri(&place.prefix));
        }
        Err(Error::platform(format!(
            "EtcdBackup {name} is not completed, and no manifest of a verified backup with this name lies in {}: nothing \
             to restore",
            searched.join(", ")
        )))
    }

    /// Where `restore.source` points: at one artifact, or at a place whose newest verified backup is meant.
    async fn place_at(&mut self, text: &str) -> Result<(Place, String), Error> {
        let mut written: Written = serde_json::from_str(text).map_err(Error::platform)?;
        let mut key = written.s3.as_ref().and_then(|s3| s3.key.clone());
        if let Some(directory) = &mut written.directory {
            let path = PathBuf::from(&directory.path);
            if !self.desk.base.join(&path).is_dir() {
                // The path names the artifact itself.
                directory.path = path.parent().unwrap_or(Path::new("")).display().to_string();
                key = Some(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
        let place = self.desk.place(&written).map_err(Error::platform)?;
        if let Some(key) = key {
            return Ok((place, key));
        }
        match place.newest(&Sought::default()).await.map_err(Error::platform)? {
            Some(manifest) => {
                self.tell_found(&place, &manifest).await;
                Ok((place, manifest.artifact))
            }
            None => Err(Error::platform(format!(
                "bootstrap.restore.source: no manifest of a verified backup lies below {}",
                place.store.uri(&place.prefix)
            ))),
        }
    }

    async fn tell_found(&mut self, place: &Place, manifest: &Manifest) {
        let message = format!(
            "found {} by its manifest: backup {} of cluster {} (id {}), revision {}, taken {}",
            place.store.uri(&manifest.artifact),
            manifest.backup,
            manifest.cluster,
            manifest.cluster_id,
            manifest.revision,
            manifest.taken_at
        );
        let event = Event {
            normal: true,
            reason: "BackupFound".to_owned(),
            message,
        };
        self.tell(&event).await;
    }

    /// Objects of this cluster: those that are kept, and those of the manifest.
    fn own_objects(&self) -> Result<Vec<EtcdBackup>, files::Error> {
        let cluster = self.layout.root().file_name().unwrap_or_default().to_string_lossy();
        let mut all = objects(&self.layout)?;
        for written in self.desk.written.iter().filter(|backup| backup.is_of(&cluster)) {
            if all.iter().all(|known| known.name_any() != written.name_any()) {
                all.push(written.clone());
            }
        }
        Ok(all)
    }

    /// The newest verified backup of this very cluster in each of its destinations, by the manifests alone: for a cluster
    /// of which neither data nor the status of a backup is left.
    pub(super) async fn runs_in_stores(
        &mut self,
        cluster: &str,
        id: Option<ClusterId>,
        complaints: &mut Vec<String>,
    ) -> Result<Vec<Run>, files::Error> {
        if let Some((at, found)) = &self.desk.found
            && at.elapsed() < STORES_EVERY
        {
            return Ok(found.clone());
        }
        let id = id.map(|id| id.to_string());
        let mut found: Vec<Run> = Vec::new();
        for object in self.own_objects()? {
            let sought = Sought {
                cluster: Some(cluster),
                cluster_id: id.as_deref(),
                backup: None,
            };
            let newest = match self.desk.place(&object.spec.destination) {
                Ok(place) => place.newest(&sought).await.map_err(|error| error.to_string()),
                Err(error) => Err(format!("spec.{error}")),
            };
            match newest {
                Ok(Some(manifest)) if found.iter().all(|run| run.name != manifest.backup) => {
                    found.push(run_of(&manifest))
                }
                Ok(_) => {}
                Err(why) => complaints.push(format!(
                    "the destination of EtcdBackup {} cannot be searched for a backup to begin again from: {why}",
                    object.name_any()
                )),
            }
        }
        self.desk.found = Some((Instant::now(), found.clone()));
        Ok(found)
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

/// A backup of which only the manifest is left.
fn run_of(manifest: &Manifest) -> Run {
    let taken = Timestamp(u64::try_from(manifest.taken_at.as_millisecond()).unwrap_or(0));
    Run {
        name: manifest.backup.clone(),
        policy: None,
        scheduled: taken,
        phase: Phase::Completed,
        completed: Some(taken),
        verified: manifest.verified.is_some(),
        revision: manifest.revision,
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
