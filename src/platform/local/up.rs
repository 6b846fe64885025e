//! `quorate local up`: reconciles every manifest of a file until it is told to stop, and follows edits of the file.
//!
//! Invariants:
//! 1. A bad edit changes nothing: it is reported, and what was last good stays in force.
//! 2. One cluster never waits for another: each has a task of its own.
//! 3. Told to stop, it stops the members gracefully and keeps their data; killed, it leaves them running.

use super::{LocalCluster, Programs, files, lock, now};
use crate::api::{self, Document, EtcdBackup, EtcdCluster, convert};
use crate::platform::{Event, Platform};
use crate::reconcile::{Told, round};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// The file is looked at this often.
const FILE_EVERY: Duration = Duration::from_millis(300);
/// After a look that failed as a whole (a full disk, a damaged record) the next one waits this long.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Holds the annotations that commands asked for.
const REQUESTS: &str = "requests.json";

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The manifests.
    pub file: PathBuf,
    /// Where everything is kept.
    pub directory: PathBuf,
    /// The programs that run as children.
    pub programs: Programs,
    /// Events go to stdout.
    pub verbose: bool,
}

/// Why nothing is reconciled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory is managed by another operator, or cannot be used.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The manifests are wrong.
    #[error("{} is refused:\n{}", file.display(), problems.join("\n"))]
    Manifest {
        /// The file.
        file: PathBuf,
        /// Line, field, problem and remedy of each.
        problems: Vec<String>,
    },
}

/// All that a file of manifests wants.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifests {
    /// Clusters by name.
    pub clusters: BTreeMap<String, EtcdCluster>,
    /// Backups and policies.
    pub backups: Vec<EtcdBackup>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Secret>,
}

impl Manifests {
    /// Reads a file; or everything that is wrong with it.
    pub fn read(file: &Path) -> Result<Manifests, Error> {
        let text = std::fs::read_to_string(file).map_err(files::failed("read", file))?;
        let refused = |problems| Error::Manifest {
            file: file.to_owned(),
            problems,
        };
        let documents =
            api::read(&text).map_err(|errors| refused(errors.iter().map(|error| format!("  {error}")).collect()))?;
        let mut manifests = Manifests::default();
        for document in documents {
            match document {
                Document::Cluster(cluster) => {
                    let name = cluster.name_any();
                    if manifests.clusters.insert(name.clone(), *cluster).is_some() {
                        let why = "is used twice: on one machine clusters of all namespaces share the directory";
                        return Err(refused(vec![format!("  metadata.name: {name:?} {why}; rename one")]));
                    }
                }
                Document::Backup(backup) => manifests.backups.push(*backup),
                Document::Secret(secret) => {
                    manifests.secrets.insert(secret.name_any(), *secret);
                }
            }
        }
        Ok(manifests)
    }

    /// What may not be changed compared with `old`, in words.
    fn forbidden_changes(&self, old: &Manifests) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, cluster) in &self.clusters {
            if let Some(before) = old.clusters.get(name) {
                let found = convert::check_change(&before.spec, &cluster.spec);
                problems.extend(found.into_iter().map(|error| format!("  EtcdCluster {name}: {error}")));
            }
        }
        for backup in &self.backups {
            let name = backup.name_any();
            if let Some(before) = old.backups.iter().find(|before| before.name_any() == name) {
                let found = convert::check_backup_change(&before.spec, &backup.spec);
                problems.extend(found.into_iter().map(|error| format!("  EtcdBackup {name}: {error}")));
            }
        }
        problems
    }
}

/// What one cluster's task works for.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The cluster; with a deletion time when it was taken out of the file.
    pub cluster: EtcdCluster,
    /// All backups and policies of the file.
    pub backups: Vec<EtcdBackup>,
    /// All Secrets of the file.
    pub secrets: BTreeMap<String, Secret>,
    /// The directory that relative paths of the manifests begin at.
    pub base: PathBuf,
}

/// Runs until `stop` is set; then stops all members.
pub async fn up(options: &Options, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
    let _lock = lock::Lock::take(&options.directory)?;
    let directory = std::fs::canonicalize(&options.directory).map_err(files::failed("find", &options.directory))?;
    let mut good = Manifests::read(&options.file)?;
    let mut refused: Option<String> = None;
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    loop {
        running.retain(|_, cluster| !cluster.task.is_finished());
        apply(&good, options, &directory, &stop, &mut running)?;
        tokio::select! {
            () = tokio::time::sleep(FILE_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let edited = Manifests::read(&options.file).and_then(|edited| {
            let problems = edited.forbidden_changes(&good);
            if problems.is_empty() {
                Ok(edited)
            } else {
                Err(Error::Manifest {
                    file: options.file.clone(),
                    problems,
                })
            }
        });
        match edited {
            Ok(edited) => {
                refused = None;
                good = edited;
            }
            Err(error) => {
                let text = error.to_string();
                if refused.as_ref() != Some(&text) {
                    report(options, &directory, &good, &text);
                    refused = Some(text);
                }
            }
        }
    }
    for (_, cluster) in running {
        // A task that panicked has nothing left to stop; its members are adopted by the next start.
        let _ = cluster.task.await;
    }
    Ok(())
}

struct Running {
    desired: watch::Sender<Desired>,
    task: JoinHandle<()>,
}

/// Gives every cluster its task and what it is to work for.
fn apply(
    manifests: &Manifests,
    options: &Options,
    directory: &Path,
    stop: &watch::Receiver<bool>,
    running: &mut BTreeMap<String, Running>,
) -> Result<(), Error> {
    let base = options.file.parent().map(Path::to_owned).unwrap_or_default();
    let base = std::path::absolute(&base).unwrap_or(base);
    for (name, cluster) in &manifests.clusters {
        let desired = Desired {
            cluster: cluster.clone(),
            backups: manifests.backups.clone(),
            secrets: manifests.secrets.clone(),
            base: base.clone(),
        };
        match running.get(name) {
            Some(cluster) => {
                cluster.desired.send_if_modified(|before| {
                    let changed = *before != desired;
                    *before = desired;
                    changed
                });
            }
            None => {
                let wake = Arc::new(Notify::new());
                let platform = LocalCluster::open(
                    directory,
                    name,
                    options.programs.clone(),
                    Arc::clone(&wake),
                    options.verbose,
                )?;
                let (sender, receiver) = watch::channel(desired);
                let task = tokio::spawn(manage(platform, receiver, stop.clone(), wake));
                running.insert(name.clone(), Running { desired: sender, task });
            }
        }
    }
    for (name, cluster) in running
        .iter()
        .filter(|(name, _)| !manifests.clusters.contains_key(*name))
    {
        cluster.desired.send_if_modified(|desired| {
            let first = desired.cluster.metadata.deletion_timestamp.is_none();
            if first {
                tracing::info!("{name} was taken out of the file: it is being deleted as its deletionPolicy says");
                desired.cluster.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::now()));
            }
            first
        });
    }
    Ok(())
}

/// Tells everybody that an edit was refused.
fn report(options: &Options, directory: &Path, good: &Manifests, text: &str) {
    eprintln!("{text}\nthe last good version stays in force");
    for name in good.clusters.keys() {
        let event = Event {
            normal: false,
            reason: "ManifestRefused".to_owned(),
            message: text.replace('\n', " ").to_owned(),
        };
        super::log_event(&super::Layout::new(directory, name), &event, false);
    }
    tracing::debug!(file = %options.file.display(), "manifest refused");
}

/// Reconciles one cluster until it is let go or told to stop.
async fn manage(
    mut platform: LocalCluster,
    mut desired: watch::Receiver<Desired>,
    mut stop: watch::Receiver<bool>,
    wake: Arc<Notify>,
) {
    let mut told = Told::default();
    let mut failed: Option<String> = None;
    let mut serves = false;
    loop {
        let now_desired = desired.borrow_and_update().clone();
        let next = tokio::select! {
            // A step that is cut short is found unfinished by the next operator, as after a crash.
            next = once(&mut platform, &now_desired, &mut told) => next,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let pause = match next {
            Ok(None) => return,
            Ok(Some((pause, settled))) => {
                failed = None;
                if settled && !serves {
                    let env = platform.layout().file("client.env");
                    let event = Event {
                        normal: true,
                        reason: "Settled".to_owned(),
                        message: format!("the cluster is as wanted; to use it: . {}", env.display()),
                    };
                    platform.tell(&event).await;
                }
                serves = settled;
                pause
            }
            Err(message) => {
                if failed.as_ref() != Some(&message) {
                    let event = Event {
                        normal: false,
                        reason: "Reconcile".to_owned(),
                        message: message.clone(),
                    };
                    platform.tell(&event).await;
                    failed = Some(message);
                }
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wake.notified() => {}
            _ = desired.changed() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    platform.stop_all().await;
}

/// One round: how long to pause after it and whether all is as wanted, or nothing when the cluster is let go.
async fn once(
    platform: &mut LocalCluster,
    desired: &Desired,
    told: &mut Told,
) -> Result<Option<(Duration, bool)>, String> {
    let wanted = platform.wanted(desired).map_err(|error| error.to_string())?;
    let round = round(platform, &wanted, told)
        .await
        .map_err(|error| error.to_string())?;
    Ok((!round.released).then_some((round.recheck, round.settled)))
}

impl LocalCluster {
    /// What the planner is to want: the platform gives objects the identity that an API server would.
    pub fn wanted(&mut self, desired: &Desired) -> Result<crate::plan::Wanted, crate::platform::Error> {
        use crate::platform::Error;
        let mut cluster = desired.cluster.clone();
        let asked = requests(&self.layout).map_err(Error::platform)?;
        cluster.annotations_mut().extend(asked);
        let spec = serde_json::to_string(&cluster.spec).map_err(Error::platform)?;
        cluster.metadata.uid = Some(self.uid().to_owned());
        cluster.metadata.generation = Some(self.generation(&spec).map_err(Error::platform)?);
        let backups = self.adopt_backups(desired).map_err(Error::platform)?;
        self.defrag_tick = convert::defrag_tick(&cluster.spec, now());
        convert::wanted(&cluster, &backups, now()).map_err(Error::platform)
    }
}

/// Annotations that commands asked for, beside those of the manifest; of two with one key the command's counts.
fn requests(layout: &super::Layout) -> Result<BTreeMap<String, String>, files::Error> {
    Ok(files::read_json(&layout.file(REQUESTS))?.unwrap_or_default())
}

/// Asks for something as an annotation of the manifest would; the operator of the directory reads it with its next look.
pub fn request(layout: &super::Layout, annotation: &str, value: &str) -> Result<(), files::Error> {
    let mut all = requests(layout)?;
    all.insert(annotation.to_owned(), value.to_owned());
    files::write_json(&layout.file(REQUESTS), &all).map(drop)
}
